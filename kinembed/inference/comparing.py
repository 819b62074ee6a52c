"""What photos say of two people, or of father, mother and child."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Rows
from kinembed.data.person_pairs import SAME
from kinembed.evaluation.three_way import EQUAL
from kinembed.inference.answerer import Answerer
from kinembed.inference.chosen_faces import with_fitting_faces
from kinembed.inference.grey import are_grey, grey_note
from kinembed.inference.mixed_photos import mixed_note
from kinembed.inference.named_people import MOST_SAID, NamedPerson, without_shared
from kinembed.inference.words import KEYS, likeliest, rounded, sentence, triple_sentence
from kinembed.printable import counted, decimal

if TYPE_CHECKING:
    from kinembed.data.photos import Pixels
    from kinembed.evaluation.three_way import ThreeWay

log = logging.getLogger(__name__)

PARENTS = ("father", "mother")
# Of RFIW's photos of 250 people 2 % are below; of a stranger among these 99 %, of a relative 70 %.
UNLIKE = 0.05  # probability of the same person below which a photo of a folder is doubtful
DOUBTED = 500  # photos of a folder, at most, that are compared with the others


@dataclass(frozen=True)
class PairAnswer:
    """What is known of two people.

    Attributes:
        same_person, kin, unrelated: probabilities, which add up to 1.
        far: the share of unrelated pairs at least as alike.
        logit: of the head.
        log_odds: of kin against unrelated, before any prior: the logarithm of the likelihood ratio.
    """

    same_person: float
    kin: float
    unrelated: float
    far: float
    logit: float
    log_odds: float

    @property
    def probabilities(self) -> tuple[float, float, float]:
        """Of the same person, kin, unrelated."""
        return self.same_person, self.kin, self.unrelated

    @property
    def likeliest(self) -> str:
        """`same_person`, `kin` or `unrelated`."""
        return KEYS[likeliest(self.probabilities)]


@dataclass(frozen=True, eq=False, kw_only=True)
class Comparison:
    """What two people's photos say, or those of father, mother and child.

    Attributes:
        people: two, or three.
        pairs: the answer of the two; or of father and child, and of mother and child.
        triple: probability that the child is of both; None of two people.
        priors: shares of the same person and of kin among those compared, that they are for.
        source: network, head and calibration in a line.
        notes: what else to know, a line each.
        model: digest of the network.
        head: digest of the head.
        files: the pictures that were asked for, `picture` and `explain`.
        doubts: why father, mother and child may not be three people.
    """

    people: tuple[NamedPerson, ...]
    pairs: tuple[PairAnswer, ...]
    triple: float | None
    priors: tuple[float, float]
    source: str
    notes: tuple[str, ...]
    model: str
    head: str
    files: dict[str, Path]
    doubts: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        asked: Asked,
        pairs: Sequence[PairAnswer],
        priors: tuple[float, float],
        notes: Sequence[str],
        triple: float | None = None,
        doubts: Sequence[str] = (),
    ) -> Comparison:
        """The answer, with what it holds for; arguments as the attributes."""
        answerer = asked.answerer
        grey = [are_grey(face.crop for face in person.faces) for person in asked.people]
        if all(grey):
            who = "both are" if len(grey) == 2 else "all three are"
            notes = (grey_note(who, answerer.packaged), *notes)
        elif sum(grey) == 2 and grey[-1]:  # of three; a father and a mother are not compared
            who = f"{PARENTS[grey.index(True)]} and child are"
            notes = (grey_note(who, answerer.packaged), *notes)
        return cls(
            people=tuple(asked.people),
            pairs=tuple(pairs),
            triple=triple,
            priors=priors,
            source=answerer.source,
            notes=(*asked.mixed, *notes, calibrated_on(answerer.three_way)),
            model=answerer.head.model,
            head=answerer.head.digest,
            files={},
            doubts=tuple(doubts),
        )

    @classmethod
    def of_two(
        cls, asked: Asked, priors: tuple[float, float], notes: Sequence[str] = ()
    ) -> Comparison:
        """That of two people, for shares of the same person and of kin among those compared."""
        notes = [describe_priors(priors), *notes]
        return cls.of(asked, asked.answers([(0, 1)], priors), priors, notes)

    @property
    def answer(self) -> PairAnswer:
        """That of two people."""
        return self.pairs[0]

    @property
    def sentence(self) -> str:
        """The answer in words and numbers."""
        if self.triple is not None:
            said = triple_sentence(self.triple)
            return f"{'; '.join(self.doubts)}; if not: {said}" if self.doubts else said
        return sentence(self.answer.probabilities, self.answer.far)

    def lines(self) -> list[str]:
        """The answer, then what it holds for."""
        said = [self.sentence]
        if self.triple is not None:
            for parent, pair in zip(PARENTS, self.pairs, strict=True):
                said.append(f"{parent} and child: {sentence(pair.probabilities, pair.far)}")
            said += self._torn()
        read = "; ".join(f"{person.path}: {person.note()}" for person in self.people)
        return [*said, read, *self.notes, f"answered by {self.source}"]

    def _torn(self) -> list[str]:
        """Says where the answer of three is not that of a parent alone."""
        assert self.triple is not None
        alone = [pair.likeliest == "unrelated" for pair in self.pairs]
        if self.triple < 0.5 or sum(alone) != 1:
            return []
        odd = alone.index(True)
        return [
            f"{PARENTS[odd]} and child alone look unrelated: the child of the {PARENTS[1 - odd]} "
            "alone fits as well, and is not considered"
        ]

    def as_json(self) -> dict[str, Any]:
        """Everything, as JSON types."""
        pairs = [{"answer": pair.likeliest, **asdict(pair)} for pair in self.pairs]
        about: dict[str, Any] = {"sentence": self.sentence}
        if self.triple is None:
            about |= pairs[0]
        else:
            about |= {"child_of_both": self.triple, **dict(zip(PARENTS, pairs, strict=True))}
        return about | {
            "priors": dict(zip(KEYS, (*self.priors, 1 - sum(self.priors)), strict=True)),
            "source": self.source,
            "notes": list(self.notes),
            "model": self.model,
            "head": self.head,
            "people": [person.as_json() for person in self.people],
            "files": {what: str(path) for what, path in self.files.items()},
        }


class Asked:
    """People with the representations of all faces on their photos.

    Args:
        answerer: what answers.
        people: with all faces on their photos.
    """

    def __init__(self, answerer: Answerer, people: Sequence[NamedPerson]) -> None:
        self.answerer = answerer
        crops = [face.crop for person in people for photo in person.photos for face in photo.faces]
        # In an order of their own, so that no number depends on the order in which they are named.
        order = sorted(range(len(crops)), key=lambda each: crops[each].tobytes())
        self.photos = answerer.photos([crops[each] for each in order])
        rows = np.empty(len(order), np.intp)
        rows[order] = np.arange(len(order))
        self.rows = {id(crop): row for crop, row in zip(crops, rows.tolist(), strict=True)}
        self.people = without_shared([self._chosen(person) for person in people])
        for person in self.people:
            self._warn_of_others(person)
        self.mixed = [note for person in self.people if (note := self._mixed(person))]

    def _chosen(self, person: NamedPerson) -> NamedPerson:
        rows = [self.rows[id(face.crop)] for photo in person.photos for face in photo.faces]
        return with_fitting_faces(person, self.photos, rows)

    def _mixed(self, person: NamedPerson) -> str:
        """Says where a folder may hold the photos of two people."""
        if not person.is_folder:
            return ""
        rows = [self.rows[id(face.crop)] for face in person.faces]
        names = [str(photo.path.relative_to(person.path)) for photo in person.photos]
        note = mixed_note(self.answerer, self.photos, rows, names)
        return f"{person.path}: {note}" if note else ""

    def _warn_of_others(self, person: NamedPerson) -> None:
        """Says on which photos of a folder somebody else may be: these answer, too."""
        rows = [self.rows[id(face.crop)] for face in person.faces]
        if not 2 < len(rows) <= DOUBTED:
            return
        each = np.array(rows, np.intp)
        groups = [each[number : number + 1] for number in range(len(each))]
        groups += [np.delete(each, number) for number in range(len(each))]
        pairs = np.arange(2 * len(each)).reshape(2, -1).T
        scores = self.answerer.scores(self.answerer.people(self.photos, groups), pairs)
        unlike = np.flatnonzero(self.answerer.probabilities(scores)[:, SAME] < UNLIKE)
        if 2 * len(unlike) > len(rows):
            log.warning(
                "%s: its photos do not look like one person; kinembed relate tells who is who in "
                "an album", person.path,
            )  # fmt: skip
        elif len(unlike):
            paths = [person.photos[number].path for number in unlike.tolist()]
            names = [str(path.relative_to(person.path)) for path in paths[:MOST_SAID]]
            more = f" and {len(paths) - MOST_SAID:,} more" if len(paths) > MOST_SAID else ""
            log.warning(
                "%s: %s somebody else than the others (%s); take them out if so", person.path,
                counted(len(unlike), "photo may show", "photos may show"),
                ", ".join(names) + more,
            )  # fmt: skip

    def _rows(self, person: NamedPerson) -> Rows:
        """The numbers of a person's faces, in their order."""
        return np.array(sorted(self.rows[id(face.crop)] for face in person.faces), np.intp)

    def answers(
        self, pairs: Sequence[tuple[int, int]], priors: tuple[float, float]
    ) -> list[PairAnswer]:
        """What is known of pairs of the people, by all of their photos."""
        people = self.answerer.people(self.photos, [self._rows(each) for each in self.people])
        scores = self.answerer.scores(people, np.array(pairs, np.intp))
        probabilities = self.answerer.probabilities(scores, priors).tolist()
        far = self.answerer.far(scores).tolist()
        log_odds = self.answerer.three_way.evidence(scores).tolist()
        found = zip(probabilities, far, scores.logits.tolist(), log_odds, strict=True)
        return [PairAnswer(*three, *more) for three, *more in found]

    def log_odds(self, pairs: Sequence[tuple[Pixels, Pixels]]) -> NDArray[np.float64]:
        """(K,) of kin, for pairs of people given by their crops."""
        unique = {id(side): side for pair in pairs for side in pair}
        photos = self.answerer.photos([crop for side in unique.values() for crop in side])
        bounds = np.cumsum([len(side) for side in unique.values()])
        people = self.answerer.people(photos, np.split(np.arange(bounds[-1]), bounds[:-1]))
        number = {side: each for each, side in enumerate(unique)}
        rows = np.array([[number[id(side)] for side in pair] for pair in pairs], np.intp)
        return self.answerer.three_way.evidence(self.answerer.scores(people, rows))


