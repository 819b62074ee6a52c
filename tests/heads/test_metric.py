"""Metric heads: projection, query expansion, training, folds, the file, the commands."""

import csv
import hashlib
import itertools
import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from neighbours import people_vectors, random_model, slow_neighbours

from kinembed.cache import EmbeddingCache
from kinembed.cache.provenance import Finetuned
from kinembed.cache.stacked import open_caches
from kinembed.cache.writer import write_cache
from kinembed.cli import run as command
from kinembed.config import HeadConfig
from kinembed.data.families import Families, cached_families, group_families
from kinembed.data.splits import (
    HeldOut,
    Split,
    describe_split,
    family_folds,
    hold_out_folds,
    hold_out_validation,
    split_people,
)
from kinembed.errors import KinembedError, RunError
from kinembed.evaluation.head_log import read_head_log
from kinembed.evaluation.metrics import roc_auc
from kinembed.evaluation.out_of_fold import out_of_fold_scores
from kinembed.head import head
from kinembed.heads.base import Head
from kinembed.heads.exact import unit
from kinembed.heads.file import load_head, read_head, save_head
from kinembed.heads.fused import FusedHead
from kinembed.heads.metric import MetricHead, Projection
from kinembed.heads.query_expansion import Neighbours, find_neighbours
from kinembed.heads.representations import Representations, score_pairs
from kinembed.recipes import KIN, METRIC, MetricRecipe, find_recipe, override
from kinembed.training.metric_heads import metric_head, train_members

WIDTH, FAMILIES_DRAWN = 16, 24


def random_families() -> Families:
    photos = [
        f"train/F{f:04}/MID{m}/{p}.jpg"
        for f in range(FAMILIES_DRAWN) for m in range(3) for p in range(2 + m % 2)
    ]  # fmt: skip
    relations = [
        (f"F{f:04}/MID0", f"F{f:04}/MID{other}") for f in range(FAMILIES_DRAWN) for other in (1, 2)
    ]
    return group_families(photos, relations)


FAMILIES = random_families()


def random_vectors(seed: int = 0) -> np.ndarray:
    """Families agree in the first numbers; the last hold much stronger noise."""
    rng = np.random.default_rng(seed)
    family = np.array([int(name.split("/")[1][1:]) for name in FAMILIES.photos])
    signal = rng.normal(size=(FAMILIES_DRAWN, 6))[family]
    person = np.array([zlib.crc32(name.rpartition("/")[0].encode()) for name in FAMILIES.photos])
    own = np.stack([np.random.default_rng(p).normal(size=6) for p in person])
    loud = 6 * rng.normal(size=(len(family), WIDTH - 6))
    signal = signal + 0.4 * own + 0.2 * rng.normal(size=signal.shape)
    return np.concatenate([signal, loud], 1).astype(np.float32)


VECTORS = random_vectors()
SMALL = replace(
    METRIC, embed_dim=8, hidden_dim=12, epochs=2, steps=40, batch_pairs=12, noise=0.3,
    ema_decay=0.5, learning_rate=2e-2,
)  # fmt: skip


def random_head(
    rng: np.random.Generator,
    members: int = 2,
    relu: bool = True,
    tta_views: int = 1,
    **about: object,
) -> MetricHead:
    def projection() -> Projection:
        beside = (rng.normal(size=(5, 7)), rng.normal(size=7), rng.normal(size=(7, 4)))
        hidden = tuple(a.astype(np.float32) for a in beside) if relu else ()
        kernel, bias = rng.normal(size=(5, 4)), rng.normal(size=4)
        return Projection(kernel.astype(np.float32), bias.astype(np.float32), hidden)

    made = tuple(projection() for _ in range(members))
    return MetricHead("max", "m", made, tta_views=tta_views, knn_view="max", **about)  # type: ignore[arg-type]


def oracle(head: MetricHead, a: np.ndarray, b: np.ndarray) -> float:
    """The logit of two vectors, member by member and version by version."""
    alike = []
    for member in head.projections:
        sides = []
        for vector in (a, b):
            seen = []
            for look in np.split(vector.astype(np.float64), head.tta_views):
                y = look @ member.kernel + member.bias
                if member.hidden:
                    inner, offset, outer = member.hidden
                    y = y + np.maximum(look @ inner + offset, 0) @ outer
                seen.append(y / np.linalg.norm(y) if head.similarity == "cosine" else y)
            y = np.mean(seen, 0)
            sides.append(y / np.linalg.norm(y) if head.similarity == "cosine" else y)
        x, y = sides
        alike.append(-((x - y) ** 2).sum() if head.similarity == "l2" else x @ y)
    return head.scale * (float(np.mean(alike)) - head.centre)


