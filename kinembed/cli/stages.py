"""A command for each stage; each imports its own stage when it is called."""

from pathlib import Path
from typing import Any

import click

from kinembed.cli import results
from kinembed.cli.options import (
    common,
    computing,
    given,
    json_result,
    listed,
    reading,
    three_numbers,
    training,
)
from kinembed.cli.progress import listen
from kinembed.config import (
    CalibrateConfig,
    EmbedConfig,
    EvaluateConfig,
    ExperimentsConfig,
    FinetuneConfig,
    HeadConfig,
    ScoreConfig,
)
from kinembed.recipes import HEAD_KINDS, METRIC, RECIPES


@click.command()
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
@json_result("path", "epochs", "best_epoch", "val_auc", "val_accuracy", "seconds")
def finetune(
    run: Path,
    data: Path,
    quiet: bool,
    verbose: bool,
    resume: bool,
    summary: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train the siamese network."""
    progress = listen(quiet, verbose)
    config = FinetuneConfig(**given(settings))
    if summary:
        if as_json:
            raise click.UsageError("--summary and --json: wanted one of the two")
        from kinembed.backbones import find_backbone
        from kinembed.training.summary import summarise

        backbone = find_backbone(config.backbone)
        click.echo(summarise(backbone, config.view, config.full_recipe()).as_table())
        return
    from kinembed.finetune import finetune as stage

    path = stage(config, data, run, resume=resume, progress=progress)
    if as_json:
        results.print_json(results.of_finetune(path))


@click.command()
@common("runs/experiments")
@computing
@click.option(
    "--recipes",
    default="all",
    metavar="all|NAME,NAME…",
    callback=lambda *a: tuple(RECIPES) if a[2] == "all" else listed(a[2]),
    help="Recipes to run.",
)
@click.option(
    "--backbones",
    default=",".join(ExperimentsConfig.backbones),
    metavar="NAME,NAME…",
    callback=lambda *a: listed(a[2]),
    help="Face networks to run them on.",
)
@click.option(
    "--splits",
    default=",".join(ExperimentsConfig.splits),
    metavar="people,families",
    callback=lambda *a: listed(a[2]),
    help="What is drawn for validation.",
)
@training
@json_result("path", "results")
def experiments(
    run: Path,
    data: Path,
    quiet: bool,
    verbose: bool,
    recipes: tuple[str, ...],
    backbones: tuple[str, ...],
    splits: tuple[str, ...],
    as_json: bool,
    **settings: Any,
) -> int:
    """Train recipe after recipe; those that are done already are not run again."""
    progress = listen(quiet, verbose)
    from kinembed.experiments import experiments as stage

    config = ExperimentsConfig(recipes, backbones, splits, FinetuneConfig(**given(settings)))
    path = stage(config, data, run, progress=progress)
    result = results.of_experiments(path)
    if as_json:
        results.print_json(result)
    else:
        click.echo((run / "experiments.md").read_text(encoding="utf-8"), nl=False)
    return 1 if any(row["error"] for row in result["results"]) else 0


@click.command()
@common()
@computing
@click.option(
    "--photos",
    default=",".join(EmbedConfig.photos),
    metavar="train,test|DIR…",
    callback=lambda *a: listed(a[2]),
    help="Folders of photos.",
)
@click.option(
    "--views",
    metavar="NAME,NAME…",
    callback=lambda *a: None if a[2] is None else listed(a[2]),
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
    callback=lambda *a: three_numbers(a[1], a[2]),
    help="Taken from pixel values.",
)
@click.option(
    "--scale",
    default=",".join(map(str, EmbedConfig.scale)),
    metavar="S|R,G,B",
    callback=lambda *a: three_numbers(a[1], a[2]),
    help="They are divided by it.",
)
@click.option(
    "--order",
    type=click.Choice(["rgb", "bgr"], case_sensitive=False),
    default=EmbedConfig.order,
    help="Of the channels.",
)
@json_result("path", "photos", "bytes", "views", "provenance")
def embed(
    run: Path, data: Path, seed: int, quiet: bool, verbose: bool, as_json: bool, **settings: Any
) -> None:
    """Write every photo's embedding to the cache."""
    progress = listen(quiet, verbose)
    from kinembed.embed import embed as stage

    path = stage(EmbedConfig(**settings), data, run, progress=progress)
    if as_json:
        results.print_json(results.of_cache(path))


@click.command()
@common()
@reading
@click.option(
    "--kind",
    type=click.Choice(list(HEAD_KINDS)),
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
@json_result(
    *("path", "recipe", "settings", "view", "seed", "folds", "pairs", "auc", "low", "high"),
    *("seconds", "head"),
    more="; of a sweep: path, heads",
)
def head(
    run: Path,
    data: Path,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    kind: str | None,
    ensemble: int | None,
    **settings: Any,
) -> None:
    """Retrain the head from the cache alone."""
    progress = listen(quiet, verbose)
    if kind is not None:
        settings["recipe"] = HEAD_KINDS[kind]
    own = {"members": ensemble}
    if settings["recipe"] == METRIC.name:  # its recipe has these
        own |= {name: settings.pop(name) for name in ("epochs", "steps")}
    settings["overrides"] += tuple(f"{k}={v}" for k, v in own.items() if v is not None)
    settings = given(settings)
    from kinembed.head import head as stage

    path = stage(HeadConfig(**settings), data, run, progress=progress)
    if as_json:
        read = results.of_sweep if settings["sweep"] else results.of_head
        results.print_json(read(path))
    elif settings["sweep"]:
        click.echo(path.with_suffix(".md").read_text(encoding="utf-8"), nl=False)


@click.command()
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
@json_result("path", "threshold", "target", "map", "fitted_prior", "prior", "people", "estimates")
def calibrate(
    run: Path, data: Path, quiet: bool, verbose: bool, as_json: bool, **settings: Any
) -> None:
    """Fit threshold and probabilities on people who never trained."""
    listen(quiet, verbose)
    from kinembed.calibrate import calibrate as stage

    path = stage(CalibrateConfig(**settings), data, run)
    if as_json:
        results.print_json(results.of_calibrate(path))


@click.command()
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
@json_result("path", more=" and all of evaluation.json")
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
    listen(quiet, verbose)
    if pairs is not None and protocol is not None:
        raise click.UsageError("--pairs and --protocol: wanted one of the two")
    kind, source = protocol if protocol is not None else (None, pairs)
    from kinembed.evaluate import evaluate as stage

    path = stage(EvaluateConfig(pairs=source, protocol=kind, **settings), data, run)
    result = results.of_evaluate(path)
    if as_json:
        results.print_json(result)
        return
    from kinembed.report.evaluation import evaluation_table

    click.echo(evaluation_table(result), nl=False)


@click.command()
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
@json_result("path", "pairs")
def score(
    run: Path, data: Path, seed: int, quiet: bool, verbose: bool, as_json: bool, **settings: Any
) -> None:
    """Score the pairs of a submission from the cache."""
    listen(quiet, verbose)
    from kinembed.score import score as stage

    path = stage(ScoreConfig(**settings), data, run)
    if as_json:
        results.print_json(results.of_score(path))


@click.command()
@common("runs/demo")
@json_result("path", "auc", "colour_auc", "pairs", "files")
def demo(run: Path, data: Path, seed: int, quiet: bool, verbose: bool, as_json: bool) -> None:
    """Run the whole chain on drawn families: two cores, three minutes, no download."""
    progress = listen(quiet, verbose)
    from kinembed.demo import demo as stage

    result = stage(run, seed=seed, progress=progress)
    if as_json:
        from dataclasses import asdict

        files = {what: str(path) for what, path in result.files.items()}
        results.print_json({"path": run, **asdict(result), "files": files})
        return
    click.echo(
        f"AUC {result.auc:.3f} on {result.pairs} pairs of families it never trained on "
        f"(chance: 0.500; difference of the photos' mean colours: {result.colour_auc:.3f})"
    )
    for what, path in result.files.items():
        click.echo(f"{what:>10}  {path}")


COMMANDS = (finetune, experiments, embed, head, calibrate, evaluate, score, demo)
