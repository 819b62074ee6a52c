"""Embedding: names, digests, vectors and provenance of the cache; what interrupts it."""

import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from forked import Forked
from made_caches import computed, content, names_in, opened
from PIL import Image
from small_networks import WIDTH, Small, stand_in

import kinembed
from kinembed.backbones import BACKBONES, Framing
from kinembed.backbones.embedder import Normalise
from kinembed.backbones.framing import as_face
from kinembed.backbones.trunk import Trunk
from kinembed.backbones.weights import digest, load_trunk
from kinembed.cache import EmbeddingCache
from kinembed.cache.provenance import Provenance
from kinembed.cache.verify import unsound_rows, verify
from kinembed.cache.writer import write_cache
from kinembed.cli import run as run_command
from kinembed.config import EmbedConfig, FinetuneConfig, ScoreConfig
from kinembed.data import framings
from kinembed.data.framings import Faces
from kinembed.data.photo_files import find_photos
from kinembed.data.photo_processes import PhotoProcesses
from kinembed.data.photos import decode_photo, read_photo
from kinembed.embed import embed
from kinembed.embedding import pipeline, work
from kinembed.embedding.repair import repair
from kinembed.embedding.shards import Shard, ShardRow, Shards, locked
from kinembed.errors import DataError, KinembedError, RunError
from kinembed.finetune import finetune
from kinembed.heads.kept import kept_heads, use_head
from kinembed.progress import Bar
from kinembed.recipes import RECIPES
from kinembed.score import score
from kinembed.training.siamese import load_model

ONET = BACKBONES["mtcnn-onet"]


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
        for name, result in zip(names, cache.digests, strict=True):
            assert result.tobytes() == hashlib.sha256((faces / name).read_bytes()).digest()


def test_vectors_are_the_networks_own(tuned: Path, faces: Path) -> None:
    trunk = load_model(tuned / "model.pt").trunk
    names = names_in(tuned)
    with opened(tuned) as cache:
        assert sorted(cache.views) == ["avg", "max"]
        for row in range(0, len(names), 7):
            wanted = slow_vectors(trunk, faces / names[row], ("max", "avg"))
            for view, vector in wanted.items():
                result = cache.vectors(view)[row]
                assert result.dtype == np.float32
                assert np.abs(vector).max() > 0.1
                assert np.abs(result - vector).max() < 1e-5 * max(1, np.abs(vector).max())


