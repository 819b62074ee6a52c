"""How time and memory grow: with photos, pairs, people to search, names to list, and heads.

    python benchmarks/curves.py                                 # a few minutes
    python benchmarks/curves.py --large --keep cost.json --svg docs/images/cost.svg

The second goes to 18,000 photos, 50 million pairs, 5 million people, and 10 million names: an hour
of two cores, 8 GB of memory and 6 GB of disk (`TMPDIR`). Points that `--keep` has are not measured
again, so that it goes on where it was interrupted; one that fails is said, and left out.

Each point is a process of its own, which does one thing. Time is that of its processors, all
threads together, so that a busy machine changes it little; what is prepared before is not in it.
Memory is the maximum resident set of all, mapped files included. The exponent is the slope of a
line through the logarithms, from the second point on: 1 is linear.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

WIDTH = 128  # of vectors and representations
SIZES = {
    "photos embedded": (256, 1_024, 4_096),
    "pairs scored": (10_000, 100_000, 1_000_000, 10_000_000),
    "people searched": (10_000, 100_000, 1_000_000),
    "names listed": (10_000, 100_000, 1_000_000),
    "heads trained": (1, 4, 16, 64),
}
LARGE = {
    "photos embedded": 18_000,
    "pairs scored": 50_000_000,
    "people searched": 5_000_000,
    "names listed": 10_000_000,
}
Point = tuple[int, float, float]  # how many, processor seconds, MiB


def used() -> tuple[float, float]:
    """Seconds of all processors, and the peak of memory in MiB, of this process so far."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime, own.ru_maxrss / 1024


def embed_photos(size: int, folder: Path) -> Callable[[], object]:
    """`kinembed embed` of made-up photos, by a small network."""
    from PIL import Image

    from kinembed.config import EmbedConfig
    from kinembed.embed import embed

    rng = np.random.default_rng(0)
    for number in range(size):
        path = folder / f"train/F{number // 20:04}/MID{number // 5 % 4}/P{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (28, 28, 3), np.uint8)
        Image.fromarray(pixels).resize((224, 224)).save(path)
    config = EmbedConfig(backbone="mtcnn-onet", framing="whole", photos=("train",))
    return lambda: embed(config, folder, folder / "run")


def score_pairs(size: int, folder: Path) -> Callable[[], object]:
    """`kinembed score` by a metric head, from a cache of 18,661 photos."""
    from kinembed.cache import SCHEMA
    from kinembed.cache.writer import write_cache
    from kinembed.config import ScoreConfig
    from kinembed.heads.file import save_head
    from kinembed.heads.metric import MetricHead, Projection
    from kinembed.score import score

    rng = np.random.default_rng(0)
    names = [f"test/face{row:05}.jpg" for row in range(18_661)]
    vectors = rng.standard_normal((len(names), WIDTH), np.float32)
    about = {"schema": SCHEMA, "model": "benchmark"}
    encoded = np.array([name.encode() for name in names])
    digests = np.zeros((len(names), 32), np.uint8)
    write_cache(folder / "embeddings.h5", about, encoded, digests, {"native": [vectors]})
    kernel, bias = np.eye(WIDTH, dtype=np.float32), np.zeros(WIDTH, np.float32)
    save_head(MetricHead("native", "benchmark", (Projection(kernel, bias),)), folder / "head.h5")
    path = folder / "pairs.csv"
    with path.open("w") as file:
        file.write("img_pair,is_related\n")
        for start in range(0, size, 100_000):
            drawn = rng.integers(len(names), size=(min(100_000, size - start), 2)).tolist()
            file.write("".join(f"face{a:05}.jpg-face{b:05}.jpg,0\n" for a, b in drawn))
    config = ScoreConfig(pairs=path, raw=True)
    return lambda: score(config, folder, folder)


def made_up_gallery(size: int, folder: Path) -> tuple[Any, Callable[[], object]]:
    """A gallery of made-up people, whose file is written, and twenty searches of it."""
    from kinembed.evaluation.three_way import ThreeWay
    from kinembed.heads.exact import unit
    from kinembed.heads.metric import MetricHead, Projection
    from kinembed.heads.pooled_people import PooledPeople
    from kinembed.inference.gallery import make_gallery
    from kinembed.inference.ranking import rank
    from kinembed.inference.screen import find_axes

    kernel, bias = np.eye(WIDTH, dtype=np.float32), np.zeros(WIDTH, np.float32)
    head = MetricHead("native", "benchmark", (Projection(kernel, bias),))
    shape = np.geomspace(3, 0.1, WIDTH).astype(np.float32)

    def people(seed: int, count: int) -> PooledPeople:
        rng = np.random.default_rng(seed)
        rows = unit(rng.standard_normal((count, WIDTH), np.float32) * shape)
        return PooledPeople(rows, rows, np.full(count, 0.3, np.float32), np.ones(count, np.intp))

    form = head.products(people(0, 4_096).representations)
    block = 20_000
    names = np.array([b"F%07d/MID1" % number for number in range(size)])
    gallery = make_gallery(
        folder / "gallery.h5", {"people": size}, names, np.ones(size, np.intp), (WIDTH, WIDTH),
        lambda: (people(start, min(block, size - start)) for start in range(0, size, block)),
        head, find_axes(form[0]),
    )  # fmt: skip
    same = (0.0, 9.0, 0, 0, 0, -9)
    three_way = ThreeWay((1.0, 0, 0, 0, 0, 0), same, (0.0,), (1.0,), (1, 1, 1), 3)
    probes = [people(seed, 1) for seed in range(1_000_000, 1_000_020)]
    priors = (1 / size, 3 / size)
    return gallery, lambda: [rank(head, three_way, gallery, probe, 10, priors) for probe in probes]


