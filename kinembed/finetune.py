"""The stage `finetune`: trains the siamese network, trunk and head, on photos of families."""

import hashlib
import io
import json
import logging
import os
import shutil
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kinembed.backbones import check_views, find_backbone
from kinembed.backbones.device import choose_device, choose_precision
from kinembed.backbones.weights import digest, load_trunk, read_checkpoint
from kinembed.config import FinetuneConfig, Precision
from kinembed.data.families import Families, group_families, read_families
from kinembed.data.photos import decode_all
from kinembed.data.samplers import PairSampler
from kinembed.data.splits import describe_split, people_of, split_people
from kinembed.errors import KinembedError, RunError
from kinembed.heads.file import save_head
from kinembed.io import write_bytes, write_csv
from kinembed.progress import Progress, silent
from kinembed.recipes import ContrastiveRecipe
from kinembed.seeds import Stream, generator
from kinembed.training.contrastive_trainer import ContrastTrainer
from kinembed.training.pair_trainer import Epoch, Progressed, Trainer
from kinembed.training.siamese import SiameseNetwork, save_model

log = logging.getLogger(__name__)

ARTEFACTS = (
    "model-last.pt",
    "config.json",
    "history.csv",
    "architecture.svg",
    "head.h5",
    "model.pt",
)
CURVES = "curves.png"  # beside them, where matplotlib is installed


def finetune(
    config: FinetuneConfig,
    data: Path,
    run: Path,
    *,
    resume: bool = False,
    progress: Progress = silent,
) -> Path:
    """Fine-tunes a siamese network: all layers of the trunk, and the head.

    Unfinished work lies in `finetune.partial` of the run folder; what the run folder holds is
    replaced at the end: `model.pt` (the epoch of the best validation AUC), `model-last.pt`,
    `head.h5`, `config.json`, `history.csv`, `curves.png`, `architecture.svg`.

    Args:
        config: what to train, and how.
        data: the data folder.
        run: the run folder.
        resume: go on from the last whole epoch of an interrupted run.
        progress: shows how far it is.

    Returns:
        The path of `model.pt`.

    Raises:
        KinembedError: data, weights, settings or an earlier run are not as they have to be.
    """
    began = time.perf_counter()
    config.check()
    partial = run / "finetune.partial"
    before = _read_checkpoint(partial / "checkpoint.pt", config) if resume else None
    backbone = find_backbone(config.backbone)
    check_views(backbone, (config.view,))
    recipe = config.full_recipe()
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    torch.manual_seed(config.seed)
    trunk = load_trunk(backbone, config.weights, progress)
    network = SiameseNetwork(backbone, trunk, config.view, recipe)
    families = read_families(data)
    listing = _listing(families)
    if before is not None and before.listing != listing:
        raise RunError(
            f"{partial / 'checkpoint.pt'}: was trained on other photos or relations than are in "
            f"{data} now; resume with the same, or start anew without --resume"
        )
    log.info("%s", families.summary())
    with progress("decoding photos", len(families.photos)) as bar:
        pixels, skipped = decode_all(
            [data / name for name in families.photos],
            backbone.framing,
            skip_unreadable=config.skip_unreadable,
            advance=bar.advance,
        )
    photos = torch.from_numpy(pixels)
    families, photos = _leave_out(families, photos, skipped)
    drawn = config.seed if config.split_seed is None else config.split_seed
    by, rng = config.split or "people", generator(drawn, Stream.SPLIT)
    split = split_people(families, by, config.validation_fraction, rng)
    network.split = describe_split(families, split, config.split, config.validation_fraction, drawn)
    train = PairSampler(families, split.train, config.positive_fraction)
    validation = PairSampler(families, split.validation, config.positive_fraction)
    log.info(
        "split by %s: %s people train, %s validate; %s on %s",
        config.split, len(split.train), len(split.validation), precision, device,
    )  # fmt: skip
    trainer = _trainer(network, config, _nearest(photos, device), device, precision, began)
    if before is not None:
        _restore(trainer, before, partial / "checkpoint.pt")
    try:
        state = _train_epochs(trainer, train, validation, before, listing, partial, progress)
        path = _finish(network, state, config, people_of(families, split), partial, run)
    except BaseException:
        if (partial / "checkpoint.pt").exists():
            log.info("%s: whole epochs are kept; go on with --resume", partial)
        else:
            with suppress(OSError):
                partial.rmdir()
        raise
    best = state.best_epoch
    log.info(
        "%s: epoch %d, validation AUC %.4f by %s", path, best.epoch, best.val_auc, config.split
    )
    return path


