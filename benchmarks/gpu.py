"""Whether kinembed uses your NVIDIA GPU: as right as the CPU, how fast, how busy, how much memory.

    pip install .
    python benchmarks/gpu.py --out gpu.json

Takes at most --minutes, downloads nothing: weights are random, photos are made up. A section that
fails says why, and the others go on. docs/speed.md says what each number means and what is good.
"""

import argparse
import gc
import itertools
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

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
from kinembed.cache.writer import write_cache
from kinembed.config import EmbedConfig, FinetuneConfig, Precision
from kinembed.data.families import Families, read_families
from kinembed.data.listing import photo_at
from kinembed.data.photo_processes import PhotoProcesses
from kinembed.data.photos import decode_all
from kinembed.data.reader import Reader
from kinembed.data.samplers import PairSampler
from kinembed.embed import PROCESSORS, embed
from kinembed.errors import KinembedError
from kinembed.finetune import PARTIAL, TRAINERS, finetune
from kinembed.progress import Bar, silent
from kinembed.synthetic import generate_dataset
from kinembed.threads import processors
from kinembed.training.siamese import SiameseNetwork, load_model
from kinembed.training.trainer import Figures, Trainer

Result = dict[str, Any]

RECIPES = ("regularized", "kin")
DIFFERENCE, COSINE = 1e-4, 0.999  # that float32 may have at most, and bf16 has to have at least
SATURATED = 1.05  # a batch twice as large that gains less is not worth its memory
NO_GPU = "not measured: no GPU"


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
        """As many files as are embedded, each of other bytes, or they would be computed once."""
        folder = self.folder / "copies"
        folder.mkdir()
        originals = [path.read_bytes() for path in sorted(self.data.rglob("*.jpg"))]
        for number, content in zip(
            range(self.sizes.photos), itertools.cycle(originals), strict=False
        ):
            (folder / f"{number:05}.jpg").write_bytes(content + number.to_bytes(4, "little"))
        return sorted(folder.iterdir())

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
        from torch.profiler import ProfilerActivity, profile

        try:
            with profile(activities=[ProfilerActivity.CUDA]) as profiler:
                seconds = self.seconds(work)
            spans = [
                (event.time_range.start, event.time_range.end)
                for event in profiler.events()
                if event.device_type == torch.autograd.DeviceType.CUDA
                and not getattr(event, "is_user_annotation", False)
            ]
        except RuntimeError as error:
            return f"not measured: {error}"
        return covered(spans) / 1e6 / seconds if spans else "not measured: CUPTI names no kernel"

    def peak(self, work: Callable[[], object]) -> float | str:
        """The most memory of the GPU, in GB, that tensors take during a call."""
        if self.device.type != "cuda":
            work()
            return NO_GPU
        torch.cuda.reset_peak_memory_stats(self.device)
        work()
        return float(torch.cuda.max_memory_allocated(self.device) / 1e9)


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
    "compile": compiled,
    "embed": embedding,
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
    small = options.small if options.small is not None else device.type == "cpu"
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(device, SMALL if small else LARGE, Path(folder), options.minutes)
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
