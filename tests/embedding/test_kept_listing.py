"""The listing that parts of an embedding share: the same as a fresh one, or a fresh one."""

import os
import shutil
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinembed.data import listing as listing_module
from kinembed.data.photo_files import PhotoFiles, find_photos
from kinembed.embedding import kept_listing
from kinembed.embedding.kept_listing import (
    FILE,
    changed_of,
    kept_photos,
    list_and_keep,
    read,
    write,
)
from kinembed.errors import RunError

ABOUT = {"photos": ["x"]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Folders with photos, a link, an empty folder, and what is no photo; all of some time ago."""
    root = tmp_path / "photos"
    for name in ("F1/MID1/a.jpg", "F1/MID1/b.jpg", "F1/MID2/ü.jpg", "F2/MID1/c.png", "d.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    (root / "F2" / "note.txt").write_text("none")
    (root / "F3" / "MID1").mkdir(parents=True)
    (root / "linked").symlink_to(root / "F2" / "MID1")
    for folder, _, files in os.walk(root):
        for name in (*files, "."):
            os.utime(Path(folder) / name, (1e9, 1e9))
    return root


class Lists:
    """Lists a folder, and counts how often."""

    def __init__(self, *folders: Path) -> None:
        self.folders, self.count = folders, 0

    def __call__(self) -> PhotoFiles:
        self.count += 1
        return find_photos([*map(str, self.folders)], self.folders[0].parent)


def same(one: PhotoFiles, other: PhotoFiles) -> bool:
    paths = [[each.listing.path(row) for row in range(len(each.listing))] for each in (one, other)]
    return (
        list(one.listing) == list(other.listing)
        and paths[0] == paths[1]
        and one.listing.by_folder.keys() == other.listing.by_folder.keys()
        and (one.left_out, one.notes) == (other.left_out, other.notes)
    )


@pytest.mark.parametrize("block", [2, 1 << 16])
def test_the_second_part_maps_what_the_first_listed(
    block: int, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing_module, "BLOCK", block)
    monkeypatch.setattr(kept_listing, "BLOCK", block)
    find = Lists(root)
    fresh, _ = kept_photos(tmp_path / "run", ABOUT, find, (1, 3))
    for part in ((2, 3), (3, 3), (1, 1), None):
        kept, is_kept = kept_photos(tmp_path / "run", ABOUT, find, part)
        assert is_kept and find.count == 1 and same(kept, fresh)
        assert kept.listing.row("F1/MID2/ü.jpg") == fresh.listing.row("F1/MID2/ü.jpg")
    kept_photos(tmp_path / "run", {"photos": ["y"]}, find, (1, 3))  # of other options
    assert find.count == 2


def _add(root: Path) -> None:
    (root / "F3" / "MID1" / "new.jpg").write_bytes(b"new")  # in a folder without photos


def _remove(root: Path) -> None:
    (root / "F1" / "MID1" / "a.jpg").unlink()


def _edit(root: Path) -> None:
    (root / "F1" / "MID1" / "b.jpg").write_bytes(b"F1/MID1/B.jpg")  # of the same size


def _rename(root: Path) -> None:
    (root / "F2").rename(root / "F9")


@pytest.mark.parametrize("change", [_add, _remove, _edit, _rename])
def test_one_of_the_parts_sees_any_change(change: object, root: Path, tmp_path: Path) -> None:
    find = Lists(root)
    list_and_keep(tmp_path / "run", ABOUT, find)
    kept = read(
        tmp_path / "run" / FILE, {"schema": 1, "version": kept_listing.__version__, **ABOUT}
    )
    parts = [(number, 4) for number in range(1, 5)]
    assert all(changed_of(kept, part) is None for part in parts)
    change(root)  # type: ignore[operator]
    seen = [part for part in parts if changed_of(kept, part) is not None]
    assert seen
    found, is_kept = kept_photos(tmp_path / "run", ABOUT, find, seen[0])
    assert not is_kept and find.count == 2 and same(found, Lists(root)())


def test_a_folder_that_changed_a_moment_ago_is_listed_again(root: Path, tmp_path: Path) -> None:
    os.utime(root / "F1" / "MID1")
    find = Lists(root)
    for count in (1, 2):
        kept_photos(tmp_path / "run", ABOUT, find, (1, 1))
        assert find.count == count


def test_files_of_photos_are_known_by_their_size_and_time(root: Path, tmp_path: Path) -> None:
    tar = tmp_path / "photos.tar"
    with tarfile.open(tar, "w") as file:
        file.add(root / "F1", "F1")
    os.utime(tar, (1e9, 1e9))
    find = Lists(tar)
    fresh, _ = kept_photos(tmp_path / "run", ABOUT, find, (1, 1))
    assert same(kept_photos(tmp_path / "run", ABOUT, find, (1, 1))[0], fresh) and find.count == 1
    assert same(kept_photos(tmp_path / "run", ABOUT, find, None)[0], fresh)
    os.utime(tar, (1e9, 1e9 + 1))
    kept_photos(tmp_path / "run", ABOUT, find, (1, 1))
    assert find.count == 2


def test_a_machine_that_sees_other_photos_says_so(root: Path, tmp_path: Path) -> None:
    list_and_keep(tmp_path / "run", ABOUT, Lists(root))
    shutil.rmtree(root / "F1" / "MID2")
    with pytest.raises(RunError, match="ü.jpg: is not as the driver listed it"):
        kept_photos(tmp_path / "run", ABOUT, Lists(root), None)
    (tmp_path / "run" / FILE).unlink()
    with pytest.raises(RunError, match="is gone"):
        kept_photos(tmp_path / "run", ABOUT, Lists(root), None)


@settings(max_examples=15)
@given(at=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(
    at: int, bit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("listing")
    (folder / "photos").mkdir()
    (folder / "photos" / "a.jpg").write_bytes(b"a")
    write(folder / FILE, ABOUT, Lists(folder / "photos")(), 0)
    content = bytearray((folder / FILE).read_bytes())
    assert len(read(folder / FILE, ABOUT).listing) == 1
    content[at % len(content)] ^= 1 << bit
    (folder / FILE).write_bytes(content)
    with pytest.raises(ValueError, match="."):
        read(folder / FILE, ABOUT)
    (folder / FILE).write_bytes(content[: at % len(content)])
    with pytest.raises(ValueError, match="."):
        read(folder / FILE, ABOUT)
