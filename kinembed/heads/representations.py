"""A head's representations of a cache: computed once, stored in a file, memory-mapped later."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Float, Rows, Vectors
from kinembed.cache import Embeddings
from kinembed.cache.footer import read_dataset, read_footer, sealed_bytes
from kinembed.cache.lazy_rows import LazyRows
from kinembed.checked import Values
from kinembed.errors import DataError, RunError, WriteError
from kinembed.heads import same_person
from kinembed.heads.base import Head, sigmoid
from kinembed.heads.blockwise import score_blockwise
from kinembed.heads.query_expansion import (
    Expanding,
    MakeUp,
    QueryExpansion,
    expansion_of,
    gallery_of,
    vectors_at,
)
from kinembed.io import write_bytes
from kinembed.memory import free_memory
from kinembed.views import JOIN

log = logging.getLogger(__name__)

SCHEMA = 5
ATTRIBUTE = "representations"  # of the HDF5 root


class Representations:
    """A head's representations of a cache's photos, computed on demand.

    Args:
        cache: of the head's model.
        head: the head.
        expand: apply query expansion, if the head uses it; `exact` compares all pairs for it.
        path: the file that stores them for this cache and head; None: none.
        query_expansion: the query expansion of the same cache and head, if known already.

    Attributes:
        found: the make-up of each gallery asked for, by its name; empty without expansion.
        most: bytes of representations in memory; if all take more, pairs are scored block against
            block (`heads/blockwise.py`), without expansion.

    Raises:
        RunError: cache and head differ in model or width, or in the width of `knn_view`.
    """

    def __init__(
        self,
        cache: Embeddings,
        head: Head,
        *,
        expand: Expanding = True,
        path: Path | None = None,
        query_expansion: QueryExpansion | None = None,
    ) -> None:
        check_model(cache, head)
        self.cache, self.head = cache, head
        self._expand = expand
        self.expanded = bool(expand) and head.same_person is not None
        if self.expanded:
            check_knn_view(cache, head)
        self.path = path if not head.is_identity else None
        self.found: dict[str, MakeUp] = {}
        self._query_expansion = query_expansion
        self.most = most_memory()
        self._starts = cache.starts
        self._touched = np.zeros(len(self._starts), np.bool_)  # files of which rows were read
        self._known = np.zeros(len(cache), np.bool_)  # (N,) rows that the tables hold
        self._tables: dict[str, Float] = {}  # (N, W) `alone` and, with expansion, `expanded`
        self._others = np.zeros(0, np.int64)  # (N,) neighbours of each photo
        self._kept: _Kept | None = None
        self._is_new = False
        if self.path is not None:
            self._kept = _read(self.path, cache, head, expand)
            if self._kept is not None and self.expanded:
                self.found = dict(self._kept.found)

    def score(
        self, pairs: Rows, threads: int | None = None, *, alone: bool = False
    ) -> NDArray[np.float64]:
        """(K,) logits of (K, 2) pairs of rows of the cache.

        Args:
            pairs: the pairs.
            threads: how many; None: one per processor.
            alone: without query expansion.

        Raises:
            IndexError: a row is out of range.
        """
        if alone and self.expanded:
            return self.head.score(*self.take(pairs, alone=True), threads)
        return self.score_in_gallery(pairs, threads)[0]

    def score_in_gallery(
        self, pairs: Rows, threads: int | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(K,) logits of (K, 2) pairs, as `score` gives them, and (K,) their expansion."""
        if self.is_blockwise and len(pairs):
            return self._score_blockwise(pairs, threads), np.zeros(len(pairs))
        logits = self.head.score(*self.take(pairs), threads)
        expansion = self.expansion(pairs)
        if self.expanded:
            logits -= self.head.expansion_slope * expansion
        return logits, expansion

    @cached_property
    def is_blockwise(self) -> bool:
        """Whether all representations exceed `most` bytes, and none are expanded or in a file."""
        size = 4 * len(self.cache) * self.head.representation_width
        return size > self.most and not self.expanded and self._kept is None

    def _score_blockwise(self, pairs: Rows, threads: int | None) -> NDArray[np.float64]:
        """(K,) logits of (K, 2) pairs."""
        low, high = pairs.min(), pairs.max()
        if not (low >= 0 and high < len(self.cache)):
            raise IndexError(f"rows {low} to {high} of {len(self.cache)}")
        return score_blockwise(
            self.head, self.read, pairs, self._starts, len(self.cache), self.most, threads
        )

    def read(self, rows: Rows) -> Vectors:
        """(R, W) representations of R rows of the cache, not expanded, which are not kept."""
        return self.head.represent(vectors_at(self.cache, self.head.view, rows))

    def are_kept(self, rows: Rows) -> bool:
        """Whether the file has some rows of the cache."""
        return self._kept is not None and self._kept.holds(rows)

    def expansion(self, pairs: Rows) -> NDArray[np.float64]:
        """(K,) how much pairs are expanded, as `expansion_of` tells; 0 for two photos alone.

        Raises:
            IndexError: a row is out of range.
        """
        if not self.expanded:
            return np.zeros(len(pairs))
        self.take(pairs)
        if self._kept is not None:
            others = self._kept.others[self._kept.row_of[pairs]]  # (K, 2)
        else:
            others = self._others[pairs]
        return expansion_of(others)

    def take(self, rows: Rows, *, alone: bool = False) -> tuple[Vectors, Rows]:
        """A (T, W) table that holds the representations of some photos, and their rows in it.

        Args:
            rows: rows of the cache, of any shape; the rows of the table have the same shape.
            alone: without query expansion.

        Raises:
            IndexError: a row is out of range.
        """
        if rows.size and not (rows.min() >= 0 and rows.max() < len(self.cache)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self.cache)}")
        if self.is_blockwise:  # of these alone, in memory
            found, places = np.unique(rows, return_inverse=True)
            return self.read(found), places.reshape(rows.shape)
        if self.head.is_identity and not self._is_lazy:
            return self._vectors, rows
        table: str = "expanded" if self.expanded and not alone else "alone"
        if self._kept is not None and self._kept.holds(rows):
            return self._kept.tables[table], self._kept.row_of[rows]
        if not self._tables or not self._known[rows].all():
            self._compute(np.unique(rows))
        return self._tables[table], rows

    @cached_property
    def _is_lazy(self) -> bool:
        """Whether vectors are put together when they are asked for: then those in use are kept."""
        views = self.head.view.split(JOIN)
        return any(isinstance(self.cache.vectors(view), LazyRows) for view in views)

    @cached_property
    def _vectors(self) -> Vectors:
        """(N, D) vectors of the head's view, for heads whose `represent` is the identity."""
        return self.cache.vectors(self.head.view)

    def keep(self) -> None:
        """Adds the newly computed representations to the file.

        Logs a folder that cannot be written to, and goes on. Without query expansion nothing is
        kept of a head that has it: the file is of both.
        """
        if self.path is None or not self._is_new or self.expanded != _expands(self.head):
            return
        if self.path.exists() and not self.path.is_file():  # a pipe would be waited for
            log.info(
                "%s: is no regular file; representations are computed again next time", self.path
            )
            return
        rows = np.flatnonzero(self._known)
        arrays = {"rows": rows.astype("<i8"), **{n: t[rows] for n, t in self._tables.items()}}
        if self.expanded:
            arrays["others"] = self._others[rows].astype("<i8")
        try:
            _write(self.path, self.cache, self.head, arrays, self.found, self._expand)
        except WriteError as error:
            log.info("%s; representations are computed again next time", error)
        self._is_new = False

    def _compute(self, rows: Rows) -> None:
        """Fills the tables with some rows and with the rows of the file."""
        if not self._tables:  # pages that are never written take no memory
            shape = (len(self.cache), self.head.representation_width)
            names = ["alone", "expanded"] if self.expanded else ["alone"]
            kind: Any = np.float32
            if self.head.is_identity:
                kind = vectors_at(self.cache, self.head.view, rows[:0]).dtype
            self._tables = {name: np.empty(shape, kind) for name in names}
            self._others = np.zeros(len(self.cache), np.int64)
        if self._kept is not None:
            kept, self._kept = self._kept, None
            if kept.is_sound():
                for name, table in self._tables.items():
                    table[kept.rows] = kept.tables[name]  # (R, W)
                if self.expanded:
                    self._others[kept.rows] = kept.others
                self._known[kept.rows] = True
        rows = rows[~self._known[rows]]
        if self.expanded:
            if self._query_expansion is None:
                self._query_expansion = QueryExpansion.of(self.cache, self.head, self._expand)
            assert self._query_expansion is not None
            tables = self._tables["alone"], self._tables["expanded"]
            self._others[rows] = self._query_expansion.represent(self.head, rows, *tables)
            self.found |= self._query_expansion.found
        elif len(rows):
            rows = self._with_rest_of_files(rows)
            self._tables["alone"][rows] = self.read(rows)
        self._known[rows] = True
        self._is_new |= len(rows) > 0

    def _with_rest_of_files(self, rows: Rows) -> Rows:
        """Sorted rows and, of each file that is read for a second time, all others that lack.

        So no file of a cache in shards is read more than twice, however many pairs follow.
        """
        files = np.unique(np.searchsorted(self._starts, rows, "right") - 1)
        again = files[self._touched[files]] if len(self._starts) > 1 else files[:0]
        self._touched[files] = True
        if not len(again):
            return rows
        ends = np.append(self._starts[1:], len(self.cache))
        wanted = np.zeros(len(self.cache), np.bool_)
        wanted[rows] = True
        for file in again.tolist():
            wanted[self._starts[file] : ends[file]] = True
        return np.flatnonzero(wanted & ~self._known)


