"""How near each stage is to what this machine can do: arithmetic, bytes, imports.

    python benchmarks/floors.py --out floors.json
    python benchmarks/floors.py --only head --only score

Measures what the machine does in a second (products of matrices, bytes read from memory and from
disk, imports), and right beside it what kinembed takes. A floor is the time of the work that cannot
be left out, at that rate; the share is floor to time: 1 cannot be beaten. Time is told by the clock
and in seconds of a processor, all threads together, which other programs change less.
Photos are painted, weights random. docs/speed has a page for each stage.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # waiting threads would count as work

import numpy as np
import torch
from bench import Bench, described, machine, precisions
from torch import nn
from turns import figure

CPU = torch.device("cpu")
MATRIX = 2048  # rows and columns of the products that tell the rate
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}


@dataclass(frozen=True)
class Took:
    """How long something took: by the clock, and in seconds of a processor."""

    clock: float
    processor: float

    def __add__(self, other: "Took") -> "Took":
        return Took(self.clock + other.clock, self.processor + other.processor)

    def times(self, factor: float) -> "Took":
        """So many times as long."""
        return Took(self.clock * factor, self.processor * factor)


@dataclass(frozen=True)
class Line:
    """A line of the table.

    Attributes:
        what: is done, once.
        floor: the time that it takes at the machine's rates; None: it has none, and is a part.
        why: where the floor comes from.
        took: the time that it takes.
    """

    what: str
    took: Took
    floor: Took | None = None
    why: str = ""

    def __str__(self) -> str:
        cells = [self.what, "", told(self.took), ""]
        if self.floor is not None:
            shares = [
                floor / took
                for floor, took in zip(
                    (self.floor.clock, self.floor.processor),
                    (self.took.clock, self.took.processor),
                    strict=True,
                )
            ]
            cells[1] = f"{told(self.floor)}: {self.why}"
            cells[3] = " and ".join(f"{share:.2f}" for share in shares)
        return f"| {' | '.join(cells)} |"


def told(took: Took) -> str:
    """Both times, in a unit that fits."""
    unit, factor = (
        ("s", 1.0) if took.clock >= 1 else ("ms", 1e3) if took.clock >= 1e-3 else ("us", 1e6)
    )
    return f"{figure(took.clock * factor)} / {figure(took.processor * factor)} {unit}"


def once(work: Callable[[], object]) -> Took:
    """The time of a call, that of processes which it waits for included."""

    def processors() -> float:
        own, children = (
            resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        return sum(each.ru_utime + each.ru_stime for each in (own, children))

    clock, processor = time.perf_counter(), processors()
    work()
    return Took(time.perf_counter() - clock, processors() - processor)


def took(work: Callable[[], object], rounds: int = 5, choose: Any = statistics.median) -> Took:
    """The median, or another choice, of some calls after one that warms up."""
    work()
    turns = [once(work) for _ in range(rounds)]
    return Took(choose(turn.clock for turn in turns), choose(turn.processor for turn in turns))


least = partial(took, choose=min)


# What the machine does


def product(operations: float, dtype: str, shape: tuple[int, int, int] = (MATRIX,) * 3) -> Took:
    """The time of so many operations, at the rate of a product of matrices, n x k by k x m.

    That of numpy's or torch's product, or, for large ones, of a convolution, which another library
    computes: the fastest of them.
    """
    n, k, m = shape
    one = 2.0 * n * k * m
    a, b = (torch.rand(size).to(DTYPES[dtype]) for size in ((n, k), (k, m)))
    ways: list[tuple[float, Callable[[], object]]] = [(one, lambda: a @ b)]
    if dtype != "bf16":
        x, y = a.numpy(), b.numpy()
        ways.append((one, lambda: x @ y))
    if dtype != "fp64" and n == MATRIX:
        maps, kernel = (
            torch.rand(size).to(DTYPES[dtype]).contiguous(memory_format=torch.channels_last)
            for size in ((16, 256, 28, 28), (256, 256, 3, 3))
        )
        work = 2.0 * 16 * 28 * 28 * 256 * 256 * 9
        ways.append((work, lambda: nn.functional.conv2d(maps, kernel, padding=1)))
    found = []
    for done, way in ways:
        repeats = max(1, round(2e9 / done))  # processors' time is told in milliseconds

        def repeated(way: Callable[[], object] = way, repeats: int = repeats) -> None:
            for _ in range(repeats):
                way()

        found.append(least(repeated).times(operations / (done * repeats)))
    return min(found, key=lambda each: each.processor)


def reading(count: float, size: int = 1 << 28) -> Took:
    """The time of reading so many bytes from memory, all processors together."""
    from kinembed.threads import one_blas_thread, parallel_map, processors

    memory = np.ones(size // 4, np.float32)
    parts = np.array_split(memory, 8 * processors())

    def read() -> None:
        with one_blas_thread():
            parallel_map(lambda part: np.dot(part, part), parts, processors())

    return least(read).times(count / memory.nbytes)


def from_disk(folder: Path, size: int) -> Took:
    """The time of reading a file of so many bytes that is not in memory any more."""
    path = folder / "disk"
    with path.open("wb") as file:
        for _ in range(size >> 20):
            file.write(os.urandom(1 << 20))
        file.flush()
        os.fsync(file.fileno())

    def read() -> None:
        with path.open("rb", buffering=0) as file:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while file.read(1 << 20):
                pass

    found = least(read, 2)
    path.unlink()
    return found


def process(*arguments: str) -> Callable[[], object]:
    """A Python process that runs to its end."""
    command = [sys.executable, *arguments]
    return lambda: subprocess.run(
        command, check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )


def imports(modules: str) -> Took:
    """A process that imports some modules and does nothing."""
    return took(process("-c", f"import {modules}" if modules else "pass"))


def rates(bench: Bench) -> Iterator[Line]:
    """What the machine does, by itself."""
    for dtype in DTYPES:
        yield Line(f"10^9 operations of a product of matrices in {dtype}", product(1e9, dtype))
    size = 1 << (24 if bench.small else 28)
    yield Line("10^9 bytes read from memory", reading(1e9, size))
    size = 1 << (22 if bench.small else 28)
    yield Line("10^9 bytes read from disk", from_disk(bench.folder, size).times(1e9 / size))
    for modules in ("", "numpy, h5py, click", "torch"):
        yield Line(f"a process that imports {modules or 'nothing'}", imports(modules))


# The stages


def operations_of(network: nn.Module, side: int) -> float:
    """Operations of a photo through a network: twice the products of its layers."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, side, side))
    return float(counter.get_total_flops())


