"""Whether kinembed uses your NVIDIA GPU: as right as the CPU, how fast, how busy, how much memory.

    pip install .
    python benchmarks/gpu.py --out gpu.json

Takes at most --minutes, downloads nothing: weights are random, photos are made up. A section that
fails says why, and the others go on. docs/speed.md says what each number means and what is good.
"""

import argparse
import csv
import gc
import itertools
import json
import logging
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import kinembed
from kinembed import __version__
from kinembed.backbones import BACKBONES, Backbone, find_backbone
from kinembed.backbones.device import (
    autocast,
    channels_last,
    choose_device,
    choose_precision,
    to_device_if_fits,
)
from kinembed.backbones.embedder import Embedder, Normalise
from kinembed.backbones.mapper import Mapper
from kinembed.backbones.trunk import Trunk
from kinembed.backbones.weights import load_trunk
from kinembed.cache import EmbeddingCache
from kinembed.cache.writer import write_cache
from kinembed.config import EmbedConfig, FinetuneConfig, Precision
from kinembed.data.families import Families, read_families
from kinembed.data.listing import photo_at
from kinembed.data.photo_processes import PhotoProcesses
from kinembed.data.photos import decode_all
from kinembed.data.reader import Reader
from kinembed.data.samplers import PairSampler
from kinembed.embed import embed
from kinembed.embedding.pipeline import PROCESSORS
from kinembed.errors import KinembedError
from kinembed.finetune import PARTIAL, TRAINERS, finetune
from kinembed.progress import Bar, silent
from kinembed.synthetic import generate_dataset
from kinembed.threads import processors
from kinembed.training.ranks import BY
from kinembed.training.siamese import SiameseNetwork, load_model
from kinembed.training.trainer import Figures, Trainer

Result = dict[str, Any]

RECIPES = ("regularized", "kin")
DIFFERENCE, COSINE = 1e-4, 0.999  # that float32 may have at most, and bf16 has to have at least
SATURATED = 1.05  # a batch twice as large that gains less is not worth its memory
NO_GPU = "not measured: no GPU"
SAME_LOSS = {"fp32": 1e-3, "bf16": 2e-2}  # parts by which mean losses differ at most: rounding
PATIENCE = 60  # seconds for a training of a few steps
WINDOWS = (0.1, 0.5), (0.6, 0.75)  # shares of many photos: of the steady rate, and profiled


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        backbone: of training and embedding.
        families: that are made up.
        side: pixels along each side of their photos.
        pairs: of a step of `regularized`.
        contrast_pairs: of a step of `kin`, each of another family.
        steps: of a turn.
        turns: of which the median counts.
        photos: that are embedded.
        many: photos that are embedded by each of `networks` with default settings.
        networks: of these.
        batches: of photos, of which embedding tries each.
        memory: bytes left to what is to run out of memory.
    """

    backbone: str
    families: int
    side: int
    pairs: int
    contrast_pairs: int
    steps: int
    turns: int
    photos: int
    many: int
    networks: tuple[str, ...]
    batches: tuple[int, ...]
    memory: int


LARGE = Sizes(
    backbone="resnet50",
    families=72,
    side=224,
    pairs=32,
    contrast_pairs=48,
    steps=20,
    turns=3,
    photos=8192,
    many=60_000,
    networks=("mobilefacenet", "resnet50"),
    batches=(16, 32, 64, 128, 256, 512, 1024),
    memory=700_000_000,
)
SMALL = Sizes(
    backbone="mtcnn-onet",
    families=8,
    side=64,
    pairs=4,
    contrast_pairs=3,
    steps=2,
    turns=1,
    photos=48,
    many=64,
    networks=("mtcnn-onet",),
    batches=(4, 8, 16),
    memory=10_000_000,
)


class TimeOverError(Exception):
    """The minutes are over."""


class SkippedError(Exception):
    """A section that this machine cannot measure."""


class Bench:
    """What all sections share: the device, the sizes, made-up families, and the time that is left.

    Args:
        device: where the network runs.
        sizes: how much is measured.
        folder: for files.
        minutes: after which nothing new begins.
    """

    def __init__(self, device: torch.device, sizes: Sizes, folder: Path, minutes: float) -> None:
        self.device = device
        self.sizes = sizes
        self.folder = folder
        self.end = time.perf_counter() + 60 * minutes
        self.precision: Precision = choose_precision("auto", device)

    def check_time(self) -> None:
        """Refuses to begin anything when the minutes are over.

        Raises:
            TimeOverError: they are.
        """
        if time.perf_counter() >= self.end:
            raise TimeOverError("the minutes are over; give more with --minutes")

    @cached_property
    def data(self) -> Path:
        """A data folder of made-up families."""
        sizes = self.sizes
        return generate_dataset(
            self.folder / "data",
            families=sizes.families,
            test_families=2,
            photos=(2, 2),
            side=sizes.side,
        )

    @cached_property
    def families(self) -> Families:
        """The made-up families."""
        return read_families(self.data)

    @cached_property
    def backbone(self) -> Backbone:
        """Of training and embedding."""
        return find_backbone(self.sizes.backbone)

    @cached_property
    def pixels(self) -> Tensor:
        """The families' photos, uint8 (N, side, side, 3), on the device where they fit there."""
        names = [self.data / name for name in self.families.photos]
        pixels, _ = decode_all(names, self.backbone.framing, skip_unreadable=False)
        return to_device_if_fits(torch.from_numpy(pixels), self.device)

    @cached_property
    def copies(self) -> list[Path]:
        """As many files as are embedded."""
        return self.copied(self.sizes.photos)

    def copied(self, count: int) -> list[Path]:
        """So many files, each of other bytes, or they would be computed once."""
        folder = self.folder / f"copies-{count}"
        folder.mkdir()
        originals = [path.read_bytes() for path in sorted(self.data.rglob("*.jpg"))]
        paths = [folder / f"{number:06}.jpg" for number in range(count)]
        for number, (path, content) in enumerate(zip(paths, itertools.cycle(originals))):
            path.write_bytes(content + number.to_bytes(4, "little"))
        return paths

    def config(self, recipe: str, **changes: Any) -> FinetuneConfig:
        """Settings of a training."""
        sizes = self.sizes
        usual = FinetuneConfig(
            backbone=sizes.backbone,
            weights="none",
            recipe=recipe,
            view="max",
            steps=sizes.steps,
            val_steps=1,
            split="families",
            device=self.device.type,
            precision=self.precision,
            framing="whole",  # the faces are painted where they should be
            **self.batch(recipe),
        )
        return replace(usual, **changes)

    def batch(self, recipe: str) -> Result:
        """The settings of a step's size."""
        if recipe == "kin":
            return {"overrides": (f"batch_pairs={self.sizes.contrast_pairs}",)}
        return {"batch_size": self.sizes.pairs}

    def photos_of_a_step(self, recipe: str) -> int:
        """How many photos go through the network."""
        return 2 * (self.sizes.contrast_pairs if recipe == "kin" else self.sizes.pairs)

    def finished(self) -> float:
        """`time.perf_counter()` once the device has done what it was told to."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def seconds(self, work: Callable[[], object]) -> float:
        """Seconds of a call, the device's work included."""
        start = self.finished()
        work()
        return self.finished() - start

    def median(self, work: Callable[[], object]) -> float:
        """The median of as many turns, after one that warms up."""
        work()
        return statistics.median(self.seconds(work) for _ in range(self.sizes.turns))

    def busy(self, work: Callable[[], object]) -> float | str:
        """The share of a call's time in which the GPU does something; else why that is unknown."""
        if self.device.type != "cuda":
            return NO_GPU
        profiler = kernels()
        try:
            with profiler:
                seconds = self.seconds(work)
            return busy_share(profiler, seconds)
        except RuntimeError as error:
            return f"not measured: {error}"

    def peak(self, work: Callable[[], object]) -> float | str:
        """The most memory of the GPU, in GB, that tensors take during a call."""
        if self.device.type != "cuda":
            work()
            return NO_GPU
        torch.cuda.reset_peak_memory_stats(self.device)
        work()
        return float(torch.cuda.max_memory_allocated(self.device) / 1e9)


