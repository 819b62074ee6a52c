"""The stage `finetune`: trains the siamese network, trunk and head, on photos of families."""

import hashlib
import json
import logging
import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kinembed import __version__
from kinembed.backbones import Backbone, Framing, check_views, find_backbone
from kinembed.backbones.device import (
    choose_device,
    choose_precision,
    explained_memory,
    to_device_if_fits,
)
from kinembed.backbones.framing import describe_frame
from kinembed.backbones.weights import digest, load_trunk, model_digest
from kinembed.config import FinetuneConfig
from kinembed.data.families import Families, read_families
from kinembed.data.framings import choose_framings
from kinembed.data.photo_files import TRAIN_FOLDERS
from kinembed.data.photos import decode_all
from kinembed.data.samplers import PairSampler
from kinembed.data.splits import (
    Split,
    describe_fold,
    describe_split,
    hold_out_folds,
    people_of,
    split_of_fold,
    split_people,
)
from kinembed.errors import KinembedError, RunError
from kinembed.fold_runs import FOLDER as FOLDS
from kinembed.fold_runs import SETTINGS, fold_run, shared_settings
from kinembed.heads.file import Chooser, HeadRecord
from kinembed.heads.kept import FOLDER, IN_USE, keep_head
from kinembed.io import (
    check_writable,
    locked_folder,
    moved_together,
    remove,
    write_bytes,
    write_csv,
)
from kinembed.memory import reused_memory
from kinembed.printable import counted
from kinembed.progress import Progress, silent
from kinembed.recipes import ContrastiveRecipe, FinetuneRecipe, KeptEpoch, PairRecipe
from kinembed.seeds import Stream, generator
from kinembed.training import checkpoint
from kinembed.training.contrastive_trainer import ContrastiveTrainer
from kinembed.training.pair_trainer import PairTrainer
from kinembed.training.ranks import Ranks, joined
from kinembed.training.siamese import SiameseNetwork, save_model
from kinembed.training.tracking import FOLDER as TENSORBOARD
from kinembed.training.tracking import Tracker, check_tracking
from kinembed.training.trainer import Trainer, TrainState
from kinembed.views import parts_of

log = logging.getLogger(__name__)

# Trainers by the kind of recipe.
TRAINERS: dict[str, type[Trainer]] = {
    PairRecipe.kind: PairTrainer,
    ContrastiveRecipe.kind: ContrastiveTrainer,
}
ARTEFACTS = ("config.json", "history.csv", "architecture.svg", IN_USE, "model.pt")
PARTIAL = "finetune.partial"  # the folder of unfinished work
CURVES = "curves.png"  # beside them, where matplotlib is installed


def finetune(
    config: FinetuneConfig,
    data: Path,
    run: Path,
    *,
    resume: bool = False,
    track: bool = False,
    progress: Progress = silent,
) -> Path:
    """Fine-tunes a siamese network: all layers of the trunk, and the head.

    With `config.folds` it trains as many networks in turn, each of which holds out another fold of
    the families: those of `head`, by the same seed. Each has a run folder of its own, `folds/1` and
    so on in the run folder; `config.fold` trains one alone, so that each may have a machine.

    Unfinished work lies in `finetune.partial` of the run folder; what the run folder holds is
    replaced at the end: `model.pt` and `head.h5` of the epoch that is kept, `config.json`,
    `history.csv`, `curves.png`, `architecture.svg`. Of the best epoch and the last, the one that is
    not kept is `model-best.pt` or `model-last.pt`. The heads of both are among those in `heads/`.

    Args:
        config: what to train, and how.
        data: the data folder.
        run: the run folder.
        resume: go on from the last whole epoch of an interrupted run; of folds, those that are
            finished stay, and those that have not begun begin.
        track: write each epoch into `tensorboard/finetune` of the run folder, too.
        progress: shows how far it is.

    Returns:
        The path of `model.pt`; of several folds that of their folder.

    Raises:
        KinembedError: data, weights, settings or an earlier run are not as they have to be.
    """
    config.check()
    if track:
        check_tracking()
    with reused_memory(), joined() as ranks:
        about = [settings(config), resume, __version__, torch.__version__]
        ranks.check_same(
            "settings, --resume, or versions of kinembed or torch",
            json.dumps(about, sort_keys=True),
        )
        if ranks.restarts and not resume and config.folds is None:
            if ranks.from_writer(partial(is_finished, config, data, run)):
                return run / "model.pt"
            resume = ranks.from_writer((run / PARTIAL / checkpoint.NAME).is_file)
        again = resume or ranks.restarts > 0
        return _networks(config, data, run, again, track, progress, ranks)