def test_provenance_says_all_that_changes_a_number(tuned: Path) -> None:
    with opened(tuned) as cache:
        result = cache.provenance
    assert result == {
        "schema": 5,
        "backbone": "mtcnn-onet",
        "model": digest(load_model(tuned / "model.pt").trunk),
        "input": {
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
            "python": platform.python_version(),
        },
        "command": {
            "photos": ["train", "test"],
            "backbone": None,
            "weights": "auto",
            "framing": "loose",
        },
        "split": load_model(tuned / "model.pt").split,
        "finetuned": {
            "recipe": json.loads(json.dumps(RECIPES["dense"].as_record())),
            "view": "max",
            "epoch_chosen_by": "held-out people",
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
        assert cache.views == whole.views  # none is dropped
        wanted = whole.vectors("max")[whole.find(names)]
        assert np.abs(cache.vectors("max") - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_float16_is_the_rounded_float32(
    tuned: Path, faces: Path, run: Path, on_cpu: EmbedConfig
) -> None:
    embed(replace(on_cpu, dtype="float16"), faces, run)
    with opened(run) as cache, opened(tuned) as whole:
        result, wanted = cache.vectors("max"), whole.vectors("max")
        assert result.dtype == np.float16
        assert cache.provenance["dtype"] == "float16"
        assert np.allclose(result, wanted, rtol=1e-3, atol=1e-4)


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


def test_the_times_are_logged(
    faces: Path, tmp_path: Path, on_cpu: EmbedConfig, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(on_cpu, photos=("test",), backbone="mtcnn-onet")
    with caplog.at_level("INFO", logger="kinembed"):
        embed(config, faces, tmp_path)
    line = caplog.records[-1].getMessage()
    for part in ("24 photos (0 left out)", "opening ", "framing 0.0 s", "joining "):
        assert part in line
    read, infer = r"read [\d.]+ s in \d+ threads", r"infer [\d.]+ s in \d+"
    found = re.search(rf"([\d,]+) photos/s in ([\d.]+) s \({read}, {infer}, write ", line)
    assert found
    rate, seconds = (float(number.replace(",", "")) for number in found.groups())
    assert (rate - 1) * (seconds - 0.06) <= 24 <= (rate + 1) * (seconds + 0.06)
    with caplog.at_level("INFO", logger="kinembed"):
        embed(config, faces, tmp_path)
    line = caplog.records[-1].getMessage()
    assert "0 computed, 24 kept" in line and "photos/s" not in line and "infer" not in line


# Test-time augmentation: mirrored photos


def mirrored(folder: Path, out: Path) -> Path:
    """A folder of the photos mirrored left-right, as PNG, of the same names but the ending."""
    out.mkdir()
    for photo in folder.iterdir():
        with Image.open(photo) as image:
            pixels = np.asarray(image.convert("RGB"))[:, ::-1]
        Image.fromarray(np.ascontiguousarray(pixels)).save(out / f"{photo.stem}.png")
    return out


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_mirrored_views_are_those_of_mirrored_photos(
    precision: str, faces: Path, tmp_path: Path, fresh: EmbedConfig
) -> None:
    config = replace(fresh, precision=precision)
    embed(replace(config, photos=(str(faces / "test"),), flip=True), faces, tmp_path / "a")
    other = mirrored(faces / "test", tmp_path / "mirrored")
    embed(replace(config, photos=(str(other),)), faces, tmp_path / "b")
    with opened(tmp_path / "a") as a, opened(tmp_path / "b") as b:
        assert set(a.views) == {"max", "max-flip", "avg", "avg-flip"}
        assert set(b.views) == {"max", "avg"}
        assert len(a) == len(b) == 24
        for view in b.views:
            result, wanted = a.vectors(f"{view}-flip"), b.vectors(view)
            scale = np.abs(wanted).max()
            near = np.abs(result - wanted).max() / scale
            apart = np.abs(a.vectors(view) - wanted).max() / scale
            assert near < 0.03 and apart > 3 * near


def test_flipping_leaves_the_other_views_as_they_are(
    faces: Path, tmp_path: Path, fresh: EmbedConfig
) -> None:
    embed(fresh, faces, tmp_path / "plain")
    embed(replace(fresh, flip=True), faces, tmp_path / "both")
    plain, both = content(tmp_path / "plain"), content(tmp_path / "both")
    assert all(both[name] == plain[name] for name in plain)
    assert both.keys() - plain.keys() == {"max-flip", "avg-flip"}


def test_views_are_max_and_native_where_none_are_named(
    faces: Path, tmp_path: Path, on_cpu: EmbedConfig
) -> None:
    config = replace(on_cpu, backbone="mtcnn-onet", photos=("test",), flip=True)
    embed(config, faces, tmp_path / "small")
    with opened(tmp_path / "small") as cache:
        assert set(cache.views) == {"max", "max-flip"}
    embed(replace(config, backbone="mobilefacenet", weights="none"), faces, tmp_path / "own")
    with opened(tmp_path / "own") as cache:
        assert set(cache.views) == {"max", "max-flip", "native", "native-flip"}
        assert cache.choose_view(None) == "max"


def test_an_interrupted_embedding_goes_on_with_the_same_flip(
    faces: Path,
    tmp_path: Path,
    small: EmbedConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = replace(small, flip=True, dtype="int8")
    embed(both, faces, tmp_path / "undisturbed")
    run = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stopping_after(3, patch, KeyboardInterrupt())
        embed(both, faces, run)
    with pytest.raises(RunError, match=r"interrupted embedding with another flip; go on"):
        embed(small, faces, run)
    with computed(monkeypatch) as counts:
        embed(replace(both, dtype=None), faces, run)  # in the same number format
    assert sum(counts) == 2 * (len(names_in(run)) - 3 * 16)
    assert content(run) == content(tmp_path / "undisturbed")


def test_flips_are_dropped_without_computing_and_computed_when_they_are_wanted(
    faces: Path, tmp_path: Path, fresh: EmbedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = replace(fresh, flip=True)
    embed(both, faces, tmp_path)
    whole = content(tmp_path)
    with computed(monkeypatch) as counts:
        embed(both, faces, tmp_path)
        embed(fresh, faces, tmp_path)
    assert counts == []
    assert content(tmp_path).keys() == whole.keys() - {"max-flip", "avg-flip"}
    embed(both, faces, tmp_path)
    assert content(tmp_path) == whole


def test_views_of_the_cache_stay_where_no_others_are_asked_for(
    data: Path,
    tmp_path: Path,
    on_cpu: EmbedConfig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    usual = replace(on_cpu, backbone="mtcnn-onet", photos=("test",), flip=None)
    assert usual.views is EmbedConfig.views and usual.flip is EmbedConfig.flip
    wide = replace(usual, views=("avg",), flip=True)
    embed(replace(wide, views=("avg", "max")), data, tmp_path / "wanted")
    wanted = content(tmp_path / "wanted")
    embed(wide, data, tmp_path / "run")
    with caplog.at_level("INFO", logger="kinembed"):
        embed(usual, data, tmp_path / "run")
    assert content(tmp_path / "run") == wanted
    assert "its views avg,avg-flip are kept; --views and --no-flip drop some" in caplog.text
    some = sorted((data / "test").iterdir())[:3]
    kept = [photo.rename(data / photo.name) for photo in some]
    embed(usual, data, tmp_path / "run")
    for photo, before in zip(some, kept, strict=True):
        before.rename(photo)
    with computed(monkeypatch) as counts:
        embed(usual, data, tmp_path / "run")
    assert sum(counts) == 2 * len(some)  # each mirrored, too
    assert content(tmp_path / "run") == wanted
    caplog.clear()
    with caplog.at_level("INFO", logger="kinembed"):
        embed(replace(usual, flip=False), data, tmp_path / "run")
    assert "views avg-flip,max-flip are dropped, as others are asked for" in caplog.text
    with opened(tmp_path / "run") as cache:
        assert set(cache.views) == {"avg", "max"}
    embed(replace(usual, backbone="mobilefacenet", weights="none"), data, tmp_path / "run")
    with opened(tmp_path / "run") as cache:  # another network has its own
        assert set(cache.views) == {"max", "native"}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="tells what is mapped")
def test_the_earlier_cache_is_neither_open_nor_mapped_when_it_is_replaced(
    data: Path, tmp_path: Path, fresh: EmbedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = embed(fresh, data, tmp_path)
    sorted((data / "test").iterdir())[0].unlink()
    move, checked = os.replace, []

    def replace_(source: Path, target: Path) -> None:
        if target == path:
            checked.append(path)
            assert str(path) not in Path("/proc/self/maps").read_text()
            files = [os.readlink(each) for each in Path("/proc/self/fd").iterdir() if each.exists()]
            assert str(path) not in files
        move(source, target)

    monkeypatch.setattr(os, "replace", replace_)
    with opened(tmp_path) as cache:
        before = len(cache)
    embed(fresh, data, tmp_path)
    assert checked == [path]
    with opened(tmp_path) as cache:
        assert len(cache) == before - 1


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_changes_nothing(
    threads: int,
    data: Path,
    tmp_path: Path,
    fresh: EmbedConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    twin = sorted((data / "test").iterdir())[3]
    (data / "test" / "zz twin.jpg").write_bytes(twin.read_bytes())
    (data / "test" / "a broken.jpg").write_text("not a photo")
    config = replace(fresh, flip=True, skip_unreadable=True)
    before = torch.get_num_threads()
    embed(config, data, tmp_path / "as it is")
    monkeypatch.setattr(pipeline, "processors", lambda: threads)
    with computed(monkeypatch) as counts:
        embed(config, data, tmp_path / "run")
    assert sum(counts) == 2 * (len(names_in(tmp_path / "run")) - 1)  # the twin is computed once
    assert content(tmp_path / "run") == content(tmp_path / "as it is")
    assert torch.get_num_threads() == before


# Which photos


def test_photos_read_by_processes_give_the_same_cache(
    data: Path, tmp_path: Path, fresh: EmbedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = sorted((data / "test").iterdir())[3]
    (data / "test" / "zz twin.jpg").write_bytes(twin.read_bytes())
    (data / "test" / "a broken.jpg").write_text("not a photo")
    config = replace(fresh, skip_unreadable=True)
    embed(config, data, tmp_path / "as it is")
    monkeypatch.setattr(work, "in_processes", lambda mapper, photos: photos > 9)
    with patch.object(PhotoProcesses, "close", autospec=True) as closed:
        embed(config, data, tmp_path / "run")
    (processes,) = closed.call_args.args
    assert processes._all
    processes.close()
    assert content(tmp_path / "run") == content(tmp_path / "as it is")
    with pytest.raises(DataError, match=r"a broken\.jpg: cannot be decoded \(not a photo\)"):
        embed(replace(fresh, restart=True), data, tmp_path / "run")


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


def test_folders_of_photos_are_named_once_or_each_by_itself(data: Path, tmp_path: Path) -> None:
    settings = "--backbone mtcnn-onet --device cpu --framing loose --data"
    options = [*settings.split(), str(data)]
    for name, photos in {"once": ["train,test"], "each": ["train", "test"]}.items():
        asked = [text for each in photos for text in ("--photos", each)]
        assert run_command(["embed", "--run", str(tmp_path / name), *asked, *options]) == 0
    assert names_in(tmp_path / "once") == names_in(tmp_path / "each")
    assert {name.split("/")[0] for name in names_in(tmp_path / "each")} == {"train", "test"}


def test_photos_are_found_where_their_names_say(faces: Path) -> None:
    for name, path in find_photos(("test", "train"), faces).paths.items():
        assert path == faces / name and path.is_file()


def test_train_may_be_called_train_faces(data: Path) -> None:
    (data / "train").rename(data / "train-faces")
    names = list(find_photos(("train",), data).paths)
    assert names and all(name.startswith("train-faces/") for name in names)


def test_two_photos_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder / "c").mkdir(parents=True)
        (tmp_path / folder / "c" / "1.jpg").touch()
    with pytest.raises(DataError, match=r"c/1\.jpg: both below .*a/c and .*b"):
        find_photos((str(tmp_path / "a"), str(tmp_path / "b")), tmp_path)


def test_folders_that_overlap_are_refused(tmp_path: Path) -> None:
    for name in ("a/b/1.jpg", "c/2.jpg", "a/.d/3.jpg", "test/4.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "c" / "link").symlink_to(tmp_path / "a" / "b")
    a, inner, c, hidden = (str(tmp_path / name) for name in ("a", "a/b", "c", "a/.d"))
    for folders in ((a, inner), (inner, a), (a, c), (a, f"{a}/../a"), ("test", str(tmp_path))):
        with pytest.raises(DataError, match=r"--photos .*: both hold the same folders"):
            find_photos(folders, tmp_path)
    assert set(find_photos((a, hidden), tmp_path).paths) == {"b/1.jpg", "3.jpg"}


def test_folders_that_are_missing_or_without_photos_are_named(
    faces: Path, tmp_path: Path, run: Path, on_cpu: EmbedConfig
) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder"):
        embed(replace(on_cpu, photos=(str(tmp_path / "nowhere"),)), faces, run)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no JPEG, .* below it"):
        embed(replace(on_cpu, photos=(str(tmp_path / "empty"),)), faces, run)
    with pytest.raises(DataError, match="wanted Kaggle's files"):
        embed(on_cpu, tmp_path / "empty", run)


# Framing


def enlarged(folder: Path, out: Path) -> Path:
    """A folder of the middle of each photo, of the same names."""
    out.mkdir()
    for photo in folder.iterdir():
        with Image.open(photo) as image:
            width, height = image.size
            edge = width // 8
            box = (edge, edge, width - edge, height - edge)
            image.crop(box).save(out / photo.name, quality=95)
    return out


def frames_in(run: Path) -> dict[str, Framing]:
    path = run / "embeddings.h5"
    with opened(run) as cache:
        return Provenance.read(cache.provenance, path).framings()


@pytest.fixture
def auto(fresh: EmbedConfig) -> EmbedConfig:
    return replace(fresh, framing="auto", photos=("test",))


def test_auto_finds_the_frame_and_a_second_run_keeps_it(
    data: Path, tmp_path: Path, auto: EmbedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(auto, data, tmp_path)
    (framing,) = frames_in(tmp_path).values()
    assert framing != ONET.framing  # painted faces are smaller than Kaggle's
    with opened(tmp_path) as cache:
        assert cache.provenance["command"]["framing"] == "auto"
        assert "framings" not in cache.provenance["input"]
        for row in (0, 9):
            pixels = read_photo(data / cache.names[row].decode(), framing)[1]
            x = Normalise(ONET.pixels)(torch.from_numpy(pixels.copy())[None]).contiguous()
            with torch.inference_mode():
                wanted = load_trunk(ONET, "auto").eval().views(x, ("max",))["max"][0].numpy()
            assert np.allclose(cache.vectors("max")[row], wanted, rtol=1e-4, atol=1e-5)
    before = content(tmp_path)
    shutil.copy(next((data / "train").rglob("*.jpg")), data / "test" / "face99999.jpg")
    look = framings.look

    def elsewhere(paths: list[Path]) -> Faces:
        faces = look(paths)
        assert faces.face is not None
        return replace(faces, face=as_face(np.array(faces.face) + 0.012))

    monkeypatch.setattr(framings, "look", elsewhere)
    embed(auto, data, tmp_path / "other")
    assert frames_in(tmp_path / "other") != {"test": framing}
    with computed(monkeypatch) as counts:
        embed(auto, data, tmp_path)
    assert sum(counts) == 1 and frames_in(tmp_path) == {"test": framing}
    assert content(tmp_path)["names"] != before["names"]


def test_an_interrupted_embedding_keeps_the_frame_that_auto_found(
    faces: Path,
    tmp_path: Path,
    auto: EmbedConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    auto = replace(auto, shard_photos=16)
    embed(auto, faces, tmp_path / "undisturbed")
    run = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stopping_after(1, patch, KeyboardInterrupt())
        embed(auto, faces, run)
    with pytest.raises(RunError, match="interrupted embedding with another framing; go on"):
        embed(replace(auto, framing="whole"), faces, run)
    look = framings.look

    def elsewhere(paths: list[Path]) -> Faces:
        faces = look(paths)
        assert faces.face is not None
        return replace(faces, face=as_face(np.array(faces.face) - 0.012))

    monkeypatch.setattr(framings, "look", elsewhere)
    with computed(monkeypatch) as counts:
        embed(auto, faces, run)
    assert sum(counts) == 8
    assert content(run) == content(tmp_path / "undisturbed")


def test_folders_are_framed_each_by_itself_and_repaired_so(
    faces: Path, tmp_path: Path, auto: EmbedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = str(enlarged(faces / "test", tmp_path / "large"))
    shutil.copy(faces / "test" / "face00000.jpg", Path(other) / "face00000.jpg")  # equal bytes
    for name, photos in (("a", ("test",)), ("b", (other,)), ("both", ("test", other))):
        embed(replace(auto, photos=photos), faces, tmp_path / name)
    a, b, both = (frames_in(tmp_path / name) for name in ("a", "b", "both"))
    assert both == a | b and a["test"] != b[other]
    with opened(tmp_path / "both") as cache:
        for name in ("a", "b"):
            with opened(tmp_path / name) as single:
                rows = cache.find(names_in(tmp_path / name))
                for view in ("max", "avg"):
                    wanted = single.vectors(view)
                    assert np.allclose(cache.vectors(view)[rows], wanted, rtol=1e-5, atol=1e-6)
        offset = cache.footer.extents["views/avg"].offset
    path, before = tmp_path / "both" / "embeddings.h5", content(tmp_path / "both")
    damaged = bytearray(path.read_bytes())
    damaged[offset + 5] ^= 4
    path.write_bytes(damaged)
    monkeypatch.setattr(framings, "look", None)  # a repair looks at no face
    repair(tmp_path / "both", faces, photos=("test", other))
    assert content(tmp_path / "both") == before and verify(path).is_sound


def test_a_named_framing_is_of_all_photos(faces: Path, tmp_path: Path, auto: EmbedConfig) -> None:
    config = replace(auto, backbone="mobilefacenet", weights="none", views=("native",))
    for name, wanted in (("loose", Framing(112, 96, 24, 8)), ("aligned", Framing(112, 112))):
        embed(replace(config, framing=name), faces, tmp_path)
        assert frames_in(tmp_path) == {"test": wanted}
    with opened(tmp_path) as cache:
        assert cache.provenance["command"]["framing"] == "aligned"


def test_a_fine_tuned_network_is_fed_as_it_was_trained(
    faces: Path, tmp_path: Path, short: FinetuneConfig, auto: EmbedConfig
) -> None:
    config = replace(auto, backbone=None)
    finetune(replace(short, epochs=1, steps=1, framing="auto"), faces, tmp_path)
    found = load_model(tmp_path / "model.pt").framing
    assert found != ONET.framing
    embed(replace(config, photos=("train",), views=None), faces, tmp_path)
    assert frames_in(tmp_path) == {"train": found}
    finetune(replace(short, epochs=1, steps=1, framing="whole"), faces, tmp_path)
    embed(replace(config, views=None), faces, tmp_path)
    assert frames_in(tmp_path) == {"test": Framing(48, 48)}


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
    before = {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}

    @contextmanager
    def progress(label: str, total: int) -> Iterator[Bar]:
        class Failing:
            def advance(self, count: int, note: str = "") -> None:
                assert (run / "embed.partial").is_dir()
                raise error

        yield Failing()

    with pytest.raises(type(error)):
        embed(replace(on_cpu, dtype="float16"), faces, run, progress=progress)
    assert {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()} == before


def test_a_writer_that_fails_stops_it(
    faces: Path, run: Path, on_cpu: EmbedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}

    def append(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Shards, "add", append)
    with pytest.raises(OSError, match="No space left on device"):
        embed(replace(on_cpu, dtype="float16"), faces, run)
    assert {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()} == before


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
        ({"views": ("max-flip",)}, "view 'max-flip': backbone mtcnn-onet has max, avg"),
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
    with pytest.raises(
        RunError, match=r"model\.pt: no such file; name a face network with --backbone"
    ):
        embed(on_cpu, faces, tmp_path / "new")
    assert not (tmp_path / "new").exists()


# Going on


def stopping_after(count: int, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    add = Shards.add

    def stop(self: Shards, shard: Shard) -> ShardRow:
        if self.count() == count:
            raise error
        return add(self, shard)

    monkeypatch.setattr(Shards, "add", stop)


@pytest.fixture
def fresh(on_cpu: EmbedConfig) -> EmbedConfig:
    """Embeds with a backbone's own weights: a run folder needs no model."""
    return replace(on_cpu, backbone="mtcnn-onet", batch_size=8, views=("max", "avg"))


@pytest.fixture
def small(fresh: EmbedConfig) -> EmbedConfig:
    """Small shards."""
    return replace(fresh, shard_photos=16)


def test_an_interrupted_embedding_goes_on_from_its_shards(
    faces: Path,
    tmp_path: Path,
    small: EmbedConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    embed(small, faces, tmp_path / "undisturbed")
    total = len(names_in(tmp_path / "undisturbed"))
    run = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stopping_after(3, patch, KeyboardInterrupt())
        embed(small, faces, run)
    assert not (run / "embeddings.h5").exists()
    with pytest.raises(
        RunError, match=r"shards of an interrupted embedding with another dtype; go"
    ):
        embed(replace(small, dtype="float16"), faces, run)
    with computed(monkeypatch) as counts:
        embed(small, faces, run)
    assert sum(counts) == total - 3 * 16
    assert content(run) == content(tmp_path / "undisturbed")
    assert sorted(p.name for p in run.iterdir()) == ["embed.json", "embeddings.h5"]


def test_other_settings_start_again_on_request(
    faces: Path,
    tmp_path: Path,
    small: EmbedConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stopping_after(3, patch, KeyboardInterrupt())
        embed(small, faces, tmp_path)
    embed(replace(small, dtype="float16", restart=True), faces, tmp_path)
    with opened(tmp_path) as cache:
        assert cache.vectors("max").dtype == np.float16


def test_a_damaged_shard_is_computed_again(
    faces: Path,
    tmp_path: Path,
    small: EmbedConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    embed(small, faces, tmp_path / "undisturbed")
    run = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stopping_after(3, patch, KeyboardInterrupt())
        embed(small, faces, run)
    shard = run / "embed.partial" / "000001.h5"
    whole = bytearray(shard.read_bytes())
    with EmbeddingCache.open(shard) as cache:
        whole[cache.footer.extents["views/avg"].offset + 5] ^= 4
    shard.write_bytes(whole)
    with computed(monkeypatch) as counts:
        embed(small, faces, run)
    assert sum(counts) == len(names_in(run)) - 32  # the second shard, and those after the third
    assert content(run) == content(tmp_path / "undisturbed")


def test_a_kill_at_any_moment_loses_no_finished_shard(
    faces: Path, tmp_path: Path, fresh: EmbedConfig, forked: Path
) -> None:
    embed(fresh, faces, tmp_path / "undisturbed")
    run = tmp_path / "run"
    script = (
        "from kinembed.cli import run; import sys;"
        "print('begins', flush=True); sys.exit(run(sys.argv[1:]))"
    )
    command = [forked, "-c", script, "embed", "--data", str(faces), "--run", str(run)]
    command += ["--backbone", "mtcnn-onet", "--batch-size", "8", "--views", "max,avg"]
    command += ["--shard-photos", "16"]
    command += ["--device", "cpu", "--precision", "fp32", "--no-flip", "--framing", "loose"]
    rng = np.random.default_rng(5)
    for _ in range(6):
        process = Forked(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"begins\n"
        time.sleep(rng.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if (run / "embeddings.h5").exists():  # whole, or not there
            assert content(run) == content(tmp_path / "undisturbed")
    subprocess.run(command, check=True, capture_output=True)
    assert content(run) == content(tmp_path / "undisturbed")
    assert sorted(p.name for p in run.iterdir()) == ["embed.json", "embeddings.h5"]


def test_two_processes_do_not_share_a_run_folder(
    faces: Path, tmp_path: Path, fresh: EmbedConfig
) -> None:
    with (
        locked(tmp_path / "embed.partial"),
        pytest.raises(RunError, match="another kinembed embeds into this run folder"),
    ):
        embed(fresh, faces, tmp_path)
    embed(fresh, faces, tmp_path)


# What is kept


def test_only_what_changed_is_computed(
    data: Path,
    tmp_path: Path,
    fresh: EmbedConfig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    embed(fresh, data, tmp_path)
    before = {name: row for row, name in enumerate(names_in(tmp_path))}
    with opened(tmp_path) as cache:
        old = {view: np.array(cache.vectors(view)) for view in cache.views}
    first, second, third, fourth, fifth = sorted((data / "test").iterdir())[:5]
    first.unlink()  # gone
    second.write_bytes(second.read_bytes() + b"more")  # other bytes
    third.touch()  # the same bytes
    fourth.rename(data / "test" / "renamed.jpg")
    (data / "test" / "twin.jpg").write_bytes(fifth.read_bytes())
    with computed(monkeypatch) as counts, caplog.at_level("INFO", logger="kinembed"):
        embed(fresh, data, tmp_path)
    assert sum(counts) == 1
    kept = len(before) - 3
    assert f"1 computed, {kept} kept, 2 of the same bytes as another, 2 gone" in caplog.text
    after = names_in(tmp_path)
    assert after == sorted(p.relative_to(data).as_posix() for p in data.rglob("*.jpg"))
    source = {f"test/{second.name}": None, "test/renamed.jpg": f"test/{fourth.name}"}
    source["test/twin.jpg"] = f"test/{fifth.name}"
    with opened(tmp_path) as cache:
        assert len(unsound_rows(cache)) == 0
        for row, name in enumerate(after):
            assert (
                cache.digests[row].tobytes() == hashlib.sha256((data / name).read_bytes()).digest()
            )
            known = source.get(name, name)
            for view in cache.views:
                if known is not None:
                    assert (cache.vectors(view)[row] == old[view][before[known]]).all(), name


def test_nothing_changed_computes_and_writes_nothing(
    data: Path, tmp_path: Path, fresh: EmbedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = embed(fresh, data, tmp_path)
    before = path.stat().st_mtime_ns
    with computed(monkeypatch) as counts:
        embed(fresh, data, tmp_path)
        embed(replace(fresh, rehash=True), data, tmp_path)
    assert counts == []
    assert path.stat().st_mtime_ns == before


def test_rehash_finds_what_size_and_time_hide(
    data: Path, tmp_path: Path, fresh: EmbedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(fresh, data, tmp_path)
    before = content(tmp_path)
    photo = sorted((data / "test").iterdir())[0]
    stat = photo.stat()
    changed = bytearray(photo.read_bytes())
    changed[-20] ^= 1
    photo.write_bytes(changed)
    os.utime(photo, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    embed(fresh, data, tmp_path)
    assert content(tmp_path) == before
    with computed(monkeypatch) as counts:
        embed(replace(fresh, rehash=True), data, tmp_path)
    assert counts == [1]
    assert content(tmp_path)["digests"] != before["digests"]


@pytest.mark.parametrize(
    "change", [{"dtype": "float16"}, {"views": ("max",)}, {"photos": ("test",)}]
)
def test_other_settings_keep_only_what_they_may(
    data: Path,
    tmp_path: Path,
    fresh: EmbedConfig,
    change: dict,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    embed(fresh, data, tmp_path)
    with computed(monkeypatch) as counts:
        embed(replace(fresh, **change), data, tmp_path)
    assert sum(counts) == (len(names_in(tmp_path)) if "dtype" in change else 0)
    embed(replace(fresh, **change), data, tmp_path / "again")
    assert content(tmp_path).keys() == content(tmp_path / "again").keys()
    assert names_in(tmp_path) == names_in(tmp_path / "again")


# Repair


def test_people_alone_are_written_again_without_computing(
    data: Path, tmp_path: Path, fresh: EmbedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = embed(fresh, data, tmp_path)
    before = path.read_bytes()
    with opened(tmp_path) as cache:
        views = {view: [np.array(cache.vectors(view))] for view in cache.views}
        digests, stats = np.array(cache.digests), np.array(cache.stats)
        people = np.where(cache.people == b"", b"", b"F9999/MID1")
        write_cache(path, cache.provenance, cache.names, digests, views, stats, people)
    assert path.read_bytes() != before
    with computed(monkeypatch) as counts:
        embed(fresh, data, tmp_path)
    assert sum(counts) == 0
    assert path.read_bytes() == before


def test_who_is_on_photos_is_said_and_may_be_mended_without_computing(
    data: Path,
    tmp_path: Path,
    fresh: EmbedConfig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (data / "train" / "@eaDir").mkdir()
    (data / "train" / "@eaDir" / "t.jpg").touch()
    (data / "train" / "a\\b.jpg").touch()
    caplog.set_level("INFO", logger="kinembed")
    embed(fresh, data, tmp_path)
    assert "train: FAMILY/PERSON/FILE, as Kaggle's" in caplog.text
    assert "test: flat, who is on a photo is not known" in caplog.text
    assert "46 people, 10 families; nobody is known on " in caplog.text
    assert (
        "left out: 1 in folders of the system or of thumbnails (train/@eaDir/t.jpg)" in caplog.text
    )
    assert "1 whose names hold a backslash or a control character (train/a\\b.jpg)" in caplog.text
    with opened(tmp_path) as cache:
        digest, people = cache.digest, np.array(cache.people)
        name = cache.names[-1].decode()
    table = data / "people.csv"
    table.write_text(f"photo,person,family\n{name},MID1,F9999\n")
    with computed(monkeypatch) as counts:
        embed(replace(fresh, people_table=table), data, tmp_path)
    assert sum(counts) == 0
    with opened(tmp_path) as cache:
        assert cache.digest == digest and cache.people[-1] == b"F9999/MID1"
        assert np.array_equal(cache.people[:-1], people[:-1])
        about = Provenance.read(cache.provenance, cache.path)
    assert about.settings(("max",)).people_table == table


# The model, its view and its pixels


def test_any_model_of_a_run_embeds_and_its_head_scores(
    run: Path, faces: Path, on_cpu: EmbedConfig
) -> None:
    embed(replace(on_cpu, model=run / "model-last.pt"), faces, run)
    last = load_model(run / "model-last.pt")
    with opened(run) as cache:
        assert cache.provenance["model"] == digest(last.trunk)
        assert cache.provenance["finetuned"]["epoch_chosen_by"] == "nobody"
        assert cache.provenance["command"]["model"] == str(run / "model-last.pt")
    pairs = ScoreConfig(Path("sample_submission.csv"))
    with pytest.raises(RunError, match="the head is of model"):
        score(pairs, faces, run)
    (name,) = (each.name for each in kept_heads(run) if each.head.model == digest(last.trunk))
    use_head(run, name)
    assert score(pairs, faces, run).is_file()
    given = {"model": run / "model-last.pt"}
    assert repair(run, faces, **given) == run / "embeddings.h5"  # by the same model


def test_a_model_of_another_run_embeds(
    tuned: Path, faces: Path, tmp_path: Path, on_cpu: EmbedConfig
) -> None:
    embed(replace(on_cpu, model=tuned / "model.pt", views=("max", "avg")), faces, tmp_path)
    with opened(tmp_path) as cache, opened(tuned) as wanted:
        assert np.array_equal(cache.vectors("max"), wanted.vectors("max"))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"backbone": "mtcnn-onet"}, "--model names the whole network; leave out --backbone"),
        ({"weights": "none"}, "--model names the whole network; leave out --backbone"),
        ({"model": Path("absent.pt")}, r"absent\.pt: no such file; run kinembed finetune"),
        ({"pixels": "report"}, "was trained with --pixels trained, found report; leave it out"),
        ({"model": None, "backbone": "mtcnn-onet", "pixels": "report"}, "'report': .* has trained"),
        ({"model": None, "onnx": Path("x.onnx"), "pixels": "report"}, "--pixels is of a backbone"),
    ],
)
def test_what_does_not_go_with_a_model_is_refused(
    run: Path, faces: Path, on_cpu: EmbedConfig, settings: dict, problem: str
) -> None:
    config = replace(on_cpu, **{"model": run / "model.pt", **settings})
    with pytest.raises(KinembedError, match=problem):
        embed(config, faces, run)


def test_a_model_named_as_weights_is_answered_with_the_option(
    run: Path, faces: Path, on_cpu: EmbedConfig
) -> None:
    config = replace(on_cpu, backbone="mtcnn-onet", weights=str(run / "model-last.pt"))
    with pytest.raises(KinembedError, match=r"is a whole network .*embed with it by --model .*pt"):
        embed(config, faces, run)


def test_the_view_that_the_head_compares_is_embedded_without_asking(
    faces: Path,
    tmp_path: Path,
    short: FinetuneConfig,
    on_cpu: EmbedConfig,
    caplog: pytest.LogCaptureFixture,
) -> None:
    finetune(replace(short, view="avg", epochs=1, steps=1, val_steps=1), faces, tmp_path)
    embed(on_cpu, faces, tmp_path)
    with opened(tmp_path) as cache:
        assert sorted(cache.views) == ["avg", "max"]
    assert score(ScoreConfig(Path("sample_submission.csv")), faces, tmp_path).is_file()
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    with caplog.at_level("WARNING", logger="kinembed"):
        embed(replace(on_cpu, views=("max",)), faces, tmp_path)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "the head of kinembed finetune compares avg" in warning


def test_map_max_through_the_chain(
    faces: Path,
    tmp_path: Path,
    short: FinetuneConfig,
    on_cpu: EmbedConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stand_in(monkeypatch, "resnet50")
    small = replace(BACKBONES["resnet50"], views={"max": WIDTH, "map-max": WIDTH})
    monkeypatch.setitem(BACKBONES, "resnet50", small)
    monkeypatch.setattr(Small, "view", lambda self, name, x: Trunk.view(self, "max", x))
    config = replace(short, backbone="resnet50", weights="none", view="map-max", epochs=1)
    finetune(config, faces, tmp_path)
    embed(on_cpu, faces, tmp_path)
    with opened(tmp_path) as cache:
        assert sorted(cache.views) == ["map-max", "max"]
    assert score(ScoreConfig(Path("sample_submission.csv")), faces, tmp_path).is_file()


def reports_pixels(rgb: np.ndarray, version: int) -> np.ndarray:
    """What the report feeds: cv2.imread's BGR through keras-vggface's preprocess_input."""
    x = rgb[..., ::-1].astype(np.float64)  # cv2.imread
    x = x[..., ::-1]  # preprocess_input, data_format "channels_last"
    means = {1: (93.5940, 104.7624, 129.1863), 2: (91.4953, 103.8827, 131.0912)}[version]
    for channel, mean in enumerate(means):
        x[..., channel] -= mean
    return x


@pytest.mark.parametrize(("backbone", "version"), [("resnet50", 2), ("senet50", 2), ("vgg16", 1)])
def test_the_reports_pixels_are_those_of_its_listing(backbone: str, version: int) -> None:
    photos = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    record = BACKBONES[backbone].with_pixels("report")
    found = Normalise(record.pixels)(torch.from_numpy(photos)).permute(0, 2, 3, 1)
    assert np.allclose(found.numpy(), reports_pixels(photos, version), atol=1e-4)
    own = Normalise(BACKBONES[backbone].pixels)(torch.from_numpy(photos)).permute(0, 2, 3, 1)
    assert not np.allclose(own.numpy(), found.numpy(), atol=1)


def test_only_keras_networks_have_the_reports_pixels() -> None:
    names = [name for name, record in BACKBONES.items() if "report" in record.other_pixels]
    assert names == ["resnet50", "senet50", "vgg16"]
    with pytest.raises(KinembedError, match="pixels 'report': backbone sface has trained"):
        BACKBONES["sface"].with_pixels("report")


def test_the_reports_pixels_through_the_chain(
    faces: Path,
    tmp_path: Path,
    short: FinetuneConfig,
    on_cpu: EmbedConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stand_in(monkeypatch, "resnet50")
    config = replace(short, backbone="resnet50", weights="none", epochs=1, pixels="report")
    path = finetune(config, faces, tmp_path)
    model = load_model(path)
    assert model.backbone.pixels_name == "report" and not model.normalise.flip
    about = json.loads((tmp_path / "config.json").read_text())
    assert about["pixels"] == "report"
    embed(on_cpu, faces, tmp_path)
    with opened(tmp_path) as cache:
        assert cache.provenance["input"]["pixels"]["order"] == "rgb"
    score(ScoreConfig(Path("sample_submission.csv")), faces, tmp_path)
    # the same weights fed otherwise are another model
    weights = tmp_path / "trunk.pt"
    torch.save(model.trunk.state_dict(), weights)
    own = replace(on_cpu, backbone="resnet50", weights=str(weights))
    embed(own, faces, tmp_path)
    with pytest.raises(RunError, match="the head is of model"):
        score(ScoreConfig(Path("sample_submission.csv")), faces, tmp_path)
    embed(replace(own, pixels="report"), faces, tmp_path)
    score(ScoreConfig(Path("sample_submission.csv")), faces, tmp_path)
    repair(tmp_path, faces, weights=str(weights))
    with opened(tmp_path) as cache:
        assert cache.provenance["command"]["pixels"] == "report"
