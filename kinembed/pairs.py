"""Pairs of photos as rows: the report's sampling, and the pairs of a submission."""

# numpy.random takes 17 ms to import: what only names its types in annotations must not.
from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, cast

import numpy as np
from numpy.typing import NDArray

from kinembed.cache import Embeddings
from kinembed.errors import DataError
from kinembed.families import Families, Rows

Labels = NDArray[np.float32]


class PairSampler:
    """Draws batches of kin and non-kin photo pairs among some people, as the report does.

    A kin pair is a random relation with both people present and one random photo of each. A
    non-kin pair is two different random people who are not related, in either order, and one
    random photo of each. Every batch holds `int(batch_size * positive_fraction)` kin pairs, in
    random order.

    Args:
        families: photos, people and relations.
        people: (P,) rows of the people to draw from.
        positive_fraction: share of kin pairs, in [0, 1].
        places: (N,) what stands for each of the families' photos in the pairs drawn, such as its
            row in a cache; None: its row among the photos.

    Raises:
        DataError: these people cannot give such pairs.
    """

    def __init__(
        self,
        families: Families,
        people: Rows,
        positive_fraction: float = 0.6,
        places: Rows | None = None,
    ) -> None:
        if not 0 <= positive_fraction <= 1:
            raise DataError(f"positive fraction: found {positive_fraction}, wanted 0 to 1")
        self.families = families
        self.people = np.asarray(people, np.intp)
        self.positive_fraction = positive_fraction
        self.places = places
        relations = families.relations
        self.relations = relations[np.isin(relations, self.people).all(1)]
        self._start = families.photo_start[:-1]
        self._count = np.diff(families.photo_start)
        self._stride = len(families.people)
        # One sorted key per unordered related pair: membership is a binary search, and memory
        # grows with the relations, not with the square of the people.
        self._kin = np.unique(self._keys(self.relations))
        if positive_fraction > 0 and not len(self.relations):
            raise DataError(
                f"no usable relation among the {len(self.people)} people of this split: no kin "
                "pair can be drawn; use more families, another --seed or --split people"
            )
        pairs = len(self.people) * (len(self.people) - 1) // 2
        if positive_fraction < 1 and pairs <= len(self._kin):
            raise DataError(
                f"no two unrelated people among the {len(self.people)} of this split: no non-kin "
                "pair can be drawn; use more families or another --seed"
            )

    def sample(
        self, batches: int, batch_size: int, rng: np.random.Generator
    ) -> tuple[Rows, Labels]:
        """Draws batches of pairs.

        Returns:
            Photo rows (batches, batch_size, 2) and labels (batches, batch_size), 1 for kin.
        """
        positives = int(batch_size * self.positive_fraction)
        people = np.empty((batches, batch_size, 2), np.intp)
        if positives:
            drawn = rng.integers(len(self.relations), size=(batches, positives))
            people[:, :positives] = self.relations[drawn]
        if positives < batch_size:
            negatives = batches * (batch_size - positives)
            people[:, positives:] = self._strangers(negatives, rng).reshape(batches, -1, 2)
        order = rng.permuted(np.tile(np.arange(batch_size), (batches, 1)), axis=1)
        people = np.take_along_axis(people, order[..., None], axis=1)
        labels = (order < positives).astype(np.float32)
        # random() < 1, so the photo drawn is always one of the person's own
        photo = (rng.random(people.shape) * self._count[people]).astype(np.intp)
        rows = self._start[people] + photo
        return rows if self.places is None else self.places[rows], labels

    def _keys(self, people: Rows) -> Rows:
        keys: Rows = people.min(-1) * self._stride + people.max(-1)
        return keys

    def _strangers(self, count: int, rng: np.random.Generator) -> Rows:
        """(count, 2) different, unrelated people; refused draws are drawn again."""
        pairs = np.empty((count, 2), np.intp)
        missing = np.arange(count)
        while len(missing):
            first = rng.integers(len(self.people), size=len(missing))
            second = rng.integers(len(self.people) - 1, size=len(missing))
            second += second >= first  # uniform over everybody but the first
            drawn = self.people[np.stack([first, second], -1)]
            pairs[missing] = drawn
            if not len(self._kin):
                break
            keys = self._keys(drawn)
            at = np.searchsorted(self._kin, keys).clip(max=len(self._kin) - 1)
            missing = missing[self._kin[at] == keys]
        return pairs


