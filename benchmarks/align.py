"""Faces found and photos a second: kinembed's align against the documented loop.

    python benchmarks/align.py --faces FOLDER --photos 20

The loop is facenet-pytorch's: `MTCNN(image)`, one photo at a time, in its own size. Its class
imports torchvision: run this in an environment where that works, with kinembed's checkout in
PYTHONPATH. Photographs of 12 to 24 MP are composed of faces of `--faces` (crops like Kaggle's), or
painted ones, on clutter: from 40 px to half the picture.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image
from turns import Comparison, compared

from kinembed.align import align
from kinembed.config import AlignConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from composed import Placed, compose, folder_of_faces, painted_faces

SIZES = ((4000, 3000), (4624, 3468), (6000, 4000))  # 12, 16 and 24 MP
BANDS = (40, 48, 64, 128, 512, 10_000)  # of sizes of faces, in pixels
EACH = 30  # faces on a photo

Found = list[np.ndarray]  # (2,) the middle of each face


def photos(
    folder: Path, count: int, faces: Path | None, each: int = EACH
) -> dict[Path, list[Placed]]:
    """Composes photos into a folder."""
    rng = np.random.default_rng(0)
    pictures = painted_faces(60) if faces is None else list(folder_of_faces(faces, 400))
    placed = {}
    for number in range(count):
        width, height = SIZES[number % len(SIZES)]
        half = height // 2
        small = np.exp(rng.uniform(np.log(40), np.log(160), each - 6))
        large = np.exp(rng.uniform(np.log(160), np.log(half), 6))
        sizes = [int(size) for size in (*small, *large)]
        path = folder / f"photo{number:03}.jpg"
        image, placed[path] = compose(pictures, sizes, width, height, rng)
        image.save(path, quality=92)
    return placed


def documented(min_face_size: int) -> Callable[[Path], Found]:
    """The loop of facenet-pytorch's README; it detects and extracts, as `MTCNN(image)` does."""
    from facenet_pytorch import MTCNN

    mtcnn = MTCNN(keep_all=True, min_face_size=min_face_size)

    def find(path: Path) -> Found:
        image = Image.open(path)
        boxes, _ = mtcnn.detect(image)
        mtcnn.extract(image, boxes, None)
        return [] if boxes is None else [(box[:2] + box[2:]) / 2 for box in boxes]

    return find


def hits(placed: list[Placed], found: Found) -> list[bool]:
    """Which faces were found: the middle of one lies near its own."""
    return [
        any(np.abs(middle - face.centre).max() < 0.3 * face.size for middle in found)
        for face in placed
    ]


def row(
    name: str, taken: tuple[float, float], placed: dict[Path, list[Placed]], found: list[Found]
) -> str:
    """A row of the table."""
    sizes = np.array([face.size for faces in placed.values() for face in faces])
    hit = np.array(
        [h for faces, own in zip(placed.values(), found, strict=True) for h in hits(faces, own)]
    )
    bands = [f"{hit[(sizes >= low) & (sizes < high)].mean():.4f}" for low, high in pairwise(BANDS)]
    false = sum(map(len, found)) - hit.sum()
    seconds, processor = (each / len(placed) for each in taken)
    cells = (name, f"{1 / seconds:.3f}", f"{processor:.2f}", f"{hit.mean():.4f}", *bands, false)
    return f"| {' | '.join(map(str, cells))} |"


def now() -> tuple[float, float]:
    """The time, and the processors' time of this process; other programs do not change that."""
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float]) -> tuple[float, float]:
    """Both since then, in seconds."""
    return time.perf_counter() - start[0], time.process_time() - start[1]


def compare(count: int, crops: Path | None = None, each: int = EACH) -> Iterator[Comparison | str]:
    """Both ways once, on so many photos, after one photo that warms up."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "photos"
        folder.mkdir()
        placed = photos(folder, count, crops, each)
        find = documented(20)
        find(next(iter(placed)))
        start = now()
        found = [find(path) for path in placed]
        theirs = since(start)
        start = now()
        result = align(AlignConfig(device="cpu"), folder, Path(temporary) / "crops")
        ours = since(start)
    for name, faces in (
        ("MTCNN(image)", sum(map(len, found))),
        ("kinembed align", sum(len(photo.faces) for photo in result.photos)),
    ):
        yield f"{name}: {faces} faces found of {sum(map(len, placed.values()))}"
    what = f"finding and cropping the {each} faces each of {count} photos of 12 to 24 MP"
    yield compared(
        what, "facenet-pytorch's MTCNN(image)", "photos/s", [ours[0]], [theirs[0]], count
    )


def main() -> None:
    """Prints a row for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", type=Path)
    parser.add_argument("--photos", type=int, default=20)
    parser.add_argument("--compose-only", type=Path, help="compose the photos into this folder")
    parser.add_argument("--min-face-sizes", type=int, nargs="*", default=[20])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.compose_only or Path(temporary) / "photos"
        folder.mkdir(exist_ok=True)
        placed = photos(folder, options.photos, options.faces)
        if options.compose_only:
            return
        count = sum(map(len, placed.values()))
        print(f"{len(placed)} photos, {count} faces, {os.cpu_count()} processors")
        bands = [f"{a} to {b - 1} px" for a, b in pairwise(BANDS)]
        head = ("way", "photos/s", "processor seconds a photo", "recall", *bands, "others")
        print(f"| {' | '.join(head)} |\n" + "|---" * len(head) + "|")
        for size in options.min_face_sizes:
            find = documented(size)
            find(next(iter(placed)))
            start = now()
            found = [find(path) for path in placed]
            name = f"MTCNN(image), min_face_size={size}"
            print(row(name, since(start), placed, found), flush=True)
        start = now()
        result = align(AlignConfig(device="cpu"), folder, Path(temporary) / "crops")
        taken = since(start)
        own = [
            [(face.face.box[:2] + face.face.box[2:]) / 2 for face in photo.faces]
            for photo in result.photos
        ]
        print(row("kinembed align", taken, placed, own))


if __name__ == "__main__":
    main()
