"""Scores of pairs of people, from all of their photos."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Rows
from kinembed.data.families import PeopleFinder
from kinembed.data.left_out import nearest
from kinembed.data.pair_files import PairList
from kinembed.data.tables import clean_name
from kinembed.errors import DataError
from kinembed.heads.representations import Representations

Pooling = Literal["mean", "max", "pooled"]

BLOCK = 1 << 20  # pairs of photos per block


class PersonScorer:
    """Scores of pairs of people (`F0002/MID1-F0002/MID3`) from the photos of a cache.

    Args:
        representations: of a cache that says who is on its photos.
        pooling: `mean` or `max` of the logits of all pairs of their photos, or `pooled`: the logit
            of both people's pooled representations (`Head.pool`).
        threads: of the head.

    Raises:
        DataError: no photo belongs to a person.
    """

    def __init__(
        self, representations: Representations, pooling: Pooling, threads: int | None = None
    ) -> None:
        self.representations = representations
        self.pooling = pooling
        self.threads = threads
        cache = representations.cache
        self.path = cache.path
        rows: dict[str, list[int]] = {}
        for row, person in enumerate(cache.people.tolist()):
            if person:
                rows.setdefault(person.decode(), []).append(row)
        if not rows:
            raise DataError(
                f"{cache.path}: who is on its photos is not known; run kinembed embed with "
                "--photos of a folder FAMILY/PERSON/, or with --people-table"
            )
        self.people = tuple(rows)
        self._number_of = {person: number for number, person in enumerate(rows)}
        self._find = PeopleFinder(self.people)
        self.rows = np.concatenate([np.array(each, np.intp) for each in rows.values()])
        self.count = np.array([len(each) for each in rows.values()], np.intp)
        self.start = np.cumsum(self.count) - self.count

    def scores(self, pairs: PairList) -> NDArray[np.float64]:
        """(K,) logits of pairs of people.

        Raises:
            DataError: names the line of a person without photos, and the nearest person.
        """
        return self.score(self.numbers(pairs))

    def numbers(self, pairs: PairList) -> Rows:
        """(K, 2) numbers of the people of pairs, or (K, 3) of father, mother and child.

        Raises:
            DataError: names the line of a person without photos, and the nearest person.
        """
        if len(pairs.fields) == 1:
            (texts,) = pairs.fields
            rows = [
                self._split(text, f"{pairs.path}, line {line}")
                for text, line in zip(texts, pairs.lines, strict=True)
            ]
            return np.array(rows, np.intp).reshape(-1, 2)
        columns = [
            [
                self._number(name, f"{pairs.path}, line {line}")
                for name, line in zip(names, pairs.lines, strict=True)
            ]
            for names in pairs.fields
        ]
        return np.array(columns, np.intp).T

    def score(self, people: Rows) -> NDArray[np.float64]:
        """(K,) logits of (K, 2) pairs of people."""
        if self.pooling == "pooled":
            return self._pooled(people)
        combine = np.add if self.pooling == "mean" else np.maximum
        sizes = self.count[people].prod(1)  # (K,) pairs of photos
        result = np.empty(len(people), np.float64)
        start = 0
        while start < len(people):
            total = np.cumsum(sizes[start:])
            stop = start + max(1, int(np.searchsorted(total, BLOCK, "right")))
            photos, first = self._photo_pairs(people[start:stop])
            logits = self.representations.score(photos, self.threads)  # (R,)
            result[start:stop] = combine.reduceat(logits, first)
            start = stop
        return result / sizes if self.pooling == "mean" else result

    def _photo_pairs(self, people: Rows) -> tuple[Rows, Rows]:
        """(R, 2) all pairs of photos of (K, 2) pairs of people, and (K,) the first of each."""
        left, right = self.count[people].T  # (K,) each
        sizes = left * right  # (K,)
        first = np.cumsum(sizes) - sizes  # (K,)
        within = np.arange(sizes.sum()) - np.repeat(first, sizes)  # (R,)
        width = np.repeat(right, sizes)  # (R,)
        a = np.repeat(self.start[people[:, 0]], sizes) + within // width
        b = np.repeat(self.start[people[:, 1]], sizes) + within % width
        return self.rows[np.stack([a, b], 1)], first

    def _pooled(self, people: Rows) -> NDArray[np.float64]:
        unique, numbers = np.unique(people, return_inverse=True)  # (P,), (K * 2,)
        counts = self.count[unique]
        starts = np.cumsum(counts) - counts
        within = np.arange(counts.sum()) - np.repeat(starts, counts)  # (R,)
        photos = self.rows[np.repeat(self.start[unique], counts) + within]  # (R,)
        table, rows = self.representations.take(photos)
        head = self.representations.head
        pooled = head.pool(table, rows, starts)  # (P, W)
        return head.score(pooled, numbers.reshape(-1, 2), self.threads)

    def _number(self, name: str, where: str) -> int:
        """The number of a person, by the last parts of their name, as relations find them."""
        name = "/".join(clean_name(name).split("/")[-2:])
        found = self._find(name)
        if len(found) == 1:
            return found[0]
        if found:
            several = " or ".join(self.people[number] for number in found[:3])
            raise DataError(f"{where}: {name!r} may be {several}; wanted one of these as it stands")
        match = nearest(name, [person.encode() for person in self.people])
        raise DataError(
            f"{where}: {name!r} has no photos in {self.path}"
            + (f" (nearest: {match})" if match else "")
            + "; wanted a person F0002/MID1"
        )

    def _split(self, text: str, where: str) -> tuple[int, int]:
        """The numbers of two people `A-B`, split at the hyphen that leaves two known people.

        Of several such hyphens those between names as they stand come first.
        """
        names = [
            (text[:i].replace("\\", "/"), text[i + 1 :].replace("\\", "/"))
            for i, letter in enumerate(text)
            if letter == "-"
        ]
        for a, b in names:
            if a in self._number_of and b in self._number_of:
                return self._number_of[a], self._number_of[b]
        for a, b in names:
            both = ["/".join(clean_name(each).split("/")[-2:]) for each in (a, b)]
            if all(map(self._find, both)):
                return self._number(a, where), self._number(b, where)
        if len(names) == 1:
            for name in names[0]:
                self._number(name, where)
        raise DataError(
            f"{where}: {text!r} does not name two people with photos in {self.path}; wanted "
            "F0002/MID1-F0002/MID3"
        )
