"""Pair heads: numpy against torch, symmetry, the file, initialisation, penalty and losses."""

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from strangers import Change, resealed, seal_of, with_seal_of_its_own

from kinembed.errors import KinembedError, RunError
from kinembed.heads.file import HeadRecord, load_head, save_head
from kinembed.heads.pair import PairHead, distances
from kinembed.recipes import FUSION, RECIPES, PairRecipe
from kinembed.training.head_modules import KinHead
from kinembed.training.keras_losses import LOSSES

WIDTH = 24
RECORD = asdict(HeadRecord())
SLOW_FEATURES = {
    "abs": lambda x, y: abs(x - y),
    "square": lambda x, y: (x - y) ** 2,
    "diff-squares": lambda x, y: (x**2 - y**2) ** 2,
    "product": lambda x, y: x * y,
    "sum": lambda x, y: x + y,
}
ONE_NUMBER = {
    "l2": lambda a, b: math.sqrt(max(math.fsum((x - y) ** 2 for x, y in zip(a, b)), 1e-7)),
    "cosine": lambda a, b: (
        math.fsum(x * y for x, y in zip(a, b))
        / (max(math.hypot(*a), 1e-12) * max(math.hypot(*b), 1e-12))
    ),
}
MIXES = [
    *((name,) for name in [*SLOW_FEATURES, *ONE_NUMBER]),
    ("cosine", "abs", "l2"),
    ("abs", "product"),
    ("product", "abs"),
    ("sum", "square", "product", "abs"),
    FUSION.features,
]
every_mix = pytest.mark.parametrize("features", MIXES, ids=",".join)
any_mix = st.lists(st.sampled_from([*SLOW_FEATURES, *ONE_NUMBER]), min_size=1, unique=True).map(
    tuple
)


def lively(recipe: PairRecipe, width: int = WIDTH, seed: int = 0) -> KinHead:
    """A head whose every unit counts: weights as after much training."""
    torch.manual_seed(seed)
    head = KinHead(width, recipe).eval()
    for layer in head.layers():
        torch.nn.init.normal_(layer.weight, 0, width**-0.5)
        torch.nn.init.normal_(layer.bias, 0, 0.5)
    return head


