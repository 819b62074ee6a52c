"""Who is on a photo, by the layout of its folder."""

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from kinembed.cli.stages import embed, finetune
from kinembed.data.families import read_families
from kinembed.data.layouts import LAYOUTS, folded, read_people
from kinembed.data.photo_files import find_photos, split_folders
from kinembed.errors import DataError

KAGGLE = [f"F{f:04}/MID{m}/P{f}{m}{p}_face0.jpg" for f in (1, 2, 3) for m in (1, 2) for p in (1, 2)]
PEOPLE = {name: "/".join(name.split("/")[:2]) for name in KAGGLE}


def people_of(names: list[str], **options: object) -> dict[str, str]:
    return dict(zip(names, read_people(names, **options).people, strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("around", ["", "train/", "train/train/", "a/b/c/d/"])
def test_folders_around_families_do_not_matter(around: str) -> None:
    names = [around + name for name in KAGGLE]
    found = read_people(names)
    assert found.layout == "kaggle"
    assert [*found.people] == [*PEOPLE.values()]
    assert found.text == (
        "FAMILY/PERSON/FILE, as Kaggle's, RFIW's and FIW's "
        f"(F0001/MID1: {around}F0001/MID1/P111_face0.jpg)"
    )


def test_folders_below_people_do_not_matter() -> None:
    names = [name.replace("/P", "/young/P") if "MID1" in name else name for name in KAGGLE]
    assert [*people_of(names).values()] == [*PEOPLE.values()]


def test_a_person_is_one_wherever_the_photos_lie() -> None:
    names = [f"album-{'ab'[row % 2]}/{name}" for row, name in enumerate(KAGGLE)]
    assert [*people_of(names).values()] == [*PEOPLE.values()]


def test_families_and_wrapping_folders_may_lie_side_by_side() -> None:
    names = [*KAGGLE[:6], *(f"more/{name}" for name in KAGGLE[6:])]
    assert [*people_of(names).values()] == [*PEOPLE.values()]


def test_the_relations_tell_families_of_any_name() -> None:
    names = ["a/Smith/Ada/1.jpg", "b/Smith/Ada/2.jpg", "a/Smith/Bob/3.jpg", "a/Smith/Cy/x/4.jpg"]
    known = frozenset(map(folded, ("smith/ADA", "Smith/Bob")))
    found = people_of(names, related=known)
    # Cy is in no relation; the level is that of the others.
    assert [*found.values()] == ["Smith/Ada", "Smith/Ada", "Smith/Bob", "Smith/Cy"]


def test_people_are_in_nfc_whatever_the_file_system_keeps() -> None:
    family = "Müller Peña F0002"
    names = [f"{unicodedata.normalize(form, family)}/MID1/{form}.jpg" for form in ("NFC", "NFD")]
    assert set(people_of(names).values()) == {f"{family}/MID1"}


def test_families_of_other_names_are_told_by_their_level() -> None:
    names = ["all/Smith/Ada/1.jpg", "all/Jones/Bob/2.jpg", "all/Jones/Bob/old/3.jpg"]
    assert [*people_of(names).values()] == ["Smith/Ada", "Jones/Bob", "Jones/Bob"]
    # One family alone may as well be any folder of folders.
    assert not any(people_of(["TSKinFace/FMS/1.jpg", "TSKinFace/FMD/2.jpg"]).values())
    assert people_of(["Smith/Ada/1.jpg"], layout="kaggle") == {"Smith/Ada/1.jpg": "Smith/Ada"}


def test_most_photos_decide() -> None:
    names = ["a.jpg", "b.jpg", "c/d.jpg", "Smith/Ada/1.jpg", "Jones/Bob/2.jpg"]
    assert read_people(names).layout == "flat"
    assert people_of([*names[3:], "a.jpg"])["Jones/Bob/2.jpg"] == "Jones/Bob"


@pytest.mark.parametrize("names", [["a.jpg", "b.jpg"], ["2019/a.jpg", "2020/b.jpg"]])
def test_of_a_flat_folder_nobody_is_known(names: list[str]) -> None:
    found = read_people(names)
    assert found.layout == "flat" and found.people == ("", "")
    has_folders = "/" in names[0]
    assert ("its 2 folders with photos (2019, 2020)" in found.text) is has_folders
    assert ("say --layout people" in found.text) is has_folders


def test_fiw_has_folders_of_nobody() -> None:
    names = ["FIDs/F0001/MID1/a.jpg", "FIDs/F0001/unrelated_and_nonfaces/b.jpg"]
    assert [*people_of(names).values()] == ["F0001/MID1", ""]


def test_kinfacew_has_a_person_a_photo_and_a_family_a_pair() -> None:
    names = [
        f"images/{folder}/{kind}_00{pair}_{side}.jpg"
        for folder, kind in (("father-dau", "fd"), ("mother-son", "ms"))
        for pair in (1, 2)
        for side in (1, 2)
    ]
    found = read_people([*names, "images/readme.jpg"])
    assert found.layout == "kinfacew"
    assert len({*found.people}) == 9 and found.people[-1] == ""
    assert found.people[:3] == ("fd_001/1", "fd_001/2", "fd_002/1")
    assert people_of([name.removeprefix("images/") for name in names])[
        "mother-son/ms_002_2.jpg"
    ] == ("ms_002/2")
    both = [f"KinFaceW-{part}/{name}" for part in ("I", "II") for name in names]
    assert len({*people_of(both).values()}) == 16
    assert people_of(both)["KinFaceW-II/images/father-dau/fd_001_1.jpg"] == "KinFaceW-II fd_001/1"


def test_a_layout_that_is_named_is_taken() -> None:
    assert not any(people_of(KAGGLE, layout="flat").values())
    lfw = ["Ada_King/Ada_King_0001.jpg", "Bob/Bob_0001.jpg", "x.jpg"]
    assert [*people_of(lfw, layout="people").values()] == ["Ada_King", "Bob", ""]
    found = read_people(["a.jpg"], "kinfacew")
    assert found.people == ("",) and "nobody is found so" in found.text


def test_the_command_line_has_all_layouts() -> None:
    for command in (embed, finetune):
        (option,) = [each for each in command.params if each.name == "layout"]
        assert tuple(option.type.choices) == LAYOUTS  # type: ignore[attr-defined]


# Levels that mean something else


@pytest.mark.parametrize(
    ("folders", "people"),
    [
        (["John/2019", "John/2020", "Ann/2019-05-03"], ["John", "John", "Ann"]),
        (["John/2019 beach", "Ann/May 2020", "Ann/07.08.2020"], ["John", "Ann", "Ann"]),
        (["2019/Smith/John", "2020/Smith/John", "2020/Roe/Al"], ["Smith/John"] * 2 + ["Roe/Al"]),
        (["Smith/2019/John", "Roe/2020/Al"], ["Smith/John", "Roe/Al"]),
        (["2019/Smith", "2020/Smith"], ["", ""]),  # people or albums
        (["2019/beach", "2020/wedding"], ["", ""]),
        (["100CANON/Smith/Ann", "101CANON/Roe/Al"], ["Smith/Ann", "Roe/Al"]),
        (["John/album 1", "Ann/photos_2"], ["John", "Ann"]),
        (["camp/Smith/Ann", "beach/Smith/Ann"], ["", ""]),
        (["John/wedding", "Ann/wedding", "Ann/beach"], ["", "", ""]),
    ],
)
@pytest.mark.parametrize("around", ["", "all/"])
def test_levels_of_albums_and_dates_are_no_families(
    folders: list[str], people: list[str], around: str
) -> None:
    found = read_people([f"{around}{folder}/1.jpg" for folder in folders])
    assert [*found.people] == people
    assert "--layout" in found.doubt and "--people-table" in found.doubt
    if people[0]:
        assert f"({people[0]}: " in found.text
    else:
        assert found.layout == "flat"


def test_names_that_some_families_share_raise_no_doubt() -> None:
    names = ["Smith/John/1.jpg", "Smith/Ann/1.jpg", "Jones/John/1.jpg", "Jones/Bob/1.jpg"]
    names += ["Scanlon/Mary/1.jpg", "Marsh/June/1.jpg", "Marsh/Augusta/1.jpg"]
    found = read_people(names)
    assert [*found.people] == [name[:-6] for name in names] and not found.doubt


def test_relations_and_named_layouts_dispel_the_doubt() -> None:
    names = ["John/2019/1.jpg", "John/2020/1.jpg", "Ann/2019/1.jpg"]
    plain = ["John/2019", "John/2020", "Ann/2019"]
    for options in ({"related": {folded("john/2019")}}, {"layout": "kaggle"}):
        found = read_people(names, **options)  # type: ignore[arg-type]
        assert [*found.people] == plain and not found.doubt


def test_the_doubt_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lay_out(tmp_path, "John/2019/1.jpg", "Ann/2020/1.jpg")
    found = find_photos((str(tmp_path),), tmp_path / "nowhere")
    assert [*found.people.values()] == ["Ann", "John"]
    (record,) = [each for each in caplog.records if each.levelname == "WARNING"]
    assert "such as 2020 are taken for dates or albums; say" in record.message


# Folders of photos


def lay_out(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


RELATED = "p1,p2\nF0001/MID1,F0001/MID2\nF0002/MID1,F0002/MID2\nF0003/MID1,F0003/MID2\n"


@pytest.mark.parametrize("around", ["train", "train/train", "train/all/faces", "FIDs"])
def test_families_are_read_from_any_of_these(around: str, tmp_path: Path) -> None:
    lay_out(tmp_path, *(f"{around}/{name}" for name in KAGGLE))
    (tmp_path / "train_relationships.csv").write_text(RELATED)
    families = read_families(tmp_path)
    assert families.people == tuple(dict.fromkeys(PEOPLE.values()))
    assert families.relations.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert families.photos == tuple(f"{around}/{name}" for name in KAGGLE)


def test_without_test_the_rest_is_taken_and_that_is_said(tmp_path: Path) -> None:
    lay_out(tmp_path, *(f"train/{name}" for name in KAGGLE))
    found = find_photos(("train", "test"), tmp_path)
    assert [*found.people.values()] == [*PEOPLE.values()]
    assert "test: no such folder" in found.notes[1]
    with pytest.raises(DataError, match="test: no such folder"):
        find_photos(("test",), tmp_path)


def test_folders_of_one_person_in_two_places(tmp_path: Path) -> None:
    lay_out(tmp_path, "a/F0001/MID1/1.jpg", "b/F0001/MID1/2.jpg", "b/x.jpg")
    found = find_photos((str(tmp_path / "a"), str(tmp_path / "b")), tmp_path)
    assert found.people == {
        "F0001/MID1/1.jpg": "F0001/MID1",
        "F0001/MID1/2.jpg": "F0001/MID1",
        "x.jpg": "",
    }


def test_a_folders_name_may_have_a_comma(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("Smith, family", "a", "b", "a,b", "x,y,z"):
        (tmp_path / name).mkdir()
    assert split_folders("Smith, family") == ("Smith, family",)
    assert split_folders("train,Smith, family,test") == ("train", "Smith, family", "test")
    assert split_folders("a,b") == ("a", "b")
    assert split_folders("x,y,z,a") == ("x,y,z", "a")
    assert split_folders(" train , nowhere,") == ("train", "nowhere")
    assert split_folders("/nowhere, at all") == ("/nowhere", "at all")


@pytest.mark.shared
def test_kinfacews_own_folders(shared: Callable[[str], Path]) -> None:
    for name, pairs in (("KinFaceW-I", 533), ("KinFaceW-II", 1000)):
        found = find_photos((str(shared(f"kinfacew/{name}")),), Path("nowhere"))
        assert len({person.split("/")[0] for person in found.people.values()} - {""}) == pairs
        assert len({*found.people.values()}) == len(found.people) == 2 * pairs
        assert "KinFaceW's" in found.notes[0] and "other files" in found.left_out.counts


@pytest.mark.shared
def test_rfiws_own_folders(shared: Callable[[str], Path]) -> None:
    found = find_photos((str(shared("cases/aligned/photos")),), Path("nowhere"))
    assert all(name.startswith(f"{person}/") for name, person in found.people.items())
