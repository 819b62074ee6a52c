"""One frozen dataclass per stage, and the report's training recipes by name."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from kinembed.errors import KinembedError

Precision = Literal["auto", "fp32", "bf16"]
Schedule = Literal["constant", "cosine", "plateau"]


@dataclass(frozen=True)
class Recipe:
    """How the siamese network learns: head, initialisation, loss and optimiser.

    Optimiser constants are those of Keras, under which the recipes were tuned.

    Attributes:
        hidden: widths of the dense relu layers between |a - b| and the output.
        dropout: share of units dropped after each hidden layer.
        l2: factor of the sum of squared hidden kernels, a term of the loss.
        kernel_std: hidden kernels are drawn from N(0, kernel_std); Glorot uniform where None.
        bias_mean: all biases of the head are drawn from N(bias_mean, .01); zero where None.
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


BASE = Recipe("base")
ADAM_LR = replace(BASE, name="adam-lr", learning_rate=1e-5)
DENSE = replace(ADAM_LR, name="dense", hidden=(100, 25), dropout=0.1)
RMSPROP = replace(DENSE, name="rmsprop", optimizer="rmsprop", learning_rate=1e-3)
FOCAL = replace(DENSE, name="focal", loss="focal")
REGULARIZED = replace(DENSE, name="regularized", l2=1e-3, kernel_std=0.01, bias_mean=0.5)
RECIPES = {recipe.name: recipe for recipe in (BASE, ADAM_LR, DENSE, RMSPROP, FOCAL, REGULARIZED)}

# The report's heads, each by the recipe that learns it.
KINDS = {"l1": "base", "l1-dense": "dense", "regularized": "regularized"}

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

_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "hidden": (lambda width: 1 <= width <= 65536, "1 to 65536"),
    "dropout": (lambda share: 0 <= share < 1, "0 or more, below 1"),
    "l2": (lambda factor: 0 <= factor < math.inf, "0 or more"),
    "kernel_std": (lambda std: 0 <= std < math.inf, "0 or more"),
    "bias_mean": (math.isfinite, "a finite number"),
    "learning_rate": (lambda rate: 0 < rate <= 1e30, "above 0, at most 1e30"),  # float32 holds it
}


def find_recipe(name: str) -> Recipe:
    """A recipe by its name.

    Raises:
        KinembedError: the name is unknown; lists those that are known.
    """
    if name not in RECIPES:
        raise KinembedError(f"recipe {name!r} is unknown; known are {', '.join(RECIPES)}")
    return RECIPES[name]


def override(recipe: Recipe, assignments: Iterable[str]) -> Recipe:
    """A recipe with some of its values replaced.

    Args:
        recipe: what to start from.
        assignments: `key=value` each, as in `dropout=0.2`, `hidden=100,25`, `kernel_std=none`.

    Raises:
        KinembedError: a key is unknown or given twice, or a value is not what it takes.
    """
    kinds = get_type_hints(Recipe)
    del kinds["name"]
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = (part.strip() for part in assignment.partition("="))
        if not equals:
            raise KinembedError(f"set {assignment!r}: wanted key=value, as in dropout=0.2")
        if key not in kinds:
            known = ", ".join(kinds)
            raise KinembedError(f"set {assignment!r}: {key!r} is unknown; known are {known}")
        if key in values:
            raise KinembedError(f"set {assignment!r}: {key} is set twice")
        values[key] = _parse(text, kinds[key], f"set {key}: found {text!r}")
        _check(key, values[key])
    return replace(recipe, **values)


def expand_sweep(recipe: Recipe, sweep: Iterable[str], seed: int) -> list[tuple[Recipe, int]]:
    """The recipes and seeds of all combinations of a sweep's values, the last key fastest.

    Args:
        recipe: what they start from.
        sweep: `key=value,value…` each, of a key of the recipe or of `seed`; values that hold a
            comma, as those of `hidden`, are parted by `;`.
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
        parts = values.split(";" if ";" in values or key == "hidden" else ",")
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
    """Refuses numbers that no network can be built or trained with."""
    if key in _CHECKS and value is not None:
        is_right, wanted = _CHECKS[key]
        for number in value if isinstance(value, tuple) else (value,):
            if not is_right(number):
                raise KinembedError(f"set {key}: found {number}, wanted {wanted}")


@dataclass(frozen=True)
class FinetuneConfig:
    """Settings of `kinembed finetune`; the defaults are the report's protocol."""

    backbone: str = "resnet50"
    weights: str = "auto"
    recipe: str = "regularized"
    view: str = "max"
    epochs: int = 30
    steps: int = 100
    val_steps: int = 30
    batch_size: int = 32  # pairs
    positive_fraction: float = 0.6
    split: Literal["people", "families"] = "people"
    validation_fraction: float = 0.2
    patience: int | None = None  # epochs without a better validation AUC; None: never stop early
    device: str = "auto"
    precision: Precision = "auto"
    skip_unreadable: bool = False
    seed: int = 0
    overrides: tuple[str, ...] = ()  # values of the recipe, `key=value` each
    minutes: float | None = None  # no epoch begins once the epochs took so long
    schedule: Schedule = "constant"  # of the learning rate, from the recipe's down
    warmup: int = 0  # steps over which the learning rate rises to the recipe's
    freeze_stages: int = 0  # the trunk's first stages, which do not learn
    freeze_epochs: int | None = None  # for so many epochs; None: all
    accumulate: int = 1  # parts in which a batch goes through the network
    save_memory: bool = False  # gradient checkpointing
    compile: bool = False  # torch.compile

    def full_recipe(self) -> Recipe:
        """The recipe with its overrides.

        Raises:
            KinembedError: there is no such recipe, or a value is not what it takes.
        """
        return override(find_recipe(self.recipe), self.overrides)


