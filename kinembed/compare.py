"""The stage `compare`: are two people one person, kin, or unrelated, from photos of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Rows
from kinembed.config import CompareConfig
from kinembed.data.folders import list_photos
from kinembed.data.person_pairs import SAME
from kinembed.errors import KinembedError
from kinembed.evaluation.three_way import EQUAL, priors_of
from kinembed.heads.base import sigmoid
from kinembed.inference.answerer import Answerer
from kinembed.inference.chosen_faces import choose_faces
from kinembed.inference.named_people import FaceReader, NamedPerson, take_faces, without_shared
from kinembed.inference.words import KEYS, likeliest, sentence, triple_sentence
from kinembed.outputs import check_output
from kinembed.printable import counted
from kinembed.progress import Progress, silent

if TYPE_CHECKING:
    from kinembed.data.photos import Pixels
    from kinembed.evaluation.three_way import ThreeWay
    from kinembed.evaluation.triples import TripleScore
    from kinembed.report.compare_picture import Shown

log = logging.getLogger(__name__)

HALF = 0.5  # of three are father, mother and child of theirs, where nobody says otherwise
PARENTS = ("father", "mother")
UNLIKE = 0.05  # probability of the same person below which a photo of a folder is doubtful
DOUBTED = 500  # photos of a folder, at most, that are compared with the others
EXPLAINED = 5  # photos of a person whose regions are hidden, at most


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


def compare(
    config: CompareConfig, data: Path, run: Path, *, progress: Progress = silent
) -> Comparison:
    """Says whether two people are one person, kin, or unrelated; or whether a child is of two.

    The answer does not depend on the order of the two, nor on that of their photos, to the bit.

    Args:
        config: the people and the settings.
        data: where the relations are that weigh father and mother, for the run folder's own head.
        run: the run folder, whose head and calibration go first; without, the packaged ones answer.
        progress: shows the progress.

    Raises:
        KinembedError: somebody has no face, both are one photo, or nothing here can answer.
    """
    paths = config.paths()
    for out in (config.picture, config.explain):
        if out is not None:
            check_output(out, paths, [run])
    if config.explain is not None and len(paths) == 3:
        raise KinembedError("explain: is of two people; leave out --explain, or name A and B")
    priors = priors_of(config.prior)
    answerer = Answerer.open(
        run, config.head, device=config.device, precision=config.precision, progress=progress
    )
    photos = sum(len(list_photos(path).names) if path.is_dir() else 1 for path in paths)
    with progress("Photos", photos) as bar:
        people = FaceReader(whole=config.crops).people(paths, bar.advance)
    asked = _Asked(answerer, take_faces(people, config.face))
    pairs = [(0, 1)] if len(paths) == 2 else [(0, 2), (1, 2)]
    answers = asked.answers(pairs, priors)
    triple, notes = None, [_describe(priors)]
    if len(paths) == 3:
        share = HALF if config.prior is None else config.prior
        weights = _weights(answerer, data, run, config.head)
        triple, how = _child_of_both(weights, answers, share)
        notes = [
            f"the child of both: for {share:.3g} of such three (--prior); {how}",
            f"father and child, mother and child: {notes[0]}",
        ]
    notes.append(_calibrated(answerer.three_way))
    files: dict[str, Path] = {}
    result = Comparison(
        people=tuple(asked.people),
        pairs=tuple(answers),
        triple=triple,
        priors=priors,
        source=answerer.source,
        notes=tuple(notes),
        model=answerer.head.model,
        head=answerer.head.digest,
        files=files,
    )
    if config.picture is not None:
        files["picture"] = _draw(result, config.picture)
    if config.explain is not None:
        files["explain"] = asked.explain(config.explain, progress)
    return result


class _Asked:
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

    def _chosen(self, person: NamedPerson) -> NamedPerson:
        """A person with the face on each photo of a folder that fits the others."""
        counts = [len(photo.faces) for photo in person.photos]
        if not person.is_folder or max(counts) == 1:
            return person
        rows = [self.rows[id(face.crop)] for photo in person.photos for face in photo.faces]
        faces = self.answerer.people(self.photos, [np.array([row]) for row in rows])
        pairs = np.indices((len(rows), len(rows))).reshape(2, -1).T
        likeness = self.answerer.scores(faces, pairs).likeness.reshape(len(rows), len(rows))
        several = sum(count > 1 for count in counts)
        log.info(
            "%s: %s several faces; of each, the one most like those on the other photos is taken",
            person.path, counted(several, "photo shows", "photos show"),
        )  # fmt: skip
        return replace(person, chosen=tuple(choose_faces(counts, likeness)))

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

    def explain(self, path: Path, progress: Progress) -> Path:
        """Draws which regions of both people's faces the answer rests on."""
        from kinembed.inference.explain import CASES, regions
        from kinembed.report.compare_picture import draw_regions

        crops = [
            np.stack([face.crop for face in person.faces[:EXPLAINED]]) for person in self.people
        ]
        with progress("Regions", CASES) as bar:
            found = regions(crops, self._log_odds, bar.advance)
        return draw_regions([_shown(person) for person in self.people], found, path)

    def _log_odds(self, pairs: Sequence[tuple[Pixels, Pixels]]) -> NDArray[np.float64]:
        """(K,) of kin, for pairs of people given by their crops."""
        unique = {id(side): side for pair in pairs for side in pair}
        photos = self.answerer.photos([crop for side in unique.values() for crop in side])
        bounds = np.cumsum([len(side) for side in unique.values()])
        people = self.answerer.people(photos, np.split(np.arange(bounds[-1]), bounds[:-1]))
        number = {side: each for each, side in enumerate(unique)}
        rows = np.array([[number[id(side)] for side in pair] for pair in pairs], np.intp)
        return self.answerer.three_way.evidence(self.answerer.scores(people, rows))