def _networks(
    config: FinetuneConfig,
    data: Path,
    run: Path,
    resume: bool,
    track: bool,
    progress: Progress,
    ranks: Ranks,
) -> Path:
    """Trains one network, or one for each fold; returns what `finetune` does."""
    if config.folds is None:
        return _finetune(config, data, run, resume, track, progress, ranks)
    seed = _split_seed(config)
    everybody = families_to_train(config, data)
    hold_out_folds(everybody, config.folds, seed)  # refuses more folds than families
    if ranks.is_writer:
        _keep_shared(config, checkpoint.listing(everybody), run)
    for fold in range(1, config.folds + 1) if config.fold is None else (config.fold,):
        one, there = replace(config, fold=fold), fold_run(run, fold)
        if resume and ranks.from_writer(partial(is_finished, one, data, there)):
            log.info("fold %d of %d: is trained already", fold, config.folds)
            continue
        log.info("fold %d of %d: %s", fold, config.folds, there)
        begun = ranks.from_writer((there / PARTIAL / checkpoint.NAME).is_file)
        _finetune(one, data, there, resume and begun, track, progress, ranks)
    return run / FOLDS if config.fold is None else fold_run(run, config.fold) / "model.pt"


def _finetune(
    config: FinetuneConfig,
    data: Path,
    run: Path,
    resume: bool,
    track: bool,
    progress: Progress,
    ranks: Ranks,
) -> Path:
    """Trains one network; returns the path of `model.pt`."""
    began = time.perf_counter()
    path = run / PARTIAL / checkpoint.NAME
    if not ranks.is_writer:
        state = checkpoint.read_on_all(path, config, ranks) if resume else None
        with explained_memory(choose_device(config.device), *_memory(config)):
            return _trained(config, data, run, state, False, progress, began, ranks)
    check_writable(*(run / name for name in ("history.csv", f"{FOLDER}/{IN_USE}", *ARTEFACTS)))
    if resume:
        checkpoint.refuse_missing(path)
    taken = (
        f"{run / PARTIAL}: another kinembed trains in this run folder; wait until it is done, or "
        "name another folder with --run"
    )
    with locked_folder(run / PARTIAL, RunError(taken), path.exists):
        state = checkpoint.read_on_all(path, config, ranks) if resume else None
        try:
            with explained_memory(choose_device(config.device), *_memory(config)):
                return _trained(config, data, run, state, track, progress, began, ranks)
        except BaseException:
            if path.exists():
                log.info("%s: whole epochs are kept", path.parent)
            raise


def _memory(config: FinetuneConfig) -> tuple[str, str]:
    """What takes a device's memory at once, and the options that make it less."""
    recipe = config.full_recipe()
    if isinstance(recipe, ContrastiveRecipe):
        pairs = recipe.batch_pairs
        fewer = f"--set batch_pairs={pairs // 2}" if pairs >= 4 else "--device cpu"
        return f"a step of {pairs} pairs", fewer
    pairs, parts = config.batch_size, config.accumulate
    options = [
        *([f"--accumulate {min(pairs, 2 * parts)}, the same gradient"] if parts < pairs else []),
        *(["--save-memory"] if not config.save_memory else []),
        *([f"--batch-size {pairs // 2}"] if pairs >= 4 else []),
    ]
    work = f"{counted(-(-pairs // parts), 'pair')} at a time"
    return work, ", or ".join(options or ["--device cpu"])


