"""Answers that somebody gave about an album: `confirmed.csv`, and what follows from them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from kinembed.data.layouts import is_person
from kinembed.data.left_out import LeftOut
from kinembed.errors import DataError
from kinembed.inference.album import Answer, Confirmed
from kinembed.inference.clusters import components, of_one_name
from kinembed.io import read_csv
from kinembed.printable import one_line

COLUMNS = ["answer", "left", "right"]
WORDS: tuple[Answer, ...] = get_args(Answer)
MOST_BYTES = 64 << 20
GONE = "answers name a face that is gone"
_SEEN = 120  # letters of a cell in a message


@dataclass
class Answers:
    """What the answers say of the faces of an album.

    Attributes:
        used: the answers whose faces are there.
        together: pairs of faces of one person, by answers or by name.
        unnamed: those of `together` that are not so by the name in an answer alone.
        apart: pairs of faces of two people, kin or not.
        kin: whether the people of two faces are kin, by pairs of faces, the lower first.
        names: what the person of a face is called, by answers.
        named: (F,) what each face's person is called, by answers, a folder or a table; else empty.
        left_out: answers whose faces are gone.
    """

    used: list[Confirmed] = field(default_factory=list)
    together: list[tuple[int, int]] = field(default_factory=list)
    unnamed: list[tuple[int, int]] = field(default_factory=list)
    apart: list[tuple[int, int]] = field(default_factory=list)
    kin: dict[tuple[int, int], bool] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    named: tuple[str, ...] = ()
    left_out: LeftOut = field(default_factory=LeftOut)


def read_confirmed(path: Path) -> list[Confirmed]:
    """The answers of a table `answer,left,right`; none where there is no such file.

    Raises:
        DataError: it is no such table; names the line.
    """
    if not path.exists():
        return []
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{path.stat().st_size:,} bytes")
        columns, rows = read_csv(path)
    except (OSError, ValueError, csv.Error) as error:  # UnicodeDecodeError is a ValueError
        raise DataError(
            f"{path}: cannot be read ({one_line(error)[:_SEEN]}); wanted a table "
            f"{','.join(COLUMNS)}, as relate.html saves it"
        ) from None
    if [column.strip().lstrip("\ufeff") for column in columns] != COLUMNS:
        raise DataError(
            f"{path}: found columns {one_line(','.join(columns))[:_SEEN]!r}, wanted "
            f"{','.join(COLUMNS)}, as relate.html saves it"
        )
    names = dict(zip(columns, COLUMNS, strict=True))
    return [
        _row(path, number, {names[k]: v for k, v in row.items() if k in names})
        for number, row in enumerate(rows, 2)
    ]


def _row(path: Path, line: int, row: Mapping[str, str | None]) -> Confirmed:
    cells = [(row.get(column) or "").strip() for column in COLUMNS]
    answer, left, right = cells
    if answer not in WORDS:
        problem = f"answer {one_line(answer)[:_SEEN]!r}, wanted {', '.join(WORDS)}"
    elif not left or not right:
        problem = "an empty cell, wanted two faces, or a face and a name"
    elif answer != "name" and left == right:
        problem = f"{one_line(left)[:_SEEN]!r} twice, wanted two faces"
    elif answer == "name" and not is_person(right):
        problem = f"name {one_line(right)[:_SEEN]!r}, wanted NAME or FAMILY/NAME"
    else:
        return Confirmed(answer, left, right)
    raise DataError(f"{path}, line {line}: found {problem}; mend the line, or delete it")


def resolve(
    answers: Sequence[Confirmed], faces: Sequence[str], named: Sequence[str], path: Path
) -> Answers:
    """What answers say of the faces that there are.

    Args:
        answers: the answers.
        faces: (F,) the names of the faces.
        named: (F,) what folders or a table call the person of each face, empty where they do not.
            An answer that names the person goes before, for all of their faces.
        path: of the table, for messages.

    Raises:
        DataError: answers contradict each other, or the names of folders.
    """
    result = Answers()
    number = {name: face for face, name in enumerate(faces)}
    for each in answers:
        wanted = [each.left] if each.answer == "name" else [each.left, each.right]
        gone = [name for name in wanted if name not in number]
        if gone:
            result.left_out.add(GONE, gone[0])
            continue
        result.used.append(each)
        left = number[each.left]
        if each.answer == "name":
            before = result.names.setdefault(left, each.right)
            if before != each.right:
                raise _contradiction(path, f"{each.left} is called {before} and {each.right}")
            continue
        pair = (min(left, number[each.right]), max(left, number[each.right]))
        if each.answer == "same":
            result.together.append(pair)
            continue
        result.apart.append(pair)
        if each.answer != "different":
            kin = each.answer == "kin"
            if result.kin.setdefault(pair, kin) != kin:
                raise _contradiction(path, f"{each.left} and {each.right} are kin and not-kin")
    _name(result, faces, named, path)
    _check(result, faces, path)
    return result


def _name(result: Answers, faces: Sequence[str], named: Sequence[str], path: Path) -> None:
    """Names people, and puts together the faces of one name."""
    together = [*result.together, *of_one_name(named)]
    root = components(len(faces), together)
    called: dict[int, tuple[str, int]] = {}
    for face, name in result.names.items():
        before, earlier = called.setdefault(root[face], (name, face))
        if before != name:
            raise _contradiction(
                path,
                f"{faces[earlier]}, called {before}, and {faces[face]}, called {name}, are the "
                "same person",
            )
    renamed = set(called)
    for face, name in enumerate(named):
        if name and root[face] not in renamed:
            before, earlier = called.setdefault(root[face], (name, face))
            if before != name:
                raise _contradiction(
                    path,
                    f"{faces[earlier]} and {faces[face]} are the same person, who are {before} "
                    f"and {name} by folder or table; say what to call them by an answer name",
                )
    names = [called[person][0] if person in called else "" for person in root]
    result.named = tuple(names)
    result.unnamed = together
    result.together = [*together, *of_one_name(names)]


def _check(result: Answers, faces: Sequence[str], path: Path) -> None:
    """Refuses faces that are one person and are not, and people who are kin and are not."""
    root = components(len(faces), result.together)
    for left, right in result.apart:
        if root[left] == root[right]:
            raise _contradiction(
                path,
                f"{faces[left]} and {faces[right]} are different people, but they are the same by "
                "other answers or by the names of folder or table",
            )
    said: dict[tuple[int, int], tuple[bool, tuple[int, int]]] = {}
    for (left, right), kin in result.kin.items():
        people = (min(root[left], root[right]), max(root[left], root[right]))
        before, pair = said.setdefault(people, (kin, (left, right)))
        if before != kin:
            raise _contradiction(
                path,
                f"the people of {faces[pair[0]]} and {faces[pair[1]]} are "
                f"{'kin' if before else 'not-kin'}, and of {faces[left]} and {faces[right]}, the "
                f"same two, {'kin' if kin else 'not-kin'}",
            )


def _contradiction(path: Path, text: str) -> DataError:
    return DataError(f"{path}: contradicts itself: {one_line(text)}; delete one of the answers")
