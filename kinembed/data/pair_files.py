"""The pairs of a submission, in any table: two photos or people a row, or father, mother, child."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Rows
from kinembed.cache import Embeddings
from kinembed.data.columns import Block, Shape
from kinembed.data.tables import clean_name, read_table
from kinembed.errors import DataError

NAMES = ("pair", "left", "right", "father", "mother", "child")
WANTED = "img_pair,is_related, then a.jpg-b.jpg,0 (or two columns p1,p2, or father,mother,child)"
_SHAPES = (
    Shape(("father", "mother", "child"), ("label", "relation"), False),
    Shape(("pair",), ("label", "relation"), False),
    Shape(("left", "right"), ("label", "relation"), False),
)
_UNTITLED = {"pair": "img_pair", "left": "p1", "right": "p2"}


@dataclass(frozen=True)
class PairList:
    """The pairs of a submission, in its order.

    Attributes:
        path: the file.
        lines: (K,) the line each pair was read from, for messages.
        fields: the (K,) names in each column, unchanged: of one column `a.jpg-b.jpg`, of two the
            photos or people of a pair, of three father, mother and child.
        titles: of the columns, as the file has them.
    """

    path: Path
    lines: list[int]
    fields: tuple[list[str], ...]
    titles: tuple[str, ...] = ("img_pair",)

    def __len__(self) -> int:
        return len(self.lines)


def read_pairs(path: Path, size: int) -> Iterator[PairList]:
    """Reads the pairs of a submission in blocks: any table of text, `.gz` or `.parquet`.

    Kaggle's has the header `img_pair,is_related`, then lines `a.jpg-b.jpg,0`; other columns are
    not read. Duplicate rows stay, because a submission needs all of them.

    Args:
        path: the file.
        size: pairs per block.

    Raises:
        DataError: naming the line that is not a pair.
    """
    for block in read_table(path, _SHAPES, WANTED, size):
        yield pairs_of(path, block)


def pairs_of(path: Path, block: Block) -> PairList:
    """The pairs or triples of a part of a table.

    Raises:
        DataError: naming the line that has none.
    """
    names = [name for name in NAMES if name in block.columns]
    for name in names:
        fields = block.columns[name]
        is_pair = name == "pair"
        if all("-" in text for text in fields) if is_pair else all(fields):
            continue
        row = next(i for i, text in enumerate(fields) if not ("-" in text if is_pair else text))
        wanted = "a pair a.jpg-b.jpg" if is_pair else "the name of a photo or person"
        raise DataError(
            f"{path}, line {block.lines[row]}: found {fields[row][:80]!r}, wanted {wanted}"
        )
    titles = [block.titles[name] for name in names]
    if titles == names:  # there is no header
        titles = [_UNTITLED.get(name, name) for name in names]
    columns = tuple(block.columns[name] for name in names)
    return PairList(path, block.lines, columns, tuple(titles))


def pair_rows(pairs: PairList, cache: Embeddings) -> Rows:
    """Rows (K, 2), or (K, 3) of triples, in the cache of each pair's photos.

    A text with several `-` is split where both sides are photos of the cache.

    Raises:
        DataError: names the line whose photos are unknown or ambiguous.
    """
    if len(pairs.fields) > 1:
        return photo_rows(pairs.path, pairs.lines, pairs.fields, cache)
    (texts,) = pairs.fields
    left, right, ambiguous = split_names(texts)
    rows = np.stack([cache.find(left), cache.find(right)], -1)
    for row in ambiguous:
        rows[row], (left[row], right[row]) = _split_at_known(pairs, row, cache)
    _refuse_unknown(rows, (left, right), pairs.path, pairs.lines, cache)
    _refuse_one_photo(rows, (left, right), pairs.path, pairs.lines, cache)
    return rows


def photo_rows(
    path: Path, lines: Sequence[int], names: Sequence[Sequence[str]], cache: Embeddings
) -> Rows:
    """Rows (K, C) in the cache of C columns of photos.

    Args:
        path: the file of the photos.
        lines: (K,) the line of each row in that file.
        names: C columns of K photos.
        cache: the cache that is searched.

    Raises:
        DataError: names the first line with a photo that the cache lacks.
    """
    rows = np.stack([cache.find(column) for column in names], -1)
    _refuse_unknown(rows, names, path, lines, cache)
    _refuse_one_photo(rows, names, path, lines, cache)
    return rows


def with_itself(rows: Rows) -> NDArray[np.bool_]:
    """(K,) whether a pair or triple (K, C) has a photo twice."""
    ordered = np.sort(rows, 1)
    twice: NDArray[np.bool_] = (ordered[:, 1:] == ordered[:, :-1]).any(1)
    return twice


def split_names(texts: list[str]) -> tuple[list[str], list[str], list[int]]:
    """Splits each `a.jpg-b.jpg` at its first `-`.

    Returns:
        The left names, the right names, and the rows that hold several `-`.
    """
    names = [text.partition("-") for text in texts]
    ambiguous = [row for row, (_, _, right) in enumerate(names) if "-" in right]
    return [left for left, _, _ in names], [right for _, _, right in names], ambiguous


def _refuse_one_photo(
    rows: Rows,
    names: Sequence[Sequence[str]],
    path: Path,
    lines: Sequence[int],
    cache: Embeddings,
) -> None:
    """Refuses rows whose different names are found to be one photo."""
    for row in np.flatnonzero(with_itself(rows)).tolist():
        said: dict[int, str] = {}
        for column, found in zip(names, rows[row].tolist(), strict=True):
            name = column[row]
            other = said.setdefault(found, name)
            if clean_name(other) != clean_name(name):
                raise DataError(
                    f"{path}, line {lines[row]}: {other!r} and {name!r} are both found to be "
                    f"{cache.names[found].decode()} of {cache.path}; wanted two photos, named as "
                    "the cache has them"
                )


def _refuse_unknown(
    rows: Rows,
    names: Sequence[Sequence[str]],
    path: Path,
    lines: Sequence[int],
    cache: Embeddings,
) -> None:
    absent = np.argwhere(rows < 0)
    if len(absent):
        row, side = absent[0].tolist()
        more = len(np.unique(absent[:, 0])) - 1
        others = f" ({more} more such lines)" if more else ""
        raise DataError(f"{path}, line {lines[row]}: {cache.unknown(names[side][row])}{others}")


def _split_at_known(pairs: PairList, row: int, cache: Embeddings) -> tuple[Rows, tuple[str, str]]:
    """The (2,) rows of a pair, and its names, split at the one `-` between two known photos."""
    text = pairs.fields[0][row]
    hyphens = [i for i, letter in enumerate(text) if letter == "-"]
    names = [(text[:i], text[i + 1 :]) for i in hyphens]
    rows = cache.find([name for pair in names for name in pair]).reshape(-1, 2)  # (hyphens, 2)
    known = np.flatnonzero((rows >= 0).all(1))
    if len(known) == 1:
        pair: Rows = rows[known[0]]
        return pair, names[known[0]]
    problem = "no two photos of the cache" if not len(known) else "several pairs of photos"
    raise DataError(
        f"{pairs.path}, line {pairs.lines[row]}: {text!r} names {problem}, wherever it is "
        "split at a '-'; rename the photos or embed them with kinembed embed"
    )
