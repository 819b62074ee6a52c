"""What the columns of a table are: by titles in any order and case, else by what they hold."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from kinembed.data.kinship import by_blood
from kinembed.errors import DataError

SAMPLE = 50  # rows that tell what the columns are

PHOTO = re.compile(r"\.(jpe?g|jpe|jfif|png|webp|bmp|tiff?|gif|avif|heic|heif)$", re.IGNORECASE)
PAIR = re.compile(r"\.(jpe?g|jpe|jfif|png|webp|bmp|tiff?|gif|avif|heic|heif)-[^-]", re.IGNORECASE)

_STEMS = (
    *("", "p", "f", "x", "img", "image", "photo", "picture", "pic", "face", "file", "filename"),
    *("path", "person", "people", "id", "name", "sample", "subject", "member", "mid", "pid"),
    *("imgpath", "imagepath", "photopath", "imagename", "imgname", "facepath", "personid"),
)
_THIRDS = ("3", "c", "third", "three")
_SIDES = (("1", "2"), ("a", "b"), ("left", "right"), ("first", "second"), ("one", "two"),
          ("0", "1"))  # fmt: skip
_WHATS = (
    *("", "image", "img", "photo", "picture", "pic", "face", "path", "file", "filename", "name"),
    *("id", "person"),
)
PAIRS_OF_TITLES = (
    *(
        (side.format(stem=stem, side=one), side.format(stem=stem, side=two))
        for one, two in _SIDES
        for side in ("{stem}{side}", "{side}{stem}")
        for stem in _STEMS
        if stem or one.isalpha()
    ),
    *(
        (parent + what, child + what)
        for parent in ("father", "dad", "mother", "mom", "mum", "parent")
        for child in ("child", "kid", "offspring", "son", "daughter")
        for what in _WHATS
    ),
    *(("probe", "gallery"), ("anchor", "other"), ("source", "target"), ("from", "to")),
)


def _of_person(*names: str) -> tuple[str, ...]:
    return tuple(name + what for what in _WHATS for name in names)


TITLES = {
    "pair": ("imgpair", "pair", "imagepair", "photopair", "imgpairs", "pairs"),
    "father": _of_person("father", "dad"),
    "mother": _of_person("mother", "mom", "mum"),
    "child": _of_person("child", "kid", "offspring", "son", "daughter"),
    "label": (
        *("isrelated", "related", "label", "labels", "kin", "iskin", "kinship", "target", "y"),
        *("same", "issame", "match", "gt", "groundtruth", "truth", "kinlabel", "kinornot"),
    ),
    "relation": (
        *("relation", "relations", "ptype", "type", "pairtype", "kintype", "relationtype", "rel"),
        *("reltype", "relationship", "kinrelation", "kintypes", "kind", "kinshiptype"),
    ),
    "photo": ("photo", "image", "img", "file", "filename", "path", "name", "picture"),
    "person": ("person", "personid", "pid", "who", "subject", "identity", "mid", "people"),
    "family": ("family", "familyid", "fid", "families"),
}  # fmt: skip

PARENTS = ("father", "mother", "child")
_HALVES = {title for pair in PAIRS_OF_TITLES for title in pair} - {
    "source", "target", "from", "to", "other",
}  # fmt: skip

_TRUE = {"1", "+1", "true", "t", "yes", "y", "kin", "related", "positive", "pos"}
_FALSE = {"0", "-1", "false", "f", "no", "n", "nonkin", "notkin", "unrelated", "notrelated"} | {
    "negative", "neg",
}  # fmt: skip


class Shape(NamedTuple):
    """Columns that together say what a row is; the first shape that a table has is taken.

    Attributes:
        needed: columns that it must have.
        further: columns that it may have.
        is_judged: whether labels and relations are used, so that none may go unnoticed.
    """

    needed: tuple[str, ...]
    further: tuple[str, ...] = ()
    is_judged: bool = True


@dataclass(frozen=True)
class Block:
    """Some rows of a table, in their order.

    Attributes:
        lines: the line that each row ends on.
        columns: the fields of each column, as they stand, by what the column is.
        titles: how the file itself names these columns; without a header, what they are.
    """

    lines: list[int]
    columns: dict[str, list[str]]
    titles: dict[str, str]


class Told(NamedTuple):
    """The columns of a table, and how they are told.

    Attributes:
        columns: the number of each.
        header: how many rows it takes, 0 or 1.
        by_titles: whether its titles are known.
        unused: what other columns hold that might be of use, for messages.
    """

    columns: dict[str, int]
    header: int
    by_titles: bool
    unused: tuple[str, ...] = ()


class TitlesError(DataError):
    """A table says what its columns are, but not all of what has to be known of them."""


def tell_columns(rows: Sequence[Sequence[str]], shapes: Sequence[Shape]) -> Told:
    """The columns of a table by the titles of its first row, else by what they hold.

    Args:
        rows: the first rows.
        shapes: what rows may be.

    Raises:
        TitlesError: some columns are told, but others might be meant as well.
        DataError: they can't be told; says why not.
    """
    first, rest = rows[0], rows[1:]
    shift = unnamed_index(first, rest)
    below = [row[shift:] for row in rest]
    titled = _by_titles(first, below, shapes)
    if titled is not None:
        unused = _unused(first, below, *titled)
        columns = {name: number + shift for name, number in titled[0].items()}
        return Told(columns, 1, True, unused)
    # Where all rows do not agree, the first says what the others should be, unless it is a header.
    for header, sample in ((0, rows), (0, rows[:1]), (1, rest), (1, rest[:1])):
        if header and (any(map(_is_name, first)) or _has_parts_of(first, rest)):
            continue  # else a malformed first row would be lost
        held = _by_content(sample, shapes) if sample else None
        if held is None:
            continue
        columns, shape = held
        if header:
            _check_half_known(first, columns)
        elif "father" in columns and not _are_both_parents(sample, columns):
            raise TitlesError(
                f"found {','.join(first)[:120]!r}, three photos without father,mother,child above"
            )
        return Told(
            columns, header, False, _unused(first if header else (), sample, columns, shape)
        )
    _refuse_other_labels(rows, shapes)
    raise DataError(f"found {','.join(first)[:120]!r}")


class NoLabelError(DataError):
    """The pairs are told, but what should be a label is none.

    Attributes:
        row: the row, of those at the start, that has none.
    """

    def __init__(self, text: str, row: int) -> None:
        super().__init__(text)
        self.row = row


def _refuse_other_labels(rows: Sequence[Sequence[str]], shapes: Sequence[Shape]) -> None:
    """Names the first field that should be a label, where all but the label is told.

    Raises:
        DataError: there is one.
    """
    for shape in shapes:
        if "label" not in shape.needed:
            continue
        unlabelled = Shape(tuple(role for role in shape.needed if role != "label"))
        for sample in (rows, rows[1:]):
            held = _by_content(sample, [unlabelled]) if sample else None
            if held is None:
                continue
            at_row = next((i for i, row in enumerate(sample) if not any(map(_is_label, row))), -1)
            if at_row < 0:
                continue
            bad = sample[at_row]
            rest = [field for at, field in enumerate(bad) if at not in held[0].values()]
            which = f"{rest[0][:40]!r} is no label" if len(rest) == 1 else "no field is a label"
            raise NoLabelError(
                f"found {','.join(bad)[:120]!r}, in which {which}; wanted 0 or 1 (or -1 and 1, yes "
                "and no, true and false, kin and non-kin)",
                at_row + len(rows) - len(sample),
            )


def _is_label(field: str) -> bool:
    return truth(field) is not None


def _is_name(field: str) -> bool:
    """Whether a field is a photo, a pair of photos or a person `FAMILY/PERSON`, and no title."""
    found = PHOTO.search(field) or PAIR.search(field) or re.search(r"[^/\\][/\\]+[^/\\]", field)
    return found is not None


def _has_parts_of(first: Sequence[str], rest: Sequence[Sequence[str]]) -> bool:
    """Whether a row holds a part of a name below it, such as `F0017` of `F0017/MID1`."""
    parts = {part for row in rest for field in row if _is_name(field) for part in field.split("/")}
    return any(field in parts for field in first)


def _are_both_parents(rows: Sequence[Sequence[str]], columns: dict[str, int]) -> bool:
    at = columns.get("relation")
    return at is not None and all(_plain(row[at])[:2] == "fm" for row in rows)


def _check_half_known(first: Sequence[str], columns: dict[str, int]) -> None:
    """Refuses a header whose titles say something else, or less, than what columns hold."""
    shown = ",".join(first)[:120]
    if max(columns.values()) >= len(first):
        raise TitlesError(f"found a header {shown!r} of {len(first)} fields over rows of more")
    photos = [columns[role] for role in ("left", "right", "pair") if role in columns]
    for at, title in enumerate(map(_plain, first)):
        roles = [role for role in ("label", "relation") if title in TITLES[role]]
        is_photo = title in _HALVES or any(title in TITLES[role] for role in (*PARENTS, "pair"))
        is_used = at in photos or any(columns.get(role, at) == at for role in roles)
        if (is_photo or roles) and not is_used:
            raise TitlesError(f"found a header {shown!r}, of which only {first[at]} is known")
    if "father" in columns:
        raise TitlesError(f"found a header {shown!r} over three photos, not father,mother,child")
    if "label" in columns and _plain(first[columns["label"]]) not in TITLES["label"]:
        raise _untitled_label(first, [columns["label"]])


def _untitled_label(first: Sequence[str], numbers: Sequence[int]) -> TitlesError:
    shown, names = ",".join(first)[:120], " or ".join(first[at][:40] for at in numbers[:3])
    return TitlesError(
        f"found a header {shown!r}, where {names} may say who is kin; known titles of that are "
        "label, is_related, kin (1 is kin): rename it, or remove it if it says something else"
    )


def _unused(
    first: Sequence[str],
    rows: Sequence[Sequence[str]],
    columns: dict[str, int],
    shape: Shape,
) -> tuple[str, ...]:
    """What columns hold that are not used: photos or people of another kind than those that are.

    Raises:
        TitlesError: they hold more of the same photos or people, or who is kin.
    """
    names = [columns[role] for role in ("left", "right", *PARENTS) if role in columns]
    kind = "photos" if any(map(partial(_hold_photos, rows), names)) else "people"
    titles = [_plain(title) for title in first]
    thirds = {
        one[: len(one) - len(side)] + third if one.endswith(side) else third + one[len(side) :]
        for one in (titles[at] for at in names if at < len(titles))
        for side in ("1", "a", "first", "one")
        if one.endswith(side) or one.startswith(side)
        for third in _THIRDS
        if third.isdigit() == side.isdigit() and (len(third) == 1) == (len(side) == 1)
    }
    parents = {title for role in PARENTS for title in TITLES[role]}
    others = []
    for at in range(len(first) or max(map(len, rows))):  # of a row that is longer, read_table tells
        if at in columns.values():
            continue
        title = first[at].strip() if at < len(first) else f"column {at + 1}"
        are_labels = _may_judge(first, rows, at)
        found = "photos" if _hold_photos(rows, at) else "people" if _are_people(rows, at) else ""
        is_third = bool(first) and at < len(titles) and titles[at] in thirds | parents
        beside = ",".join(first[n] if first else f"column {n + 1}" for n in names)
        if names and (found == kind or (is_third and not are_labels)):
            raise TitlesError(
                f"found {title} with {found or 'names'} beside {beside}; of three in a row, name "
                "them father,mother,child; else remove the column that is not of the pair"
            )
        may_judge = are_labels or ("relation" not in columns and _may_relate(rows, at))
        if shape.is_judged and "label" not in columns and may_judge:
            raise _untitled_label(first or [f"column {n + 1}" for n in range(at + 1)], [at])
        if found:
            others.append(f"{title} holds {found} and is not used")
    return tuple(others)


def _may_judge(first: Sequence[str], rows: Sequence[Sequence[str]], at: int) -> bool:
    """Whether a column holds labels and does not count the rows."""
    if not _are_labels(rows, at):
        return False
    is_titled = at < len(first) and bool(first[at].strip())
    return not _is_index(rows, at) or (len(rows) == 1 and is_titled)


def _may_relate(rows: Sequence[Sequence[str]], at: int) -> bool:
    """Whether most of a column are words for relations, of which some are not by blood."""
    words = [by_blood(row[at]) for row in rows if at < len(row) and len(row[at].strip()) > 1]
    return False in words and 2 * words.count(None) < len(words)


def _hold_photos(rows: Sequence[Sequence[str]], at: int) -> bool:
    fields = [row[at] for row in rows if at < len(row)]
    return any(PHOTO.search(field) and "://" not in field for field in fields)


def _are_people(rows: Sequence[Sequence[str]], at: int) -> bool:
    fields = [row[at] for row in rows if at < len(row) and row[at].strip()]
    return bool(fields) and all(
        re.fullmatch(r"[^:]*[^\W\d][^:]*[/\\][^/\\:]+", field) for field in fields
    )


def _by_titles(
    first: Sequence[str], rest: Sequence[Sequence[str]], shapes: Sequence[Shape]
) -> tuple[dict[str, int], Shape] | None:
    titles = [_plain(title) for title in first]
    number_of = {title: titles.index(title) for title in titles}

    def named(role: str) -> list[int]:
        return [number_of[title] for title in TITLES[role] if title in number_of]

    for shape in shapes:
        columns: dict[str, int] = {}
        if "left" in shape.needed:
            pairs = [
                (number_of[one], number_of[two])
                for one, two in PAIRS_OF_TITLES
                if one in number_of and two in number_of
            ]
            if len(set(pairs)) > 1:  # such as p1,p2 beside name1,name2
                pairs = [pair for pair in pairs if all(_are_paths(rest, at) for at in pair)]
            if not pairs:
                continue
            if len(set(pairs)) > 1:
                both = " and ".join(f"{first[a]},{first[b]}" for a, b in sorted(set(pairs))[:2])
                raise TitlesError(f"found columns {both}, either of which may be the pair")
            columns["left"], columns["right"] = pairs[0]
        for role in (*shape.needed, *shape.further):
            if role in ("left", "right"):
                continue
            numbers = [number for number in named(role) if number not in columns.values()]
            if role == "relation" and "label" in shape.needed and "label" not in columns:
                continue
            if len(numbers) > 1 and role in ("label", *PARENTS):
                both = " and ".join(first[number] for number in numbers[:2])
                raise TitlesError(f"found columns {both}, either of which may be the {role}")
            if numbers:
                columns[role] = numbers[0]
        if shape.is_judged and "label" not in columns:  # `relation` that holds 0 and 1
            numbers = [number for number in named("relation") if _are_labels(rest, number)]
            if numbers:
                columns["label"] = numbers[0]
                if columns.get("relation") == numbers[0]:
                    del columns["relation"]
        if all(role in columns for role in shape.needed):
            return columns, shape
        if [role for role in shape.needed if role not in columns] == ["label"]:
            numbers = [
                at
                for at in range(len(first))
                if at not in columns.values() and _may_judge(first, rest, at)
            ]
            if numbers:
                raise _untitled_label(first, numbers)
    return None


def _by_content(
    rows: Sequence[Sequence[str]], shapes: Sequence[Shape]
) -> tuple[dict[str, int], Shape] | None:
    width = len(rows[0])
    while width and not any(row[width - 1] for row in rows if len(row) >= width):
        width -= 1  # empty last fields
    if not width or any(len(row) < width or any(row[width:]) for row in rows):
        return None
    pairs = [at for at in range(width) if all(PAIR.search(row[at]) for row in rows)]
    paths = [at for at in range(width) if at not in pairs and _are_paths(rows, at)]
    labels = [at for at in range(width) if _are_labels(rows, at)]
    if len(labels) > 1:
        labels = [at for at in labels if at or not _is_index(rows)]
    words = [
        at
        for at in range(width)
        if at not in labels and all(re.fullmatch(r"[A-Za-z][A-Za-z _-]{0,23}", r[at]) for r in rows)
    ]
    for shape in shapes:
        names = [role for role in shape.needed if role not in ("label", "pair")]
        needs_label, needs_pair = "label" in shape.needed, "pair" in shape.needed
        if len(paths) != len(names) or len(pairs) != needs_pair:
            continue
        if needs_label and len(labels) != 1:
            continue
        columns = dict(zip(names, paths, strict=True))
        if needs_pair:
            columns["pair"] = pairs[0]
        is_told = len(labels) == 1 and (labels[0] > 0 or not _is_index(rows))
        if needs_label or ("label" in shape.further and is_told):
            columns["label"] = labels[0]
        if "relation" in shape.further and len(words) == 1:
            columns["relation"] = words[0]
        return columns, shape
    return None


def _plain(title: str) -> str:
    """A title's letters and digits alone, in lower case."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", title).casefold())


