"""A gallery: the people of a cache, or its photos, pooled and represented once, kept in a file.

The numbers by which people are looked through are verified when the file is opened; those by which
some are scored exactly, when these are read. So opening takes as long for wide representations as
for narrow ones.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Float, Rows
from kinembed.cache import Embeddings, Names
from kinembed.cache.footer import append_footer, plan_file, read_dataset, read_footer
from kinembed.errors import DataError, RunError, WriteError
from kinembed.heads.base import Head
from kinembed.heads.pooled_people import PooledPeople, RepresentedPhotos, person_view
from kinembed.inference.screen import Screen, can_screen, find_axes, shortened
from kinembed.io import written_beside
from kinembed.views import JOIN

log = logging.getLogger(__name__)

By = Literal["person", "photo"]
Advance = Callable[[int], object]

SCHEMA = 2
ATTRIBUTE = "gallery"  # of the HDF5 root
FILES: Mapping[By, str] = {"person": "gallery.h5", "photo": "gallery-photos.h5"}
SCREENED = 20_000  # people from which on it is worth while to look through short forms first
PHOTOS = 4_096  # photos at a time, about
SAMPLE = 4_096  # photos by which axes are found
KINDS = {
    "ambient": "<f4", "axes": "<f4", "checksums": "<i8", "directions": "<f4", "lengths": "<f4",
    "representations": "<f4", "short": "<f4", "sums": "<i8",
}  # fmt: skip


@dataclass(frozen=True)
class Gallery:
    """People by name, and what a head needs to know of them.

    Attributes:
        names: (G,) sorted, UTF-8.
        people: the people, as `PooledPeople` has them; arrays may be mapped from a file.
        screen: their short forms; None for a small gallery, or a head that has none.
        sums: (G,) checksums of representations; None: they are not from a file.
        path: of the file.
    """

    names: Names
    people: PooledPeople
    screen: Screen | None = None
    sums: Rows | None = None
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def log_counts(self) -> Float:
        """(G,) logarithms of the numbers of photos."""
        return np.log(self.people.counts).astype(np.float32)

    def with_probe(self, rows: Rows, probe: PooledPeople) -> PooledPeople:
        """Some people of the gallery, then the probe.

        Raises:
            RunError: their representations are damaged.
        """
        own = self.people
        representations = own.representations[rows]
        if self.sums is not None:
            sums = [crc32(row.data) for row in np.ascontiguousarray(representations)]
            if sums != self.sums[rows].tolist():
                raise RunError(f"{self.path}: its numbers are damaged; delete it and search again")
        chosen = PooledPeople(
            representations, own.directions[rows], own.ambient[rows], own.counts[rows]
        )
        return chosen.joined(probe)


@dataclass(frozen=True)
class Groups:
    """Which photos of a cache are whose.

    Attributes:
        names: (G,) sorted, of people or of photos.
        rows: (R,) of the cache, the photos of the first, then of the second, and so on.
        start: (G + 1,) index in `rows` of the first photo of each.
        nobody: how many photos of the cache are of nobody who is known.
    """

    names: Names
    rows: Rows
    start: Rows
    nobody: int = 0

    @classmethod
    def of(cls, cache: Embeddings, by: By) -> Groups:
        """The photos of each person of a cache, or each photo.

        Raises:
            DataError: who is on its photos is not known.
        """
        if by == "photo":
            return cls(cache.names, np.arange(len(cache)), np.arange(len(cache) + 1))
        people = cache.people
        order = np.argsort(people, kind="stable")
        nobody = int(np.count_nonzero(people == b""))
        order = order[nobody:]
        if not len(order):
            raise DataError(
                f"{cache.path}: who is on its {len(cache):,} photos is not known, so there are no "
                "people to search; search its photos with --by photo, or run kinembed embed with "
                "--photos of a folder FAMILY/PERSON/, or with --people-table"
            )
        names, start = np.unique(people[order], return_index=True)
        return cls(names, order, np.append(start, len(order)), nobody)

    def of_one(self, number: int) -> Rows:
        """The rows of the photos of one."""
        return self.rows[self.start[number] : self.start[number + 1]]

    def blocks(self) -> Iterator[tuple[int, int]]:
        """First and last people of blocks of about `PHOTOS` photos."""
        start = 0
        while start < len(self.names):
            stop = int(np.searchsorted(self.start, self.start[start] + PHOTOS, "right")) - 1
            stop = max(stop, start + 1)
            yield start, stop
            start = stop


def open_gallery(
    path: Path | None,
    head: Head,
    cache: Embeddings,
    groups: Groups,
    by: By,
    advance: Advance = lambda count: None,
) -> Gallery:
    """The gallery of a cache, from its file or made again and kept there.

    Args:
        path: the file; None: none. Where it cannot be written, that is logged.
        head: of the cache's network.
        cache: the cache.
        groups: whose its photos are.
        by: as in `Groups.of`.
        advance: reports so many photos more.

    Raises:
        RunError: a vector of the cache is not finite.
    """
    counts = np.diff(groups.start)
    is_screened = len(counts) >= SCREENED and can_screen(head)
    widths = head.representation_width, _width(cache, person_view(head))
    about = _about(head, cache, groups, by)
    found = None if path is None else _read(path, about, groups.names, counts, widths, is_screened)
    if found is None:
        sample = np.linspace(0, len(groups.rows) - 1, min(SAMPLE, len(groups.rows))).astype(np.intp)
        axes = None
        if is_screened:
            rows = np.unique(groups.rows[sample])
            form = head.products(RepresentedPhotos.at(head, cache, rows).representations)
            assert form is not None
            axes = find_axes(form[0])

        def blocks() -> Iterator[PooledPeople]:
            for start, stop in groups.blocks():
                yield _pooled(head, cache, groups, start, stop)
                advance(int(groups.start[stop] - groups.start[start]))

        found = make_gallery(path, about, groups.names, counts, widths, blocks, head, axes)
    return found


def _pooled(head: Head, cache: Embeddings, groups: Groups, start: int, stop: int) -> PooledPeople:
    """Some people of a cache.

    Raises:
        RunError: a number of them is not finite.
    """
    first, last = groups.start[start], groups.start[stop]
    rows = groups.rows[first:last]
    sorted_rows, place = np.unique(rows, return_inverse=True)
    photos = RepresentedPhotos.at(head, cache, sorted_rows)
    cache.finite(photos.representations, head.view)
    cache.finite(photos.directions, person_view(head))
    return PooledPeople.of(head, photos, np.split(place, groups.start[start + 1 : stop] - first))


def _width(cache: Embeddings, view: str) -> int:
    return sum(cache.vectors(name).shape[1] for name in view.split(JOIN))


def _about(head: Head, cache: Embeddings, groups: Groups, by: By) -> dict[str, Any]:
    who = hashlib.sha256(groups.names.tobytes())
    who.update(groups.rows.astype("<i8").tobytes() + groups.start.astype("<i8").tobytes())
    return {
        "schema": SCHEMA,
        "by": by,
        "head": head.digest,
        "cache": cache.digest,
        "people": who.hexdigest(),
    }


def make_gallery(
    path: Path | None,
    about: Mapping[str, Any],
    names: Names,
    counts: Rows,
    widths: tuple[int, int],
    blocks: Callable[[], Iterable[PooledPeople]],
    head: Head,
    axes: Float | None,
) -> Gallery:
    """Writes a gallery to its file, block by block, or else keeps it in memory.

    Args:
        path: the file; None, or where it cannot be written: memory.
        about: what the numbers depend on.
        names: (G,) of the people.
        counts: (G,) of their photos.
        widths: of a representation and of a direction.
        blocks: makes the people, block by block.
        head: represented them.
        axes: of their short forms; None: they have none.
    """
    kinds = _datasets(len(names), *widths, None if axes is None else axes.shape)
    if path is not None:
        try:
            with written_beside(path) as file:
                layout = plan_file(ATTRIBUTE, about, kinds)
                file.write(layout.head)

                def write(name: str, start: int, block: NDArray[Any]) -> None:
                    content = np.ascontiguousarray(block, kinds[name][0])
                    file.seek(layout.extents[name].offset + start * content[:1].nbytes)
                    file.write(content.reshape(-1).view(np.uint8).data)

                _fill(write, blocks(), head, axes)
                append_footer(file, about, layout)
        except WriteError as error:
            log.info("%s; the gallery is made again next time", error)
        else:
            found = _read(path, about, names, counts, widths, axes is not None)
            if found is not None:
                return found
    arrays = {name: np.empty(shape, kind) for name, (kind, shape) in kinds.items()}

    def put(name: str, start: int, block: NDArray[Any]) -> None:
        arrays[name][start : start + len(block)] = block

    _fill(put, blocks(), head, axes)
    return _gallery(arrays, names, counts, None)


def _fill(
    put: Callable[[str, int, NDArray[Any]], None],
    blocks: Iterable[PooledPeople],
    head: Head,
    axes: Float | None,
) -> None:
    """Puts everybody's numbers in their places, and checksums of all that is looked through."""
    sums: dict[str, int] = {}
    start = 0

    def summed(name: str, at: int, block: NDArray[Any]) -> None:
        content = np.ascontiguousarray(block, KINDS[name])
        sums[name] = crc32(content.reshape(-1).view(np.uint8).data, sums.get(name, 0))
        put(name, at, content)

    if axes is not None:
        summed("axes", 0, axes)
    for people in blocks:
        representations = np.ascontiguousarray(people.representations, "<f4")
        put("representations", start, representations)
        summed("directions", start, people.directions)
        summed("ambient", start, people.ambient)
        summed("sums", start, np.array([crc32(row.data) for row in representations]))
        if axes is not None:
            form = head.products(representations)
            assert form is not None
            short, lengths = shortened(axes, *form)
            summed("short", start, short)
            summed("lengths", start, lengths)
        start += len(people)
    put("checksums", 0, np.array([sums[name] for name in sorted(sums)]))