def _weights(answerer: Answerer, data: Path, run: Path, named: Path | None) -> TripleScore:
    """How the child's logits with both parents make one, by held-out families if there are any."""
    from kinembed.cache import EmbeddingCache
    from kinembed.evaluation.triples import TripleScore, fit_triples

    if answerer.triples is not None:
        return answerer.triples
    cache = (run if named is None else named.parent) / "embeddings.h5"
    if not answerer.head.out_of_fold() or not cache.exists():
        return TripleScore()
    with EmbeddingCache.open(cache) as opened:
        if opened.provenance.get("model") != answerer.head.model:
            return TripleScore()
        return fit_triples(answerer.head, opened, data, 0, expand=False)


def _child_of_both(
    weights: TripleScore, pairs: Sequence[PairAnswer], prior: float
) -> tuple[float, str]:
    """The probability that a child is of both parents, and how it was found."""
    if weights.families:
        logit = float(weights.logits(np.array([[pair.logit for pair in pairs]]))[0])
        how = weights.describe()
    else:
        logit = math.fsum(pair.log_odds for pair in pairs)
        how = (
            "father and mother weigh alike, as if each likeness told nothing of the other: no "
            "held-out families with both parents weigh them"
        )
    odds = logit + math.log(prior / (1 - prior))
    return float(sigmoid(np.array([odds]))[0]), how


def _describe(priors: tuple[float, float]) -> str:
    """For what shares of the answers the probabilities are."""
    if priors == EQUAL:
        return "for as many pairs of the same person as of kin and of unrelated people (--prior)"
    same, kin = priors
    return (
        f"for {kin:.3g} kin, {same:.3g} the same person and {1 - same - kin:.3g} unrelated among "
        "those compared (--prior)"
    )


def _calibrated(three_way: ThreeWay) -> str:
    """Whom the answers were fitted on, and how good they are on others."""
    said = f"calibrated on photos of {three_way.people:,} held-out people, for photos like theirs"
    if three_way.estimates is None:
        return said
    found = three_way.estimates
    return (
        f"{said}; on families not fitted on, the three equally common: accuracy "
        f"{found['accuracy']:.3f}, log loss {found['log_loss']:.3f}, ECE {found['ece']:.3f}"
    )


def _draw(result: Comparison, path: Path) -> Path:
    from kinembed.report.compare_picture import draw_answer

    first, *more = result.lines()
    probabilities = result.answer.probabilities if result.triple is None else None
    return draw_answer([_shown(each) for each in result.people], first, probabilities, more, path)


def _shown(person: NamedPerson) -> Shown:
    """A person for a picture."""
    from kinembed.report.compare_picture import Shown

    crops = np.stack([face.crop for face in person.faces])
    if person.is_folder or person.photos[0].is_crop:
        return Shown(str(person.path), person.note(), crops)
    photo = person.photos[0]
    scale = photo.preview.shape[1] / photo.size[0]
    boxes = np.array([face.box for face in photo.faces]) * scale
    return Shown(str(person.path), person.note(), crops, photo.preview, boxes, person.chosen[0])