def score_pairs(
    head: Head,
    vectors: Embeddings | Vectors,
    pairs: Rows | Sequence[tuple[str, str]],
    threads: int | None = None,
    *,
    expand: Expanding = True,
) -> NDArray[np.float64]:
    """(K,) kinship probabilities of pairs.

    Args:
        head: the head.
        vectors: a cache, or (N, width) vectors of the head's view; these are never expanded.
        pairs: (K, 2) rows or, for a cache, K pairs of photo names.
        threads: how many; None: one per processor.
        expand: apply query expansion to a cache, if the head uses it; `exact` compares all pairs.

    Raises:
        RunError: the cache and the head are of different models.
        DataError: a photo is not in the cache.
        IndexError: a row is out of range.

    Example:
        >>> import numpy as np
        >>> from kinembed.heads.pair import PairHead
        >>> vectors = np.array([[0, 0], [0, 1], [3, 0]], np.float32)
        >>> nearer_is_kin = PairHead(
        ...     "max", "", (np.array([[-1], [-1]], np.float32),), (np.ones(1, np.float32),)
        ... )
        >>> score_pairs(nearer_is_kin, vectors, np.array([[0, 1], [0, 2]])).round(2)
        array([0.5 , 0.12])
    """
    if isinstance(vectors, Embeddings):
        if len(pairs) and isinstance(pairs[0][0], str):
            names = [str(name) for pair in pairs for name in pair]
            pairs = vectors.rows(names).reshape(-1, 2)
        rows = np.asarray(pairs, np.intp).reshape(-1, 2)
        return sigmoid(Representations(vectors, head, expand=expand).score(rows, threads))
    rows = np.asarray(pairs, np.intp).reshape(-1, 2)
    if np.ndim(vectors) != 2 or np.shape(vectors)[1] != head.width:
        raise DataError(
            f"vectors: found shape {np.shape(vectors)}, wanted (photos, {head.width}) for this head"
        )
    return head.probabilities(head.represent(vectors), rows, threads)


