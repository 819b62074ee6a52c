"""What is known of an album: its faces, who they are, and who of them may be kin.

`relate` makes one, writes it as tables, and the page shows it. Faces and people refer to each other
by their index in `Album.faces` and `Album.people`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kinembed.printable import counted

LARGE = 100  # people from which on hardly a link can be told: benchmarks/relate.py --people 150 300
UNLIKELY = 0.01  # a probability that is not worth a number

Answer = Literal["same", "different", "kin", "not-kin", "name"]


@dataclass(frozen=True)
class Face:
    """One face on one photograph.

    Attributes:
        photo: the photograph's name below the album's folder, with `/` (`1987/beach.jpg`).
        number: which face of the photograph, from 1 on, as `kinembed align` numbers them.
        box: left, top, right and bottom in pixels of the upright photograph; None where the whole
            photograph is a crop of one face.
        crop: the file of its crop.
        size: of the face, in pixels of the photograph: the shorter side of the box.
        person: index in `Album.people`.
        confidence: probability that it is of its person, rather than of nobody else in the album;
            1 for a person's only face, and where a folder, a table or an answer says so.
        mark: what ties answers to it, see `face_marks`; empty: its name alone.
    """

    photo: str
    number: int
    box: tuple[float, float, float, float] | None
    crop: Path
    size: float
    person: int
    confidence: float
    mark: str = ""

    @property
    def name(self) -> str:
        """How `confirmed.csv` names it: `1987/beach.jpg#2`."""
        return f"{self.photo}#{self.number}"


@dataclass(frozen=True)
class Person:
    """The faces that are taken for one person.

    Attributes:
        name: what a folder, a table or an answer calls them; else `Person 1` and so on.
        faces: indices in `Album.faces`, the one nearest to all others first: it shows the person,
            and stands for them in `confirmed.csv`.
        is_named: the name is not made up.
    """

    name: str
    faces: tuple[int, ...]
    is_named: bool


@dataclass(frozen=True)
class Link:
    """Two people who may be kin.

    Attributes:
        left, right: indices in `Album.people`, left < right.
        probability: of kin, in this album; 1 or 0 where an answer says so.
        false_rate: share of false links expected among this one and all likelier ones.
        far: share of unrelated pairs of people that look at least as alike.
        is_shown: it is one of the links that the album holds up, at `Album.fdr`.
        answer: `kin` or `not-kin` if `confirmed.csv` says so, else "".
        faces: some pairs of faces, the most alike first: of the left person, of the right one.
    """

    left: int
    right: int
    probability: float
    false_rate: float
    far: float
    is_shown: bool
    answer: Literal["kin", "not-kin", ""]
    faces: tuple[tuple[int, int], ...]

    @property
    def is_asked(self) -> bool:
        """The page asks about it, unless about all: it is shown, or likelier kin than not."""
        return self.is_shown or self.probability >= 0.5


@dataclass(frozen=True)
class Doubt:
    """A question: are these faces and those of one person?

    Attributes:
        left, right: indices in `Album.faces`, of one side and of the other; the first of each
            stands for its side in `confirmed.csv`.
        probability: that they are of one person.
        is_merged: they are taken for one person.
    """

    left: tuple[int, ...]
    right: tuple[int, ...]
    probability: float
    is_merged: bool


@dataclass(frozen=True)
class Confirmed:
    """An answer that somebody gave, a row of `confirmed.csv`.

    The page writes it as `answer,left,right,left_mark,right_mark`. Faces are named as by
    `Face.name`.

    Attributes:
        answer: `same` or `different`: the two faces are of one person, or are not. `kin` or
            `not-kin`: the people of the two faces are kin, or are not. `name`: the person of the
            left face has the name on the right.
        left: a face.
        right: another face, or a name.
        left_mark, right_mark: `Face.mark` of the faces; empty: the names stand for themselves.
    """

    answer: Answer
    left: str
    right: str
    left_mark: str = ""
    right_mark: str = ""


@dataclass(frozen=True)
class Album:
    """People, faces and links of an album.

    Attributes:
        folder: the album's folder.
        photos: how many photographs were looked at.
        faces: in the order of photographs and numbers.
        people: those with the most photographs first.
        links: the likeliest first; shown ones and some below, see `unlisted`.
        doubts: the least certain first.
        answers: what `confirmed.csv` says and is used here.
        aside: what it says of faces that are gone or changed; kept, but not used.
        fdr: share of false links allowed among those shown.
        pairs: how many pairs of people were compared.
        unlisted: how many of them are too unlikely to be in `links`.
        kin_prior: share of kin among the pairs, as estimated from the album.
        left_out: what was left out or could not be used, each a line with a count and an example.
        source: what answers: network, head and calibration, in a line.
    """

    folder: Path
    photos: int
    faces: tuple[Face, ...]
    people: tuple[Person, ...]
    links: tuple[Link, ...]
    doubts: tuple[Doubt, ...]
    answers: tuple[Confirmed, ...]
    fdr: float
    pairs: int
    unlisted: int
    kin_prior: float
    left_out: tuple[str, ...]
    source: str
    aside: tuple[Confirmed, ...] = ()

    @property
    def shown(self) -> tuple[Link, ...]:
        """The links that it holds up."""
        return tuple(link for link in self.links if link.is_shown)

    @property
    def questions(self) -> int:
        """How many questions the page asks, unless it is asked for more."""
        return len(self.doubts) + sum(link.is_asked for link in self.links)

    @property
    def why_none(self) -> str:
        """Why no link is shown but those that somebody confirmed; empty where others are."""
        if not self.pairs or any(not link.answer for link in self.shown):
            return ""
        likeliest = max((k.probability for k in self.links if not k.answer), default=0.0)
        if likeliest >= UNLIKELY:
            said = f"the likeliest of {counted(self.pairs, 'pair')} is {likeliest:.0%} likely kin"
        else:
            said = f"of {counted(self.pairs, 'pair')} none is likely kin"
        said = (
            f"no link can be shown of which at most {self.fdr:.0%} are expected to be false: {said}"
        )
        if len(self.people) < LARGE:
            return said
        return (
            f"{said}. {len(self.people):,} people are too many for that: among so many pairs some "
            "strangers look as alike as kin. Relate the photos of fewer people at a time, or allow "
            "more false links (--fdr)"
        )

    @property
    def expected_false(self) -> float:
        """How many of the links shown are expected to be false."""
        return sum(1 - link.probability for link in self.shown)
