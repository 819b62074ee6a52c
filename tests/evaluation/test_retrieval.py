"""Retrieval figures against plain loops, scikit-learn, and random rankings."""

import json
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from kinembed.arrays import Rows
from kinembed.cache import EmbeddingCache
from kinembed.config import EvaluateConfig
from kinembed.data.families import cached_families
from kinembed.errors import DataError
from kinembed.evaluate import evaluate
from kinembed.evaluation import retrieval
from kinembed.evaluation.retrieval import (
    FIGURES,
    Gallery,
    by_chance,
    galleries_of,
    ranking_figures,
    retrieval_figures,
)
from kinembed.evaluation.three_way import ThreeWay
from kinembed.heads.file import load_head
from kinembed.report.evaluation import evaluation_table


def of_table(table: np.ndarray) -> Callable[[Rows], np.ndarray]:
    return lambda pairs: table[pairs[:, 0], pairs[:, 1]]


def some_gallery(seed: int, people: int = 24, families: int = 6, levels: int = 0) -> Gallery:
    """People in families, of whom about half are kin; with `levels`, scores are tied."""
    rng = np.random.default_rng(seed)
    family = np.arange(people) % families
    pairs = np.array([(a, b) for a in range(people) for b in range(a) if family[a] == family[b]])
    which = rng.integers(0, 4, len(pairs))
    table = rng.standard_normal((people, people)) + (family[:, None] == family)
    table = np.round((table + table.T) * levels) if levels else table + table.T
    return Gallery(family * 7, pairs[which < 2], pairs[which == 2], of_table(table))


def plain(gallery: Gallery) -> dict[int, tuple[float, list[bool], int]]:
    """Average precision and hits of each probe, one person of the gallery after the other."""
    kin = {frozenset(pair) for pair in gallery.kin.tolist()}
    apart = {frozenset(pair) for pair in gallery.apart.tolist()} - kin
    result = {}
    for probe in range(len(gallery.family)):
        people = [
            other
            for other in range(len(gallery.family))
            if other != probe and frozenset((probe, other)) not in apart
        ]
        if not any(frozenset((probe, other)) in kin for other in people):
            continue
        score = {o: float(gallery.score(np.array([[probe, o]]))[0]) for o in people}
        is_kin = {o: frozenset((probe, o)) in kin for o in people}
        precisions = []
        for other in people:
            if is_kin[other]:
                at = [o for o in people if score[o] >= score[other]]
                precisions.append(sum(is_kin[o] for o in at) / len(at))
        worst_first = sorted(people, key=lambda o: (-score[o], is_kin[o]))  # kin last where tied
        hits = [any(is_kin[o] for o in worst_first[:rank]) for rank in (1, 5, 10)]
        result[probe] = (sum(precisions) / len(precisions), hits, len(people))
    return result


@pytest.mark.parametrize("levels", [0, 1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_figures_are_those_of_plain_loops(seed: int, levels: int) -> None:
    galleries = [some_gallery(seed, levels=levels), some_gallery(seed + 9, 11, 3, levels)]
    found = retrieval_figures(galleries, np.random.default_rng(0))
    slow = [each for gallery in galleries for each in plain(gallery).values()]
    assert found["probes"] == len(slow) and found["galleries"] == 2
    assert found["people"] == pytest.approx(np.mean([people for *_, people in slow]))
    assert found["map"]["value"] == pytest.approx(np.mean([each[0] for each in slow]), abs=1e-12)
    for at, rank in enumerate((1, 5, 10)):
        wanted = np.mean([hits[at] for _, hits, _ in slow])
        assert found[f"rank_{rank}"]["value"] == pytest.approx(wanted, abs=1e-12)


@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=6),
    st.lists(st.integers(-3, 3), max_size=20),
    st.randoms(),
)
def test_a_ranking_is_scikit_learns_and_free_of_the_order(kin, others, random) -> None:
    found = ranking_figures(np.array(kin, float), np.array(others, float))
    labels = np.repeat([1, 0], [len(kin), len(others)])
    assert found[0] == pytest.approx(average_precision_score(labels, [*kin, *others]), abs=1e-12)
    random.shuffle(kin)
    random.shuffle(others)
    assert ranking_figures(np.array(kin, float), np.array(others, float)) == found


@pytest.mark.parametrize(("people", "kin"), [(1, 1), (5, 1), (6, 2), (7, 7), (6, 4)])
def test_chance_is_the_mean_of_all_rankings(people: int, kin: int) -> None:
    every = set(permutations([True] * kin + [False] * (people - kin)))
    figures = []
    for order in every:
        scores, is_kin = -np.arange(people, dtype=float), np.array(order)
        figures.append(ranking_figures(scores[is_kin], scores[~is_kin]))
    assert by_chance(people, kin) == pytest.approx(np.mean(figures, 0), abs=1e-12)


