"""Embedding: names, digests, vectors and provenance of the cache; what interrupts it."""

import hashlib
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

import kinembed
from kinembed import embed as stage
from kinembed.cache import EmbeddingCache
from kinembed.config import EmbedConfig
from kinembed.embed import embed, find_photos
from kinembed.errors import DataError, KinembedError, RunError
from kinembed.networks import BACKBONES
from kinembed.networks.siamese import Normalise, load_model
from kinembed.networks.trunk import Trunk
from kinembed.networks.weights import digest, load_trunk
from kinembed.photos import decode_photo
from kinembed.progress import Bar

ONET = BACKBONES["mtcnn-onet"]


def opened(run: Path) -> EmbeddingCache:
    return EmbeddingCache.open(run / "embeddings.h5")


def names_in(run: Path) -> list[str]:
    with opened(run) as cache:
        return [name.decode() for name in cache.names.tolist()]


def slow_vectors(trunk: Trunk, path: Path, views: tuple[str, ...]) -> dict[str, np.ndarray]:
    """One photo, unfolded, in the default memory format."""
    pixels = decode_photo(path.read_bytes(), ONET.framing, path.name)
    with torch.inference_mode():
        x = Normalise(ONET.pixels)(torch.from_numpy(pixels.copy())[None]).contiguous()
        return {view: v[0].numpy() for view, v in trunk.eval().views(x, views).items()}


# The cache it writes


def test_names_are_the_paths_below_data_sorted(tuned: Path, faces: Path) -> None:
    wanted = [p.relative_to(faces).as_posix() for p in faces.rglob("*.jpg")]
    assert names_in(tuned) == sorted(wanted)
    assert any(name.startswith("test/") for name in wanted)


def test_digests_are_of_the_photos_files(tuned: Path, faces: Path) -> None:
    names = names_in(tuned)
    with opened(tuned) as cache:
        for name, found in zip(names, cache.digests, strict=True):
            assert found.tobytes() == hashlib.sha256((faces / name).read_bytes()).digest()


def test_vectors_are_the_networks_own(tuned: Path, faces: Path) -> None:
    trunk = load_model(tuned / "model.pt").trunk
    names = names_in(tuned)
    with opened(tuned) as cache:
        assert sorted(cache.views) == ["avg", "max"]
        for row in range(0, len(names), 7):
            wanted = slow_vectors(trunk, faces / names[row], ("max", "avg"))
            for view, vector in wanted.items():
                found = cache.vectors(view)[row]
                assert found.dtype == np.float32
                assert np.abs(vector).max() > 0.1
                assert np.abs(found - vector).max() < 1e-5 * max(1, np.abs(vector).max())


