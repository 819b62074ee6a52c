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
from kinembed.inference.mixed_photos import mixed_note
from kinembed.inference.named_people import NamedPerson, without_shared
from kinembed.inference.words import KEYS, likeliest, sentence, triple_sentence
from kinembed.printable import counted

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

    @classmethod
    def of(
        cls,
        asked: Asked,
        pairs: Sequence[PairAnswer],
        priors: tuple[float, float],
        notes: Sequence[str],
        triple: float | None = None,
    ) -> Comparison:
        """The answer, with what it holds for; arguments as the attributes."""
        answerer = asked.answerer
        return cls(
            people=tuple(asked.people),
            pairs=tuple(pairs),
            triple=triple,
            priors=priors,
            source=answerer.source,
            notes=(*asked.mixed, *notes, calibrated_on(answerer.three_way)),
            model=answerer.head.model,
            head=answerer.head_digest,
            files={},
        )

    @classmethod
    def of_two(cls, asked: Asked, priors: tuple[float, float]) -> Comparison:
        """That of two people, for shares of the same person and of kin among those compared."""
        return cls.of(asked, asked.answers([(0, 1)], priors), priors, [describe_priors(priors)])

    @property
    def answer(self) -> PairAnswer:
        """That of two people."""
        return self.pairs[0]

    @property
    def sentence(self) -> str:
        """The answer in words and numbers."""
        if self.triple is not None:
            return triple_sentence(self.triple)
        return sentence(self.answer.probabilities, self.answer.far)

    def lines(self) -> list[str]:
        """The answer, then what it holds for."""
        said = [self.sentence]
        if self.triple is not None:
            for parent, pair in zip(PARENTS, self.pairs, strict=True):
                said.append(f"{parent} and child: {sentence(pair.probabilities, pair.far)}")
        return [*said, *self.notes, f"answered by {self.source}"]

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
        return with_fitting_faces(person, self.answerer, self.photos, rows)

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
        if len(unlike):
            names = [person.photos[number].path for number in unlike.tolist()]
            log.warning(
                "%s: %s somebody else than the others (%s); take them out if so", person.path,
                counted(len(unlike), "photo may show", "photos may show"),
                names[0].relative_to(person.path),
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
        return "for as many pairs of the same person as of kin and of unrelated people (--prior)"
    same, kin = priors
    return (
        f"for {kin:.3g} kin, {same:.3g} the same person and {1 - same - kin:.3g} unrelated among "
        "those compared (--prior)"
    )


def calibrated_on(three_way: ThreeWay) -> str:
    """Whom the answers were fitted on, and how good they are on others."""
    said = f"calibrated on photos of {three_way.people:,} held-out people, for photos like theirs"
    if three_way.estimates is None:
        return said
    found = three_way.estimates
    return (
        f"{said}; on families not fitted on, the three equally common: accuracy "
        f"{found['accuracy']:.3f}, log loss {found['log_loss']:.3f}, ECE {found['ece']:.3f}"
    )
