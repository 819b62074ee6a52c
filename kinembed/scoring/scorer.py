"""Probabilities of the rows of a submission, some at a time or read ahead."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Rows
from kinembed.cache import Embeddings
from kinembed.config import ScoreConfig
from kinembed.data.pair_files import PairList, pair_rows, read_pairs, with_itself
from kinembed.errors import DataError, KinembedError
from kinembed.evaluation.in_use import describe, warn_of_framing
from kinembed.evaluation.kept_calibrations import expanding, find_calibration
from kinembed.evaluation.published import choose_head, read_any_head
from kinembed.heads.base import sigmoid
from kinembed.heads.representations import Representations
from kinembed.printable import counted

if TYPE_CHECKING:  # most submissions are of pairs
    from kinembed.evaluation.triples import TripleScore
    from kinembed.heads.person_scores import PersonScorer

log = logging.getLogger(__name__)

GIGA = 1_000_000_000


@dataclass(frozen=True)
class Ahead:
    """What is known of the pairs of a file before they are read to be written.

    Attributes:
        logits: (K,) of the pairs.
        names: the digest of their names.
        expansion: (K,) of the pairs; None: they are not expanded.
    """

    logits: NDArray[np.float64]
    names: str
    expansion: NDArray[np.float64] | None = None

    def part(self, start: int, stop: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Logits and expansion of some pairs."""
        logits = self.logits[start:stop]
        if self.expansion is None:
            return logits, np.zeros(len(logits))
        return logits, self.expansion[start:stop]


class _Names:
    """The digest of what a file names, whatever the size of the blocks that it is read in."""

    def __init__(self) -> None:
        self._columns: list[Any] = []

    def add(self, pairs: PairList) -> None:
        """Takes in a block of rows."""
        self._columns = self._columns or [hashlib.sha256() for _ in pairs.fields]
        for sha, texts in zip(self._columns, pairs.fields, strict=True):
            sha.update(("\n".join(texts) + "\n").encode("utf-8", "surrogatepass"))

    def __str__(self) -> str:
        return " ".join(sha.hexdigest() for sha in self._columns)


