"""Fused heads: the weighted sum of their parts, by folds, in a file."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strangers import resealed

from kinembed.errors import RunError
from kinembed.heads.base import Head
from kinembed.heads.ensemble import EnsembleHead
from kinembed.heads.file import load_head, save_head
from kinembed.heads.fused import FusedHead
from kinembed.heads.metric import MetricHead, Projection
from kinembed.heads.pair import PairHead

FOLDS = (("F1/A", "F1/B"), ("F2/A",), ("F3/A",))


def metric(rng: np.random.Generator, view: str, members: int = 3, width: int = 5) -> MetricHead:
    def projection() -> Projection:
        kernel, bias = rng.normal(size=(width, 4)), rng.normal(size=4)
        return Projection(kernel.astype(np.float32), bias.astype(np.float32))

    made = tuple(projection() for _ in range(members))
    slopes = tuple(rng.random(members).tolist())
    return MetricHead(view, "m", made, scale=3.0, centre=0.1, expansion_slopes=slopes)


def pair(rng: np.random.Generator, view: str, width: int = 6) -> PairHead:
    kernel, bias = rng.normal(size=(width, 1)), rng.normal(size=1)
    return PairHead(view, "m", (kernel.astype(np.float32),), (bias.astype(np.float32),))


def fused(seed: int) -> FusedHead:
    """Two metric heads, and one of networks that each held out a fold."""
    rng = np.random.default_rng(seed)
    tuned = tuple(metric(rng, f"{number}.max", 1, 7) for number in (3, 4, 5))
    by_fold = FusedHead("3.max+4.max+5.max", "m", tuned, (0.2, 0.3, 0.4), by_fold=True)
    parts = (metric(rng, "1.max"), metric(rng, "2.max", width=8), by_fold)
    return FusedHead(
        view="+".join(part.view for part in parts),
        model="m",
        parts=parts,
        gains=(0.5, 1.25, 2.0),
        folds=FOLDS,
        trained=tuple(person for fold in FOLDS for person in fold),
    )


def columns(head: Head, vectors: np.ndarray) -> list[np.ndarray]:
    assert isinstance(head, FusedHead)
    return np.split(vectors, np.cumsum([part.width for part in head.parts])[:-1], axis=1)


def slow(head: Head, vectors: np.ndarray, left: int, right: int) -> float:
    """The logit of two photos, part by part, of two rows alone."""
    if not isinstance(head, FusedHead):
        both = np.ascontiguousarray(vectors[[left, right]])
        return float(head.score(np.asarray(head.represent(both)), np.array([[0, 1]]))[0])
    parts = zip(head.parts, head.gains, columns(head, vectors), strict=True)
    return sum(gain * slow(part, own, left, right) for part, gain, own in parts)


@given(st.integers(0, 100))
def test_the_logit_is_the_sum_of_the_parts_and_symmetric_to_the_bit(seed: int) -> None:
    head = fused(seed)
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(7, head.width)).astype(np.float32)
    pairs = rng.integers(7, size=(30, 2))
    represented = head.represent(vectors)
    assert represented.shape == (7, head.representation_width)
    scores = head.score(represented, pairs)
    assert (scores == head.score(represented, pairs[:, ::-1])).all()
    assert (scores[3:5] == head.score(represented, pairs[3:5])).all()
    assert (represented[2:4] == head.represent(vectors[2:4])).all()
    wanted = [slow(head, vectors, left, right) for left, right in pairs.tolist()]
    assert scores == pytest.approx(wanted, rel=1e-9, abs=1e-9)


def test_the_member_of_a_fold_is_of_what_holds_it_out() -> None:
    head = fused(0)
    vectors = np.random.default_rng(1).normal(size=(4, head.width)).astype(np.float32)
    first, second, by_fold = columns(head, vectors)
    inner = head.parts[2]
    for fold, (people, member) in enumerate(head.out_of_fold()):
        assert people == FOLDS[fold] and isinstance(member, FusedHead)
        tuned = inner.parts[fold]
        own = np.split(by_fold, 3, axis=1)[fold]
        assert member.view == f"1.max+2.max+{fold + 3}.max"
        wanted = (
            0.5 * slow(head.parts[0].members()[fold], first, 0, 1)
            + 1.25 * slow(head.parts[1].members()[fold], second, 0, 1)
            + 2.0 * inner.gains[fold] * 3 * slow(tuned, own, 0, 1)
        )
        found = slow(member, np.concatenate([first, second, own], 1), 0, 1)
        assert found == pytest.approx(wanted, rel=1e-12)
        slopes = [part.members()[fold].expansion_slope for part in head.parts]
        assert member.expansion_slope == pytest.approx(np.dot(head.gains, slopes))


def test_the_mean_of_the_members_is_the_head() -> None:
    """With equal scales of the networks, as each is one of three in the mean."""
    head = fused(2)
    inner = replace(head.parts[2], gains=(0.3, 0.3, 0.3))  # type: ignore[type-var]
    head = replace(head, parts=(*head.parts[:2], inner))
    vectors = np.random.default_rng(1).normal(size=(4, head.width)).astype(np.float32)
    first, second, by_fold = columns(head, vectors)
    found = []
    for fold, (_, member) in enumerate(head.out_of_fold()):
        own = np.split(by_fold, 3, axis=1)[fold]
        found.append(slow(member, np.concatenate([first, second, own], 1), 0, 1))
    assert np.mean(found) == pytest.approx(slow(head, vectors, 0, 1), rel=1e-6)


def test_people_are_pooled_part_by_part() -> None:
    head = fused(3)
    vectors = np.random.default_rng(1).normal(size=(5, head.width)).astype(np.float32)
    represented = head.represent(vectors)
    pooled = head.pool(represented, np.array([0, 1, 2, 4]), np.array([0, 3]))
    cuts = np.cumsum([part.representation_width for part in head.parts])[:-1]
    for part, whole, found in zip(
        head.parts, np.split(represented, cuts, 1), np.split(pooled, cuts, 1), strict=True
    ):
        wanted = part.pool(np.ascontiguousarray(whole), np.array([0, 1, 2, 4]), np.array([0, 3]))
        assert found == pytest.approx(wanted, rel=1e-6)


def test_its_file_gives_it_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ensemble = EnsembleHead("2.max", "m", (pair(rng, "2.max"), pair(rng, "2.max")))
    pairs = FusedHead("1.max+2.max", "m", (pair(rng, "1.max"), ensemble), (1.0, 0.5))
    for head in (fused(0), replace(pairs, held_out=("F1/A",), trained=("F2/A",))):
        read = load_head(save_head(head, tmp_path / "head.h5"))
        assert read.digest == head.digest and isinstance(read, FusedHead)
        vectors = rng.normal(size=(6, head.width)).astype(np.float32)
        which = rng.integers(6, size=(9, 2))
        one, other = (each.score(each.represent(vectors), which) for each in (head, read))
        assert (one == other).all()
        assert (read.folds, read.held_out, read.trained) == (
            head.folds, head.held_out, head.trained
        )  # fmt: skip


def parts_of(settings: dict[str, Any]) -> list[dict[str, Any]]:
    return settings["parts"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda s: s.update(gains=[0.5, 1.25]), "2 gains for 3 parts"),
        (lambda s: s.update(gains=[0, 0, 0]), "3 gains for 3 parts"),
        (lambda s: s.update(gains=[0.5, -1, 2.0]), "gains: found -1"),
        (lambda s: s.update(by_fold=1), "by_fold: found 1, wanted true or false"),
        (lambda s: s.update(view="9.max"), "its view is not its parts'"),
        (lambda s: s.update(parts=parts_of(s)[:2]), "parts/2"),
        (lambda s: parts_of(s)[0].update(kind="fused"), "parts is missing"),
        (lambda s: parts_of(s)[0].update(kind="other"), "kind 'other' is unknown"),
        (lambda s: parts_of(s)[2]["settings"].update(by_fold=False), "a part is fused, but not"),
        (
            lambda s: parts_of(parts_of(s)[2]["settings"])[0].update(kind="fused"),
            "a part is fused, but not",
        ),
    ],
)
def test_a_malformed_file_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], problem: str
) -> None:
    path = save_head(fused(0), tmp_path / "head.h5")
    resealed(path, "head", lambda _, about: change(about["settings"]))
    with pytest.raises(RunError, match=problem):
        load_head(path)


def test_a_file_with_other_folds_than_its_parts_is_refused(tmp_path: Path) -> None:
    head = fused(0)
    two = replace(head.parts[0], projections=head.parts[0].projections[:2])  # type: ignore[attr-defined,type-var]
    two = replace(two, expansion_slopes=())
    path = save_head(replace(head, parts=(two, *head.parts[1:])), tmp_path / "head.h5")
    with pytest.raises(RunError, match="its parts have other folds"):
        load_head(path)
