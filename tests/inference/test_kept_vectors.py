"""Vectors kept by the bytes of crops: computed once, gone on with after an interruption."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from kinembed.inference import kept_vectors
from kinembed.inference.kept_vectors import KeptVectors


class Network:
    """A network whose vectors are the letters of a crop; counts what it is asked."""

    def __init__(self, dies_after: int = 10**9) -> None:
        self.asked: list[bytes] = []
        self.dies_after = dies_after

    def __call__(self, crops: Sequence[bytes]) -> Mapping[str, np.ndarray]:
        if len(self.asked) >= self.dies_after:
            raise KeyboardInterrupt
        self.asked += crops
        letters = np.array([[*crop[:3]] for crop in crops], np.float32)
        return {"a": letters, "b": letters[:, :2] / 7}


@pytest.fixture
def crops(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.jpg" for number in range(20)]
    for number, path in enumerate(paths):
        path.write_bytes(b"%03d" % (number // 2))  # every two of the same bytes
    return paths


def rows(vectors: Mapping[str, np.ndarray]) -> list[bytes]:
    return [bytes(row.astype(np.uint8).tolist()) for row in vectors["a"]]


def test_each_crop_is_embedded_once(tmp_path: Path, crops: list[Path]) -> None:
    network, path = Network(), tmp_path / "vectors.npz"
    found, count = KeptVectors.read(path, "key").of(crops, network)
    assert count == len(network.asked) == 10
    assert rows(found) == [path.read_bytes() for path in crops]
    assert found["b"] == pytest.approx(found["a"][:, :2] / 7)
    before = path.read_bytes()
    found, count = KeptVectors.read(path, "key").of(crops, Network(0))
    assert count == 0 and rows(found) == [path.read_bytes() for path in crops]
    assert path.read_bytes() == before


def test_a_changed_album_embeds_what_is_new_and_forgets_what_is_gone(
    tmp_path: Path, crops: list[Path]
) -> None:
    path, network = tmp_path / "vectors.npz", Network()
    KeptVectors.read(path, "key").of(crops, Network())
    crops[0].write_bytes(b"new")
    now = crops[:10][::-1]
    found, count = KeptVectors.read(path, "key").of(now, network)
    assert count == 1 and network.asked == [b"new"]
    assert rows(found) == [path.read_bytes() for path in now]
    assert len(KeptVectors.read(path, "key").rows) == 6


def test_an_interrupted_call_is_gone_on_with(
    tmp_path: Path, crops: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_vectors, "BATCH", 2)
    monkeypatch.setattr(kept_vectors, "UNSAVED", 4)
    path = tmp_path / "vectors.npz"
    with pytest.raises(KeyboardInterrupt):
        KeptVectors.read(path, "key").of(crops, Network(dies_after=6))
    network = Network()
    found, count = KeptVectors.read(path, "key").of(crops, network)
    assert count == 6 and network.asked[0] == b"004"  # four were saved, two were lost
    assert rows(found) == [path.read_bytes() for path in crops]


def test_another_key_counts_for_nothing(tmp_path: Path, crops: list[Path]) -> None:
    path = tmp_path / "vectors.npz"
    KeptVectors.read(path, "key").of(crops, Network())
    assert not KeptVectors.read(path, "other").rows


def broken(content: bytes) -> list[bytes]:
    turned = bytearray(content)
    turned[len(turned) // 2] ^= 1
    return [b"", b"PK", content[:200], content[:-30], bytes(turned)]


def test_a_broken_file_counts_for_nothing(tmp_path: Path, crops: list[Path]) -> None:
    path = tmp_path / "vectors.npz"
    KeptVectors.read(path, "key").of(crops, Network())
    content = path.read_bytes()
    for bad in broken(content):
        path.write_bytes(bad)
        found, _ = KeptVectors.read(path, "key").of(crops, Network())
        assert rows(found) == [path.read_bytes() for path in crops]
    for name, array in (
        ("a", np.full((10, 3), np.nan, np.float32)),
        ("a", np.zeros((9, 3), np.float32)),
        ("a", np.zeros((10, 3), np.float64)),
        ("digests", np.zeros((10, 31), np.uint8)),
        ("key", np.array([None])),
    ):
        with np.load(tmp_path / "vectors.npz") as arrays:
            content_now = {key: arrays[key] for key in arrays.files}
        with path.open("wb") as file:
            np.savez(file, **{**content_now, name: array})
        assert not KeptVectors.read(path, "key").rows, name
        KeptVectors.read(path, "key").of(crops, Network())
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("note.txt", "hello")
    assert not KeptVectors.read(path, "key").rows