def _train_epochs(
    trainer: Trainer,
    train: PairSampler,
    validation: PairSampler,
    state: Progressed | None,
    listing: str,
    partial: Path,
    progress: Progress,
) -> Progressed:
    """Trains the epochs that are left, and keeps each in `partial`."""
    config = trainer.config
    for epoch in range(len(state.history) if state else 0, trainer.epochs):
        if state is not None and (_waited_enough(state, config) or trainer.is_done(state)):
            break
        began = time.perf_counter()
        losses = [row.val_loss for row in state.history] if state is not None else []
        trained = trainer.train(train, epoch, losses, progress)
        checked = trainer.validate(validation)
        seconds = time.perf_counter() - began
        row = Epoch(epoch + 1, *trained, *checked, seconds, trainer.learning_rate)
        state = trainer.progressed(state, row, listing)
        log.info(
            "epoch %d/%d: loss %.4f accuracy %.3f AUC %.3f; validation loss %.4f accuracy %.3f "
            "AUC %.4f; %.0f s", row.epoch, config.epochs, *trained, *checked, row.seconds,
        )  # fmt: skip
        _write_checkpoint(partial / "checkpoint.pt", config, state)
        write_csv(partial / "history.csv", [asdict(row) for row in state.history])
    if state is None:
        raise KinembedError(f"epochs: found {config.epochs}, wanted 1 or more")
    return state


def settings(config: FinetuneConfig) -> dict[str, Any]:
    """What `config.json` says of a training before it has begun, as JSON types."""
    about = {**asdict(config), "recipe": config.full_recipe().as_record()}
    plain: dict[str, Any] = json.loads(json.dumps(about))
    return plain


def can_resume(config: FinetuneConfig, data: Path, run: Path) -> bool:
    """Whether the run folder holds an interrupted training with these settings and photos."""
    try:
        state = _read_checkpoint(run / "finetune.partial" / "checkpoint.pt", config)
    except KinembedError:
        return False
    return state.listing == _listing(read_families(data))


def is_finished(config: FinetuneConfig, data: Path, run: Path) -> bool:
    """Whether the run folder holds a finished training with these settings and photos."""
    if (run / "finetune.partial").exists() or not all((run / name).is_file() for name in ARTEFACTS):
        return False
    try:
        about = json.loads((run / "config.json").read_bytes())
        best = about.pop("best_epoch")
    except (ValueError, KeyError, AttributeError):
        return False
    wanted = {**settings(config), "listing": _listing(read_families(data))}
    return isinstance(best, int) and about == wanted


def _leave_out(families: Families, photos: Tensor, skipped: list[int]) -> tuple[Families, Tensor]:
    """Families and photos without the rows that could not be read."""
    if not skipped:
        return families, photos
    for row in skipped:
        log.warning("left out: %s", families.photos[row])
    kept = np.setdiff1d(np.arange(len(families.photos)), skipped)
    relations = [(families.people[a], families.people[b]) for a, b in families.relations]
    return group_families([families.photos[row] for row in kept], relations), photos[kept]


def _nearest(photos: Tensor, device: torch.device) -> Tensor:
    """The photos on the device where they take at most half of its free memory."""
    if device.type == "cuda" and photos.nbytes <= torch.cuda.mem_get_info(device)[0] // 2:
        return photos.to(device)
    return photos


def _waited_enough(state: Progressed, config: FinetuneConfig) -> bool:
    waited = len(state.history) - state.best_epoch.epoch
    return config.patience is not None and waited >= config.patience


