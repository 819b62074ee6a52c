"""The stage `score`: kinship probabilities of the pairs of a submission, from the cache alone."""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from kinembed import __version__
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
from kinembed.heads.blockwise import BATCH, Blocks, BlockScorer, photos_in, scratch
from kinembed.heads.kept import caches_of
from kinembed.heads.pair_shards import PLAN, PairShards
from kinembed.heads.representations import Representations
from kinembed.io import locked_folder, written_beside
from kinembed.outputs import check_output
from kinembed.printable import counted
from kinembed.progress import Progress, silent

if TYPE_CHECKING:  # most submissions are of pairs
    from kinembed.evaluation.triples import TripleScore
    from kinembed.heads.person_scores import PersonScorer

log = logging.getLogger(__name__)

SUBMISSION = "submission.csv"
PARTIAL = "score.partial"  # the folder of the shards of a scoring by Ray
GIGA = 1_000_000_000

Write = Callable[[PairList, NDArray[np.float64]], None]


def score(config: ScoreConfig, data: Path, run: Path, *, progress: Progress = silent) -> Path:
    """Scores pairs of photos, or of people, and writes them in the order in which they were given.

    Of three names a row, father, mother and child, a score says whether both are the parents.

    Pairs are read, scored and written `config.chunk` at a time, so that memory does not grow with
    their number. Where the vectors that a head compares are larger than memory, the pairs are read
    once more before, and scored block against block.

    With `config.engine` "ray" actors of Ray score the blocks, on this machine or on a cluster that
    shares the folders; the bytes are the same. An interrupted scoring goes on from its shards.

    Args:
        config: the pairs, and where the scores go: `.csv`, `.csv.gz` or `.parquet`.
        data: where the pairs are looked for if they do not lie where `config` says.
        run: the run folder with `embeddings.h5`, `head.h5` and, if wanted, `calibration.json`.
        progress: shows the progress of actors.

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
        with ExitStack() as stack:
            if config.engine == "ray":
                ahead = stack.enter_context(_scored_by_ray(scorer, path, caches, head, progress))
            else:
                ahead = scorer.blockwise(path)
            write = stack.enter_context(_submission(out))
            for pairs, probabilities in scorer.scored(path, ahead):
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


@dataclass(frozen=True)
class _Ahead:
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


class _Scorer:
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
        self, path: Path, ahead: _Ahead | None = None
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
                raise _ChangedError(path)
            yield pairs, self._calibrated(logits, expansion)
        if ahead is not None and str(names) != ahead.names:
            raise _ChangedError(path)

    def blockwise(self, path: Path) -> _Ahead | None:
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
            return _Ahead(self.representations.score(rows, self.config.threads), self.names)

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


class _ChangedError(DataError):
    """A file of pairs that is not as it was when they were sorted."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path}: has changed while it was read; run kinembed score again")


class Scoring:
    """A scoring, ready to be computed shard by shard; see `PairShards`.

    Attributes:
        shards: of the pairs.
    """

    def __init__(
        self, shards: PairShards, representations: Representations, threads: int | None
    ) -> None:
        self.shards, self._representations, self._threads = shards, representations, threads
        self._blocks: BlockScorer | None = None

    @classmethod
    @contextmanager
    def open(
        cls, config: ScoreConfig, run: Path, caches: Sequence[Path], head: Path, folder: Path
    ) -> Iterator[Scoring]:
        """Opens cache and head.

        Args:
            config: the settings.
            run: the run folder, whose `representations.h5` has the expanded photos.
            caches: of the head.
            head: its file.
            folder: of the shards.

        Raises:
            KinembedError: the shards are of another cache or head.
        """
        shards = PairShards.read(folder)
        with open_caches(caches) as cache:
            own, _, _ = read_any_head(head)
            found = {"cache": cache.digest, "head": own.digest}
            if any(shards.about[name] != digest for name, digest in found.items()):
                raise KinembedError(
                    f"{folder}: its shards are of another cache or head than {cache.path} and "
                    f"{head}; each machine of the cluster needs the same ones"
                )
            expand = shards.about["expand"]
            kept = Representations(cache, own, expand=expand, path=run / "representations.h5")
            if expand and not kept.are_kept(shards.blocks.rows):
                raise KinembedError(
                    f"{kept.path}: has not the photos that this scoring expands; run kinembed "
                    "score again, which makes it, and no other command on this run meanwhile"
                )
            yield cls(shards, kept, config.threads)

    def compute(self, numbers: Sequence[int]) -> list[int]:
        """Computes shards that are not there, and returns their numbers."""
        for number in numbers:
            if not self.shards.is_done(number):
                self.shards.compute(number, self._score)
        return list(numbers)

    def _score(self, pairs: Rows, one: int, other: int) -> NDArray[np.float64]:
        """(n, C) what a shard holds of pairs of two blocks."""
        kept = self._representations
        if kept.expanded:
            return np.stack(kept.score_in_gallery(pairs, self._threads), 1)
        if self._blocks is None:
            self._blocks = BlockScorer(kept.head, kept.read, self.shards.blocks)
        return self._blocks.score(pairs, one, other, self._threads)[:, None]


