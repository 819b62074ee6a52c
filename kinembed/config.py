"""One frozen dataclass per stage: settings with their defaults, meanings and checks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from kinembed.data.layouts import Layout
from kinembed.errors import KinembedError
from kinembed.recipes import (
    BASE,
    FINETUNE_RECIPES,
    HEAD_KINDS,
    METRIC,
    RECIPES,
    REPORTED,
    USUAL_VIEWS,
    FinetuneRecipe,
    HeadRecipe,
    KeptEpoch,
    find_finetune_recipe,
    find_head_recipe,
    override,
)
from kinembed.views import parts_of

Precision = Literal["auto", "fp32", "bf16"]
Dtype = Literal["float32", "float16", "int8"]  # of a cache; int8: bytes, and a scale a photo
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
Schedule = Literal["constant", "cosine", "plateau"]
SplitUnit = Literal["people", "families"]

# The report's protocol of heads that compare pairs.
PAIR_EPOCHS = 30
PAIR_STEPS = 100  # in an epoch

MOST_FOLDS = 1000


# Settings of recipes that compare pairs, and what a contrastive one has instead.
_OF_PAIRS = {
    "batch_size": "wanted --set batch_pairs=N",
    "schedule": "it has cycles of its own, see --set cycle_steps=N",
    "warmup": "wanted --set warmup_fraction=F",
    "accumulate": "it compares all photos of a step; less memory takes --set batch_pairs=N",
    "save_memory": "less memory takes --set batch_pairs=N",
    "compile": "leave it out",
    "sync_batchnorm": "its BatchNorm keeps its statistics; leave it out",
}


@dataclass(frozen=True)
class FinetuneConfig:
    """Settings of `kinembed finetune`; the defaults are the report's protocol."""

    backbone: str = "resnet50"
    weights: str = "auto"
    recipe: str = "regularized"
    # empty: max; for recipe fusion max+avg, for recipe kin the network's own where it has one
    view: str = ""
    epochs: int = PAIR_EPOCHS
    steps: int = PAIR_STEPS  # batches in an epoch
    val_steps: int = 30
    batch_size: int = 32  # pairs
    positive_fraction: float = 0.6
    exclude_family: bool = False  # no non-kin pair of one family, whose relatives may be unlisted
    split: Literal["people", "families", ""] = ""  # empty: people; for recipe kin families
    split_seed: int | None = None  # who is drawn for validation; None: by `seed`
    validation_fraction: float = 0.2
    folds: int | None = None  # networks, each of which holds out another fold of the families
    fold: int | None = None  # which of them alone, the first being 1; None: all in turn
    test_fraction: float = 0.0  # of a third part, which judges alone; 0: the validation part does
    keep: KeptEpoch | Literal[""] = ""  # empty: last, as the report does; for recipe kin best
    patience: int | None = None  # epochs without a better validation AUC; None: never stop early
    device: str = "auto"
    precision: Precision = "auto"
    pixels: str = "trained"  # or report: the channels' order of the report's listing
    framing: str = "auto"  # or loose, aligned, whole: where photos lie in the network's input
    skip_unreadable: bool = False
    layout: Layout = "auto"  # how folders say who is on a photo
    people_table: str | None = None  # photo,person,family: says who is on some photos instead
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
    sync_batchnorm: bool = False  # BatchNorm sees the photos of all ranks

    def __post_init__(self) -> None:
        recipe = FINETUNE_RECIPES.get(self.recipe, BASE)
        contrastive = recipe.is_contrastive
        if not self.view:
            view = USUAL_VIEWS.get(recipe.name, "max")
            if contrastive and _has_native_view(self.backbone):
                view = "native"
            object.__setattr__(self, "view", view)
        if not self.split:
            by_families = contrastive or self.folds is not None
            object.__setattr__(self, "split", "families" if by_families else "people")
        if not self.keep:
            object.__setattr__(self, "keep", recipe.kept_epoch)

    @property
    def kept_epoch(self) -> KeptEpoch:
        """`keep`, which is never empty once it is made."""
        return "best" if self.keep == "best" else "last"

    def full_recipe(self) -> FinetuneRecipe:
        """The recipe with its overrides.

        Raises:
            KinembedError: there is no such recipe, or a value is not what it takes.
        """
        return override(find_finetune_recipe(self.recipe), self.overrides)

    def check(self) -> None:
        """Refuses settings that nothing can be trained with.

        Raises:
            KinembedError: naming the setting.
        """
        if getattr(self.full_recipe(), "members", 1) > 1:
            raise KinembedError("members: are of heads from the cache; wanted by kinembed head")
        for name in ("epochs", "steps", "val_steps", "batch_size", "accumulate"):
            _at_least(name, getattr(self, name), 1)
        for name in ("warmup", "freeze_stages"):
            _at_least(name, getattr(self, name), 0)
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise KinembedError(f"minutes: found {self.minutes}, wanted above 0")
        if self.accumulate > self.batch_size:
            raise KinembedError(
                f"accumulate: found {self.accumulate} parts of {self.batch_size} pairs; wanted at "
                "least one pair in each"
            )
        if self.freeze_epochs is not None and not self.freeze_stages:
            raise KinembedError("freeze_epochs: nothing is frozen; wanted with --freeze-stages")
        if self.full_recipe().is_contrastive:
            if len(parts_of(self.view)) > 1:
                raise KinembedError(
                    f"view: found {self.view}, recipe {self.recipe} compares one view; wanted one"
                )
            for name, why in _OF_PAIRS.items():
                if (found := getattr(self, name)) != getattr(FinetuneConfig, name):
                    raise KinembedError(
                        f"{name}: found {found}, which recipe {self.recipe} does not take; {why}"
                    )
        if self.compile and self.save_memory:
            raise KinembedError("compile and save_memory: wanted one of the two, not both")
        if self.compile and self.sync_batchnorm:
            raise KinembedError("compile and sync_batchnorm: wanted one of the two, not both")
        self._check_folds()
        _check_fraction("validation_fraction", self.validation_fraction)
        if self.test_fraction:
            _check_fraction("test_fraction", self.test_fraction)
            if self.validation_fraction + self.test_fraction >= 1:
                raise KinembedError(
                    f"test_fraction: found {self.test_fraction:g} beside a validation_fraction of "
                    f"{self.validation_fraction:g}, wanted less than 1 together"
                )
        _check_batch(self.batch_size, self.positive_fraction)

    def _check_folds(self) -> None:
        if self.folds is None:
            if self.fold is not None:
                raise KinembedError(f"fold: found {self.fold} of none; wanted with --folds N")
            return
        if not 2 <= self.folds <= MOST_FOLDS:
            raise KinembedError(f"folds: found {self.folds}, wanted 2 to {MOST_FOLDS}")
        if self.fold is not None and not 1 <= self.fold <= self.folds:
            raise KinembedError(f"fold: found {self.fold}, wanted 1 to {self.folds}")
        usual = FinetuneConfig(recipe=self.recipe, folds=self.folds)
        for name in ("split", "validation_fraction", "test_fraction"):
            if (found := getattr(self, name)) != getattr(usual, name):
                raise KinembedError(
                    f"{name}: found {found}, but each of {self.folds} folds of the families is "
                    "held out by one network; leave it out, or leave out --folds"
                )


