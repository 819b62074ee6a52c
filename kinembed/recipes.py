"""What is learnt and how: the recipes by name, each with its own checks; `--set` and `--sweep`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from types import NoneType
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints

from kinembed import checked
from kinembed.checked import Bounds, Values, shown
from kinembed.errors import KinembedError, unknown_name

# Of vectors a and b: |a - b|, (a - b)^2, (a^2 - b^2)^2, a * b, a + b, number by number; and, one
# number of a pair, the length of a - b and the cosine of a and b.
Feature = Literal["abs", "square", "diff-squares", "product", "sum", "l2", "cosine"]
ONE_NUMBER = frozenset({"l2", "cosine"})
PairLoss = Literal["bce", "focal"]  # those of `training.keras_losses`
Reduction = Literal["mean", "sum"]  # of the pairs' losses in a batch
ContrastiveLoss = Literal["supcon", "nt-xent", "triplet", "margin"]  # `training.contrastive_losses`
ValidationPairs = Literal["same", "fresh"]  # after every epoch
KeptEpoch = Literal["best", "last"]  # by validation AUC, or of all
# Of photos: none, mirrored half the time, and those of `training.augment`.
Augmentation = Literal["none", "mirror", "light", "strong"]


MOST_LAYERS = 100  # of dense layers
MOST_NAME = 100  # letters of a recipe's name

Width = Annotated[int, Bounds(least=1, most=65_536)]
Count = Annotated[int, Bounds(least=1)]
BatchPairs = Annotated[int, Bounds(least=2)]
UpTo100 = Annotated[int, Bounds(least=1, most=100)]
Real = Annotated[float, Bounds()]
Factor = Annotated[float, Bounds(least=0)]
Positive = Annotated[float, Bounds(above=0)]
Share = Annotated[float, Bounds(least=0, below=1)]  # of what is dropped, kept or smoothed
WholeShare = Annotated[float, Bounds(least=0, most=1)]
Fraction = Annotated[float, Bounds(above=0, below=1)]
Rate = Annotated[float, Bounds(above=0, most=1e30)]  # float32 holds it


def feature_widths(features: Sequence[str], width: int) -> list[int]:
    """How many numbers each feature of two vectors of `width` numbers has."""
    return [1 if name in ONE_NUMBER else width for name in features]


def check_features(features: Sequence[object]) -> None:
    """Refuses what two vectors cannot be compared by.

    Raises:
        KinembedError: there are none, or one is unknown or comes twice; lists those that are known.
    """
    known = get_args(Feature)
    is_list = isinstance(features, list | tuple)
    listed = features if is_list else ()
    if not listed or any(listed.count(name) > 1 or name not in known for name in listed):
        found = shown(",".join(map(str, listed)) if is_list else features)
        raise KinembedError(
            f"features: found {found}, wanted one or more different ones of {', '.join(known)}"
        )


def _check(key: str, value: Any, annotation: Any) -> None:
    """Refuses a value outside the bounds or the choices that its annotation names."""
    if key == "features":
        check_features(value)
    elif get_origin(annotation) is Literal:
        if not isinstance(value, str) or value not in get_args(annotation):
            wanted = " or ".join(get_args(annotation))
            raise KinembedError(f"{key}: found {shown(value)}, wanted {wanted}")
    elif get_origin(annotation) is tuple:
        if not isinstance(value, tuple) or len(value) > MOST_LAYERS:
            raise KinembedError(f"{key}: found {shown(value)}, wanted at most {MOST_LAYERS} values")
        for part in value:
            _check(key, part, get_args(annotation)[0])
    elif get_origin(annotation) is Annotated:
        kind, bounds = get_args(annotation)
        try:
            (checked.whole if kind is int else checked.number)(key, value, bounds)
        except ValueError as error:
            raise KinembedError(str(error)) from None
    elif annotation is str:
        try:
            checked.text(key, value, MOST_NAME)
        except ValueError as error:
            raise KinembedError(str(error)) from None
    elif value is not None:
        for part in get_args(annotation):
            if part is not NoneType:
                _check(key, value, part)


@cache
def _annotations(kind: type) -> dict[str, Any]:
    """The annotations of a recipe's fields: evaluated once, not for each recipe there is."""
    return get_type_hints(kind, include_extras=True)


