"""Photographs composed for tests: faces of known places and sizes on clutter.

A face is a square picture of one as Kaggle's are, on which the face fills the height; its size is
the side of that square.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from kinembed.synthetic.face import Shot, photograph
from kinembed.synthetic.people import sample_family

SHADES = ("#7a6a58", "#40566b", "#b9b3a4", "#2f3a2c", "#8d4f3d", "#d8d2c4", "#5b5b5f", "#a58a6a")


@dataclass(frozen=True)
class Placed:
    """A face on a composed photograph: the square that it was pasted into, in pixels."""

    left: int
    top: int
    size: int

    @property
    def centre(self) -> np.ndarray:
        return np.array([self.left + self.size / 2, self.top + self.size / 2])


def clutter(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """A picture without faces: clouds of several grains, and shapes with edges of all sizes."""
    picture = np.full((height, width, 3), 30, np.float32)
    for cells, share in ((6, 0.5), (24, 0.3), (96, 0.15), (384, 0.1)):
        shape = (max(2, cells * height // width), cells)
        grain = rng.integers(0, 256, (*shape, 1)) * 0.7 + rng.integers(0, 256, (*shape, 3)) * 0.3
        noise = Image.fromarray(grain.astype(np.uint8))
        picture += share * np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC))
    image = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(120):
        span = np.exp(rng.uniform(np.log(0.01), np.log(0.3), 2)) * min(width, height)
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        box = (x, y, x + span[0], y + span[1])
        shade = SHADES[rng.integers(len(SHADES))]
        kind = rng.integers(3)
        if kind == 0:
            draw.rectangle(box, fill=shade)
        elif kind == 1:
            draw.ellipse(box, fill=shade)
        else:
            draw.line(box, fill=shade, width=max(1, int(span.min() / 8)))
    return image


def compose(
    faces: Sequence[Image.Image],
    sizes: Sequence[int],
    width: int,
    height: int,
    rng: np.random.Generator,
) -> tuple[Image.Image, list[Placed]]:
    """Faces of these sizes, apart from each other, on clutter; the largest are placed first.

    Those for which there is no room are left out.
    """
    image, placed = clutter(width, height, rng), []
    for size in sorted(sizes, reverse=True):
        for _ in range(200):
            left, top = rng.integers(0, width - size), rng.integers(0, height - size)
            here = Placed(int(left), int(top), size)
            if all(_apart(here, other) for other in placed):
                break
        else:
            continue
        face = faces[rng.integers(len(faces))].convert("RGB")
        soft = Image.new("L", (size, size), 0)
        ImageDraw.Draw(soft).rectangle([size // 40 + 1] * 2 + [size - size // 40 - 2] * 2, fill=255)
        soft = soft.filter(ImageFilter.GaussianBlur(size / 80))
        image.paste(face.resize((size, size), Image.Resampling.BICUBIC), (left, top), soft)
        placed.append(here)
    return image, placed


def _apart(one: Placed, other: Placed) -> bool:
    gap = (one.size + other.size) / 2 * 1.2
    return bool(np.abs(one.centre - other.centre).max() > gap)


def painted_faces(count: int, seed: int = 0, side: int = 224) -> list[Image.Image]:
    """Synthetic faces, upright and without much turning, as MTCNN finds them."""
    rng = np.random.default_rng(seed)
    return [_painted(rng, side) for _ in range(count)]


def _painted(rng: np.random.Generator, side: int) -> Image.Image:
    family = sample_family(rng)
    return photograph(family.people[0], Shot(rng), side, rng)


def folder_of_faces(folder: Path, count: int) -> Iterator[Image.Image]:
    """As many photos of a folder, from all over it."""
    paths = sorted(folder.rglob("*.jpg"))
    for path in paths[:: max(1, len(paths) // count)][:count]:
        with Image.open(path) as image:
            yield image.convert("RGB")
