"""Photos inside of tar files: the same vectors as from folders; nothing leads out of the file."""

import io
import tarfile
from pathlib import Path

import pytest
from some_photos import check_packed

from kinembed.config import EmbedConfig
from kinembed.data.photo_files import find_photos
from kinembed.data.photos import read_file
from kinembed.data.tar_photos import packed_files
from kinembed.errors import DataError


def packed(path: Path, members: dict[str, bytes], **more: str) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1_700_000_000
            tar.addfile(info, io.BytesIO(content))
        for name, target in more.items():
            info = tarfile.TarInfo(f"{name}.jpg")
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return path


@pytest.fixture
def train(faces: Path) -> dict[str, bytes]:
    folder = faces / "train"
    photos = sorted(folder.rglob("*.jpg"))[:30]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in photos}


def test_photos_of_packed_files_are_embedded_as_those_of_folders(
    train: dict[str, bytes], tmp_path: Path, on_cpu: EmbedConfig
) -> None:
    folder = tmp_path / "folder"
    for name, content in train.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    for number in range(3):  # dealt out, so that sorted names go to and fro
        own = {name: train[name] for name in [*train][number::3]}
        packed(tmp_path / f"photos-{number:03}.tar", {**own, f"{number}.json": b"{}"})
    asked = str(tmp_path / "photos-{000..002}.tar")
    for named in (asked, str(tmp_path / "photos-*.tar")):
        found = find_photos((named,), tmp_path)
        assert [*found.paths] == sorted(train)
        assert found.people["F0001/MID1/P00001_face1.jpg"] == "F0001/MID1"
        assert found.left_out.counts == {"other files": 3}
    check_packed(asked, folder, on_cpu, tmp_path)


def test_members_that_lead_elsewhere_are_left_out(train: dict[str, bytes], tmp_path: Path) -> None:
    content = next(iter(train.values()))
    names = [
        "a.jpg",
        "./b.jpg",
        "../c.jpg",
        "/d.jpg",
        "e/../../f.jpg",
        "g\\h.jpg",
        "i\nj.jpg",
        "k.txt",
    ]
    path = packed(tmp_path / "a.tar", dict.fromkeys(names, content), link="/etc/passwd")
    found = find_photos((str(path),), tmp_path)
    assert [*found.paths] == ["a.jpg", "b.jpg"]
    assert len(found.left_out) == 7
    assert read_file(found.paths["b.jpg"]) == content
    with pytest.raises(DataError, match=r"is not in a\.tar"):
        read_file(path / "link.jpg" / "x.jpg")
    (tmp_path / "t.txt").write_text("no tar file")
    with pytest.raises(DataError, match="Not a directory; wanted a photo"):
        read_file(tmp_path / "t.txt" / "x.jpg")


def test_files_that_are_no_whole_packed_files_are_named(
    train: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = packed(tmp_path / "a.tar", train)
    whole = path.read_bytes()
    for size in (len(whole) // 2, 700, 512, 3 * 512):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"a\.tar: is cut short"):
            find_photos((str(path),), tmp_path)
    path.write_bytes(b"no tar" * 1000)
    with pytest.raises(DataError, match="not a plain tar file"):
        find_photos((str(path),), tmp_path)
    with pytest.raises(DataError, match=r"no such file, as are 1 more of"):
        packed_files(str(tmp_path / "b-{1..2}.tar"))
    with pytest.raises(DataError, match="a range of 1 to 10,000"):
        packed_files(str(tmp_path / "b-{0..99999999}.tar"))
    path.write_bytes(whole)
    monkeypatch.setattr("kinembed.data.photos.MAX_BYTES", 10)
    name = next(iter(train))
    with pytest.raises(DataError, match="wanted at most 10; shrink the photo"):
        read_file(path / name)


def test_several_photos_of_a_name_and_several_files_in_one_are_refused(
    train: dict[str, bytes], tmp_path: Path
) -> None:
    some = {name: train[name] for name in [*train][:2]}
    path = packed(tmp_path / "a.tar", some)
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(1 << 15))  # larger records than usual
    assert len(find_photos((str(path),), tmp_path).listing) == 2
    path.write_bytes(whole + packed(tmp_path / "b.tar", some).read_bytes())
    with pytest.raises(DataError, match=r"a\.tar: goes on behind its end, at byte .* several tar"):
        find_photos((str(path),), tmp_path)
    path.write_bytes(whole)
    with tarfile.open(path, "a") as tar:  # which leaves the former one
        info = tarfile.TarInfo(f"./{next(iter(some))}")
        tar.addfile(info, io.BytesIO())
    with pytest.raises(DataError, match=r"face1\.jpg: is in .*a\.tar twice"):
        find_photos((str(path),), tmp_path)


@pytest.mark.parametrize(
    ("named", "wanted"),
    [
        ("a.tar.gz", "a.tar.gz: is a compressed file, .*; unpack it to a .tar file or to a folder"),
        ("a.TGZ", "is a compressed file"),
        ("list.txt", "list.txt: is a file, not a folder; wanted a folder of photos, or tar"),
        ("none-*.tar", r"none-\*\.tar: no file fits this pattern; wanted tar or parquet files"),
        ("a.tar.*", r"no file fits this pattern; .*a\.tar\.gz fits, but is neither \.tar nor"),
        ("none.tar.gz", "no such file; name one with photos in it"),
        ("none", "no such folder; name one with photos in it"),
    ],
)
def test_what_is_no_folder_of_photos_is_refused_as_what_it_is(
    named: str, wanted: str, tmp_path: Path
) -> None:
    for name in ("a.tar.gz", "a.TGZ", "list.txt"):
        (tmp_path / name).write_bytes(b"\x1f\x8b")
    with pytest.raises(DataError, match=wanted) as error:
        find_photos((str(tmp_path / named),), tmp_path)
    assert "\n" not in str(error.value)
