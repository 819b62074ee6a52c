"""The command line: options, messages, exit codes. Each command imports its own stage."""

import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from kinembed import __version__
from kinembed.config import (
    CalibrateConfig,
    EmbedConfig,
    EvaluateConfig,
    ExperimentsConfig,
    FinetuneConfig,
    HeadConfig,
    ScoreConfig,
)
from kinembed.errors import KinembedError
from kinembed.progress import Bar, Progress, silent
from kinembed.recipes import KINDS, METRIC, RECIPES

Command = TypeVar("Command", bound=Callable[..., Any])


def main() -> None:
    """Runs the command line and turns problems into one line and an exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    os.environ["HDF5_PLUGIN_PRELOAD"] = "::"  # HDF5 loads no filter that a file may name
    sys.exit(run(sys.argv[1:]))


class Terminated(BaseException):
    """SIGTERM; no KeyboardInterrupt, as click takes those for itself."""


def _terminate(*_: Any) -> NoReturn:
    raise Terminated


def run(arguments: list[str]) -> int:
    """Runs one command; returns its exit code.

    0 done; 1 a problem, explained in one line; 2 wrong usage; 130 interrupted; 143 terminated.
    """
    try:
        result = cli.main(arguments, prog_name="kinembed", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except Terminated:
        click.echo("Terminated: the artefacts in the run folder are as they were", err=True)
        return 143
    except (click.Abort, KeyboardInterrupt):
        click.echo("\nInterrupted: the artefacts in the run folder are as they were", err=True)
        return 130
    except KinembedError as error:
        click.echo(f"Error: {error}", err=True)
        return 1
    except MemoryError:
        click.echo("Error: out of memory; use fewer photos or a smaller --batch-size", err=True)
        return 1
    except OSError as error:
        click.echo(f"Error: {error}; the artefacts in the run folder are as they were", err=True)
        return 1
    return result if isinstance(result, int) else 0


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, message="kinembed %(version)s")
def cli() -> None:
    """Tells from two face photos how likely two people are kin."""


def common(run: str = "runs/default") -> Callable[[Command], Command]:
    """The options that every command takes; `run` is the run folder's default."""
    options = (
        click.option(
            "--run",
            type=click.Path(path_type=Path, file_okay=False),
            default=run,
            help="Folder of the run's artefacts.",
        ),
        click.option(
            "--data",
            type=click.Path(path_type=Path),
            default="data",
            help="Folder of the Kaggle files.",
        ),
        click.option(
            "--seed",
            type=click.IntRange(0, 2**63 - 1),
            default=0,
            help="Seed of all that is random.",
        ),
        click.option("--quiet", is_flag=True, help="Say nothing but errors."),
        click.option("-v", "--verbose", is_flag=True, help="Say more."),
    )

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def computing(command: Command) -> Command:
    """The options of commands that run a network on photos."""
    options = (
        click.option(
            "--weights", default="auto", metavar="auto|NAME|none|PATH", help="Pretrained weights."
        ),
        click.option(
            "--device", default="auto", metavar="auto|cpu|cuda|mps", help="Where to compute."
        ),
        click.option(
            "--precision",
            type=click.Choice(["auto", "fp32", "bf16"]),
            default="auto",
            help="auto: bf16 where the device computes in it natively.",
        ),
        click.option(
            "--skip-unreadable", is_flag=True, help="Leave out photos that cannot be read."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def reading(command: Command) -> Command:
    """The option of commands that work from the cache."""
    return click.option(
        "--cache",
        "caches",
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="PATH",
        help="Given several times, caches of the same photos are taken as one, with views 1.max, "
        "2.max….  [default: embeddings.h5 in --run]",
    )(command)


def training(command: Command) -> Command:
    """The options of commands that train the siamese network."""
    options = (
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="KEY=VALUE",
            help="Overrides one value of the recipe, as in dropout=0.2 or hidden=100,25.",
        ),
        click.option(
            "--view",
            help="Which vector of a photo is compared.  [default: max; recipe kin: native]",
        ),
        click.option("--epochs", type=click.IntRange(1), default=FinetuneConfig.epochs),
        click.option(
            "--steps", type=click.IntRange(1), default=FinetuneConfig.steps, help="Per epoch."
        ),
        click.option("--val-steps", type=click.IntRange(1), default=FinetuneConfig.val_steps),
        click.option(
            "--batch-size", type=click.IntRange(2), default=FinetuneConfig.batch_size, help="Pairs."
        ),
        click.option(
            "--positive-fraction",
            type=click.FloatRange(0, 1, min_open=True, max_open=True),
            default=FinetuneConfig.positive_fraction,
            help="Share of kin pairs in a batch.",
        ),
        click.option(
            "--patience",
            type=click.IntRange(1),
            help="Stop after so many epochs without a better AUC.",
        ),
        click.option(
            "--minutes",
            type=click.FloatRange(0, min_open=True),
            help="Begin no epoch once the epochs took so long; recipe kin ends in that time.",
        ),
        click.option(
            "--schedule",
            type=click.Choice(["constant", "cosine", "plateau"]),
            default=FinetuneConfig.schedule,
            help="Of the learning rate; plateau halves it where the validation loss stands still.",
        ),
        click.option(
            "--warmup",
            type=click.IntRange(0),
            default=FinetuneConfig.warmup,
            help="Steps over which the learning rate rises.",
        ),
        click.option(
            "--freeze-stages",
            type=click.IntRange(0),
            default=FinetuneConfig.freeze_stages,
            help="First stages of the face network that do not learn.",
        ),
        click.option(
            "--freeze-epochs",
            type=click.IntRange(1),
            help="For so many epochs.  [default: all]",
        ),
        click.option(
            "--accumulate",
            type=click.IntRange(1),
            default=FinetuneConfig.accumulate,
            help="Parts in which a batch goes through: less memory, the same gradient.",
        ),
        click.option(
            "--save-memory",
            is_flag=True,
            help="Compute activations anew in the backward pass: less memory, more time.",
        ),
        click.option("--compile", is_flag=True, help="torch.compile the network."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@cli.command()
@common()
@computing
@click.option("--backbone", default=FinetuneConfig.backbone, help="Face network of both towers.")
@click.option(
    "--recipe", default=FinetuneConfig.recipe, help="How it learns; kin is the best known."
)
@click.option(
    "--split",
    type=click.Choice(["people", "families"]),
    help="What is drawn for validation.  [default: people; recipe kin: families]",
)
@click.option(
    "--split-seed",
    type=click.IntRange(0, 2**63 - 1),
    help="Of what is drawn for validation: the same for networks to be used side by side.  "
    "[default: --seed]",
)
@training
@click.option("--resume", is_flag=True, help="Go on from the last whole epoch.")
@click.option("--summary", is_flag=True, help="Print the network layer by layer; train nothing.")
def finetune(
    run: Path,
    data: Path,
    quiet: bool,
    verbose: bool,
    resume: bool,
    summary: bool,
    **settings: Any,
) -> None:
    """Train the siamese network."""
    progress = _listen(quiet, verbose)
    config = FinetuneConfig(**_given(settings))
    if summary:
        from kinembed.backbones import find_backbone
        from kinembed.training.summary import summarise

        backbone = find_backbone(config.backbone)
        click.echo(summarise(backbone, config.view, config.full_recipe()).as_table())
        return
    from kinembed.finetune import finetune as stage

    stage(config, data, run, resume=resume, progress=progress)


@cli.command()
@common("runs/experiments")
@computing
@click.option(
    "--recipes",
    default="all",
    metavar="all|NAME,NAME…",
    callback=lambda *a: tuple(RECIPES) if a[2] == "all" else _listed(a[2]),
    help="Recipes to run.",
)
@click.option(
    "--backbones",
    default=",".join(ExperimentsConfig.backbones),
    metavar="NAME,NAME…",
    callback=lambda *a: _listed(a[2]),
    help="Face networks to run them on.",
)
@click.option(
    "--splits",
    default=",".join(ExperimentsConfig.splits),
    metavar="people,families",
    callback=lambda *a: _listed(a[2]),
    help="What is drawn for validation.",
)
@training
def experiments(
    run: Path,
    data: Path,
    quiet: bool,
    verbose: bool,
    recipes: tuple[str, ...],
    backbones: tuple[str, ...],
    splits: tuple[str, ...],
    **settings: Any,
) -> int:
    """Train recipe after recipe; those that are done already are not run again."""
    progress = _listen(quiet, verbose)
    from kinembed.experiments import experiments as stage
    from kinembed.experiments import read_results

    config = ExperimentsConfig(recipes, backbones, splits, FinetuneConfig(**_given(settings)))
    path = stage(config, data, run, progress=progress)
    click.echo((run / "experiments.md").read_text(encoding="utf-8"), nl=False)
    return 1 if any(result.error for result in read_results(path)) else 0


@cli.command()
@common()
@computing
@click.option(
    "--photos",
    default=",".join(EmbedConfig.photos),
    metavar="train,test|DIR…",
    callback=lambda *a: _listed(a[2]),
    help="Folders of photos.",
)
@click.option(
    "--views",
    metavar="NAME,NAME…",
    callback=lambda *a: None if a[2] is None else _listed(a[2]),
    help="Vectors wanted of each photo.  [default: max, and native where there is one]",
)
@click.option(
    "--flip/--no-flip",
    default=EmbedConfig.flip,
    help="Embed each photo mirrored, too: a view VIEW-flip for each; twice the time.",
)
@click.option(
    "--backbone", default=None, help="Embed with this network's own weights.  [default: model.pt]"
)
@click.option("--dtype", type=click.Choice(["float32", "float16"]), default=EmbedConfig.dtype)
@click.option(
    "--batch-size", type=click.IntRange(1), default=EmbedConfig.batch_size, help="Photos."
)
@click.option(
    "--restart", is_flag=True, help="Forget an interrupted embedding with other settings."
)
@click.option(
    "--rehash", is_flag=True, help="Read every photo, even of unchanged size and time of change."
)
@click.option(
    "--onnx",
    type=click.Path(path_type=Path),
    help="Embed with this ONNX file; needs kinembed[onnx]. The next four describe its input.",
)
@click.option("--side", type=click.IntRange(1, 4096), default=EmbedConfig.side, help="Pixels.")
@click.option(
    "--mean",
    default=",".join(map(str, EmbedConfig.mean)),
    metavar="M|R,G,B",
    callback=lambda *a: _three_numbers(a[1], a[2]),
    help="Taken from pixel values.",
)
@click.option(
    "--scale",
    default=",".join(map(str, EmbedConfig.scale)),
    metavar="S|R,G,B",
    callback=lambda *a: _three_numbers(a[1], a[2]),
    help="They are divided by it.",
)
@click.option(
    "--order",
    type=click.Choice(["rgb", "bgr"], case_sensitive=False),
    default=EmbedConfig.order,
    help="Of the channels.",
)
def embed(run: Path, data: Path, seed: int, quiet: bool, verbose: bool, **settings: Any) -> None:
    """Write every photo's embedding to the cache."""
    progress = _listen(quiet, verbose)
    from kinembed.embed import embed as stage

    stage(EmbedConfig(**settings), data, run, progress=progress)


@cli.command()
@common()
@reading
@click.option(
    "--kind",
    type=click.Choice(list(KINDS)),
    help="What it is: the report's heads, and better ones.",
)
@click.option("--recipe", default=HeadConfig.recipe, help="How it learns; --kind names one, too.")
@click.option(
    "--folds",
    type=click.IntRange(0),
    help="Parts of the families, each held out by one member of a metric head; 0: one part is "
    "held out from all.  [default: 5]",
)
@click.option(
    "--flip/--no-flip", default=True, help="A metric head takes mirror images as a second look."
)
@click.option(
    "--ensemble",
    type=click.IntRange(1),
    help="Members of a metric head without folds.  [default: 5]",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Overrides one value of the recipe, as in dropout=0.2 or hidden=100,25.",
)
@click.option(
    "--view",
    help="Of the cache, or several as in max+native.  [default: native+max for a metric head, else "
    "max]",
)
@click.option(
    "--epochs", type=click.IntRange(1), help="[default: 30; of a metric head: its recipe's]"
)
@click.option(
    "--steps",
    type=click.IntRange(1),
    help="Per epoch.  [default: 100; of a metric head: its recipe's]",
)
@click.option("--val-steps", type=click.IntRange(1), default=HeadConfig.val_steps)
@click.option("--batch-size", type=click.IntRange(2), default=HeadConfig.batch_size, help="Pairs.")
@click.option(
    "--positive-fraction",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=HeadConfig.positive_fraction,
    help="Share of kin pairs in a batch.",
)
@click.option(
    "--split",
    type=click.Choice(["people", "families"]),
    help="What is held out.  [default: as the network was trained, else families]",
)
@click.option(
    "--patience", type=click.IntRange(1), help="Stop after so many epochs without a better AUC."
)
@click.option(
    "--sweep",
    multiple=True,
    metavar="KEY=V1,V2…",
    help="Train a head for each of the values, and tabulate them; may be given several times.",
)
def head(
    run: Path,
    data: Path,
    quiet: bool,
    verbose: bool,
    kind: str | None,
    ensemble: int | None,
    **settings: Any,
) -> None:
    """Retrain the head from the cache alone."""
    progress = _listen(quiet, verbose)
    if kind is not None:
        settings["recipe"] = KINDS[kind]
    own = {"members": ensemble}
    if settings["recipe"] == METRIC.name:  # its recipe has these
        own |= {name: settings.pop(name) for name in ("epochs", "steps")}
    settings["overrides"] += tuple(f"{k}={v}" for k, v in own.items() if v is not None)
    settings = _given(settings)
    from kinembed.head import head as stage

    path = stage(HeadConfig(**settings), data, run, progress=progress)
    if settings["sweep"]:
        click.echo(path.with_suffix(".md").read_text(encoding="utf-8"), nl=False)


@cli.command()
@common()
@reading
@click.option(
    "--target",
    default=CalibrateConfig.target,
    metavar="accuracy|youden|far=RATE",
    help="What the threshold is chosen by.",
)
@click.option(
    "--map",
    type=click.Choice(["none", "platt", "isotonic"]),
    default=CalibrateConfig.map,
    help="From scores to probabilities.",
)
@click.option(
    "--prior",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of kin pairs where it will be used.  [default: one half, as drawn]",
)
@click.option(
    "--pairs", type=click.IntRange(2), default=CalibrateConfig.pairs, help="How many to draw."
)
def calibrate(run: Path, data: Path, quiet: bool, verbose: bool, **settings: Any) -> None:
    """Fit threshold and probabilities on people who never trained."""
    _listen(quiet, verbose)
    from kinembed.calibrate import calibrate as stage

    stage(CalibrateConfig(**settings), data, run)


@cli.command()
@common()
@reading
@click.option(
    "--pairs",
    type=click.Path(path_type=Path),
    help="CSV of labelled pairs.  [default: pairs of the people held out]",
)
@click.option(
    "--protocol",
    type=(click.Choice(["kinfacew", "rfiw"]), click.Path(path_type=Path)),
    metavar="kinfacew DIR|rfiw LIST",
    help="One of the field's, in place of --pairs.",
)
@click.option("--head", type=click.Path(path_type=Path), help="[default: head.h5 in --run]")
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    help="[default: calibration.json in --run, if there is one]",
)
@click.option(
    "--count",
    type=click.IntRange(2),
    default=EvaluateConfig.count,
    help="Pairs drawn where none are given.",
)
@click.option(
    "--pictures/--no-pictures", default=True, help="Draw the most wrong pairs from their photos."
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def evaluate(
    run: Path,
    data: Path,
    quiet: bool,
    verbose: bool,
    pairs: Path | None,
    protocol: tuple[Any, Path] | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Judge the head by labelled pairs, or by the people held out."""
    _listen(quiet, verbose)
    if pairs is not None and protocol is not None:
        raise click.UsageError("--pairs and --protocol: wanted one of the two")
    kind, source = protocol if protocol is not None else (None, pairs)
    import json

    from kinembed.evaluate import as_text
    from kinembed.evaluate import evaluate as stage

    path = stage(EvaluateConfig(pairs=source, protocol=kind, **settings), data, run)
    text = path.read_text(encoding="utf-8")
    click.echo(text if as_json else as_text(json.loads(text)), nl=False)


@cli.command()
@common()
@reading
@click.option(
    "--pairs",
    type=click.Path(path_type=Path),
    default=ScoreConfig.pairs,
    help="CSV of pairs; looked for where it says, then in --data.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="[default: submission.csv in --run]",
)
@click.option("--raw", is_flag=True, help="Leave the calibration aside.")
@click.option(
    "--people",
    type=click.Choice(["mean", "max", "pooled"]),
    help="Pairs are of people: the mean or maximum over their photos, or the score of their mean "
    "vectors; always raw.",
)
@click.option("--chunk", type=click.IntRange(1), default=ScoreConfig.chunk, help="Pairs at a time.")
@click.option("--threads", type=click.IntRange(1), help="[default: one for each processor]")
def score(run: Path, data: Path, seed: int, quiet: bool, verbose: bool, **settings: Any) -> None:
    """Score the pairs of a submission from the cache."""
    _listen(quiet, verbose)
    from kinembed.score import score as stage

    stage(ScoreConfig(**settings), data, run)


@cli.command()
@common("runs/demo")
def demo(run: Path, data: Path, seed: int, quiet: bool, verbose: bool) -> None:
    """Run the whole chain on drawn families: two cores, three minutes, no download."""
    progress = _listen(quiet, verbose)
    from kinembed.demo import demo as stage

    result = stage(run, seed=seed, progress=progress)
    click.echo(
        f"AUC {result.auc:.3f} on {result.pairs} pairs of families it never trained on "
        f"(chance: 0.500; difference of the photos' mean colours: {result.colour_auc:.3f})"
    )
    for what, path in result.files.items():
        click.echo(f"{what:>10}  {path}")


@cli.group()
def cache() -> None:
    """The embedding cache: what is in it, and whether it is sound."""


@cache.command()
@common()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def info(run: Path, as_json: bool, quiet: bool, verbose: bool, **_: Any) -> None:
    """Say what a cache holds and what made it."""
    _listen(quiet, verbose)
    from kinembed.cache.verify import describe

    click.echo(describe(run / "embeddings.h5", as_json))


@cache.command("views")
@common()
def list_views(run: Path, quiet: bool, verbose: bool, **_: Any) -> None:
    """List the views: name, width and type."""
    _listen(quiet, verbose)
    from kinembed.cache import EmbeddingCache

    with EmbeddingCache.open(run / "embeddings.h5") as opened:
        for view in opened.views:
            vectors = opened.vectors(view)
            click.echo(f"{view}  {vectors.shape[1]}  {vectors.dtype}")


@cache.command("export")
@common()
@click.option("--npy", "kind", flag_value=".npy", default=".npy", help="And the names as .txt.")
@click.option("--csv", "kind", flag_value=".csv")
@click.option("--parquet", "kind", flag_value=".parquet", help="Needs kinembed[parquet].")
@click.option("--view", help="[default: max, or the only one]")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="[default: embeddings.npy, .csv or .parquet in --run]",
)
def export_cache(
    run: Path, kind: str, view: str | None, out: Path | None, quiet: bool, verbose: bool, **_: Any
) -> None:
    """Write a view for other programs; print the file."""
    _listen(quiet, verbose)
    from kinembed.cache.convert import export_vectors

    out = out if out is not None else run / f"embeddings{kind}"
    if out.suffix != kind:
        out = out.with_name(out.name + kind)
    click.echo(export_vectors(run / "embeddings.h5", out, view))


@cache.command("import")
@common()
@click.argument("vectors", metavar="VECTORS.npy", type=click.Path(path_type=Path))
@click.argument("names", metavar="NAMES.txt", type=click.Path(path_type=Path))
@click.option("--backbone-name", required=True, help="What made the vectors.")
@click.option("--view", default="native", help="What to call them.")
@click.option("--force", is_flag=True, help="Replace the cache that is there.")
def import_cache(
    run: Path,
    vectors: Path,
    names: Path,
    backbone_name: str,
    view: str,
    force: bool,
    quiet: bool,
    verbose: bool,
    **_: Any,
) -> None:
    """Make a cache of vectors that were made elsewhere."""
    _listen(quiet, verbose)
    from kinembed.cache.convert import import_vectors

    import_vectors(vectors, names, run, backbone_name, view, force)


@cache.command("merge")
@common()
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="[default: embeddings.h5 in --run]",
)
@click.option("--force", is_flag=True, help="Replace the cache that is there.")
def merge_caches(
    run: Path,
    first: Path,
    second: Path,
    out: Path | None,
    force: bool,
    quiet: bool,
    verbose: bool,
    **_: Any,
) -> None:
    """Make one cache of two: of other photos, or of other views of the same."""
    _listen(quiet, verbose)
    from kinembed.cache.convert import merge

    click.echo(merge(first, second, out if out is not None else run / "embeddings.h5", force))


@cache.command("verify")
@common()
@click.option("--repair", is_flag=True, help="Compute damaged rows anew from the photos.")
def verify_cache(run: Path, data: Path, repair: bool, quiet: bool, verbose: bool, **_: Any) -> int:
    """Read all of a cache and name what is damaged."""
    progress = _listen(quiet, verbose)
    from kinembed.cache.verify import verify as check

    path = run / "embeddings.h5"
    found = check(path)
    if repair and not found.is_sound:
        click.echo(found.as_text())
        from kinembed.embed import repair as stage

        stage(run, data, progress=progress)
        found = check(path)
    click.echo(found.as_text())
    return 0 if found.is_sound else 1


@cli.group()
def weights() -> None:
    """Pretrained weights: what there is, fetching, converting, checking."""


@weights.command("list")
@common()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def list_weights(quiet: bool, verbose: bool, as_json: bool, **_: Any) -> None:
    """List the published weights of all backbones and where they are."""
    _listen(quiet, verbose)
    from kinembed import weights as stage

    rows = stage.list_weights()
    click.echo(stage.as_json(rows) if as_json else stage.as_table(rows))


@weights.command()
@common()
@click.argument("backbone")
@click.option("--weights", "which", default="auto", metavar="auto|NAME", help="See weights list.")
def fetch(backbone: str, which: str, quiet: bool, verbose: bool, **_: Any) -> None:
    """Bring a backbone's weights onto this machine; print the file they are read from."""
    progress = _listen(quiet, verbose)
    from kinembed.weights import fetch as stage

    click.echo(stage(backbone, which, progress=progress))


@weights.command()
@common()
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.argument("target", metavar="DST.safetensors", type=click.Path(path_type=Path))
@click.option("--backbone", required=True, help="The network that the weights are of.")
def convert(
    source: Path, target: Path, backbone: str, quiet: bool, verbose: bool, **_: Any
) -> None:
    """Write weights of any kind that can be read as safetensors."""
    _listen(quiet, verbose)
    from kinembed.weights import convert as stage

    click.echo(stage(source, target, backbone))


@weights.command()
@common()
@click.argument("target", metavar="BACKBONE|PATH")
@click.option("--backbone", help="The network that the file is of.")
@click.option("--weights", "which", default="auto", metavar="auto|NAME", help="See weights list.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def verify(
    target: str,
    backbone: str | None,
    which: str,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **_: Any,
) -> None:
    """Check that weights are unchanged and fit their network."""
    _listen(quiet, verbose)
    from kinembed import weights as stage

    found = stage.verify(target, backbone, which)
    if as_json:
        click.echo(stage.as_json(found))
    else:
        click.echo(f"{found.path}: weights of {found.backbone}, {found.parameters:,} parameters")
        click.echo(f"sha256 of the file     {found.sha256}")
        click.echo(f"digest of the tensors  {found.digest}")


def _three_numbers(option: click.Parameter, text: str) -> tuple[float, float, float]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3 or not all(abs(number) < 1e6 for number in numbers):
        raise click.BadParameter(f"found {text!r}, wanted one number or three", param=option)
    return numbers[0], numbers[1], numbers[2]


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    """Options that were given; those that depend on others are left to the config."""
    return {name: value for name, value in settings.items() if value is not None}


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _listen(quiet: bool, verbose: bool) -> Progress:
    """Sends the stages' words to standard error; returns what draws their progress."""
    level = logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("kinembed")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(level)
    return silent if quiet or not sys.stderr.isatty() else _bar


def _bar(label: str, total: int) -> AbstractContextManager[Bar]:
    return _ClickBar(label, total)


class _ClickBar:
    def __init__(self, label: str, total: int) -> None:
        self.note = ""
        self.bar: Any = click.progressbar(
            length=total, label=label, file=sys.stderr, item_show_func=lambda _: self.note
        )

    def __enter__(self) -> "_ClickBar":
        self.bar.__enter__()
        return self

    def __exit__(self, *problem: Any) -> None:
        self.bar.__exit__(*problem)

    def advance(self, count: int, note: str = "") -> None:
        self.note = note
        self.bar.update(count)
