"""The stage align: folders of photographs to folders of crops, again, and after a kill."""

import io
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import pytest
from composed import compose, painted_faces
from forked import Forked
from hypothesis import given, settings
from hypothesis import strategies as st
from interrupted import Stopping, interrupt
from PIL import Image

from kinembed.align import align
from kinembed.cli import run as kinembed
from kinembed.config import AlignConfig
from kinembed.data import aligned_folder
from kinembed.data.aligned_folder import OWN, AlignedFolder, crop_stems
from kinembed.data.aligner import Aligner
from kinembed.data.faces_table import read_faces
from kinembed.data.folders import list_photos
from kinembed.data.photo_files import find_photos
from kinembed.errors import KinembedError

CONFIG = AlignConfig(device="cpu", min_face=60)


@pytest.fixture(scope="session")
def album(made_once: Callable[..., Path]) -> Path:
    """Photographs with 0, 1 and 2 faces in folders of people; tests leave them as they are."""

    def make(folder: Path) -> None:
        faces, rng = painted_faces(3, seed=5), np.random.default_rng(4)
        sizes = {"F1/MID1/one.jpg": [90], "F1/MID2/two.png": [80, 140], "none.jpg": [],
                 "F2/MID1/one.webp": [100]}  # fmt: skip
        for name, of_photo in sizes.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            image, placed = compose(faces, of_photo, 300, 240, rng)
            assert len(placed) == len(of_photo)
            image.save(folder / name)
        (folder / "F1/MID1/broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut short")
        (folder / "F1/notes.txt").write_text("of the album")

    return made_once("album", make)


@pytest.fixture
def photos(album: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(album, tmp_path / "photos"))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and OWN not in path.parts
    }


def crops(result: AlignedFolder) -> list[str]:
    return [face.crop for photo in result.photos for face in photo.faces]


WANTED = ["F1/MID1/one.jpg", "F1/MID2/two-1.jpg", "F1/MID2/two-2.jpg", "F2/MID1/one.jpg"]


def test_crops_lie_as_the_photos_do_and_the_table_lists_them(album: Path, tmp_path: Path) -> None:
    out = tmp_path / "crops"
    result = align(CONFIG, album, out)
    assert crops(result) == WANTED == list(list_photos(out).names)
    assert set(contents(out)) == {*WANTED, "faces.csv"}
    table = {photo.source: photo for photo in read_faces(result.table)}
    assert list(table) == ["F1/MID1/one.jpg", "F1/MID2/two.png", "F2/MID1/one.webp", "none.jpg"]
    assert table["none.jpg"].faces == ()
    two = table["F1/MID2/two.png"]
    assert two.faces[0].face.size > 1.3 * two.faces[1].face.size  # the largest is the first
    assert two.size == (album / "F1/MID2/two.png").stat().st_size
    for name in WANTED:
        with Image.open(out / name) as image:
            assert (image.size, image.format) == ((224, 224), "JPEG")
    assert result.faces == 4 and result.computed == 4
    assert dict(result.left_out.counts) == {
        "other files": 1, "that cannot be read": 1, "without a face": 1,
    }  # fmt: skip
    assert "broken.jpg: cannot be decoded" in result.left_out.examples["that cannot be read"]


