"""Training heads from the cache: against autograd, many at once, and what it refuses."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from kinembed import EmbeddingCache, KinHeadClassifier, distances, score_pairs, train_head
from kinembed.cache.writer import write_cache
from kinembed.cli import run as command
from kinembed.config import ExperimentsConfig, HeadConfig
from kinembed.data.families import Families, group_families
from kinembed.data.samplers import PairSampler
from kinembed.data.splits import Split
from kinembed.errors import DataError, KinembedError, RunError
from kinembed.head import head
from kinembed.heads.file import load_head
from kinembed.recipes import (
    FUSION,
    HEAD_RECIPES,
    METRIC,
    RECIPES,
    HeadRecipe,
    PairRecipe,
    expand_sweep,
    find_head_recipe,
    override,
)
from kinembed.seeds import Stream, generator
from kinembed.training.head_modules import KinHead
from kinembed.training.keras_losses import gradient_of, loss_of
from kinembed.training.keras_optimizers import KerasAdam, keras_rmsprop
from kinembed.training.pair_heads import train_pair_heads

SHORT = HeadConfig("regularized", epochs=3, steps=7, val_steps=4, batch_size=10, seed=5)


def generated(seed: int = 0, width: int = 12) -> tuple[Families, np.ndarray]:
    """Twenty families of three, two photos each, whose vectors lie near their family's."""
    rng = np.random.default_rng(seed)
    names, relations, rows = [], [], []
    for family in range(20):
        centre = rng.standard_normal(width)
        for person in range(3):
            own = centre + 0.4 * rng.standard_normal(width)
            for photo in range(2):
                names.append(f"train/F{family:02}/MID{person}/P{photo}.jpg")
                rows.append(own + 0.2 * rng.standard_normal(width))
        relations += [(f"F{family:02}/MID{a}", f"F{family:02}/MID{b}") for a, b in ((0, 1), (0, 2))]
    return group_families(names, relations), np.array(rows, np.float32)


FAMILIES, VECTORS = generated()
TRAIN = PairSampler(FAMILIES, np.arange(42))
HELD_OUT = PairSampler(FAMILIES, np.arange(42, 60))
SPLIT = Split(TRAIN.people, HELD_OUT.people)


def slow_training(recipe: PairRecipe, seed: int, config: HeadConfig) -> tuple[KinHead, list[float]]:
    """The same protocol, a pair of vectors and a step at a time, by autograd."""
    torch.manual_seed(seed)
    network = KinHead(VECTORS.shape[1], recipe)
    build = {"adam": KerasAdam, "rmsprop": keras_rmsprop}[recipe.optimizer]
    optimizer = build(network.parameters(), recipe.learning_rate)
    losses = []
    for epoch in range(config.epochs):
        rng = np.random.default_rng([config.seed, epoch])
        rows, labels = TRAIN.sample(config.steps, config.batch_size, rng)
        for step in range(config.steps):
            a, b = (torch.from_numpy(VECTORS[rows[step][:, side]]) for side in (0, 1))
            loss = loss_of(recipe, config.batch_size)(network(a, b), torch.from_numpy(labels[step]))
            optimizer.zero_grad()
            (loss + network.penalty()).backward()
            optimizer.step()
        rng = generator(config.seed, Stream.VALIDATION)
        rows, labels = HELD_OUT.sample(config.val_steps, config.batch_size, rng)
        with torch.no_grad():
            a, b = (torch.from_numpy(VECTORS[rows.reshape(-1, 2)[:, side]]) for side in (0, 1))
            logits, truth = network(a, b), torch.from_numpy(labels.ravel())
            loss = loss_of(recipe, config.batch_size)(logits, truth)
            losses.append(float(loss + network.penalty()))
    return network, losses


RATES = replace(RECIPES["regularized"], dropout=0.0, learning_rate=1e-3)