def kernels() -> Any:
    """A profiler of what the GPU does."""
    from torch.profiler import ProfilerActivity, profile

    return profile(activities=[ProfilerActivity.CUDA])


def busy_share(profiler: Any, seconds: float) -> float | str:
    """The share of so many seconds in which the GPU did something; else why that is unknown."""
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
        and not getattr(event, "is_user_annotation", False)
    ]
    return covered(spans) / 1e6 / seconds if spans else "not measured: CUPTI names no kernel"


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """How long at least one of some spans of time lasts."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


# Parity with the CPU


def parity(bench: Bench, result: Result) -> None:
    """Each backbone in float32 and bf16 on the device, against float32 on the CPU."""
    result["ok"] = True
    for name, backbone in BACKBONES.items():
        bench.check_time()
        if backbone.is_onnx:
            result[name] = "not measured: its network is a file that has to be downloaded"
            continue
        row = result[name] = _parity_of(bench, backbone)
        result["ok"] &= row["ok"]


def _parity_of(bench: Bench, backbone: Backbone) -> Result:
    photos = sorted((bench.data / "test").glob("*.jpg"))[:4]
    pixels, _ = decode_all(photos, backbone.framing, skip_unreadable=False)
    views = tuple(view for view in backbone.views if view in ("max", "avg", "native"))
    trunk = lively(backbone, pixels, views)
    with torch.inference_mode():
        vectors = trunk.views(Normalise(backbone.pixels)(torch.from_numpy(pixels)), views)
        wanted = {view: x.numpy() for view, x in vectors.items()}
    row: Result = {"cosine_of_two_photos": float(np.mean(_others(wanted["max"])))}

    def mapped(device: torch.device, precision: Precision) -> Result:
        network = Embedder(backbone, trunk, views).to(device)
        return dict(Mapper(network, device, precision).map([*pixels]))

    row["float32_difference"] = difference(mapped(bench.device, "fp32"), wanted)
    row["bf16_cosine"] = cosine(mapped(bench.device, "bf16"), wanted)
    ok = row["bf16_cosine"] >= COSINE
    if not ok:  # random weights may enlarge rounding, on any device: twice the CPU's is right
        row["bf16_cosine_of_the_cpu"] = cosine(mapped(torch.device("cpu"), "bf16"), wanted)
        ok = 1 - row["bf16_cosine"] <= 2 * (1 - row["bf16_cosine_of_the_cpu"])
    row["ok"] = row["float32_difference"] <= DIFFERENCE and ok
    return row


def lively(backbone: Backbone, pixels: np.ndarray, views: tuple[str, ...]) -> Trunk:
    """A network of random weights whose vectors differ from photo to photo, as trained ones do.

    With what torch draws by itself, all photos have nearly one vector, which hides a fault. With
    statistics of BatchNorm alone, each layer would enlarge the rounding of the one before, as
    trained ones do not; so most of what goes into ReLU is made positive.
    """
    torch.manual_seed(0)
    trunk = load_trunk(backbone, "none")
    for module in trunk.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.constant_(module.bias, 2.0)  # of outputs whose standard deviation is 1
            module.reset_running_stats()
            module.momentum = None  # the statistics are the mean over all batches: these photos'
    with torch.no_grad():
        trunk.train().views(Normalise(backbone.pixels)(torch.from_numpy(pixels)), views)
    return trunk.eval()


def difference(found: Result, wanted: Result) -> float:
    """The largest difference of a number, in parts of the view's largest number."""
    return max(float(abs(found[v] - x).max() / abs(x).max()) for v, x in wanted.items())