def vectors(count: int, width: int = WIDTH, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def slow_features(features: tuple[str, ...], a: np.ndarray, b: np.ndarray) -> list[float]:
    """Of one pair, one number at a time, in double precision."""
    a, b = a.astype(float).tolist(), b.astype(float).tolist()
    found = []
    for name in features:
        if name in ONE_NUMBER:
            found.append(ONE_NUMBER[name](a, b))
        else:
            found += [SLOW_FEATURES[name](x, y) for x, y in zip(a, b, strict=True)]
    return found


def widths(features: tuple[str, ...], width: int) -> int:
    return sum(1 if name in ONE_NUMBER else width for name in features)


def logits(head: PairHead, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Scores (N,) of vectors a and b, (N, width) each."""
    rows = np.arange(2 * len(a)).reshape(2, -1).T
    return head.score(np.concatenate([a, b]), rows)


def slow_logit(head: PairHead, a: np.ndarray, b: np.ndarray) -> float:
    """One pair, one unit at a time, in double precision."""
    units = slow_features(head.features, a, b)
    for number, (kernel, bias) in enumerate(zip(head.kernels, head.biases, strict=True)):
        units = [
            sum(unit * float(kernel[i, out]) for i, unit in enumerate(units)) + float(bias[out])
            for out in range(len(bias))
        ]
        if number < len(head.kernels) - 1:
            units = [max(unit, 0.0) for unit in units]
    return units[0]


# The forward


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_numpy_agrees_with_torch_and_with_a_slow_loop(recipe: PairRecipe) -> None:
    network = lively(recipe)
    a, b = vectors(50), vectors(50, seed=2)
    with torch.inference_mode():
        wanted = network(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    head = network.to_head("max", "model")
    result = logits(head, a, b)
    assert wanted.std() > 0.01
    assert np.abs(result - wanted).max() < 1e-6 * max(1, np.abs(wanted).max())
    slow = [slow_logit(head, *pair) for pair in zip(a, b, strict=True)]
    assert np.allclose(result, slow, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@given(
    pair=hnp.arrays(
        np.float32, (2, 5, 6), elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
    )
)
def test_heads_are_symmetric_to_the_bit(recipe: PairRecipe, pair: np.ndarray) -> None:
    network = lively(recipe, 6)
    head = network.to_head("max", "model")
    a, b = pair
    assert logits(head, a, b).tobytes() == logits(head, b, a).tobytes()
    with torch.inference_mode():
        one = network(torch.from_numpy(a), torch.from_numpy(b))
        other = network(torch.from_numpy(b), torch.from_numpy(a))
    assert one.numpy().tobytes() == other.numpy().tobytes()


@every_mix
def test_mixes_agree_with_torch_and_with_a_slow_loop(features: tuple[str, ...]) -> None:
    network = lively(replace(RECIPES["dense"], features=features))
    a, b = vectors(50), vectors(50, seed=2)
    with torch.inference_mode():
        wanted = network(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    head = network.to_head("max", "model")
    result = logits(head, a, b)
    assert (head.features, head.width) == (features, WIDTH)
    assert len(head.kernels[0]) == widths(features, WIDTH)
    assert wanted.std() > 0.01
    assert np.abs(result - wanted).max() < 3e-6 * max(1, np.abs(wanted).max())
    slow = [slow_logit(head, *pair) for pair in zip(a, b, strict=True)]
    assert np.allclose(result, slow, rtol=1e-5, atol=1e-5)
    rows = np.stack([np.arange(50), np.arange(50, 100)], 1)
    x = distances(np.concatenate([a, b]), rows, features)
    bound = 1e-6 if "diff-squares" not in features else 1e-7 * np.abs(x).max()
    assert np.allclose(head.score_features(x), result, rtol=1e-5, atol=bound)


@pytest.mark.parametrize("kind", [np.float32, np.float16])
@given(features=any_mix, data=st.data())
def test_features_are_those_of_a_slow_loop(
    kind: type, features: tuple[str, ...], data: st.DataObject
) -> None:
    numbers = st.floats(-6e4, 6e4, width=8 * np.dtype(kind).itemsize, allow_subnormal=False)
    known = data.draw(hnp.arrays(kind, (4, 5), elements=numbers))
    before = known.copy()
    pairs = data.draw(hnp.arrays(np.intp, (6, 2), elements=st.integers(0, 3)))
    result = distances(known, pairs, features)
    assert (result.shape, result.dtype) == ((6, widths(features, 5)), np.float32)
    wanted = [slow_features(features, known[i], known[j]) for i, j in pairs]
    summed = bool(set(ONE_NUMBER) & set(features))  # of terms that may cancel each other
    assert np.allclose(result, wanted, rtol=1e-6, atol=3e-6 if summed else 1e-37)
    assert result.tobytes() == distances(known, pairs[:, ::-1], features).tobytes()
    assert known.tobytes() == before.tobytes()
    if features == ("abs",):
        assert result.tobytes() == distances(known, pairs).tobytes()


@given(
    features=any_mix,
    pair=hnp.arrays(
        np.float32, (2, 5, 6), elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
    ),
)
def test_mixes_are_symmetric_to_the_bit(features: tuple[str, ...], pair: np.ndarray) -> None:
    network = lively(replace(RECIPES["dense"], features=features), 6)
    head = network.to_head("max", "model")
    a, b = pair
    assert logits(head, a, b).tobytes() == logits(head, b, a).tobytes()
    both = np.concatenate(pair)
    rows = np.stack([np.arange(5), np.arange(5, 10)], 1)
    swapped = np.concatenate([b, a])  # the same pairs, but with a where b was
    result = head.score(both, rows)
    assert result.tobytes() == head.score(both, rows[:, ::-1]).tobytes()
    assert result.tobytes() == head.score(swapped, rows).tobytes()
    with torch.inference_mode():
        one = network(torch.from_numpy(a), torch.from_numpy(b))
        other = network(torch.from_numpy(b), torch.from_numpy(a))
    assert one.numpy().tobytes() == other.numpy().tobytes()


@pytest.mark.parametrize("features", [(), ("abs", "abs"), ("ratio",), ("abs", "ratio"), "abs"])
def test_unknown_features_are_refused(features: tuple[str, ...]) -> None:
    known = "abs, square, diff-squares, product, sum"
    with pytest.raises(KinembedError, match=f"features: found '.*different ones of {known}"):
        distances(vectors(2), np.array([[0, 1]]), features)
    with pytest.raises(KinembedError, match=known):
        KinHead(WIDTH, replace(RECIPES["base"], features=features))


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 1300])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_probabilities_are_the_sigmoid_of_each_pair(count: int, kind: type) -> None:
    head = lively(RECIPES["dense"]).to_head("max", "model")
    known = vectors(40).astype(kind)
    pairs = np.random.default_rng(3).integers(40, size=(count, 2))
    result = head.probabilities(known, pairs)
    assert (result.shape, result.dtype) == ((count,), np.float64)
    for (i, j), probability in zip(pairs[:20], result, strict=False):
        logit = slow_logit(head, known[i], known[j])
        assert probability == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-6)
    wanted = logits(head, known[pairs[:, 0]].astype("f4"), known[pairs[:, 1]].astype("f4"))
    assert np.allclose(np.log(result / (1 - result)), wanted, atol=1e-5)
    assert np.array_equal(result, head.probabilities(known, pairs[:, ::-1]))


def test_probabilities_of_extreme_logits_are_next_to_0_and_1_without_a_warning() -> None:
    head = PairHead("max", "m", (np.float32([[1]]),), (np.float32([-1e6]),))
    known = np.float32([[0], [1e6], [2e6], [-2e6]])
    result = head.probabilities(known, np.array([[0, 0], [0, 1], [2, 3]]))
    assert result == pytest.approx([0, 0.5, 1], abs=1e-10)
    assert result[0] > 0 and result[2] < 1


def test_dropout_works_in_training_only() -> None:
    network = lively(RECIPES["dense"], 400)
    a, b = torch.from_numpy(vectors(8, 400)), torch.zeros(8, 400)
    with torch.inference_mode():
        assert torch.equal(network(a, b), network(a, b))
        network.train()
        assert not torch.equal(network(a, b), network(a, b))


# The file


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_head_comes_back_from_its_file(tmp_path: Path, recipe: PairRecipe) -> None:
    head = lively(recipe).to_head("avg", "0123abcd")
    result = load_head(save_head(head, tmp_path / "head.h5"))
    assert (result.view, result.model, result.width) == ("avg", "0123abcd", WIDTH)
    for kind in ("kernels", "biases"):
        one, other = getattr(head, kind), getattr(result, kind)
        assert len(one) == len(other) == len(recipe.hidden) + 1
        for mine, theirs in zip(one, other, strict=True):
            assert theirs.dtype == np.float32
            assert np.array_equal(mine, theirs)
    assert [path.name for path in tmp_path.iterdir()] == ["head.h5"]


@every_mix
def test_a_mix_comes_back_from_its_file(tmp_path: Path, features: tuple[str, ...]) -> None:
    head = lively(replace(RECIPES["dense"], features=features)).to_head("avg", "m")
    result = load_head(save_head(head, tmp_path / "head.h5"))
    assert (result.features, result.width, result.digest) == (features, WIDTH, head.digest)
    assert logits(result, vectors(3), vectors(3)).shape == (3,)


def with_settings(head: PairHead, path: Path, **changes: object) -> Path:
    """Saves a head with other settings in its file."""
    return resealed(
        save_head(head, path), "head", lambda _, about: about["settings"].update(changes)
    )


def test_heads_of_another_schema_or_kind_are_refused(tmp_path: Path) -> None:
    head = lively(RECIPES["dense"]).to_head("max", "m")
    for change, problem in (
        ({"schema": 3}, "schema 3, this version reads 6"),
        ({"schema": 6.0}, "schema 6.0, this version reads 6"),
        ({"schema": "6"}, "schema '6', this version reads 6"),
        ({"record": {**RECORD, "epoch_chosen_by": "me"}}, "epoch_chosen_by: found 'me', wanted"),
        ({"record": {**RECORD, "framings": [3]}}, "framings: found 3, wanted a text"),
        ({"record": {**RECORD, "recipe": 3}}, "recipe: found 3, wanted a text"),
        ({"record": {**RECORD, "auc": "high"}}, "auc: found 'high', wanted a number: 0 to 1"),
        ({"record": {**RECORD, "auc": 1.5}}, "auc: found 1.5, wanted 0 to 1"),
        ({"record": {**RECORD, "epoch": 2.5}}, "epoch: found 2.5, wanted a whole number"),
        ({"record": {**RECORD, "colour": "blue"}}, "found 'colour', which is none of its values"),
        ({"record": {}}, "auc is missing"),
        ({"record": 3}, "record: found 3, wanted values by their names"),
        ({"kind": "oracle"}, "kind 'oracle' is unknown; known are pair, ensemble, metric"),
        ({"kind": "base"}, "kind 'base' is unknown"),
        ({"kind": 7}, "kind: found 7, wanted a text"),
        ({"model": 7}, "model: found 7, wanted a text"),
        ({"folds": 10**10}, "folds: found 10000000000, wanted 0 to 1000"),
        ({"folds": 5.9}, "folds: found 5.9, wanted a whole number"),
        ({"folds": True}, "folds: found True, wanted a whole number"),
    ):
        path = resealed(
            save_head(head, tmp_path / "head.h5"),
            "head",
            lambda _, about, c=change: about.update(c),
        )
        with pytest.raises(RunError, match=f"{problem}.*run kinembed finetune, or kinembed head"):
            load_head(path)


@pytest.mark.parametrize(
    "features",
    [[], ["ratio"], ["abs", "ratio"], ["abs", "abs"], "abs", 3, [["abs"]], [None], True, [1, 2]],
)
def test_features_no_head_has_are_refused_in_one_line(tmp_path, features) -> None:
    head = lively(RECIPES["dense"]).to_head("max", "m")
    path = with_settings(head, tmp_path / "head.h5", features=features)
    with pytest.raises(RunError, match="run kinembed finetune, or kinembed head, again") as error:
        load_head(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_a_kernel_that_its_features_do_not_share_is_refused(tmp_path: Path) -> None:
    head = lively(RECIPES["base"], 7).to_head("max", "m")
    path = save_head(replace(head, features=("abs", "sum")), tmp_path / "head.h5")
    with pytest.raises(RunError, match="7 numbers in 2 features"):
        load_head(path)


def test_a_missing_head_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"head\.h5: no such file; run kinembed head"):
        load_head(tmp_path / "head.h5")


def without(name: str) -> Change:
    return lambda arrays, _: arrays.pop(name)


def instead(name: str, value: np.ndarray) -> Change:
    return lambda arrays, _: arrays.update({name: value})


def setting(**changes: object) -> Change:
    return lambda _, about: about["settings"].update(changes)


@pytest.mark.parametrize(
    "change",
    [
        without("kernels/1"),
        without("biases/0"),
        lambda _, about: about.clear(),
        lambda _, about: about.pop("settings"),
        lambda _, about: about.update(settings=[1]),
        setting(layers=3),
        setting(layers=1),
        setting(layers=0),
        setting(layers="two"),
        setting(layers=2.0),
        setting(layers=10**20),
        setting(view=7),
        setting(width=10**20),
        setting(more=1),
        instead("kernels/0", np.zeros((4, 2), np.float32)),
        instead("kernels/0", np.zeros((4, 3), np.int64)),
        instead("kernels/0", np.zeros(4, np.float32)),
        instead("kernels/0", np.array([b"text"])),
        instead("kernels/1", np.zeros((3, 2), np.float32)),
        instead("kernels/1", np.zeros(3, np.float32)),
        instead("biases/0", np.zeros(2, np.float32)),
        instead("biases/0", np.zeros(3, np.int64)),
        instead("biases/0", np.zeros(1, np.float32)),
        instead("biases/1", np.zeros((1, 1), np.float32)),
        instead("kernels/0", np.full((4, 3), np.nan, np.float32)),
        instead("held_out", np.array([b"\xff"])),
        instead("held_out", np.zeros(3, np.float32)),
    ],
)
def test_a_malformed_head_is_refused_in_one_line(tmp_path: Path, change: Change) -> None:
    path = tmp_path / "head.h5"
    kernels = np.zeros((4, 3), np.float32), np.zeros((3, 1), np.float32)
    biases = np.zeros(3, np.float32), np.zeros(1, np.float32)
    save_head(PairHead("max", "m", kernels, biases), path)
    load_head(path)
    resealed(path, "head", change)
    with pytest.raises(RunError) as error:
        load_head(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.__delitem__("kernels/1"),
        lambda file: file.__setitem__("more", h5py.ExternalLink("/etc/hostname", "/x")),
        lambda file: file.attrs.__setitem__("head", "{}"),
    ],
)
def test_a_head_that_hdf5_changed_is_refused_sealed_or_not(
    tmp_path: Path, spoil: Callable[[h5py.File], object]
) -> None:
    path = save_head(lively(RECIPES["dense"]).to_head("max", "m"), tmp_path / "head.h5")
    seal = seal_of(path)
    with h5py.File(path, "r+") as file:
        spoil(file)
    for seals in range(2):
        if seals:
            with_seal_of_its_own(path, seal)
        with pytest.raises(RunError, match="not a head"):
            load_head(path)


@pytest.mark.parametrize("content", [b"", b"not HDF5", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_a_file_that_is_not_hdf5_is_no_head(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "head.h5"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"head\.h5: not a head .*; run kinembed finetune, or"):
        load_head(path)


# Initialisation


def test_regularized_kernels_and_biases_are_initialised_as_in_the_report() -> None:
    torch.manual_seed(0)
    heads = [KinHead(2048, RECIPES["regularized"]) for _ in range(20)]
    for number, shape in enumerate([(100, 2048), (25, 100)]):
        kernels = torch.stack([head.layers()[number].weight.detach() for head in heads])
        assert kernels.shape[1:] == shape
        assert abs(float(kernels.mean())) < 2e-4
        assert float(kernels.std()) == pytest.approx(0.01, rel=0.02)
        assert float(kernels.abs().max()) > 0.035  # a normal distribution has tails
    biases = torch.cat([layer.bias.detach() for head in heads for layer in head.layers()])
    assert float(biases.mean()) == pytest.approx(0.5, abs=0.001)
    assert float(biases.std()) == pytest.approx(0.01, rel=0.1)
    outputs = torch.stack([head.output.bias.detach() for head in heads])
    assert float(outputs.min()) > 0.4 and float(outputs.max()) < 0.6 and outputs.std() > 0
    bound = (6 / (25 + 1)) ** 0.5
    output = torch.cat([head.output.weight.detach().ravel() for head in heads])
    assert 0.95 * bound < float(output.abs().max()) <= bound


@pytest.mark.parametrize("name", sorted(set(RECIPES) - {"regularized"}))
def test_other_recipes_start_as_keras_layers_do(name: str) -> None:
    torch.manual_seed(0)
    head = KinHead(512, RECIPES[name])
    assert [layer.out_features for layer in head.layers()] == [*RECIPES[name].hidden, 1]
    for layer in head.layers():
        bound = (6 / (layer.in_features + layer.out_features)) ** 0.5
        assert 0.8 * bound < float(layer.weight.detach().abs().max()) <= bound
        assert float(layer.weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.2)
        assert not layer.bias.detach().any()


# The loss


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_penalty_is_that_of_the_hidden_kernels(recipe: PairRecipe) -> None:
    head = lively(recipe)
    hidden = [layer.weight.detach().double().numpy().ravel() for layer in head.layers()[:-1]]
    wanted = recipe.l2 * sum(float(w) ** 2 for kernel in hidden for w in kernel)
    assert head.penalty().item() == pytest.approx(wanted, rel=1e-6)
    if recipe.name == "regularized":
        assert wanted > 0.01


def test_the_penalty_pulls_hidden_kernels_towards_zero_and_nothing_else() -> None:
    head = lively(replace(RECIPES["regularized"], l2=0.25))
    head.penalty().backward()
    for layer in head.layers()[:-1]:
        assert torch.allclose(layer.weight.grad, 0.5 * layer.weight)
        assert layer.bias.grad is None
    assert head.output.weight.grad is None or not head.output.weight.grad.any()


LOGITS = [-30.0, -3.0, -0.2, 0.0, 0.7, 4.0, 25.0]


def slow_loss(name: str, logit: float, label: int) -> float:
    logit = min(max(logit, math.log(1e-7)), math.log(2**23))  # Keras' clip of the probability
    p = 1 / (1 + math.exp(-logit))
    p_true = p if label else 1 / (1 + math.exp(logit))  # 1 - p without cancellation
    if name == "bce":
        return -math.log(p_true)
    alpha = 0.25 if label else 0.75
    missed = 1 / (1 + math.exp(logit)) if label else p
    return -alpha * missed**2 * math.log(p_true)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_agree_with_their_formula(name: str) -> None:
    for label in (0, 1):
        for logit in LOGITS:
            result = LOSSES[name](torch.tensor([logit]), torch.tensor([float(label)]))
            assert float(result) == pytest.approx(slow_loss(name, logit, label), rel=1e-4, abs=2e-7)
    labels = [0, 1, 1, 0, 0, 1, 0]
    result = LOSSES[name](torch.tensor(LOGITS), torch.tensor(labels, dtype=torch.float32))
    wanted = sum(slow_loss(name, *row) for row in zip(LOGITS, labels, strict=True)) / 7
    assert float(result) == pytest.approx(wanted, rel=1e-5)


def test_every_recipe_names_a_loss() -> None:
    assert {recipe.loss for recipe in RECIPES.values()} == set(LOSSES)


# Panels and threads


@pytest.mark.parametrize("width", [24, 128, 700, 1021, 1536])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_panels_and_threads_score_as_one_pair_at_a_time(width: int, kind: type) -> None:
    head = lively(RECIPES["dense"], width).to_head("max", "model")
    rows = vectors(60, width).astype(kind)
    pairs = np.random.default_rng(0).integers(0, 60, (1000, 2))
    wanted = logits(head, rows[pairs[:, 0]], rows[pairs[:, 1]])
    for threads in (1, 3, None):
        result = head.score(rows, pairs, threads)
        assert np.abs(result - wanted).max() < 1e-6 * max(1, np.abs(wanted).max())
    assert np.array_equal(head.score(rows, pairs[:, ::-1]), head.score(rows, pairs))


@every_mix
@pytest.mark.parametrize("width", [24, 700, 1536])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_mixes_score_in_panels_as_one_pair_at_a_time(
    features: tuple[str, ...], width: int, kind: type
) -> None:
    head = lively(replace(RECIPES["dense"], features=features), width).to_head("max", "m")
    rows = vectors(60, width).astype(kind)
    pairs = np.random.default_rng(0).integers(0, 60, (1000, 2))
    result = head.score(rows, pairs)
    wanted = logits(head, rows[pairs[:, 0]], rows[pairs[:, 1]])
    assert np.abs(result - wanted).max() < 3e-6 * max(1, np.abs(wanted).max())
    assert np.array_equal(head.score(rows, pairs[:, ::-1]), result)
    slow = [slow_logit(head, rows[i], rows[j]) for i, j in pairs[:2]]
    assert np.allclose(result[:2], slow, rtol=1e-4, atol=1e-4)


def test_many_pairs_go_through_threads_in_their_order(monkeypatch) -> None:
    monkeypatch.setattr("kinembed.heads.base.PAIRS_PER_THREAD", 100)
    head = lively(RECIPES["dense"]).to_head("max", "model")
    rows = vectors(60)
    pairs = np.random.default_rng(0).integers(0, 60, (1000, 2))
    wanted = logits(head, rows[pairs[:, 0]], rows[pairs[:, 1]])
    for threads in (2, 7):
        assert np.allclose(head.score(rows, pairs, threads), wanted, atol=1e-5)
    for bad in (-1, 60):
        with pytest.raises(IndexError, match="of 60"):
            head.score(rows, np.array([[0, bad]]), 2)


def test_a_digest_covers_all_fields_and_arrays(tmp_path: Path) -> None:
    head = lively(RECIPES["dense"]).to_head("max", "m", held_out=("F1/é",), trained=("F2/MID1",))
    again = load_head(save_head(head, tmp_path / "head.h5"))
    assert again.digest == head.digest
    assert (again.held_out, again.trained) == (head.held_out, head.trained)
    bent = (head.kernels[0] + 1, *head.kernels[1:])
    others = [
        replace(head, view="avg"),
        replace(head, model="n"),
        replace(head, held_out=()),
        replace(head, trained=("F3/MID1",)),
        replace(head, kernels=bent),
        replace(head, biases=(head.biases[0] + 1, *head.biases[1:])),
    ]
    others += [replace(head, features=mix) for mix in MIXES if mix != ("abs",)]
    assert len({head.digest, *(other.digest for other in others)}) == 1 + len(others)


def test_heads_of_one_number_say_how_wide_their_vectors_are(tmp_path: Path) -> None:
    head = lively(replace(RECIPES["base"], features=("l2", "cosine"))).to_head("max", "m")
    assert (head.width, head.vector_width, len(head.kernels[0])) == (WIDTH, WIDTH, 2)
    again = load_head(save_head(head, tmp_path / "head.h5"))
    assert (again.width, again.digest) == (WIDTH, head.digest)
    assert "width" not in lively(RECIPES["base"]).to_head("max", "m").settings()


def test_the_l2_distance_learns_from_photos_that_are_the_same() -> None:
    """The slope of a square root at 0 is infinite: Keras' epsilon stands in."""
    network = lively(replace(RECIPES["base"], features=("l2", "cosine")))
    a = torch.zeros(3, WIDTH, requires_grad=True)
    network(a, a.detach().clone()).sum().backward()
    assert a.grad is not None and bool(a.grad.isfinite().all())
