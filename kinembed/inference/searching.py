"""Who in a gallery is most likely kin of a person, in numbers and words."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kinembed.arrays import Rows
from kinembed.cache import Embeddings
from kinembed.config import SearchConfig
from kinembed.data.person_pairs import SAME
from kinembed.errors import KinembedError
from kinembed.heads.pooled_people import RepresentedPhotos
from kinembed.inference.answerer import Answerer
from kinembed.inference.gallery import By, Gallery, Groups
from kinembed.inference.probe import Probe
from kinembed.inference.ranking import Ranked, rank
from kinembed.inference.trained import trained_on
from kinembed.inference.words import KEYS, rounded
from kinembed.printable import counted

log = logging.getLogger(__name__)

Check = Callable[[], object]

KIN, SELF = 3, 1  # people of a gallery who are taken to be kin, and the probe, without a prior
PHOTOS = 5  # of each of these, where a gallery is of photos
STRANGERS = "strangers as alike"
# Of 25 people of RFIW, with SFace, a photo and itself in another size and compression have a cosine
# of .988 or more, two photos of one person .922 or less, of two people .874 or less.
SAME_PICTURE = 0.96
BLOCK = 1024  # photos that are read and represented at a time
SURE = 0.9  # probability of the same person, by these photos, that is wanted too


@dataclass(frozen=True)
class Found:
    """Somebody in the gallery.

    Attributes:
        name: of the person, or of the photo.
        known: is the probe by name, by the bytes of a photo, or by the same picture.
        same_person, kin, unrelated: probabilities, which add up to 1.
        far: the share of unrelated pairs at least as alike.
        strangers: how many strangers in a gallery of this size look as alike: `far` times its size.
        log_odds: evidence of kin against unrelated: the logarithm of the likelihood ratio.
        photos: how many photos of them are in the gallery.
        photo: the one most like the probe.
    """

    name: str
    known: bool
    same_person: float
    kin: float
    unrelated: float
    far: float
    strangers: float
    log_odds: float
    photos: int
    photo: str


@dataclass(frozen=True, eq=False, kw_only=True)
class SearchResult:
    """Who is most likely kin of a person.

    Attributes:
        probe: the person.
        gallery: of whom: `2,316 people`.
        size: how many these are.
        same: who is rather the same person than kin, set apart.
        kin: the others, the most evidence of kinship first.
        priors: shares of the same person and of kin in the gallery that probabilities are for.
        source: network, head and calibration in a line.
        notes: what else to know, a line each.
        files: the table and the picture that were asked for.
    """

    probe: Probe
    gallery: str
    size: int
    same: tuple[Found, ...]
    kin: tuple[Found, ...]
    priors: tuple[float, float]
    source: str
    notes: tuple[str, ...]
    files: dict[str, Path]

    def lines(self) -> list[str]:
        """What is found, then what it holds for."""
        return [f"{self.probe.name}: {self.probe.note}", *_table(self), *self.notes]

    def as_json(self) -> dict[str, Any]:
        """Everything, as JSON types."""
        return {
            "probe": self.probe.as_json(),
            "gallery": self.size,
            "same_person": [asdict(each) for each in self.same],
            "kin": [asdict(each) for each in self.kin],
            "priors": dict(zip(KEYS, (*self.priors, 1 - sum(self.priors)), strict=True)),
            "source": self.source,
            "notes": list(self.notes),
            "files": {what: str(path) for what, path in self.files.items()},
        }


def search_gallery(
    config: SearchConfig,
    answerer: Answerer,
    cache: Embeddings,
    groups: Groups,
    gallery: Gallery,
    probe: Probe,
    check: Check = lambda: None,
) -> SearchResult:
    """Ranks a gallery by how likely its people are kin of one person.

    Args:
        config: the settings.
        answerer: what answers.
        cache: of the gallery, and of the network of `answerer`.
        groups: whose the photos of the cache are.
        gallery: of these groups.
        probe: the person.
        check: called between blocks of work; raises where nobody waits for the result any more.
    """
    priors = _priors(config, groups)
    known = _known(groups, cache, probe, config.by)
    pictures: dict[int, str] = {}
    looked: set[int] = set()
    while True:
        check()
        ranking = rank(
            answerer.head, answerer.three_way, gallery, probe.person, config.top, priors, known
        )
        new = [number for number in ranking.kin.people.tolist() if number not in looked]
        looked |= set(new)
        more = _same_pictures(answerer, cache, groups, probe, new, check)
        if not more:
            break
        pictures |= more
        known = sorted({*known, *more})
    log.debug("%s of %s scored exactly", f"{ranking.scored:,}", f"{len(gallery):,}")
    shown = _Shown(answerer, cache, gallery, groups, probe, len(gallery) - len(ranking.same), check)
    same = ranking.same.first(max(config.top, len(known)))
    return SearchResult(
        probe=probe,
        gallery=counted(len(gallery), "person", "people")
        if config.by == "person"
        else counted(len(gallery), "photo"),
        size=len(gallery),
        same=tuple(shown.found(same, frozenset(known))),
        kin=tuple(shown.found(ranking.kin)),
        priors=priors,
        source=answerer.source,
        notes=(
            *_several(cache, probe),
            *_notes(config, groups, priors, answerer, len(ranking.same) - len(same)),
            *(
                f"{probe.name}: is, in another size or file, {photo} of the cache"
                for photo in pictures.values()
            ),
            *_trained(answerer, cache, probe),
            f"answered by {answerer.source}",
        ),
        files={},
    )


def _priors(config: SearchConfig, groups: Groups) -> tuple[float, float]:
    """Shares of the same person and of kin in the gallery.

    Raises:
        KinembedError: that of kin is not between 0 and 1.
    """
    size = len(groups.names)
    photos = PHOTOS if config.by == "photo" else 1
    own = SELF * photos / size
    if config.prior is None:
        return min(1 / 3, own), min(1 / 3, KIN * photos / size)
    if not 0 < config.prior < 1:
        raise KinembedError(f"prior: found {config.prior:g}, wanted a share of kin between 0 and 1")
    return min((1 - config.prior) / 2, own), config.prior


def _known(groups: Groups, cache: Embeddings, probe: Probe, by: By) -> list[int]:
    """The numbers of those in the gallery who are the probe by name, or by the bytes of a photo."""
    people = {each for each in cache.people[probe.rows].tolist() if each}
    if by == "person":
        return np.flatnonzero(np.isin(groups.names, list(people))).tolist() if people else []
    own = np.isin(cache.people, list(people)) if people else np.zeros(len(cache), np.bool_)
    own[probe.rows] = True
    found: list[int] = np.flatnonzero(own).tolist()  # photos are the cache's rows
    return found


def _blocks(
    answerer: Answerer, cache: Embeddings, groups: Groups, numbers: Sequence[int], check: Check
) -> Iterator[tuple[int, Rows, Rows, RepresentedPhotos]]:
    """Some people and their photos, about `BLOCK` of which are read and represented together.

    Yields:
        The person's number, the rows of their photos in the cache, their places among the photos
        represented together, and these.
    """
    start = 0
    while start < len(numbers):
        check()
        rows: list[Rows] = []
        while start + len(rows) < len(numbers) and sum(map(len, rows)) < BLOCK:
            rows.append(np.sort(groups.of_one(numbers[start + len(rows)])))
        together, place = np.unique(np.concatenate(rows), return_inverse=True)
        photos = answerer.cache_photos(cache, together)
        places = np.split(place, np.cumsum([len(each) for each in rows])[:-1])
        for number, own, each in zip(numbers[start:], rows, places, strict=False):
            yield number, own, each, photos
        start += len(rows)


def _same_pictures(
    answerer: Answerer, cache: Embeddings, groups: Groups, probe: Probe, numbers: Sequence[int],
    check: Check,
) -> dict[int, str]:  # fmt: skip
    """Who, among those listed as kin, has the probe's only photo, in another size or file.

    All photos of somebody together may look less like one of them than a brother does.
    """
    found: dict[int, str] = {}
    if int(probe.person.counts[0]) != 1:
        return found
    for number, rows, places, photos in _blocks(answerer, cache, groups, numbers, check):
        cosines = photos.directions[places] @ probe.person.directions[0]
        best = int(np.argmax(cosines))
        if cosines[best] < SAME_PICTURE:
            continue
        both = answerer.people(photos, [places[[best]]]).joined(probe.person)
        scores = answerer.scores(both, np.array([[0, 1]]))
        if answerer.probabilities(scores)[0, SAME] >= SURE:
            found[number] = cache.names[rows[best]].decode()
    return found


@dataclass(frozen=True)
class _Shown:
    """Turns what is ranked into what is shown."""

    answerer: Answerer
    cache: Embeddings
    gallery: Gallery
    groups: Groups
    probe: Probe
    strangers: int
    check: Check

    def found(self, ranked: Ranked, known: frozenset[int] = frozenset()) -> list[Found]:
        """Those ranked, in their order."""
        columns = (ranked.people, ranked.probabilities, ranked.far, ranked.evidence)
        return [
            Found(
                name=self.gallery.names[number].decode(),
                known=number in known,
                same_person=same,
                kin=kin,
                unrelated=unrelated,
                far=far,
                strangers=far * self.strangers,
                log_odds=log_odds,
                photos=len(self.groups.of_one(number)),
                photo=photo,
            )
            for number, (same, kin, unrelated), far, log_odds, photo in zip(
                *(each.tolist() for each in columns), self._photos(ranked.people), strict=True
            )
        ]

    def _photos(self, people: Rows) -> list[str]:
        """The photo of each that is most like the probe; of equal ones the first."""
        names = []
        with_photos = _blocks(self.answerer, self.cache, self.groups, people.tolist(), self.check)
        for _, rows, places, photos in with_photos:
            best = 0
            if len(rows) > 1:
                each = self.answerer.people(photos, [np.array([place]) for place in places])
                pairs = np.stack([np.arange(len(rows)), np.full(len(rows), len(rows))], 1)
                scores = self.answerer.scores(each.joined(self.probe.person), pairs)
                best = int(np.argmax(scores.logits))
            names.append(self.cache.names[rows[best]].decode())
        return names


def _table(result: SearchResult) -> list[str]:
    """Who is found, a line each."""
    lines = []
    for each in result.same:
        what = "the same person" if each.known else "rather the same person than kin"
        why = "known by name or photo" if each.known else f"{shown_shares(each)[0]}"
        if not each.known and each.same_person >= 0.5:
            what = "likely the same person"
        lines.append(f"{what}: {each.name} ({why}; {counted(each.photos, 'photo')})")
    if not result.kin:
        return [*lines, f"nobody else among {result.gallery}"]
    lines.append(f"most likely kin among {result.gallery}, the likeliest first:")
    width = max([len(each.name) for each in result.kin] + [4])
    head = ("rank", "name".ljust(width), "kin ", "same", "photos", "FAR    ", STRANGERS)
    lines.append("  ".join(head))
    for number, each in enumerate(result.kin, 1):
        same, kin = shown_shares(each)
        lines.append(
            f"{number:>4}  {each.name:<{width}}  {_short(kin):<4}  {_short(same):<4}  "
            f"{each.photos:>6,}  {_rate(each.far):<7}  {shown_strangers(each)}"
        )
    return lines


def shown_shares(found: Found) -> tuple[str, str]:
    """Probabilities of the same person and of kin, rounded so that all three add up to 1."""
    same, kin, _ = rounded((found.same_person, found.kin, found.unrelated))
    return same, kin


def _short(text: str) -> str:
    return text.replace("under ", "<").replace("over ", ">")


def _rate(far: float) -> str:
    """A false accept rate, to two digits at least."""
    return f"{far:.2f}".removeprefix("0") if far >= 0.1 else f"{far:.5f}".removeprefix("0")


def shown_strangers(found: Found) -> str:
    """How many strangers in the gallery look as alike."""
    return f"about {found.strangers:,.0f}" if found.strangers >= 0.5 else "less than 1"


def _notes(
    config: SearchConfig,
    groups: Groups,
    priors: tuple[float, float],
    answerer: Answerer,
    more_same: int,
) -> list[str]:
    """What the numbers hold for, a line each."""
    size = len(groups.names)
    unit = "people" if config.by == "person" else "photos"
    same, kin = priors
    least = answerer.three_way.shares[0]
    notes = []
    if more_same > 0:
        who = counted(more_same, "more photo")
        if unit == "people":
            who = counted(more_same, "more person", "more people")
        notes.append(f"{who}, likelier the same person than kin, not shown: --top shows more")
    notes.append(
        f"kin, same: probabilities where {_count(kin * size)} of these {size:,} {unit} are kin and "
        f"{_count(same * size)} the same person"
        + (" (--prior says another share of kin)" if config.prior is None else "")
    )
    notes.append(
        f"FAR: the share of unrelated pairs that look at least as alike, {_rate(least)} at least. "
        f"{STRANGERS}: how many strangers to expect among {size:,} {unit}, FAR times as many; a "
        "high rank is no proof of kinship"
    )
    if groups.nobody:
        notes.append(
            f"{counted(groups.nobody, 'photo')} of unknown people "
            f"{'is' if groups.nobody == 1 else 'are'} not searched; --by photo searches them"
        )
    return notes


def _several(cache: Embeddings, probe: Probe) -> list[str]:
    """Says where the photos may be of several people, by their likeness or by the cache."""
    notes = [f"{probe.name}: {probe.mixed}"] if probe.mixed else []
    people = sorted({each.decode() for each in cache.people[probe.rows].tolist() if each})
    if len(people) > 1:
        notes.append(
            f"{probe.name}: its photos are, byte for byte, photos of {len(people):,} people of the "
            f"cache ({people[0]}, {people[1]}{', …' if people[2:] else ''}): search for one of them"
        )
    return notes


def _trained(answerer: Answerer, cache: Embeddings, probe: Probe) -> list[str]:
    """Says where the head was trained on the probe, and so perhaps on their kin."""
    if answerer.origin is not None:
        everybody = [each.decode() for each in np.unique(cache.people).tolist() if each]
        if answerer.origin.is_of(everybody):
            return ["the head was trained on this cache's people: these numbers are too good"]
        return [
            "the head does not name its training people; where these people or their kin are "
            "among them, these numbers are too good"
        ]
    return trained_on(answerer.head, cache, probe.rows)


def _count(number: float) -> str:
    return f"{number:,.0f}" if number >= 1 else f"{number:.2g}"
