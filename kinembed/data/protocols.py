"""Readers of labelled pairs: any CSV, KinFaceW's folds, RFIW's lists."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kinembed.arrays import Rows
from kinembed.cache import Embeddings
from kinembed.data.families import read_csv
from kinembed.data.labelled_pairs import LabelledPairs, families_of
from kinembed.data.layouts import family_of
from kinembed.data.pair_files import PairList, pair_rows, refuse_unknown
from kinembed.errors import DataError

RELATIONS = {
    "fd": "father-daughter",
    "fs": "father-son",
    "md": "mother-daughter",
    "ms": "mother-son",
    "bb": "brothers",
    "ss": "sisters",
    "sibs": "siblings",
    "gfgd": "grandfather-granddaughter",
    "gfgs": "grandfather-grandson",
    "gmgd": "grandmother-granddaughter",
    "gmgs": "grandmother-grandson",
}
KINFACEW = {"fd": "father-dau", "fs": "father-son", "md": "mother-dau", "ms": "mother-son"}

_COLUMNS = {
    "pair": ("img_pair", "pair"),
    "left": ("p1", "a", "left", "photo1", "image1"),
    "right": ("p2", "b", "right", "photo2", "image2"),
    "label": ("is_related", "label", "kin", "related"),
    "relation": ("relation", "ptype", "type"),
}
_TRUTH = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}
_WANTED = "img_pair,is_related or p1,p2,is_related, and relation where it is known"


def read_labelled(path: Path, cache: Embeddings) -> LabelledPairs:
    """Reads a CSV of labelled pairs with any of the usual column names.

    The pair is `img_pair` (`a.jpg-b.jpg`), or two columns such as `p1,p2`; the label is
    `is_related`, `label` or `kin`; the optional relation is `relation`, `ptype` or `type`.

    Raises:
        DataError: names the line, what it holds and what was wanted.
    """
    (first, header), *rows = read_csv(path, _WANTED)
    column: dict[str, int] = {}
    for kind, names in _COLUMNS.items():
        for number, title in enumerate(header):
            if title.strip().lower() in names:
                column.setdefault(kind, number)
    if "label" not in column or ("pair" not in column and not {"left", "right"} <= set(column)):
        raise DataError(f"{path}, line {first}: found {','.join(header)!r}, wanted {_WANTED}")
    lines, texts, left, right, labels, relations = [], [], [], [], [], []
    for line, fields in rows:
        if len(fields) != len(header):
            raise DataError(
                f"{path}, line {line}: {len(fields)} fields under a header of {len(header)}"
            )
        label = fields[column["label"]].strip().lower()
        if label not in _TRUTH:
            raise DataError(f"{path}, line {line}: found label {label!r}, wanted 0 or 1")
        if "pair" in column:
            texts.append(fields[column["pair"]])
            if "-" not in texts[-1]:
                raise DataError(f"{path}, line {line}: found {texts[-1]!r}, wanted a.jpg-b.jpg")
        else:
            left.append(fields[column["left"]].strip().replace("\\", "/"))
            right.append(fields[column["right"]].strip().replace("\\", "/"))
        lines.append(line)
        labels.append(_TRUTH[label])
        relations.append(fields[column["relation"]].strip() if "relation" in column else "")
    if not lines:
        raise DataError(f"{path}: a header but no pairs; wanted {_WANTED}")
    if texts:
        pairs = pair_rows(PairList(path, texts, lines), cache)
    else:
        pairs = _pair_rows(path, lines, left, right, cache)
    return _labelled(path, lines, pairs, labels, relations, None, cache)


def read_rfiw(path: Path, cache: Embeddings) -> LabelledPairs:
    """Reads a list of RFIW's verification track: lines `0 path path fs 1`.

    A path names a photo of the cache as everywhere, or by its last three components.

    Raises:
        DataError: names the line, what it holds and what was wanted.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; wanted lines 0 PATH PATH fs 1") from None
    except (UnicodeDecodeError, IsADirectoryError, PermissionError) as error:
        raise DataError(f"{path}: {error}; wanted lines 0 PATH PATH fs 1") from None
    lines, names, labels, relations = [], [], [], []
    for line, fields in enumerate((row.split() for row in text.splitlines()), 1):
        if not fields:
            continue
        if len(fields) != 5 or fields[4] not in ("0", "1"):
            raise DataError(
                f"{path}, line {line}: found {' '.join(fields)[:80]!r}, wanted 0 PATH PATH fs 1"
            )
        lines.append(line)
        names += [fields[1], fields[2]]
        relations.append(fields[3])
        labels.append(fields[4] == "1")
    if not lines:
        raise DataError(f"{path}: empty; wanted lines 0 PATH PATH fs 1")
    names = _names_in_cache(names, ("",), cache)
    pairs = _pair_rows(path, lines, names[::2], names[1::2], cache)
    return _labelled(path, lines, pairs, labels, relations, None, cache)


