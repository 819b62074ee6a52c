"""`kinembed score` as a whole process, against importing numpy, h5py and click.

    python benchmarks/score.py

The cache has 18,661 photos, the submission 5,310 pairs over 6,129 of them: the sizes of Recognizing
Faces in the Wild. Two heads score it. The report's, 2048-100-25-1, compares the vectors of
ResNet-50. The default one, five members of 256 numbers with a relu layer of 512 beside each,
projects vectors of 640 numbers, of the photo and of its mirror image, and expands them by photos of
the same person, three expanded: its first call keeps representations, of which the second one
makes its scores.

With --network, a pair of the report's head also against a pair of photos that go through ResNet-50
(random weights, batches of 32 photos, bf16 where the processor computes in it).
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from turns import Comparison, compared, in_turns

from kinembed.cache import SCHEMA
from kinembed.cache.writer import write_cache
from kinembed.heads.base import Head
from kinembed.heads.exact import unit
from kinembed.heads.file import save_head
from kinembed.heads.metric import MetricHead, Projection
from kinembed.heads.pair import PairHead
from kinembed.heads.same_person import SamePerson
from kinembed.recipes import METRIC

ROWS, PAIRS, TEST_PHOTOS, USED = 18_661, 5_310, 6_282, 6_129


def prepare(run: Path, head: Head, widths: dict[str, int]) -> list[str]:
    """Writes a cache of some views, a head and a submission; returns the command that scores it."""
    rng = np.random.default_rng(0)
    run.mkdir()
    test = [f"test/face{i:05}.jpg" for i in range(TEST_PHOTOS)]
    train = [
        f"train/F{i // 26:04}/MID{i % 26 // 5}/P{i:05}_face1.jpg" for i in range(ROWS - len(test))
    ]
    names = np.array([name.encode() for name in sorted(test + train)])
    owner = np.arange(ROWS) // 3  # photos of one person are near each other
    views = {}
    for view, width in widths.items():
        people = rng.standard_normal((owner[-1] + 1, width), np.float32)
        views[view] = [people[owner] + 0.5 * rng.standard_normal((ROWS, width), np.float32)]
    digests = rng.integers(0, 256, (ROWS, 32), np.uint8)
    write_cache(
        run / "embeddings.h5", {"schema": SCHEMA, "model": "benchmark"}, names, digests, views
    )
    save_head(head, run / "head.h5")
    used = rng.choice(TEST_PHOTOS, USED, replace=False)
    rest = rng.choice(used, 2 * PAIRS - USED)
    photos = rng.permutation(np.concatenate([used, rest])).reshape(PAIRS, 2)
    lines = [f"face{a:05}.jpg-face{b:05}.jpg,0" for a, b in photos.tolist()]
    pairs = run / "sample_submission.csv"
    pairs.write_text("\n".join(["img_pair,is_related", *lines, ""]))
    return [sys.executable, "-m", "kinembed", "score", "--run", str(run), "--pairs", str(pairs)]


def report_head() -> tuple[Head, dict[str, int]]:
    """The report's head with random layers, and the width of its view."""
    rng = np.random.default_rng(1)
    shapes = list(pairwise((2048, 100, 25, 1)))
    kernels = tuple(rng.standard_normal(shape, np.float32) * 0.01 for shape in shapes)
    biases = tuple(np.zeros(out, np.float32) for _, out in shapes)
    return PairHead("max", "benchmark", kernels, biases), {"max": 2048}


def default_head() -> tuple[Head, dict[str, int]]:
    """A head such as `kinembed head` trains, with random layers, and the widths of its views."""
    rng = np.random.default_rng(1)
    width, hidden, out = 640, METRIC.hidden_dim, METRIC.embed_dim
    shapes = ((width, out), (out,), (width, hidden), (hidden,), (hidden, out))

    def member() -> Projection:
        kernel, bias, *beside = (rng.standard_normal(shape, np.float32) * 0.04 for shape in shapes)
        return Projection(kernel, bias, tuple(beside))

    head = MetricHead(
        "native+max+native-flip+max-flip",
        "benchmark",
        tuple(member() for _ in range(METRIC.members)),
        tta_views=2,
        knn_view="native+native-flip",
        same_person=SamePerson(
            unit(rng.standard_normal((1000, 256), np.float32)),
            spread=3.0,
            slope=20.0,
            offset=-8.0,
            prior=2e-4,
            found=0.9,
            mistaken=1e-7,
        ),
    )
    return head, {"max": 512, "max-flip": 512, "native": 128, "native-flip": 128}


def run_it(command: list[str]) -> None:
    """A process, until it ends."""
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def first_call(command: list[str], run: Path) -> None:
    """A call that finds no representations."""
    (run / "representations.h5").unlink(missing_ok=True)
    run_it(command)


def network_pair() -> float:
    """Seconds in which ResNet-50 embeds two photos."""
    import torch

    from kinembed.backbones import find_backbone
    from kinembed.backbones.device import autocast, choose_precision
    from kinembed.backbones.embedder import Embedder

    device = torch.device("cpu")
    backbone = find_backbone("resnet50")
    embedder = Embedder(backbone, backbone.build().eval(), ("max",))
    side = backbone.framing.side
    photos = torch.randint(0, 256, (32, side, side, 3), dtype=torch.uint8)
    best = float("inf")
    with torch.inference_mode(), autocast(device, choose_precision("auto", device)):
        for _ in range(6):
            start = time.perf_counter()
            embedder(photos)
            best = min(best, time.perf_counter() - start)
    return best / 16


def compare(runs: int, network: bool = False) -> Iterator[Comparison]:
    """All of them in turn, beside the imports; with the network, a pair beside one through it."""
    imports = "importing numpy, h5py and click"
    with tempfile.TemporaryDirectory() as folder:
        report, default = Path(folder) / "report", Path(folder) / "default"
        score_report = prepare(report, *report_head())
        score_default = prepare(default, *default_head())
        sides = {
            imports: lambda: run_it([sys.executable, "-c", "import numpy, h5py, click"]),
            "by the report's head": lambda: run_it(score_report),
            "by the default head, first call": lambda: first_call(score_default, default),
            "by the default head, second call": lambda: run_it(score_default),
        }
        times = in_turns(sides, runs)
    floor = times.pop(imports)
    for name, ours in times.items():
        what = f"scoring {PAIRS:,} pairs {name}, the whole command"
        yield compared(what, imports, "s", ours, floor)
    if network:
        ours, pair = times["by the report's head"], [network_pair()] * runs
        what = "scoring a pair by the report's head, start of the process included"
        yield compared(what, "two photos through ResNet-50", "ms", ours, pair, PAIRS, 1)


def main() -> None:
    """Prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--network", action="store_true")
    options = parser.parse_args()
    for row in compare(options.runs, options.network):
        print(row)


if __name__ == "__main__":
    main()
