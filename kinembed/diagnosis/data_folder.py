"""The data folder: what `embed`, `head` and `score` would see in it, and what is odd there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kinembed.data.families import group_families
from kinembed.data.folders import list_photos
from kinembed.data.pair_files import read_pairs, split_names
from kinembed.data.photo_files import TRAIN_FOLDERS, PhotoFiles, describe_people, find_photos
from kinembed.data.relations import find_relations
from kinembed.data.tables import clean_name
from kinembed.diagnosis.finding import Finding, of_error
from kinembed.diagnosis.states import DataState
from kinembed.errors import DataError
from kinembed.printable import counted

RELATIONS, PAIRS = "train_relationships.csv", "sample_submission.csv"
ZIPS = ("recognizing-faces-in-the-wild.zip", "train.zip", "train-faces.zip", "test.zip")
SAMPLE = 64  # photos that are decoded
LATIN = "iconv -f latin1 -t utf-8"
README = "data/README.md says how"


def examine_data(data: Path, state: DataState) -> Iterator[Finding]:
    """Photos, relations and pairs of a data folder; fills `state`."""
    if not data.is_dir():
        if data.exists():
            yield Finding("data", f"{data}: is a file", "wrong", "name its folder with --data DIR")
        else:
            yield Finding(
                "data", f"{data}: no such folder", "note",
                f"compare needs none; else name yours with --data, or unzip Kaggle's ({README})",
            )  # fmt: skip
        return
    for name in ZIPS:
        if (data / name).is_file() and not any((data / f).is_dir() for f in TRAIN_FOLDERS):
            yield Finding("data", f"{data / name}: is not unpacked", "note", f"unzip it ({README})")
    train = next((name for name in TRAIN_FOLDERS if (data / name).is_dir()), None)
    if train is None:
        yield from _without_families(data, state)
    else:
        yield from _photos(data, (train, "test"), state)
    yield from _relations(data, state)
    yield from _pairs(data, state)


def _without_families(data: Path, state: DataState) -> Iterator[Finding]:
    walked = list_photos(data)
    state.loose = len(walked.names)
    if not walked.names:
        fact = f"{data}: no photos" + (f" ({walked.left_out} left out)" if walked.left_out else "")
        cure = f"unzip Kaggle's files there ({README}), or name yours with --data DIR"
        yield Finding("data", fact, "note", cure, {"photos": 0})
        return
    yield Finding(
        "data",
        f"{data}: {counted(len(walked.names), 'photo')}, but no folder train of families",
        "note",
        f"for an album: kinembed relate {data}; for families: kinembed embed --photos {data}",
        {"photos": len(walked.names), "left_out": dict(walked.left_out.counts)},
    )


def _photos(data: Path, folders: tuple[str, ...], state: DataState) -> Iterator[Finding]:
    """What `embed` would see, what it would leave out, and a sample decoded."""
    if not (data / "test").is_dir():
        yield Finding(
            "data", f"{data / 'test'}: no such folder, so there is nothing of Kaggle's to score",
            "note", f"unzip test.zip there ({README})",
        )  # fmt: skip
    try:
        found = find_photos(folders, data)
    except DataError as error:
        yield of_error("data", error)
        return
    state.photos = found
    for note in found.notes:
        yield Finding("data", note)
    counts = found.listing.counts()
    yield Finding(
        "data", describe_people(counts),
        values={"photos": len(found.listing), "people": len(counts.keys() - {""})},
    )  # fmt: skip
    for reason, count in found.left_out.counts.items():
        example = found.left_out.examples[reason]
        is_wrong = "cannot be read" in reason
        yield Finding(
            "data", f"left out: {count:,} {reason} ({example})", "wrong" if is_wrong else "note",
            "mend their rights" if is_wrong else "", {"left_out": count, "reason": reason},
        )  # fmt: skip
    yield _decoded(found)


def _decoded(found: PhotoFiles) -> Finding:
    """How many photos of a sample cannot be decoded."""
    from kinembed.backbones import Framing
    from kinembed.data.photos import read_photo

    names = list(found.paths)
    step = max(1, len(names) // SAMPLE)
    sample = names[::step][:SAMPLE]
    problems = []
    for name in sample:
        try:
            read_photo(found.paths[name], Framing(32, 32))
        except DataError as error:
            problems.append(str(error))
    values = {"sample": len(sample), "unreadable": len(problems)}
    if not problems:
        return Finding("data", f"all of a sample of {len(sample)} are readable", values=values)
    return Finding(
        "data", f"{len(problems)} of a sample of {len(sample)} cannot be read: {problems[0]}",
        "wrong", "replace them, or embed with --skip-unreadable", values,
    )  # fmt: skip


def _relations(data: Path, state: DataState) -> Iterator[Finding]:
    """The relations, and the people in them without photos."""
    path = data / RELATIONS
    if path.is_file():
        yield from _encoding(path)
    try:
        relations, told = find_relations(data)
    except (DataError, OSError) as error:
        problem = error if isinstance(error, DataError) else DataError(str(error))
        if path.exists():
            yield of_error("data", problem)
        elif state.photos is not None:
            yield Finding(
                "data", f"{path}: no such file; head, calibrate and evaluate need it", "note",
                "put Kaggle's there, or write it: the line p1,p2, then FAMILY/PERSON,FAMILY/PERSON "
                "of any two who are kin",
            )  # fmt: skip
        return
    if state.photos is None:
        yield Finding("data", f"{counted(len(relations), 'relation')}, but no photos", "note")
        return
    found = state.photos.people
    families = group_families(list(found), relations, people=list(found.values()), told=told)
    state.related = bool(len(families.relations))
    values = {"relations": families.listed, "usable": len(families.relations)}
    fact = counted(families.listed, "relation")
    if families.unusable or not state.related:
        fact += f", {len(families.relations):,} usable"
    yield Finding(
        "data", fact,
        "fine" if state.related else "wrong",
        "" if state.related else "name people in the relations as their photos' folders do", values,
    )  # fmt: skip
    for reason, count in families.unusable.counts.items():
        example = families.unusable.examples[reason]
        yield Finding(
            "data", f"{count:,} relations {reason} ({example})", "note",
            values={"unusable": count, "reason": reason},
        )  # fmt: skip
    lonely = len(families.people) - len({*families.relations.reshape(-1).tolist()})
    if lonely:
        fact = f"{counted(lonely, 'person', 'people')} with photos, but in no usable relation"
        yield Finding("data", fact, "note", values={"people_without_relations": lonely})


def _pairs(data: Path, state: DataState) -> Iterator[Finding]:
    """The pairs to score, and their photos that are missing."""
    path = data / PAIRS
    if not path.is_file():
        return
    yield from _encoding(path)
    names: list[str] = []
    count = 0
    try:
        for block in read_pairs(path, 65_536):
            count += len(block)
            columns = block.fields if len(block.fields) > 1 else split_names(block.fields[0])[:2]
            names += [clean_name(name) for column in columns for name in column]
    except (DataError, OSError) as error:
        problem = error if isinstance(error, DataError) else DataError(str(error))
        yield of_error("data", problem)
        return
    state.pairs = True
    known = {*state.photos.paths} if state.photos is not None else set()
    known |= {name.partition("/")[2] for name in known}
    absent = sorted({*names} - known) if known else []
    values = {"pairs": count, "photos_missing": len(absent)}
    if absent:
        yield Finding(
            "data",
            f"{path}: {counted(count, 'pair')}; {counted(len(absent), 'photo')} of them are "
            f"missing ({absent[0]})",
            "wrong", f"unzip test.zip into {data / 'test'} ({README})", values,
        )  # fmt: skip
    else:
        yield Finding("data", f"{path}: {counted(count, 'pair')} to score", values=values)


def _encoding(path: Path) -> Iterator[Finding]:
    """Says where a table's text is not plain UTF-8."""
    content = path.read_bytes()
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        yield Finding(
            "data", f"{path}: UTF-16, which is read", "note", values={"encoding": "utf-16"}
        )
        return
    if content.startswith(b"\xef\xbb\xbf"):
        fact = f"{path}: begins with a byte order mark, which is read"
        yield Finding("data", fact, "note", values={"encoding": "utf-8-sig"})
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        yield Finding(
            "data", f"{path}, line {line}: not UTF-8", "wrong",
            f"{LATIN} {path} > new.csv, if it is of Western Europe", {"encoding": None},
        )  # fmt: skip