def _datasets(
    size: int, width: int, direction: int, axes: tuple[int, ...] | None
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of each dataset of a gallery's file."""
    shapes: dict[str, tuple[int, ...]] = {
        "representations": (size, width),
        "directions": (size, direction),
        "ambient": (size,),
        "sums": (size,),
    }
    if axes is not None:
        shapes |= {"axes": axes, "short": (size, axes[1]), "lengths": (size, 3)}
    shapes["checksums"] = (len(shapes) - 1,)
    return {name: (KINDS[name], shape) for name, shape in shapes.items()}


def _read(
    path: Path,
    about: Mapping[str, Any],
    names: Names,
    counts: Rows,
    widths: tuple[int, int],
    is_screened: bool,
) -> Gallery | None:
    """The gallery of a file; None if that is missing, of others, or damaged."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return None
        with path.open("rb", buffering=0) as file:
            footer = read_footer(file, ATTRIBUTE)
            if footer.about != about:
                return None
            axes = footer.extents["axes"].shape if is_screened else None
            kinds = _datasets(len(names), *widths, axes)
            if {name: (e.dtype, tuple(e.shape)) for name, e in footer.extents.items()} != kinds:
                raise ValueError("its tables do not fit each other")
            arrays = {name: read_dataset(file, each) for name, each in footer.extents.items()}
        looked_through = sorted(set(arrays) - {"representations", "checksums"})
        found = [crc32(np.asarray(arrays[name]).data) for name in looked_through]
        if found != arrays["checksums"].tolist():
            raise ValueError("its numbers are damaged")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, IndexError) as error:
        log.info("%s: is not read (%s); the gallery is made again", path, error)
        return None
    return _gallery(arrays, names, counts, path)


def _gallery(
    arrays: Mapping[str, NDArray[Any]], names: Names, counts: Rows, path: Path | None
) -> Gallery:
    people = PooledPeople(
        arrays["representations"], arrays["directions"], np.array(arrays["ambient"]), counts
    )
    screen = None
    if "axes" in arrays:
        screen = Screen(np.array(arrays["axes"]), arrays["short"], np.array(arrays["lengths"]))
    return Gallery(names, people, screen, np.array(arrays["sums"]), path)