def search_people(size: int, folder: Path) -> Callable[[], object]:
    """Twenty searches."""
    return made_up_gallery(size, folder)[1]


def list_names(size: int, folder: Path) -> Callable[[], object]:
    """Listing made-up folders, as `embed` does before anything else."""
    from listing import ROOT, made_up

    from kinembed.data.photo_files import find_photos

    def work() -> None:
        with made_up(size, False):
            assert len(find_photos([ROOT], folder).listing) == size

    return work


def train_heads(size: int, folder: Path) -> Callable[[], object]:
    """The report's pair heads of so many seeds, trained in one pass over 3,000 pairs."""
    from head import families

    from kinembed.training.on_arrays import train_head

    known = families()
    vectors = np.random.default_rng(0).standard_normal((len(known.photos), 512), np.float32)
    members = (f"members={size}",)
    return lambda: train_head(vectors, known, "dense", overrides=members, epochs=1, steps=94)


WORK = {
    "photos embedded": embed_photos,
    "pairs scored": score_pairs,
    "people searched": search_people,
    "names listed": list_names,
    "heads trained": train_heads,
}


def child(name: str, size: int) -> None:
    """Does one thing and prints seconds and memory, before and after it."""
    import logging

    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        work = WORK[name](size, Path(folder))
        before = used()
        work()
        print(json.dumps([before, used()]), flush=True)


def measured(name: str, size: int) -> tuple[float, float]:
    """Processor seconds of one thing, and the peak of memory in MiB."""
    command = [sys.executable, __file__, "--child", name, str(size)]
    # Threads that wait for others sleep, or their waiting would count as work on a busy machine.
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    before, after = json.loads(done.stdout.splitlines()[-1])
    return after[0] - before[0], after[1]


def exponent(points: list[Point], column: int) -> float | None:
    """The slope of a line through the logarithms, from the second point on; None of fewer."""
    rows = np.log(np.array(points[1:]).reshape(-1, 3))
    return float(np.polyfit(rows[:, 0], rows[:, column], 1)[0]) if len(rows) > 1 else None


def draw(table: dict[str, list[Point]], path: Path) -> None:
    """Time and memory of everything, on logarithmic axes, with the exponents."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    matplotlib.rcParams["svg.hashsalt"] = "kinembed"  # the same points make the same file
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    for axes, column, title in zip(
        figure.subplots(1, 2), (1, 2), ("processor seconds", "peak memory, MiB"), strict=True
    ):
        for name, rows in table.items():
            slope = exponent(rows, column)
            label = name if slope is None else f"{name}: exponent {slope:.2f}"
            axes.plot([row[0] for row in rows], [row[column] for row in rows], "o-", label=label)
        axes.set(xscale="log", yscale="log", title=title, xlabel="how many")
        axes.grid(True, which="major", alpha=0.3)
        axes.yaxis.set_minor_formatter(NullFormatter())
        if column == 2:
            axes.set_ylim(bottom=100)  # MiB, which Python and numpy take already
        figure.legend(
            *axes.get_legend_handles_labels(), fontsize="small", frameon=False,
            loc="outside lower left" if column == 1 else "outside lower right",
        )  # fmt: skip
    figure.savefig(path, metadata={"Date": None, "Creator": "kinembed"})


def main() -> None:
    """Measures each size of each thing, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=list(WORK))
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--most", type=int, help="no size above it")
    parser.add_argument("--keep", type=Path, help="JSON of the points, read and written")
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], int(options.child[1]))
        return
    kept: dict[str, dict[str, list[float]]] = {}
    if options.keep is not None and options.keep.is_file():
        kept = json.loads(options.keep.read_text())
    table: dict[str, list[Point]] = {}
    print("| what | how many | processor seconds | peak memory, MiB |\n|---|---|---|---|")
    for name in options.only or WORK:
        sizes = [*SIZES[name], *([LARGE[name]] if options.large and name in LARGE else [])]
        for size in sizes:
            if options.most is not None and size > options.most:
                continue
            of_name = kept.setdefault(name, {})
            if str(size) not in of_name:
                try:
                    of_name[str(size)] = [*measured(name, size)]
                except (subprocess.CalledProcessError, ValueError, IndexError) as error:
                    print(f"| {name} | {size:,} | failed: {error} | |", flush=True)
                    continue
                if options.keep is not None:
                    options.keep.write_text(json.dumps(kept, indent=1))
            seconds, memory = of_name[str(size)]
            table.setdefault(name, []).append((size, seconds, memory))
            print(f"| {name} | {size:,} | {seconds:.2f} | {memory:,.0f} |", flush=True)
        slopes = [exponent(table.get(name, []), column) for column in (1, 2)]
        if None not in slopes:
            print(f"| {name} | exponent | {slopes[0]:.2f} | {slopes[1]:.2f} |", flush=True)
    if options.svg is not None:
        draw(table, options.svg)


if __name__ == "__main__":
    main()