@dataclass(frozen=True)
class ExperimentsConfig:
    """Settings of `kinembed experiments`: every recipe on every backbone by every split.

    Attributes:
        splits: None: people and families; with `report` people alone.
        settings: of `FinetuneConfig` by name, which all experiments share. What is not among them
            each recipe chooses for itself.
        report: just the report's eight trainings, in place of `recipes` and `backbones`, and a
            submission of each.
        pairs: of the submissions.
        labels: a CSV of labelled pairs that judges each training; None: nothing does but the
            people held out.
    """

    recipes: tuple[str, ...] = tuple(RECIPES)
    backbones: tuple[str, ...] = (FinetuneConfig.backbone,)
    splits: tuple[str, ...] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    report: bool = False
    pairs: Path = Path("sample_submission.csv")
    labels: Path | None = None

    def trainings(self) -> list[FinetuneConfig]:
        """What is trained, in turn.

        Raises:
            KinembedError: a name comes twice, there is none, or a split is unknown.
        """
        default = ("people",) if self.report else ("people", "families")
        splits = default if self.splits is None else self.splits
        for name, values in (
            ("recipes", self.recipes),
            ("backbones", self.backbones),
            ("splits", splits),
        ):
            if not values or len(set(values)) != len(values):
                found = ",".join(values)
                raise KinembedError(f"{name}: found {found!r}, wanted one or more different names")
        for split in splits:
            if split not in get_args(SplitUnit):
                known = ", ".join(get_args(SplitUnit))
                raise KinembedError(f"split {split!r} is unknown; known are {known}")
        pairs = ((backbone, recipe) for backbone in self.backbones for recipe in self.recipes)
        return [
            FinetuneConfig(backbone, recipe=recipe, split=cast(SplitUnit, split), **self.settings)
            for backbone, recipe in (REPORTED if self.report else pairs)
            for split in splits
        ]