def cosine(found: Result, wanted: Result) -> float:
    """The least cosine of a photo's two vectors."""
    cosines = (np.sum(_unit(found[v]) * _unit(x), 1) for v, x in wanted.items())
    return min(float(each.min()) for each in cosines)


def _unit(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)


def _others(x: np.ndarray) -> np.ndarray:
    return (_unit(x) @ _unit(x).T)[np.triu_indices(len(x), 1)]


# Training


def training(bench: Bench, result: Result) -> None:
    """Photos a second of both recipes, against a plain loop; the GPU's busy share and memory."""
    for recipe in RECIPES:
        bench.check_time()
        photos = bench.sizes.steps * bench.photos_of_a_step(recipe)
        ours, plain = turns(bench, bench.config(recipe)), plain_turns(bench, recipe)
        with one_by_one():
            unrecorded = turns(bench, bench.config(recipe))
        first = [work()[0] for work in (ours, unrecorded)]
        rates = [photos / bench.median(work) for work in (ours, plain, unrecorded)]
        result[recipe] = {
            "photos_per_second": rates[0],
            "plain_loop_photos_per_second": rates[1],
            "ratio": rates[0] / rates[1],
            "photos_per_second_without_graphs": rates[2],
            "loss_and_without_graphs": first,
            "gpu_busy_share": bench.busy(ours),
            "plain_loop_gpu_busy_share": bench.busy(plain),
            "peak_memory_gb": bench.peak(ours),
            "photos_of_a_step": bench.photos_of_a_step(recipe),
            "precision": bench.precision,
        }


@contextmanager
def one_by_one() -> Iterator[None]:
    """Trainings made herein start the kernels of their passes one by one, not as CUDA graphs."""
    with ExitStack() as stack:
        for trainer in ("pair_trainer", "contrastive_trainer"):
            name = f"kinembed.training.{trainer}.can_record"
            stack.enter_context(mock.patch(name, return_value=False))
        yield


def turns(bench: Bench, config: FinetuneConfig) -> Callable[[], Figures]:
    """What trains so many steps each time, as `kinembed finetune` does."""
    torch.manual_seed(0)
    trunk = load_trunk(bench.backbone, "none")
    network = SiameseNetwork(bench.backbone, trunk, config.view, config.full_recipe())
    trainer: Trainer = TRAINERS[network.recipe.kind](
        network, config, bench.pixels, bench.device, bench.precision
    )
    sampler = PairSampler(bench.families, np.arange(len(bench.families.people)))
    epochs = itertools.count()
    return lambda: trainer.train(sampler, next(epochs) % config.epochs, [], silent)


