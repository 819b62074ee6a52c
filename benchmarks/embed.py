"""Photos embedded a second: `kinembed embed`, and a plain loop over the same photos.

Both decode the files, frame them, run the network and write HDF5. The plain loop is what most
people would write: batches of 64, default memory format, float32, one step after the other.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import torch
from PIL import Image
from turns import Comparison, compared, seconds

from kinembed.backbones import find_backbone
from kinembed.backbones.weights import load_trunk
from kinembed.config import EmbedConfig
from kinembed.data.photo_files import find_photos
from kinembed.data.photos import place_photo
from kinembed.embed import embed

BATCH = 64


def plain_loop(paths: list[Path], backbone_name: str, weights: str, out: Path) -> float:
    """Embeds photos one batch after the other; returns seconds."""
    backbone = find_backbone(backbone_name)
    trunk = load_trunk(backbone, weights).eval()
    mean, scale = np.float32(backbone.pixels.mean), np.float32(backbone.pixels.scale)
    start = time.perf_counter()
    rows = []
    with torch.no_grad():
        for at in range(0, len(paths), BATCH):
            pixels = []
            for path in paths[at : at + BATCH]:
                with Image.open(path) as image:
                    pixels.append(place_photo(image.convert("RGB"), backbone.framing))
            x = (np.stack(pixels).astype(np.float32) - mean) / scale
            x = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
            feature_map = trunk.feature_map(x)
            rows.append((feature_map.amax((2, 3)).numpy(), trunk.native(feature_map).numpy()))
    with h5py.File(out, "w") as file:
        for view, blocks in zip(("max", "native"), zip(*rows, strict=True), strict=True):
            file[view] = np.concatenate(blocks)
    return time.perf_counter() - start


def compare(
    data: Path, backbone: str, weights: str, sample: int, rounds: int
) -> Iterator[Comparison]:
    """`kinembed embed` of all photos of `train/` and `test/`, and the plain loop on a sample."""
    paths = list(find_photos(("train", "test"), data).paths.values())
    chosen = np.random.default_rng(0).permutation(len(paths))[:sample]
    some = [paths[i] for i in chosen]
    config = EmbedConfig(
        views=("max", "native"),
        flip=False,  # as the plain loop
        backbone=backbone,
        weights=weights,
    )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        plain_loop(some[:128], backbone, weights, out / "warm.h5")
        times = []
        for turn in range(rounds):
            before = plain_loop(some, backbone, weights, out / "plain.h5")
            ours = seconds(lambda turn=turn: embed(config, data, out / str(turn)))
            after = plain_loop(some, backbone, weights, out / "plain.h5")
            times.append((ours, (before + after) / 2))
    what = f"embedding {len(paths):,} photos with {backbone}, files to file"
    yield compared(
        what,
        "plain loop",
        "photos/s",
        *zip(*times, strict=True),
        amount=len(paths),
        their_amount=len(some),
    )


def main() -> None:
    """Times the plain loop on a sample before and after `kinembed embed` on all photos."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--backbone", default="mobilefacenet")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--sample", type=int, default=1536, help="photos for the plain loop")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    for row in compare(
        options.data, options.backbone, options.weights, options.sample, options.rounds
    ):
        print(row)


if __name__ == "__main__":
    main()