@dataclass(frozen=True)
class EmbedConfig:
    """Settings of `kinembed embed`."""

    photos: tuple[str, ...] = ("train", "test")  # folders below the data folder, or any folder
    layout: Layout = "auto"  # how folders say who is on a photo
    people_table: Path | None = None  # photo,person,family: says who is on some photos instead
    # None: max, native if there is one, the model's view, and those that the run's cache has
    views: tuple[str, ...] | None = None
    # Test-time augmentation: each photo mirrored, too, as views VIEW-flip. None: as the cache that
    # the run folder has of the same network, else not.
    flip: bool | None = None
    model: Path | None = None  # of `finetune`; None: model.pt in the run folder
    backbone: str | None = None  # None: the model
    weights: str = "auto"
    pixels: str | None = None  # None: those of the model; of a backbone as it was trained
    framing: str = "auto"  # or loose, aligned, whole: where photos lie in the network's input
    device: str = "auto"
    precision: Precision = "auto"
    # Of the vectors in the cache. None: as an interrupted embedding of the same network has it, or
    # the cache that the run folder has; else float32.
    dtype: Dtype | None = None
    batch_size: int | None = None  # photos; None: as `batch_of` says
    skip_unreadable: bool = False
    restart: bool = False  # forget an interrupted embedding with other settings
    rehash: bool = False  # trust no photo's size and time of change
    shard: tuple[int, int] | None = None  # which part of how many, from 1; None: all
    shard_photos: int = 1024  # the most that an interruption loses
    in_shards: bool | None = None  # the cache stays in shards; None: as that of the run is
    engine: Literal["local", "ray"] = "local"  # what computes the shards: this process, or actors
    address: str | None = None  # of a Ray cluster; None: one of our own, on this machine
    actors: int | None = None  # None: as many as fit
    actor_cpus: float = 1  # of each actor; a share where below 1
    actor_gpus: float = 0
    onnx: Path | None = None  # an ONNX file in place of a backbone; the rest describes it
    output: str | None = None  # None: the only output of vectors
    side: int | None = None  # None: the file's own; 112 where that is free
    mean: tuple[float, float, float] | None = None  # None: 127.5; of bytes 0
    scale: tuple[float, float, float] | None = None  # None: 128; of bytes 1
    order: Literal["rgb", "bgr"] = "rgb"

    def batch_of(self, device: str) -> int:
        """Photos in a batch, on a kind of device."""
        if self.batch_size is not None:
            return self.batch_size
        # Larger batches leave a processor's cache, and smaller ones leave a GPU idle.
        return 128 if device == "cuda" else 16


@dataclass(frozen=True)
class ExportConfig:
    """Settings of `kinembed export`.

    Attributes:
        out: the ONNX file.
        backbone: in place of the run's network.
        weights: of the backbone.
        views: outputs; None: those of the run's cache, or the usual ones.
        head: the projection of the run's head is in it, too.
    """

    out: Path
    backbone: str | None = None
    weights: str = "auto"
    views: tuple[str, ...] | None = None
    head: bool = True


@dataclass(frozen=True)
class ReportConfig:
    """Settings of `kinembed report`.

    Attributes:
        out: the page; None: report.html in the run folder.
        photos: faces may be on it.
        against: other run folders, whose curves are drawn beside.
    """

    out: Path | None = None
    photos: bool = False
    against: tuple[Path, ...] = ()