def test_provenance_says_all_that_changes_a_number(tuned: Path) -> None:
    with opened(tuned) as cache:
        found = cache.provenance
    assert found == {
        "schema": 1,
        "backbone": "mtcnn-onet",
        "model": digest(load_model(tuned / "model.pt").trunk),
        "photos": {
            "framing": {"side": 48, "inner": 48, "top": 0, "left": 0},
            "pixels": {"order": "rgb", "mean": [127.5] * 3, "scale": [128.0] * 3},
        },
        "dtype": "float32",
        "precision": "fp32",
        "device": "cpu",
        "versions": {
            "kinembed": kinembed.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "h5py": h5py.__version__,
            "python": platform.python_version(),
        },
    }


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_the_batch_size_changes_nothing(
    tuned: Path, faces: Path, run: Path, on_cpu: EmbedConfig, batch_size: int
) -> None:
    embed(replace(on_cpu, photos=("test",), batch_size=batch_size), faces, run)
    names = names_in(run)
    assert names == [name for name in names_in(tuned) if name.startswith("test/")]
    with opened(run) as cache, opened(tuned) as whole:
        assert cache.views == ("max",)
        wanted = whole.vectors("max")[whole.find(names)]
        assert np.abs(cache.vectors("max") - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_float16_is_the_rounded_float32(
    tuned: Path, faces: Path, run: Path, on_cpu: EmbedConfig
) -> None:
    embed(replace(on_cpu, dtype="float16"), faces, run)
    with opened(run) as cache, opened(tuned) as whole:
        found, wanted = cache.vectors("max"), whole.vectors("max")
        assert found.dtype == np.float16
        assert cache.provenance["dtype"] == "float16"
        assert np.allclose(found, wanted, rtol=1e-3, atol=1e-4)


def test_a_backbones_own_weights_are_embedded_with_on_request(
    faces: Path, tmp_path: Path, run: Path, on_cpu: EmbedConfig
) -> None:
    config = replace(on_cpu, backbone="mtcnn-onet", photos=("test",))
    trunk = load_trunk(ONET, "auto")
    for folder in (tmp_path / "new", run):  # the second has a model.pt
        embed(config, faces, folder)
        with opened(folder) as cache:
            assert cache.provenance["model"] == digest(trunk)
            name = cache.names[0].decode()
            wanted = slow_vectors(trunk, faces / name, ("max",))["max"]
            assert np.allclose(cache.vectors("max")[0], wanted, rtol=1e-5, atol=1e-5)
    path = tmp_path / "weights.pt"
    torch.save(load_model(run / "model.pt").trunk.state_dict(), path)
    embed(replace(config, weights=str(path)), faces, tmp_path / "new")
    with opened(tmp_path / "new") as cache:
        assert cache.provenance["model"] == digest(load_model(run / "model.pt").trunk)


def test_the_times_are_told(
    faces: Path, run: Path, on_cpu: EmbedConfig, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="kinembed"):
        embed(replace(on_cpu, photos=("test",)), faces, run)
    line = caplog.records[-1].getMessage()
    for part in ("24 photos (0 left out)", "photos/s", "read ", "infer ", "write "):
        assert part in line


# Which photos


def test_photos_of_any_folder_are_named_below_it(
    faces: Path, tmp_path: Path, run: Path, on_cpu: EmbedConfig
) -> None:
    album = tmp_path / "album"
    (album / "deep").mkdir(parents=True)
    source = next((faces / "test").iterdir())
    (album / "deep" / "é x.jpg").write_bytes(source.read_bytes())
    Image.open(source).save(album / "B.PNG")
    (album / "notes.txt").write_text("not a photo")
    embed(replace(on_cpu, photos=(str(album),)), tmp_path / "no data", run)
    assert names_in(run) == ["B.PNG", "deep/é x.jpg"]
    embed(replace(on_cpu, photos=("test", str(album))), faces, run)
    assert names_in(run)[:2] == ["B.PNG", "deep/é x.jpg"]
    assert len(names_in(run)) == 26


def test_photos_are_found_where_their_names_say(faces: Path) -> None:
    for name, path in find_photos(("test", "train"), faces).items():
        assert path == faces / name and path.is_file()


def test_train_may_be_called_train_faces(data: Path) -> None:
    (data / "train").rename(data / "train-faces")
    names = list(find_photos(("train",), data))
    assert names and all(name.startswith("train-faces/") for name in names)


def test_two_photos_of_one_name_are_refused(faces: Path) -> None:
    with pytest.raises(DataError, match=r"test/face.*\.jpg: both below"):
        find_photos(("test", "test"), faces)


def test_folders_that_are_missing_or_without_photos_are_named(
    faces: Path, tmp_path: Path, run: Path, on_cpu: EmbedConfig
) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder"):
        embed(replace(on_cpu, photos=(str(tmp_path / "nowhere"),)), faces, run)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no JPEG or PNG below it"):
        embed(replace(on_cpu, photos=(str(tmp_path / "empty"),)), faces, run)
    with pytest.raises(DataError, match="wanted Kaggle's files"):
        embed(on_cpu, tmp_path / "empty", run)


# Unreadable photos


def test_an_unreadable_photo_is_named_or_left_out(
    data: Path,
    tuned: Path,
    run: Path,
    on_cpu: EmbedConfig,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = (run / "embeddings.h5").read_bytes()
    half, text = sorted((data / "test").iterdir())[5:7]
    half.write_bytes(half.read_bytes()[:400])
    text.write_text("not a photo")
    with pytest.raises(DataError, match=rf"{half.name}: cannot be decoded .*--skip-unreadable"):
        embed(on_cpu, data, run)
    assert (run / "embeddings.h5").read_bytes() == before
    with caplog.at_level("INFO", logger="kinembed"):
        embed(replace(on_cpu, skip_unreadable=True, batch_size=4), data, run)
    log = [record.getMessage() for record in caplog.records]
    assert f"left out: test/{half.name}" in log and f"left out: test/{text.name}" in log
    assert "(2 left out)" in log[-1]
    gone = {f"test/{half.name}", f"test/{text.name}"}
    assert names_in(run) == [name for name in names_in(tuned) if name not in gone]
    with opened(run) as cache, opened(tuned) as whole:  # the rows still belong to their names
        wanted = whole.vectors("max")[whole.find(names_in(run))]
        assert np.abs(cache.vectors("max") - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_photos_of_which_none_can_be_read_are_refused(
    data: Path, run: Path, on_cpu: EmbedConfig
) -> None:
    before = (run / "embeddings.h5").read_bytes()
    for photo in (data / "test").iterdir():
        photo.write_text("not a photo")
    with pytest.raises(DataError, match="no photo could be embedded"):
        embed(replace(on_cpu, photos=("test",), skip_unreadable=True), data, run)
    assert (run / "embeddings.h5").read_bytes() == before


# What stops it


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), OSError(28, "No space left on device"), RuntimeError("odd")]
)
def test_whatever_stops_it_leaves_the_old_cache(
    faces: Path, run: Path, on_cpu: EmbedConfig, error: BaseException
) -> None:
    before = {p.name: p.read_bytes() for p in run.iterdir()}

    @contextmanager
    def progress(label: str, total: int) -> Iterator[Bar]:
        class Failing:
            def advance(self, count: int, note: str = "") -> None:
                assert (run / "embed.partial").is_dir()
                raise error

        yield Failing()

    with pytest.raises(type(error)):
        embed(on_cpu, faces, run, progress=progress)
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before


