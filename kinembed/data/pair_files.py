"""The pairs of a submission: CSV, gzip or parquet, read block by block."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, cast

import numpy as np

from kinembed.arrays import Rows
from kinembed.cache import Embeddings
from kinembed.errors import DataError


@dataclass(frozen=True)
class PairList:
    """The pairs of a submission CSV, in its order.

    Attributes:
        path: the file.
        texts: the `img_pair` fields, unchanged.
        lines: the line each pair was read from, for messages.
    """

    path: Path
    texts: list[str]
    lines: list[int]


WANTED = "img_pair,is_related, then a.jpg-b.jpg,0"


def read_pairs(path: Path, size: int) -> Iterator[PairList]:
    """Reads the pairs of a submission in blocks: `.csv`, `.csv.gz` or `.parquet`.

    A CSV has the header `img_pair,is_related`, then lines `a.jpg-b.jpg,0`; the second column is
    optional. A BOM, CRLF and blank lines are accepted. Duplicate rows stay, because a submission
    needs all of them. Parquet has a text column `img_pair`.

    Args:
        path: the file.
        size: pairs per block.

    Raises:
        DataError: naming the line that is not a pair.
    """
    if not path.is_file():
        what = "not a file" if path.exists() else "no such file"
        raise DataError(f"{path}: {what}; wanted a CSV of lines {WANTED}")
    blocks = _read_parquet(path, size) if path.suffix == ".parquet" else _read_lines(path, size)
    count = 0
    for texts, lines in blocks:
        try:
            "".join(texts).encode()
        except UnicodeEncodeError:
            bad = next(i for i, text in enumerate(texts) if not _is_text(text))
            raise DataError(
                f"{path}, line {lines[bad]}: not a CSV of UTF-8 text; wanted lines {WANTED}"
            ) from None
        count += len(texts)
        yield PairList(path, texts, lines)
    if not count:
        raise DataError(f"{path}: a header but no pairs; wanted {WANTED}")


def _read_lines(path: Path, size: int) -> Iterator[tuple[list[str], list[int]]]:
    """Texts and line numbers of a CSV, compressed or not."""
    import csv  # parquet does without it

    line = 0
    try:
        with _open_text(path) as file:
            reader = csv.reader(file, strict=True)
            header = next((fields for fields in reader if fields), None)
            line = reader.line_num
            if header is None:
                raise DataError(f"{path}: empty; wanted a CSV of lines {WANTED}")
            if header not in (["img_pair", "is_related"], ["img_pair"]):
                raise DataError(
                    f"{path}, line {line}: found {','.join(header)!r}, "
                    "wanted the header img_pair,is_related"
                )
            texts: list[str] = []
            lines: list[int] = []
            for fields in reader:
                line = reader.line_num
                if not fields:
                    continue
                if len(fields) > 2 or "-" not in fields[0]:
                    raise DataError(
                        f"{path}, line {line}: found {_shown(fields)}, wanted a pair a.jpg-b.jpg,0"
                    )
                texts.append(fields[0])
                lines.append(line)
                if len(texts) == size:
                    yield texts, lines
                    texts, lines = [], []
            if texts:
                yield texts, lines
    except csv.Error as error:
        raise DataError(
            f"{path}, line {line + 1}: not a CSV of UTF-8 text ({error}); wanted lines {WANTED}"
        ) from None
    except (EOFError, zlib.error, OSError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); wanted a CSV of lines {WANTED}"
        ) from None


def _open_text(path: Path) -> TextIO:
    # `read_pairs` names the line of bytes that are not UTF-8, once it has the whole block.
    style = {"encoding": "utf-8-sig", "errors": "surrogateescape", "newline": ""}
    if path.suffix == ".gz":
        import gzip

        return cast(TextIO, gzip.open(path, "rt", **style))  # type: ignore[call-overload]
    return cast(TextIO, path.open(**style))  # type: ignore[call-overload]


def _read_parquet(path: Path, size: int) -> Iterator[tuple[list[str], list[int]]]:
    """Texts and rows, from 1, of a parquet file."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(f"{path}: reading parquet needs pip install 'kinembed[parquet]'") from None
    first = 1
    try:
        with parquet.ParquetFile(path) as file:
            if "img_pair" not in file.schema_arrow.names:
                raise DataError(
                    f"{path}: has columns {', '.join(file.schema_arrow.names)}; wanted img_pair"
                )
            for batch in file.iter_batches(size, columns=["img_pair"]):
                texts = batch.column(0).to_pylist()
                for row, text in enumerate(texts, first):
                    if not isinstance(text, str) or "-" not in text:
                        raise DataError(
                            f"{path}, line {row}: found {text!r}, wanted a pair a.jpg-b.jpg"
                        )
                yield texts, list(range(first, first + len(texts)))
                first += len(texts)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"{path}: not a parquet file ({reason}); wanted a column img_pair"
        ) from None


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(fields: list[str]) -> str:
    return repr(",".join(fields).encode(errors="surrogateescape").decode(errors="replace"))