def read_kinfacew(folder: Path, cache: Embeddings) -> LabelledPairs:
    """Reads the pairs and folds of KinFaceW-I or -II: `meta_data/*_pairs.mat`.

    Each file holds `pairs`, a cell array of fold, label and two photos of `images/father-dau` or
    another relation's folder. Photos may be in the cache with or without `images/`.

    Raises:
        DataError: a file is missing or malformed.
    """
    from scipy.io import loadmat  # slow to import

    left, right, relations, labels, folds = [], [], [], [], []
    for relation, images in KINFACEW.items():
        path = folder / "meta_data" / f"{relation}_pairs.mat"
        if not path.is_file():
            raise DataError(f"{path}: no such file; wanted KinFaceW's images/ and meta_data/")
        try:
            cells = loadmat(path, variable_names=["pairs"])["pairs"]
            rows = [tuple(_plain(cell) for cell in row) for row in cells]
            for fold, label, a, b in rows:
                folds.append(int(fold))
                labels.append({0: False, 1: True}[int(label)])
                left.append(f"{images}/{a}")
                right.append(f"{images}/{b}")
                relations.append(relation)
        # SciPy's reader fails in many ways on other files.
        except Exception as error:
            reason = str(error).partition("\n")[0]
            raise DataError(
                f"{path}: not KinFaceW's pairs ({reason}); wanted a MATLAB 5 file of cells fold, "
                "label, photo, photo"
            ) from None
    photos = [photo for pair in zip(left, right, strict=True) for photo in pair]
    names = _names_in_cache(photos, ("images/", ""), cache)
    lines = list(range(1, len(left) + 1))
    pairs = _pair_rows(folder / "meta_data", lines, names[::2], names[1::2], cache)
    return _labelled(folder / "meta_data", lines, pairs, labels, relations, folds, cache)


def _pair_rows(
    path: Path, lines: list[int], left: list[str], right: list[str], cache: Embeddings
) -> Rows:
    """Rows (K, 2) of the photos in the cache."""
    rows = np.stack([cache.find(left), cache.find(right)], -1)
    refuse_unknown(rows, (left, right), path, lines, cache)
    return rows


def _labelled(
    path: Path,
    lines: list[int],
    rows: Rows,
    labels: list[bool],
    relations: list[str],
    folds: Sequence[int] | None,
    cache: Embeddings,
) -> LabelledPairs:
    pairs = LabelledPairs(
        rows,
        np.array(labels),
        rows,
        tuple(relations) if any(relations) else (),
        None if folds is None else np.array(folds, np.intp),
        path,
        tuple(lines),
    )
    families, unit = families_of(pairs.rows, cache)
    return replace(pairs, families=families, unit=unit)


def photograph_of(name: str, person: str) -> str | None:
    """The photograph that a face crop comes from, if its name says so (`P00009_face3.jpg`).

    Photographs are numbered within a family.
    """
    match = re.fullmatch(r"(?:.*/)?(P\d+)_face\d+\.\w+", name)
    family = family_of(person)
    return f"{family}/{match[1]}" if match and family else None


def _plain(cell: Any) -> Any:
    while isinstance(cell, np.ndarray):
        (cell,) = cell.ravel()
    return cell


def _names_in_cache(names: list[str], prefixes: tuple[str, ...], cache: Embeddings) -> list[str]:
    """Each name with the first prefix that makes it a photo of the cache; others unchanged."""
    result = list(names)
    missing = np.flatnonzero(cache.find(names) < 0)
    for prefix in prefixes:
        candidates = [prefix + "/".join(names[i].split("/")[-3:]) for i in missing.tolist()]
        is_known = cache.find(candidates) >= 0
        for i in np.flatnonzero(is_known).tolist():
            result[int(missing[i])] = candidates[i]
        missing = missing[~is_known]
    return result


PROTOCOLS = {"kinfacew": read_kinfacew, "rfiw": read_rfiw}