@dataclass(frozen=True)
class MapConfig:
    """Settings of `kinembed map`.

    Attributes:
        view: of the cache; None: the representation of the run's head, or the usual view.
        method: `umap`, `pca`, or `auto`: UMAP where it is installed.
        photos: thumbnails may be on the page.
        people: so many people, in whole families drawn by `seed`; None: all.
        families: these alone; none: all.
        out: the page; None: map.html in the run folder, or map-part.html of some people or
            families.
    """

    view: str | None = None
    method: Literal["auto", "umap", "pca"] = "auto"
    photos: bool = False
    people: int | None = None
    families: tuple[str, ...] = ()
    out: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class HeadConfig:
    """Settings of `kinembed head`; the default is the best that is known.

    `val_steps` to `positive_fraction` are the report's protocol of heads that compare pairs; metric
    heads have their own in their recipe.

    Attributes:
        recipe: how the head learns, by name; None: `metric`, or the recipe of the network that made
            the cache, where that learnt a head which compares pairs.
        warm_start: a head that compares pairs begins with the weights of the fine-tuned head.
        fine_tuned: nothing is trained: the heads that compare pairs, as the networks were
            fine-tuned with them; those of several networks are fused late.
        kind: names the recipe by the head that it trains, one of `recipes.HEAD_KINDS`; it goes
            before `recipe`.
        ensemble: members of a metric head without folds, or of a pair head, each from a seed of
            its own; None: as in the recipe.
        overrides: values of the recipe, `key=value` each.
        views: of the cache, or several joined by `+`; of several such names each has a head of its
            own, fused late. Empty: of a metric head `native` and `max`, as far as the cache has
            them; of others `max`, or the only one; of several caches those of each, fused late.
        flip: a metric head takes mirrored photos as a second view in test-time augmentation, where
            the cache has those of its views.
        folds: parts of the families, each held out by one member of a metric head; 0: one part is
            held out from all. None: 5 for a metric head on a network that was not fine-tuned,
            unless a split is asked for.
        epochs: None: 30; of a metric head as in its recipe.
        steps: batches in an epoch; None: 100; of a metric head as in its recipe.
        val_steps: batches of validation pairs.
        batch_size: pairs in a batch.
        positive_fraction: share of kin pairs in a batch.
        exclude_family: no non-kin pair is of one family, in which relatives may be unlisted.
        split: None: that of the network that made the cache, else `families`.
        validation_fraction: share that is held out; None: that of the network, else .2.
        patience: epochs without a better validation AUC; None: never stop early.
        sweep: `key=value,value…` each: a head for each of their combinations.
        kinfacew: the folder of KinFaceW-I or -II: its kin pairs are learnt from, and each of its
            folds is held out by one member.
        exclude: a table of photos, people and pairs of people to leave out of training, as `audit`
            writes it; None: everything is learnt from.
        caches: of the same photos, stacked; none: `embeddings.h5` of the run folder, or those that
            its head learnt from.
    """

    recipe: str | None = None
    kind: str | None = None
    warm_start: bool = False
    fine_tuned: bool = False
    ensemble: int | None = None
    overrides: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    flip: bool = True
    folds: int | None = None
    epochs: int | None = None
    steps: int | None = None
    val_steps: int = 30
    batch_size: int = 32
    positive_fraction: float = 0.6
    exclude_family: bool = False
    split: Literal["people", "families"] | None = None
    validation_fraction: float | None = None
    patience: int | None = None
    sweep: tuple[str, ...] = ()
    kinfacew: Path | None = None
    exclude: Path | None = None
    caches: tuple[Path, ...] = ()
    seed: int = 0

    def full_recipe(self, default: HeadRecipe = METRIC) -> HeadRecipe:
        """The recipe with its overrides; of a metric head with `ensemble`, `epochs` and `steps`.

        Args:
            default: what is trained where neither a recipe nor a kind is named.

        Raises:
            KinembedError: there is no such recipe or kind, or a value is not what it takes.
        """
        if self.kind is not None and self.kind not in HEAD_KINDS:
            known = ", ".join(HEAD_KINDS)
            raise KinembedError(f"kind {self.kind!r} is unknown; known are {known}")
        name = self.recipe if self.kind is None else HEAD_KINDS[self.kind]
        recipe = default if name is None else find_head_recipe(name)
        own = {"members": self.ensemble, "epochs": self.epochs, "steps": self.steps}
        if not recipe.takes_folds:  # epochs and steps are the protocol's
            own = {"members": self.ensemble}
        named = [f"{key}={value}" for key, value in own.items() if value is not None]
        return override(recipe, (*self.overrides, *named))

    @property
    def pair_epochs(self) -> int:
        """Epochs of a head that compares pairs: the report's where none are given."""
        return PAIR_EPOCHS if self.epochs is None else self.epochs

    @property
    def pair_steps(self) -> int:
        """Batches in an epoch of a head that compares pairs: the report's where none are given."""
        return PAIR_STEPS if self.steps is None else self.steps

    def check(self, default: HeadRecipe = METRIC) -> None:
        """Refuses settings that no head can be trained with.

        Args:
            default: as of `full_recipe`.

        Raises:
            KinembedError: naming the setting.
        """
        recipe = self.full_recipe(default)
        if self.fine_tuned:
            if recipe.takes_folds:
                raise KinembedError(
                    "fine_tuned: the networks were not all fine-tuned by one recipe that compares "
                    "pairs; wanted the caches of such networks alone"
                )
            for name in ("recipe", "kind", "overrides", "sweep", "ensemble", "views", "exclude"):
                if found := getattr(self, name):
                    text = ",".join(map(str, found)) if isinstance(found, tuple) else found
                    raise KinembedError(f"{name}: found {text}; with fine_tuned nothing is trained")
            if self.warm_start or self.kinfacew is not None:
                name = "warm_start" if self.warm_start else "kinfacew"
                raise KinembedError(f"{name}: with fine_tuned nothing is trained")
        if self.warm_start and recipe.takes_folds:
            raise KinembedError(
                f"warm_start: recipe {recipe.name} trains another kind of head than a network is "
                "fine-tuned with; wanted --recipe or --kind of one that compares pairs"
            )
        if not recipe.takes_folds:
            if self.folds:
                raise KinembedError(
                    f"folds: recipe {recipe.name} has none; wanted --kind metric with them"
                )
            _at_least("epochs", self.pair_epochs, 1)
            _at_least("steps", self.pair_steps, 1)
            _at_least("val_steps", self.val_steps, 1)
            _at_least("batch_size", self.batch_size, 1)
            _check_batch(self.batch_size, self.positive_fraction)
        if self.kinfacew is not None and (
            not recipe.takes_folds
            or (self.folds, self.split, self.validation_fraction) != (None,) * 3
        ):
            raise KinembedError(
                "kinfacew: the protocol says who is held out; wanted a metric head, without folds, "
                "split and validation_fraction"
            )
        if self.folds is not None and self.folds != 0 and not 2 <= self.folds <= 100:
            raise KinembedError(f"folds: found {self.folds}, wanted 2 to 100, or 0 for none")
        if self.validation_fraction is not None:
            _check_fraction("validation_fraction", self.validation_fraction)