@given(
    st.integers(0, 1000), st.sampled_from(["cosine", "l2", "dot"]), st.integers(1, 3),
    st.integers(1, 2), st.booleans(),
)  # fmt: skip
def test_scores_are_the_oracles_and_symmetric_to_the_bit(
    seed: int, similarity: str, members: int, tta_views: int, relu: bool
) -> None:
    rng = np.random.default_rng(seed)
    result = random_head(
        rng, members, relu, tta_views, similarity=similarity, scale=3.0, centre=0.2
    )
    vectors = rng.normal(size=(9, 5 * tta_views)).astype(np.float32)
    pairs = rng.integers(9, size=(20, 2))
    represented = result.represent(vectors)
    assert represented.shape == (9, result.representation_width)
    scores = result.score(represented, pairs)
    assert (scores == result.score(represented, pairs[:, ::-1])).all()
    wanted = [oracle(result, vectors[i], vectors[j]) for i, j in pairs]
    assert scores == pytest.approx(wanted, rel=2e-4, abs=2e-4)
    mean = np.mean([score_alone(each, vectors, pairs) for each in result.members()], 0)
    assert scores == pytest.approx(mean, rel=2e-4, abs=2e-4)


def score_alone(head: Head, vectors: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    return head.score(head.represent(vectors), pairs)


def gallery_of_people(rng: np.random.Generator, size: int) -> tuple[np.ndarray, Neighbours]:
    """(size, 5) vectors of photos of people, and Which photos are neighbours."""
    vectors = people_vectors(rng, rng.integers(1 + size // 3, size=size), 5)
    model = random_model(rng, 5, offset=-2.0)
    likely = replace(model, cohort=-vectors[:1])  # of whom no photo is near
    return vectors, find_neighbours(vectors, likely, np.arange(size))


def expanded(head: Head, vectors: np.ndarray, neighbours: Neighbours) -> np.ndarray:
    """Expanded representations."""
    everybody = np.arange(len(vectors))
    represented = np.asarray(head.represent(vectors))
    return head.normalise(neighbours.means(everybody, represented, everybody))


def test_members_count_by_their_weights() -> None:
    rng = np.random.default_rng(0)
    result = replace(random_head(rng, members=2), weights=(1.0, 3.0))
    vectors, neighbours = gallery_of_people(rng, 9)
    assert neighbours.make_up.expanded > 3
    pairs = np.array([[0, 1], [4, 7], [2, 2]])
    one, other = (score_alone(member, vectors, pairs) for member in result.members())
    whole = score_alone(result, vectors, pairs)
    assert whole == pytest.approx((one + 3 * other) / 4, rel=1e-4, abs=1e-4)
    one, other = (
        member.score(expanded(member, vectors, neighbours), pairs) for member in result.members()
    )
    whole = result.score(expanded(result, vectors, neighbours), pairs)
    assert whole == pytest.approx((one + 3 * other) / 4, rel=1e-4, abs=1e-4)


def test_rows_out_of_range_are_refused() -> None:
    result = random_head(np.random.default_rng(0))
    with pytest.raises(IndexError, match="rows 0 to 3 of 3"):
        result.score(np.zeros((3, 8), np.float32), np.array([[0, 3]]))


def slow_means(values: np.ndarray, neighbours: list[list[int]]) -> np.ndarray:
    """Means of a photo and its neighbours, by a loop."""
    means = []
    for photo, others in enumerate(neighbours):
        total = values[photo].astype(np.float64)
        for other in others:
            total = total + values[other]
        means.append(total / (1 + len(others)))
    return np.stack(means)


@given(st.integers(0, 1000), st.integers(1, 14))
def test_means_are_those_of_a_loop_over_neighbours(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    _, neighbours = gallery_of_people(rng, size)
    values = rng.normal(size=(size, 3)).astype(np.float32)
    everybody = np.arange(size)
    others = [
        neighbours.others[a:b].tolist() for a, b in itertools.pairwise(neighbours.first.tolist())
    ]
    assert all(sorted(set(each) - {photo}) == each for photo, each in enumerate(others))
    assert neighbours.counts(everybody).tolist() == [len(each) for each in others]
    result = neighbours.means(everybody, values, everybody)
    assert result == pytest.approx(slow_means(values, others), rel=1e-4, abs=1e-5)
    single = neighbours.counts(everybody) == 0
    assert (result[single] == values[single]).all()
    # Of some photos alone, whose values lie elsewhere, the same to the bit.
    some = rng.permutation(size)[: size // 2 + 1]
    asked = neighbours.of(some)
    assert asked.tolist() == sorted({*some.tolist(), *(o for row in some for o in others[row])})
    row_of = np.full(size, -1)
    row_of[asked] = np.arange(len(asked))
    assert (neighbours.means(some, values[asked], row_of) == result[some]).all()


def test_neighbours_of_nobody_are_asked_for() -> None:
    _, neighbours = gallery_of_people(np.random.default_rng(0), 6)
    nobody = np.empty(0, np.intp)
    assert neighbours.of(nobody).shape == (0,) and neighbours.counts(nobody).shape == (0,)
    assert neighbours.means(nobody, np.ones((6, 2), np.float32), np.arange(6)).shape == (0, 2)


@given(st.integers(0, 1000), st.integers(1, 900), st.sampled_from(["cosine", "l2", "dot"]))
def test_a_representation_does_not_depend_on_other_photos(
    seed: int, size: int, similarity: str
) -> None:
    rng = np.random.default_rng(seed)
    result = random_head(rng, 2, True, 2, similarity=similarity)
    vectors = rng.normal(size=(size, 10)).astype(np.float32)
    whole = result.represent(vectors)
    some = rng.permutation(size)[: rng.integers(1, size + 1)]
    assert (result.represent(vectors[some]) == whole[some]).all()
    pairs = rng.integers(size, size=(300, 2))
    scores = result.score(whole, pairs, 1)
    few = rng.integers(300, size=5)
    assert (result.score(whole, pairs[few]) == scores[few]).all()


def test_people_are_pooled_as_one_photo_is_represented() -> None:
    rng = np.random.default_rng(0)
    result = random_head(rng, members=2)
    represented = result.represent(rng.normal(size=(7, 5)).astype(np.float32))
    rows, starts = np.array([0, 1, 2, 5, 6, 3]), np.array([0, 3, 5])
    pooled = result.pool(represented, rows, starts)
    assert pooled[2] == pytest.approx(represented[3], rel=1e-5)
    means = np.stack([represented[[0, 1, 2]].mean(0), represented[[5, 6]].mean(0)])
    for part in (slice(0, 4), slice(4, 8)):  # each member's
        wanted = means[:, part] / np.linalg.norm(means[:, part], axis=1, keepdims=True)
        assert pooled[:2, part] == pytest.approx(wanted * 0.5**0.5, rel=1e-4, abs=1e-5)


# The file


@given(st.integers(0, 99), st.integers(1, 3), st.booleans(), st.booleans(), st.booleans())
def test_a_head_comes_back_from_its_file(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    members: int,
    relu: bool,
    folded: bool,
    expands: bool,
) -> None:
    folds = tuple((f"F{m}/MID1", f"F{m}/MID2") for m in range(members)) if folded else ()
    model = random_model(np.random.default_rng(seed), 10) if expands else None
    result = random_head(
        np.random.default_rng(seed), members, relu, 2, similarity="l2", same_person=model,
        trained=("F1/MID1",), folds=folds,
    )  # fmt: skip
    path = save_head(result, tmp_path_factory.mktemp("head") / "head.h5")
    again = load_head(path)
    assert isinstance(again, MetricHead) and again.digest == result.digest
    assert (
        again.folds == folds
        and again.trained == ("F1/MID1",)
        and again.settings() == result.settings()
        and (again.same_person is None) == (model is None)
    )
    if again.same_person is not None and model is not None:
        assert (again.same_person.cohort == model.cohort).all()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"similarity": "angle"}, "similarity: found 'angle', wanted cosine or l2 or dot"),
        ({"similarity": ["dot"]}, "similarity: found"),
        ({"scale": -1.0}, "scale: found -1.0, wanted above 0"),
        ({"scale": 1e308}, r"scale: found 1e.308, wanted above 0, at most 1e.06"),
        ({"scale": "10"}, "scale: found '10', wanted a number"),
        ({"centre": float("nan")}, "found NaN, wanted finite numbers"),
        ({"centre": -1e308}, r"centre: found -1e.308, wanted -1e.09 to 1e.09"),
        ({"tta_views": 0}, "tta_views: found 0, wanted 1 to 16"),
        ({"tta_views": 10**18}, "tta_views: found 1000000000000000000, wanted 1 to 16"),
        ({"tta_views": 1.9}, "tta_views: found 1.9, wanted a whole number"),
        ({"folds": (("F1/MID1",),)}, "1 folds for 2 members"),
        ({"weights": (1.0,)}, "1 weights for 2 members"),
        ({"weights": (1.0, -1.0)}, "weights: found -1.0, wanted 1e-06 to 1e.06"),
        ({"weights": (1e308, 1e308)}, r"weights: found 1e.308, wanted 1e-06"),
        ({"weights": "12"}, r"weights: found \['1', '2'\]|found '1', wanted a number"),
        ({"expansion_slopes": (1e300, 1.0)}, "expansion_slopes: found 1e.300, wanted"),
        ({"view": 7}, "view: found 7, wanted a text"),
        ({"knn_view": None}, "knn_view: found None, wanted a text"),
    ],
)
def test_malformed_heads_are_refused(tmp_path: Path, change: dict, problem: str) -> None:
    result = replace(random_head(np.random.default_rng(0)), **change)
    path = save_head(result, tmp_path / "head.h5")
    with pytest.raises(RunError, match=problem) as error:
        load_head(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_layers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    good = random_head(np.random.default_rng(0), members=1).projections[0]
    broken = (
        replace(good, bias=good.bias[:3]),
        replace(good, kernel=good.kernel.astype(np.float16)),
        replace(good, kernel=np.full_like(good.kernel, np.inf)),
        replace(good, hidden=(good.hidden[0], good.hidden[1][:2], good.hidden[2])),
        replace(good, hidden=good.hidden[:1]),
    )
    for projection in broken:
        path = save_head(MetricHead("max", "m", (projection,)), tmp_path / "head.h5")
        with pytest.raises(RunError, match="not a head"):
            load_head(path)


# Training


def trained(recipe: MetricRecipe = SMALL, seed: int = 0, patience: int | None = None, **other):
    fold = family_folds(FAMILIES, np.arange(len(FAMILIES.people)), 3, 0)
    everybody = np.arange(len(FAMILIES.people))
    splits = [Split(np.setdiff1d(everybody, part), part) for part in fold[:2]]
    versions = other.get("versions", VECTORS[:, None])
    return train_members(versions, (6, 10), FAMILIES, splits, recipe, patience=patience, seed=seed)


def cosine_auc(people: np.ndarray) -> float:
    from kinembed.data.samplers import PairSampler

    rows, labels = PairSampler(FAMILIES, people, 0.5).sample(1, 2000, np.random.default_rng(0))
    vectors = unit(VECTORS)
    return roc_auc(labels[0], (vectors[rows[0, :, 0]] * vectors[rows[0, :, 1]]).sum(1))


def test_a_projection_learns_what_families_agree_in() -> None:
    before = cosine_auc(np.arange(len(FAMILIES.people)))
    for member in trained():
        assert member.best_epoch.val_auc > max(0.9, before + 0.15)
        assert member.kin > member.others


@pytest.mark.parametrize(
    "sets",
    [
        ["contrast=nt-xent"],
        ["contrast=triplet", "margin=0.2"],
        ["contrast=margin", "margin=0.8"],
        ["similarity=l2", "temperature=1"],
        ["similarity=dot", "temperature=1"],
        ["hidden_dim=0", "photos_per_person=2", "smoothing=0.1"],
        ["mixup=0.5", "mixup_kin=0.5", "view_dropout=0.1", "dropout=0"],
    ],
)
def test_every_way_of_learning_learns(sets: list[str]) -> None:
    assert trained(override(SMALL, sets))[0].best_epoch.val_auc > 0.8


def test_the_seed_and_the_number_decide_not_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    one = trained()
    monkeypatch.setattr("kinembed.training.metric_heads.processors", lambda: 1)
    other = trained()
    for a, b in zip(one, other, strict=True):
        assert all((x == y).all() for x, y in zip(a.projection.arrays, b.projection.arrays))
    assert (one[0].projection.kernel != one[1].projection.kernel).any()
    assert (trained(seed=1)[0].projection.kernel != one[0].projection.kernel).any()


def test_two_equal_versions_count_as_one() -> None:
    both = np.stack([random_vectors(0), random_vectors(0)], 1)
    (first, _) = trained(versions=both)
    result = metric_head([first], SMALL, 2, view="x", model="m")
    assert result.width == 2 * WIDTH
    single = replace(result, tta_views=1)
    twice = result.represent(both.reshape(len(both), -1))
    assert twice == pytest.approx(single.represent(VECTORS), rel=1e-4, abs=1e-5)


def test_patience_keeps_the_best_epoch() -> None:
    recipe = replace(SMALL, epochs=6, steps=5)
    (first, _) = trained(recipe, patience=1)
    aucs = [row.val_auc for row in first.history]
    assert first.best_epoch.val_auc == max(aucs) and len(aucs) <= 6


def test_a_metric_that_diverges_says_so() -> None:
    with pytest.raises(KinembedError, match=r"not finite at learning rate 1e\+20; try --set"):
        trained(replace(SMALL, learning_rate=1e20, similarity="dot"))


# The stage


OF_PERSON = 12  # numbers in which the photos of one person agree, and families do not
CACHED = WIDTH + OF_PERSON  # of both views
TEST_OWNERS = np.array([0, 0, 0, 1, 1, 2, 3, 4, 4])  # who is on the photos of the test folder


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    """A data folder and run with the generated vectors, and photos of a test folder."""
    names = [*FAMILIES.photos, *(f"test/{n}.jpg" for n in range(len(TEST_OWNERS)))]
    order = np.argsort(np.array([name.encode() for name in names]))
    rng = np.random.default_rng(5)
    of_test = rng.normal(size=(len(TEST_OWNERS), WIDTH)).astype(np.float32)
    of_test[:, :6] = of_test[TEST_OWNERS, :6]
    vectors = np.concatenate([VECTORS, of_test])[order]
    own = [people_vectors(rng, owners, OF_PERSON) for owners in (FAMILIES.owner, TEST_OWNERS)]
    native = np.concatenate([vectors[:, :6], 2 * np.concatenate(own)[order]], 1)
    write_cache(
        tmp_path / "embeddings.h5",
        {"schema": 5, "model": "m" * 64, "backbone": "drawn"},
        np.array([names[row].encode() for row in order]),
        np.zeros((len(names), 32), np.uint8),
        {"native": [native], "max": [vectors[:, 6:]],
         "native-flip": [native], "max-flip": [vectors[:, 6:]]},
    )  # fmt: skip
    lines = [f"{FAMILIES.people[a]},{FAMILIES.people[b]}" for a, b in FAMILIES.relations]
    (tmp_path / "train_relationships.csv").write_text("\n".join(["p1,p2", *lines]))
    pairs = ["img_pair,is_related", *(f"{n}.jpg-{n + 1}.jpg,0" for n in range(8))]
    (tmp_path / "pairs.csv").write_text("\n".join(pairs))
    return tmp_path


QUICK = (
    *(
        "embed_dim=8",
        "hidden_dim=12",
        "epochs=2",
        "steps=10",
        "batch_pairs=10",
        "ema_decay=0.5",
    ),
    "learning_rate=0.02",
)
LEARNT = (*(each for each in QUICK if each != "steps=10"), "steps=80")  # enough to tell families
CONFIG = HeadConfig(overrides=QUICK)


def test_by_default_each_family_is_held_out_by_one_member(cached: Path) -> None:
    result = load_head(head(CONFIG, cached, cached))
    assert isinstance(result, MetricHead)
    assert result.view == "native+max+native-flip+max-flip" and result.tta_views == 2
    assert result.knn_view == "native+native-flip"
    assert not result.held_out and set(result.trained) == set(FAMILIES.people)
    assert len(result.members()) == len(result.folds) == 5
    kept = [{person.split("/")[0] for person in fold} for fold in result.folds]
    assert sum(map(len, kept)) == len(set().union(*kept)) == FAMILIES_DRAWN
    assert set(result.held_out_people()) == set(FAMILIES.people)


def test_out_of_fold_scores_are_of_the_member_that_held_both_out(cached: Path) -> None:
    result = load_head(head(CONFIG, cached, cached))
    assert isinstance(result, MetricHead)
    with EmbeddingCache.open(cached / "embeddings.h5") as cache:
        names = [name.decode() for name in np.array(cache.names)]
        families = cached_families(cache, cached)
        rng = np.random.default_rng(0)
        scored = out_of_fold_scores(result, cache, families, 500, rng)
        pairs, logits = scored.pairs, scored.logits
        for (left, right), logit in [*zip(pairs.rows, logits, strict=True)][::41]:
            people = {"/".join(names[row].split("/")[1:3]) for row in (left, right)}
            (member,) = [m for m, fold in enumerate(result.folds) if people <= set(fold)]
            alone = Representations(cache, result.members()[member])
            assert logit == alone.score(np.array([[left, right]]))[0]
        assert roc_auc(pairs.labels, logits) > 0.8


def test_one_validation_set_can_be_held_out_from_all_members(cached: Path) -> None:
    result = load_head(
        head(replace(CONFIG, folds=0, overrides=(*QUICK, "members=3")), cached, cached)
    )
    assert isinstance(result, MetricHead) and len(result.members()) == 3 and not result.folds
    assert result.held_out and set(result.held_out) | set(result.trained) == set(FAMILIES.people)


def test_neighbours_in_the_test_folder_are_of_the_test_folder(cached: Path) -> None:
    result = load_head(head(CONFIG, cached, cached))
    assert isinstance(result, MetricHead) and result.same_person is not None
    with EmbeddingCache.open(cached / "embeddings.h5") as cache:
        names = np.array(cache.names)
        test = np.flatnonzero(np.char.startswith(names, b"test/"))
        table, rows = Representations(cache, result).take(test)
        alone = result.represent(cache.vectors(result.view)[test])
        knn = [np.asarray(cache.vectors(view))[test] for view in result.knn_view.split("+")]
        neighbours = slow_neighbours(result.same_person, np.concatenate(knn, 1))
        assert [len(others) for others in neighbours] == [2, 2, 2, 1, 1, 0, 0, 1, 1]
        wanted = result.normalise(slow_means(alone, neighbours).astype(np.float32))
        assert table[rows] == pytest.approx(wanted, rel=1e-4, abs=1e-5)
        assert not np.allclose(table[rows], alone)
        assert (table[rows][5:7] == alone[5:7]).all()
        table, rows = Representations(cache, result, expand=False).take(test)
        assert (table[rows] == alone).all()


@pytest.mark.parametrize("change", ["expand=off", "recipe"])
def test_a_head_that_is_not_to_expand_has_no_model(cached: Path, change: str) -> None:
    overrides = (*QUICK, "expand=off") if change == "expand=off" else ()
    config = replace(CONFIG, overrides=overrides)
    if change == "recipe":
        config = replace(config, recipe="base", epochs=1, steps=2)
    result = load_head(head(config, cached, cached))
    assert result.same_person is None
    with EmbeddingCache.open(cached / "embeddings.h5") as cache:
        assert not Representations(cache, result).expanded


def test_the_commands_work_in_sequence(cached: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["--run", str(cached), "--data", str(cached)]
    sets = [part for each in LEARNT for part in ("--set", each)]
    assert command(["head", *base, *sets]) == 0
    assert command(["calibrate", *base, "--pairs", "2000"]) == 0
    assert json.loads((cached / "calibration.json").read_bytes())["people"]
    assert command(["evaluate", *base, "--count", "2000", "--no-pictures", "--json"]) == 0
    capsys.readouterr()
    assert json.loads((cached / "evaluation.json").read_bytes())["auc"] > 0.85
    assert command(["score", *base, "--pairs", str(cached / "pairs.csv")]) == 0
    with (cached / "submission.csv").open(newline="") as file:
        said = [float(row["is_related"]) for row in csv.DictReader(file)]
    assert len(said) == 8 and all(0 < each < 1 for each in said) and len(set(said)) > 1
    assert command(["score", *base, "--raw", "--pairs", str(cached / "pairs.csv")]) == 0


def test_the_head_log_keeps_every_head(cached: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["head", "--run", str(cached), "--data", str(cached)]
    sets = [part for each in QUICK for part in ("--set", each)]
    assert command([*base, *sets, "--sweep", "seed=0,1", "--sweep", "noise=0,0.5"]) == 0
    assert command([*base, "--kind", "l1", "--epochs", "1", "--steps", "2"]) == 0
    rows = read_head_log(cached / "heads.csv")
    assert [row["recipe"] for row in rows] == ["metric"] * 4 + ["base"]
    assert [row["seed"] for row in rows] == ["0", "0", "1", "1", "0"]
    assert "noise=0.5" in rows[1]["settings"] and "noise" in rows[0]["settings"]
    assert all(float(row["low"]) <= float(row["auc"]) <= float(row["high"]) for row in rows)
    assert "| seed | noise |" in capsys.readouterr().out


def test_views_are_chosen_and_composed(cached: Path) -> None:
    result = load_head(head(replace(CONFIG, views=("max",)), cached, cached))
    assert isinstance(result, MetricHead)
    assert (result.view, result.knn_view) == ("max+max-flip", "max+max-flip")
    with pytest.raises(RunError, match="has no view avg"):
        head(replace(CONFIG, views=("max+avg",)), cached, cached)


def test_impossible_folds_are_refused(cached: Path, run: Path, faces: Path) -> None:
    for config, problem in (
        (replace(CONFIG, folds=1), "folds: found 1, wanted 2 to 100"),
        (replace(CONFIG, folds=99), "24 families cannot be split into 99 folds"),
        (replace(CONFIG, recipe="base", overrides=(), folds=3), "folds: recipe base has none"),
    ):
        with pytest.raises(KinembedError, match=problem):
            head(config, cached, cached)
    with pytest.raises(RunError, match="trained on people of all folds"):
        head(replace(CONFIG, folds=3, kind="metric"), faces, run)


def test_a_fine_tuned_networks_held_out_people_judge_a_metric_head(run: Path, faces: Path) -> None:
    before = load_head(run / "head.h5")
    after = load_head(head(replace(CONFIG, overrides=QUICK, kind="metric"), faces, run))
    assert isinstance(after, MetricHead) and not after.folds and len(after.members()) == 5
    assert after.held_out == before.held_out and after.trained == before.trained


def with_tuned(cached: Path, tmp_path: Path) -> Path:
    """A second cache, of a contrastive network with held-out people."""
    split = split_people(FAMILIES, "families", 0.25, np.random.default_rng(4))
    recorded = describe_split(FAMILIES, split, "families", 0.25, 4)
    with EmbeddingCache.open(cached / "embeddings.h5") as cache:
        tuned = Finetuned(KIN, "native").as_json()
        about = {**cache.provenance, "model": "n" * 64, "split": recorded, "finetuned": tuned}
        views = {
            view: [np.array(cache.vectors("native"))[:, :5] + 0.1] for view in
            ("native", "native-flip", "max", "max-flip")
        }  # fmt: skip
        return write_cache(tmp_path / "tuned.h5", about, cache.names, cache.digests, views)


def test_the_view_of_a_contrastive_network_has_no_projection(cached: Path, tmp_path: Path) -> None:
    path = with_tuned(cached, tmp_path)
    result = load_head(head(replace(CONFIG, caches=(path,)), cached, tmp_path / "one"))
    assert isinstance(result, MetricHead) and result.view == "native+native-flip"
    assert len(result.members()) == 1 and (result.projections[0].kernel == np.eye(5)).all()
    assert result.held_out and not result.folds and not (tmp_path / "one/history-head.csv").exists()
    learnt = load_head(
        head(replace(CONFIG, caches=(path,), views=("native",)), cached, tmp_path / "two")
    )
    assert isinstance(learnt, MetricHead) and len(learnt.members()) == 5


def test_scoring_arrays_projects_them() -> None:
    result = random_head(np.random.default_rng(0))
    vectors = np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32)
    pairs = np.array([[0, 1], [2, 3]])
    assert (
        score_pairs(result, vectors, pairs)
        == result.probabilities(result.represent(vectors), pairs)
    ).all()


def test_imported_vectors_work_with_the_same_commands(
    cached: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "made.npy", VECTORS)
    (tmp_path / "made.txt").write_text("\n".join(FAMILIES.photos))
    run = tmp_path / "imported"
    base = ["--run", str(run), "--data", str(cached)]
    files = [str(tmp_path / "made.npy"), str(tmp_path / "made.txt")]
    assert command(["cache", "import", *base, *files, "--backbone-name", "arcface"]) == 0
    sets = [part for each in LEARNT for part in ("--set", each)]
    assert command(["head", *base, *sets]) == 0
    result = load_head(run / "head.h5")
    assert isinstance(result, MetricHead)
    assert (result.view, result.tta_views, result.knn_view) == ("native", 1, "native")
    assert result.same_person is None  # these vectors tell families, and hardly people
    assert "no query expansion: only " in capsys.readouterr().err
    assert float(read_head_log(run / "heads.csv")[0]["auc"]) > 0.85
    pairs = tmp_path / "two.csv"
    pairs.write_text(f"img_pair,is_related\n{FAMILIES.photos[0]}-{FAMILIES.photos[3]},0\n")
    assert command(["score", *base, "--pairs", str(pairs)]) == 0


def second(cached: Path, path: Path, name: str = "n", **about: object) -> Path:
    """A cache of the same photos by another network: what it sees is noisier."""
    with EmbeddingCache.open(cached / "embeddings.h5") as cache:
        rng = np.random.default_rng(ord(name))
        other = {
            view: [np.array(cache.vectors(view))[:, ::-1] + np.float32(0.3 * rng.normal())]
            for view in ("native", "max")
        }
        whole = {**cache.provenance, "model": name * 64, **about}
        return write_cache(path, whole, cache.names, cache.digests, other)


def test_several_caches_have_a_head_each_fused_late(cached: Path, tmp_path: Path) -> None:
    second(cached, tmp_path / "b.h5")
    both = ["--cache", str(cached / "embeddings.h5"), "--cache", str(tmp_path / "b.h5")]
    base = ["--run", str(tmp_path / "two"), "--data", str(cached)]
    sets = [part for each in QUICK for part in ("--set", each)]
    assert command(["head", *base, *both, *sets]) == 0
    result, record = read_head(tmp_path / "two" / "head.h5")
    assert isinstance(result, FusedHead) and len(result.folds) == 5
    first, other = result.parts
    assert first.view == "1.native+1.max+1.native-flip+1.max-flip"
    assert other.view == "2.native+2.max" and isinstance(other, MetricHead)
    assert result.knn_view == "1.native+1.native-flip+2.native"
    assert result.same_person is not None and other.same_person is None
    # The folders may move together: the head names the caches from its own.
    assert record.caches == ("../embeddings.h5", "../b.h5")
    rows = list(csv.DictReader((tmp_path / "two" / "history-head.csv").open()))
    assert [row["member"] for row in rows] == [str(m) for m in range(10) for _ in range(2)]

    # Each part is the head that its cache gives alone.
    alone = load_head(head(replace(CONFIG, caches=(tmp_path / "b.h5",)), cached, tmp_path / "one"))
    assert isinstance(alone, MetricHead) and alone.folds == result.folds
    for one, again in zip(alone.projections, other.projections, strict=True):
        assert (one.kernel == again.kernel).all()

    # What comes after finds the caches by itself, and says so where they are gone.
    assert command(["calibrate", *base, "--pairs", "1000"]) == 0
    assert command(["score", *base, "--pairs", str(cached / "pairs.csv")]) == 0
    scored = (tmp_path / "two" / "submission.csv").read_bytes()
    assert command(["score", *base, *both, "--pairs", str(cached / "pairs.csv")]) == 0
    assert (tmp_path / "two" / "submission.csv").read_bytes() == scored
    wrong = [*base, *both[2:], "--pairs", str(cached / "pairs.csv")]
    assert command(["score", *wrong]) == 1


def test_the_fused_auc_is_of_members_that_hold_out_both_people(
    cached: Path, tmp_path: Path
) -> None:
    caches = (cached / "embeddings.h5", second(cached, tmp_path / "b.h5"))
    result = load_head(head(replace(CONFIG, caches=caches), cached, tmp_path / "two"))
    with open_caches(caches) as cache:
        families = cached_families(cache, cached)
        rng = np.random.default_rng(0)
        scored = out_of_fold_scores(result, cache, families, 200, rng)
        fold_of = {
            person: n for n, (people, _) in enumerate(result.out_of_fold()) for person in people
        }
        for pair, logit in zip(scored.pairs.rows, scored.alone, strict=True):
            people = [families.people[families.owner_of(np.array([row]))[0]] for row in pair]
            assert fold_of[people[0]] == fold_of[people[1]]
            member = result.members()[fold_of[people[0]]]
            own = np.concatenate([cache.vectors(view)[pair] for view in member.view.split("+")], 1)
            assert logit == member.score(member.represent(own), np.array([[0, 1]]))[0]


def test_views_by_their_names_are_fused_late_or_stand_side_by_side(
    cached: Path, tmp_path: Path
) -> None:
    late = load_head(head(replace(CONFIG, views=("native", "max")), cached, cached))
    assert isinstance(late, FusedHead)
    assert [part.view for part in late.parts] == ["native+native-flip", "max+max-flip"]
    caches = (cached / "embeddings.h5", second(cached, tmp_path / "b.h5"))
    config = replace(CONFIG, caches=caches, views=("1.native+2.native",))
    early = load_head(head(config, cached, tmp_path / "early"))
    assert isinstance(early, MetricHead) and early.view == "1.native+2.native"
    pairs = HeadConfig("base", caches=caches, epochs=1, steps=2)
    both = load_head(head(pairs, cached, tmp_path / "pairs"))
    assert isinstance(both, FusedHead) and [part.kind for part in both.parts] == ["pair"] * 2
    assert both.held_out and both.view == "1.max+2.max"


def test_a_split_says_whom_each_member_trains_on_and_who_judges_it() -> None:
    one = Split(np.arange(30), np.arange(30, 40))
    other = Split(np.arange(10, 40), np.arange(8))
    assert HeldOut((one,), False, "people").describe() == (
        "split by people: 30 people train the head and 10 are held out"
    )
    assert HeldOut((one, other), True, "families").describe() == (
        "split by families into 2 folds: a member for each trains on 30 people of the other folds "
        "and is judged by the 8 to 10 of its own"
    )
    everybody = np.arange(len(FAMILIES.people))
    held_out, *_ = family_folds(FAMILIES, everybody, 5, 1)
    split = Split(np.setdiff1d(everybody, held_out), held_out)
    several = hold_out_validation(FAMILIES, split, "families", 3, 0)
    least, most = (end(len(each.train) for each in several.splits) for end in (min, max))
    assert several.describe() == (
        f"split by families: {len(held_out)} people are held out of all 3 members; each trains on "
        f"{least} to {most} of {len(split.train)} others, so that members differ"
    )


def by_fold(fold: int, folds: int = 3) -> dict[str, object]:
    """What the cache of a network says that held out a fold of the families."""
    split = hold_out_folds(FAMILIES, folds, 4).splits[fold - 1]
    names = "\n".join(FAMILIES.people[row] for row in split.validation)
    digest = hashlib.sha256(names.encode()).hexdigest()
    about = {"by": "families", "seed": 4, "folds": folds, "fold": fold, "held_out": digest}
    tuned = Finetuned(find_recipe("dense"), "max").as_json()
    return {"split": about, "finetuned": tuned}


def test_networks_of_folds_judge_each_the_people_that_they_held_out(
    cached: Path, tmp_path: Path
) -> None:
    caches = tuple(
        second(cached, tmp_path / f"{fold}.h5", str(fold), **by_fold(fold)) for fold in (2, 1, 3)
    )
    held = hold_out_folds(FAMILIES, 3, 4).people(FAMILIES)["folds"]
    short = HeadConfig(caches=caches, epochs=1, steps=2)
    averaged = load_head(head(short, cached, tmp_path / "three"))
    assert isinstance(averaged, FusedHead) and averaged.by_fold and averaged.folds == held
    assert averaged.view == "2.max+1.max+3.max"  # in the order of the folds
    assert [part.kind for part in averaged.parts] == ["pair"] * 3
    beside = replace(CONFIG, caches=(*caches, cached / "embeddings.h5"))
    mixed = load_head(head(beside, cached, tmp_path / "mixed"))
    assert isinstance(mixed, FusedHead) and mixed.folds == held
    assert [part.view.count("max") for part in mixed.parts] == [2, 3]
    base = ["--run", str(tmp_path / "mixed"), "--data", str(cached)]
    assert command(["calibrate", *base, "--pairs", "1000"]) == 0
    for config, problem in (
        (replace(beside, caches=beside.caches[1:]), "2 of 3 networks by folds, wanted all beside"),
        (replace(beside, recipe="base", overrides=()), "a head of recipe base has no folds"),
        (replace(short, split="families"), "which say who is held out; leave out"),
        (replace(short, views=("1.max+2.max",)), "trained on each other's held-out people"),
    ):
        with pytest.raises(RunError, match=problem):
            head(config, cached, tmp_path / "refused")