@contextmanager
def _scored_by_ray(
    scorer: _Scorer, path: Path, caches: Sequence[Path], head: Path, progress: Progress
) -> Iterator[_Ahead | None]:
    """Lets actors of Ray score all pairs of a file; the shards go when these are written.

    Raises:
        KinembedError: the rows are no pairs of photos, or as of `compute_shards`.
    """
    from kinembed.cluster.pool import SCORING, compute_shards
    from kinembed.cluster.ray_pool import ray_pool

    config, folder = scorer.config, scorer.run / PARTIAL
    if scorer.people is not None or not path.is_file():
        raise KinembedError(
            f"{path}: --engine ray scores pairs of photos, from a file; leave it out"
        )
    taken = KinembedError(
        f"{folder}: another kinembed scores pairs in this run folder; wait until it is done, or "
        "name another folder with --run"
    )
    with locked_folder(folder, taken, (folder / PLAN).exists):
        shards = _planned(scorer, path, folder)
        if shards is None:
            yield None
            return
        kept = scorer.representations
        if kept.expanded:  # compares all photos of a gallery, so one process does it
            kept.take(np.asarray(shards.blocks.rows))
            kept.keep()
        alike = replace(config, engine="local", threads=None)
        opening = partial(Scoring.open, alike, scorer.run, [*caches], head, folder)
        token = folder / "token"
        token.touch()
        with ray_pool(
            config.address, config.actors, config.actor_cpus, 0,
            [opening, token.resolve(), Path.cwd()],
        ) as pool:  # fmt: skip
            compute_shards(pool, folder, SCORING, progress)
        try:
            yield _joined(shards, kept.expanded)
        except _ChangedError:  # by size and time it may look the same next time, too
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


def _planned(scorer: _Scorer, path: Path, folder: Path) -> PairShards | None:
    """The shards of a file of pairs: those that are there, or new ones; None if it has no pair."""
    config, kept, status = scorer.config, scorer.representations, path.stat()
    about = {
        "cache": scorer.cache.digest,
        "head": scorer.head.digest,
        "expand": scorer.expand if kept.expanded else False,
        "pairs": [status.st_size, status.st_mtime_ns],
        "shard_pairs": config.shard_pairs,
        "actor_memory": config.actor_memory,
        "version": __version__,
    }
    try:
        shards = PairShards.read(folder)
        if {key: shards.about.get(key) for key in about} == about:
            scorer.begin(next(read_pairs(path, 1)))
            scorer.with_itself = shards.about["with_itself"]
            log.info("%s: goes on from the shards that are there", folder)
            return shards
        log.info("%s: its shards are of other pairs, cache or head, and are forgotten", folder)
    except KinembedError:
        pass
    for stale in folder.iterdir():
        if stale.name != "lock":
            stale.unlink()
    with scorer.read_ahead(path) as rows:
        if rows is None:
            if scorer.are_triples:
                raise KinembedError(
                    f"{path}: --engine ray scores pairs of photos, and these are triples; leave it "
                    "out"
                )
            return None
        one = kept.read(np.empty(0, np.intp))
        most = photos_in(int(config.actor_memory * GIGA), one)
        blocks = Blocks.of(rows, scorer.cache.starts, len(scorer.cache), most)
        about |= {"with_itself": scorer.with_itself, "names": scorer.names}
        shards = PairShards.plan(folder, about, rows, blocks, config.shard_pairs)
    log.info(
        "%s: %s in %s, %s of photos", folder, counted(len(shards.pairs), "pair"),
        counted(len(shards), "shard"), counted(len(blocks), "block"),
    )  # fmt: skip
    return shards


def _joined(shards: PairShards, expanded: bool) -> _Ahead:
    """What all shards hold, in the order of the file.

    Raises:
        KinembedError: one is missing.
    """
    count = len(shards.pairs)
    logits = scratch((count,), np.float64)
    expansion = scratch((count,), np.float64) if expanded else None
    for number in range(len(shards)):
        part = shards.logits(number)
        if part is None:
            raise KinembedError(f"{shards.path(number)}: is gone; run kinembed score again")
        order = shards.order_of(number)
        for at in range(0, len(order), BATCH):
            where = order[at : at + BATCH]
            own = part[at : at + len(where)]
            logits[where] = own[:, 0]
            if expansion is not None:
                expansion[where] = own[:, 1]
    return _Ahead(logits, shards.about["names"], expansion)


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
