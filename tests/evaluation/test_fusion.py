"""Late fusion: standard deviations, weights by regression, and when they are used."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from kinembed.data.families import Families, group_families
from kinembed.data.splits import family_folds
from kinembed.errors import KinembedError
from kinembed.evaluation.fusion import Part, fit_weights, fuse, weigh
from kinembed.evaluation.metrics import RankedScores
from kinembed.heads.base import Head
from kinembed.heads.fused import FusedHead
from kinembed.heads.metric import MetricHead, Projection
from kinembed.seeds import Stream, generator

FAMILIES = 60


def drawn_families() -> Families:
    photos = [f"F{f:03}/MID{m}/{p}.jpg" for f in range(FAMILIES) for m in range(3) for p in (0, 1)]
    kin = [(f"F{f:03}/MID0", f"F{f:03}/MID{m}") for f in range(FAMILIES) for m in (1, 2)]
    return group_families(photos, kin)


OF = drawn_families()
WIDTH = 12


def vectors_of(seed: int, noise: float) -> np.ndarray:
    """What one network sees: the family, and noise of its own."""
    rng = np.random.default_rng(seed)
    signal = np.random.default_rng(99).normal(size=(FAMILIES, WIDTH))[OF.family[OF.owner]]
    return (signal + noise * rng.normal(size=signal.shape)).astype(np.float32)


def head_of(view: str, scale: float = 1.0, members: int = 1, **about: object) -> MetricHead:
    same = Projection(np.eye(WIDTH, dtype=np.float32), np.zeros(WIDTH, np.float32))
    return MetricHead(view, "m", (same,) * members, scale=scale, **about)  # type: ignore[arg-type]


def folds(count: int) -> list[tuple[str, ...]]:
    everybody = np.arange(len(OF.people))
    parts = family_folds(OF, everybody, count, 0)
    return [tuple(OF.people[row] for row in part.tolist()) for part in parts]


def auc(head: Head, vectors: np.ndarray) -> float:
    rng = np.random.default_rng(5)
    kin = np.array([OF.rows[[OF.photo_start[a], OF.photo_start[b]]] for a, b in OF.relations])
    others = rng.permutation(OF.rows)[: 2 * (len(OF.rows) // 2)].reshape(-1, 2)
    others = others[OF.family[OF.owner_of(others)].T[0] != OF.family[OF.owner_of(others)].T[1]]
    labels = np.arange(len(kin) + len(others)) < len(kin)
    logits = head.score(np.asarray(head.represent(vectors)), np.concatenate([kin, others]))
    return RankedScores(labels, logits).auc()


def fused(parts: list[Part], judges: list[tuple[str, ...]], seed: int = 0):
    rng = generator(seed, Stream.FUSION)
    return fuse(parts, judges, OF, rng, model="m", folds=tuple(judges))


def test_parts_weigh_alike_whatever_their_scale() -> None:
    one, other = vectors_of(1, 1.5), vectors_of(2, 1.5)
    judges = folds(3)
    found = []
    for scale in (1.0, 40.0):
        parts = [Part((head_of("1.max", 1.0, 3),), (one,)),
                 Part((head_of("2.max", scale, 3),), (other,))]  # fmt: skip
        head, weighting = fused(parts, judges)
        assert weighting.weights == (0.5, 0.5) and not weighting.chosen
        found.append(head)
        assert head.gains[0] * 1.0 == pytest.approx(head.gains[1] * scale, rel=0.2)
    both = np.concatenate([one, other], 1)
    assert auc(found[0], both) == pytest.approx(auc(found[1], both), abs=1e-12)
    alone = auc(head_of("1.max"), one), auc(head_of("2.max"), other)
    assert auc(found[0], both) > max(alone) + 0.02


def test_the_spread_is_of_unrelated_held_out_people() -> None:
    judges = folds(3)
    part = Part((head_of("1.max", 2.0, 3),), (vectors_of(1, 1.5),))
    head, _ = fused([part, part], judges)
    # The same head twice: the mean of both is the head again, on its own scale.
    assert isinstance(head, FusedHead)
    assert sum(head.gains) == pytest.approx(head.gains[0] * 2)
    one = head.parts[0]
    vectors = part.vectors[0]
    pairs = np.random.default_rng(0).integers(len(vectors), size=(50, 2))
    logits = one.score(np.asarray(one.represent(vectors)), pairs)
    twice = np.concatenate([vectors, vectors], 1)
    again = head.score(head.represent(twice), pairs)
    assert again == pytest.approx(logits, rel=1e-9)


def test_networks_that_held_out_a_fold_each_are_one_part() -> None:
    judges = folds(3)
    tuned = Part(
        tuple(head_of(f"{n}.max", float(n)) for n in (2, 3, 4)),
        tuple(vectors_of(n, 1.0) for n in (2, 3, 4)),
    )
    frozen = Part((head_of("1.max", 1.0, 3),), (vectors_of(1, 1.5),))
    head, weighting = fused([frozen, tuned], judges)
    assert len(weighting.weights) == 2 and head.folds == tuple(judges)
    assert isinstance(head.parts[1], FusedHead) and head.parts[1].by_fold
    for fold, (people, member) in enumerate(head.out_of_fold()):
        assert people == judges[fold] and member.view == f"1.max+{fold + 2}.max"
    alone, _ = fused([tuned], judges)
    assert alone.by_fold and alone.view == "2.max+3.max+4.max"
    assert [member.view for member in alone.members()] == ["2.max", "3.max", "4.max"]


def test_weights_are_used_only_where_they_help_on_other_families() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(4000) < 0.5
    families = rng.integers(200, size=(4000, 2))
    good = labels * 2.0 + rng.normal(size=4000)
    alike = labels * 2.0 + rng.normal(size=4000)
    noise = rng.normal(size=4000)
    equal = weigh(labels, np.stack([good, alike], 1), families, rng)
    assert not equal.chosen and equal.weights == (0.5, 0.5) and equal.gain is not None
    assert "equal weights; fitted ones (0." in equal.describe()
    uneven = weigh(labels, np.stack([good, noise], 1), families, rng)
    assert uneven.chosen and uneven.weights[1] < 0.05 and uneven.gain is not None
    assert uneven.gain.low > 0 and uneven.describe().startswith("weights ")
    few = weigh(labels[:60], np.stack([good, noise], 1)[:60], families[:60] % 30, rng)
    assert few.fitted is None and few.describe() == "equal weights"


@settings(max_examples=10)
@given(st.integers(0, 100))
def test_weights_without_bounds_in_force_are_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.random(600) < 0.5
    logits = np.stack([labels + rng.normal(size=600) for _ in range(3)], 1)
    slopes = LogisticRegression(C=1e9, tol=1e-10, max_iter=1000).fit(logits, labels).coef_[0]
    found = fit_weights(labels, logits)
    assert found.sum() == pytest.approx(1) and (found >= 0).all()
    if (slopes > 0).all():
        assert found == pytest.approx(slopes / slopes.sum(), abs=1e-3)
    harmful = np.column_stack([logits, rng.normal(size=600) - labels])
    assert fit_weights(labels, harmful)[-1] == 0


def test_a_part_whose_logits_do_not_differ_is_refused() -> None:
    flat = replace(head_of("1.max", members=3), scale=1e-300)
    part = Part((flat,), (np.ones((len(OF.rows), WIDTH), np.float32),))
    with pytest.raises(KinembedError, match=r"view 1\.max: the logits of its head do not differ"):
        fused([part, part], folds(3))


def test_members_that_see_nothing_are_refused_though_each_has_a_logit_of_its_own() -> None:
    """Of equal vectors each member makes one logit, and folds differ by that alone."""
    rng = np.random.default_rng(0)
    members = tuple(
        Projection(rng.normal(size=(WIDTH, 4)).astype(np.float32), np.ones(4, np.float32))
        for _ in range(3)
    )
    blind = MetricHead("2.max", "m", members, similarity="dot")
    seeing = Part((head_of("1.max", 1.0, 3),), (vectors_of(1, 1.5),))
    part = Part((blind,), (np.ones((len(OF.rows), WIDTH), np.float32),))
    with pytest.raises(KinembedError, match=r"view 2\.max: the logits of its head do not differ"):
        fused([seeing, part], folds(3))


def test_logits_beside_which_others_are_rounding_errors_are_refused() -> None:
    """Their gain would be more than the file of a head may hold."""
    seeing = Part((head_of("1.max", 1.0, 3),), (vectors_of(1, 1.5),))
    vast = Part((replace(head_of("2.max", 1.0, 3), scale=1e20),), (vectors_of(2, 1.5),))
    with pytest.raises(KinembedError, match=r"view 2\.max: .* those of view 1\.max by"):
        fused([seeing, vast], folds(3))