def most_memory() -> int:
    """Bytes that representations may take: half of what is free, 1 GiB if the system is silent."""
    free = free_memory()
    return (2 << 30 if free is None else free) // 2


def check_model(cache: Embeddings, head: Head) -> None:
    """Refuses a head that fits the vectors of another network or of another width.

    Raises:
        RunError: says which, and what to run.
    """
    model = cache.provenance["model"]
    if head.model != model:
        is_stacked = any(re.match(r"\d+\.", view) for view in head.view.split("+"))
        s, order = ("s", ", in the same order") if is_stacked else ("", "")
        raise RunError(
            f"{cache.path} holds embeddings of model {model[:12]}, the head is of model "
            f"{head.model[:12]}; run kinembed head, so that they match, or kinembed embed with the "
            "head's network (the packaged head's: --backbone sface), or name the "
            f"cache{s} that the head was trained on with --cache{order}"
        )
    width = sum(cache.vectors(view).shape[1] for view in head.view.split("+"))
    if width != head.width:
        raise RunError(
            f"{cache.path}: view {head.view} has {width} numbers, the head wants {head.width}; "
            "run kinembed head again"
        )


def check_knn_view(cache: Embeddings, head: Head) -> None:
    """Refuses a head that tells people apart by a view of another width than the cache's.

    Raises:
        RunError: says which, and what to run.
    """
    assert head.same_person is not None
    width = sum(cache.vectors(view).shape[1] for view in head.knn_view.split("+"))
    wanted = head.same_person.cohort.shape[1]
    if width != wanted:
        raise RunError(
            f"{cache.path}: view {head.knn_view} has {width} numbers, the head tells people apart "
            f"by {wanted}; run kinembed head again, or say --expand off"
        )