def split_names(texts: list[str]) -> tuple[list[str], list[str], list[int]]:
    """Splits each `a.jpg-b.jpg` at its first `-`.

    Returns:
        The left names, the right names, and the rows that hold several `-`.
    """
    names = [text.partition("-") for text in texts]
    ambiguous = [row for row, (_, _, right) in enumerate(names) if "-" in right]
    return [left for left, _, _ in names], [right for _, _, right in names], ambiguous


def pair_rows(pairs: PairList, cache: Embeddings) -> Rows:
    """Rows (K, 2) in the cache of each pair's photos.

    A text with several `-` is split where both sides are photos of the cache.

    Raises:
        DataError: names the line whose photos are unknown or ambiguous.
    """
    left, right, ambiguous = split_names(pairs.texts)
    rows = np.stack([cache.find(left), cache.find(right)], -1)
    for row in ambiguous:
        rows[row] = _split_at_known(pairs, row, cache)
    refuse_unknown(rows, (left, right), pairs.path, pairs.lines, cache)
    return rows


def refuse_unknown(
    rows: Rows,
    names: tuple[list[str], list[str]],
    path: Path,
    lines: list[int],
    cache: Embeddings,
) -> None:
    """Refuses pairs with a photo that the cache lacks.

    Args:
        rows: (K, 2) rows of the cache, negative for a photo that it lacks.
        names: (K,) left photos and (K,) right photos.
        path: the file of the pairs.
        lines: (K,) the line of each pair in that file.
        cache: the cache that was searched.

    Raises:
        DataError: names the first such line.
    """
    absent = np.argwhere(rows < 0)
    if len(absent):
        row, side = absent[0].tolist()
        more = len(np.unique(absent[:, 0])) - 1
        others = f" ({more} more such lines)" if more else ""
        raise DataError(f"{path}, line {lines[row]}: {cache.unknown(names[side][row])}{others}")


def _split_at_known(pairs: PairList, row: int, cache: Embeddings) -> Rows:
    """The (2,) rows of a pair, split at the one `-` that leaves two photos of the cache."""
    text = pairs.texts[row]
    hyphens = [i for i, letter in enumerate(text) if letter == "-"]
    names = [(text[:i], text[i + 1 :]) for i in hyphens]
    rows = cache.find([name for pair in names for name in pair]).reshape(-1, 2)  # (hyphens, 2)
    known = np.flatnonzero((rows >= 0).all(1))
    if len(known) == 1:
        pair: Rows = rows[known[0]]
        return pair
    problem = "no two photos of the cache" if not len(known) else "several pairs of photos"
    raise DataError(
        f"{pairs.path}, line {pairs.lines[row]}: {text!r} names {problem}, wherever it is "
        "split at a '-'; rename the photos or embed them with kinembed embed"
    )
