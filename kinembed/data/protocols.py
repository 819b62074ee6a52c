"""Readers of labelled pairs: any table, KinFaceW's folds, RFIW's lists."""

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Rows
from kinembed.cache import Embeddings
from kinembed.data.columns import Shape, truth_of
from kinembed.data.families import Families, group_families
from kinembed.data.labelled_pairs import LabelledPairs, families_of
from kinembed.data.layouts import family_of
from kinembed.data.pair_files import pair_rows, pairs_of, photo_rows, with_itself
from kinembed.data.splits import HeldOut, Split
from kinembed.data.tables import read_table
from kinembed.errors import DataError

log = logging.getLogger(__name__)

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
    "fms": "father, mother-son",
    "fmd": "father, mother-daughter",
}
KINFACEW = {"fd": "father-dau", "fs": "father-son", "md": "mother-dau", "ms": "mother-son"}

_CODES = {
    re.sub(r"[^a-z]", "", text): code
    for named in (RELATIONS, KINFACEW)
    for code, text in [*named.items(), *((code, code) for code in named)]
}
_SHAPES = (
    Shape(("father", "mother", "child", "label"), ("relation",)),
    Shape(("pair", "label"), ("relation",)),
    Shape(("left", "right", "label"), ("relation",)),
)
_WANTED = (
    "img_pair,is_related or p1,p2,is_related or father,mother,child,is_related, and relation where "
    "it is known; or a list 0 PATH PATH fs 1"
)
MOST_ROWS = 5_000_000
BLOCK = 65_536


def read_labelled(path: Path, cache: Embeddings) -> LabelledPairs:
    """Reads labelled pairs, or triples of father, mother and child, from any table or list.

    A row has a pair `img_pair` (`a.jpg-b.jpg`), two photos, or three; a label; and, where it is
    known, a relation. Lists of the RFIW challenge have no header: `0 PATH PATH fs 1` in its first
    track, `FATHER MOTHER CHILD FMS 1` in its second.

    Raises:
        DataError: names the line, what it holds and what was wanted.
    """
    rows: list[Rows] = []
    labels: list[bool] = []
    lines: list[int] = []
    relations: list[str] = []
    for block in read_table(path, _SHAPES, _WANTED, BLOCK):
        labels += truth_of(path, block.lines, block.columns["label"])
        lines += block.lines
        if "relation" in block.columns:
            relations += map(relation_code, block.columns["relation"])
        rows.append(pair_rows(pairs_of(path, block), cache))
        if len(lines) > MOST_ROWS:
            raise DataError(f"{path}: over {MOST_ROWS:,} rows; evaluate fewer at a time")
    return _labelled(path, lines, np.concatenate(rows), labels, relations, None, cache)


def relation_code(text: str) -> str:
    """The code of a relation that is written out (`Father-Son` is `fs`); others in lower case."""
    text = text.strip().casefold()
    return _CODES.get(re.sub(r"[^a-z]", "", text), text)


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
    path, lines = folder / "meta_data", list(range(1, len(left) + 1))
    found = photo_rows(path, lines, (left, right), cache)
    pairs = _labelled(path, lines, found, labels, relations, folds, cache)
    # fd_001_1.jpg and fd_001_2.jpg are parent and child; nobody is on two photos.
    photos = np.array([left, right]).T  # (K, 2)
    people = np.array([re.sub(r".*/(.+)_(\d+)\.\w+$", r"\1/\2", name) for name in photos.ravel()])
    families = np.unique([name.split("/")[0] for name in people], return_inverse=True)[1]
    of_photo = np.array(cache.people, "S64")
    of_photo[found.ravel()] = np.char.encode(people)
    return replace(pairs, families=families.reshape(-1, 2), unit="families", who=of_photo)


