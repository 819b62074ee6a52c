"""One frozen dataclass per stage, and the report's training recipes by name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kinembed.recipes import (
    FINETUNE_RECIPES,
    RECIPES,
    ContrastiveRecipe,
    MetricRecipe,
    PairRecipe,
    find_finetune_recipe,
    find_head_recipe,
    override,
)

Precision = Literal["auto", "fp32", "bf16"]
Schedule = Literal["constant", "cosine", "plateau"]


@dataclass(frozen=True)
class FinetuneConfig:
    """Settings of `kinembed finetune`; the defaults are the report's protocol."""

    backbone: str = "resnet50"
    weights: str = "auto"
    recipe: str = "regularized"
    view: str = ""  # empty: max; for recipe kin the network's own where it has one
    epochs: int = 30
    steps: int = 100
    val_steps: int = 30
    batch_size: int = 32  # pairs
    positive_fraction: float = 0.6
    split: Literal["people", "families", ""] = ""  # empty: people; for recipe kin families
    split_seed: int | None = None  # who is drawn for validation; None: by `seed`
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

    def __post_init__(self) -> None:
        from kinembed.backbones import BACKBONES  # light, but not needed by most commands

        by_contrast = isinstance(FINETUNE_RECIPES.get(self.recipe), ContrastiveRecipe)
        if not self.view:
            views = BACKBONES[self.backbone].views if self.backbone in BACKBONES else {}
            own = by_contrast and "native" in views
            object.__setattr__(self, "view", "native" if own else "max")
        if not self.split:
            object.__setattr__(self, "split", "families" if by_contrast else "people")

    def full_recipe(self) -> PairRecipe | ContrastiveRecipe:
        """The recipe with its overrides.

        Raises:
            KinembedError: there is no such recipe, or a value is not what it takes.
        """
        return override(find_finetune_recipe(self.recipe), self.overrides)


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
    views: tuple[str, ...] | None = None  # None: max, and the network's own where it has one
    flip: bool = False  # test-time augmentation: each photo mirrored, too, as views VIEW-flip
    backbone: str | None = None  # None: the run's model.pt
    weights: str = "auto"
    device: str = "auto"
    precision: Precision = "auto"
    dtype: Literal["float32", "float16"] = "float32"
    batch_size: int = 16  # photos; larger batches leave the processor's cache and run slower
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
    """Settings of `kinembed head`; the default is the best that is known.

    For heads that compare pairs, `epochs` to `positive_fraction` are the report's protocol; a
    metric head has its own in its recipe.

    Attributes:
        view: of the cache, or several joined by `+`. None: of a metric head `native` and `max`,
            as far as it has them; of others `max`, or the only one.
        flip: a metric head looks at mirror images, too, where the cache has those of its views.
        folds: parts of the families, each of which one member of a metric head does not see; 0:
            one part is held out from all. None: 5 for a metric head on a network that was not
            fine-tuned, unless a split is asked for.
        split: None: that of the network that made the cache, else `families`.
        sweep: `key=value,value…` each: a head for each of their combinations.
    """

    recipe: str = "metric"
    overrides: tuple[str, ...] = ()  # values of the recipe, `key=value` each
    view: str | None = None
    flip: bool = True
    folds: int | None = None
    epochs: int = 30
    steps: int = 100
    val_steps: int = 30
    batch_size: int = 32  # pairs
    positive_fraction: float = 0.6
    split: Literal["people", "families"] | None = None
    validation_fraction: float | None = None  # None: that of the network, else .2
    patience: int | None = None  # epochs without a better validation AUC; None: never stop early
    sweep: tuple[str, ...] = ()
    caches: tuple[Path, ...] = ()  # stacked; none: embeddings.h5 in the run folder
    seed: int = 0

    def full_recipe(self) -> PairRecipe | MetricRecipe:
        """The recipe with its overrides.

        Raises:
            KinembedError: there is no such recipe, or a value is not what it takes.
        """
        return override(find_head_recipe(self.recipe), self.overrides)


@dataclass(frozen=True)
class CalibrateConfig:
    """Settings of `kinembed calibrate`."""

    target: str = "accuracy"  # or youden, or far=RATE
    map: Literal["none", "platt", "isotonic"] = "platt"
    prior: float | None = None  # share of kin pairs in the world; None: half, as in the pairs drawn
    pairs: int = 20_000  # half of them kin
    caches: tuple[Path, ...] = ()  # stacked; none: embeddings.h5 in the run folder
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
    caches: tuple[Path, ...] = ()  # stacked; none: embeddings.h5 in the run folder
    seed: int = 0


@dataclass(frozen=True)
class ScoreConfig:
    """Settings of `kinembed score`."""

    pairs: Path = Path("sample_submission.csv")
    out: Path | None = None  # None: submission.csv in the run folder
    raw: bool = False  # the head's own probabilities, even where there is a calibration
    chunk: int = 65_536  # pairs read, scored and written at a time
    threads: int | None = None  # None: as many as there are processors
    caches: tuple[Path, ...] = ()  # stacked; none: embeddings.h5 in the run folder
    people: Literal["mean", "max", "pooled"] | None = None  # pairs are of people, scored so
