"""The stage `finetune`: trains the siamese network, trunk and head, on photos of families."""

import csv
import hashlib
import io
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kinembed.config import FinetuneConfig, Precision
from kinembed.errors import KinembedError, RunError
from kinembed.families import Families, Rows, group_families, read_families, split_people
from kinembed.files import write_bytes
from kinembed.heads import save_head
from kinembed.metrics import roc_auc
from kinembed.networks import check_views, find_backbone
from kinembed.networks.keras_optimizers import KerasAdam, keras_rmsprop
from kinembed.networks.losses import LOSSES
from kinembed.networks.siamese import (
    SiameseNetwork,
    autocast,
    channels_last,
    choose_device,
    choose_precision,
    save_model,
)
from kinembed.networks.weights import digest, load_trunk, read_checkpoint
from kinembed.pairs import Labels, PairSampler
from kinembed.photos import decode_all
from kinembed.progress import Progress, silent

log = logging.getLogger(__name__)

ARTEFACTS = (
    "model-last.pt",
    "config.json",
    "history.csv",
    "curves.png",
    "architecture.svg",
    "head.h5",
    "model.pt",
)
VALIDATION = 1 << 32  # the place of the validation pairs among the seeds of the epochs


@dataclass(frozen=True)
class Epoch:
    """A row of `history.csv`: means over the epoch's batches; losses hold the L2 term."""

    epoch: int
    train_loss: float
    train_accuracy: float
    train_auc: float
    val_loss: float
    val_accuracy: float
    val_auc: float
    seconds: float


@dataclass
class Progressed:
    """Where a training stands after a whole epoch: all that `--resume` needs."""

    history: list[Epoch]
    last: dict[str, Tensor]
    best: dict[str, Tensor]
    optimizer: dict[str, Any]
    listing: str  # digest of the photos' names and the relations

    @property
    def best_epoch(self) -> Epoch:
        """The epoch of the best validation AUC, the first of equals."""
        return max(self.history, key=lambda epoch: (epoch.val_auc, -epoch.epoch))


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
    check_config(config)
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
    _keras_batchnorm(network)
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
    split = split_people(
        families, config.split, config.validation_fraction, np.random.default_rng(config.seed)
    )
    train = PairSampler(families, split.train, config.positive_fraction)
    validation = PairSampler(families, split.validation, config.positive_fraction)
    log.info(
        "split by %s: %s people train, %s validate; %s on %s",
        config.split, len(split.train), len(split.validation), precision, device,
    )  # fmt: skip
    trainer = Trainer(network, config, _nearest(photos, device), device, precision)
    state = trainer.restore(before, partial / "checkpoint.pt") if before is not None else None
    try:
        state = _train_epochs(trainer, train, validation, state, listing, partial, progress)
        path = _finish(network, state, config, partial, run)
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
    trainer: "Trainer",
    train: PairSampler,
    validation: PairSampler,
    state: Progressed | None,
    listing: str,
    partial: Path,
    progress: Progress,
) -> Progressed:
    """Trains the epochs that are left, and keeps each in `partial`."""
    config = trainer.config
    for epoch in range(len(state.history) if state else 0, config.epochs):
        if state is not None and _waited_enough(state, config.patience):
            break
        began = time.perf_counter()
        trained = trainer.train(train, epoch, progress)
        checked = trainer.validate(validation)
        row = Epoch(epoch + 1, *trained, *checked, time.perf_counter() - began)
        state = trainer.progressed(state, row, listing)
        log.info(
            "epoch %d/%d: loss %.4f accuracy %.3f AUC %.3f; validation loss %.4f accuracy %.3f "
            "AUC %.4f; %.0f s", row.epoch, config.epochs, *trained, *checked, row.seconds,
        )  # fmt: skip
        _write_checkpoint(partial / "checkpoint.pt", config, state)
        _write_history(partial / "history.csv", state.history)
    if state is None:
        raise KinembedError(f"epochs: found {config.epochs}, wanted 1 or more")
    return state


