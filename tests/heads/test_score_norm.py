"""Score normalisation of metric heads: the formula, the file, and what stays as it was."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinembed.data.families import group_families
from kinembed.evaluation.metrics import roc_auc
from kinembed.heads.exact import unit
from kinembed.heads.file import load_head, save_head
from kinembed.heads.metric import MetricHead, Projection
from kinembed.heads.query_expansion import Neighbours
from kinembed.heads.score_norm import TAIL, ScoreNorm
from kinembed.training.on_arrays import train_head


def random_head(seed: int, members: int = 2) -> MetricHead:
    rng = np.random.default_rng(seed)

    def array(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    norms = tuple(
        ScoreNorm.fit(unit(array(30, 4)), rng.integers(1, 5, 30) / 1) for _ in range(members)
    )
    made = tuple(Projection(array(5, 4), array(4)) for _ in range(members))
    weights = tuple(rng.uniform(0.5, 2, members).tolist())
    return MetricHead("max", "m", made, weights, scale=3.0, centre=0.2, norms=norms)


def slow_nearest(norm: ScoreNorm, x: np.ndarray) -> float:
    """By the covariance itself."""
    root = norm.root.astype(np.float64)
    variance = x @ (root @ root.T) @ x
    return float(x @ norm.mean[:, 0] + TAIL * np.sqrt(variance) - norm.level)


def oracle(head: MetricHead, a: np.ndarray, b: np.ndarray) -> float:
    """The logit of two vectors, member by member."""
    values = []
    for projection, norm in zip(head.projections, head.norms, strict=True):
        x, y = (v.astype(np.float64) @ projection.kernel + projection.bias for v in (a, b))
        x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
        values.append(x @ y - (slow_nearest(norm, x) + slow_nearest(norm, y)) / 2)
    return head.scale * (float(np.average(values, weights=head.weights or None)) - head.centre)


@given(st.integers(0, 1000), st.integers(1, 3))
def test_scores_are_the_oracles_and_depend_on_their_pair_alone(seed: int, members: int) -> None:
    head = random_head(seed, members)
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(9, 5)).astype(np.float32)
    pairs = rng.integers(9, size=(20, 2))
    represented = head.represent(vectors)
    assert represented.shape == (9, head.representation_width) == (9, 4 * members + 1)
    scores = head.score(represented, pairs)
    assert (scores == head.score(represented, pairs[:, ::-1])).all()
    assert scores == pytest.approx([oracle(head, *vectors[pair]) for pair in pairs], abs=2e-4)
    alone = head.score(head.represent(vectors[pairs[0]]), np.array([[0, 1]]))
    assert alone[0] == scores[0]
    parts = [each.score(each.represent(vectors), pairs) for each in head.members()]
    assert scores == pytest.approx(np.average(parts, axis=0, weights=head.weights), abs=2e-4)


@given(st.integers(0, 1000))
def test_mean_covariance_and_level_are_the_weighted_ones(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, times = unit(rng.normal(size=(12, 3))), rng.integers(1, 4, 12)
    norm = ScoreNorm.fit(x, times.astype(np.float64))
    repeated = np.repeat(x, times, axis=0)
    assert norm.mean[:, 0] == pytest.approx(repeated.mean(0), abs=1e-6)
    assert norm.root @ norm.root.T == pytest.approx(np.cov(repeated.T, bias=True), abs=1e-5)
    assert norm.nearest(repeated).mean() == pytest.approx(0, abs=1e-5)


def test_expanded_and_pooled_representations_are_normalised_again() -> None:
    head = random_head(3)
    vectors = np.random.default_rng(3).normal(size=(4, 5)).astype(np.float32)
    represented = np.asarray(head.represent(vectors))
    first, others = np.array([0, 2, 3, 4, 4]), np.array([1, 2, 0, 0])
    neighbours = Neighbours(np.arange(4), first, others)
    expanded = neighbours.expand(head, np.arange(4), represented, np.arange(4))
    assert (expanded[3] == represented[3]).all()  # it has no neighbours
    plain = replace(head, norms=())
    means = plain.normalise(represented[[0, 1, 2], :-1].mean(0)[None])
    assert expanded[0, :-1] == pytest.approx(means[0], abs=1e-5)
    factors = plain._factors()
    members = np.split((means[0] / factors).astype(np.float64), 2)
    wanted = np.average(
        [slow_nearest(norm, x) for norm, x in zip(head.norms, members, strict=True)],
        weights=head.weights,
    )
    assert expanded[0, -1] == pytest.approx(wanted, abs=1e-5)
    pooled = head.pool(represented, np.arange(3), np.array([0]))
    assert pooled[0] == pytest.approx(expanded[0], abs=1e-5)


def test_a_file_gives_the_same_head_back_and_malformed_ones_are_refused(tmp_path: Path) -> None:
    head = random_head(4)
    again = load_head(save_head(head, tmp_path / "head.h5"))
    assert again.digest == head.digest != replace(head, norms=()).digest
    settings, arrays = head.settings(), head.arrays()
    for broken, problem in (
        (({**settings, "similarity": "dot"}, arrays), "similarity dot are not normalised"),
        (({**settings, "norm_levels": [0.0]}, arrays), "arrays for"),
        ((settings, {**arrays, "norms/1/root": arrays["norms/1/root"][:2]}), "does not fit"),
    ):
        with pytest.raises(ValueError, match=problem):
            MetricHead.from_arrays(*broken, model="m")
    assert "norm_levels" not in replace(head, norms=()).settings()


PHOTOS = [f"F{f:02}/MID{m}/{p}.jpg" for f in range(40) for m in (1, 2) for p in range(2)]
FAMILIES = group_families(PHOTOS, [(f"F{f:02}/MID1", f"F{f:02}/MID2") for f in range(40)])
SMALL = ("embed_dim=8", "hidden_dim=0", "epochs=1", "steps=30", "batch_pairs=10", "expand=off")


def test_it_makes_photos_that_are_near_to_everybody_count_less() -> None:
    """A third of the families look alike, as babies do: their strangers look like kin."""
    rng = np.random.default_rng(0)

    def families() -> np.ndarray:
        """(400, 8) unit vectors, two of each family."""
        vectors = np.repeat(rng.normal(size=(200, 8)), 2, axis=0)
        vectors[:130, 0] += 5
        return unit((vectors + 0.8 * rng.normal(size=vectors.shape)).astype(np.float32))

    same = Projection(np.eye(8, dtype=np.float32), np.zeros(8, np.float32))
    plain = MetricHead("max", "m", (same,))
    normed = replace(plain, norms=(ScoreNorm.fit(families(), np.ones(400)),))
    others = families()
    pairs = np.stack(np.triu_indices(400, 1), 1)
    kin = pairs[:, 0] // 2 == pairs[:, 1] // 2
    before, after = (
        roc_auc(kin, head.score(head.represent(others), pairs)) for head in (plain, normed)
    )
    assert after > before + 0.02


def test_head_training_fits_it_and_leaves_the_projections_as_they_are() -> None:
    vectors = np.random.default_rng(0).normal(size=(160, 6)).astype(np.float32)
    plain, normed = (
        train_head(vectors, FAMILIES, folds=2, overrides=(*SMALL, f"score_norm={norm}")).head
        for norm in ("off", "auto")
    )
    assert isinstance(plain, MetricHead) and isinstance(normed, MetricHead)
    assert plain.norms == () and len(normed.norms) == 2
    assert replace(normed, norms=()).digest == plain.digest
    for (people, _), member in zip(normed.out_of_fold(), plain.members(), strict=True):
        own = np.array([row for row in range(160) if row not in rows_of(people)])
        norm = normed.norms[normed.folds.index(people)]
        fitted = ScoreNorm.fit(np.asarray(member.represent(vectors[own])), np.ones(len(own)))
        assert norm.level == pytest.approx(fitted.level, abs=1e-5)


def rows_of(people: tuple[str, ...]) -> list[int]:
    return [row for row, name in enumerate(PHOTOS) if name.rpartition("/")[0] in people]


def test_it_is_of_cosines() -> None:
    vectors = np.random.default_rng(0).normal(size=(160, 3)).astype(np.float32)
    head = train_head(vectors, FAMILIES, folds=2, overrides=(*SMALL, "similarity=dot")).head
    assert isinstance(head, MetricHead) and not head.norms
