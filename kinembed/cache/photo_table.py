"""A cache and what is known of its photos as one parquet table, for other programs."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinembed.cache import Embeddings
from kinembed.cache.stacked import open_caches
from kinembed.checked import Values, read_json
from kinembed.data.families import cached_families
from kinembed.data.layouts import family_of
from kinembed.errors import KinembedError, RunError
from kinembed.evaluation.photo_scores import kin_scores, photo_folds
from kinembed.heads.base import Head
from kinembed.heads.file import read_head
from kinembed.heads.kept import IN_USE, caches_of
from kinembed.heads.query_expansion import vectors_at
from kinembed.heads.representations import check_model
from kinembed.io import read_csv, written_beside
from kinembed.outputs import check_output
from kinembed.printable import counted
from kinembed.views import parts_of, without_tta

log = logging.getLogger(__name__)

CHUNK = 4096  # rows per block
Columns = dict[str, NDArray[Any]]


def export_table(run: Path, out: Path, views: Sequence[str], data: Path) -> Path:
    """Writes vectors, people, and what head and map of the same run say of each photo.

    A column whose source is missing, or of another cache or head, is left out; a log line says why.

    Args:
        run: the run folder, whose cache it is, or those that its head learnt from.
        out: the parquet file: columns `name`, `person`, `family`, `vector_VIEW` of each view and,
            where there are a head and a map, `fold`, `kin_score`, `x`, `y`.
        views: of the cache, or joined by `+`; none: `max`, or the only one; of several networks
            those of the head.
        data: the folder of the relations.

    Raises:
        KinembedError: no such view, pyarrow is missing, or `out` cannot be written.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise KinembedError(
            f"{out}: .parquet needs pyarrow; run pip install 'kinembed[parquet]'"
        ) from None
    if len(set(views)) != len(views):
        raise KinembedError(f"views {', '.join(views)}: one is named twice")
    caches = caches_of(run, head=run / IN_USE)
    check_output(out, [*caches, run / IN_USE], [run], ["embeddings.parquet"])
    with open_caches(caches) as cache:
        views = tuple(views) or _views(cache, run)
        one = np.arange(1)
        widths = {view: vectors_at(cache, view, one) for view in views}
        known = _columns(cache, run, data)
        schema = pa.schema(
            [(name, pa.string()) for name in ("name", "person", "family")]
            + [
                (f"vector_{view}", pa.list_(pa.from_numpy_dtype(row.dtype), row.shape[1]))
                for view, row in widths.items()
            ]
            + [(name, pa.int32() if name == "fold" else pa.float64()) for name in known]
        ).with_metadata({"provenance": json.dumps(cache.provenance, sort_keys=True)})
        with written_beside(out) as file, pq.ParquetWriter(file, schema) as writer:
            for start in range(0, len(cache), CHUNK):
                block = slice(start, start + CHUNK)
                people = [person.decode() for person in cache.people[block].tolist()]
                columns = [
                    [name.decode() for name in cache.names[block].tolist()],
                    people,
                    [family_of(person) for person in people],
                ]
                rows = np.arange(start, start + len(people))
                for view in views:
                    vectors = np.ascontiguousarray(vectors_at(cache, view, rows))
                    flat = pa.array(vectors.reshape(-1))
                    columns.append(pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]))
                for values in known.values():
                    part = values[block]
                    empty = part < 0 if part.dtype.kind == "i" else np.isnan(part)
                    columns.append(pa.array(part, mask=empty))
                writer.write_table(pa.table(columns, schema=schema))
    return out


def _views(cache: Embeddings, run: Path) -> tuple[str, ...]:
    """The views that are written where none is named."""
    if "caches" not in cache.provenance:
        return (cache.choose_view(None),)
    names = without_tta(parts_of(read_head(run / IN_USE)[0].view))
    return tuple(name for name in names if name in cache.views)


def _columns(cache: Embeddings, run: Path, data: Path) -> Columns:
    """What is known beside the vectors: (N,) each; folds below 0 and NaN are not known."""
    columns: Columns = {}
    head = _head(cache, run)
    if head is not None:
        people = [person.decode() for person in cache.people.tolist()]
        columns["fold"] = photo_folds(head, people).astype(np.int32)
        try:
            columns["kin_score"] = kin_scores(head, cache, cached_families(cache, data))
        except KinembedError as error:
            log.info("without column kin_score: %s", error)
    try:
        columns |= _places(cache, run, head)
    except FileNotFoundError:
        log.info("without columns x, y: run kinembed map --run %s for them", run)
    except (OSError, ValueError, KeyError, csv.Error) as error:
        log.info("without columns x, y: map.csv %s; run kinembed map --run %s again", error, run)
    return columns


def _head(cache: Embeddings, run: Path) -> Head | None:
    """The run's head; None where there is none, or it does not fit the cache."""
    if not (run / IN_USE).is_file():
        log.info("without columns fold, kin_score: there is no head; kinembed head trains one")
        return None
    try:
        head, _ = read_head(run / IN_USE)
        check_model(cache, head)
    except RunError as error:
        log.info("without columns fold, kin_score: %s", error)
        return None
    return head


def _places(cache: Embeddings, run: Path, head: Head | None) -> Columns:
    """Coordinates of the photos that the run's map shows.

    Raises:
        FileNotFoundError: there is no map.
        ValueError, KeyError: in a few words, what is wrong with it.
    """
    about = Values(read_json((run / "map.json").read_bytes()))
    if about.text("cache") != cache.digest:
        raise ValueError("is of another cache")
    of_head = about.get("head")
    if of_head is not None and (head is None or of_head != head.digest[:12]):
        raise ValueError("is of another head")
    row_of = {name.decode(): row for row, name in enumerate(cache.names.tolist())}
    places = np.full((len(cache), 2), np.nan)
    for row in read_csv(run / "map.csv")[1]:
        places[row_of[row["name"]]] = float(row["x"]), float(row["y"])
    if without := int(np.isnan(places[:, 0]).sum()):
        log.info(
            "columns x, y: empty for %s of %s, which %s does not show", f"{without:,}",
            counted(len(cache), "photo"), run / "map.csv",
        )  # fmt: skip
    return {"x": places[:, 0], "y": places[:, 1]}
