"""Options shared by several commands, and the parsing of their values."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from kinembed.config import EmbedConfig, FinetuneConfig
from kinembed.io import share_files
from kinembed.recipes import FINETUNE_RECIPES, HEAD_RECIPES

Command = TypeVar("Command", bound=Callable[..., Any])


class FloatRange(click.FloatRange):
    """Numbers of a range; `nan`, which is beyond no bound, and infinity are none."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number, or wrong usage."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{number} is no number of this range.", param, ctx)
        return number


def common(run: str = "runs/default") -> Callable[[Command], Command]:
    """The options that every command takes; `run` is the run folder's default."""
    options = (
        click.option(
            "--run",
            type=click.Path(path_type=Path, file_okay=False),
            default=run,
            help="Run folder: every artefact goes here.",
        ),
        click.option(
            "--data",
            type=click.Path(path_type=Path),
            default="data",
            help="Data folder: Kaggle's files, or photos and relations in the same layout.",
        ),
        click.option(
            "--seed",
            type=click.IntRange(0, 2**63 - 1),
            default=0,
            help="Seed of every random draw.",
        ),
        click.option(
            "--shared",
            is_flag=True,
            expose_value=False,
            callback=lambda *a: share_files(a[2]),
            help="Let the umask decide who may read new files; without it the owner alone.",
        ),
        click.option("--quiet", is_flag=True, help="Print errors only."),
        click.option("-v", "--verbose", is_flag=True, help="Print more."),
    )

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def who(command: Command) -> Command:
    """The options that say who is on a photo."""
    options = (
        click.option(
            "--layout",
            type=click.Choice(["auto", "kaggle", "rfiw", "fiw", "kinfacew", "people", "flat"]),
            default="auto",
            help="How folders say who is on a photo: FAMILY/PERSON/ (kaggle, rfiw, fiw), the "
            "names of KinFaceW, PERSON/ (people), or not at all (flat); auto finds out, but for "
            "people, and says so.",
        ),
        click.option(
            "--people-table",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            help="Table photo,person,family: says who is on its photos, whatever --layout says.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def computing(command: Command) -> Command:
    """The options of commands that run a network on photos."""
    options = (
        click.option(
            "--weights",
            default="auto",
            metavar="auto|NAME|none|PATH",
            help="Pretrained weights: published ones by name, a file, or none.",
        ),
        click.option(
            "--device", default="auto", metavar="auto|cpu|cuda|mps", help="Device of the network."
        ),
        click.option(
            "--precision",
            type=click.Choice(["auto", "fp32", "bf16"]),
            default="auto",
            help="Number format of the network; auto: bf16 where the device supports it.",
        ),
        click.option(
            "--pixels",
            type=click.Choice(["trained", "report"]),
            help="Order of the channels: as the weights were trained, or of the report's listing, "
            "RGB less the means of BGR.  [default: trained]",
        ),
        click.option(
            "--framing",
            type=click.Choice(["auto", "loose", "aligned", "whole"]),
            default=EmbedConfig.framing,
            help="Place of a photo in the network's input: loose, for Kaggle's crops; aligned, for "
            "photos aligned on ArcFace's template; whole, as it is; auto: by where eyes and mouth "
            "lie on a sample of each folder.",
        ),
        click.option("--skip-unreadable", is_flag=True, help="Leave out unreadable photos."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def on_device(command: Command) -> Command:
    """The options of commands that run the network of a run or of a published head."""
    options = (
        click.option("--device", default="auto", metavar="auto|cpu|cuda|mps", help="Device."),
        click.option(
            "--precision",
            type=click.Choice(["auto", "fp32", "bf16"]),
            default="auto",
            help="Number format of the network; auto: bf16 where the device supports it.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def json_result(*keys: str, more: str = "") -> Callable[[Command], Command]:
    """The option of commands with a result; `keys` are those of its JSON object."""
    return click.option(
        "--json",
        "as_json",
        is_flag=True,
        help=f"Print the result on standard output as a JSON object of {', '.join(keys)}{more}.",
    )


def kept(what: str, more: str = "") -> Callable[[Command], Command]:
    """The options of commands whose results are all kept."""
    with_it = f", {more}" if more else ""
    options = (
        click.option(
            "--use",
            metavar="NAME",
            help=f"Put a kept {what} in use{with_it}, by its name or the start of it.",
        ),
        click.option("--list", "show", is_flag=True, help=f"Print the kept {what}s."),
    )

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def tracking(command: Command) -> Command:
    """The option of commands whose epochs another program may show."""
    return click.option(
        "--track",
        type=click.Choice(["tensorboard"]),
        help="Write each epoch into tensorboard/ in --run, too; needs kinembed[tensorboard].",
    )(command)


def answering(command: Command) -> Command:
    """The option of commands that answer questions about faces: by which head."""
    return click.option(
        "--head",
        type=click.Path(path_type=Path),
        metavar="FILE|packaged",
        help="Head that answers: a published head, a head.h5 beside its cache and calibration, or "
        "packaged, the one that comes with kinembed.  [default: that of --run, else packaged]",
    )(command)


def on_ray(what: str, shared: str) -> Callable[[Command], Command]:
    """The options of commands that actors of Ray may do.

    Args:
        what: they do.
        shared: what the machines of a cluster share.
    """
    options = (
        click.option(
            "--engine",
            type=click.Choice(["local", "ray"]),
            default="local",
            help=f"Who {what}: this process, or actors of Ray, on this machine or a cluster that "
            f"shares {shared}; needs kinembed[ray].",
        ),
        click.option(
            "--address",
            metavar="HOST:PORT|auto",
            help="Ray cluster; auto: that of this machine.  [default: a Ray of its own on this "
            "machine]",
        ),
        click.option(
            "--actors",
            type=click.IntRange(1),
            help="Actors of Ray.  [default: as many as fit, with a processor of each machine left "
            "free]",
        ),
        click.option(
            "--actor-cpus",
            type=FloatRange(0, min_open=True),
            default=1,
            help="Processors of each actor, which it has threads for; .5: two share one.",
        ),
    )

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def check_engine(settings: Mapping[str, Any]) -> None:
    """Refuses options of Ray without it.

    Raises:
        click.UsageError: naming them.
    """
    if settings["engine"] == "local" and (settings["address"] or settings["actors"]):
        raise click.UsageError("--address and --actors are of --engine ray")


def cache_in(path: Path) -> Path:
    """The cache of a run folder; any other path as it is."""
    return path / "embeddings.h5" if path.is_dir() else path


def reading(command: Command) -> Command:
    """The option of commands that work from the cache."""
    return click.option(
        "--cache",
        "caches",
        multiple=True,
        type=click.Path(path_type=Path),
        callback=lambda *a: tuple(map(cache_in, a[2])),
        metavar="PATH",
        help="Embedding cache, or a folder that holds one; several of the same photos stack their "
        "views as 1.max, 2.max….  [default: those of the head, else embeddings.h5 in --run]",
    )(command)


def training(command: Command) -> Command:
    """The options of commands that train the siamese network."""
    options = (
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="KEY=VALUE",
            help="Set a value of the recipe: dropout=0.2 or hidden=100,25; repeatable.",
        ),
        click.option(
            "--view",
            help="View (vector of a photo) to compare, or several joined by +.  [default: max; "
            "recipe fusion: max+avg; recipe kin: native]",
        ),
        click.option(
            "--epochs",
            type=click.IntRange(1),
            default=FinetuneConfig.epochs,
            help="Epochs at most.",
        ),
        click.option(
            "--steps",
            type=click.IntRange(1),
            default=FinetuneConfig.steps,
            help="Training batches per epoch.",
        ),
        click.option(
            "--val-steps",
            type=click.IntRange(1),
            default=FinetuneConfig.val_steps,
            help="Validation batches per epoch.",
        ),
        click.option(
            "--batch-size",
            type=click.IntRange(2),
            default=FinetuneConfig.batch_size,
            help="Pairs per batch.",
        ),
        click.option(
            "--positive-fraction",
            type=FloatRange(0, 1, min_open=True, max_open=True),
            default=FinetuneConfig.positive_fraction,
            help="Fraction of kin pairs in a batch.",
        ),
        click.option(
            "--exclude-family",
            is_flag=True,
            help="No non-kin pair of one family, in which relatives may be unlisted.",
        ),
        click.option(
            "--patience",
            type=click.IntRange(1),
            help="Stop after this many epochs without a better validation AUC.",
        ),
        click.option(
            "--keep",
            type=click.Choice(["best", "last"]),
            help="Epoch to keep: the best by validation AUC, or the last.  [default: last, as in "
            "the report; recipe kin: best]",
        ),
        click.option(
            "--test-fraction",
            type=FloatRange(0, 1, max_open=True),
            default=FinetuneConfig.test_fraction,
            help="Fraction of people, or families, in a third part that judges alone.",
        ),
        click.option(
            "--minutes",
            type=FloatRange(0, min_open=True),
            help="Time limit, of each network: no epoch begins after it; recipe kin fits its steps "
            "into it.",
        ),
        click.option(
            "--schedule",
            type=click.Choice(["constant", "cosine", "plateau"]),
            default=FinetuneConfig.schedule,
            help="Learning rate schedule; plateau halves it when the validation loss stalls.",
        ),
        click.option(
            "--warmup",
            type=click.IntRange(0),
            default=FinetuneConfig.warmup,
            help="Warm-up steps of the learning rate.",
        ),
        click.option(
            "--freeze-stages",
            type=click.IntRange(0),
            default=FinetuneConfig.freeze_stages,
            help="Freeze the first stages of the face network.",
        ),
        click.option(
            "--freeze-epochs",
            type=click.IntRange(1),
            help="Freeze them for this many epochs.  [default: all]",
        ),
        click.option(
            "--accumulate",
            type=click.IntRange(1),
            default=FinetuneConfig.accumulate,
            help="Gradient accumulation: parts per batch; less memory, the same gradient.",
        ),
        click.option(
            "--save-memory",
            is_flag=True,
            help="Gradient checkpointing: less memory, more time.",
        ),
        click.option("--compile", is_flag=True, help="Compile the network with torch.compile."),
        click.option(
            "--sync-batchnorm",
            is_flag=True,
            help="Several processes: BatchNorm sees the photos of all, not of each apart.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def backbones(context: click.Context, option: click.Parameter, start: str) -> list[str]:
    """Completes the name of a backbone."""
    from kinembed.backbones import BACKBONES

    return [name for name in BACKBONES if name.startswith(start)]


def known_backbone(context: click.Context, option: click.Parameter, name: str | None) -> str | None:
    """Refuses the name of a backbone that is unknown, before torch is imported."""
    from kinembed.backbones import find_backbone

    return name if name is None else find_backbone(name).name


def finetune_recipes(context: click.Context, option: click.Parameter, start: str) -> list[str]:
    """Completes the name of a recipe of `finetune`."""
    return [name for name in FINETUNE_RECIPES if name.startswith(start)]


def head_recipes(context: click.Context, option: click.Parameter, start: str) -> list[str]:
    """Completes the name of a recipe of `head`."""
    return [name for name in HEAD_RECIPES if name.startswith(start)]


def three_numbers(option: click.Parameter, text: str | None) -> tuple[float, float, float] | None:
    """Reads one number for all three channels, or three numbers; None if nothing is given."""
    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3 or not all(abs(number) < 1e6 for number in numbers):
        raise click.BadParameter(f"found {text!r}, wanted one number or three", param=option)
    return numbers[0], numbers[1], numbers[2]


def part_of(option: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """Reads a part, `2/7`: the second of seven; None if nothing is given."""
    if text is None:
        return None
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise click.BadParameter(f"found {text!r}, wanted I/N, as 2/7, I from 1 to N", param=option)
    return int(number), int(count)


def given(settings: dict[str, Any]) -> dict[str, Any]:
    """The given options; the config resolves those that depend on others."""
    return {name: value for name, value in settings.items() if value is not None}


def folders(text: str) -> tuple[str, ...]:
    """Reads comma-separated folders; one whose own name has a comma stays whole."""
    from kinembed.data.photo_files import split_folders

    return split_folders(text)


def listed(text: str) -> tuple[str, ...]:
    """Reads comma-separated names.

    Raises:
        click.BadParameter: there is none.
    """
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if not found:
        raise click.BadParameter(f"found {text!r}, wanted names with commas between them")
    return found