@pytest.mark.parametrize(
    "recipe",
    [
        RECIPES["base"],
        RATES,
        replace(RATES, loss="focal", l2=0.0, hidden=(7,)),
        replace(RATES, loss="focal", gamma=1.5, alpha=0.4, reduction="sum"),
        replace(RATES, optimizer="rmsprop"),
        replace(RATES, learning_rate=1e-5, kernel_std=None, bias_mean=None),
        replace(RATES, features=("product", "abs")),
        replace(RECIPES["base"], features=("sum", "square")),
        replace(RECIPES["base"], features=("l2",)),
        replace(RATES, features=("cosine", "abs")),
        replace(FUSION, dropout=0.0, learning_rate=1e-3),
    ],
    ids=[
        "l1",
        "regularized",
        "focal",
        "focal-sum",
        "rmsprop",
        "glorot",
        "mix",
        "l1-mix",
        "l2",
        "cosine",
        "fusion",
    ],
)
def test_training_is_that_of_autograd_step_by_step(recipe: PairRecipe) -> None:
    (found,) = train_pair_heads(
        VECTORS, TRAIN, HELD_OUT, [(recipe, 3)], replace(SHORT, patience=None)
    )
    wanted, losses = slow_training(recipe, 3, SHORT)
    assert np.allclose([row.val_loss for row in found.history], losses, rtol=2e-4)
    if found.best_epoch.epoch == SHORT.epochs:
        last = wanted.to_head("", "")
        for one, other in zip(found.head.kernels, last.kernels):
            assert np.allclose(one, other, atol=2e-4 * np.abs(other).max())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("values", [{}, {"loss": "focal"}, {"loss": "focal", "gamma": 0.5}])
def test_gradients_written_out_are_autograds(values: dict, reduction: str) -> None:
    recipe = replace(RECIPES["dense"], **values, reduction=reduction)
    logits = torch.tensor([[-30.0, -3, 0, 1, 20], [0.5, -0.5, 2, -2, 17]], requires_grad=True)
    labels = torch.tensor([[1.0, 0, 1, 0, 1], [1, 1, 0, 0, 0]])
    (wanted,) = torch.autograd.grad(loss_of(recipe, 5)(logits, labels).sum(), logits)
    found = gradient_of(recipe)(logits.detach(), labels)
    assert torch.allclose(found, wanted, atol=1e-7)
    assert found.abs().max() > 0.01


def test_many_heads_in_one_pass_are_each_as_if_alone() -> None:
    members = [
        (RATES, 0),
        (replace(RATES, learning_rate=1e-4), 0),
        (replace(RATES, l2=0.1), 1),
        (RECIPES["base"], 2),
        (replace(RATES, hidden=(5,)), 0),
        (replace(RATES, optimizer="rmsprop"), 0),
        (replace(RATES, loss="focal"), 0),
        (replace(RATES, loss="focal", gamma=1.0, reduction="sum"), 0),
        (RECIPES["base"], 4),
        (replace(RATES, features=("abs", "product")), 0),
        (replace(RATES, features=("product", "abs")), 0),
        (replace(RECIPES["base"], features=("sum",)), 2),
        (replace(RECIPES["base"], features=("l2",)), 2),
        (replace(RECIPES["base"], features=("product", "cosine")), 2),
        (FUSION, 1),
    ]
    together = train_pair_heads(VECTORS, TRAIN, HELD_OUT, members, SHORT)
    for member, found in zip(members, together):
        (alone,) = train_pair_heads(VECTORS, TRAIN, HELD_OUT, [member], SHORT)
        assert found.best_epoch.epoch == alone.best_epoch.epoch
        assert found.head.features == alone.head.features == member[0].features
        for one, other in zip(found.head.kernels, alone.head.kernels):
            assert one.shape == other.shape
            assert np.allclose(one, other, atol=1e-4 * np.abs(other).max())