def _trained(
    config: FinetuneConfig,
    data: Path,
    run: Path,
    state: TrainState | None,
    track: bool,
    progress: Progress,
    began: float,
    ranks: Ranks,
) -> Path:
    """Trains from the start, or from where a training stands; returns the path of `model.pt`."""
    path = run / PARTIAL / checkpoint.NAME
    backbone = find_backbone(config.backbone).with_pixels(config.pixels)
    backbone.check_trainable()
    check_views(backbone, parts_of(config.view))
    device = ranks.device(choose_device(config.device))
    precision = choose_precision(config.precision, device)
    ranks.check_same("kinds of devices", f"{device.type} {precision}")
    families = families_to_train(config, data)  # before weights are downloaded for it
    listing = checkpoint.listing(families)
    ranks.check_same("photos or relations", listing)
    if state is not None and state.listing != listing:
        raise RunError(
            f"{path}: was trained on other photos or relations than are in {data} now; resume with "
            "the same, or start again without --resume"
        )
    network, weights = _network(config, backbone, progress, ranks)
    resolved = {
        **{"weights": weights, "precision": precision, "device": device.type},
        "ranks": ranks.size,
    }

    def framing() -> dict[str, int]:
        files = {TRAIN_FOLDERS[0]: [data / name for name in families.photos]}
        (chosen,) = choose_framings(backbone, files, config.framing).values()
        return asdict(chosen)

    network.framing = Framing.of_json(ranks.from_writer(framing))
    network.asked_framing = config.framing
    families, photos = _decoded(families, network.framing, config, data, progress)
    ranks.check_same("readable photos", checkpoint.listing(families))
    if ranks.size > 1:  # as others of the same names, or decoded by another library
        sha = hashlib.sha256(photos.numpy().data)
        ranks.check_same("pixels of photos", sha.hexdigest())
    split = _split(families, config, network)
    log.info(
        "split by %s: %s people train, %s validate%s; %s on %s",
        _said_split(config), len(split.train), len(split.validation),
        f", {len(split.test)} only judge" if len(split.test) else "", precision, device,
    )  # fmt: skip
    if ranks.size > 1:
        log.info(
            "%d ranks: each takes its share of every batch of %d, and rank 0 writes and says this",
            ranks.size, batch_of(config, network.recipe),
        )  # fmt: skip
    photos = to_device_if_fits(photos, device)
    trainer = TRAINERS[network.recipe.kind](
        network, config, photos, device, precision, began, ranks
    )
    if state is not None:
        checkpoint.restore(trainer, state, path)
    train, validation = (
        PairSampler(families, people, config.positive_fraction, config.exclude_family)
        for people in (split.train, split.validation)
    )
    with Tracker(run / TENSORBOARD / "finetune") if track else nullcontext() as tracker:
        if tracker and state:
            for row in state.history:
                tracker.add(asdict(row))
        for after in trainer.fit(train, validation, state, listing, progress):
            if ranks.is_writer:
                _keep(after, config, path.parent)
            if tracker:
                tracker.add(asdict(after.history[-1]))
            state = after
    if state is None:
        raise KinembedError(f"epochs: found {config.epochs}, wanted 1 or more")
    if not ranks.is_writer:
        return run / "model.pt"
    model = _finish(network, state, config, people_of(families, split), resolved, run)
    path.unlink()
    kept, _ = state.kept(config.kept_epoch)
    log.info(
        "%s: epoch %d of %d, the %s; validation AUC %.4f by %s",
        model, kept.epoch, len(state.history),
        f"{config.keep}, chosen by {_chooser(config)}", kept.val_auc, config.split,
    )  # fmt: skip
    return model


def families_to_train(config: FinetuneConfig, data: Path) -> Families:
    """The families of a data folder, by the settings that say who is on a photo."""
    table = None if config.people_table is None else Path(config.people_table)
    return read_families(data, config.layout, table)


def settings(config: FinetuneConfig) -> dict[str, Any]:
    """What `config.json` says of a training before it has begun, as JSON types."""
    about = {**asdict(config), "recipe": config.full_recipe().as_record()}
    plain: dict[str, Any] = json.loads(json.dumps(about))
    return plain


