"""Answers that somebody gave about an album: `confirmed.csv`, and what follows from them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args
from unicodedata import normalize

from kinembed.data.layouts import is_person
from kinembed.data.left_out import LeftOut
from kinembed.errors import DataError
from kinembed.inference.album import Answer, Confirmed
from kinembed.inference.clusters import components, of_one_name
from kinembed.inference.face_marks import face_of_mark, parsed_mark
from kinembed.io import read_csv
from kinembed.printable import one_line

COLUMNS = ["answer", "left", "right"]
MARKS = ["left_mark", "right_mark"]  # the page writes them, hands need not
WORDS: tuple[Answer, ...] = get_args(Answer)
MOST_BYTES = 64 << 20
GONE = "answers name a face that is gone"
CHANGED = "answers set aside because another face is there now"
MOVED = "answers moved with a photo that is called otherwise now"
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
        left_out: answers whose faces are gone or changed; and those that follow a face.
        aside: the answers whose faces are gone or changed.
        bound: all answers, as they were given, with the marks of the faces that they are of.
    """

    used: list[Confirmed] = field(default_factory=list)
    together: list[tuple[int, int]] = field(default_factory=list)
    unnamed: list[tuple[int, int]] = field(default_factory=list)
    apart: list[tuple[int, int]] = field(default_factory=list)
    kin: dict[tuple[int, int], bool] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    named: tuple[str, ...] = ()
    left_out: LeftOut = field(default_factory=LeftOut)
    aside: list[Confirmed] = field(default_factory=list)
    bound: list[Confirmed] = field(default_factory=list)


def read_confirmed(path: Path) -> list[Confirmed]:
    """The answers of a table `answer,left,right`; none where there is no such file.

    It may also have the columns `left_mark,right_mark`, whose cells may be missing or empty.

    Raises:
        DataError: it is no such table; names the line.
    """
    if not path.exists():
        return []
    try:
        if not path.is_file():
            raise ValueError("it is no file")
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{path.stat().st_size:,} bytes")
        columns, rows = read_csv(path, strict=True)
    except (OSError, ValueError, csv.Error) as error:  # UnicodeDecodeError is a ValueError
        raise DataError(
            f"{path}: cannot be read ({one_line(error)[:_SEEN]}); wanted a table "
            f"{','.join(COLUMNS)}, as relate.html saves it"
        ) from None
    known = [*COLUMNS, *MARKS]
    if [column.strip().lstrip("\ufeff") for column in columns] not in (COLUMNS, known):
        raise DataError(
            f"{path}: found columns {one_line(','.join(columns))[:_SEEN]!r}, wanted "
            f"{','.join(COLUMNS)}, as relate.html saves it"
        )
    names = dict(zip(columns, known, strict=False))
    return [
        _row(path, number, {names.get(k, ""): v for k, v in row.items()})
        for number, row in enumerate(rows, 2)
    ]


def _row(path: Path, line: int, row: Mapping[str, str | None]) -> Confirmed:
    answer, left, right, *marks = (row.get(column) or "" for column in (*COLUMNS, *MARKS))
    answer = answer.strip()
    if answer == "name":
        right = normalize("NFC", right.strip())
    if "" in row:  # cells beyond the columns
        problem = "more cells than columns, wanted text with a comma in quotes"
    elif answer not in WORDS:
        problem = f"answer {one_line(answer)[:_SEEN]!r}, wanted {', '.join(WORDS)}"
    elif not left.strip() or not right.strip():
        problem = "an empty cell, wanted two faces, or a face and a name"
    elif answer != "name" and left == right:
        problem = f"{one_line(left)[:_SEEN]!r} twice, wanted two faces"
    elif answer == "name" and not is_person(right):
        problem = f"name {one_line(right)[:_SEEN]!r}, wanted NAME or FAMILY/NAME"
    elif not all(map(_is_mark, marks)):
        problem = (
            f"{one_line(','.join(marks))[:_SEEN]!r} behind the answer, wanted marks as relate.html "
            "saves them or nothing, and text with a comma in quotes"
        )
    else:
        return Confirmed(answer, left, right, *marks)
    raise DataError(f"{path}, line {line}: found {problem}; mend the line, or delete it")


