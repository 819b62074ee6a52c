"""The stage `compare`: are two people one person, kin, or unrelated, from photos of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kinembed.config import CompareConfig
from kinembed.data.folders import list_photos
from kinembed.evaluation.published import choose_head
from kinembed.evaluation.three_way import EQUAL, priors_of
from kinembed.heads.base import sigmoid
from kinembed.heads.kept import caches_of, is_cache
from kinembed.inference.answerer import Answerer
from kinembed.inference.comparing import (
    PARENTS,
    Asked,
    Comparison,
    PairAnswer,
    describe_priors,
    doubts_of,
    shown_share,
)
from kinembed.inference.named_people import FaceReader, NamedPerson, take_faces
from kinembed.inference.trained import same_bytes, trained_on
from kinembed.outputs import check_outputs, check_suffix
from kinembed.progress import Progress, silent

if TYPE_CHECKING:
    from kinembed.evaluation.triples import TripleScore
    from kinembed.report.compare_picture import Shown

log = logging.getLogger(__name__)

HALF = 0.5  # of three are father, mother and child of theirs, where nobody says otherwise
EXPLAINED = 5  # photos of a person whose regions are hidden, at most


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
    check_suffix(".png", config.picture, config.explain)
    check_outputs([config.picture, config.explain], paths, run, data)
    priors = priors_of(config.prior)
    answerer = Answerer.open(
        run, config.head, device=config.device, precision=config.precision, progress=progress
    )
    photos = sum(len(list_photos(path).names) if path.is_dir() else 1 for path in paths)
    with progress("Photos", photos) as bar:
        people = FaceReader(whole=config.crops).people(paths, bar.advance)
    asked = Asked(answerer, take_faces(people, config.face))
    trained = _trained(asked, run, config.head)
    if len(paths) == 2:
        result = Comparison.of_two(asked, priors, trained)
    else:
        answers = asked.answers([(0, 2), (1, 2)], priors)
        alike = asked.answers([(0, 2), (1, 2), (0, 1)], EQUAL)
        share = HALF if config.prior is None else config.prior
        triple, how = _child_of_both(_weights(answerer, data, run, config.head), answers, share)
        notes = [
            f"the child of both, or of another family: assumes {shown_share(share)} of the former "
            f"(--prior changes that); the child of one of them alone is not considered; {how}",
            f"father and child, mother and child: {describe_priors(priors)}",
            *trained,
        ]
        result = Comparison.of(asked, answers, priors, notes, triple, doubts_of(alike))
    if config.picture is not None:
        result.files["picture"] = _draw(result, config.picture)
        log.info("%s: the faces and the answer", config.picture)
    if config.explain is not None:
        result.files["explain"] = _explain(asked, config.explain, progress)
        log.info("%s: the regions that the answer rests on", config.explain)
    return result


def _weights(answerer: Answerer, data: Path, run: Path, named: Path | None) -> TripleScore:
    """How the child's logits with both parents make one, by held-out families if there are any."""
    from kinembed.cache.stacked import open_caches
    from kinembed.evaluation.triples import TripleScore, fit_triples

    if answerer.triples is not None:
        return answerer.triples
    path = choose_head(run, named)
    caches = caches_of(path.parent, head=path)
    if not answerer.head.out_of_fold() or not all(map(is_cache, caches)):
        return TripleScore()
    with open_caches(caches) as opened:
        if opened.provenance.get("model") != answerer.head.model:
            return TripleScore()
        return fit_triples(answerer.head, opened, data, 0, expand=False)


def _trained(asked: Asked, run: Path, named: Path | None) -> list[str]:
    """Says who of the people, by the bytes of their photos, trained a run folder's head.

    A published head names nobody; of photos with several faces it is not known who is meant.
    """
    from kinembed.cache.stacked import open_caches

    answerer = asked.answerer
    if answerer.origin is not None:
        return []
    path = choose_head(run, named)
    caches = caches_of(path.parent, head=path)
    digests = [photo.sha256 for person in asked.people for photo in person.photos
               if len(photo.faces) == 1]  # fmt: skip
    with open_caches(caches) as cache:
        return trained_on(answerer.head, cache, same_bytes(cache, digests))


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


def _explain(asked: Asked, path: Path, progress: Progress) -> Path:
    """Draws which regions of both people's faces the answer rests on."""
    from kinembed.inference.explain import CASES, regions
    from kinembed.report.compare_picture import draw_regions

    crops = [np.stack([face.crop for face in person.faces[:EXPLAINED]]) for person in asked.people]
    with progress("Regions", CASES) as bar:
        found = regions(crops, asked.log_odds, bar.advance)
    return draw_regions([_shown(person) for person in asked.people], found, path)


def _draw(result: Comparison, path: Path) -> Path:
    from kinembed.report.compare_picture import draw_answer

    first, *more = result.lines()
    probabilities = result.answer.probabilities if result.triple is None else None
    roles = ("", "") if result.triple is None else (*PARENTS, "child")
    people = [_shown(each, role) for each, role in zip(result.people, roles, strict=True)]
    return draw_answer(people, first, probabilities, more, path)


def _shown(person: NamedPerson, role: str = "") -> Shown:
    """A person for a picture, with their part among three."""
    from kinembed.report.compare_picture import Shown

    title, note = str(person.path), f"{role}; {person.note()}" if role else person.note()
    crops = np.stack([face.crop for face in person.faces])
    if person.is_folder or person.photos[0].is_crop:
        return Shown(title, note, crops)
    photo = person.photos[0]
    scale = photo.preview.shape[1] / photo.size[0]
    boxes = np.array([face.box for face in photo.faces]) * scale
    return Shown(title, note, crops, photo.preview, boxes, person.chosen[0])