def describe_priors(priors: tuple[float, float]) -> str:
    """For what shares of the answers the probabilities are."""
    if priors == EQUAL:
        return (
            "assumes that the same person, kin and unrelated are equally common; --prior changes "
            "that"
        )
    same, kin = priors
    shares = [shown_share(each) for each in (kin, same, 1 - same - kin)]
    return (
        f"assumes {shares[0]} kin, {shares[1]} the same person and {shares[2]} unrelated among "
        "those compared (--prior)"
    )


def shown_share(share: float) -> str:
    """A share with three digits, without its leading zero."""
    return f"{share:.3g}".removeprefix("0")


def doubts_of(pairs: Sequence[PairAnswer]) -> list[str]:
    """Which of father, mother and child look more like one person than like two.

    Args:
        pairs: answers of father and child, mother and child, and father and mother, for equally
            common ones.
    """
    names = ("father and child", "mother and child", "father and mother")
    return [
        f"{name} look like one person: {rounded(pair.probabilities)[SAME]}"
        for name, pair in zip(names, pairs, strict=True)
        if pair.same_person >= 0.5
    ]


def calibrated_on(three_way: ThreeWay) -> str:
    """Whom the answers were fitted on, and how good they are on others."""
    said = f"calibrated on photos of {three_way.people:,} held-out people, for photos like theirs"
    if three_way.estimates is None:
        return said
    found = three_way.estimates
    return (
        f"{said}; on families not fitted on, the three equally common: accuracy "
        f"{decimal(found['accuracy'])}, log loss {decimal(found['log_loss'])}, ECE "
        f"{decimal(found['ece'], 3)}"
    )
