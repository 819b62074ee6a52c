"""Crops of faces as `compare` takes them: AUC of the plain cosine, against both other ways.

    python benchmarks/crops.py --kaggle DATA --kinfacew DIR --backbone sface

A photo that is a face crop already can be taken whole, or cropped again by its eyes and mouth.
`compare` takes it whole where these lie as on Kaggle's crops. `--kaggle`, `--kinfacew` and
`--aligned` are as of `framing.py`. Prints also on how many photos no face is found.
"""

import argparse
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from framing import cosine_auc, sets  # beside this script
from PIL import Image

from kinembed.backbones import Framing
from kinembed.cache import EmbeddingCache
from kinembed.config import EmbedConfig
from kinembed.data.crops import CROP_SIDE, crop_face
from kinembed.data.photos import Pixels, read_photo
from kinembed.embed import embed
from kinembed.errors import DataError
from kinembed.inference.named_people import FaceReader
from kinembed.threads import processors

WAYS = ("whole", "by eyes and mouth", "as compare")
WHOLE = Framing(CROP_SIDE, CROP_SIDE)


def crops(reader: FaceReader, path: Path) -> tuple[Pixels, Pixels, Pixels] | None:
    """A photo by each way; None where no face is found."""
    try:
        face = reader.photo(path).faces[0]
    except DataError:
        return None
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert face.points is not None
    return read_photo(path, WHOLE)[1], crop_face(pixels, face.points), face.crop


def written(folder: Path, target: Path) -> Iterator[bool]:
    """Writes each photo of a folder by each way; whether its face is found."""
    reader = FaceReader()
    paths = sorted(folder.rglob("*.jpg"))
    with ThreadPoolExecutor(processors(), "", torch.set_num_threads, (1,)) as pool:
        each_way = pool.map(lambda path: crops(reader, path), paths)
        for path, found in zip(paths, each_way, strict=True):
            whole = read_photo(path, WHOLE)[1]
            for way, pixels in zip(WAYS, found or (whole, whole, whole), strict=True):
                out = target / way / path.relative_to(folder)
                out.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(out, quality=95)
            yield found is not None


def main() -> None:
    """Prints a row for each set, a column for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--kaggle", "--kinfacew", "--aligned"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--backbone", default="sface")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--only", help="name of the one set to take")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        print("| photos | with a face |", " | ".join(WAYS), "|")
        print("|" + "---|" * (len(WAYS) + 2))
        for name, folder, read in sets(options, base / "photos"):
            if options.only and name != options.only:
                continue
            found = list(written(folder, base / name))
            cells = []
            for way in WAYS:
                config = EmbedConfig(
                    photos=(str(base / name / way),), views=("native",), framing="loose",
                    flip=False, backbone=options.backbone, weights=options.weights,
                )  # fmt: skip
                path = embed(config, base, base / f"{name}-{way}")
                with EmbeddingCache.open(path) as cache:
                    cells.append(f"{cosine_auc(cache, read):.3f}")
            print(f"| {name} | {sum(found):,} of {len(found):,} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