def _is_mark(text: str) -> bool:
    try:
        return not text or bool(parsed_mark(text))
    except ValueError:
        return False


def with_marks_of(answers: Sequence[Confirmed], bound: Sequence[Confirmed]) -> list[Confirmed]:
    """Answers without marks get those that they had before.

    Args:
        answers: as they are given now.
        bound: `Answers.bound` of before.
    """
    before = {(each.answer, each.left, each.right): each for each in bound}
    return [
        each if each.left_mark or each.right_mark
        else before.get((each.answer, each.left, each.right), each)
        for each in answers
    ]  # fmt: skip


class _Finder:
    """Finds the faces that answers are of.

    Args:
        faces: (F,) names.
        marks: (F,) marks; empty: there are none, and names stand for themselves.
        copies: names of faces on copies of photographs, and of those that they are copies of.
    """

    def __init__(
        self, faces: Sequence[str], marks: Sequence[str], copies: Mapping[str, str]
    ) -> None:
        self.marks = marks
        self.number = {name: face for face, name in enumerate(faces)}
        self.number |= {copy: self.number[name] for copy, name in copies.items()}
        self.of_photo: dict[str, list[int]] = {}
        for face, mark in enumerate(marks):
            self.of_photo.setdefault(parsed_mark(mark)[0], []).append(face)

    def named(self, name: str) -> int | None:
        """The face of this name; spaces around it count only where a file has them."""
        for each in (name, name.strip()):
            for form in (each, normalize("NFC", each), normalize("NFD", each)):
                if form in self.number:
                    return self.number[form]
        return None

    def __call__(self, name: str, mark: str) -> int | None:
        """The face of this mark, or without one of this name; None where it is gone."""
        if not mark or not self.marks:
            return self.named(name)
        return face_of_mark(mark, self.marks, self.of_photo.get(parsed_mark(mark)[0], ()))


def resolve(
    answers: Sequence[Confirmed],
    faces: Sequence[str],
    named: Sequence[str],
    path: Path,
    marks: Sequence[str] = (),
    copies: Mapping[str, str] | None = None,
) -> Answers:
    """What answers say of the faces that there are.

    An answer with marks is of the faces of these marks, wherever they are now; one whose face is
    gone is set aside.

    Args:
        answers: the answers.
        faces: (F,) the names of the faces.
        named: (F,) what folders or a table call the person of each face, empty where they do not.
            An answer that names the person goes before, for all of their faces.
        path: of the table, for messages.
        marks: (F,) of the faces; empty: the names of faces stand for themselves.
        copies: the names of faces on copies of photographs, and of those that they are copies of.

    Raises:
        DataError: answers contradict each other, or the names of folders.
    """
    result = Answers()
    find = _Finder(faces, marks, copies or {})
    named = [normalize("NFC", name) for name in named]
    for given in answers:
        each = _placed(given, find, faces, result)
        if each is None:
            continue
        left = find.number[each.left]
        if each.answer == "name":
            before = result.names.setdefault(left, each.right)
            if before != each.right:
                raise _contradiction(path, f"{each.left} is called {before} and {each.right}")
            continue
        right = find.number[each.right]
        pair = (min(left, right), max(left, right))
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


def _placed(
    given: Confirmed, find: _Finder, faces: Sequence[str], result: Answers
) -> Confirmed | None:
    """An answer with the names and marks that its faces have now; None where one is gone."""
    now = marked = given
    moved = ""
    for side in ("left",) if given.answer == "name" else ("left", "right"):
        name, mark = getattr(given, side), getattr(given, f"{side}_mark")
        face, there = find(name, mark), find.named(name)
        if face is None:
            result.left_out.add(GONE if there is None else CHANGED, name)
            result.aside.append(given)
            result.bound.append(given)
            return None
        if face != there:
            moved = f"{name} is {faces[face]} now"
        of_face = find.marks[face] if find.marks else mark
        if side == "left":
            marked = replace(marked, left_mark=mark or of_face)
            now = replace(now, left=faces[face], left_mark=of_face)
        else:
            marked = replace(marked, right_mark=mark or of_face)
            now = replace(now, right=faces[face], right_mark=of_face)
    if moved:
        result.left_out.add(MOVED, moved)
    result.used.append(now)
    result.bound.append(marked)
    return now


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