def test_a_writer_that_fails_stops_it(
    faces: Path, run: Path, on_cpu: EmbedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {p.name: p.read_bytes() for p in run.iterdir()}

    def append(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stage.CacheWriter, "append", append)
    with pytest.raises(OSError, match="No space left on device"):
        embed(on_cpu, faces, run)
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before


@pytest.mark.filterwarnings("ignore:overflow")
def test_vectors_that_are_not_finite_are_refused(
    faces: Path, run: Path, tmp_path: Path, on_cpu: EmbedConfig
) -> None:
    before = (run / "embeddings.h5").read_bytes()
    state = load_trunk(ONET, "auto").state_dict()
    state["conv4.weight"] *= 1e6
    torch.save(state, tmp_path / "large.pt")
    config = replace(on_cpu, backbone="mtcnn-onet", weights=str(tmp_path / "large.pt"))
    with pytest.raises(KinembedError, match=r"face.*\.jpg: view max is not finite"):
        embed(replace(config, dtype="float16"), faces, run)
    assert (run / "embeddings.h5").read_bytes() == before
    embed(config, faces, run)  # float32 holds them


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"views": ("max", "native")}, "view 'native': backbone mtcnn-onet has max, avg"),
        ({"views": ()}, "wanted one or more different names"),
        ({"device": "tpu"}, "device 'tpu' is not on this machine"),
        ({"backbone": "resnet51"}, "backbone 'resnet51' is unknown"),
        ({"weights": "some.pt"}, "--weights is of a backbone: name it with --backbone"),
    ],
)
def test_settings_that_cannot_be_embedded_with_are_named(
    faces: Path, run: Path, on_cpu: EmbedConfig, changes: dict, problem: str
) -> None:
    before = (run / "embeddings.h5").read_bytes()
    with pytest.raises(KinembedError, match=problem):
        embed(replace(on_cpu, **changes), faces, run)
    assert (run / "embeddings.h5").read_bytes() == before


def test_no_model_says_what_to_run(faces: Path, tmp_path: Path, on_cpu: EmbedConfig) -> None:
    with pytest.raises(RunError, match=r"model\.pt: no such file; run kinembed finetune"):
        embed(on_cpu, faces, tmp_path / "new")
    assert not (tmp_path / "new").exists()
