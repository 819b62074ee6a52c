"""Made-up albums for the tests of the page: the faces painted, or photos of a folder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from kinembed.inference.album import Album, Confirmed, Doubt, Face, Link, Person

FIRST = ("Anna", "Ben", "Carla", "David", "Elif", "Farid", "Grete", "Hugo", "Ines", "Jan")


def made_album(
    folder: Path,
    people: int = 12,
    *,
    names: Sequence[str] = (),
    crops: Sequence[Sequence[Path]] = (),
    answers: Sequence[Confirmed] = (),
    seed: int = 0,
) -> Album:
    """An album of families of one to seven people, each with one to four photos.

    Args:
        folder: of the album.
        people: how many.
        names: of the first people.
        crops: faces of each person; without, coloured squares are painted into the folder.
        answers: of `confirmed.csv`.
        seed: of all draws.
    """
    generator = np.random.default_rng(seed)
    faces: list[Face] = []
    persons: list[Person] = []
    for person in range(people):
        count = len(crops[person][:6]) if crops else int(generator.integers(1, 5))
        first = len(faces)
        for number in range(count):
            photo = f"{1950 + person}/summer {number}.jpg"
            crop = crops[person][number] if crops else folder / "crops" / f"{person}-{number}.png"
            if not crops:
                crop.parent.mkdir(parents=True, exist_ok=True)
                colour = tuple(generator.integers(60, 230, 3).tolist())
                Image.new("RGB", (64, 64), colour).save(crop)
            faces.append(Face(photo, 1, (10, 10, 90, 90), crop, 80, person, 0.9))
        name = names[person] if person < len(names) else FIRST[person % 10]
        is_named = person < len(names) or person < 7
        name = name if is_named else f"Person {person + 1}"
        persons.append(Person(name, tuple(range(first, len(faces))), is_named))
    links = _links(persons, generator)
    doubts = [
        Doubt(persons[a].faces, persons[b].faces, p, False)
        for a, b, p in ((0, 1, 0.46), (2, 3, 0.31))
        if b < people
    ]
    many = [person.faces for person in persons if len(person.faces) > 2]
    doubts += [Doubt(of[:2], of[2:], 0.62, True) for of in many[:2]]
    return Album(
        folder=folder, photos=len(faces), faces=tuple(faces), people=tuple(persons),
        links=tuple(links), doubts=tuple(doubts), answers=tuple(answers), fdr=0.1,
        pairs=people * (people - 1) // 2, unlisted=max(0, people * (people - 1) // 2 - len(links)),
        kin_prior=0.031, left_out=("3 photos show no face, e.g. 1987/beach.jpg",),
        source="SFace, the packaged head, calibrated on Recognizing Faces in the Wild",
    )  # fmt: skip


def _links(people: list[Person], generator: np.random.Generator) -> list[Link]:
    found, start = {}, 0
    while start < len(people):
        family = range(start, min(len(people), start + int(generator.integers(1, 8))))
        for right in family[1:]:
            for left in {int(generator.integers(start, right)), right - 1}:
                found[left, right] = float(generator.uniform(0.72, 0.998))
        start += len(family)
    if len(people) == 2:
        found = {(0, 1): 0.83}
    extra = {
        (int(a), int(b)): float(generator.uniform(0.2, 0.45))
        for a, b in np.sort(generator.integers(0, len(people), (len(people) // 2, 2)), axis=1)
        if a != b and (int(a), int(b)) not in found
    }
    links, false = [], 0.0
    for (a, b), p in sorted((found | extra).items(), key=lambda item: -item[1]):
        false += 1 - p
        rate = false / (len(links) + 1)
        pairs = tuple(zip(people[a].faces, people[b].faces, strict=False))
        links.append(Link(a, b, p, rate, (1 - p) / 20, (a, b) in found, "", pairs))
    return links