def can_resume(config: FinetuneConfig, data: Path, run: Path) -> bool:
    """Whether the run folder holds an interrupted training with these settings and photos."""
    try:
        state = checkpoint.read_state(run / PARTIAL / checkpoint.NAME, config)
    except KinembedError:
        return False
    return state.listing == checkpoint.listing(families_to_train(config, data))


def is_finished(config: FinetuneConfig, data: Path, run: Path) -> bool:
    """Whether the run folder holds a finished training with these settings and photos."""
    unfinished = run / PARTIAL / checkpoint.NAME
    if unfinished.exists() or not all((run / name).is_file() for name in ARTEFACTS):
        return False
    try:
        about = json.loads((run / "config.json").read_bytes())
        best = about["best_epoch"]
    except (ValueError, KeyError, TypeError):
        return False
    wanted = {**settings(config), "listing": checkpoint.listing(families_to_train(config, data))}
    return isinstance(best, int) and {key: about.get(key) for key in wanted} == wanted


def _network(
    config: FinetuneConfig, backbone: Backbone, progress: Progress, ranks: Ranks
) -> tuple[SiameseNetwork, dict[str, str]]:
    """The network before training, and what `config.json` says of the weights it begins with."""
    torch.manual_seed(config.seed)
    trunk = load_trunk(backbone, config.weights if ranks.is_writer else "none", progress)
    source = next(iter(backbone.sources)) if config.weights == "auto" else config.weights
    network = SiameseNetwork(backbone, trunk, config.view, config.full_recipe())
    ranks.spread(network)
    return network, {"source": source, "digest": digest(trunk)}


def _decoded(
    families: Families, framing: Framing, config: FinetuneConfig, data: Path, progress: Progress
) -> tuple[Families, Tensor]:
    """Families and their photos, uint8 (N, side, side, 3), without those that cannot be read."""
    log.info("%s", families.summary())
    with progress("decoding photos", len(families.photos)) as bar:
        pixels, skipped = decode_all(
            [data / name for name in families.photos],
            framing,
            skip_unreadable=config.skip_unreadable,
            advance=bar.advance,
        )
    for row in skipped:
        log.warning("left out: %s", families.photos[row])
    photos = torch.from_numpy(pixels)
    if not skipped:
        return families, photos
    kept = np.setdiff1d(np.arange(len(families.photos)), skipped)
    return families.keep(kept), photos[kept]


def _split(families: Families, config: FinetuneConfig, network: SiameseNetwork) -> Split:
    """Who trains and who validates; the network keeps a description of it."""
    seed = _split_seed(config)
    if config.folds is not None and config.fold is not None:
        fold = (config.folds, config.fold, seed)
        split = split_of_fold(families, *fold)
        network.split = describe_fold(families, split, *fold)
        return split
    by, fraction = config.split or "people", config.validation_fraction
    rng = generator(seed, Stream.SPLIT)
    split = split_people(families, by, fraction, rng, config.test_fraction)
    network.split = describe_split(families, split, by, fraction, seed, config.test_fraction)
    return split


def _said_split(config: FinetuneConfig) -> str:
    """By what people are held out, and what that means for their relatives."""
    if config.fold is not None:
        return f"families, fold {config.fold} of {config.folds}"
    if config.split == "people":
        return "people, so relatives may be on both sides (--split families or --folds: on one)"
    return config.split


def _split_seed(config: FinetuneConfig) -> int:
    """The seed of the people held out."""
    return config.seed if config.split_seed is None else config.split_seed


def _keep_shared(config: FinetuneConfig, listing: str, run: Path) -> None:
    """Keeps what all folds share, and refuses others beside those that are trained.

    Raises:
        RunError: naming the setting.
    """
    shared = {**settings(replace(config, fold=None)), "listing": listing}
    if any((run / FOLDS).glob("*/model.pt")) or any((run / FOLDS).glob(f"*/{PARTIAL}/*.pt")):
        before = shared_settings(run)
        wanted = {name: value for name, value in shared.items() if name != "device"}
        for name, value in wanted.items():
            if before.get(name) != value:
                what = {
                    "listing": "on other photos or relations",
                    "recipe": "by another recipe",
                }.get(name, f"with {name} {before.get(name)!r}, now {value!r}")
                raise RunError(
                    f"{run / FOLDS}: has networks that were trained {what}; wanted the same for "
                    "all folds, or name another folder with --run"
                )
    write_bytes(run / FOLDS / SETTINGS, (json.dumps(shared, indent=2) + "\n").encode())


