"""Kin scores of photos, against slow loops over the members."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinembed.data.families import Families, group_families
from kinembed.evaluation.photo_scores import kin_scores, photo_folds
from kinembed.heads.metric import MetricHead, Projection

WIDTH = 6


class Cache:
    """As much of a cache as scores take."""

    def __init__(self, vectors: np.ndarray) -> None:
        self._vectors = vectors

    def __len__(self) -> int:
        return len(self._vectors)

    def vectors(self, view: str) -> np.ndarray:
        assert view == "max"
        return self._vectors


def made(seed: int) -> tuple[MetricHead, Cache, Families, list[str]]:
    """Two folds of families, some people in neither, some photos of nobody."""
    rng = np.random.default_rng(seed)
    everybody = [f"F{f}/P{p}" for f in range(4) for p in range(3)]
    people = [everybody[row] if row < 12 else "" for row in rng.integers(0, 14, 40)]
    names = [f"{row:02}.jpg" for row in range(40)]
    drawn = rng.integers(0, 12, (9, 2))
    relations = [(everybody[a], everybody[b]) for a, b in drawn.tolist()]
    families = group_families(names, relations, range(40), people)
    projections = tuple(
        Projection(rng.standard_normal((WIDTH, 3)).astype("f4"), np.zeros(3, "f4"))
        for _ in range(2)
    )
    folds = (tuple(everybody[:5]), tuple(everybody[5:9]))
    head = MetricHead("max", "", projections, folds=folds, scale=3.0, centre=0.1)
    return head, Cache(rng.standard_normal((40, WIDTH)).astype("f4")), families, people


def slow(head: MetricHead, cache: Cache, families: Families, people: list[str]) -> list[float]:
    relations = {tuple(families.people[p] for p in pair) for pair in families.relations.tolist()}
    result = []
    for row, person in enumerate(people):
        means = []
        for fold, held_out in enumerate(head.folds):
            for other in held_out:
                related = (person, other) in relations or (other, person) in relations
                theirs = [n for n, who in enumerate(people) if who == other]
                if person in held_out and related and theirs:
                    kernel = head.projections[fold].kernel.astype(float)
                    a, *rest = (
                        cache.vectors("max")[[row, *theirs]].astype(float) @ kernel
                    ).tolist()
                    cosines = [np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b) for b in rest]
                    means.append(np.mean([head.scale * (each - head.centre) for each in cosines]))
        result.append(float(np.mean(means)) if means else np.nan)
    return result


@given(st.integers(0, 200))
def test_scores_are_those_of_slow_loops(seed: int) -> None:
    head, cache, families, people = made(seed)
    found = kin_scores(head, cache, families)  # type: ignore[arg-type]
    assert found == pytest.approx(slow(head, cache, families, people), abs=1e-5, nan_ok=True)
    folds = photo_folds(head, people)
    wanted = [next((f for f, held in enumerate(head.folds) if who in held), -1) for who in people]
    assert folds.tolist() == wanted
    assert (np.isnan(found) | (folds >= 0)).all()


def test_a_head_that_held_nobody_out_scores_nobody() -> None:
    head, cache, families, people = made(0)
    alone = replace(head, folds=())
    assert np.isnan(kin_scores(alone, cache, families)).all()  # type: ignore[arg-type]
    assert (photo_folds(alone, people) == -1).all()
    one = replace(alone, held_out=head.folds[0])
    assert set(photo_folds(one, people)) == {-1, 0}