def _are_paths(rows: Sequence[Sequence[str]], at: int) -> bool:
    fields = [row[at] for row in rows if len(row) > at]
    return bool(fields) and all(
        "/" in field or "\\" in field or PHOTO.search(field) is not None for field in fields
    )


def _are_labels(rows: Sequence[Sequence[str]], at: int) -> bool:
    fields = {row[at] for row in rows if len(row) > at}
    return bool(fields) and all(truth(field) is not None for field in fields)


def _is_index(rows: Sequence[Sequence[str]], at: int = 0) -> bool:
    """Whether a column counts the rows."""
    fields = [row[at] if at < len(row) else "" for row in rows]
    if not all(re.fullmatch(r"\d{1,15}", field) for field in fields):
        return False
    numbers = list(map(int, fields))
    return numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def unnamed_index(first: Sequence[str], rest: Sequence[Sequence[str]]) -> int:
    """1 if a column of row numbers stands before the titled ones, as R writes it, else 0."""
    shifted = rest and all(len(row) == len(first) + 1 and row[-1] for row in rest)
    return int(bool(shifted) and all(re.fullmatch(r"\d+", row[0]) for row in rest))


def truth_of(path: Path, lines: Sequence[int], labels: Sequence[str]) -> list[bool]:
    """Labels as truth values: 1/0, 1/-1, yes/no, true/false, kin/non-kin.

    Raises:
        DataError: naming the line of a label that is neither.
    """
    known = {label: truth(label) for label in set(labels)}
    if None in known.values():
        row = next(row for row, label in enumerate(labels) if known[label] is None)
        raise DataError(
            f"{path}, line {lines[row]}: found label {labels[row][:80]!r}, wanted 0 or 1 (or -1 "
            "and 1, yes and no, true and false, kin and non-kin)"
        )
    return [bool(known[label]) for label in labels]


def truth(label: str) -> bool | None:
    """Whether a label says kin; None if it says neither."""
    text = label.strip().casefold()
    text = text[:1] + re.sub(r"[\s_-]+", "", text[1:])
    number = re.sub(r"\.0*$", "", text)
    return True if number in _TRUE else False if number in _FALSE else None