class _Kept:
    """Representations in a file, and (N,) the row there of each photo of the cache, or -1.

    Attributes:
        rows: (R,) photos of the cache.
        tables: (R, W) `alone` and, if the head expands, `expanded`.
        others: (R,) neighbours of each photo, if the head expands.
        found: as of `Representations`.
    """

    def __init__(
        self,
        arrays: dict[str, Any],
        size: int,
        checksums: Mapping[str, int],
        found: dict[str, MakeUp],
    ) -> None:
        self.rows = np.array(arrays["rows"], np.intp)
        self.tables: dict[str, Any] = {n: arrays[n] for n in ("alone", "expanded") if n in arrays}
        self.others = np.array(arrays.get("others", ()))
        self.found = found
        self.checksums = checksums
        self.row_of = np.full(size, -1, np.intp)
        self.row_of[self.rows] = np.arange(len(self.rows))

    def is_sound(self) -> bool:
        """Whether all tables are as they were written."""
        found = _checksums(self.tables)
        return found == {name: self.checksums.get(name) for name in self.tables}

    def holds(self, rows: Rows) -> bool:
        """Whether the file has all of these rows."""
        return bool((self.row_of[rows] >= 0).all())


def _about(cache: Embeddings, head: Head) -> dict[str, Any]:
    test = int(gallery_of(cache).sum())  # what else tells which photos are neighbours
    return {"schema": SCHEMA, "cache": cache.digest, "head": head.digest, "test": test}


def _misses_some(cache: Embeddings, head: Head, expand: Expanding) -> bool:
    """Whether not all pairs of a gallery are compared, so that some neighbours are missed."""
    largest = int(np.bincount(gallery_of(cache)).max(initial=0))
    return _expands(head) and expand != "exact" and largest > same_person.INDEXED


def _read(path: Path, cache: Embeddings, head: Head, expand: Expanding) -> _Kept | None:
    """The contents of a file; None if it is missing, or of another cache or head."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return None
        with path.open("rb", buffering=0) as file:
            footer = read_footer(file, ATTRIBUTE)
            about = {**footer.about}
            checksums, galleries = about.pop("checksums", None), about.pop("found", None)
            misses_some = about.pop("misses_some", None)
            if about != _about(cache, head):
                return None
            if expand and misses_some != _misses_some(cache, head, expand):
                return None
            arrays = {name: read_dataset(file, footer.extents[name]) for name in _datasets(head)}
        rows = arrays["rows"]
        shape = (*rows.shape, head.representation_width)
        fits = rows.dtype == np.int64 and rows.ndim == 1
        for name, array in arrays.items():
            kind = (np.int64, rows.shape) if name in ("rows", "others") else (np.float32, shape)
            fits = fits and (array.dtype, array.shape) == kind
        if not fits:
            raise ValueError("its tables do not fit each other")
        made_up = Values(galleries).content
        found = {name: MakeUp.read(Values(about)) for name, about in made_up.items()}
        if _expands(head) != (found != {}):
            raise ValueError("its galleries do not fit its tables")
        # Of the table that is not asked for, later: each takes as long as all of the scoring.
        unused = "alone" if expand else "expanded"
        used = {name: array for name, array in arrays.items() if name != unused}
        if _checksums(used) != {name: checksums[name] for name in used}:
            raise ValueError("its numbers are damaged")
        rows = np.array(rows, np.intp)
        if not (
            len(rows) and rows[0] >= 0 and rows[-1] < len(cache) and (rows[:-1] < rows[1:]).all()
        ):
            raise ValueError("its rows are not the cache's")
        others = arrays.get("others", rows)
        if others.min() < 0 or others.max() >= len(cache):
            raise ValueError("its photos have others that are not the cache's")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.info("%s: is not read (%s); representations are computed again", path, error)
        return None
    return _Kept(arrays, len(cache), checksums, found)


def _write(
    path: Path,
    cache: Embeddings,
    head: Head,
    arrays: Mapping[str, NDArray[Any]],
    found: Mapping[str, MakeUp],
    expand: Expanding,
) -> None:
    galleries = {name: asdict(make_up) for name, make_up in found.items()}
    about = {
        **_about(cache, head),
        "misses_some": _misses_some(cache, head, expand),
        "found": galleries,
        "checksums": _checksums(arrays),
    }
    write_bytes(path, sealed_bytes(ATTRIBUTE, about, arrays))


def _expands(head: Head) -> bool:
    return head.same_person is not None


def _datasets(head: Head) -> list[str]:
    """Names of the datasets in its file: sorted rows of the cache, and what is known of them."""
    return ["rows", "alone", *(["expanded", "others"] if _expands(head) else [])]


def _checksums(arrays: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    """A checksum of each array's bytes, to detect damaged numbers."""
    return {name: crc32(array.data) for name, array in arrays.items()}