Expand = Literal["auto", "exact", "off"]


@dataclass(frozen=True)
class CalibrateConfig:
    """Settings of `kinembed calibrate`."""

    target: str = "accuracy"  # or youden, or far=RATE
    map: Literal["none", "platt", "isotonic"] = "platt"
    prior: float | None = None  # share of kin pairs in the world; None: half, as in the pairs drawn
    pairs: int = 20_000  # half of them kin
    caches: tuple[Path, ...] = ()  # stacked; none: those of the head
    seed: int = 0


@dataclass(frozen=True)
class EvaluateConfig:
    """Settings of `kinembed evaluate`."""

    pairs: Path | None = None  # a CSV or what the protocol reads; None: of the people held out
    protocol: Literal["kinfacew", "rfiw"] | None = None
    head: Path | None = None  # None: head.h5 in the run folder
    calibration: Path | None = None  # None: calibration.json in the run folder, if there is one
    expand: Expand = "auto"  # by photos of the same person, where the head tells these
    skip_trained: bool = False  # leave out pairs on people who trained the head
    count: int = 20_000  # pairs drawn among the people held out
    pictures: bool = True  # of the most wrong pairs, where the photos are at hand
    caches: tuple[Path, ...] = ()  # stacked; none: those of the head
    seed: int = 0