class KinSampler:
    """Draws batches of kin pairs of which no two are of one family.

    Every family among the people comes as often as any other, whatever its size, and every two
    kin of a family as often as any other two; so all photos of two pairs are of strangers, as far
    as the relations tell.

    Args:
        families: photos, people and relations.
        people: (P,) rows of the people to draw from.
        places: (N,) what stands for each of the families' photos; None: its row among the photos.

    Raises:
        DataError: there is no kin pair among them, or kin of one family only.
    """

    def __init__(self, families: Families, people: Rows, places: Rows | None = None) -> None:
        relations = families.relations[np.isin(families.relations, people).all(1)]
        relations = np.unique(np.sort(relations, 1), axis=0)
        names = families.family_names()
        family = np.unique(names, return_inverse=True)[1]
        self.places = places
        self._start = families.photo_start[:-1]
        self._count = np.diff(families.photo_start)
        # A relation across two families, as the file may have it, goes by its first person's.
        of = family[relations[:, 0]] if len(relations) else np.empty(0, np.intp)
        order = np.argsort(of, kind="stable")
        self.relations = relations[order]
        self.families, self._first, self._size = np.unique(
            of[order], return_index=True, return_counts=True
        )
        if len(self.families) < 2:
            raise DataError(
                f"kin of {len(self.families)} families among the {len(people)} people of this "
                "split: wanted two families or more; use more families or another --seed"
            )

    def sample(
        self, batches: int, pairs: int, rng: np.random.Generator, photos: int = 1
    ) -> tuple[Rows, Rows]:
        """Draws batches.

        Args:
            batches: how many.
            pairs: kin pairs in each; as many as there are families where those are fewer.
            rng: what draws.
            photos: of each person, drawn one by one.

        Returns:
            Photo rows (batches, pairs, 2, photos), and the family of each pair, a number,
            (batches, pairs).
        """
        pairs = min(pairs, len(self.families))
        keys = rng.random((batches, len(self.families)))
        chosen = np.argpartition(keys, pairs - 1, axis=1)[:, :pairs]
        nth = (rng.random(chosen.shape) * self._size[chosen]).astype(np.intp)
        people = self.relations[self._first[chosen] + nth]
        turned = rng.random(chosen.shape) < 0.5
        people = np.where(turned[..., None], people[..., ::-1], people)
        which = rng.random((*people.shape, photos)) * self._count[people][..., None]
        rows = self._start[people][..., None] + which.astype(np.intp)
        return (rows if self.places is None else self.places[rows]), self.families[chosen]


@dataclass(frozen=True)
class PairList:
    """The pairs of a submission CSV, in its order.

    Attributes:
        path: where they were read.
        texts: the `img_pair` fields, as they stand.
        lines: the line each pair was read from, for messages.
    """

    path: Path
    texts: list[str]
    lines: list[int]


WANTED = "img_pair,is_related, then a.jpg-b.jpg,0"