def _chooser(config: FinetuneConfig) -> Chooser:
    """Who chose the epoch that is kept."""
    if config.kept_epoch == "last" and config.patience is None and config.schedule != "plateau":
        return "nobody"
    return "validation people" if config.test_fraction else "held-out people"


def _keep(state: TrainState, config: FinetuneConfig, partial: Path) -> None:
    """Logs an epoch, and writes all that a resumed training needs."""
    row = state.history[-1]
    log.info(
        "epoch %d/%d: loss %.4f accuracy %.3f AUC %.3f; validation loss %.4f accuracy %.3f "
        "AUC %.4f; %.0f s", row.epoch, config.epochs, row.train_loss, row.train_accuracy,
        row.train_auc, row.val_loss, row.val_accuracy, row.val_auc, row.seconds,
    )  # fmt: skip
    checkpoint.write_state(partial / checkpoint.NAME, config, state)
    write_csv(partial / "history.csv", [asdict(each) for each in state.history])


def _finish(
    network: SiameseNetwork,
    state: TrainState,
    config: FinetuneConfig,
    people: dict[str, tuple[str, ...]],
    resolved: dict[str, Any],
    run: Path,
) -> Path:
    """Writes the artefacts of a finished training; returns the path of `model.pt`, the last."""
    from kinembed.report.architecture import draw_architecture
    from kinembed.report.curves import draw_curves
    from kinembed.training.summary import summarise

    network.to("cpu")
    other: KeptEpoch = "last" if config.kept_epoch == "best" else "best"
    kept, _ = state.kept(config.kept_epoch)
    history = [asdict(row) for row in state.history]
    about = {
        **settings(config),
        "listing": state.listing,
        "best_epoch": state.best_epoch.epoch,
        "kept_epoch": kept.epoch,
        "epoch_chosen_by": _chooser(config),
        "resolved": resolved,
    }
    with moved_together(run):
        remove(run / f"model-{config.kept_epoch}.pt")  # of another training
        _save(network, state, config, other, people, run, f"model-{other}.pt")
        write_bytes(run / "config.json", (json.dumps(about, indent=2) + "\n").encode())
        write_csv(run / "history.csv", history)
        if draw_curves(history, kept.epoch, run / CURVES) is None:
            remove(run / CURVES)
        summary = summarise(network.backbone, network.view, network.recipe)
        draw_architecture(summary, run / "architecture.svg")
        _save(network, state, config, config.kept_epoch, people, run, "model.pt")
    return run / "model.pt"


def batch_of(config: FinetuneConfig, recipe: FinetuneRecipe) -> int:
    """Pairs of a batch: by recipe kin its own kin pairs."""
    return recipe.batch_pairs if isinstance(recipe, ContrastiveRecipe) else config.batch_size


def _save(
    network: SiameseNetwork,
    state: TrainState,
    config: FinetuneConfig,
    keep: KeptEpoch,
    people: dict[str, tuple[str, ...]],
    run: Path,
    name: str,
) -> None:
    """Writes the network of an epoch and its head; that of the kept epoch is the one in use."""
    row, weights = state.kept(keep)
    network.load_state_dict(weights)
    by = _chooser(replace(config, keep=keep))
    network.epoch = {"number": row.epoch, "kept": keep, "chosen_by": by}
    model = model_digest(network.backbone, network.trunk)
    head = network.head.to_head(network.view, model, **people)
    record = HeadRecord(
        stage="finetune",
        recipe=config.recipe,
        settings=";".join(config.overrides),
        auc=None if config.test_fraction else row.val_auc,
        epoch=row.epoch,
        epoch_chosen_by=by,
        framings=(describe_frame(config.backbone, network.framing),),
    )
    keep_head(run, head, record, use=keep == config.kept_epoch)
    save_model(network, run / name)
