"""The stage `score`: kinship probabilities of the pairs of a submission, from the cache alone."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Rows
from kinembed.cache import Embeddings
from kinembed.cache.stacked import open_caches
from kinembed.config import ScoreConfig
from kinembed.data.pair_files import PairList, pair_rows, read_pairs, with_itself
from kinembed.data.relations import RELATIONS
from kinembed.errors import DataError, KinembedError
from kinembed.evaluation.in_use import describe, warn_of_framing
from kinembed.evaluation.kept_calibrations import expanding, find_calibration
from kinembed.evaluation.published import choose_head, read_any_head
from kinembed.heads.base import sigmoid
from kinembed.heads.kept import caches_of
from kinembed.heads.representations import Representations
from kinembed.io import written_beside
from kinembed.outputs import check_output
from kinembed.printable import counted

if TYPE_CHECKING:  # most submissions are of pairs
    from kinembed.evaluation.triples import TripleScore
    from kinembed.heads.person_scores import PersonScorer

log = logging.getLogger(__name__)

SUBMISSION = "submission.csv"

Write = Callable[[PairList, NDArray[np.float64]], None]


def score(config: ScoreConfig, data: Path, run: Path) -> Path:
    """Scores pairs of photos, or of people, and writes them in the order in which they were given.

    Of three names a row, father, mother and child, a score says whether both are the parents.

    Pairs are read, scored and written `config.chunk` at a time, so that memory does not grow with
    their number. Where the vectors that a head compares are larger than memory, the pairs are read
    once more before, and scored block against block.

    Args:
        config: the pairs, and where the scores go: `.csv`, `.csv.gz` or `.parquet`.
        data: where the pairs are looked for if they do not lie where `config` says.
        run: the run folder with `embeddings.h5`, `head.h5` and, if wanted, `calibration.json`.

    Returns:
        The path of the submission: the columns of the pairs as they stand, such as `img_pair`, then
        `is_related`, probabilities with as many digits as tell them apart: the shortest that are
        read as the very same float64. Without a calibration they have the order of the head's
        logits, as far as float64 tells numbers apart.

    Raises:
        KinembedError: pairs, cache or head are missing, malformed, or do not belong together.
    """
    if config.calibration is not None and (config.raw or config.people is not None):
        other = "raw" if config.raw else "people"
        raise KinembedError(f"calibration: is not used with {other}; leave out one of the two")
    if config.chunk < 1:
        raise KinembedError(f"chunk: found {config.chunk}, wanted 1 or more")
    path = config.pairs
    if not path.exists() and not path.is_absolute() and (data / path).exists():
        path = data / path
    out = config.out if config.out is not None else run / SUBMISSION
    head = choose_head(run, config.head)
    caches = caches_of(run, config.caches, head)
    read = [*caches, path, head, data / RELATIONS]
    if config.calibration is not None:
        read.append(config.calibration)
    folders = [run, *(cache.parent for cache in caches)]
    check_output(out, read, folders, own=[SUBMISSION], header=["is_related"], data=data)
    count = 0
    with open_caches(caches) as cache:
        scorer = _Scorer(config, data, run, cache)
        with _submission(out) as write:
            for pairs, probabilities in scorer.scored(path):
                write(pairs, cache.finite(probabilities, scorer.head.view))
                count += len(pairs)
        scorer.representations.keep()
        for gallery, make_up in scorer.representations.found.items():
            log.info("%s: %s", gallery, make_up.describe())
    log.info("%s: %s scored", out, scorer.in_words(count))
    if scorer.with_itself:
        log.warning(
            "%s: %s of them have a photo with itself, which is no test of kinship",
            path, f"{scorer.with_itself:,}",
        )  # fmt: skip
    return out


class _Scorer:
    """Probabilities of the rows of a submission, by the head and its calibration."""

    def __init__(self, config: ScoreConfig, data: Path, run: Path, cache: Embeddings) -> None:
        self.config, self.data, self.cache = config, data, cache
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
        self.are_triples: bool | None = None  # not known before the first block
        self.people: PersonScorer | None = None
        if config.people is not None:
            from kinembed.heads.person_scores import PersonScorer

            self.people = PersonScorer(self.representations, config.people, config.threads)

    def scored(self, path: Path) -> Iterator[tuple[PairList, NDArray[np.float64]]]:
        """The rows of a file, some at a time, and (K,) probabilities of them.

        Raises:
            KinembedError: the file is malformed, or changes meanwhile.
        """
        logits, start = self._blockwise_logits(path), 0
        for pairs in read_pairs(path, self.config.chunk):
            if logits is None:
                yield pairs, self.probabilities(pairs)
                continue
            own = logits[start : start + len(pairs)]
            start += len(pairs)
            if len(own) != len(pairs):
                raise DataError(f"{path}: has changed while it was read; run kinembed score again")
            yield pairs, self._calibrated(own, np.zeros(len(own)))

    def _blockwise_logits(self, path: Path) -> NDArray[np.float64] | None:
        """(K,) logits of all pairs of a file, block against block; None if there is no need."""
        if self.people is not None or not self.representations.is_blockwise or not path.is_file():
            return None
        count = 0
        with tempfile.TemporaryFile(prefix="kinembed-pairs-") as file:
            for pairs in read_pairs(path, self.config.chunk):
                if self._are_triples(pairs):
                    return None
                file.write(self._pair_rows(pairs).astype(np.int64).tobytes())
                count += len(pairs)
            if not count:
                return None
            file.flush()
            rows = np.memmap(file, np.int64, "r", shape=(count, 2))
            log.info(
                "the vectors of all photos take more than %.1f GB: %s are sorted, and scored block "
                "against block",
                self.representations.most / 1e9, counted(count, "pair"),
            )  # fmt: skip
            return self.representations.score(rows, self.config.threads)

    def probabilities(self, pairs: PairList) -> NDArray[np.float64]:
        """(K,) of the rows: pairs, or triples of father, mother and child."""
        if self._are_triples(pairs):
            return sigmoid(self._triple_logits(pairs))
        if self.people is not None:
            return sigmoid(self.people.scores(pairs))
        rows = self._pair_rows(pairs)
        return self._calibrated(*self.representations.score_in_gallery(rows, self.config.threads))

    def _are_triples(self, pairs: PairList) -> bool:
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


@contextmanager
def _submission(out: Path) -> Iterator[Write]:
    """What writes rows to a submission, which takes its place when all are written."""
    with written_beside(out) as raw:
        if out.suffix == ".parquet":
            with _parquet(raw, out) as write:
                yield write
            return
        with _packed(raw, out) as file:
            is_first = True

            def write(pairs: PairList, probabilities: NDArray[np.float64]) -> None:
                nonlocal is_first
                if is_first:
                    titles = map(quoted, (*pairs.titles, "is_related"))
                    file.write((",".join(titles) + "\n").encode())
                    is_first = False
                columns = [
                    [quoted(text) for text in texts] if _needs_quotes("".join(texts)) else texts
                    for texts in pairs.fields
                ]
                texts = (
                    columns[0] if len(columns) == 1 else map(",".join, zip(*columns, strict=True))
                )
                rows = zip(texts, probabilities.tolist(), strict=True)
                file.write("".join([f"{text},{said!r}\n" for text, said in rows]).encode())

            yield write


@contextmanager
def _packed(file: BinaryIO, out: Path) -> Iterator[BinaryIO]:
    if out.suffix != ".gz":
        yield file
        return
    import gzip

    # Without name and time, the same scores make the same file.
    with gzip.GzipFile("", "wb", 6, file, 0) as packed:
        yield cast(BinaryIO, packed)


@contextmanager
def _parquet(file: BinaryIO, out: Path) -> Iterator[Write]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(f"{out}: writing parquet needs pip install 'kinembed[parquet]'") from None
    with ExitStack() as opened:
        table: Any = None

        def write(pairs: PairList, probabilities: NDArray[np.float64]) -> None:
            nonlocal table
            columns = [pyarrow.array(texts, pyarrow.string()) for texts in pairs.fields]
            columns.append(pyarrow.array(probabilities, pyarrow.float64()))
            batch = pyarrow.record_batch(columns, [*pairs.titles, "is_related"])
            if table is None:
                table = opened.enter_context(parquet.ParquetWriter(file, batch.schema))
            table.write_batch(batch)

        yield write


def quoted(text: str) -> str:
    """A CSV field, quoted where it has to be."""
    if _needs_quotes(text):
        return '"' + text.replace('"', '""') + '"'
    return text


def _needs_quotes(text: str) -> bool:
    return "," in text or '"' in text or "\n" in text or "\r" in text
