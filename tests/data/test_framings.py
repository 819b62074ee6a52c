"""The frame of a folder by the faces on a sample of its photos."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kinembed.backbones import ALIGNED_FACE, BACKBONES, LOOSE_FACE, Framing
from kinembed.backbones.framing import as_face, choose, distance
from kinembed.data import framings as module
from kinembed.data.framings import Faces, choose_framings, look
from kinembed.errors import KinembedError

MOBILE = BACKBONES["mobilefacenet"]
ONET = BACKBONES["mtcnn-onet"]


@pytest.fixture(scope="module")
def photos(faces: Path) -> list[Path]:
    return sorted((faces / "train").rglob("*.jpg"))[:24]


def shrunk(photos: list[Path], folder: Path, inner: int, left: int, top: int) -> list[Path]:
    """The photos at `inner` of 128 px on grey, as files of a folder."""
    folder.mkdir()
    paths = []
    for number, path in enumerate(photos):
        sheet = Image.new("RGB", (128, 128), (110, 110, 110))
        with Image.open(path) as image:
            sheet.paste(image.resize((inner, inner)), (left, top))
        paths.append(folder / f"{number:03}.png")
        sheet.save(paths[-1])
    return paths


def as_seen(monkeypatch: pytest.MonkeyPatch, **seen: Faces) -> None:
    """From now on, folders show these faces; a folder's one file has its name."""
    monkeypatch.setattr(module, "look", lambda paths: seen[paths[0].name])


def folders_of(*names: str) -> dict[str, list[Path]]:
    return {name: [Path(name)] for name in names}


LOOSE, ALIGNED = (Faces(64, 60, face, 0.03, 0.5) for face in (LOOSE_FACE, ALIGNED_FACE))
TIGHT = replace(LOOSE, face=as_face(np.array(LOOSE_FACE) * 1.2 - 0.1))
NONE = Faces(64, 3, None, 0.0, 0.5)


def test_a_sample_shows_where_the_faces_lie(photos: list[Path], tmp_path: Path) -> None:
    plain = look(photos)
    assert plain.photos == 24 and plain.found >= 12 and plain.face is not None
    assert 0 < plain.spread < 0.15 and plain.seconds > 0
    other = look(shrunk(photos, tmp_path / "far", 80, 10, 30))
    assert other.face is not None
    wanted = as_face(np.array(plain.face) * 80 / 128 + np.array([10, 30]) / 128)
    assert distance(other.face, wanted) < 0.03


def test_a_sample_is_always_the_same(photos: list[Path]) -> None:
    first, again = (look(paths, 8) for paths in (photos, photos[::-1]))
    assert first.photos == 8
    assert replace(first, seconds=0) == replace(again, seconds=0)


def test_the_frame_brings_faces_to_one_place_wherever_they_lie(
    photos: list[Path], tmp_path: Path
) -> None:
    (whole,) = choose_framings(MOBILE, {"a": photos}).values()
    (small,) = choose_framings(MOBILE, {"b": shrunk(photos, tmp_path / "b", 64, 5, 50)}).values()
    # The photo of `b` is twice as wide, and its face half as large.
    assert small.inner / 2 == pytest.approx(whole.inner, abs=5)
    assert small.top + small.inner * 50 / 128 == pytest.approx(whole.top, abs=5)
    assert small.left + small.inner * 5 / 128 == pytest.approx(whole.left, abs=5)


def test_a_name_looks_at_no_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    as_seen(monkeypatch)
    for name, wanted in (("loose", MOBILE.framing), ("whole", Framing(112, 112))):
        result = choose_framings(MOBILE, folders_of("a", "b"), name)
        assert result == {"a": wanted, "b": wanted}
    with pytest.raises(KinembedError, match="framing 'all' is unknown"):
        choose_framings(MOBILE, folders_of("a"), "all")


def test_the_choice_is_said_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    as_seen(monkeypatch, train=LOOSE, test=LOOSE)
    with caplog.at_level("INFO", logger="kinembed"):
        result = choose_framings(MOBILE, folders_of("train", "test"))
    assert set(result.values()) == {MOBILE.framing}
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        f"{folder}: eyes at 0.30 and 0.69 of the width and 0.28 of the height, mouth at 0.69 (on "
        "60 of 64 photos, 0.5 s), so framing loose"
        for folder in ("train", "test")
    ]


def test_folders_that_differ_have_their_own_frames_and_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    as_seen(monkeypatch, train=LOOSE, test=ALIGNED)
    for backbone in (MOBILE, ONET):  # the second has one frame for both
        caplog.clear()
        with caplog.at_level("WARNING", logger="kinembed"):
            result = choose_framings(backbone, folders_of("train", "test"))
        side = backbone.framing.side
        assert result == {"train": backbone.framing, "test": Framing(side, side)}
        (warning,) = caplog.records
        assert "train loose, test aligned" in warning.getMessage()
        assert "--framing" in warning.getMessage()


def test_without_faces_photos_are_taken_for_kaggles_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    as_seen(monkeypatch, album=NONE)
    assert choose_framings(MOBILE, folders_of("album")) == {"album": MOBILE.framing}
    (warning,) = (r.getMessage() for r in caplog.records if r.levelno == logging.WARNING)
    assert "album: too few faces found (on 3 of 64 photos" in warning
    assert "so framing loose" in warning and "--framing" in warning


def test_faces_at_very_different_places_are_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    as_seen(monkeypatch, album=replace(TIGHT, spread=0.3))
    choose_framings(MOBILE, folders_of("album"))
    (warning,) = (r.getMessage() for r in caplog.records if r.levelno == logging.WARNING)
    assert "album: the faces lie at very different places" in warning


def test_frames_in_use_stay_and_folders_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TIGHT.face is not None
    first = choose(MOBILE, TIGHT.face, 60)[1]
    near = replace(TIGHT, face=as_face(np.array(TIGHT.face) + 0.01))
    assert choose(MOBILE, as_face(np.array(TIGHT.face) + 0.01), 60)[1] != first
    as_seen(monkeypatch, train=TIGHT, test=near)
    folders = folders_of("train", "test")
    assert set(choose_framings(MOBILE, folders).values()) == {first}
    as_seen(monkeypatch, train=near, test=near)
    assert set(choose_framings(MOBILE, folders, "auto", {"train": first}).values()) == {first}
    as_seen(monkeypatch, train=LOOSE)  # no longer of the same photos
    result = choose_framings(MOBILE, folders_of("train"), "auto", {"train": first})
    assert result == {"train": MOBILE.framing}


def test_what_is_no_photo_is_left_to_embedding(tmp_path: Path, photos: list[Path]) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff none")
    assert replace(look([broken, *photos[:6]]), seconds=0) == replace(look(photos[:6]), seconds=0)
    assert replace(look([broken]), seconds=0) == Faces(0, 0, None, 0.0, 0)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("folder", "wanted"),
    [
        ("rfiw/train", "loose"),
        ("rfiw/test", "loose"),
        ("cases/aligned/photos", "aligned"),
        ("kinfacew/KinFaceW-II/images", "fitted"),
    ],
)
def test_real_folders(shared: Callable[[str], Path], folder: str, wanted: str) -> None:
    seen = look(sorted(shared(folder).rglob("*.jpg")))
    assert seen.face is not None and seen.found > 0.9 * seen.photos and seen.spread < 0.06
    assert choose(MOBILE, seen.face, seen.found)[0] == wanted