def test_intervals_are_of_resampled_families() -> None:
    gallery = some_gallery(1, 40, 10)
    found = retrieval_figures([gallery], np.random.default_rng(5))
    slow = plain(gallery)
    families = sorted({int(gallery.family[probe]) for probe in slow})
    weights = np.random.default_rng(5).multinomial(len(families), [1 / len(families)] * 10, 1000)
    means = []
    for resample in weights:
        drawn = [
            slow[probe][0]
            for family, times in zip(families, resample, strict=True)
            for _ in range(times)
            for probe in slow
            if gallery.family[probe] == family
        ]
        means.append(np.mean(drawn))
    low, high = np.quantile(means, [0.025, 0.975])
    assert found["map"]["interval"] == pytest.approx({"low": low, "high": high}, abs=1e-12)
    assert low < found["map"]["value"] < high


def test_one_family_has_no_interval_and_nobodys_kin_no_figures() -> None:
    alone = Gallery(
        np.zeros(3, int), np.array([[0, 1]]), np.empty((0, 2), int), of_table(np.eye(3))
    )
    assert retrieval_figures([alone], np.random.default_rng(0))["map"]["interval"] is None
    nobody = Gallery(alone.family, alone.apart, alone.apart, alone.score)
    with pytest.raises(DataError, match="nobody has kin in their gallery"):
        retrieval_figures([nobody], np.random.default_rng(0))


def test_large_galleries_draw_their_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    galleries = [some_gallery(seed) for seed in range(3)]
    whole = retrieval_figures(galleries, np.random.default_rng(0))
    monkeypatch.setattr(retrieval, "MOST_SCORES", sum(len(g.family) ** 2 for g in galleries) // 3)
    some = retrieval_figures(galleries, np.random.default_rng(0))
    assert whole["probes"] / 4 < some["probes"] < whole["probes"] / 2
    assert some["galleries"] == 3 and some == retrieval_figures(galleries, np.random.default_rng(0))


def test_evaluate_retrieves_held_out_people_fold_by_fold(run: Path, faces: Path) -> None:
    path = evaluate(EvaluateConfig(count=200), faces, run)
    result = json.loads(path.read_text())
    found = result["retrieval"]
    head = load_head(run / "head.h5")
    with EmbeddingCache.open(run / "embeddings.h5") as cache:
        families = cached_families(cache, faces)
        (gallery,) = galleries_of(head, cache, families)
        held_out = [families.people.index(person) for person in head.held_out]
        vectors = np.asarray(cache.vectors(head.view), np.float64)
        means = [
            vectors[families.rows[families.owner == person]].mean(0).astype(np.float32)
            for person in sorted(held_out)
        ]
        pairs = np.array([(a, b) for a in range(len(means)) for b in range(len(means)) if a != b])
        wanted = head.score(np.stack(means), pairs)
        assert gallery.score(pairs) == pytest.approx(wanted, abs=1e-4)
    slow = plain(gallery)
    assert (found["ranked_by"], found["probes"], found["galleries"]) == ("logit", len(slow), 1)
    assert found["map"]["value"] == pytest.approx(np.mean([each[0] for each in slow.values()]))
    text = evaluation_table(result)
    assert f"mean average precision      {found['map']['value']:.4f}" in text
    assert "one gallery" in text and text.count("at random") == len(FIGURES)


def test_a_calibration_ranks_by_its_evidence(run: Path, faces: Path) -> None:
    head = load_head(run / "head.h5")
    three_way = ThreeWay((0.0, 2.0, 0.0, 0.0, 0.0, 1.0), (0.0,) * 6, (0.0,), (1.0,), (1, 1, 1), 3)
    with EmbeddingCache.open(run / "embeddings.h5") as cache:
        families = cached_families(cache, faces)
        (gallery,) = galleries_of(head, cache, families, three_way)
        held_out = sorted(families.people.index(person) for person in head.held_out)
        vectors = np.asarray(cache.vectors(head.view), np.float64)
        directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        means = np.array([directions[families.photos_of(np.array([p]))].mean(0) for p in held_out])
        means /= np.linalg.norm(means, axis=1, keepdims=True)
    pairs = np.array([(0, 1), (2, 0), (1, 3)])
    cosines = (means[pairs[:, 0]] * means[pairs[:, 1]]).sum(1)
    assert gallery.score(pairs) == pytest.approx(2 * cosines + 1, abs=1e-5)


def test_labelled_pairs_have_no_retrieval(run: Path, faces: Path, tmp_path: Path) -> None:
    head = load_head(run / "head.h5")
    with EmbeddingCache.open(run / "embeddings.h5") as cache:
        names = [
            name.decode()
            for name, person in zip(cache.names, cache.people, strict=True)
            if person.decode() in head.held_out
        ]
    lines = ["p1,p2,is_related", f"{names[0]},{names[-1]},0", f"{names[0]},{names[1]},1"]
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    path = evaluate(EvaluateConfig(pairs=tmp_path / "pairs.csv"), faces, run)
    assert "retrieval" not in json.loads(path.read_text())
