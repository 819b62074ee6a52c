"""Losses over the pairs of a batch, against loops; and the cycle of the learning rate."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kinembed.recipes import Augmentation, ContrastiveLoss, PairLoss
from kinembed.training.augment import STRENGTHS
from kinembed.training.contrastive_losses import LOSSES, in_batch_loss
from kinembed.training.keras_losses import LOSSES as PAIR_LOSSES
from kinembed.training.schedules import one_cycle


@dataclass
class Batch:
    """Vectors of photos, their families, and what they are held against."""

    z: np.ndarray
    groups: np.ndarray
    others: np.ndarray | None

    def loss(self, kind: str, temperature: float, margin: float, smoothing: float = 0.0) -> float:
        others = None if self.others is None else torch.from_numpy(self.others)
        z, groups = torch.from_numpy(self.z), torch.from_numpy(self.groups)
        return float(in_batch_loss(kind, z, groups, temperature, margin, smoothing, others))


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """2 to 4 families of 2 or 4 photos, in any order; some held against other vectors."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    groups = np.repeat([5, 0, 17, 9][: draw(st.integers(2, 4))], draw(st.sampled_from([2, 4])))
    groups = rng.permutation(groups)
    z, others = unit(rng.normal(size=(2, len(groups), draw(st.integers(2, 5)))))
    return Batch(z, groups, others if draw(st.booleans()) else None)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def slow_loss(
    kind: str, batch: Batch, temperature: float, margin: float, smoothing: float
) -> float:
    """Photo by photo and pair by pair."""
    against = batch.z if batch.others is None else batch.others
    count = len(batch.z)
    rows, kin_terms, near, far = [], [], [], []
    for i in range(count):
        s = {j: math.fsum(batch.z[i] * against[j]) for j in range(count) if j != i}
        kin = [j for j in s if batch.groups[j] == batch.groups[i]]
        strangers = [j for j in s if j not in kin]
        weight = {j: math.exp((s[j] - margin * (j in kin)) / temperature) for j in s}
        shares = {j: weight[j] / math.fsum(weight.values()) for j in s}
        of_kin = -math.fsum(math.log(shares[j]) for j in kin) / len(kin)
        of_all = -math.fsum(math.log(shares[j]) for j in s) / len(s)
        rows.append((1 - smoothing) * of_kin + smoothing * of_all)
        for j in kin:
            if kind == "nt-xent":
                against_strangers = weight[j] + math.fsum(weight[k] for k in strangers)
                kin_terms.append(-math.log(weight[j] / against_strangers))
            else:
                kin_terms.append(max(0.0, margin + max(s[k] for k in strangers) - s[j]))
        near += [1 - margin / 2 - s[j] for j in kin if s[j] < 1 - margin / 2]
        far += [s[j] - (1 - margin) for j in strangers if s[j] > 1 - margin]
    if kind == "supcon":
        return math.fsum(rows) / len(rows)
    if kind == "margin":
        return math.fsum(near) / max(1, len(near)) + math.fsum(far) / max(1, len(far))
    return math.fsum(kin_terms) / len(kin_terms)