def read_pairs(path: Path, size: int) -> Iterator[PairList]:
    """Reads the pairs of a submission, some at a time: `.csv`, `.csv.gz` or `.parquet`.

    A CSV has the header `img_pair,is_related`, then lines `a.jpg-b.jpg,0`; without the second
    column it will do. A BOM, CRLF and blank lines are taken in stride; duplicate rows are kept, as
    a submission must have them all. Parquet has a column of text `img_pair`.

    Args:
        path: the file.
        size: pairs at a time.

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
    # Bytes that are no text are told by their line, when the whole block has been read.
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
    """Splits `a.jpg-b.jpg` where it holds one `-`; tells the rows that hold more.

    Returns:
        The left names, the right names, and the rows that need `split_at_known` (their names
        are given as they stand up to and from the first `-`).
    """
    parts = [text.partition("-") for text in texts]
    ambiguous = [row for row, part in enumerate(parts) if "-" in part[2]]
    return [part[0] for part in parts], [part[2] for part in parts], ambiguous


def pair_rows(pairs: PairList, cache: Embeddings) -> Rows:
    """Rows (K, 2) in the cache of each pair's photos.

    Where a pair's text holds several `-`, the place that leaves two known photos is where it
    parts.

    Raises:
        DataError: naming the line whose photos are not known, or which can be read in two ways.
    """
    left, right, ambiguous = split_names(pairs.texts)
    rows = np.stack([cache.find(left), cache.find(right)], -1)
    for row in ambiguous:
        rows[row] = _part(pairs, row, cache)
    absent = np.argwhere(rows < 0)
    if len(absent):
        row, side = absent[0].tolist()
        name = (left, right)[side][row]
        more = len(np.unique(absent[:, 0])) - 1
        others = f" ({more} more such lines)" if more else ""
        raise DataError(f"{pairs.path}, line {pairs.lines[row]}: {cache.unknown(name)}{others}")
    return rows


def _part(pairs: PairList, row: int, cache: Embeddings) -> Rows:
    text = pairs.texts[row]
    cuts = [at for at, letter in enumerate(text) if letter == "-"]
    names = [(text[:at], text[at + 1 :]) for at in cuts]
    found = cache.find([name for pair in names for name in pair]).reshape(-1, 2)
    known = np.flatnonzero((found >= 0).all(1))
    if len(known) == 1:
        pair: Rows = found[known[0]]
        return pair
    problem = "no two photos of the cache" if not len(known) else "several pairs of photos"
    raise DataError(
        f"{pairs.path}, line {pairs.lines[row]}: {text!r} names {problem}, wherever it is "
        "parted at a '-'; rename the photos or embed them with kinembed embed"
    )


@dataclass(frozen=True)
class LabelledPairs:
    """Pairs of photos of whom it is known whether they are kin.

    Attributes:
        rows: (K, 2) rows of the cache.
        labels: (K,) True for kin.
        families: (K, 2) the family of each photo, as numbers; those of one family are equal.
        relations: (K,) what each pair is to each other (`fs`, `bb`, …), where that is known.
    """

    rows: Rows
    labels: NDArray[np.bool_]
    families: Rows
    relations: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.rows)


def held_out_pairs(
    families: Families,
    places: Rows,
    people: Collection[str],
    count: int,
    rng: np.random.Generator,
    positive_fraction: float = 0.5,
) -> LabelledPairs:
    """Draws pairs among people who never trained, as `PairSampler` does.

    Args:
        families: photos, people and relations.
        places: the row in the cache of each of the families' photos.
        people: names of the people to draw from (`F0002/MID1`).
        count: how many pairs.
        rng: what draws.
        positive_fraction: share of kin pairs.

    Raises:
        DataError: some of the people have no photos, or these people cannot give such pairs.
    """
    index = {person: row for row, person in enumerate(families.people)}
    absent = sorted(set(people) - set(index))
    if absent or not people:
        who = f"{len(absent)} people ({absent[0]}, …)" if absent else "nobody"
        raise DataError(
            f"held out from training: {who} with photos in the cache; run kinembed head"
        )
    chosen = np.array(sorted(index[person] for person in people), np.intp)
    rows, labels = PairSampler(families, chosen, positive_fraction).sample(1, count, rng)
    owner = np.repeat(np.arange(len(families.people)), np.diff(families.photo_start))
    family = np.unique(families.family_names(), return_inverse=True)[1]
    return LabelledPairs(places[rows[0]], labels[0] > 0, family[owner[rows[0]]])