def plain_turns(bench: Bench, recipe: str) -> Callable[[], object]:
    """What trains as many steps in a loop as one would write it: channels last, bf16, Adam."""
    torch.manual_seed(0)
    device, width = bench.device, bench.backbone.width("max")
    trunk = load_trunk(bench.backbone, "none").to(device).train()
    head = nn.Sequential(nn.Linear(width, 100), nn.ReLU(), nn.Linear(100, 1)).to(device)
    channels_last(trunk)
    normalise = Normalise(bench.backbone.pixels).to(device)
    parameters = [*trunk.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, 1e-5)
    count = bench.photos_of_a_step(recipe)
    rng = torch.Generator().manual_seed(0)

    def vectors(rows: Tensor) -> Tensor:
        photos = bench.pixels[rows.to(bench.pixels.device)].to(device, non_blocking=True)
        with autocast(device, bench.precision):
            return trunk.view("max", trunk.feature_map(normalise(photos))).float()

    def loss_of(rows: Tensor) -> Tensor:
        if recipe == "kin":  # all photos at once, each beside its partner
            z = functional.normalize(vectors(rows), dim=1)
            logits = (z @ z.T / 0.1).fill_diagonal_(-1e4)
            return functional.cross_entropy(logits, torch.arange(count, device=device) ^ 1)
        left, right = (vectors(side) for side in rows.view(-1, 2).T)  # a tower after the other
        logits = head((left - right).abs())[:, 0]
        target = (torch.arange(count // 2, device=device) % 2).float()
        return functional.binary_cross_entropy_with_logits(logits, target)

    def turn() -> None:
        for _ in range(bench.sizes.steps):
            rows = torch.randint(len(bench.pixels), (count,), generator=rng)
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(rows)
            loss.backward()
            optimizer.step()
            loss.item()  # the progress shows it

    return turn


class StoppedError(Exception):
    """A training that ends before its time."""


def resume(bench: Bench, result: Result) -> None:
    """A training that is interrupted in its second epoch and resumed, against one that is not."""
    result["ok"] = True
    for recipe in RECIPES:
        bench.check_time()
        config = bench.config(recipe, epochs=2)
        whole, cut = (bench.folder / f"{recipe}-{name}" for name in ("whole", "cut"))
        finetune(config, bench.data, whole)
        try:
            finetune(config, bench.data, cut, progress=_stop_in_second_epoch)
        except StoppedError:
            kept = (cut / PARTIAL / "history.csv").read_text().splitlines()
        finetune(config, bench.data, cut, resume=True)
        rows = (cut / "history.csv").read_text().splitlines()
        weights = [load_model(run / "model.pt").state_dict() for run in (whole, cut)]
        ok = len(rows) == 3 and rows[:2] == kept
        result[recipe] = {
            "ok": ok,
            "epochs": len(rows) - 1,
            "epochs_kept": len(kept) - 1,
            "difference": max(
                float((x.float() - weights[1][name].float()).abs().max()
                      / x.float().abs().max().clamp_min(1e-12))
                for name, x in weights[0].items()
            ),
        }  # fmt: skip
        result["ok"] &= ok


@contextmanager
def _stop_in_second_epoch(label: str, total: int) -> Iterator[Bar]:
    if label.startswith("epoch 2"):
        raise StoppedError
    with silent(label, total) as bar:
        yield bar


# Ranks


@dataclass
class Trained:
    """A training by the command line that has ended.

    Attributes:
        code: its exit code.
        said: on standard error.
        history: the rows of `history.csv`; none where it failed.
        seconds_until_named: from the death of a rank to the line that names it.
    """

    code: int
    said: str
    history: list[dict[str, float]]
    seconds_until_named: float | None = None

    @property
    def problem(self) -> str:
        """The error that it said, or its last words."""
        found = re.search(r"^(rank \d+: )?Error: .*$", self.said, re.M)
        return found[0] if found else self.said.strip()[-300:]

    def losses(self) -> list[float]:
        """Of training and validation, of each epoch."""
        return [row[name] for row in self.history for name in ("train_loss", "val_loss")]

    def rate(self, photos: int) -> float:
        """Photos a second of the fastest epoch of so many photos; the first one warms up."""
        return photos / min(row["seconds"] for row in self.history[1:])


def ranks(bench: Bench, result: Result) -> None:
    """Trainings by torchrun, a rank for each GPU, beside those of one process.

    On a GPU ranks talk by NCCL, one alone, too. Two that share a GPU talk by gloo; more ranks than
    GPUs are refused by NCCL; and of a training that loses a rank by kill -9 the other names it, and
    torchrun starts it again, which goes on from the last epoch.
    """
    gpus = torch.cuda.device_count() if bench.device.type == "cuda" else 0
    count = gpus or 2
    result |= {"ok": True, "ranks": count, "by": "nccl" if gpus else "gloo"}
    for recipe in RECIPES:
        bench.check_time()
        result[recipe] = _beside_one_process(bench, recipe, count)
    bench.check_time()
    few = ("--epochs", "2", "--steps", "3", "--precision", "fp32")
    longer = ("--epochs", "4", "--steps", "8")
    sync = ("--sync-batchnorm",)
    runs: dict[str, Callable[[], Trained]] = {}
    for recipe in RECIPES:
        runs[f"alone-{recipe}"] = lambda r=recipe: trained(bench, f"few-{r}", r, options=few)
    runs["sync"] = lambda: trained(bench, "sync", "regularized", count, (*few, *sync))
    runs["killed"] = lambda: trained(bench, "killed", "regularized", count, longer, kill=True)
    if gpus:
        for recipe, more in zip(RECIPES, (sync, ()), strict=True):
            runs[f"shared-{recipe}"] = lambda r=recipe, more=more: trained(
                bench, f"shared-{r}", r, 2, (*few, *more), by="gloo"
            )
        runs["killed-shared"] = lambda: trained(
            bench, "killed-shared", "kin", 2, longer, by="gloo", kill=True
        )
        runs["too-many"] = lambda: trained(bench, "too-many", "kin", gpus + 1, few)
    with ThreadPoolExecutor(4 if gpus else 1) as pool:  # what they say counts, not how fast
        waiting = {name: pool.submit(run) for name, run in runs.items()}
        done = {name: each.result() for name, each in waiting.items()}
    result["sync_batchnorm"] = _same_losses(done["sync"], done["alone-regularized"], "fp32")
    result["killed"] = _started_again(done["killed"], count)
    if gpus:
        for recipe in RECIPES:
            one = done[f"alone-{recipe}"]
            result[f"shared_gpu_{recipe}"] = _same_losses(done[f"shared-{recipe}"], one, "fp32")
        result["shared_gpu_killed"] = _started_again(done["killed-shared"], 2)
        many = done["too-many"]
        lines = [line for line in many.said.splitlines() if line.startswith("Error: ")]
        is_clear = many.code == 1 and len(lines) == 1 and "--nproc-per-node" in lines[0]
        result["more_ranks_than_gpus"] = {"ok": is_clear, "line": many.problem}
    rows = [each for each in result.values() if isinstance(each, dict)]
    result["ok"] = all(row["ok"] for row in rows)


def _beside_one_process(bench: Bench, recipe: str, count: int) -> Result:
    photos = bench.sizes.steps * bench.photos_of_a_step(recipe)
    options = ("--epochs", "3", "--steps", str(bench.sizes.steps))
    alone = trained(bench, f"alone-{recipe}", recipe, options=options)
    together = trained(bench, f"ranks-{recipe}", recipe, count, options)
    row = _same_losses(together, alone, bench.precision)
    if "line" in row:
        return row
    if count > 1:  # which BatchNorm of each rank for itself changes
        row["ok"] = True
    row |= {
        "photos_per_second": together.rate(photos),
        "one_process_photos_per_second": alone.rate(photos),
        "ratio": together.rate(photos) / alone.rate(photos),
    }
    if count > 1 and bench.device.type == "cuda":  # as much for each as one process has
        larger = trained(bench, f"scaled-{recipe}", recipe, count, options, times=count)
        row["scaling"] = larger.problem
        if larger.code == 0:
            row["scaling"] = larger.rate(count * photos) / alone.rate(photos) / count
    return row


def _same_losses(found: Trained, wanted: Trained, precision: str) -> Result:
    """The largest difference of two trainings' mean losses, in parts of the loss."""
    for each in (found, wanted):
        if each.code:
            return {"ok": False, "exit_code": each.code, "line": each.problem}
    pairs = zip(found.losses(), wanted.losses(), strict=True)
    difference = max(abs(ours - theirs) / abs(theirs) for ours, theirs in pairs)
    return {"ok": difference <= SAME_LOSS[precision], "loss_difference": difference}


def _started_again(found: Trained, count: int) -> Result:
    """Whether a training that lost a rank said which, and ended as it should."""
    named = re.search(rf"^Error: (rank {count - 1} of {count} \(.*\) is gone.*)$", found.said, re.M)
    row: Result = {
        "exit_code": found.code,
        "epochs": len(found.history),
        "first_epoch_trained": found.said.count("epoch 1/"),  # times; again would be from the start
        "named": named[1] if named else "" if count > 1 else "not asked: one rank",
        "seconds_until_named": found.seconds_until_named,
    }
    is_named = count == 1 or named is not None
    row["ok"] = found.code == 0 and row["epochs"] == 4 and row["first_epoch_trained"] == 1
    row["ok"] &= is_named
    if found.code:
        row["line"] = found.problem
    return row


def trained(
    bench: Bench,
    name: str,
    recipe: str,
    count: int = 0,
    options: Sequence[str] = (),
    *,
    by: str = "",
    times: int = 1,
    kill: bool = False,
) -> Trained:
    """Trains by the command line.

    Args:
        bench: for device and sizes.
        name: of the run folder.
        recipe: of the training.
        count: ranks of torchrun; 0: one process without it.
        options: of the command.
        by: by what ranks talk; empty: as is usual.
        times: how many usual batches make a batch.
        kill: kill -9 the last rank after the first epoch, the first time.
    """
    run, said = bench.folder / name, bench.folder / f"{name}.log"
    command = command_of(bench, run, recipe, count, options, times=times, restarts=int(kill))
    root = str(Path(kinembed.__file__).parents[1])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": str(max(1, processors() // max(1, count))),
        **{f"{library}_SOCKET_IFNAME": "lo" for library in ("NCCL", "GLOO")},
        **({BY: by} if by else {}),
    }
    named = None
    with said.open("wb") as log:
        child = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True
        )
        try:
            if kill:
                named = _kill_rank(child, count - 1, run, said)
            child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            child.terminate()
            with suppress(subprocess.TimeoutExpired):
                child.wait(10)
            log.write(f"\nError: it did not end within {PATIENCE} s\n".encode())
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            code = child.wait()
    path, rows = run / "history.csv", []
    if code == 0:
        with path.open(newline="") as file:
            rows = [{key: float(x) for key, x in row.items()} for row in csv.DictReader(file)]
    return Trained(code, said.read_text("utf-8", "replace"), rows, named)


