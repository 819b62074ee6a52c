"""`kinembed score` as a whole process, against importing numpy, h5py and click.

With --network, a pair of it also against a pair of photos that go through ResNet-50 (random
weights, batches of 32 photos, bf16 where the processor computes in it).

The cache has 18,661 rows of 2,048 numbers, the submission 5,310 pairs over 6,129 photos, the head
the report's 2048-100-25-1: the sizes of Recognizing Faces in the Wild with ResNet-50.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

from kinembed.cache import SCHEMA
from kinembed.cache.writer import write_cache
from kinembed.heads.file import save_head
from kinembed.heads.pair import PairHead

ROWS, WIDTH, PAIRS, TEST_PHOTOS, USED = 18_661, 2048, 5_310, 6_282, 6_129


def prepare(run: Path) -> Path:
    """Writes a cache, a head and a submission of the sizes above; returns the submission."""
    rng = np.random.default_rng(0)
    test = [f"test/face{i:05}.jpg" for i in range(TEST_PHOTOS)]
    train = [
        f"train/F{i // 26:04}/MID{i % 26 // 5}/P{i:05}_face1.jpg" for i in range(ROWS - len(test))
    ]
    names = np.array([name.encode() for name in sorted(test + train)])
    vectors = rng.standard_normal((ROWS, WIDTH), np.float32)
    digests = rng.integers(0, 256, (ROWS, 32), np.uint8)
    provenance = {"schema": SCHEMA, "model": "benchmark"}
    write_cache(run / "embeddings.h5", provenance, names, digests, {"max": [vectors]})
    widths = (WIDTH, 100, 25, 1)
    layers = list(pairwise(widths))
    kernels = tuple(rng.standard_normal(shape, np.float32) * 0.01 for shape in layers)
    biases = tuple(np.zeros(out, np.float32) for _, out in layers)
    save_head(PairHead("max", "benchmark", kernels, biases), run / "head.h5")
    used = rng.choice(TEST_PHOTOS, USED, replace=False)
    rest = rng.choice(used, 2 * PAIRS - USED)
    photos = rng.permutation(np.concatenate([used, rest])).reshape(PAIRS, 2)
    lines = [f"face{a:05}.jpg-face{b:05}.jpg,0" for a, b in photos.tolist()]
    pairs = run / "sample_submission.csv"
    pairs.write_text("\n".join(["img_pair,is_related", *lines, ""]))
    return pairs


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


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


def main() -> None:
    """Times both in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--network", action="store_true")
    options = parser.parse_args()
    runs = options.runs
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        pairs = prepare(run)
        score = [sys.executable, "-m", "kinembed", "score", "--run", folder, "--pairs", str(pairs)]
        floor = [sys.executable, "-c", "import numpy, h5py, click"]
        seconds(score), seconds(floor)
        times = np.array([(seconds(score), seconds(floor)) for _ in range(runs)])
    ours, imports = np.median(times, 0)
    print(f"kinembed score                   {ours:.3f} s")
    print(f"import numpy, h5py, click        {imports:.3f} s")
    print(f"ratio (median of {runs} pairs)       {np.median(times[:, 0] / times[:, 1]):.2f}")
    if options.network:
        pair = network_pair()
        print(
            f"a pair: {ours / PAIRS * 1e3:.4f} ms, start of the process included; through "
            f"ResNet-50 {pair * 1e3:.1f} ms: {pair / (ours / PAIRS):.0f} x"
        )


if __name__ == "__main__":
    main()