@pytest.mark.parametrize("kind", LOSSES)
@given(
    batch=batches(),
    temperature=st.floats(0.05, 2),
    margin=st.integers(0, 64).map(lambda part: part / 64),  # exact in float32 too
    smoothing=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
def test_every_loss_is_what_loops_over_its_pairs_give(
    kind: str, batch: Batch, temperature: float, margin: float, smoothing: float
) -> None:
    expected = slow_loss(kind, batch, temperature, margin, smoothing)
    assert batch.loss(kind, temperature, margin, smoothing) == pytest.approx(expected, abs=1e-9)


def test_the_recipes_choices_are_the_losses_there_are() -> None:
    assert get_args(ContrastiveLoss) == tuple(LOSSES)
    assert get_args(PairLoss) == tuple(PAIR_LOSSES)
    assert get_args(Augmentation) == ("none", "mirror", *STRENGTHS)


# By hand

E = math.e
INACTIVE = (0, 0, 180, 180)  # kin on one place, strangers opposite
SQUARE = (0, 90, 180, 270)  # kin beside each other, and so one of the strangers
ONE_PLACE = (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("kind", "angles", "temperature", "margin", "smoothing", "expected"),
    [
        ("supcon", INACTIVE, 1, 0, 0, math.log(1 + 2 * E**-2)),
        ("supcon", INACTIVE, 0.5, 0, 0, math.log(1 + 2 * E**-4)),
        ("supcon", INACTIVE, 1, 0.5, 0, math.log(1 + 2 * E**-1.5)),
        ("supcon", INACTIVE, 1, 0, 1, math.log(E + 2 / E) + 1 / 3),
        ("supcon", SQUARE, 1, 0, 0, math.log(2 + 1 / E)),
        ("supcon", ONE_PLACE, 0.1, 0, 0, math.log(3)),
        ("supcon", (0,) * 4 + (180,) * 4, 1, 0, 0, math.log(3 * E + 4 / E) - 1),
        ("nt-xent", INACTIVE, 1, 0, 0, math.log(1 + 2 * E**-2)),
        ("nt-xent", SQUARE, 1, 0, 0, math.log(2 + 1 / E)),
        ("nt-xent", (0,) * 4 + (180,) * 4, 1, 0, 0, math.log(1 + 4 * E**-2)),
        ("triplet", INACTIVE, 1, 0.9, 0, 0),
        ("triplet", SQUARE, 1, 0.3, 0, 0.3),
        ("triplet", (0, 60, 180, 240), 1, 0.3, 0, 0),
        ("triplet", (0, 120, 180, 300), 1, 0.3, 0, 0.3 + 0.5 + 0.5),
        ("margin", INACTIVE, 1, 0.5, 0, 0),
        ("margin", SQUARE, 1, 0.4, 0, 0.8),
        ("margin", (0, 60, 180, 240), 1, 0.4, 0, 0.3),
        ("margin", ONE_PLACE, 1, 0.5, 0, 0.5),
        # strangers at 60° beside others that are far enough: the mean is of the former only
        ("margin", (0, 120, 180, 300), 1, 0.8, 0, (0.6 + 0.5) + (0.5 - 0.2)),
    ],
)
def test_photos_at_known_angles_have_known_losses(
    kind: str,
    angles: tuple[int, ...],
    temperature: float,
    margin: float,
    smoothing: float,
    expected: float,
) -> None:
    groups = np.repeat([0, 1], len(angles) // 2)
    batch = Batch(around(*angles), groups, None)
    assert batch.loss(kind, temperature, margin, smoothing) == pytest.approx(expected, abs=1e-12)


def around(*degrees: float) -> np.ndarray:
    """Vectors in a plane."""
    angles = np.radians(np.array(degrees, np.float64))
    return np.stack([np.cos(angles), np.sin(angles)], 1)


# Rules


@pytest.mark.parametrize("kind", LOSSES)
@given(batch=batches(), seed=st.integers(0, 2**32))
def test_no_loss_depends_on_the_order_of_photos(kind: str, batch: Batch, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(batch.z))
    others = None if batch.others is None else batch.others[order]
    turned = Batch(batch.z[order], batch.groups[order], others)
    for smoothing in (0.0, 0.2):
        one = batch.loss(kind, 0.1, 0.4, smoothing)
        assert turned.loss(kind, 0.1, 0.4, smoothing) == pytest.approx(one, abs=1e-9)


@pytest.mark.parametrize("kind", LOSSES)
@given(batch=batches())
def test_vectors_held_against_themselves_are_as_held_against_nothing(
    kind: str, batch: Batch
) -> None:
    alone, itself = Batch(batch.z, batch.groups, None), Batch(batch.z, batch.groups, batch.z)
    assert alone.loss(kind, 0.1, 0.4) == itself.loss(kind, 0.1, 0.4)


@pytest.mark.parametrize(("kind", "margin"), [*zip(LOSSES, (0, 0, 1, 0.5), strict=True)])
@given(spreads=st.lists(st.floats(35, 60), min_size=2, max_size=2).map(sorted))
def test_the_nearer_kin_are_the_lower_is_the_loss(
    kind: str, margin: float, spreads: list[float]
) -> None:
    groups = np.repeat([0, 1], 2)
    near, far = (
        Batch(around(-a, a, 180 - a, 180 + a), groups, None).loss(kind, 0.5, margin)
        for a in (spreads[0] - 1, spreads[1])
    )
    assert near < far - 1e-3


@pytest.mark.parametrize("kind", LOSSES)
@given(batch=batches())
def test_a_loss_falls_with_kin_and_rises_with_strangers_and_leaves_a_photo_itself_alone(
    kind: str, batch: Batch
) -> None:
    s = torch.from_numpy(batch.z @ batch.z.T).requires_grad_()
    groups = torch.from_numpy(batch.groups)
    same = groups[:, None] == groups
    itself = torch.eye(len(groups), dtype=torch.bool)
    kin = same & ~itself
    loss = LOSSES[kind](s, kin, ~same, 0.3, 2.0, 0.0)
    (slopes,) = torch.autograd.grad(loss, s)
    assert not slopes[itself].any()
    assert (slopes[~same] >= 0).all() and (slopes[~same] > 0).any()
    if kind == "margin":
        assert ((slopes[kin] < 0) == (s[kin] < 0)).all() and (slopes[kin] <= 0).all()
    elif kind != "supcon" or (same.sum(1) == 2).all():  # else kin crowd each other out
        assert (slopes[kin] < 0).all()


@pytest.mark.parametrize("temperature", [0.01, 0.1])
@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("angles", [INACTIVE, SQUARE, ONE_PLACE, (0, 180, 0, 180)])
def test_gradients_are_finite_in_float32(
    kind: str, temperature: float, angles: tuple[int, ...]
) -> None:
    z = torch.from_numpy(around(*angles)).float().requires_grad_()
    groups = torch.tensor([0, 0, 1, 1])
    for smoothing in (0.0, 0.1):
        loss = in_batch_loss(kind, z, groups, temperature, 0.3, smoothing)
        (slopes,) = torch.autograd.grad(loss, z)
        assert loss.ndim == 0 and loss.isfinite() and slopes.isfinite().all()


def test_a_loss_has_gradients_to_both_sides() -> None:
    z, others = (
        torch.from_numpy(around(*angles)).requires_grad_()
        for angles in ((0, 50, 160, 260), (10, 70, 150, 300))
    )
    for kind in LOSSES:
        loss: Tensor = in_batch_loss(kind, z, torch.tensor([0, 0, 1, 1]), 0.2, 0.5, 0.0, others)
        assert all(slopes.any() for slopes in torch.autograd.grad(loss, [z, others]))


# The cycle of the learning rate


@given(st.floats(0.01, 0.99))
def test_a_cycle_begins_low_is_full_at_its_rise_and_ends_at_nothing(warmup: float) -> None:
    assert one_cycle(0, warmup) == pytest.approx(0.04)
    assert one_cycle(warmup, warmup) == 1
    assert one_cycle(warmup * (1 - 1e-9), warmup) == pytest.approx(1)
    assert one_cycle(1, warmup) == pytest.approx(0, abs=1e-12)
    assert one_cycle(1.5, warmup) == one_cycle(1, warmup)
    assert one_cycle(warmup / 2, warmup) == pytest.approx(0.52)
    assert one_cycle((1 + warmup) / 2, warmup) == pytest.approx(0.5)


@given(st.floats(0.01, 0.99))
def test_a_cycle_rises_and_then_falls_all_the_way(warmup: float) -> None:
    up = [one_cycle(share, warmup) for share in np.linspace(0, warmup, 40).tolist()]
    down = [one_cycle(share, warmup) for share in np.linspace(warmup, 1, 40).tolist()]
    assert all(a < b for a, b in pairwise(up))
    assert all(a > b for a, b in pairwise(down))


def test_without_a_rise_a_cycle_begins_full() -> None:
    assert one_cycle(0, 0) == 1