def command_of(
    bench: Bench, run: Path, recipe: str, count: int, options: Sequence[str], *, times: int = 1,
    restarts: int = 0,
) -> list[str]:  # fmt: skip
    """The command line of a training; arguments as of `trained`."""
    sizes = bench.sizes
    size = ["--batch-size", str(times * sizes.pairs)]
    if recipe == "kin":
        size = ["--set", f"batch_pairs={times * sizes.contrast_pairs}"]
    command = [sys.executable, "-m"]
    if count:
        command += [
            "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1",
            "--nproc-per-node", str(count), "--max-restarts", str(restarts), "-m", "--",
        ]  # fmt: skip
    command += [
        "kinembed", "finetune", "--backbone", sizes.backbone, "--weights", "none",
        "--recipe", recipe, "--view", "max", "--val-steps", "1", "--split", "families",
        "--device", bench.device.type, "--framing", "whole", "--keep", "last",
        "--data", str(bench.data), "--run", str(run), *size, *options,
    ]  # fmt: skip
    if "--precision" not in options:
        command += ["--precision", bench.precision]
    return command


def _kill_rank(child: Any, rank: int, run: Path, said: Path) -> float | None:
    """Kills a rank after the first epoch; seconds until its name is said, if another is there."""
    end = time.perf_counter() + PATIENCE
    while not (run / PARTIAL / "checkpoint.pt").exists():
        if child.poll() is not None or time.perf_counter() > end:
            return None
        time.sleep(0.02)
    os.kill(process_of(child.pid, rank), signal.SIGKILL)
    start = time.perf_counter()
    while rank and child.poll() is None and time.perf_counter() < end:
        if b" is gone" in said.read_bytes():
            return time.perf_counter() - start
        time.sleep(0.05)
    return None