def check_config(config: FinetuneConfig) -> None:
    """Refuses settings that cannot be trained with.

    Raises:
        KinembedError: naming the setting.
    """
    for name in ("epochs", "steps", "val_steps", "batch_size"):
        if getattr(config, name) < 1:
            raise KinembedError(f"{name}: found {getattr(config, name)}, wanted 1 or more")
    if not 0 < config.validation_fraction < 1:
        raise KinembedError(
            f"validation_fraction: found {config.validation_fraction}, wanted between 0 and 1"
        )
    if not 0 < int(config.batch_size * config.positive_fraction) < config.batch_size:
        raise KinembedError(
            f"{config.positive_fraction:g} of {config.batch_size} pairs are kin: wanted at least "
            "one kin and one non-kin pair in each batch, so that an AUC can be told"
        )


def settings(config: FinetuneConfig) -> dict[str, Any]:
    """What `config.json` says of a training before it has begun, as JSON types."""
    about = {**asdict(config), "recipe": asdict(config.full_recipe())}
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


class Trainer:
    """The training loop's parts, on one device.

    Args:
        network: trained in place.
        config: the protocol.
        photos: uint8 RGB photos (N, side, side, 3), on the device where they fit there.
        device: where the network runs.
        precision: in what it computes.
    """

    def __init__(
        self,
        network: SiameseNetwork,
        config: FinetuneConfig,
        photos: Tensor,
        device: torch.device,
        precision: Precision,
    ) -> None:
        self.network = network.to(device)
        channels_last(network)
        self.config = config
        self.photos = photos
        self.device = device
        self.precision = precision
        self.optimizer = _optimizer(network, device)
        self.loss = LOSSES[network.recipe.loss]

    def train(
        self, sampler: PairSampler, epoch: int, progress: Progress
    ) -> tuple[float, float, float]:
        """Trains one epoch; returns its loss, accuracy and AUC.

        What is random in an epoch depends on the seed and the epoch's number alone, so an epoch
        is the same whether or not the training was interrupted before it.
        """
        config = self.config
        torch.manual_seed(_mixed_seed(config.seed, epoch))  # dropout
        rng = np.random.default_rng([config.seed, epoch])
        rows, labels = sampler.sample(config.steps, config.batch_size, rng)
        self.network.train()
        losses: list[float] = []
        logits: list[Tensor] = []
        began = time.perf_counter()
        with progress(f"epoch {epoch + 1}/{config.epochs}", config.steps) as bar:
            for step in range(config.steps):
                output, loss = self._forward(rows[step], labels[step])
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
                losses.append(loss.item())
                logits.append(output.detach().cpu())
                accuracy = np.mean((logits[-1].numpy() > 0) == labels[step])
                rate = (step + 1) * 2 * config.batch_size / (time.perf_counter() - began)
                bar.advance(1, f"loss {losses[-1]:.3f} acc {accuracy:.2f} {rate:.0f} photos/s")
        return _summary(float(np.mean(losses)), torch.stack(logits), labels)

    def validate(self, sampler: PairSampler) -> tuple[float, float, float]:
        """Loss, accuracy and AUC on validation pairs: the same pairs after every epoch."""
        config = self.config
        rng = np.random.default_rng([config.seed, VALIDATION])
        rows, labels = sampler.sample(config.val_steps, config.batch_size, rng)
        self.network.eval()
        unique, place = np.unique(rows, return_inverse=True)
        with torch.inference_mode():
            vectors = torch.cat([self._embed(block) for block in _blocks(unique)])
            a, b = vectors[torch.from_numpy(place.reshape(rows.shape)).to(self.device)].unbind(-2)
            logits = self.network.head(a, b)
            loss = self.loss(logits, torch.from_numpy(labels).to(self.device))
            total = float(loss + self.network.head.penalty())
        return _summary(total, logits.cpu(), labels)

    def _embed(self, rows: Rows) -> Tensor:
        with autocast(self.device, self.precision):
            return self.network.embed(self._take(rows))

    def _forward(self, rows: Rows, labels: Labels) -> tuple[Tensor, Tensor]:
        with autocast(self.device, self.precision):
            # One tower after the other, as in Keras: BatchNorm sees one tower's photos at a time.
            a, b = (self.network.embed(self._take(side)) for side in rows.T)
        logits = self.network.head(a, b)
        target = torch.from_numpy(labels).to(self.device)
        return logits, self.loss(logits, target) + self.network.head.penalty()

    def _take(self, rows: Rows) -> Tensor:
        index = torch.from_numpy(rows).to(self.photos.device)
        return self.photos[index].to(self.device, non_blocking=True)

    def progressed(self, before: Progressed | None, row: Epoch, listing: str) -> Progressed:
        """Where the training stands after the epoch of `row`."""
        last = {key: value.detach().cpu().clone() for key, value in self._state().items()}
        after = Progressed(
            history=[*before.history, row] if before else [row],
            last=last,
            best=before.best if before else last,
            optimizer=self.optimizer.state_dict(),
            listing=listing,
        )
        if after.best_epoch is row:
            after.best = last
        return after

    def restore(self, state: Progressed, path: Path) -> Progressed:
        """Puts network and optimiser back to where a training stood.

        Raises:
            RunError: the checkpoint, read from `path`, is of another network.
        """
        try:
            self.network.load_state_dict(state.last)
            self.optimizer.load_state_dict(state.optimizer)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise RunError(_malformed(path, error)) from None
        return state

    def _state(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.network.state_dict()
        return state


def _optimizer(network: SiameseNetwork, device: torch.device) -> torch.optim.Optimizer:
    recipe = network.recipe
    if recipe.optimizer == "rmsprop":
        return keras_rmsprop(network.parameters(), recipe.learning_rate)
    return KerasAdam(network.parameters(), recipe.learning_rate, fused=device.type == "cuda")


def _keras_batchnorm(network: nn.Module) -> None:
    """Keras' BatchNorm keeps .99 of its running statistics at each step; torch says .01."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = 0.01


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


def _blocks(rows: Rows, size: int = 64) -> Iterator[Rows]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _mixed_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0])


def _summary(loss: float, logits: Tensor, labels: Labels) -> tuple[float, float, float]:
    scores = logits.double().numpy().ravel()
    if not np.isfinite(scores).all():
        raise KinembedError(
            "the network's output is not finite: the learning rate is too high for these weights; "
            "try --recipe regularized"
        )
    return loss, float(np.mean((scores > 0) == labels.ravel())), roc_auc(labels.ravel(), scores)


def _waited_enough(state: Progressed, patience: int | None) -> bool:
    return patience is not None and len(state.history) - state.best_epoch.epoch >= patience


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
    try:
        for name, value in saved.pop("config").items():
            if name not in ("epochs", "patience", "device") and now[name] != value:
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


def _write_history(path: Path, history: list[Epoch]) -> Path:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(asdict(history[0])), lineterminator="\n")
    writer.writeheader()
    for row in history:
        writer.writerow(
            {k: v if isinstance(v, int) else f"{v:.6f}" for k, v in asdict(row).items()}
        )
    return write_bytes(path, text.getvalue().encode())


def _finish(
    network: SiameseNetwork, state: Progressed, config: FinetuneConfig, partial: Path, run: Path
) -> Path:
    """Writes the artefacts of a finished training; returns the path of `model.pt`.

    All of them are written before the first takes its place in the run folder, so that a full
    disk cannot leave some of the old and some of the new.
    """
    from kinembed.networks.summary import summarise
    from kinembed.report.architecture import draw_architecture
    from kinembed.report.curves import draw_curves  # matplotlib takes its time to import

    network.to("cpu")
    network.load_state_dict(state.last)
    save_model(network, partial / "model-last.pt")
    network.load_state_dict(state.best)
    best = state.best_epoch.epoch
    about = {**settings(config), "listing": state.listing, "best_epoch": best}
    write_bytes(partial / "config.json", (json.dumps(about, indent=2) + "\n").encode())
    draw_curves([asdict(row) for row in state.history], best, partial / "curves.png")
    summary = summarise(network.backbone, network.view, network.recipe)
    draw_architecture(summary, partial / "architecture.svg")
    save_head(network.head.to_head(network.view, digest(network.trunk)), partial / "head.h5")
    save_model(network, partial / "model.pt")
    for name in ARTEFACTS:
        os.replace(partial / name, run / name)
    shutil.rmtree(partial, ignore_errors=True)
    return run / "model.pt"