def test_validation_pairs_are_drawn_again_each_epoch_on_request() -> None:
    """In one pass with a head whose pairs stay, neither changes."""
    same, fresh = RECIPES["base"], replace(RECIPES["base"], validation="fresh")
    still = replace(same, learning_rate=1e-30)
    moving = replace(fresh, learning_rate=1e-30)
    config = replace(SHORT, epochs=4)
    members = [(still, 1), (moving, 1), (same, 1)]
    first, second, third = train_pair_heads(VECTORS, TRAIN, HELD_OUT, members, config)
    assert len({row.val_auc for row in first.history}) == 1  # nothing is learnt
    assert len({row.val_loss for row in second.history}) == 4
    (alone,) = train_pair_heads(VECTORS, TRAIN, HELD_OUT, [(moving, 1)], config)
    wanted = [row.val_loss for row in alone.history]
    assert [row.val_loss for row in second.history] == pytest.approx(wanted)
    (alone,) = train_pair_heads(VECTORS, TRAIN, HELD_OUT, [(same, 1)], config)
    wanted = [row.val_loss for row in alone.history]
    assert [row.val_loss for row in third.history] == pytest.approx(wanted)


class Ruled:
    """Pairs of a row and the one after it, and labels by a rule, in place of a PairSampler."""

    def __init__(self, labels: np.ndarray, pairs: range) -> None:
        self.labels, self.pairs = labels, pairs

    def sample(self, steps: int, size: int, rng: np.random.Generator):
        chosen = rng.choice(self.pairs, (steps, size))
        return np.stack([2 * chosen, 2 * chosen + 1], -1), self.labels[chosen].astype(np.float32)


