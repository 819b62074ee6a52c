"""Painted photographs of people who do not exist, as somebody has them in a shoebox.

Unlike the photos of `kinembed.synthetic`, which are cropped faces, these show one or two people
somewhere on a larger picture, in which MTCNN has to find them.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from kinembed.synthetic.face import Shot, photograph
from kinembed.synthetic.people import Family, Person, Rng, sample_family

WIDTH, HEIGHT = 480, 360


def paint_photograph(people: Sequence[Person], rng: Rng) -> Image.Image:
    """A picture that shows people side by side before a blurred background."""
    cells = rng.uniform(60, 190, (6, 8, 3)).astype(np.uint8)
    picture = Image.fromarray(cells).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    picture = picture.filter(ImageFilter.GaussianBlur(6))
    room = WIDTH // len(people)
    for number, person in enumerate(people):
        side = int(rng.integers(150, min(room, 230)))
        left = number * room + int(rng.integers(0, room - side + 1))
        top = int(rng.integers(10, HEIGHT - side - 10))
        picture.paste(photograph(person, Shot(rng), side, rng), (left, top))
    return picture


def paint_two(first: Path, second: Path, seed: int = 0) -> None:
    """A photograph each of a mother and of her child."""
    rng = np.random.default_rng(seed)
    _, mother, child, *_ = sample_family(rng).people
    for path, person in ((first, mother), (second, child)):
        path.parent.mkdir(parents=True, exist_ok=True)
        paint_photograph([person], rng).save(path, quality=92)


def paint_shoebox(folder: Path, photographs: int = 40, families: int = 3, seed: int = 0) -> None:
    """Photographs of some families, every fourth one of two relatives.

    Args:
        folder: where to write them, `0001.jpg` and so on.
        photographs: how many.
        families: how many the people are of.
        seed: of all draws.
    """
    rng = np.random.default_rng(seed)
    drawn: list[Family] = [sample_family(rng) for _ in range(families)]
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(photographs):
        people = drawn[number % families].people
        shown = rng.permutation(len(people))[: 2 if number % 4 == 3 else 1]
        picture = paint_photograph([people[row] for row in shown.tolist()], rng)
        picture.save(folder / f"{number + 1:04}.jpg", quality=92)