@dataclass(frozen=True)
class ScoreConfig:
    """Settings of `kinembed score`."""

    pairs: Path = Path("sample_submission.csv")
    out: Path | None = None  # None: submission.csv in the run folder
    head: Path | None = None  # None: head.h5 in the run folder
    expand: Expand = "auto"  # by photos of the same person, where the head tells these
    raw: bool = False  # the head's own probabilities, even where there is a calibration
    calibration: Path | None = None  # has to fit; None: that of the run folder which fits, if any
    chunk: int = 65_536  # pairs read, scored and written at a time
    threads: int | None = None  # None: as many as there are processors
    caches: tuple[Path, ...] = ()  # stacked; none: those of the head
    people: Literal["mean", "max", "pooled"] | None = None  # pairs are of people, scored so
    engine: Literal["local", "ray"] = "local"  # who scores: this process, or actors
    shard_pairs: int = 1 << 20  # pairs of a shard, the most that an actor loses
    actor_memory: float = 2  # GB of vectors that an actor holds: two blocks of photos
    address: str | None = None  # as of `EmbedConfig`, and so the next two
    actors: int | None = None
    actor_cpus: float = 1


@dataclass(frozen=True)
class SearchConfig:
    """Settings of `kinembed search`: who in a cache is kin of a person.

    Attributes:
        photo: a photo, a crop of a face, a folder of photos of one person, or the name of a photo
            or person of the cache.
        top: how many of the people most likely kin.
        by: what the gallery is of: the people of the cache, or its photos one by one.
        prior: share of kin in the gallery; None: three people of it.
        face: which face of a photo that shows several; None: the largest.
        crops: photos are crops of one face each: no face is looked for.
        head: None: the run folder's, else the packaged one.
        caches: of the head's networks; none: those of the head.
        out: CSV of what is found; None: none.
        picture: contact sheet of what is found, where the photos are below the data folder; None:
            none.
    """

    photo: Path
    top: int = 10
    by: Literal["person", "photo"] = "person"
    prior: float | None = None
    face: int | None = None
    crops: bool = False
    head: Path | None = None
    caches: tuple[Path, ...] = ()
    out: Path | None = None
    picture: Path | None = None
    device: str = "auto"
    precision: Precision = "auto"


@dataclass(frozen=True)
class AlignConfig:
    """Settings of `kinembed align`."""

    device: str = "auto"
    min_face: int = 40  # size of the smallest faces that are searched, in pixels of the photo
    largest: bool = False  # crop the largest face of each photo alone
    rehash: bool = False  # read all photos, even with the same size and modification time

    def check(self) -> None:
        """Refuses settings that nothing can be found with.

        Raises:
            KinembedError: naming the setting.
        """
        _at_least("min_face", self.min_face, 12)


@dataclass(frozen=True)
class CompareConfig:
    """Settings of `kinembed compare`: two people, or father, mother and child.

    Each is a photo, a crop of a face, or a folder of photos of one person.
    """

    a: Path | None = None
    b: Path | None = None
    father: Path | None = None
    mother: Path | None = None
    child: Path | None = None
    face: tuple[int, ...] = ()  # which face of photos that show several; none: the largest
    crops: bool = False  # photos are crops of one face each: no face is looked for
    prior: float | None = None  # share of kin among those compared; None: a third
    head: Path | None = None  # None: the run folder's, else the packaged one
    picture: Path | None = None  # of the faces as found and the answer; None: none
    explain: Path | None = None  # picture of the regions that the answer rests on; None: none
    device: str = "auto"
    precision: Precision = "auto"

    def paths(self) -> tuple[Path, ...]:
        """The two people, or father, mother and child.

        Raises:
            KinembedError: it is neither, or regions of three are asked for.
        """
        three = {"--father": self.father, "--mother": self.mother, "--child": self.child}
        either = "two people, A and B, or --father, --mother and --child"
        parts = {"A": self.a, "B": self.b} if any((self.a, self.b)) else three
        missing = [name for name, path in parts.items() if path is None]
        if parts is not three and any(three.values()):
            raise KinembedError(f"compare: found A and one of a family of three; wanted {either}")
        if len(missing) == len(parts):
            raise KinembedError(f"compare: found nobody; wanted {either}")
        if missing:
            raise KinembedError(f"compare: without {' and '.join(missing)}; wanted {either}")
        if parts is three and self.explain is not None:
            raise KinembedError("--explain: draws the regions of two people; name A and B")
        return tuple(path for path in parts.values() if path is not None)