def ruled(rule: str, count: int = 4000, width: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Vectors whose pairs' |a - b| says nothing of their labels, at least to a linear head."""
    rng = np.random.default_rng(2)
    total, apart = rng.standard_normal((2, count, width))
    if rule == "sum":  # independent of a - b
        labels = total.sum(1) > 0
    elif rule == "product":  # |a - b| is 2 in all places, whatever the label
        total, apart = 2 * total, 2 * np.sign(apart)
        labels = (total**2 - apart**2).sum(1) > 0  # four times the sum of a * b
    else:  # |a - b| is 0 or 2 of the one kind, 1 of the other: 1 in the mean of either
        labels = rng.random(count) > 0.5
        apart = np.where(labels[:, None], 1 + np.sign(apart), 1)
    both = np.stack([(total + apart) / 2, (total - apart) / 2], 1)
    return both.reshape(-1, width).astype(np.float32), labels


@pytest.mark.parametrize("rule", ["sum", "product", "square"])
def test_each_feature_learns_what_abs_cannot(rule: str) -> None:
    known, labels = ruled(rule)
    if rule == "product":
        assert np.array_equal((known[::2] * known[1::2]).sum(1) > 0, labels)
    samplers = Ruled(labels, range(3000)), Ruled(labels, range(3000, 4000))
    plain = replace(RECIPES["base"], learning_rate=1e-2)
    mixes = [("abs",), (rule,), ("abs", rule)]
    members = [(replace(plain, features=mix), 0) for mix in mixes]
    config = HeadConfig("regularized", epochs=12, steps=80, batch_size=64)
    found = train_pair_heads(known, *samplers, members, config)
    blind, *seeing = [np.array([row.val_auc for row in each.history]) for each in found]
    assert np.abs(blind - 0.5).max() < 0.1
    assert min(aucs[-1] for aucs in seeing) > 0.95
    rows = np.arange(6000, 8000).reshape(-1, 2)
    for each in found[1:]:
        said = score_pairs(each.head, known, rows)
        assert said[labels[3000:]].mean() > said[~labels[3000:]].mean() + 0.3
        assert np.array_equal(said, score_pairs(each.head, known, rows[:, ::-1]))


def test_the_head_is_that_of_the_best_epoch_and_learns() -> None:
    found = train_head(
        VECTORS,
        FAMILIES,
        RATES,
        split=SPLIT,
        epochs=20,
        steps=20,
        batch_size=16,
        seed=1,
        view="max",
    )
    assert found.head.view == "max"
    best = found.history[found.epoch - 1]
    assert best.val_auc == max(row.val_auc for row in found.history) > 0.85
    people = [set(map(FAMILIES.people.__getitem__, s.people)) for s in (TRAIN, HELD_OUT)]
    assert [set(found.head.trained), set(found.head.held_out)] == people
    rng = generator(1, Stream.VALIDATION)
    rows, labels = HELD_OUT.sample(30, 16, rng)
    said = score_pairs(found.head, VECTORS, rows.reshape(-1, 2))
    right = ((said > 0.5) == labels.ravel()).mean()
    assert right == pytest.approx(best.val_accuracy, abs=1e-6)


def test_seeds_repeat_and_differ_and_leave_the_callers_numbers_alone() -> None:
    torch.manual_seed(9)
    before = torch.get_rng_state()
    one, again, other = (
        train_head(VECTORS, FAMILIES, "dense", epochs=2, steps=3, seed=seed).head.digest
        for seed in (0, 0, 1)
    )
    assert one == again != other
    assert torch.equal(torch.get_rng_state(), before)


def test_float16_vectors_train_as_float32_do() -> None:
    half = VECTORS.astype(np.float16)
    (one,) = train_pair_heads(half, TRAIN, HELD_OUT, [(RATES, 0)], SHORT)
    (other,) = train_pair_heads(half.astype(np.float32), TRAIN, HELD_OUT, [(RATES, 0)], SHORT)
    assert one.head.digest == other.head.digest


def test_patience_stops_early() -> None:
    short = replace(SHORT, epochs=50, patience=2)
    (found,) = train_pair_heads(VECTORS, TRAIN, HELD_OUT, [(RECIPES["adam-lr"], 0)], short)
    assert len(found.history) == found.best_epoch.epoch + 2 < 50


def test_a_head_that_diverges_says_so() -> None:
    wild = replace(RATES, learning_rate=1e30)
    with pytest.raises(KinembedError, match="not finite at learning rate 1e"):
        train_pair_heads(VECTORS, TRAIN, HELD_OUT, [(wild, 0)], SHORT)


def test_rows_of_families_are_those_of_the_vectors() -> None:
    order = np.random.default_rng(0).permutation(len(VECTORS))
    moved = np.empty_like(VECTORS)
    moved[order] = VECTORS
    one = train_head(VECTORS, FAMILIES, RATES, epochs=2, steps=3)
    other = train_head(moved, replace(FAMILIES, rows=order), RATES, epochs=2, steps=3)
    assert one.head.digest == other.head.digest


@pytest.mark.parametrize("recipe", [RATES, METRIC])
def test_a_part_of_its_own_chooses_the_epoch_where_there_is_one(recipe: HeadRecipe) -> None:
    small = ("embed_dim=4", "hidden_dim=0", "members=2") if recipe is METRIC else ()
    people = np.arange(len(FAMILIES.people))
    two, three = Split(people[:36], people[36:]), Split(people[:36], people[36:48], people[48:])
    for split, chooser, judges in (
        (two, "held-out people", people[36:]),
        (three, "validation people", people[48:]),
    ):
        found = train_head(
            VECTORS, FAMILIES, recipe, split=split, overrides=small, epochs=1, steps=2, patience=2
        )
        assert found.epoch_chosen_by == chooser
        assert set(found.head.held_out) == {FAMILIES.people[row] for row in judges}
        assert set(found.head.trained) <= {FAMILIES.people[row] for row in people[:36]}


# The stage


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    """A data folder and run with the generated vectors."""
    names = np.array([name.encode() for name in FAMILIES.photos])
    about = {"schema": 5, "model": "m" * 64, "backbone": "drawn"}
    write_cache(
        tmp_path / "embeddings.h5", about, names, np.zeros((len(names), 32), np.uint8),
        {"native": [VECTORS]},
    )  # fmt: skip
    lines = [f"{FAMILIES.people[a]},{FAMILIES.people[b]}" for a, b in FAMILIES.relations]
    (tmp_path / "train_relationships.csv").write_text("\n".join(["p1,p2", *lines]))
    return tmp_path


def test_the_stage_holds_families_out_and_says_whom(cached: Path) -> None:
    found = load_head(head(SHORT, cached, cached))
    assert (found.view, found.model) == ("native", "m" * 64)
    assert set(found.held_out) | set(found.trained) == set(FAMILIES.people)
    kept, trained = ({p.split("/")[0] for p in side} for side in (found.held_out, found.trained))
    assert len(kept) == 4 and not kept & trained
    lines = (cached / "history-head.csv").read_text().splitlines()
    assert lines[0].startswith("epoch,train_loss") and len(lines) == 4


def test_the_commands_options_arrive(cached: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["head", "--run", str(cached), "--data", str(cached), "--epochs", "2", "--steps", "2"]
    assert command([*base, "--kind", "l1", "--split", "people", "--seed", "3"]) == 0
    found = load_head(cached / "head.h5")
    assert [k.shape for k in found.kernels] == [(12, 1)] and len(found.held_out) == 12
    assert command([*base, "--kind", "l1-dense", "--set", "hidden=6"]) == 0
    assert [k.shape for k in load_head(cached / "head.h5").kernels] == [(12, 6), (6, 1)]
    before = (cached / "head.h5").read_bytes()
    assert command([*base, "--set", "learning_rate=1e30"]) == 1
    assert command([*base, "--view", "max"]) == 1
    assert command([*base, "--recipe", "best"]) == 1
    assert (cached / "head.h5").read_bytes() == before
    assert "has no view max" in capsys.readouterr().err


def test_the_commands_heads_compare_by_other_features(cached: Path) -> None:
    base = ["head", "--run", str(cached), "--data", str(cached), "--epochs", "2", "--steps", "2"]
    assert command([*base, "--recipe", "mix"]) == 0
    found = load_head(cached / "head.h5")
    assert (found.features, found.width) == (("abs", "product"), 12)
    assert [k.shape for k in found.kernels] == [(24, 100), (100, 25), (25, 1)]
    assert command([*base, "--recipe", "base", "--set", "features=sum, square, abs"]) == 0
    found = load_head(cached / "head.h5")
    assert found.features == ("sum", "square", "abs")
    with EmbeddingCache.open(cached / "embeddings.h5") as cache:
        pairs = [(FAMILIES.photos[0], FAMILIES.photos[7]), (FAMILIES.photos[7], FAMILIES.photos[0])]
        one, other = score_pairs(found, cache, pairs)
        assert one == other
    assert (
        command(
            [
                *base,
                "--recipe",
                "regularized",
                "--sweep",
                "features=abs;abs,product;square",
                "--set",
                "l2=0",
            ]
        )
        == 0
    )
    with (cached / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["features"] for row in rows} == {"abs", "abs,product", "square"}


def test_mix_is_a_recipe_of_heads_and_none_of_the_reports() -> None:
    mix = find_head_recipe("mix")
    assert (mix.hidden, mix.dropout, mix.l2) == ((100, 25), 0.3, 1e-4)
    assert (mix.learning_rate, mix.features) == (1e-3, ("abs", "product"))
    assert set(HEAD_RECIPES) - set(RECIPES) == {"fusion", "mix", "metric"}
    assert "mix" not in ExperimentsConfig().recipes
    assert {recipe.features for recipe in RECIPES.values()} == {("abs",)}
    with pytest.raises(KinembedError, match=r"'best' is unknown; known are base, .*, mix, metric$"):
        find_head_recipe("best")


@pytest.mark.parametrize("text", ["", "none", "ratio", "abs,ratio", "abs,abs", "abs,,sum", "Abs"])
def test_features_that_cannot_be_set(text: str) -> None:
    with pytest.raises(KinembedError, match="abs.*square.*product.*sum") as error:
        override(RECIPES["base"], [f"features={text}"])
    assert "\n" not in str(error.value)


def test_a_sweep_tabulates_every_combination(cached: Path, capsys) -> None:
    base = [
        "head",
        "--recipe",
        "regularized",
        "--run",
        str(cached),
        "--data",
        str(cached),
        "--epochs",
        "2",
        "--steps",
        "4",
    ]
    sweep = ["--sweep", "learning_rate=1e-5,1e-2", "--sweep", "hidden=8;6,3;none"]
    assert command([*base, *sweep, "--sweep", "seed=0,1"]) == 0
    with (cached / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {(row["learning_rate"], row["hidden"], row["seed"]) for row in rows}
    rates, shapes = ("1e-05", "0.01"), ("8", "6,3", "")
    assert found == {(r, h, s) for r in rates for h in shapes for s in "01"}
    aucs = [float(row["auc"]) for row in rows]
    assert aucs == sorted(aucs, reverse=True) and max(aucs) > 0.7
    assert all(float(row["low"]) <= float(row["auc"]) <= float(row["high"]) for row in rows)
    assert capsys.readouterr().out == (cached / "sweep.md").read_text()
    assert not (cached / "head.h5").exists()


@pytest.mark.parametrize(
    ("sweep", "problem"),
    [
        (["l2"], "wanted key=value,value"),
        (["l2=1,x"], "l2: found 'x'"),
        (["speed=1,2"], "'speed' is unknown"),
        (["l2=1", "l2=2"], "l2 is swept twice"),
        (["seed=a"], "wanted whole numbers"),
    ],
)
def test_a_sweep_of_what_there_is_not_is_refused(sweep: list[str], problem: str) -> None:
    with pytest.raises(KinembedError, match=problem):
        expand_sweep(RECIPES["base"], sweep, 0)


def test_a_fine_tuned_caches_split_is_kept(run: Path, faces: Path) -> None:
    before = load_head(run / "head.h5")
    after = load_head(head(SHORT, faces, run))
    assert after.held_out == before.held_out and after.trained == before.trained
    assert load_head(head(replace(SHORT, seed=9), faces, run)).held_out == before.held_out
    with pytest.raises(RunError, match="was trained with split families, found people"):
        head(replace(SHORT, split="people"), faces, run)


def test_other_relations_than_the_network_saw_are_refused(run: Path, data: Path) -> None:
    with EmbeddingCache.open(run / "embeddings.h5") as cache:
        names = [n for n in cache.names.tolist() if b"F0000" not in n and b"F0001" not in n]
        rows = cache.rows([n.decode() for n in names])
        write_cache(
            run / "other.h5", cache.provenance, np.array(names), cache.digests[rows],
            {"max": [np.array(cache.vectors("max")[rows])]},
        )  # fmt: skip
    (run / "other.h5").replace(run / "embeddings.h5")
    with pytest.raises(RunError, match="was trained on photos or relations that have changed"):
        head(SHORT, data, run)


def test_vectors_that_are_not_finite_are_refused(cached: Path) -> None:
    with EmbeddingCache.open(cached / "embeddings.h5") as cache:
        about, names = cache.provenance, np.array(cache.names)
    bad = VECTORS.copy()
    bad[3, 3] = np.nan
    digests = np.zeros((len(names), 32), np.uint8)
    write_cache(cached / "embeddings.h5", about, names, digests, {"native": [bad]})
    with pytest.raises(RunError, match=r"view native of 'train/.*' is not finite"):
        head(SHORT, cached, cached)


def test_settings_no_head_can_be_trained_with(cached: Path) -> None:
    for config, problem in (
        (replace(SHORT, epochs=0), "epochs: found 0"),
        (replace(SHORT, validation_fraction=1.0), "validation_fraction: found 1.0"),
        (replace(SHORT, positive_fraction=0.0), "0 of 10 pairs are kin"),
    ):
        with pytest.raises(KinembedError, match=problem):
            head(config, cached, cached)


# The estimator


@parametrize_with_checks([KinHeadClassifier(random_state=0)])
def test_scikit_learns_checks(estimator, check) -> None:
    check(estimator)


def test_the_estimator_cross_validates_by_families() -> None:
    rows, labels = PairSampler(FAMILIES, np.arange(60)).sample(1, 1500, np.random.default_rng(0))
    x, y = distances(VECTORS, rows[0]), labels[0]
    family = np.repeat(np.arange(20), 6)[rows[0][:, 0]]
    model = KinHeadClassifier(hidden=(16,), l2=1e-4, epochs=30, random_state=0)
    aucs = cross_val_score(model, x, y, groups=family, cv=GroupKFold(4), scoring="roc_auc")
    assert np.mean(aucs) > 0.8
    search = GridSearchCV(model, {"learning_rate": [1e-7, 1e-3]}, cv=GroupKFold(3))
    assert search.fit(x, y, groups=family).best_params_ == {"learning_rate": 1e-3}
    fitted = search.best_estimator_
    found = fitted.to_head("native", "m", ("F00/MID0",))
    assert np.allclose(score_pairs(found, VECTORS, rows[0]), fitted.predict_proba(x)[:, 1])
    assert found.held_out == ("F00/MID0",)


def test_the_estimators_head_has_the_features_it_was_fed() -> None:
    rows, labels = PairSampler(FAMILIES, np.arange(60)).sample(1, 300, np.random.default_rng(0))
    features = ("product", "abs")
    x = distances(VECTORS, rows[0], features)
    fitted = KinHeadClassifier(hidden=(6,), epochs=3, random_state=0).fit(x, labels[0])
    found = fitted.to_head("native", "m", features=features)
    assert (found.features, found.width) == (features, 12)
    assert np.allclose(score_pairs(found, VECTORS, rows[0]), fitted.predict_proba(x)[:, 1])
    assert fitted.to_head("native", "m").features == ("abs",)
    with pytest.raises(KinembedError, match="wanted one or more"):
        fitted.to_head("native", "m", features=("abs", "ratio"))
    odd = KinHeadClassifier(hidden=(), epochs=1, random_state=0).fit(x[:, :23], labels[0])
    with pytest.raises(KinembedError, match="X had 23 columns"):
        odd.to_head("native", "m", features=features)


def test_pairs_by_name_need_a_cache_that_has_them(cached: Path) -> None:
    found = load_head(head(SHORT, cached, cached))
    with EmbeddingCache.open(cached / "embeddings.h5") as cache:
        names = [(FAMILIES.photos[0], FAMILIES.photos[7])]
        one = score_pairs(found, cache, names)
        assert one == score_pairs(found, np.array(cache.vectors("native")), np.array([[0, 7]]))
        with pytest.raises(DataError, match="is not in"):
            score_pairs(found, cache, [("train/F00/MID0/P0.jpg", "nobody.jpg")])
        with pytest.raises(RunError, match="holds embeddings of model"):
            score_pairs(replace(found, model="other"), cache, names)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"folds": 1}, "folds: found 1, wanted 2 to 100"),
        ({"epochs": 0}, "epochs"),
        ({"recipe": "base", "epochs": 0}, "epochs: found 0"),
        ({"recipe": "base", "steps": 0}, "steps: found 0"),
        ({"recipe": "base", "batch_size": 0}, "batch_size: found 0"),
        ({"vectors": VECTORS[:, 0]}, r"vectors: found shape \(120,\)"),
        ({"vectors": VECTORS[:50]}, "vectors: found 50 rows, wanted 120 or more"),
        ({"vectors": np.full_like(VECTORS, np.nan)}, "vectors: row 0 is not finite"),
    ],
)
def test_what_no_head_can_be_trained_with_is_refused_before_training(
    changes: dict, problem: str
) -> None:
    arguments = {"vectors": VECTORS, "families": FAMILIES, "recipe": "metric", **changes}
    with pytest.raises(KinembedError, match=problem):
        train_head(**arguments)


def test_vectors_of_another_width_are_not_scored() -> None:
    trained = train_head(VECTORS, FAMILIES, "metric", epochs=1, steps=2)
    for wrong in (VECTORS[:, :1], VECTORS[:, 0], VECTORS[..., None]):
        with pytest.raises(DataError, match="wanted \\(photos, 12\\) for this head"):
            score_pairs(trained.head, wrong, np.array([[0, 1]]))
