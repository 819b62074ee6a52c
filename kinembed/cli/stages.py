"""A command for each stage; each imports its own stage when it is called."""

from pathlib import Path
from typing import Any

import click

from kinembed.cli import results
from kinembed.cli.options import (
    FloatRange,
    backbones,
    check_engine,
    common,
    computing,
    finetune_recipes,
    folders,
    given,
    head_recipes,
    json_result,
    kept,
    known_backbone,
    listed,
    on_ray,
    part_of,
    reading,
    three_numbers,
    tracking,
    training,
    who,
)
from kinembed.cli.progress import listen, said_once
from kinembed.config import (
    DTYPES,
    MOST_FOLDS,
    CalibrateConfig,
    EmbedConfig,
    EvaluateConfig,
    ExperimentsConfig,
    FinetuneConfig,
    HeadConfig,
    ScoreConfig,
)
from kinembed.recipes import HEAD_KINDS, RECIPES


@click.command()
@common()
@computing
@click.option(
    "--backbone",
    default=FinetuneConfig.backbone,
    shell_complete=backbones,
    callback=known_backbone,
    help="Face network (the siamese trunk).",
)
@click.option(
    "--recipe",
    default=FinetuneConfig.recipe,
    shell_complete=finetune_recipes,
    help="Training recipe: one of the report, fusion, with other features of a pair, or kin, by a "
    "contrastive loss.",
)
@click.option(
    "--split",
    type=click.Choice(["people", "families"]),
    help="Unit of the validation split.  [default: people; recipe kin: families]",
)
@click.option(
    "--split-seed",
    type=click.IntRange(0, 2**63 - 1),
    help="Seed of the validation split: the same one for networks with stacked caches.  "
    "[default: --seed]",
)
@click.option(
    "--folds",
    type=click.IntRange(2, MOST_FOLDS),
    help="Train so many networks in turn, each of which holds out another fold of the families, "
    "into folds/1, folds/2… of --run.",
)
@click.option("--fold", type=click.IntRange(1), help="Train this one of --folds alone.")
@who
@training
@click.option(
    "--resume",
    is_flag=True,
    help="Continue from the last whole epoch; of --folds, keep those that are trained. Implied "
    "where torchrun starts its processes again.",
)
@tracking
@click.option("--summary", is_flag=True, help="Print the network layer by layer, without training.")
@click.option(
    "--architecture",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="SVG",
    help="Draw the network into this file, without training.",
)
@json_result(
    *("path", "epochs", "best_epoch", "kept_epoch", "val_auc", "val_accuracy", "seconds"),
    more="; of --folds, path, val_auc (their mean), seconds and folds, a list of these",
)
def finetune(
    run: Path,
    data: Path,
    quiet: bool,
    verbose: bool,
    resume: bool,
    track: str | None,
    summary: bool,
    architecture: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Fine-tune the siamese network on kin and non-kin pairs.

    Reads the photos and train_relationships.csv of --data. Writes model.pt, head.h5, config.json,
    history.csv, curves.png and architecture.svg into --run. With --folds each network has a run
    folder of its own below it.
    """
    progress = listen(quiet, verbose)
    table = settings.pop("people_table")
    settings["people_table"] = None if table is None else str(table)
    config = FinetuneConfig(**given(settings))
    if summary or architecture is not None:
        if architecture is not None:
            if architecture.suffix.lower() != ".svg":
                raise click.UsageError(f"--architecture {architecture}: wanted a name.svg")
            from kinembed.outputs import check_output

            check_output(architecture, [], [run], own=["architecture.svg"])
        if as_json:
            raise click.UsageError("--json is of a training: leave out --summary, --architecture")
        from kinembed.backbones import find_backbone
        from kinembed.report.architecture import draw_architecture
        from kinembed.training.summary import summarise

        network = find_backbone(config.backbone).with_pixels(config.pixels)
        layers = summarise(network, config.view, config.full_recipe())
        if architecture is not None:
            draw_architecture(layers, architecture)
        if summary:
            results.show_table(layers.as_table())
        return
    config.full_recipe()  # refuses a wrong name before torch is imported
    from kinembed.finetune import finetune as stage
    from kinembed.training.ranks import label

    path = stage(config, data, run, resume=resume, track=track is not None, progress=progress)
    if as_json and not label():
        every = config.folds is not None and config.fold is None
        results.print_json(results.of_folds(run) if every else results.of_finetune(path))


@click.command()
@common("runs/experiments")
@computing
@click.option(
    "--recipes",
    metavar="all|NAME,NAME…",
    callback=lambda *a: tuple(RECIPES) if a[2] == "all" else _listed(a[2]),
    help="Training recipes.  [default: all]",
)
@click.option(
    "--backbones",
    metavar="NAME,NAME…",
    callback=lambda *a: _listed(a[2]),
    help=f"Face networks.  [default: {FinetuneConfig.backbone}]",
)
@click.option(
    "--splits",
    metavar="people,families",
    callback=lambda *a: _listed(a[2]),
    help="Units of the validation split.  [default: both; --report: people]",
)
@click.option(
    "--report",
    is_flag=True,
    help="Run just the report's eight trainings, and write a submission of each.",
)
@click.option(
    "--pairs",
    type=click.Path(path_type=Path),
    default=ExperimentsConfig.pairs,
    help="Pairs of these submissions; a relative path is also looked for in --data.",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="CSV of labelled pairs of test photos; adds the AUC on them to the table.",
)
@training
@json_result("path", "results")
def experiments(
    run: Path,
    data: Path,
    quiet: bool,
    verbose: bool,
    recipes: tuple[str, ...] | None,
    backbones: tuple[str, ...] | None,
    splits: tuple[str, ...] | None,
    report: bool,
    pairs: Path,
    labels: Path | None,
    as_json: bool,
    **settings: Any,
) -> int:
    """Fine-tune every recipe on every backbone and split; skip finished ones.

    Writes experiments.csv, experiments.md, experiments.png and scores.png into --run, and each
    training into a run folder BACKBONE-RECIPE-SPLIT below it. Rows of earlier calls stay in the
    tables.
    """
    progress = listen(quiet, verbose)
    if report and (recipes is not None or backbones is not None):
        raise click.UsageError("--report names recipes and backbones; leave out the others")
    from kinembed.experiments import experiments as stage

    chosen = {"recipes": recipes, "backbones": backbones, "splits": splits}
    config = ExperimentsConfig(
        settings=given(settings),
        report=report,
        pairs=pairs,
        labels=labels,
        **given(chosen),
    )
    path = stage(config, data, run, progress=progress)
    result = results.of_experiments(path)
    if as_json:
        results.print_json(result)
    else:
        results.show_table((run / "experiments.md").read_text(encoding="utf-8"))
    run_now = {(each.backbone, each.recipe, each.split) for each in config.trainings()}
    failed = {(r["backbone"], r["recipe"], r["split"]) for r in result["results"] if r["error"]}
    return 1 if failed & run_now else 0


@click.command()
@common()
@computing
@click.option(
    "--photos",
    multiple=True,
    default=[",".join(EmbedConfig.photos)],
    metavar="train,test|DIR…",
    callback=lambda *a: tuple(folder for text in a[2] for folder in folders(text)),
    help="Folders of photos: train and test lie in --data, any other is a path, and its photos are "
    "named by their place below it.",
)
@who
@click.option(
    "--views",
    metavar="NAME,NAME…",
    callback=lambda *a: None if a[2] is None else listed(a[2]),
    help="Views (vectors) of each photo.  [default: max, native where the network has one, the one "
    "that the network was fine-tuned by, and those of a cache of this network in --run]",
)
@click.option(
    "--flip/--no-flip",
    default=EmbedConfig.flip,
    help="Add a view VIEW-flip of the mirrored photo for each view, for test-time augmentation "
    "(TTA); takes twice the time.  [default: as the cache in --run has them, else no]",
)
@click.option(
    "--folds",
    "of_folds",
    is_flag=True,
    help="Embed with each network of finetune --folds, into embeddings.h5 of its own folder; "
    "--run RUN/folds/3 embeds with one.",
)
@click.option(
    "--model",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Network of kinembed finetune, of this run or another.  [default: model.pt in --run]",
)
@click.option(
    "--backbone",
    shell_complete=backbones,
    callback=known_backbone,
    help="Pretrained face network in place of the fine-tuned one.",
)
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    default=EmbedConfig.dtype,
    help="Number format in the cache; int8 is a byte a number, and a scale a photo.  [default: as "
    "an interrupted run has it, or the cache of this network in --run; else float32]",
)
@click.option(
    "--batch-size", type=click.IntRange(1), help="Photos per batch.  [default: 16; 128 on a GPU]"
)
@click.option(
    "--shard",
    metavar="I/N",
    callback=lambda *a: part_of(a[1], a[2]),
    help="Compute a part of the photos, the I-th of N, while other processes or machines with the "
    "same --run compute the others; the last one joins them.",
)
@click.option(
    "--shard-photos",
    type=click.IntRange(1),
    default=EmbedConfig.shard_photos,
    help="Photos per shard, which is whole on disk or computed again.",
)
@click.option(
    "--in-shards/--one-file",
    default=EmbedConfig.in_shards,
    help="Leave the cache in shards, embeddings.json and a folder of files, or join them to "
    "embeddings.h5.  [default: as that of --run, else --one-file]",
)
@on_ray("computes the shards", "--run and --data")
@click.option(
    "--actor-gpus",
    type=FloatRange(0),
    default=EmbedConfig.actor_gpus,
    help="GPUs of each actor; .5: two share one.",
)
@click.option("--restart", is_flag=True, help="Discard an interrupted run with other settings.")
@click.option(
    "--rehash",
    is_flag=True,
    help="Read every photo again, even with the same size and modification time.",
)
@click.option(
    "--onnx",
    type=click.Path(path_type=Path),
    help="ONNX file in place of a face network; needs kinembed[onnx].  --output, --side, --mean, "
    "--scale and --order describe it.",
)
@click.option(
    "--output",
    metavar="NAME",
    help="Output of the ONNX file that gives the vectors.  [default: the only one with a vector of "
    "each photo]",
)
@click.option(
    "--side",
    type=click.IntRange(1, 4096),
    help="Side of the ONNX file's input in pixels.  [default: as the file says, else 112]",
)
@click.option(
    "--mean",
    metavar="M|R,G,B",
    callback=lambda *a: three_numbers(a[1], a[2]),
    help="Mean to subtract from pixel values.  [default: 127.5; 0 if its input is of bytes]",
)
@click.option(
    "--scale",
    metavar="S|R,G,B",
    callback=lambda *a: three_numbers(a[1], a[2]),
    help="Divisor of pixel values.  [default: 128; 1 if its input is of bytes]",
)
@click.option(
    "--order",
    type=click.Choice(["rgb", "bgr"], case_sensitive=False),
    default=EmbedConfig.order,
    help="Order of the channels.",
)
@json_result(
    *("path", "photos", "people", "families", "bytes", "views", "provenance"),
    more="; of --folds, path and folds, a list of these",
)
def embed(
    run: Path,
    data: Path,
    seed: int,
    quiet: bool,
    verbose: bool,
    of_folds: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Write the embedding of every photo to the cache.

    Reads the photos and model.pt, or a pretrained network with --backbone. Writes embeddings.h5
    into --run. A second run embeds only new and changed photos. With --shard, embed.partial holds
    the parts until all are done.
    """
    progress = listen(quiet, verbose)
    from kinembed.embed import embed as stage

    config = EmbedConfig(**settings)
    if config.engine == "ray" and config.shard:
        raise click.UsageError("--engine ray hands out all shards; leave out --shard")
    check_engine(settings)
    if of_folds:
        if config.model or config.backbone or config.onnx:
            raise click.UsageError("--folds names the networks; leave out the others")
        from kinembed.fold_runs import FOLDER, fold_runs

        folders = fold_runs(run, "model.pt")
        with said_once(folders):
            paths = [stage(config, data, each, progress=progress) for each in folders]
        if as_json:
            caches = [results.of_cache(path) for path in paths]
            results.print_json({"path": run / FOLDER, "folds": caches})
        return
    path = stage(config, data, run, progress=progress)
    if as_json:
        results.print_json(results.of_cache(path))


@click.command()
@common()
@reading
@click.option(
    "--kind",
    type=click.Choice(list(HEAD_KINDS)),
    help="Kind of head to train, in place of --recipe: metric ranks best on real photos; l1, "
    "l1-dense and regularized are of the report, by recipes base, dense and regularized.",
)
@click.option(
    "--recipe",
    shell_complete=head_recipes,
    help="Training recipe.  [default: metric; of a network fine-tuned by a recipe of the report, "
    "that recipe]",
)
@click.option(
    "--fine-tuned",
    is_flag=True,
    help="Train nothing: take the heads that compare pairs as the networks were fine-tuned with "
    "them; those of several networks, or of finetune --folds, are fused late.",
)
@click.option(
    "--warm-start",
    is_flag=True,
    help="Begin with the weights of the fine-tuned head.  Not for metric heads.",
)
@click.option(
    "--folds",
    type=click.IntRange(0),
    help="Metric heads: k of the k-fold split of the families; each member holds out one fold. 0: "
    "all members hold out the same part.  [default: 5]",
)
@click.option(
    "--flip/--no-flip",
    default=True,
    help="Metric heads: test-time augmentation (TTA) by mirrored photos.",
)
@click.option(
    "--ensemble",
    type=click.IntRange(1),
    help="Members of the ensemble: of a metric head without folds, or of a pair head, each from a "
    "seed of its own.  [default: 5; pair heads: 1]",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a value of the recipe: dropout=0.2 or hidden=100,25; repeatable.",
)
@click.option(
    "--view",
    "views",
    multiple=True,
    help="View of the cache, or several side by side: max+native; repeat it for a head of each, "
    "fused late.  [default: max; metric heads: native+max; of several caches those of each]",
)
@click.option(
    "--epochs",
    type=click.IntRange(1),
    help="Epochs at most.  [default: 30; metric heads: of the recipe]",
)
@click.option(
    "--steps",
    type=click.IntRange(1),
    help="Training batches per epoch.  [default: 100; metric heads: of the recipe]",
)
@click.option(
    "--val-steps",
    type=click.IntRange(1),
    default=HeadConfig.val_steps,
    help="Validation batches per epoch.",
)
@click.option(
    "--batch-size", type=click.IntRange(2), default=HeadConfig.batch_size, help="Pairs per batch."
)
@click.option(
    "--positive-fraction",
    type=FloatRange(0, 1, min_open=True, max_open=True),
    default=HeadConfig.positive_fraction,
    help="Fraction of kin pairs in a batch.",
)
@click.option(
    "--exclude-family",
    is_flag=True,
    help="No non-kin pair of one family, in which relatives may be unlisted.",
)
@click.option(
    "--split",
    type=click.Choice(["people", "families"]),
    help="Unit of the held-out split.  [default: that of the network, else families]",
)
@click.option(
    "--patience",
    type=click.IntRange(1),
    help="Stop after this many epochs without a better validation AUC.",
)
@click.option(
    "--sweep",
    multiple=True,
    metavar="KEY=V1,V2…",
    help="Train a head for each value and tabulate their AUC; repeatable, for all combinations.",
)
@click.option(
    "--kinfacew",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Train by KinFaceW's protocol: each member on the other four folds of its kin pairs.",
)
@click.option(
    "--exclude",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Table of photos, people and pairs of people to leave out, of kinembed audit --write.",
)
@tracking
@kept("head", "its calibration with it")
@click.option(
    "--publish",
    "published",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.h5",
    help="Write the head in use and its calibration as one file without names and without vectors "
    "of people, and its card as FILE.md; nothing is trained.",
)
@click.option(
    "--card",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="With --publish: Markdown that the card begins with, on what the head is for and where it "
    "fails.",
)
@json_result(
    *("path", "recipe", "settings", "view", "seed", "folds", "pairs", "auc", "low", "high"),
    *("epoch_chosen_by", "seconds", "head"),
    more="; of a sweep: path, heads; with --list or --use: heads; with --publish: path, card, "
    "head, origin, network, fidelity, bytes",
)
def head(
    run: Path,
    data: Path,
    quiet: bool,
    verbose: bool,
    use: str | None,
    show: bool,
    published: Path | None,
    card: Path | None,
    track: str | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train the head that compares two embeddings, from the cache alone.

    Reads embeddings.h5 and train_relationships.csv. Writes head.h5 and history-head.csv into --run,
    keeps the head in heads/ and adds a row to heads.csv there; a sweep writes sweep.csv and
    sweep.md in place of a head.
    """
    progress = listen(quiet, verbose)
    kind, recipe = settings["kind"], settings["recipe"]
    if kind is not None and recipe not in (None, HEAD_KINDS[kind]):
        raise click.UsageError(f"--kind {kind} is recipe {HEAD_KINDS[kind]}; leave out --recipe")
    if card is not None and published is None:
        raise click.UsageError("--card is of a published head; wanted with --publish FILE.h5")
    if show and use is None and published is None:  # needs none of what trains
        _print_kept(results.of_kept_heads(run), ("view", "recipe", "auc", "when"), as_json)
        return
    from kinembed.head import head as stage
    from kinembed.head import publish
    from kinembed.head import use as use_kept

    if use is not None:
        use_kept(run, use)
    if published is not None:
        caches, seed = settings["caches"], settings["seed"]
        result = publish(published, data, run, caches=caches, card=card, seed=seed)
        if as_json:
            results.print_json(results.of_published(published, result))
        return
    if use is not None:
        if show or as_json:
            _print_kept(results.of_kept_heads(run), ("view", "recipe", "auc", "when"), as_json)
        return
    if track is not None and settings["sweep"]:
        raise click.UsageError("--track is of one head; leave out --sweep")
    path = stage(HeadConfig(**settings), data, run, track=track is not None, progress=progress)
    if as_json:
        read = results.of_sweep if settings["sweep"] else results.of_head
        results.print_json(read(path))
    elif settings["sweep"]:
        results.show_table(path.with_suffix(".md").read_text(encoding="utf-8"))


@click.command()
@common()
@reading
@click.option(
    "--target",
    default=CalibrateConfig.target,
    metavar="accuracy|youden|far=RATE",
    help="Rule that chooses the threshold.",
)
@click.option(
    "--map",
    type=click.Choice(["none", "platt", "isotonic"]),
    default=CalibrateConfig.map,
    help="Map from scores to probabilities.",
)
@click.option(
    "--prior",
    type=FloatRange(0, 1, min_open=True, max_open=True),
    help="Fraction of kin pairs in use.  [default: 0.5, as sampled]",
)
@click.option(
    "--pairs", type=click.IntRange(2), default=CalibrateConfig.pairs, help="Pairs to sample."
)
@kept("calibration")
@json_result(
    *("path", "head", "people", "epoch_chosen_by", "alone", "expanded", "make_up"),
    more="; with --list or --use: calibrations",
)
def calibrate(
    run: Path,
    data: Path,
    quiet: bool,
    verbose: bool,
    use: str | None,
    show: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Fit the threshold and the probability map on held-out people.

    Reads embeddings.h5, head.h5 and train_relationships.csv. Writes calibration.json into --run.
    """
    listen(quiet, verbose)
    from kinembed.calibrate import calibrate as stage
    from kinembed.calibrate import use as use_kept

    if use is not None or show:
        if use is not None:
            use_kept(run, use)
        if show or as_json:
            columns = ("map", "target", "prior", "head")
            _print_kept(results.of_kept_calibrations(run), columns, as_json)
        return
    path = stage(CalibrateConfig(**settings), data, run)
    if as_json:
        results.print_json(results.of_calibrate(path))


@click.command()
@common()
@reading
@click.option(
    "--pairs",
    type=click.Path(path_type=Path),
    help="CSV of labelled pairs; - for standard input.  [default: sampled pairs of held-out "
    "people]",
)
@click.option(
    "--protocol",
    type=(click.Choice(["kinfacew", "rfiw"]), click.Path(path_type=Path)),
    metavar="kinfacew DIR|rfiw LIST",
    help="Published protocol in place of --pairs.",
)
@click.option(
    "--head",
    type=click.Path(path_type=Path),
    metavar="FILE|packaged",
    help="Head: a head.h5, a published one, or packaged, the one that comes with kinembed.  "
    "[default: head.h5 in --run]",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    help="Calibration to use; it must fit the head.  [default: calibration.json in --run, or a "
    "kept one that fits, if there is one]",
)
@click.option(
    "--expand",
    type=click.Choice(["auto", "exact", "off"]),
    default=EvaluateConfig.expand,
    help="Query expansion, by other photos that are likely of the same person; exact compares all "
    "pairs of more than 50,000 photos, too.",
)
@click.option(
    "--skip-trained",
    is_flag=True,
    help="Leave out and count labelled pairs on people who trained the head.",
)
@click.option(
    "--count",
    type=click.IntRange(2),
    default=EvaluateConfig.count,
    help="Pairs to sample without --pairs.",
)
@click.option(
    "--pictures/--no-pictures", default=True, help="Draw the most confident errors, errors.png."
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
    """Evaluate the head on labelled pairs, or on held-out people.

    Reads embeddings.h5, head.h5 and, if there is one, calibration.json. Writes evaluation.json,
    charts and the most wrong pairs into --run, and prints a table.
    """
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

    results.show_table(evaluation_table(result))


@click.command()
@common()
@reading
@click.option(
    "--pairs",
    type=click.Path(path_type=Path),
    default=ScoreConfig.pairs,
    help="Pairs as .csv, .csv.gz or .parquet, or - for standard input; a relative path is also "
    "looked for in --data.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Submission.  [default: submission.csv in --run]",
)
@click.option(
    "--head",
    type=click.Path(path_type=Path),
    metavar="FILE|packaged",
    help="Head: a head.h5, a published one, or packaged, the one that comes with kinembed.  "
    "[default: head.h5 in --run]",
)
@click.option(
    "--expand",
    type=click.Choice(["auto", "exact", "off"]),
    default=ScoreConfig.expand,
    help="Query expansion, by other photos that are likely of the same person; exact compares all "
    "pairs of more than 50,000 photos, too.",
)
@click.option("--raw", is_flag=True, help="Ignore the calibration.")
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    help="Calibration to use; it must fit the head.  [default: calibration.json in --run, or a "
    "kept one that fits, if there is one]",
)
@click.option(
    "--people",
    type=click.Choice(["mean", "max", "pooled"]),
    help="Score pairs of people: by the mean or maximum over their photos, or by their mean "
    "vectors. Not calibrated, and not with --calibration.",
)
@click.option("--chunk", type=click.IntRange(1), default=ScoreConfig.chunk, help="Pairs per block.")
@click.option("--threads", type=click.IntRange(1), help="Threads.  [default: one per processor]")
@on_ray("scores", "--run, the caches and --data")
@click.option(
    "--actor-memory",
    type=FloatRange(0, min_open=True),
    default=ScoreConfig.actor_memory,
    help="GB of vectors that each actor holds, two blocks of photos.",
)
@click.option(
    "--shard-pairs",
    type=click.IntRange(1),
    default=ScoreConfig.shard_pairs,
    help="Pairs that an actor scores at a time, all of two blocks; whole on disk or computed "
    "again.",
)
@json_result("path", "pairs")
def score(
    run: Path, data: Path, seed: int, quiet: bool, verbose: bool, as_json: bool, **settings: Any
) -> None:
    """Score the pairs of a submission, from the cache alone.

    Reads embeddings.h5, head.h5 and, if there is one, calibration.json. Writes submission.csv into
    --run, with the pairs in their order.
    """
    progress = listen(quiet, verbose)
    check_engine(settings)
    from kinembed.score import score as stage

    path = stage(ScoreConfig(**settings), data, run, progress=progress)
    if as_json:
        results.print_json(results.of_score(path))


@click.command()
@common("runs/demo")
@json_result("path", "auc", "colour_auc", "pairs", "files")
def demo(run: Path, data: Path, seed: int, quiet: bool, verbose: bool, as_json: bool) -> None:
    """Run the whole chain on synthetic families: a minute of two cores, no download.

    Writes the photos, the artefacts of finetune, embed and score, and families.png into --run; it
    paints its own photos, so --data does not matter.
    """
    progress = listen(quiet, verbose)
    from kinembed.demo import demo as stage

    result = stage(run, seed=seed, progress=progress)
    if as_json:
        from dataclasses import asdict

        files = {what: str(path) for what, path in result.files.items()}
        results.print_json({"path": run, **asdict(result), "files": files})
        return
    results.show(
        f"AUC {result.auc:.3f} on {result.pairs} pairs of held-out families "
        f"(chance: 0.500; difference of the photos' mean colours: {result.colour_auc:.3f})"
    )
    for what, path in result.files.items():
        results.show(f"{what:>10}  {path}")


def _listed(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else listed(text)


def _print_kept(found: results.Result, columns: tuple[str, ...], as_json: bool) -> None:
    """Prints what a run folder keeps, as JSON or as a table."""
    if as_json:
        results.print_json(found)
        return
    from kinembed.report.tables import markdown_table
    from kinembed.views import JOIN

    (rows,) = found.values()
    texts = [
        [row["name"], *(_shown(row[name]) for name in columns), "yes" if row["in_use"] else ""]
        for row in rows
    ]
    header = ["name", *columns, "in use"]
    results.show_table(markdown_table([header, *texts], len(header)))
    if "view" in columns and any(JOIN in str(row["view"]) for row in rows):
        click.echo(
            "view: + joins what is compared together; 1. and 2. are the first and second --cache",
            err=True,
        )


def _shown(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)