def process_of(parent: int, rank: int) -> int:
    """The process of a rank that torchrun has started; Linux says it."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            its_parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            about = (folder / "environ").read_bytes().split(b"\0")
            if its_parent == str(parent) and f"RANK={rank}".encode() in about:
                return int(folder.name)
    raise SkippedError(f"not measured: /proc names no process of rank {rank}")


# torch.compile


def compiled(bench: Bench, result: Result) -> None:
    """What `finetune --compile` gains, and what it would gain in embedding."""
    bench.check_time()
    photos = bench.sizes.steps * bench.photos_of_a_step("regularized")
    works = {name: turns(bench, bench.config("regularized", compile=name == "compiled"))
             for name in ("plain", "compiled")}  # fmt: skip
    first = bench.seconds(works["compiled"])
    rates = {name: photos / bench.median(work) for name, work in works.items()}
    result["finetune"] = _gain(rates, first)
    bench.check_time()
    batch = bench.sizes.batches[-1] // 4
    block = torch.randint(0, 256, (batch, *bench.pixels.shape[1:]), dtype=torch.uint8)
    block = block.to(bench.device)
    networks = {}
    for name in ("plain", "compiled"):
        torch.manual_seed(0)
        trunk = load_trunk(bench.backbone, "none").eval()
        networks[name] = Embedder(bench.backbone, trunk, ("max",)).to(bench.device).eval()
    networks["plain"].optimize(bench.device, bench.precision)
    networks["compiled"].folded = torch.compile(networks["compiled"].folded)
    with torch.inference_mode(), autocast(bench.device, bench.precision):
        first = bench.seconds(lambda: networks["compiled"](block))
        rates = {name: batch / bench.median(lambda net=net: net(block))
                 for name, net in networks.items()}  # fmt: skip
        vectors = [net(block)["max"].float().cpu().numpy() for net in networks.values()]
    result["embed"] = _gain(rates, first) | {
        "difference": difference({"max": vectors[1]}, {"max": vectors[0]})
    }


def _gain(rates: dict[str, float], first: float) -> Result:
    return {
        "photos_per_second": rates["plain"],
        "compiled_photos_per_second": rates["compiled"],
        "ratio": rates["compiled"] / rates["plain"],
        "seconds_until_compiled": first,
    }


# Embedding


def embedding(bench: Bench, result: Result) -> None:
    """Photos a second by batch size; decoding, copying, computing and writing apart, and together.

    Batches grow until twice the size gains less than a twentieth, or the device has no room.
    """
    bench.check_time()
    paths = bench.copies
    framing = bench.backbone.framing
    decoded: list[np.ndarray] = []
    some = [photo_at(path, path.name) for path in paths[: bench.sizes.batches[-1]]]
    blocks = [some[start : start + 16] for start in range(0, len(some), 16)]
    decoding: dict[str, float] = {}
    with closing(PhotoProcesses()) as processes, ThreadPoolExecutor(processors()) as pool:
        for name, each in {"by_threads": None, "by_processes": processes}.items():
            names = {path.name: path for path in paths}
            reader = Reader(names, dict.fromkeys(names, framing), processes=each)

            def decode(reader: Reader = reader) -> None:
                batches = pool.map(reader.read, blocks)
                decoded[:] = itertools.chain.from_iterable(batch.pixels for batch in batches)

            decoding[name] = len(some) / bench.median(decode)
    result["decode_photos_per_second"] = decoding
    of_embed = "by_processes" if processors() >= PROCESSORS else "by_threads"
    parts: Result = {"decode": decoding[of_embed]}
    result["batches"] = sweep(bench, decoded)
    rows = [row for row in result["batches"] if "map" in row]
    best = max(rows, key=lambda row: row["map"])
    parts |= {name: best[name] for name in ("copy", "compute", "copy_back")}
    parts["write"] = write_rate(bench, len(paths))
    result["best_batch_size"] = best["batch_size"]
    result["parts_photos_per_second"] = parts
    # One after the other on the way to the device and back; decoding and writing beside that.
    limits = {"decode": parts["decode"], "map": best["map"], "write": parts["write"]}
    result["limit"] = min(limits, key=lambda name: limits[name])
    usual = EmbedConfig().batch_of(bench.device.type)
    for name, size in (("default", usual), ("best", best["batch_size"])):
        bench.check_time()
        config = EmbedConfig(
            photos=(str(paths[0].parent),), views=("max",), flip=False, weights="none",
            backbone=bench.sizes.backbone, framing="whole", layout="flat", batch_size=size,
            device=bench.device.type, precision=bench.precision,
        )  # fmt: skip
        seconds: list[float] = []

        def whole(config: EmbedConfig = config, seconds: list[float] = seconds) -> None:
            with tempfile.TemporaryDirectory(dir=bench.folder) as run:
                seconds.append(bench.seconds(lambda: embed(config, bench.data, Path(run))))

        whole()
        share = bench.busy(whole) if bench.device.type == "cuda" else NO_GPU
        rate = len(paths) / seconds[0]
        result[f"embed_{name}_batch"] = {
            "batch_size": size,
            "photos": len(paths),
            "photos_per_second": rate,
            "share_of_limit": rate / min(limits.values()),
            "gpu_busy_share": share,
        }


class Pace:
    """A progress bar that keeps when how many photos were done, and profiles some of them.

    Attributes:
        gpu_busy_share: of the profiled ones; or why that is unknown.
    """

    def __init__(self, bench: Bench, total: int) -> None:
        self.total, self.done = total, 0
        self.moments: list[tuple[float, int]] = []
        self.gpu_busy_share: float | str = NO_GPU
        self._profiler = kernels() if bench.device.type == "cuda" else None
        self._began: float | None = None

    @contextmanager
    def __call__(self, label: str, total: int) -> Iterator[Bar]:
        """The bar of a piece of work: this one, of the embedding itself."""
        if label == "embedding":
            yield self
        else:
            with silent(label, total) as bar:
                yield bar

    def advance(self, count: int, note: str = "") -> None:
        """Counts more photos."""
        self.done += count
        self.moments.append((time.perf_counter(), self.done))
        begin, end = (share * self.total for share in WINDOWS[1])
        if self._profiler is None:
            return
        if self._began is None and self.done >= begin:
            self._profiler.start()
            self._began = time.perf_counter()
        elif self._began is not None and self.done >= end:
            seconds = time.perf_counter() - self._began
            profiler, self._profiler = self._profiler, None
            profiler.stop()
            self.gpu_busy_share = busy_share(profiler, seconds)

    def steady_rate(self) -> float:
        """Photos a second once all is under way."""
        begin, end = (
            next(moment for moment in self.moments if moment[1] >= share * self.total)
            for share in WINDOWS[0]
        )
        return (end[1] - begin[1]) / max(end[0] - begin[0], 1e-9)


TIMES = re.compile(
    r"opening (?P<opening>[\d.]+) s, framing (?P<framing>[\d.]+) s, .* photos/s in "
    r"(?P<computing>[\d.]+) s \(read (?P<read>[\d.]+) s in (?P<readers>\d+) threads, infer "
    r"(?P<infer>[\d.]+) s in (?P<mappers>\d+), write (?P<write>[\d.]+) s, .*\), joining "
    r"(?P<joining>[\d.]+) s"
)


def many(bench: Bench, result: Result) -> None:
    """Embedding many photos with default settings: the whole command, its steady part, its parts.

    `busy` says how much of the time the threads that read, map and write are at work. It is done
    again with one batch on the GPU at a time, by which the vectors must be the same.
    """
    bench.check_time()
    result["ok"] = True
    photos = str(bench.copied(bench.sizes.many)[0].parent)
    bench.busy(lambda: torch.zeros(1, device=bench.device))  # the profiler's first start is slow
    for name in bench.sizes.networks:
        bench.check_time()
        config = EmbedConfig(
            photos=(photos,), weights="none", backbone=name, framing="whole", layout="flat",
            device=bench.device.type,
        )  # fmt: skip
        row, vectors = _embedded(bench, config)
        with mock.patch("kinembed.backbones.mapper.ON_GPU", 1):
            alone, wanted = _embedded(bench, config)
        row["steady_photos_per_second_one_by_one"] = alone["steady_photos_per_second"]
        row["difference_one_by_one"] = difference({"": vectors}, {"": wanted})
        row["ok"] = row["difference_one_by_one"] <= DIFFERENCE
        result[name] = row
        result["ok"] &= row["ok"]


def _embedded(bench: Bench, config: EmbedConfig) -> tuple[Result, np.ndarray]:
    """What embedding many photos takes, and the first vectors."""
    count = bench.sizes.many
    pace = Pace(bench, count)
    torch.manual_seed(0)  # the weights are random
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder, info() as lines:
        run = Path(folder)
        seconds = bench.seconds(lambda: embed(config, bench.data, run, progress=pace))
        with EmbeddingCache.open(run / "embeddings.h5") as cache:
            vectors = np.array(cache.stored(f"views/{cache.views[0]}")[:4096])
    times = next(match for line in lines if (match := TIMES.search(line)))
    of = {key: float(value) for key, value in times.groupdict().items()}
    whole = max(of["computing"], 0.1)
    busy = {
        "read": of["read"] / of["readers"] / whole,
        "infer": of["infer"] / of["mappers"] / whole,
        "write": of["write"] / whole,
    }
    row = {
        "photos": count,
        "batch_size": config.batch_of(bench.device.type),
        "photos_per_second": count / seconds,
        "steady_photos_per_second": pace.steady_rate(),
        "gpu_busy_share": pace.gpu_busy_share,
        "seconds": {key: of[key] for key in ("opening", "framing", "computing", "joining")},
        "busy": busy,
        "limit": max(busy, key=lambda part: busy[part]),
    }
    return row, vectors


@contextmanager
def info() -> Iterator[list[str]]:
    """What kinembed logs meanwhile."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("kinembed")
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def sweep(bench: Bench, decoded: Sequence[np.ndarray]) -> list[Result]:
    """Photos a second of each batch size: the way to the device, the network, the way back, all."""
    rows: list[Result] = []
    torch.manual_seed(0)
    trunk = load_trunk(bench.backbone, "none").eval()
    network = Embedder(bench.backbone, trunk, ("max",)).to(bench.device)
    mapper = Mapper(network, bench.device, bench.precision)
    best = 0.0
    for size in bench.sizes.batches:
        bench.check_time()
        pixels = [decoded[i % len(decoded)] for i in range(size)]
        row: Result = {"batch_size": size}
        rows.append(row)
        try:
            row["map"] = size / bench.median(lambda pixels=pixels: mapper.map(pixels))
            row |= apart(bench, network, pixels)
        except KinembedError as error:
            row["error"] = str(error)
            break
        if row["map"] < SATURATED * best:
            break
        best = max(best, row["map"])
    return rows