@dataclass(frozen=True)
class ExperimentsConfig:
    """Settings of `kinembed experiments`: every recipe on every backbone by every split.

    Attributes:
        training: what all experiments share; its backbone, recipe and split are not read.
    """

    recipes: tuple[str, ...] = tuple(RECIPES)
    backbones: tuple[str, ...] = (FinetuneConfig.backbone,)
    splits: tuple[str, ...] = ("people", "families")
    training: FinetuneConfig = FinetuneConfig()


@dataclass(frozen=True)
class EmbedConfig:
    """Settings of `kinembed embed`."""

    photos: tuple[str, ...] = ("train", "test")  # folders below the data folder, or any folder
    views: tuple[str, ...] = ("max",)
    backbone: str | None = None  # None: the run's model.pt
    weights: str = "auto"
    device: str = "auto"
    precision: Precision = "auto"
    dtype: Literal["float32", "float16"] = "float32"
    batch_size: int = 32  # photos; larger batches leave the processor's cache and run slower
    skip_unreadable: bool = False
    restart: bool = False  # forget an interrupted embedding with other settings
    rehash: bool = False  # trust no photo's size and time of change
    onnx: Path | None = None  # an ONNX file in place of a backbone; the rest describes its input
    side: int = 112
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    scale: tuple[float, float, float] = (128.0, 128.0, 128.0)
    order: Literal["rgb", "bgr"] = "rgb"


@dataclass(frozen=True)
class HeadConfig:
    """Settings of `kinembed head`; the defaults are the report's protocol.

    Attributes:
        view: of the cache; None: `max` where it has it, else the only one.
        split: None: that of the network that made the cache, else `families`.
        sweep: `key=value,value…` each: a head for each of their combinations.
    """

    recipe: str = "regularized"
    overrides: tuple[str, ...] = ()  # values of the recipe, `key=value` each
    view: str | None = None
    epochs: int = 30
    steps: int = 100
    val_steps: int = 30
    batch_size: int = 32  # pairs
    positive_fraction: float = 0.6
    split: Literal["people", "families"] | None = None
    validation_fraction: float | None = None  # None: that of the network, else .2
    patience: int | None = None  # epochs without a better validation AUC; None: never stop early
    sweep: tuple[str, ...] = ()
    seed: int = 0

    def full_recipe(self) -> Recipe:
        """The recipe with its overrides.

        Raises:
            KinembedError: there is no such recipe, or a value is not what it takes.
        """
        return override(find_recipe(self.recipe), self.overrides)


@dataclass(frozen=True)
class CalibrateConfig:
    """Settings of `kinembed calibrate`."""

    target: str = "accuracy"  # or youden, or far=RATE
    map: Literal["none", "platt", "isotonic"] = "platt"
    prior: float | None = None  # share of kin pairs in the world; None: half, as in the pairs drawn
    pairs: int = 20_000  # half of them kin
    seed: int = 0


@dataclass(frozen=True)
class EvaluateConfig:
    """Settings of `kinembed evaluate`."""

    pairs: Path | None = None  # a CSV or what the protocol reads; None: of the people held out
    protocol: Literal["kinfacew", "rfiw"] | None = None
    head: Path | None = None  # None: head.h5 in the run folder
    calibration: Path | None = None  # None: calibration.json in the run folder, if there is one
    count: int = 20_000  # pairs drawn among the people held out
    pictures: bool = True  # of the most wrong pairs, where the photos are at hand
    seed: int = 0


@dataclass(frozen=True)
class ScoreConfig:
    """Settings of `kinembed score`."""

    pairs: Path = Path("sample_submission.csv")
    out: Path | None = None  # None: submission.csv in the run folder
    raw: bool = False  # the head's own probabilities, even where there is a calibration
    chunk: int = 65_536  # pairs read, scored and written at a time
    threads: int | None = None  # None: as many as there are processors
    people: Literal["mean", "max", "pooled"] | None = None  # pairs are of people, scored so
