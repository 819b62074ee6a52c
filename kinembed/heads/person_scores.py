"""Scoring person against person, each by all of their photos."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Rows, Vectors
from kinembed.cache import Embeddings
from kinembed.data.families import person_of
from kinembed.data.pair_files import PairList
from kinembed.errors import DataError
from kinembed.heads.pair import AnyHead

Pooling = Literal["mean", "max", "pooled"]

AT_ONCE = 1 << 20  # pairs of photos


class PeopleScorer:
    """Scores of pairs of people (`F0002/MID1-F0002/MID3`) from the photos of a cache.

    Args:
        cache: names of photos `[FOLDER/]FAMILY/PERSON/FILE`.
        vectors: (N, width) its vectors.
        head: what compares them.
        pooling: `mean` or `max` of the logits of all pairs of their photos, or the logit of the
            mean vectors of both (`pooled`).
        threads: of the head.

    Raises:
        DataError: no photo is of a person.
    """

    def __init__(
        self,
        cache: Embeddings,
        vectors: Vectors,
        head: AnyHead,
        pooling: Pooling,
        threads: int | None,
    ) -> None:
        self.path = cache.path
        self.vectors = vectors
        self.head = head
        self.pooling = pooling
        self.threads = threads
        rows: dict[str, list[int]] = {}
        for row, name in enumerate(cache.names.tolist()):
            person = person_of(name.decode())
            if person is not None:
                rows.setdefault("/".join(person), []).append(row)
        if not rows:
            raise DataError(f"{cache.path}: none of its photos lies in FAMILY/PERSON/")
        self.place = {person: place for place, person in enumerate(rows)}
        self.rows = np.concatenate([np.array(each, np.intp) for each in rows.values()])
        self.count = np.array([len(each) for each in rows.values()], np.intp)
        self.start = np.cumsum(self.count) - self.count

    def scores(self, pairs: PairList) -> NDArray[np.float64]:
        """Logits (K,) of pairs of people.

        Raises:
            DataError: naming the line of a person without photos.
        """
        people = np.array(
            [self._parted(text, line) for text, line in zip(pairs.texts, pairs.lines, strict=True)]
        )
        if self.pooling == "pooled":
            return self._pooled(people)
        combine = np.add if self.pooling == "mean" else np.maximum
        sizes = self.count[people].prod(1)
        found = np.empty(len(people), np.float64)
        start = 0
        while start < len(people):
            total = np.cumsum(sizes[start:])
            stop = start + max(1, int(np.searchsorted(total, AT_ONCE, "right")))
            photos, first = self._photos(people[start:stop])
            logits = self.head.scores(self.vectors, photos, self.threads)
            found[start:stop] = combine.reduceat(logits, first)
            start = stop
        return found / sizes if self.pooling == "mean" else found

    def _photos(self, people: Rows) -> tuple[Rows, Rows]:
        """All pairs of photos of pairs of people, and where those of each begin."""
        left, right = self.count[people].T
        sizes = left * right
        first = np.cumsum(sizes) - sizes
        within = np.arange(sizes.sum()) - np.repeat(first, sizes)
        wide = np.repeat(right, sizes)
        a = np.repeat(self.start[people[:, 0]], sizes) + within // wide
        b = np.repeat(self.start[people[:, 1]], sizes) + within % wide
        return self.rows[np.stack([a, b], 1)], first

    def _pooled(self, people: Rows) -> NDArray[np.float64]:
        known, place = np.unique(people, return_inverse=True)
        means = np.stack(
            [
                self.vectors[self.rows[start : start + count]].mean(0, np.float32)
                for start, count in zip(self.start[known], self.count[known], strict=True)
            ]
        )
        return self.head.scores(means, place.reshape(-1, 2), self.threads)

    def _parted(self, text: str, line: int) -> tuple[int, int]:
        text = text.replace("\\", "/")
        for at, letter in enumerate(text):
            if letter == "-" and text[:at] in self.place and text[at + 1 :] in self.place:
                return self.place[text[:at]], self.place[text[at + 1 :]]
        raise DataError(
            f"line {line}: {text!r} does not name two people with photos in {self.path}; wanted "
            "F0002/MID1-F0002/MID3"
        )