def apart(bench: Bench, network: Embedder, pixels: Sequence[np.ndarray]) -> Result:
    """Photos a second of the parts of `Mapper.map`, each waited for."""
    with torch.inference_mode(), autocast(bench.device, bench.precision):

        def copy() -> Tensor:
            return torch.from_numpy(np.stack(pixels)).to(bench.device, non_blocking=True)

        photos = copy()
        vectors = network(photos)["max"]
        works: dict[str, Callable[[], object]] = {
            "copy": copy,
            "compute": lambda: network(photos),
            "copy_back": lambda: vectors.float().cpu().numpy(),
        }
        return {name: len(pixels) / bench.median(work) for name, work in works.items()}


def write_rate(bench: Bench, count: int) -> float:
    """Vectors written to a cache a second."""
    rng = np.random.default_rng(0)
    vectors = rng.random((count, bench.backbone.width("max")), np.float32)
    names = np.array([f"{number:05}.jpg".encode() for number in range(count)])
    digests = rng.integers(0, 256, (count, 32), np.uint8)
    people = np.full(count, b"")
    path = bench.folder / "written.h5"
    return count / bench.median(
        lambda: write_cache(path, {}, names, digests, {"max": [vectors]}, people=people)
    )


# Out of memory


def out_of_memory(bench: Bench, result: Result) -> None:
    """What is said when the device has no memory left: one line, which names what to run."""
    result["ok"] = True
    photos = (str(bench.copies[0].parent),)
    size = bench.sizes.batches[-1]
    many = EmbedConfig(
        photos=photos, views=("max",), weights="none", backbone=bench.sizes.backbone,
        framing="whole", layout="flat", batch_size=size, device=bench.device.type,
        precision=bench.precision,
    )  # fmt: skip
    works: dict[str, Callable[[Path], object]] = {
        recipe: lambda run, recipe=recipe: finetune(
            bench.config(recipe, epochs=1, steps=1), bench.data, run
        )
        for recipe in RECIPES
    }
    works["embed"] = lambda run: embed(many, bench.data, run)
    for name, work in works.items():
        bench.check_time()
        run = bench.folder / f"memory-{name}"
        try:
            with little_memory(bench):
                work(run)
            row = {"ok": False, "line": "it did not run out"}
        except KinembedError as error:
            row = {"ok": "out of memory" in str(error), "line": str(error)}
        row["left"] = sorted(path.name for path in run.iterdir()) if run.is_dir() else []
        row["ok"] &= not row["left"]
        result[name] = row
        result["ok"] &= row["ok"]