def kinfacew_folds(pairs: LabelledPairs, cache: Embeddings) -> tuple[Families, HeldOut]:
    """What heads learn from by KinFaceW's protocol: each fold is held out by one member.

    Args:
        pairs: of `read_kinfacew`.
        cache: of their photos.

    Returns:
        Parents and children with the kin pairs as relations, and their folds.

    Raises:
        DataError: somebody is in two folds.
    """
    assert pairs.folds is not None
    used = np.unique(pairs.rows)
    who = [person.decode() for person in _people(pairs, cache)[used].tolist()]
    names = [name.decode() for name in np.array(cache.names)[used].tolist()]
    people = pairs.people(cache)
    kin = [(*people[row], pairs.relations[row]) for row in np.flatnonzero(pairs.labels).tolist()]
    families = group_families(names, kin, used.tolist(), who)
    fold_of: dict[str, int] = {}
    for both, fold, line in zip(people, pairs.folds.tolist(), pairs.lines, strict=True):
        for person in both:
            if fold_of.setdefault(person, fold) != fold:
                raise DataError(
                    f"{pairs.path}, pair {line}: {person} is in folds {fold_of[person]} and "
                    f"{fold}; wanted everybody in one"
                )
    folds = np.array([fold_of[person] for person in families.people])
    everybody = np.arange(len(folds))
    splits = [
        Split(everybody[folds != fold], everybody[folds == fold]) for fold in np.unique(folds)
    ]
    return families, HeldOut(tuple(splits), True, "the protocol")


def _people(pairs: LabelledPairs, cache: Embeddings) -> NDArray[np.bytes_]:
    return np.array(cache.people) if pairs.who is None else pairs.who


def _labelled(
    path: Path,
    lines: list[int],
    rows: Rows,
    labels: list[bool],
    relations: list[str],
    folds: Sequence[int] | None,
    cache: Embeddings,
) -> LabelledPairs:
    _refuse_contradictions(path, lines, rows, labels, cache)
    twice = with_itself(rows)
    if twice.any():
        first = int(np.flatnonzero(twice)[0])
        log.warning(
            "%s: %s of %s rows have a photo with itself, which is no test of kinship (line %s: %s)",
            path, f"{int(twice.sum()):,}", f"{len(rows):,}", lines[first],
            cache.names[rows[first, 0]].decode(),
        )  # fmt: skip
    families, unit = families_of(rows, cache)
    return LabelledPairs(
        rows,
        np.array(labels),
        families,
        tuple(relations) if any(relations) else (),
        None if folds is None else np.array(folds, np.intp),
        path,
        tuple(lines),
        unit,
    )


def _refuse_contradictions(
    path: Path, lines: list[int], rows: Rows, labels: list[bool], cache: Embeddings
) -> None:
    """Refuses photos that are labelled as kin in one row, and as none in another.

    The order of a pair, and of both parents, does not matter. Rows that are repeated are said.
    """
    count = rows.shape[1]
    keys = rows.copy()
    keys[:, :2] = np.sort(rows[:, :2], 1)
    unique, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    kin = np.array(labels, np.bool_)
    before = first[inverse.ravel()]  # the first row of the same photos
    different = np.flatnonzero(kin != kin[before])
    if len(different):
        row = int(different[0])
        names = ", ".join(cache.names[at].decode() for at in rows[row].tolist())
        more = f" ({len(different) - 1:,} more such rows)" if len(different) > 1 else ""
        raise DataError(
            f"{path}, lines {lines[before[row]]} and {lines[row]}: {names} are labelled "
            f"{int(kin[before[row]])} and {int(kin[row])}{more}; wanted one label for "
            f"{'a pair' if count == 2 else 'three photos'}"
        )
    if len(unique) < len(rows):
        repeated = int(np.flatnonzero(before != np.arange(len(rows)))[0])
        log.info(
            "%s: %s of %s rows repeat photos of another (line %s those of %s)",
            path, f"{len(rows) - len(unique):,}", f"{len(rows):,}", lines[repeated],
            lines[before[repeated]],
        )  # fmt: skip


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


PROTOCOLS = {"kinfacew": read_kinfacew, "rfiw": read_labelled}