class Scorer:
    """Probabilities of the rows of a submission, by the head and its calibration."""

    def __init__(self, config: ScoreConfig, data: Path, run: Path, cache: Embeddings) -> None:
        self.config, self.data, self.run, self.cache = config, data, run, cache
        self.head, self.record, self.published = read_any_head(choose_head(run, config.head))
        warn_of_framing(cache, self.record)
        self.calibration = None
        if not config.raw and config.people is None:
            if self.published is not None and config.calibration is None:
                self.calibration = self.published.calibration
            else:
                found = find_calibration(run, self.head, config.calibration)
                self.calibration = found and found[0]
        self.expand = expanding(config.expand, self.calibration, self.head)
        self.representations = Representations(
            cache, self.head, expand=self.expand, path=run / "representations.h5"
        )
        self.with_itself = 0  # rows that have a photo twice
        self.names = ""  # the digest of those of a file that was read ahead
        self.are_triples: bool | None = None  # not known before the first block
        self.people: PersonScorer | None = None
        if config.people is not None:
            from kinembed.heads.person_scores import PersonScorer

            self.people = PersonScorer(self.representations, config.people, config.threads)

    def scored(
        self, path: Path, ahead: Ahead | None = None
    ) -> Iterator[tuple[PairList, NDArray[np.float64]]]:
        """The rows of a file, some at a time, and (K,) probabilities of them.

        Raises:
            KinembedError: the file is malformed, or changes meanwhile.
        """
        start, names = 0, _Names()
        for pairs in read_pairs(path, self.config.chunk):
            if ahead is None:
                yield pairs, self.probabilities(pairs)
                continue
            names.add(pairs)
            logits, expansion = ahead.part(start, start + len(pairs))
            start += len(pairs)
            if len(logits) != len(pairs):
                raise ChangedError(path)
            yield pairs, self._calibrated(logits, expansion)
        if ahead is not None and str(names) != ahead.names:
            raise ChangedError(path)

    def blockwise(self, path: Path) -> Ahead | None:
        """Logits of all pairs of a file, block against block; None if there is no need."""
        if self.people is not None or not self.representations.is_blockwise or not path.is_file():
            return None
        with self.read_ahead(path) as rows:
            if rows is None:
                return None
            log.info(
                "the vectors of all photos take more than %.1f GB: %s are sorted, and scored block "
                "against block",
                self.representations.most / GIGA, counted(len(rows), "pair"),
            )  # fmt: skip
            return Ahead(self.representations.score(rows, self.config.threads), self.names)

    @contextmanager
    def read_ahead(self, path: Path) -> Iterator[Rows | None]:
        """(K, 2) rows of all pairs of a file, in a file; None if there are none, or triples."""
        count, names = 0, _Names()
        with tempfile.TemporaryFile(prefix="kinembed-pairs-") as file:
            for pairs in read_pairs(path, self.config.chunk):
                if self.begin(pairs):
                    yield None
                    return
                names.add(pairs)
                file.write(self._pair_rows(pairs).astype(np.int64).tobytes())
                count += len(pairs)
            file.flush()
            self.names = str(names)
            yield np.memmap(file, np.int64, "r", shape=(count, 2)) if count else None

    def probabilities(self, pairs: PairList) -> NDArray[np.float64]:
        """(K,) of the rows: pairs, or triples of father, mother and child."""
        if self.begin(pairs):
            return sigmoid(self._triple_logits(pairs))
        if self.people is not None:
            return sigmoid(self.people.scores(pairs))
        rows = self._pair_rows(pairs)
        return self._calibrated(*self.representations.score_in_gallery(rows, self.config.threads))

    def begin(self, pairs: PairList) -> bool:
        """Whether rows are triples; says what scores them, the first time."""
        if self.are_triples is None:
            self.are_triples = len(pairs.fields) == 3
            self._say_what_scores(pairs)
        return self.are_triples

    def _pair_rows(self, pairs: PairList) -> Rows:
        """(K, 2) rows of pairs in the cache; counts those of one photo."""
        rows = pair_rows(pairs, self.cache)
        self.with_itself += int(with_itself(rows).sum())
        return rows

    def _calibrated(
        self, logits: NDArray[np.float64], expansion: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        if self.calibration is None:
            return sigmoid(logits)
        return self.calibration.probabilities(logits, expansion)

    def in_words(self, count: int) -> str:
        """So many rows, in words."""
        return counted(count, "triple" if self.are_triples else "pair")

    def _say_what_scores(self, pairs: PairList) -> None:
        """Logs network, head, and the calibration of pairs or the weights of both parents.

        Raises:
            KinembedError: a calibration was named, and the rows are triples.
        """
        if self.are_triples and self.config.calibration is not None:
            raise KinembedError(
                f"calibration: is of pairs, and the rows of {pairs.path} are of father, mother and "
                "child, whose score has a scale of its own; leave out --calibration"
            )
        triples = self._triple_score if self.are_triples else None
        log.info(
            "%s",
            describe(
                self.cache, self.head, self.record, self.calibration, expand=bool(self.expand),
                triples=triples, published=self.published,
            ),
        )  # fmt: skip

    def _triple_logits(self, pairs: PairList) -> NDArray[np.float64]:
        from kinembed.evaluation.triples import parent_logits

        if self.people is not None:
            parents = parent_logits(self.people.score, self.people.numbers(pairs))
        else:
            rows = pair_rows(pairs, self.cache)
            self.with_itself += int(with_itself(rows).sum())
            parents = parent_logits(self.representations.score, rows)
        return self._triple_score.logits(parents)

    @cached_property
    def _triple_score(self) -> TripleScore:
        """How both parents' scores are combined, by what held-out families say."""
        from kinembed.evaluation.triples import TripleScore, fit_triples

        if self.config.raw:
            return TripleScore()
        if self.published is not None:
            return self.published.triples or TripleScore()
        return fit_triples(self.head, self.cache, self.data, 0, expand=self.expand)


class ChangedError(DataError):
    """A file of pairs that is not as it was when they were sorted."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path}: has changed while it was read; run kinembed score again")