@contextmanager
def little_memory(bench: Bench) -> Iterator[None]:
    """Leaves this process little more of the GPU's memory than it has."""
    if bench.device.type != "cuda":
        raise SkippedError("not measured: the CPU has no memory of its own")
    free_memory()
    total = torch.cuda.get_device_properties(bench.device).total_memory
    allowed = torch.cuda.memory_reserved(bench.device) + bench.sizes.memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / total))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


# All


SECTIONS: dict[str, Callable[[Bench, Result], None]] = {
    "parity": parity,
    "finetune": training,
    "resume": resume,
    "ranks": ranks,
    "compile": compiled,
    "embed": embedding,
    "many": many,
    "out_of_memory": out_of_memory,
}


def machine(device: torch.device) -> Result:
    """What it is measured on."""
    about: Result = {
        "kinembed": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": processors(),
        "device": device.type,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        about |= {
            "gpu": properties.name,
            "gpu_memory_gb": properties.total_memory / 1e9,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return about


def free_memory() -> None:
    """Gives back what nothing uses."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def measure(bench: Bench, names: Sequence[str]) -> Result:
    """The results of some sections, each with its `state`: done, failed, skipped or cut short."""
    results: Result = {}
    for name in names:
        start = time.perf_counter()
        result = results[name] = {"state": "done"}
        try:
            bench.check_time()
            SECTIONS[name](bench, result)
        except TimeOverError as over:
            result |= {"state": "cut short", "reason": str(over)}
        except SkippedError as skipped:
            result |= {"state": "skipped", "reason": str(skipped)}
        except Exception as error:  # whatever it is, the other sections are still worth running
            reason = (str(error).strip() or "no reason given").splitlines()[0]
            result |= {"state": "failed", "reason": f"{type(error).__name__}: {reason}"}
        if result["state"] != "done":
            result.pop("ok", None)  # of a part alone it says nothing
        result["seconds"] = time.perf_counter() - start
        reason = f": {result['reason']}" if "reason" in result else ""
        print(f"{name}: {result['state']}{reason} ({result['seconds']:.0f} s)", file=sys.stderr)
        free_memory()
    return results


def rounded(value: Any) -> Any:
    """The same with floats of four digits, for readers; ratios are of the unrounded ones."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures the sections and prints or writes one JSON; 0: all are done and right."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"))
    parser.add_argument("--minutes", type=float, default=8, help="after which nothing new begins")
    parser.add_argument("--only", help=f"sections, comma-separated: {','.join(SECTIONS)}")
    parser.add_argument(
        "--small", action=argparse.BooleanOptionalAction,
        help="a tiny network and seconds of work, which tell nothing of speed; usual on a CPU",
    )  # fmt: skip
    parser.add_argument("--folder", type=Path, help="for files, which stay; else a temporary one")
    parser.add_argument("--out", type=Path, help="file of the JSON; else standard output")
    options = parser.parse_args(arguments)
    names = options.only.split(",") if options.only else [*SECTIONS]
    if unknown := [name for name in names if name not in SECTIONS]:
        parser.error(f"--only: unknown {', '.join(unknown)}; known are {', '.join(SECTIONS)}")
    try:
        device = choose_device(options.device)
    except KinembedError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    if options.folder is not None and options.folder.is_dir() and any(options.folder.iterdir()):
        parser.error(f"--folder: {options.folder} is not empty")
    small = options.small if options.small is not None else device.type == "cpu"
    start = time.perf_counter()
    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(device, SMALL if small else LARGE, folder, options.minutes)
        sections = measure(bench, names)
    states = {section["state"] for section in sections.values()}
    wrong = [name for name, section in sections.items() if not section.get("ok", True)]
    text = json.dumps(
        rounded(
            {
                "machine": machine(device),
                "small": small,
                "minutes": options.minutes,
                "seconds": time.perf_counter() - start,
                "ok": states <= {"done", "skipped"} and not wrong,
                "wrong": wrong,
                "sections": sections,
            }
        ),
        indent=2,
    )
    if options.out is None:
        print(text)
    else:
        options.out.write_text(text + "\n", encoding="utf-8")
    return int(not (states <= {"done", "skipped"} and not wrong))


if __name__ == "__main__":
    sys.exit(main())
