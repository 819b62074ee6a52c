"""Photos below a folder: what counts as one, and what is left out, counted and shown."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinembed.cache import check_names
from kinembed.data.folders import UNSAFE_NAME, list_photos, unsafe_names
from kinembed.errors import DataError, RunError


def lay_out(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


SYSTEM = "in folders of the system or of thumbnails"


def test_hidden_and_system_folders_are_left_out_and_counted(tmp_path: Path) -> None:
    lay_out(
        tmp_path,
        *("F1/A/1.jpg", "F1/A/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "F1/A/@eaDir/1.jpg/x.txt"),
        *(".ipynb_checkpoints/1-checkpoint.jpg", "F1/.cache/a/b/c.png", "__MACOSX/F1/A/._1.jpg"),
        *("__MACOSX/F1/A/2.jpg", ".thumbnails/t.png", "lost+found/x.jpg", "$RECYCLE.BIN/y.jpg"),
        "Thumbnails/z.jpg",
    )
    found = list_photos(tmp_path)
    assert found.names == ("F1/A/1.jpg",)
    assert found.left_out.counts == {SYSTEM: 6, "in hidden folders": 3}
    assert found.left_out.examples[SYSTEM] == "$RECYCLE.BIN/y.jpg"


def test_the_folder_that_is_named_may_be_hidden_itself(tmp_path: Path) -> None:
    lay_out(tmp_path, ".album/thumbs/1.jpg", ".album/2.jpg")
    assert list_photos(tmp_path / ".album").names == ("2.jpg",)
    assert list_photos(tmp_path / ".album" / "thumbs").names == ("1.jpg",)


def test_other_files_are_counted_by_reason(tmp_path: Path) -> None:
    lay_out(
        tmp_path, "a.jpg", "._a.jpg", "Thumbs.db", "desktop.ini", ".DS_Store", "mid.csv", "b.txt"
    )
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "linked.jpg").symlink_to(tmp_path / "a.jpg")
    (tmp_path / "piped.jpg").symlink_to(tmp_path / "pipe.jpg")
    found = list_photos(tmp_path)
    assert found.names == ("a.jpg", "linked.jpg")
    assert found.left_out.counts == {
        "hidden files or files of the system": 4,
        "other files": 2,
        "pipes, sockets or devices": 2,
        "links that lead nowhere": 1,
    }
    assert found.left_out.examples["other files"] == "b.txt"


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    lay_out(tmp_path / "elsewhere", "F2/A/1.jpg", "F2/B/2.jpg")
    root = lay_out(tmp_path / "photos", "F1/A/1.jpg")
    (root / "F2").symlink_to(tmp_path / "elsewhere" / "F2")
    (root / "F1" / "A" / "up").symlink_to(root)
    (root / "F1" / "B").symlink_to(root / "F1" / "A")
    (tmp_path / "elsewhere" / "F2" / "A" / "back").symlink_to(root / "F1")
    (tmp_path / "elsewhere" / "F2" / "all").symlink_to(tmp_path)
    found = list_photos(root)
    assert found.names == ("F1/A/1.jpg", "F2/A/1.jpg", "F2/B/2.jpg")
    assert set(found.left_out.counts) == {"links to folders that are listed already"}
    assert len(found.left_out) == 5


def test_a_folder_that_cannot_be_read_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out(tmp_path, "a.jpg", "closed/b.jpg")
    scan = os.scandir

    def closed(path: str) -> object:  # root may read every folder
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr("kinembed.data.folders.os.scandir", closed)
    found = list_photos(tmp_path)
    assert found.names == ("a.jpg",)
    assert found.left_out.counts == {"folders that cannot be read: Permission denied": 1}


def test_names_are_decided_at_the_door(tmp_path: Path) -> None:
    fine = [
        "x:y.jpg",
        "C:z.jpg",
        "a b.jpg",
        "-.jpg",
        "=1+1.jpg",
        "émile.jpg",
        "a,b;c.jpg",
        '"q".jpg',
    ]
    lay_out(tmp_path, *fine, "a\\b.jpg", "tab\there.jpg", "line\nbreak.jpg", "esc\x1b[2J.jpg")
    raw = os.fsencode(tmp_path) + b"/\xff.jpg"
    try:
        with open(raw, "wb"):
            pass
    except OSError:
        pytest.skip("this file system takes no such names")
    found = list_photos(tmp_path)
    assert found.names == tuple(sorted(fine))
    odd = "whose names hold a backslash or a control character"
    assert found.left_out.counts == {odd: 4, "whose names are not UTF-8": 1}
    str(found.left_out).encode()
    check_names(np.array(sorted(name.encode() for name in fine)), tmp_path)


@given(st.text(min_size=1, max_size=12))
def test_the_door_and_the_cache_refuse_the_same_names(name: str) -> None:
    is_safe = "\n" not in name and not UNSAFE_NAME.search(name) and not name.endswith("\0")
    try:
        check_names(np.array([name.encode()]), Path("c.h5"))
    except RunError:
        assert not is_safe
    else:
        assert is_safe


def test_a_drive_matters_where_there_are_drives() -> None:
    for name in ("C:a.jpg", "x:y.jpg", "a/stream.jpg:hidden"):
        assert unsafe_names("nt").search(name) and not unsafe_names("posix").search(name)
    assert not unsafe_names("nt").search("a/b.jpg\nc.jpg")


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder; name one with photos in it"):
        list_photos(tmp_path / "nowhere")