@dataclass(frozen=True)
class Recipe:
    """What all recipes share: a name, a kind, and values that are checked as it is made.

    Attributes:
        kind: the entry of `RECIPE_KINDS`, as files have it.
        is_contrastive: a network learns which photos are of kin, not which pairs; its own vectors
            are then compared as they are.
        kept_epoch: which epoch of a fine-tuned network is kept, unless another is asked for.
        takes_folds: a head has several members, each of which may hold out another fold, and takes
            several views of a photo.
    """

    kind: ClassVar[str]
    is_contrastive: ClassVar[bool] = False
    kept_epoch: ClassVar[KeptEpoch] = "best"
    takes_folds: ClassVar[bool] = False

    name: str

    def __post_init__(self) -> None:
        """Refuses values that nothing can be built or trained with.

        Raises:
            KinembedError: naming the key.
        """
        annotations = _annotations(type(self))  # type: ignore[arg-type]
        for field in fields(self):
            _check(field.name, getattr(self, field.name), annotations[field.name])

    def as_record(self) -> dict[str, Any]:
        """Kind and values, for `model.pt` and `config.json`; `read_recipe` reads it."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class PairRecipe(Recipe):
    """How the siamese network learns: head, initialisation, loss and optimiser.

    Optimiser constants are those of Keras, under which the recipes were tuned.

    Attributes:
        hidden: widths of the dense relu layers between the features and the output.
        dropout: share of units dropped after each hidden layer.
        l2: factor of the sum of squared hidden kernels, a term of the loss.
        kernel_std: hidden kernels are drawn from N(0, kernel_std); Glorot uniform where None.
        bias_mean: all biases of the head are drawn from N(bias_mean, .01); zero where None.
        loss: of a pair: binary cross-entropy or focal loss.
        gamma: power of the focal loss: how little pairs count that are right already.
        alpha: share of kin pairs in the focal loss; that of others is 1 - alpha.
        reduction: of the pairs' losses in a batch.
        optimizer: with the constants of Keras.
        learning_rate: of the optimizer.
        features: what compares two vectors, concatenated in this order: the absolute difference,
            its square, the square of the difference of the squares (`diff-squares`), the product,
            the sum, and one number of a pair: the length of the difference, the cosine.
        validation: the same pairs after every epoch, or fresh ones, as in the report, which
            explains by them why its validation curves oscillate.
        members: of a head from the cache: heads from as many seeds, whose logits are averaged.
    """

    kind = "pair"
    kept_epoch = "last"  # the report submits what a training ends with
    expand: ClassVar[Literal["auto", "exact", "off"]] = "off"

    hidden: tuple[Width, ...] = ()
    dropout: Share = 0.0
    l2: Factor = 0.0
    kernel_std: Factor | None = None
    bias_mean: Real | None = None
    loss: PairLoss = "bce"
    gamma: Factor = 2.0
    alpha: Fraction = 0.25
    reduction: Reduction = "mean"
    optimizer: Literal["adam", "rmsprop"] = "adam"
    learning_rate: Rate = 1e-3
    features: tuple[Feature, ...] = ("abs",)
    validation: ValidationPairs = "same"
    members: UpTo100 = 1

    def __post_init__(self) -> None:
        """Refuses values that nothing can be trained with, and those that change nothing.

        Raises:
            KinembedError: naming the key.
        """
        super().__post_init__()
        defaults = {field.name: field.default for field in fields(PairRecipe)}
        for key in ("gamma", "alpha"):
            if self.loss != "focal" and getattr(self, key) != defaults[key]:
                raise KinembedError(f"{key}: is of the focal loss; wanted loss=focal with it")


BASE = PairRecipe("base")


ADAM_LR = replace(BASE, name="adam-lr", learning_rate=1e-5)


DENSE = replace(ADAM_LR, name="dense", hidden=(100, 25), dropout=0.1)


RMSPROP = replace(DENSE, name="rmsprop", optimizer="rmsprop", learning_rate=1e-3)


# The report, of 2019, takes the loss of https://github.com/umbertogriffo/focal-loss-keras, which
# summed over the batch until February 2020 and takes the mean since. So the report's figure 19
# begins "at very high values".
FOCAL = replace(DENSE, name="focal", loss="focal", reduction="sum")


REGULARIZED = replace(DENSE, name="regularized", l2=1e-3, kernel_std=0.01, bias_mean=0.5)


RECIPES = {recipe.name: recipe for recipe in (BASE, ADAM_LR, DENSE, RMSPROP, FOCAL, REGULARIZED)}


# The pair network of the competition's fourth and sixth place, on view max+avg:
# https://www.kaggle.com/c/recognizing-faces-in-the-wild/discussion/104288. Theirs takes a^2 - b^2;
# here it is squared, so that a pair scores the same in either order.
FUSION = replace(
    ADAM_LR,
    name="fusion",
    hidden=(100,),
    dropout=0.01,
    features=("square", "diff-squares", "product"),
)


# Views that recipes compare, where that is another than `max`.
USUAL_VIEWS = {FUSION.name: "max+avg"}


# Recipes for heads on cached vectors alone; the report has only those above.
MIX = replace(BASE, name="mix", hidden=(100, 25), dropout=0.3, l2=1e-4, features=("abs", "product"))


@dataclass(frozen=True)
class ContrastiveRecipe(Recipe):
    """How a face network learns kinship by a contrastive loss.

    A step takes kin pairs of as many families and compares each photo of a family with all photos
    of the others, by the cosine of their vectors. BatchNorm keeps its statistics. The training, by
    epochs or `--minutes`, is divided into cycles, each with one cycle of the learning rate (Smith
    and Topin, https://arxiv.org/abs/1708.07120); the mean of their weights is kept (Izmailov et
    al., stochastic weight averaging, https://arxiv.org/abs/1803.05407).

    Attributes:
        batch_pairs: kin pairs in a step, each of another family.
        contrast: the loss over the similarities of a step.
        temperature: cosines are divided by it.
        margin: by how much kin must be more similar than others.
        cycle_steps: steps of a cycle, as nearly as a whole number of cycles allows.
        learning_rate: at the top of the cycle, of the last stage of the trunk.
        layer_decay: the rate of each stage as a share of that of the next.
        weight_decay: of AdamW.
        warmup_fraction: share of a cycle over which the rate rises.
        ema_decay: share of the exponential moving average of the weights that a step keeps.
        augment: how far photos are changed at random. With `none` and `mirror`, frozen stages run
            once for each photo, as far as there is memory for what they give.
    """

    kind = "contrastive"
    is_contrastive = True

    batch_pairs: BatchPairs = 48
    contrast: ContrastiveLoss = "supcon"
    temperature: Positive = 0.1
    margin: Factor = 0.0
    cycle_steps: Count = 300
    learning_rate: Rate = 3e-4
    layer_decay: Annotated[float, Bounds(above=0, most=1)] = 1.0
    weight_decay: Factor = 0.01
    warmup_fraction: Fraction = 0.2
    ema_decay: Share = 0.99
    augment: Augmentation = "light"


KIN = ContrastiveRecipe("kin")


FinetuneRecipe = PairRecipe | ContrastiveRecipe
FINETUNE_RECIPES: dict[str, FinetuneRecipe] = {**RECIPES, FUSION.name: FUSION, KIN.name: KIN}


@dataclass(frozen=True)
class MetricRecipe(Recipe):
    """How a head learns a metric from cached vectors: projections, and a similarity of two.

    Attributes:
        embed_dim: numbers in a projection.
        hidden_dim: width of the relu layer beside the linear map; 0: none.
        similarity: of two projections.
        expand: query expansion: `auto` by other photos that are likely of the same person; `exact`
            compares all pairs of more than 50,000 photos, too; `off`.
        score_norm: `auto` counts a cosine from how near strangers come to both photos; `off`.
        members: projections that are averaged; with folds there is one for each fold.
        epochs: how often a member is validated on the people it held out.
        steps: batches in an epoch.
        batch_pairs: kin pairs in a batch, each of another family.
        photos_per_person: in a batch; all photos of a pair are kin of each other.
        contrast: the loss over the similarities of a batch.
        temperature: similarities are divided by it.
        margin: by how much kin must be more similar than others.
        smoothing: share of the label of `supcon` that goes to all others alike.
        noise: standard deviation of Gaussian noise, in standard deviations of each number.
        mixup: how far, at most, a vector moves towards another of the same person.
        mixup_kin: share of mixup that is with a photo of a relative instead.
        dropout: share of the relu layer's units that are dropped.
        view_dropout: probability that all of a view is dropped from a vector.
        learning_rate: at the top of its one cycle.
        weight_decay: of AdamW.
        warmup_fraction: share of the training over which the rate rises.
        ema_decay: share of the exponential moving average of the weights that a step keeps.
    """

    kind = "metric"
    takes_folds = True

    embed_dim: Width = 256
    hidden_dim: Annotated[int, Bounds(least=0, most=65_536)] = 512
    similarity: Literal["cosine", "l2", "dot"] = "cosine"
    expand: Literal["auto", "exact", "off"] = "auto"
    score_norm: Literal["auto", "exact", "off"] = "auto"
    members: UpTo100 = 5
    epochs: Count = 10
    steps: Count = 30
    batch_pairs: BatchPairs = 192
    photos_per_person: UpTo100 = 1
    contrast: ContrastiveLoss = "supcon"
    temperature: Positive = 0.07
    margin: Factor = 0.0
    smoothing: Share = 0.0
    noise: Factor = 0.8
    mixup: WholeShare = 0.0
    mixup_kin: WholeShare = 0.0
    dropout: Share = 0.3
    view_dropout: Share = 0.0
    learning_rate: Rate = 1e-3
    weight_decay: Factor = 0.01
    warmup_fraction: Fraction = 0.2
    ema_decay: Share = 0.99

    @property
    def is_normed(self) -> bool:
        """Whether scores are normalised: those of cosines are, unless it is off."""
        return self.score_norm == "auto" and self.similarity == "cosine"


METRIC = MetricRecipe("metric")


HeadRecipe = PairRecipe | MetricRecipe
HEAD_RECIPES: dict[str, HeadRecipe] = {
    **RECIPES,
    **{each.name: each for each in (FUSION, MIX, METRIC)},
}


# Kinds of heads by the recipe that each is trained with: the report's, and better ones.
HEAD_KINDS = {
    **{"l1": "base", "l1-dense": "dense", "regularized": "regularized"},
    **{"mix": "mix", "metric": "metric"},
}


# Kinds of recipes, by the name that files have.
RECIPE_KINDS: dict[str, type[Recipe]] = {
    each.kind: each for each in (PairRecipe, ContrastiveRecipe, MetricRecipe)
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
    "neighbours": "expand",
    "pairs": "batch_pairs",
    "photos": "photos_per_person",
    "qe_k": "expand",
    "relu": "hidden_dim",
    "rise": "warmup_fraction",
    "stage_decay": "layer_decay",
    "width": "embed_dim",
}


Named = TypeVar("Named")


AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)


def find_recipe(name: str) -> PairRecipe:
    """A recipe by its name.

    Raises:
        KinembedError: the name is unknown; lists those that are known.
    """
    return _named(RECIPES, name)


def find_head_recipe(name: str) -> HeadRecipe:
    """A recipe for a head on cached vectors by its name.

    Raises:
        KinembedError: the name is unknown; lists those that are known.
    """
    return _named(HEAD_RECIPES, name)


def find_finetune_recipe(name: str) -> FinetuneRecipe:
    """A recipe of `kinembed finetune` by its name.

    Raises:
        KinembedError: the name is unknown; lists those that are known.
    """
    return _named(FINETUNE_RECIPES, name)


def _named(recipes: Mapping[str, Named], name: str) -> Named:
    if name not in recipes:
        raise unknown_name("recipe", name, recipes)
    return recipes[name]


def read_recipe(record: Mapping[str, Any]) -> Recipe:
    """A recipe from what `Recipe.as_record` made, of any kind.

    Raises:
        KinembedError: it is no such record, the kind is unknown, or a value is not what it takes.
    """
    try:
        kind = Values(record).choice("kind", list(RECIPE_KINDS))
        names = [field.name for field in fields(RECIPE_KINDS[kind])]
        Values(record).only(["kind", *names])
        for name in names:
            Values(record).get(name)
    except ValueError as error:
        raise KinembedError(f"recipe: {error}") from None
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in record.items()
    }
    del values["kind"]
    return RECIPE_KINDS[kind](**values)


def override(recipe: AnyRecipe, assignments: Iterable[str]) -> AnyRecipe:
    """A recipe with some of its values replaced.

    Args:
        recipe: what to start from.
        assignments: `key=value` each, as in `dropout=0.2`, `hidden=100,25`, `kernel_std=none`.

    Raises:
        KinembedError: a key is unknown or given twice, or a value is not what it takes.
    """
    hints = get_type_hints(type(recipe))
    kinds = {field.name: hints[field.name] for field in fields(recipe) if field.name != "name"}
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = (part.strip() for part in assignment.partition("="))
        if not equals:
            raise KinembedError(f"set {assignment!r}: wanted key=value, as in dropout=0.2")
        if RENAMED.get(key) in kinds:
            raise KinembedError(f"set {assignment!r}: {key} is called {RENAMED[key]} now")
        if key not in kinds:
            raise unknown_name(f"set {assignment!r}:", key, kinds)
        if key in values:
            raise KinembedError(f"set {assignment!r}: {key} is set twice")
        values[key] = _parse(text, kinds[key], f"{key}: found {text!r}")
    return replace(recipe, **values)


def changed_settings(recipe: Recipe, base: Recipe | None = None) -> str:
    """The values of a recipe that differ from those of its name, or of `base`: `key=value;…`."""
    named: dict[str, Recipe] = {**FINETUNE_RECIPES, **HEAD_RECIPES}
    usual = asdict(named[recipe.name] if base is None else base)
    changed = {
        key: value for key, value in asdict(recipe).items() if key != "name" and value != usual[key]
    }
    return ";".join(f"{key}={as_set(value)}" for key, value in changed.items())


def as_set(value: object) -> str:
    """A value of a recipe as `--set` takes it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


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