def _trainer(
    network: SiameseNetwork,
    config: FinetuneConfig,
    photos: Tensor,
    device: torch.device,
    precision: Precision,
    began: float,
) -> Trainer:
    """The training loop that the recipe asks for."""
    if isinstance(network.recipe, ContrastiveRecipe):
        return ContrastTrainer(network, config, photos, device, precision, began)
    return Trainer(network, config, photos, device, precision)


def _restore(trainer: Trainer, state: Progressed, path: Path) -> None:
    """Puts the trainer back to where a checkpoint stands.

    Raises:
        RunError: the checkpoint is of another network.
    """
    try:
        trainer.restore(state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RunError(_malformed(path, error)) from None


def _write_checkpoint(path: Path, config: FinetuneConfig, state: Progressed) -> None:
    content = io.BytesIO()
    history = [asdict(row) for row in state.history]
    torch.save({**vars(state), "history": history, "config": asdict(config)}, content)
    write_bytes(path, content.getvalue())


def _read_checkpoint(path: Path, config: FinetuneConfig) -> Progressed:
    """Where an interrupted training stands.

    Raises:
        RunError: there is none, or it was trained with other settings.
    """
    if not path.is_file():
        raise RunError(f"{path}: no such file; nothing to resume, run kinembed finetune without it")
    saved = read_checkpoint(path)
    now = asdict(config)
    # What may be changed without changing the epochs that were trained; a cosine has the rest of
    # them in view from the first.
    free = {"epochs", "patience", "minutes", "device"}
    free -= {"epochs"} if config.schedule == "cosine" else set()
    try:
        for name, value in saved.pop("config").items():
            if name not in free and now[name] != value:
                raise RunError(
                    f"{path}: was trained with {name} {value!r}, now {now[name]!r}; resume with "
                    "the same settings, or start anew without --resume"
                )
        return Progressed(**{**saved, "history": [Epoch(**row) for row in saved["history"]]})
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(_malformed(path, error)) from None


def _malformed(path: Path, error: Exception) -> str:
    reason = str(error).splitlines()[0]
    return f"{path}: not a checkpoint of this training ({reason}); start anew without --resume"


def _listing(families: Families) -> str:
    """A digest of what is trained on: the photos' names and the relations."""
    sha = hashlib.sha256("\n".join(families.photos).encode())
    sha.update(families.relations.astype("<i8").tobytes())
    return sha.hexdigest()


def _finish(
    network: SiameseNetwork,
    state: Progressed,
    config: FinetuneConfig,
    people: dict[str, tuple[str, ...]],
    partial: Path,
    run: Path,
) -> Path:
    """Writes the artefacts of a finished training; returns the path of `model.pt`.

    All of them are written before the first takes its place in the run folder, so that a full
    disk cannot leave some of the old and some of the new.
    """
    from kinembed.report.architecture import draw_architecture
    from kinembed.report.curves import draw_curves
    from kinembed.training.summary import summarise

    network.to("cpu")
    network.load_state_dict(state.last)
    save_model(network, partial / "model-last.pt")
    network.load_state_dict(state.best)
    best = state.best_epoch.epoch
    about = {**settings(config), "listing": state.listing, "best_epoch": best}
    write_bytes(partial / "config.json", (json.dumps(about, indent=2) + "\n").encode())
    draw_curves([asdict(row) for row in state.history], best, partial / CURVES)
    summary = summarise(network.backbone, network.view, network.recipe)
    draw_architecture(summary, partial / "architecture.svg")
    head = network.head.to_head(network.view, digest(network.trunk), **people)
    save_head(head, partial / "head.h5")
    save_model(network, partial / "model.pt")
    if (partial / CURVES).exists():
        os.replace(partial / CURVES, run / CURVES)
    else:  # those of another training must not stay
        (run / CURVES).unlink(missing_ok=True)
    for name in ARTEFACTS:
        os.replace(partial / name, run / name)
    shutil.rmtree(partial, ignore_errors=True)
    return run / "model.pt"