@dataclass(frozen=True)
class RelateConfig:
    """Settings of `kinembed relate`."""

    folder: Path  # of photographs
    fdr: float = 0.1  # share of false links allowed among those shown
    layout: Layout = "flat"  # how folders say who is on a photo; flat: they do not
    people_table: Path | None = None  # photo,person,family: says who is on some photos instead
    confirmed: Path | None = None  # answers; None: confirmed.csv in the run folder
    head: Path | None = None  # a published head, or a head.h5; None: the run's, else the packaged
    min_face: int = AlignConfig.min_face  # size of the smallest faces that are searched
    crops: bool = False  # all photos are crops of one face each, and no face is looked for
    exact: bool = False  # compare all pairs of faces of a large album, too
    device: str = "auto"
    precision: Precision = "auto"


@dataclass(frozen=True)
class ServeConfig:
    """Settings of `kinembed serve`."""

    host: str = "127.0.0.1"  # address to listen on; any but loopback lets others ask
    port: int = 8000  # 0: any that is free
    names: tuple[str, ...] = ()  # that the server goes by beside its address
    at_once: int = 64  # requests that are let in; others are told to come again
    megabytes: int = 32  # MiB of a request, at most
    seconds: float = 60.0  # in which a request has to arrive, and to be answered
    head: Path | None = None  # None: the run folder's, else the packaged one
    device: str = "auto"
    precision: Precision = "auto"

    def check(self) -> None:
        """Refuses limits that nobody could keep.

        Raises:
            KinembedError: naming the setting.
        """
        _at_least("at_once", self.at_once, 1)
        _at_least("megabytes", self.megabytes, 1)
        if not 0 < self.seconds < 86_400:
            raise KinembedError(f"seconds: found {self.seconds:g}, wanted more than 0, up to a day")


@dataclass(frozen=True)
class AppConfig:
    """Settings of `kinembed app`."""

    port: int = 0  # 0: any that is free
    browser: bool = True  # open the page in the browser
    keep: Path | None = None  # folder in which albums and what is found stay; None: none does
    megabytes: int = 32  # MiB of a request, at most: two photos to compare
    head: Path | None = None  # None: the run folder's, else the packaged one
    device: str = "auto"
    precision: Precision = "auto"

    def check(self) -> None:
        """Refuses a limit that no photo could keep.

        Raises:
            KinembedError: naming the setting.
        """
        _at_least("megabytes", self.megabytes, 1)


@dataclass(frozen=True)
class AuditConfig:
    """Settings of `kinembed audit`."""

    kinds: tuple[str, ...] = ()  # of findings; none: all
    least: float = 0.1  # surety of what is listed
    top: int = 12  # of each kind, that are drawn
    pictures: bool = True  # where the photos are at hand
    write: Path | None = None  # a table of what to leave out of a training
    surest: int = 100  # findings that go into that table
    head: Path | None = None  # None: head.h5 in the run folder, if there is one
    caches: tuple[Path, ...] = ()  # stacked; none: those of the head
    seed: int = 0

    def check(self, kinds: Sequence[str]) -> None:
        """Refuses what cannot be asked for.

        Args:
            kinds: all kinds of findings.

        Raises:
            KinembedError: naming the setting.
        """
        for kind in self.kinds:
            if kind not in kinds:
                raise KinembedError(f"kinds: found {kind!r}, wanted some of {', '.join(kinds)}")
        if not 0 <= self.least <= 1:
            raise KinembedError(f"least: found {self.least}, wanted 0 to 1")
        _at_least("top", self.top, 1)
        _at_least("surest", self.surest, 1)


def _has_native_view(backbone: str) -> bool:
    from kinembed.backbones import BACKBONES  # no other setting needs them

    return backbone in BACKBONES and "native" in BACKBONES[backbone].views


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise KinembedError(f"{name}: found {value}, wanted {least} or more")


def _check_fraction(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise KinembedError(f"{name}: found {value}, wanted between 0 and 1")


def _check_batch(batch_size: int, positive_fraction: float) -> None:
    """Refuses batches of kin or of others alone, which have no AUC."""
    kin = batch_size * positive_fraction
    if not math.isfinite(kin) or not 0 < int(kin) < batch_size:
        raise KinembedError(
            f"{positive_fraction:g} of {batch_size} pairs are kin: wanted at least one kin and one "
            "non-kin pair in each batch, which an AUC needs"
        )