def numbers_of(network: nn.Module, side: int) -> float:
    """Numbers that a photo's layers take and give, without its pixels' normalisation."""
    total = 0

    def count(_: nn.Module, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        nonlocal total
        total += given[0].numel() + out.numel()

    hooks = [
        module.register_forward_hook(count)
        for module in network.modules()
        if not list(module.children())
    ]
    with torch.no_grad():
        network(torch.zeros(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    return float(total)


class OneView(nn.Module):
    """A trunk and one of its views."""

    def __init__(self, trunk: Any, view: str) -> None:
        super().__init__()
        self.trunk, self.view = trunk, view

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Photos to vectors."""
        return self.trunk.views(x, (self.view,))[self.view]


def embed(bench: Bench) -> Iterator[Line]:
    """Networks alone, and the whole command."""
    from kinembed.backbones import find_backbone
    from kinembed.backbones.embedder import Embedder
    from kinembed.backbones.mapper import Mapper
    from kinembed.backbones.weights import load_trunk
    from kinembed.config import EmbedConfig
    from kinembed.data.photos import read_photo
    from kinembed.embed import embed
    from kinembed.threads import processors

    count = 8 if bench.small else 480
    data = bench.data(count)
    paths = sorted((data / "train").rglob("*.jpg"))[:count]
    whole: dict[str, Took] = {}
    for name, photos in (("mobilefacenet", 240), ("sface", 96), ("resnet50", 64)):
        if bench.small and name != "mobilefacenet":
            continue
        photos = min(photos, count)
        backbone = find_backbone(name)
        trunk = load_trunk(backbone, "none").eval()
        work = operations_of(OneView(trunk, "max"), backbone.framing.side)
        pixels = [read_photo(path, backbone.framing)[1] for path in paths[:photos]]
        batches = [pixels[at : at + 16] for at in range(0, photos, 16)]
        for precision in precisions():
            mapper = Mapper(Embedder(backbone, trunk, ("max",)), CPU, precision)
            with mapper.threads(processors()) as (_, mappers):
                run = lambda: list(mappers.map(mapper.map, batches))  # noqa: B023, E731
                each = took(run, 1 if bench.small else 5).times(1 / photos)
            yield Line(
                f"a photo through {name} in {precision}",
                each,
                product(work, precision),
                f"{work / 1e9:.2f} 10^9 operations",
            )
            whole.setdefault(name, each)
    framing = find_backbone("mobilefacenet").framing

    def decode_all() -> None:
        from kinembed.threads import parallel_map

        parallel_map(lambda path: read_photo(path, framing), paths, processors())

    decoded = took(decode_all, 1 if bench.small else 5).times(1 / len(paths))
    yield Line("reading, decoding and framing a photo", decoded)
    files = len(sorted(data.rglob("*.jpg")))
    config = EmbedConfig(backbone="mobilefacenet", weights="none", flip=False, views=("max",))
    folder = bench.folder / "embedded"
    times = [once(lambda turn=turn: embed(config, data, folder / str(turn))) for turn in range(3)]
    each = Took(
        *(statistics.median(getattr(t, n) for t in times[1:]) for n in ("clock", "processor"))
    )
    yield Line(
        f"a photo of {files}, by the whole command with mobilefacenet",
        each.times(1 / files),
        whole["mobilefacenet"] + decoded,
        "its network and its decoding",
    )


def finetune(bench: Bench) -> Iterator[Line]:
    """A step of `regularized` on ResNet-50, and a pass of `kin` on MobileFaceNet."""
    from kinembed.memory import reused_memory

    with reused_memory():  # as the command has it
        yield from finetune_lines(bench)


def finetune_lines(bench: Bench) -> Iterator[Line]:
    """The lines of `finetune`."""
    from keras import training
    from replicated_forward import passes

    from kinembed.backbones import find_backbone
    from kinembed.backbones.weights import load_trunk

    pairs = 4 if bench.small else 16
    photos = 2 * pairs
    rounds = 1 if bench.small else 3
    backbone = find_backbone("resnet50")
    trunk = load_trunk(backbone, "none").eval()
    network = OneView(trunk, "max")
    if not bench.small:
        work = 3 * photos * operations_of(network, backbone.framing.side)
        numbers = photos * numbers_of(network, backbone.framing.side)
        parameters = sum(each.numel() for each in network.parameters())
        for precision in precisions():
            yield Line(
                f"a step of regularized on resnet50 in {precision}, {photos} photos",
                took(training(photos, precision, 1), rounds),
                product(work, precision),
                f"{work / 1e9:.0f} 10^9 operations",
            )
            width = 2 if precision == "bf16" else 4
            passes_ = 2.5 * numbers * width  # forward, and back with the inputs once more
            yield Line(
                "of it, what its layers take and give, if each is computed alone", reading(passes_)
            )
        yield Line(
            "of it, Adam's numbers: 4 read and 3 written a parameter", reading(28 * parameters)
        )
    backbone = find_backbone("mobilefacenet")
    trunk = load_trunk(backbone, "none").eval()
    photos = 2 if bench.small else 96
    work = 3 * photos * operations_of(OneView(trunk, "native"), backbone.framing.side)
    ours, theirs = passes(photos)
    for name, side in (("kinembed", ours), ("torch's own way", theirs)):
        yield Line(
            f"a pass of kin on mobilefacenet in fp32, {photos} photos, by {name}",
            took(side, rounds),
            product(work, "fp32"),
            f"{work / 1e9:.0f} 10^9 operations",
        )


def head(bench: Bench) -> Iterator[Line]:
    """The report's protocol: 30 epochs of 100 steps of 32 pairs."""
    from head import made_up

    from kinembed.config import HeadConfig
    from kinembed.recipes import RECIPES
    from kinembed.training.pair_heads import train_pair_heads

    width, hidden = (64, 100) if bench.small else (2048, 100)
    config = HeadConfig(epochs=1, steps=2, val_steps=2) if bench.small else HeadConfig()
    _, vectors, train, validation = made_up(width)
    members = [(RECIPES["regularized"], 0)]
    ours = took(
        lambda: train_pair_heads(vectors, train, validation, members, config),
        1 if bench.small else 3,
    )
    steps = config.pair_epochs * config.pair_steps
    pairs = steps * config.batch_size
    judged = config.pair_epochs * config.val_steps * config.batch_size
    operations = 2 * width * hidden * (2 * pairs + judged)
    shape = (config.batch_size, width, hidden)
    why = (
        f"{operations / 1e9:.0f} 10^9 operations of its first layer, at the rate of its own product"
    )
    what = f"training the report's head, {len(vectors):,} x {width}"
    yield Line(what, ours, product(operations, "fp32", shape), why)
    yield Line(
        "of it, the same operations at the rate of large matrices", product(operations, "fp32")
    )
    rng = np.random.default_rng(0)

    def draw() -> None:
        for _ in range(config.pair_epochs):
            train.sample(config.pair_steps, config.batch_size, rng)

    def gather() -> None:
        for _ in range(config.pair_epochs):
            rows, _ = train.sample(config.pair_steps, config.batch_size, rng)
            for some in rows:
                np.abs(vectors[some[:, 0]] - vectors[some[:, 1]])

    drawn = took(draw, 3)
    yield Line("of it, drawing the pairs", drawn)
    yield Line("of it, drawing and |a - b| of the pairs".replace("|", "\\|"), took(gather, 3))
    kernel = width * hidden
    slots = [np.zeros(kernel, np.float32) for _ in range(4)]

    def adam() -> None:
        for _ in range(steps):
            for slot in slots[1:]:
                np.add(slots[0], slot, out=slot)

    yield Line("of it, as many passes over the kernel as Adam needs at least", took(adam, 3))
    yield Line("starting `kinembed head`: importing torch", imports("torch"), imports(""), "Python")


def score(bench: Bench) -> Iterator[Line]:
    """The whole command, and scoring in memory."""
    from score import PAIRS, prepare, report_head

    from kinembed.heads.pair import PairHead

    with tempfile.TemporaryDirectory() as folder:
        command = prepare(Path(folder) / "run", *report_head())
        whole = took(process(*command[1:]), 1 if bench.small else 9)
    yield Line(
        f"scoring {PAIRS:,} pairs, the whole command",
        whole,
        imports("numpy, h5py, click"),
        "importing numpy, h5py and click",
    )
    width = 2048
    rows, count = (100, 1_000) if bench.small else (18_661, 400_000)
    rng = np.random.default_rng(0)
    vectors = rng.random((rows, width), np.float32)
    kernels = tuple(
        rng.standard_normal(shape, np.float32) * 0.02
        for shape in ((width, 100), (100, 25), (25, 1))
    )
    scorer = PairHead("max", "", kernels, tuple(np.zeros(k.shape[1], np.float32) for k in kernels))
    pairs = rng.integers(0, rows, (count, 2))
    ours = took(lambda: scorer.score(vectors, pairs), 1 if bench.small else 5)
    operations = 2.0 * count * width * 100
    what = f"scoring {count:,} pairs in memory"
    yield Line(
        what, ours, product(operations, "fp64"), f"{operations / 1e9:.0f} 10^9 operations in fp64"
    )
    gathered = 2.0 * count * width * 4
    yield Line(f"of it, reading {gathered / 1e9:.1f} GB of vectors", reading(gathered))


def search(bench: Bench) -> Iterator[Line]:
    """Searches of made-up people."""
    from curves import made_up_gallery

    for size in (2_000,) if bench.small else (100_000, 1_000_000):
        folder = bench.folder / f"gallery-{size}"
        folder.mkdir()
        gallery, searches = made_up_gallery(size, folder)
        each = took(searches, 1 if bench.small else 3).times(1 / 20)
        arrays = [gallery.people.directions]
        if gallery.screen is not None:
            arrays += [gallery.screen.short, gallery.screen.lengths]
        count = float(sum(array.nbytes for array in arrays))
        yield Line(
            f"a search of {size:,} people by 128 numbers, once they are in memory",
            each,
            reading(count),
            f"{count / 1e6:.0f} MB of directions and short forms, read once",
        )


STAGES: dict[str, Callable[[Bench], Iterator[Line]]] = {
    "rates": rates,
    "embed": embed,
    "finetune": finetune,
    "head": head,
    "score": score,
    "search": search,
}


def main(arguments: list[str] | None = None) -> int:
    """Prints a table for each stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=list(STAGES))
    parser.add_argument("--out", type=Path, help="JSON with everything")
    parser.add_argument("--small", action="store_true", help="only to see that it runs")
    options = parser.parse_args(arguments)
    found: dict[str, Any] = {"machine": machine(), "small": options.small}
    for name in options.only or STAGES:
        with tempfile.TemporaryDirectory() as folder:
            print(f"\n{name}: by the clock / of a processor\n")
            print("| what | floor | time | floor / time |\n|---|---|---|---|")
            found[name] = []
            for line in STAGES[name](Bench(Path(folder), options.small)):
                print(line, flush=True)
                found[name].append(asdict(line))
    print("\n" + described(found["machine"]))
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
