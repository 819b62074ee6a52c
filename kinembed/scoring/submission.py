"""The file of a submission: its rows as they were given, and a score for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from kinembed.data.pair_files import PairList
from kinembed.errors import DataError
from kinembed.io import written_beside

Write = Callable[[PairList, NDArray[np.float64]], None]


@contextmanager
def submission(out: Path) -> Iterator[Write]:
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
