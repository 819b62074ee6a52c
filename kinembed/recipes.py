"""What is learnt and how: the recipes by name, each with its own checks; `--set` and `--sweep`."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from kinembed.errors import KinembedError

Feature = Literal["abs", "square", "product", "sum"]  # |a - b|, (a - b)^2, a * b, a + b


@dataclass(frozen=True)
class PairRecipe:
    """How the siamese network learns: head, initialisation, loss and optimiser.

    Optimiser constants are those of Keras, under which the recipes were tuned.

    Attributes:
        hidden: widths of the dense relu layers between the features and the output.
        dropout: share of units dropped after each hidden layer.
        l2: factor of the sum of squared hidden kernels, a term of the loss.
        kernel_std: hidden kernels are drawn from N(0, kernel_std); Glorot uniform where None.
        bias_mean: all biases of the head are drawn from N(bias_mean, .01); zero where None.
        features: what two vectors are compared by, side by side in this order.
    """

    name: str
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    l2: float = 0.0
    kernel_std: float | None = None
    bias_mean: float | None = None
    loss: Literal["bce", "focal"] = "bce"
    optimizer: Literal["adam", "rmsprop"] = "adam"
    learning_rate: float = 1e-3
    features: tuple[Feature, ...] = ("abs",)


BASE = PairRecipe("base")


ADAM_LR = replace(BASE, name="adam-lr", learning_rate=1e-5)


DENSE = replace(ADAM_LR, name="dense", hidden=(100, 25), dropout=0.1)


RMSPROP = replace(DENSE, name="rmsprop", optimizer="rmsprop", learning_rate=1e-3)


FOCAL = replace(DENSE, name="focal", loss="focal")


REGULARIZED = replace(DENSE, name="regularized", l2=1e-3, kernel_std=0.01, bias_mean=0.5)


RECIPES = {recipe.name: recipe for recipe in (BASE, ADAM_LR, DENSE, RMSPROP, FOCAL, REGULARIZED)}


# Recipes for heads on cached vectors alone; the report has only those above.
MIX = replace(BASE, name="mix", hidden=(100, 25), dropout=0.3, l2=1e-4, features=("abs", "product"))


@dataclass(frozen=True)
class ContrastiveRecipe:
    """How a face network learns by contrast which photos are of kin: the best known here.

    A step takes kin pairs of as many families and holds all photos of a family against all of the
    others, by the cosine of their vectors. BatchNorm keeps its statistics. Epochs, or `--minutes`,
    are parted in rounds, each with one cycle of the rate (Smith and Topin,
    https://arxiv.org/abs/1708.07120); the mean of their weights is kept.

    Attributes:
        batch_pairs: kin pairs in a step, each of another family.
        contrast: the loss over the similarities of a step.
        temperature: cosines are divided by it.
        margin: as `networks.contrast.in_batch_loss` has it.
        cycle_steps: steps of a round, as nearly as a whole number of rounds allows.
        learning_rate: at the top of the cycle, of the last stage of the trunk.
        layer_decay: the rate of each stage as a share of that of the next.
        weight_decay: of AdamW.
        warmup_fraction: share of a round over which the rate rises.
        ema_decay: share of the running mean of the weights that each step leaves.
        augment: how far photos are changed at random.
    """

    name: str
    batch_pairs: int = 48
    contrast: Literal["supcon", "nt-xent", "triplet", "margin"] = "supcon"
    temperature: float = 0.1
    margin: float = 0.0
    cycle_steps: int = 300
    learning_rate: float = 3e-4
    layer_decay: float = 1.0
    weight_decay: float = 0.01
    warmup_fraction: float = 0.2
    ema_decay: float = 0.99
    augment: Literal["none", "light", "strong"] = "light"


KIN = ContrastiveRecipe("kin")


FINETUNE_RECIPES: dict[str, PairRecipe | ContrastiveRecipe] = {**RECIPES, KIN.name: KIN}


@dataclass(frozen=True)
class MetricRecipe:
    """How a head learns a metric from cached vectors: a projection, compared by one number.

    Attributes:
        embed_dim: numbers in a projection.
        hidden_dim: width of the relu layer beside the linear map; 0: none.
        similarity: of two projections.
        qe_k: photos that speak for a photo when pairs are scored; 0: it alone.
        members: projections that are averaged; with folds there is one for each fold.
        epochs: how often a member is judged by the people it held out.
        steps: batches in an epoch.
        batch_pairs: kin pairs in a batch, each of another family.
        photos_per_person: of each person in a batch; all photos of a pair are kin of each other.
        contrast: the loss over the similarities of a batch; with temperature, margin and smoothing
            as `networks.contrast.in_batch_loss` has them.
        noise: standard deviation of Gaussian noise, in standard deviations of each number.
        mixup: a vector is moved up to so far towards another of the same person.
        mixup_kin: share of the mixing that is with a photo of a relative instead.
        dropout: share of the relu layer's units that are dropped.
        view_dropout: chance that all of a view is dropped from a vector.
        learning_rate: at the top of its one cycle; weight_decay: of AdamW.
        warmup_fraction: share of the training over which the rate rises.
        ema_decay: share of the running mean of the weights that each step leaves.
    """

    name: str
    embed_dim: int = 256
    hidden_dim: int = 512
    similarity: Literal["cosine", "l2", "dot"] = "cosine"
    qe_k: int = 6
    members: int = 5
    epochs: int = 10
    steps: int = 30
    batch_pairs: int = 192
    photos_per_person: int = 1
    contrast: Literal["supcon", "nt-xent", "triplet", "margin"] = "supcon"
    temperature: float = 0.07
    margin: float = 0.0
    smoothing: float = 0.0
    noise: float = 0.8
    mixup: float = 0.0
    mixup_kin: float = 0.0
    dropout: float = 0.3
    view_dropout: float = 0.0
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_fraction: float = 0.2
    ema_decay: float = 0.99


METRIC = MetricRecipe("metric")


HEAD_RECIPES: dict[str, PairRecipe | MetricRecipe] = {**RECIPES, MIX.name: MIX, METRIC.name: METRIC}


# Kinds of heads, each by the recipe that learns it: the report's, and better ones.
KINDS = {
    **{"l1": "base", "l1-dense": "dense", "regularized": "regularized"},
    **{"mix": "mix", "metric": "metric"},
}


# The report's public and private Kaggle scores (ROC AUC), its figure 23, by backbone and recipe.
REPORTED = {
    ("resnet50", "base"): (0.499, 0.524),
    ("senet50", "base"): (0.541, 0.559),
    ("vgg16", "base"): (0.500, 0.500),
    ("resnet50", "adam-lr"): (0.722, 0.723),
    ("resnet50", "dense"): (0.726, 0.716),
    ("resnet50", "rmsprop"): (0.591, 0.618),
    ("resnet50", "focal"): (0.703, 0.691),
    ("resnet50", "regularized"): (0.745, 0.759),
}


# Keys of recipes by their former names, which `--set` and `--sweep` answer with the new ones.
RENAMED = {
    "average": "ema_decay",
    "cycle": "cycle_steps",
    "drop_views": "view_dropout",
    "mix": "mixup",
    "mix_kin": "mixup_kin",
    "neighbours": "qe_k",
    "pairs": "batch_pairs",
    "photos": "photos_per_person",
    "relu": "hidden_dim",
    "rise": "warmup_fraction",
    "stage_decay": "layer_decay",
    "width": "embed_dim",
}


Named = TypeVar("Named")


AnyRecipe = TypeVar("AnyRecipe", bound=PairRecipe | ContrastiveRecipe | MetricRecipe)


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "hidden": (lambda width: 1 <= width <= 65536, "1 to 65536"),
    "dropout": (lambda share: 0 <= share < 1, "0 or more, below 1"),
    "l2": (lambda factor: 0 <= factor < math.inf, "0 or more"),
    "kernel_std": (lambda std: 0 <= std < math.inf, "0 or more"),
    "bias_mean": (math.isfinite, "a finite number"),
    "learning_rate": (lambda rate: 0 < rate <= 1e30, "above 0, at most 1e30"),  # float32 holds it
    "batch_pairs": (lambda count: count >= 2, "2 or more"),
    "temperature": (lambda value: 0 < value < math.inf, "above 0"),
    "margin": (lambda value: 0 <= value < math.inf, "0 or more"),
    "cycle_steps": (lambda count: count >= 1, "1 or more"),
    "layer_decay": (lambda share: 0 < share <= 1, "above 0, at most 1"),
    "weight_decay": (lambda value: 0 <= value < math.inf, "0 or more"),
    "warmup_fraction": (lambda share: 0 < share < 1, "between 0 and 1"),
    "embed_dim": (lambda width: 1 <= width <= 65536, "1 to 65536"),
    "hidden_dim": (lambda width: 0 <= width <= 65536, "0 to 65536"),
    "qe_k": (lambda count: 0 <= count <= 1000, "0 to 1000"),
    "members": (lambda count: 1 <= count <= 100, "1 to 100"),
    "epochs": (lambda count: count >= 1, "1 or more"),
    "steps": (lambda count: count >= 1, "1 or more"),
    "photos_per_person": (lambda count: 1 <= count <= 100, "1 to 100"),
    "smoothing": (lambda share: 0 <= share < 1, "0 or more, below 1"),
    "noise": (lambda value: 0 <= value < math.inf, "0 or more"),
    "mixup": (lambda share: 0 <= share <= 1, "0 to 1"),
    "mixup_kin": (lambda share: 0 <= share <= 1, "0 to 1"),
    "view_dropout": (lambda share: 0 <= share < 1, "0 or more, below 1"),
    "ema_decay": (lambda share: 0 <= share < 1, "0 or more, below 1"),
}


def find_recipe(name: str) -> PairRecipe:
    """A recipe by its name.

    Raises:
        KinembedError: the name is unknown; lists those that are known.
    """
    return _named(RECIPES, name)


def find_head_recipe(name: str) -> PairRecipe | MetricRecipe:
    """A recipe for a head on cached vectors by its name.

    Raises:
        KinembedError: the name is unknown; lists those that are known.
    """
    return _named(HEAD_RECIPES, name)


def check_features(features: Sequence[object]) -> None:
    """Refuses what two vectors cannot be compared by.

    Raises:
        KinembedError: there are none, or one is unknown or comes twice; lists those that are known.
    """
    known = get_args(Feature)
    if not features or any(features.count(name) > 1 or name not in known for name in features):
        found = ",".join(map(str, features))
        raise KinembedError(
            f"features: found {found!r}, wanted one or more different ones of {', '.join(known)}"
        )


def find_finetune_recipe(name: str) -> PairRecipe | ContrastiveRecipe:
    """A recipe of `kinembed finetune` by its name.

    Raises:
        KinembedError: the name is unknown; lists those that are known.
    """
    return _named(FINETUNE_RECIPES, name)


def _named(recipes: Mapping[str, Named], name: str) -> Named:
    if name not in recipes:
        raise KinembedError(f"recipe {name!r} is unknown; known are {', '.join(recipes)}")
    return recipes[name]


def override(recipe: AnyRecipe, assignments: Iterable[str]) -> AnyRecipe:
    """A recipe with some of its values replaced.

    Args:
        recipe: what to start from.
        assignments: `key=value` each, as in `dropout=0.2`, `hidden=100,25`, `kernel_std=none`.

    Raises:
        KinembedError: a key is unknown or given twice, or a value is not what it takes.
    """
    kinds = get_type_hints(type(recipe))
    del kinds["name"]
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = (part.strip() for part in assignment.partition("="))
        if not equals:
            raise KinembedError(f"set {assignment!r}: wanted key=value, as in dropout=0.2")
        if RENAMED.get(key) in kinds:
            raise KinembedError(f"set {assignment!r}: {key} is called {RENAMED[key]} now")
        if key not in kinds:
            known = ", ".join(kinds)
            raise KinembedError(f"set {assignment!r}: {key!r} is unknown; known are {known}")
        if key in values:
            raise KinembedError(f"set {assignment!r}: {key} is set twice")
        values[key] = _parse(text, kinds[key], f"set {key}: found {text!r}")
        _check(key, values[key])
    return replace(recipe, **values)


def expand_sweep(recipe: AnyRecipe, sweep: Iterable[str], seed: int) -> list[tuple[AnyRecipe, int]]:
    """The recipes and seeds of all combinations of a sweep's values, the last key fastest.

    Args:
        recipe: what they start from.
        sweep: `key=value,value…` each, of a key of the recipe or of `seed`; values that hold a
            comma, as those of `hidden` and `features`, are parted by `;`.
        seed: where no other is named.

    Raises:
        KinembedError: a key is unknown or given twice, or a value is not what it takes.
    """
    members = [(recipe, seed)]
    seen = set()
    for text in sweep:
        key, equals, values = (part.strip() for part in text.partition("="))
        if not equals or not values:
            raise KinembedError(f"sweep {text!r}: wanted key=value,value, as in l2=0,0.001")
        if key in seen:
            raise KinembedError(f"sweep {text!r}: {key} is swept twice")
        seen.add(key)
        parts = values.split(";" if ";" in values or key in ("hidden", "features") else ",")
        if key == "seed":
            if not all(part.strip().isdigit() for part in parts):
                raise KinembedError(f"sweep {text!r}: wanted whole numbers")
            members = [(member, int(part)) for member, _ in members for part in parts]
        else:
            members = [
                (override(member, [f"{key}={part}"]), each)
                for member, each in members
                for part in parts
            ]
    return members


def _parse(text: str, kind: Any, found: str) -> Any:
    """Reads a value of the annotated `kind`; `found` opens the message where it is none."""
    if get_origin(kind) is tuple:
        parts = [] if text.lower() in ("", "none") else text.split(",")
        return tuple(_parse(part.strip(), get_args(kind)[0], found) for part in parts)
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise KinembedError(f"{found}, wanted {' or '.join(get_args(kind))}")
        return text
    if NoneType in get_args(kind):
        if text.lower() == "none":
            return None
        (kind,) = set(get_args(kind)) - {NoneType}
    try:
        return kind(text)
    except ValueError:
        wanted = {int: "a whole number", float: "a number"}[kind]
        raise KinembedError(f"{found}, wanted {wanted}") from None


def _check(key: str, value: Any) -> None:
    """Refuses values that no network can be built or trained with."""
    if key == "features":
        check_features(value)
    if key in _CHECKS and value is not None:
        is_right, wanted = _CHECKS[key]
        for number in value if isinstance(value, tuple) else (value,):
            if not is_right(number):
                raise KinembedError(f"set {key}: found {number}, wanted {wanted}")