def test_again_nothing_is_done_and_changed_photos_alone_are(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "crops"
    align(CONFIG, photos, out)
    before = contents(out)
    assert align(CONFIG, photos, out).computed == 0
    assert contents(out) == before
    os.utime(photos / "F1/MID1/one.jpg", (1, 1))  # touched, with the same bytes
    assert align(CONFIG, photos, out).computed == 0
    (out / "F1/MID2/two-2.jpg").unlink()
    assert align(CONFIG, photos, out).computed == 1
    image = Image.open(photos / "F1/MID1/one.jpg").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image.save(photos / "F1/MID1/one.jpg", quality=90)
    (photos / "F2/MID1/one.webp").unlink()
    shutil.copy(photos / "F1/MID2/two.png", photos / "none.jpg")
    result = align(CONFIG, photos, out)
    assert result.computed == 2
    assert crops(result) == [*WANTED[:3], "none-1.jpg", "none-2.jpg"]
    assert set(contents(out)) == {*crops(result), "faces.csv"}  # one.webp's crop is gone
    assert not (out / "F2").exists()
    fresh = align(CONFIG, photos, tmp_path / "fresh")
    assert crops(fresh) == crops(result)
    assert contents(out) == contents(tmp_path / "fresh")


def test_a_photo_of_the_same_size_and_time_is_read_with_rehash(
    photos: Path, tmp_path: Path
) -> None:
    out, path = tmp_path / "crops", photos / "none.jpg"
    align(CONFIG, photos, out)
    status = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert align(CONFIG, photos, out).computed == 0
    assert align(AlignConfig("cpu", 60, rehash=True), photos, out).computed == 1


def test_other_settings_do_all_again_and_leave_no_old_crops(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "crops"
    align(CONFIG, photos, out)
    result = align(AlignConfig("cpu", 60, largest=True), photos, out)
    assert result.computed == 4
    assert crops(result) == ["F1/MID1/one.jpg", "F1/MID2/two.jpg", "F2/MID1/one.jpg"]
    assert set(contents(out)) == {*crops(result), "faces.csv"}


def test_an_interruption_keeps_what_is_done(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "crops"
    with pytest.raises(KeyboardInterrupt):
        align(CONFIG, photos, out, progress=Stopping("aligning", interrupt, 2))
    assert not (out / "faces.csv").exists()
    done = (out / OWN / "journal").read_text().count("\n")
    assert done >= 1
    with (out / OWN / "journal").open("ab") as file:
        file.write(b'{"source": "none.jpg", "faces": [')  # cut off by a full disk
    result = align(CONFIG, photos, out)
    assert result.computed == 4 - done and crops(result) == WANTED
    align(CONFIG, photos, tmp_path / "fresh")
    assert contents(out) == contents(tmp_path / "fresh")
    assert not (out / OWN / "journal").exists()


def test_a_kill_leaves_whole_crops_and_the_rest_is_done_later(
    photos: Path, tmp_path: Path, forked: Path
) -> None:
    for number in range(30):
        shutil.copy(photos / "F1/MID2/two.png", photos / f"more{number:02}.png")
    out = tmp_path / "crops"
    command = [forked, "-m", "kinembed", "align", str(photos), str(out), "--quiet"]
    running = Forked([*command, "--min-face", "60", "--device", "cpu"])
    try:
        deadline = time.monotonic() + 120
        while len(list(out.rglob("*.jpg"))) < 5:
            assert running.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
    for path in out.rglob("*.jpg"):
        with Image.open(path) as image:
            image.load()
            assert image.size == (224, 224)
    result = align(CONFIG, photos, out)
    assert 0 < result.computed < 34
    align(CONFIG, photos, tmp_path / "fresh")
    assert contents(out) == contents(tmp_path / "fresh")


def test_the_batches_of_a_gpu_give_the_same(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = align(CONFIG, photos, tmp_path / "threads")
    monkeypatch.setattr(Aligner, "one_by_one", True)
    monkeypatch.setattr(aligned_folder, "BATCH", 3)
    result = align(CONFIG, photos, tmp_path / "batches")
    assert crops(result) == crops(wanted)
    for one, other in zip(result.photos, wanted.photos, strict=True):
        for a, b in zip(one.faces, other.faces, strict=True):
            assert np.abs(a.face.points - b.face.points).max() < 0.05
    assert align(CONFIG, photos, tmp_path / "batches").computed == 0


def test_one_photograph_is_a_source_too(album: Path, tmp_path: Path) -> None:
    result = align(CONFIG, album / "F1/MID2/two.png", tmp_path / "crops")
    assert crops(result) == ["two-1.jpg", "two-2.jpg"]


def refused(source: Path, target: Path) -> str:
    with pytest.raises(KinembedError) as error:
        align(CONFIG, source, target)
    return str(error.value)


def test_what_cannot_be_aligned_is_one_clear_line(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "crops"
    pdf = tmp_path / "letter.pdf"
    pdf.write_bytes(b"%PDF-1.7 a letter")
    assert f"{pdf}: is no photo; wanted a JPEG" in refused(pdf, out)
    assert f"{tmp_path / 'gone'}: No such file" in refused(tmp_path / "gone", out)
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path / 'empty'}: no JPEG" in refused(tmp_path / "empty", out)
    assert f"lies in {photos}, whose photos" in refused(photos, photos / "crops")
    assert f"lies in {tmp_path}, where the crops go" in refused(photos, tmp_path)
    assert "name one outside" in refused(photos, photos)
    assert "is a file; name a folder" in refused(photos, pdf)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    assert "is not empty, and not of kinembed align (it holds letter.txt)" in refused(
        photos, tmp_path / "full"
    )
    assert list((tmp_path / "full").iterdir()) == [tmp_path / "full" / "letter.txt"]
    broken = tmp_path / "broken"
    broken.mkdir()
    shutil.copy(photos / "F1/MID1/broken.jpg", broken)
    assert f"{broken}: no photo can be read: 1 that cannot be read" in refused(broken, out)
    out = tmp_path / "of another"
    align(CONFIG, photos / "F2", out)
    assert f"{out}: holds the faces of " in refused(photos, out)
    (out / OWN / "settings.json").write_text("{")
    assert "settings.json: is damaged; remove" in refused(photos / "F2", out)


@pytest.mark.parametrize("end", [b"\nmore", b'\n"'])
def test_a_damaged_table_is_made_again(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, end: bytes
) -> None:
    out = tmp_path / "crops"
    before = align(CONFIG, photos, out)
    content = (out / "faces.csv").read_bytes()
    (out / "faces.csv").write_bytes(content[:300] + end)
    after = align(CONFIG, photos, out)
    assert crops(after) == crops(before) and after.computed == 4
    assert (out / "faces.csv").read_bytes() == content
    assert "faces.csv, row 2: " in caplog.text or "faces.csv, row 3: " in caplog.text
    assert "all photos are searched again" in caplog.text
    assert align(CONFIG, photos, out).computed == 0


def test_photos_whose_names_differ_by_case_alone_have_crops_of_their_own(
    photos: Path, tmp_path: Path
) -> None:
    one = photos / "F1/MID1/one.jpg"
    shutil.copy(one, one.with_name("ONE.JPG"))
    result = align(CONFIG, photos / "F1", tmp_path / "crops")
    names = {photo.source: [face.crop for face in photo.faces] for photo in result.photos}
    assert names["MID1/ONE.JPG"] == ["MID1/ONE.JPG.jpg"]
    assert names["MID1/one.jpg"] == ["MID1/one.jpg_2.jpg"]
    assert align(CONFIG, photos / "F1", tmp_path / "crops").computed == 0


def test_a_file_in_the_way_of_a_crop_is_not_replaced(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "crops"
    align(CONFIG, photos / "F2", out)
    Image.open(photos / "F2/MID1/one.webp").save(photos / "F2/MID1/other.png")
    (out / "MID1/other.jpg").write_bytes(b"mine")
    assert "other.jpg: is no crop of kinembed align" in refused(photos / "F2", out)
    assert (out / "MID1/other.jpg").read_bytes() == b"mine"


def test_two_processes_do_not_write_into_one_folder(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "crops"

    def second() -> None:
        assert "another kinembed works in it" in refused(photos, out)

    align(CONFIG, photos, out, progress=Stopping("aligning", second, 1))


def test_the_command_prints_what_it_found(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "crops"
    words = ["align", str(photos), str(out), "--min-face", "60", "--device", "cpu", "--json"]
    assert kinembed(words) == 0
    printed = capsys.readouterr()
    result: dict[str, Any] = json.loads(printed.out)
    assert result.pop("seconds") > 0
    assert result == {
        "path": str(out / "faces.csv"), "photos": 4, "faces": 4, "without_face": 1,
        "unreadable": 1, "computed": 4,
    }  # fmt: skip
    assert "1 without a face (none.jpg)" in printed.err
    assert kinembed(["align", str(photos)]) == 2
    assert kinembed(["align", str(photos), str(photos / "crops")]) == 1


# Names


def test_names_of_crops() -> None:
    stems = crop_stems(
        ["a/photo.jpg", "a/photo-1.jpg", "a/photo-x.jpg", "b/photo-1.jpg", "b/me.HEIC", "b/me.jpg"]
    )
    assert stems == {
        "a/photo.jpg": ("a/photo", False),
        "a/photo-1.jpg": ("a/photo-1", True),
        "a/photo-x.jpg": ("a/photo-x", False),
        "b/photo-1.jpg": ("b/photo-1", False),
        "b/me.HEIC": ("b/me.HEIC", False),
        "b/me.jpg": ("b/me.jpg", False),
    }
    assert crop_stems(["I.JPG", "I.JPG_2.png", "I.jpg"]) == {
        "I.JPG": ("I.JPG", False),
        "I.JPG_2.png": ("I.JPG_2", False),
        "I.jpg": ("I.jpg_3", False),  # 2 is taken where upper and lower case are the same
    }
    assert len({stem for stem, _ in crop_stems(["a.jpg", "a.png", "a.jpg.png"]).values()}) == 3
    one, other = (normalize(form, "Andr\N{LATIN SMALL LETTER E WITH ACUTE}.jpg")
                  for form in ("NFD", "NFC"))  # fmt: skip
    assert {normalize("NFC", stem) for stem, _ in crop_stems([one, other]).values()} == {
        other, f"{other}_2",
    }  # fmt: skip


@settings(max_examples=30)
@given(
    st.lists(st.from_regex(r"(b/)?[aA]{1,2}(-[12]){0,2}\.(jpg|png)", fullmatch=True), unique=True),
    st.lists(st.integers(0, 3), min_size=40, max_size=40),
)
def test_no_two_photos_share_a_crop(names: list[str], faces: list[int]) -> None:
    stems = crop_stems(names)
    seen: set[str] = set()
    for (stem, numbered), count in zip(stems.values(), faces, strict=False):
        alone = count == 1 and not numbered
        own = {f"{stem}.jpg"} if alone else {f"{stem}-{n}.jpg" for n in range(1, count + 1)}
        own = {each.casefold() for each in own}
        assert not own & seen
        seen |= own


def test_a_crop_is_stored_almost_as_it_is() -> None:
    crop = np.asarray(painted_faces(1, seed=5)[0])
    again = np.asarray(Image.open(io.BytesIO(aligned_folder.encode_crop(crop))))
    assert np.abs(crop.astype(int) - again).mean() < 2


def test_several_faces_of_one_photo_in_a_persons_folder_are_told(
    album: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, said = tmp_path / "crops", "1 photo has several faces, which all count as the person of"
    align(CONFIG, album, out)
    assert (
        f"{out}: {said} their folder (F1/MID2/two.png as F1/MID2); run kinembed align --largest"
        in (caplog.text)
    )
    caplog.clear()
    found = find_photos([str(out)], tmp_path)
    assert said in caplog.text and not found.left_out
    caplog.clear()
    table = tmp_path / "people.csv"
    table.write_text("photo,person,family\nF1/MID2/two-1.jpg,Ada,F1\nF1/MID2/two-2.jpg,Bob,F1\n")
    assert find_photos([str(out)], tmp_path, "auto", table).people["F1/MID2/two-2.jpg"] == "F1/Bob"
    align(replace(CONFIG, largest=True), album, out)
    find_photos([str(out)], tmp_path)
    assert said not in caplog.text
