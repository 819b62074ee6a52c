"""Reading in batches: new photos, repeated ones, unreadable ones."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kinembed.backbones import Framing
from kinembed.data.listing import Photo, photo_at
from kinembed.data.photos import decode_photo
from kinembed.data.reader import Reader
from kinembed.errors import DataError

FRAMING = Framing(side=8, inner=8)


def framed(paths: dict[str, Path]) -> dict[str, Framing]:
    return dict.fromkeys(paths, FRAMING)


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, Path]:
    """Six photos: `c` has the bytes of `a`, `f` those of `e`, and `d` is no photo."""
    files = {name: tmp_path / f"{name}.png" for name in "abcdef"}
    for number, name in enumerate("abe"):
        Image.fromarray(np.full((8, 8, 3), 40 * number, np.uint8)).save(files[name])
    files["c"].write_bytes(files["a"].read_bytes())
    files["f"].write_bytes(files["e"].read_bytes())
    files["d"].write_text("not a photo")
    return files


def photos(paths: dict[str, Path], names: str) -> list[Photo]:
    return [photo_at(paths[name], name) for name in names]


def names(photos: list[Photo]) -> str:
    return "".join(photo.name for photo in photos)


def sha(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def test_a_batch_has_pixels_and_digests_in_order(paths: dict[str, Path]) -> None:
    batch = Reader(paths, framed(paths)).read(photos(paths, "eba"))
    assert names(batch.photos) == "eba" and len(batch) == 3
    for photo, pixels in zip(batch.photos, batch.pixels, strict=True):
        path = paths[photo.name]
        stat = path.stat()
        assert photo == Photo(photo.name, sha(path), stat.st_size, stat.st_mtime_ns)
        assert np.array_equal(pixels, decode_photo(path.read_bytes(), FRAMING, "x"))


def test_repeats_are_dropped_within_and_across_batches(paths: dict[str, Path]) -> None:
    reader = Reader(paths, framed(paths))
    first, second = (reader.read(photos(paths, part)) for part in ("abc", "cef"))
    for batch in (first, second):
        reader.drop_repeats(batch)
    assert (names(first.photos), names(first.same)) == ("ab", "c")
    assert (names(second.photos), names(second.same)) == ("e", "cf")
    assert len(first.pixels) == 2 and len(second.pixels) == 1
    assert len(first) == len(second) == 3
    assert first.same[0].digest == sha(paths["a"])


def test_known_bytes_are_not_decoded(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []

    def decode(content: bytes, framing: Framing, name: str) -> np.ndarray:
        decoded.append(Path(name).stem)
        return decode_photo(content, framing, name)

    monkeypatch.setattr("kinembed.data.photo_processes.decode_photo", decode)
    reader = Reader(paths, framed(paths), known={sha(paths["a"])})
    batch = reader.read(photos(paths, "abc"))
    assert (names(batch.photos), names(batch.same), decoded) == ("b", "ac", ["b"])
    assert reader.time.seconds > 0


def test_unreadable_photos_are_named_or_left_out(
    paths: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "kinembed")
    paths["g"] = paths["a"].with_name("absent.png")
    with pytest.raises(DataError, match=r"d\.png: cannot be decoded"):
        Reader(paths, framed(paths)).read(photos(paths, "adb"))
    with pytest.raises(DataError, match=r"absent\.png: No such file"):
        Reader(paths, framed(paths)).read(photos(paths, "ag"))
    batch = Reader(paths, framed(paths), skip_unreadable=True).read(photos(paths, "adgb"))
    assert (names(batch.photos), batch.skipped, len(batch)) == ("ab", ["d", "g"], 4)
    assert len(batch.pixels) == 2
    wanted = [f"{paths['d']}: cannot be decoded (not a photo)"]
    assert caplog.messages == [*wanted, f"{paths['g']}: No such file or directory"]


def test_each_photo_has_its_own_frame_and_then_equal_files_are_not_shared(
    paths: dict[str, Path],
) -> None:
    small = Framing(side=8, inner=4, top=1, left=2)
    framings = {**framed(paths), "c": small}
    reader = Reader(paths, framings, known={sha(paths["a"])})
    batch = reader.read(photos(paths, "abc"))
    reader.drop_repeats(batch)
    assert (names(batch.photos), names(batch.same)) == ("abc", "")  # c has the bytes of a
    for pixels, name in zip(batch.pixels, "abc", strict=True):
        path = paths[name]
        wanted = decode_photo(path.read_bytes(), small if name == "c" else FRAMING, "x")
        assert np.array_equal(pixels, wanted)
