"""A made-up run whose photos, people and relations have known faults, by vectors alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kinembed.cache.writer import write_cache
from kinembed.heads.file import save_head
from kinembed.heads.metric import MetricHead, Projection

WIDTH = 48
MEMBERS = 3


@dataclass
class Faulty:
    """Families of five: two parents, who are no kin, and three children; four photos each.

    Attributes:
        vectors: by the photos' names.
        people: who is on each photo, by its name.
        relations: pairs of people.
        digests: of each photo, by its name.
    """

    families: int = 40
    photos: int = 4
    seed: int = 0
    noise: float = 0.35
    vectors: dict[str, np.ndarray] = field(default_factory=dict)
    people: dict[str, str] = field(default_factory=dict)
    relations: set[tuple[str, str]] = field(default_factory=set)
    digests: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        for family in range(self.families):
            parents = self.rng.standard_normal((2, WIDTH))
            mixed = [parents.mean(0) + 0.5 * self.rng.standard_normal(WIDTH) for _ in range(3)]
            for number, face in enumerate([*parents, *mixed]):
                person = f"F{family:03}/MID{number}"
                for photo in range(self.photos):
                    self.add(f"train/{person}/{photo}.jpg", person, face)
            names = [f"F{family:03}/MID{number}" for number in range(5)]
            pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
            self.relations |= set(pairs[1:])  # the first is of both parents

    def add(self, photo: str, person: str, face: np.ndarray) -> None:
        """A photo of a face, with noise of its own."""
        noise = self.noise * self.rng.standard_normal(WIDTH)
        self.vectors[photo] = face + noise
        self.people[photo] = person
        self.digests[photo] = self.rng.bytes(32)

    def photos_of(self, person: str) -> list[str]:
        return sorted(photo for photo, who in self.people.items() if who == person)

    def exchange(self, one: str, other: str) -> None:
        """Exchanges two people's names."""
        own, their = self.photos_of(one), self.photos_of(other)
        for photo, with_ in zip(own, their, strict=True):
            self.vectors[photo], self.vectors[with_] = self.vectors[with_], self.vectors[photo]

    def swap(self, one: str, other: str) -> None:
        """Exchanges two photos."""
        self.vectors[one], self.vectors[other] = self.vectors[other], self.vectors[one]

    def write(self, folder: Path) -> Path:
        """A run folder with cache, relations and a head that knows nobody."""
        names = sorted(self.people, key=str.encode)
        write_cache(
            folder / "embeddings.h5",
            {"schema": 5, "model": "m", "backbone": "samples"},
            np.array([name.encode() for name in names]),
            np.array([list(self.digests[name]) for name in names], np.uint8),
            {"native": [np.array([self.vectors[name] for name in names], np.float32)]},
            people=np.array([self.people[name].encode() for name in names]),
        )
        if self.relations:
            lines = ["p1,p2", *(",".join(pair) for pair in sorted(self.relations))]
            (folder / "train_relationships.csv").write_text("\n".join(lines))
        save_head(self.head(), folder / "head.h5")
        return folder

    def head(self, folds: bool = True) -> MetricHead:
        """The plain cosine, as members that each hold out a part of the families."""
        plain = Projection(np.eye(WIDTH, dtype=np.float32), np.zeros(WIDTH, np.float32))
        everybody = sorted({person for person in self.people.values() if person})
        parts = [
            tuple(p for p in everybody if int(p[1:4]) % MEMBERS == fold) for fold in range(MEMBERS)
        ]
        return MetricHead(
            "native", "m", (plain,) * MEMBERS if folds else (plain,), knn_view="",
            held_out=() if folds else parts[0],
            trained=tuple(everybody) if folds else tuple(sorted(parts[1] + parts[2])),
            folds=tuple(parts) if folds else (),
        )  # fmt: skip
