"""The stage `relate`: an album of painted photographs, told again, changed, answered and broken."""

import csv
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shoebox import paint_photograph

from kinembed.cli import run as command
from kinembed.config import RelateConfig
from kinembed.errors import DataError, KinembedError
from kinembed.inference.answerer import Answerer
from kinembed.inference.named_people import FaceReader
from kinembed.io import read_csv
from kinembed.relate import relate
from kinembed.synthetic.face import Shot, photograph
from kinembed.synthetic.people import sample_family

TABLES = ("people.csv", "relate.csv", "relate.html")


def paint(folder: Path) -> None:
    """Two families; Ann and Bob have folders, the last photograph shows both."""
    rng = np.random.default_rng(4)
    ann, bob, *_ = sample_family(rng).people
    cleo, *_ = sample_family(rng).people
    for name, people in (
        *((f"Ann/{n}.jpg", [ann]) for n in range(2)),
        *((f"Bob/{n}.jpg", [bob]) for n in range(2)),
        ("beach.jpg", [cleo]),
        ("both.jpg", [bob, ann]),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        paint_photograph(people, rng).save(folder / name, quality=92)
    (folder / "notes.pdf").write_bytes(b"%PDF-1.4")


@pytest.fixture(scope="session")
def related(made_once: Callable[..., Path], answering: Path) -> Path:
    """A folder with an album, and a run folder that was told of it; tests leave it as it is."""

    def make(folder: Path) -> None:
        paint(folder / "album")
        shutil.copytree(answering, folder / "run")
        relate(config(folder), folder, folder / "run")

    return made_once("related", make)


@pytest.fixture
def told(related: Path, tmp_path: Path) -> Path:
    """A writable copy of it; its crops are of the album where that lies now."""
    folder = Path(shutil.copytree(related, tmp_path / "told"))
    path = folder / "run" / "album" / "faces" / ".align" / "settings.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "source": str((folder / "album").resolve())}, indent=2))
    return folder


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many crops each call of the network was given."""
    counts: list[int] = []
    vectors = Answerer.vectors

    def counted(self: Answerer, crops: list[np.ndarray]) -> object:
        counts.append(len(crops))
        return vectors(self, crops)

    monkeypatch.setattr(Answerer, "vectors", counted)
    return counts


def config(folder: Path) -> RelateConfig:
    return RelateConfig(folder / "album", device="cpu", precision="fp32")


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    return read_csv(folder / "run" / name)[1]


def answer(folder: Path, *lines: str) -> None:
    text = "\n".join(["answer,left,right", *lines, ""])
    (folder / "run" / "confirmed.csv").write_text(text)


def test_an_album(related: Path) -> None:
    people = rows(related, "people.csv")
    photos = sorted({row["photo"] for row in people})
    assert photos == ["Ann/0.jpg", "Ann/1.jpg", "Bob/0.jpg", "Bob/1.jpg", "beach.jpg", "both.jpg"]
    assert len({(row["photo"], row["face"]) for row in people}) == len(people) >= 7
    both = {row["person"] for row in people if row["photo"] == "both.jpg"}
    assert len(both) == len([row for row in people if row["photo"] == "both.jpg"]) == 2
    for row in people:
        with Image.open(related / "run" / row["crop"]) as crop:
            assert crop.size == (224, 224)
        assert float(row["left"]) < float(row["right"]) and 0 <= float(row["confidence"]) <= 1
    links = rows(related, "relate.csv")
    names = {row["person"] for row in people}
    for row in links:
        assert {row["left"], row["right"]} <= names and row["left"] != row["right"]
        assert 0 <= float(row["probability"]) <= 1 and 0 < float(row["far"]) <= 1
        for side in ("left", "right"):
            own = {f"{each['photo']}#{each['face']}" for each in people
                   if each["person"] == row[side]}  # fmt: skip
            assert set(row[f"{side}_photos"].split("; ")) <= own
    assert [row["shown"] for row in links] == sorted((row["shown"] for row in links), reverse=True)
    assert "Who may be kin" in (related / "run" / "relate.html").read_text()


def test_an_unchanged_album_is_told_alike_and_nothing_is_computed(
    told: Path, embedded: list[int]
) -> None:
    before = {name: (told / "run" / name).read_text() for name in TABLES[:2]}
    album = relate(config(told), told, told / "run")
    assert not embedded and len(album.faces) == len(rows(told, "people.csv"))
    assert {name: (told / "run" / name).read_text() for name in TABLES[:2]} == before
    assert any("1 other file (notes.pdf)" in line for line in album.left_out)


def test_a_changed_album_embeds_only_what_is_new(told: Path, embedded: list[int]) -> None:
    shutil.copy(told / "album" / "beach.jpg", told / "album" / "copy.jpg")
    rng = np.random.default_rng(7)
    paint_photograph([sample_family(rng).people[0]], rng).save(told / "album" / "new.jpg")
    (told / "album" / "Bob" / "1.jpg").unlink()
    album = relate(config(told), told, told / "run")
    assert sum(embedded) == len([face for face in album.faces if face.photo == "new.jpg"]) == 1
    photos = {face.photo for face in album.faces}
    assert {"beach.jpg", "new.jpg"} <= photos and not {"Bob/1.jpg", "copy.jpg"} & photos
    assert "1 copy of another photo, which counts once (copy.jpg of beach.jpg)" in album.left_out


def test_an_interrupted_call_leaves_all_as_it_was_and_is_gone_on_with(
    told: Path, monkeypatch: pytest.MonkeyPatch, embedded: list[int]
) -> None:
    relate(config(told), told, told / "run")  # whose page names this folder
    before = {name: (told / "run" / name).read_bytes() for name in TABLES}
    kept = told / "run" / "album" / "vectors.npz"
    kept.unlink()
    monkeypatch.setattr("kinembed.inference.kept_vectors.BATCH", 2)
    monkeypatch.setattr("kinembed.inference.kept_vectors.UNSAVED", 2)
    vectors = Answerer.vectors

    def dying(self: Answerer, crops: list[np.ndarray]) -> object:
        if sum(embedded) >= 4:
            raise KeyboardInterrupt
        return vectors(self, crops)

    with monkeypatch.context() as context:
        context.setattr(Answerer, "vectors", dying)
        with pytest.raises(KeyboardInterrupt):
            relate(config(told), told, told / "run")
    assert {name: (told / "run" / name).read_bytes() for name in TABLES} == before
    done = sum(embedded)
    relate(config(told), told, told / "run")
    assert sum(embedded) == len(rows(told, "people.csv")) and done == 4
    assert {name: (told / "run" / name).read_bytes() for name in TABLES} == before


def test_folders_name_people(told: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "kinembed"):
        album = relate(replace(config(told), layout="people"), told, told / "run")
    names = {face.photo: album.people[face.person].name for face in album.faces}
    assert names["Ann/0.jpg"] == names["Ann/1.jpg"] == "Ann"
    assert names["Bob/0.jpg"] == names["Bob/1.jpg"] == "Bob"
    assert [person.is_named for person in album.people] == [
        person.name in ("Ann", "Bob") for person in album.people
    ]


def test_a_table_names_people_and_says_what_it_does_not_find(
    told: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = tmp_path / "people.csv"
    table.write_text("photo,person\nAnn/0.jpg,Cleo\nbeach.jpg,Cleo\nboth.jpg,Dan\ngone.jpg,Eve\n")
    with caplog.at_level(logging.INFO, "kinembed"):
        album = relate(replace(config(told), people_table=table), told, told / "run")
    names = {face.photo: album.people[face.person].name for face in album.faces}
    assert names["Ann/0.jpg"] == names["beach.jpg"] == "Cleo"
    assert "1 of its rows name no photo (gone.jpg" in caplog.text
    assert any(
        line.startswith("1 photograph of a named person with several faces")
        for line in album.left_out
    )


def test_folders_of_one_name_are_said(told: Path) -> None:
    shutil.copytree(told / "album" / "Bob", told / "album" / "old" / "Ann")
    album = relate(replace(config(told), layout="people"), told, told / "run")
    assert any("2 folders have one name and are taken for one person (Ann, old/Ann)" in line
               for line in album.left_out)  # fmt: skip


def test_crops_are_taken_whole(told: Path, embedded: list[int]) -> None:
    """As `compare` takes them; those without a face that is found, where `crops` says so."""
    folder = empty(told).folder
    rng = np.random.default_rng(5)
    ann = sample_family(rng).people[0]
    paint_photograph([ann], rng).save(folder / "plain.jpg")
    crop = FaceReader().photo(folder / "plain.jpg").faces[0].crop
    Image.fromarray(crop).save(folder / "crop.png")
    photograph(ann, Shot(rng), 224, rng).save(folder / "close.png")
    Image.new("RGB", (200, 200), (90, 120, 150)).save(folder / "sky.png")
    expected = {
        path.name: FaceReader().photo(path) for path in folder.iterdir() if path.name != "sky.png"
    }
    assert expected["crop.png"].is_crop and not expected["plain.jpg"].is_crop
    album = relate(config(told), told, told / "run")
    assert {face.photo for face in album.faces} == set(expected)
    for face in album.faces:
        wanted = expected[face.photo]
        assert face.box == pytest.approx(wanted.faces[0].box, abs=0.1)
        found = np.asarray(Image.open(face.crop), float)
        assert np.abs(found - wanted.faces[0].crop).mean() < 3  # a JPEG
    assert any("1 without a face (sky.png)" in line for line in album.left_out)
    whole = relate(replace(config(told), crops=True), told, told / "run")
    assert {face.photo: face.number for face in whole.faces} == dict.fromkeys(
        [*expected, "sky.png"], 1
    )
    assert {face.box for face in whole.faces if face.photo == "sky.png"} == {(0, 0, 200, 200)}
    assert " --crops" in (told / "run" / "relate.html").read_text()
    embedded.clear()
    relate(replace(config(told), crops=True), told, told / "run")
    assert not embedded


def test_a_photo_under_two_names_ties_nobody_to_nobody(
    told: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alone = replace(config(told), layout="people")
    before = relate(alone, told, told / "run")
    shutil.copy(told / "album" / "Bob" / "1.jpg", told / "album" / "Ann" / "same.jpg")
    shutil.copy(told / "album" / "Ann" / "0.jpg", told / "album" / "again.jpg")
    answer(told, "name,again.jpg#1,Anna")
    with caplog.at_level(logging.INFO, "kinembed"):
        after = relate(alone, told, told / "run")
    assert len(after.faces) == len(before.faces)
    names = {face.photo: after.people[face.person].name for face in after.faces}
    assert names["Ann/0.jpg"] == names["Ann/1.jpg"] == "Anna" and names["Bob/0.jpg"] == "Bob"
    assert "again.jpg" not in names
    line = (
        "1 photo under two names; who is on it goes by likeness (Ann/same.jpg: Ann, Bob/1.jpg: Bob)"
    )
    assert line in after.left_out and line in caplog.text
    assert (
        "2 copies of another photo, which counts once (Bob/1.jpg of Ann/same.jpg; " in caplog.text
    )


def test_answers_are_taken_as_given(told: Path) -> None:
    answer(
        told, "different,Ann/0.jpg#1,Ann/1.jpg#1", "same,Ann/0.jpg#1,Bob/0.jpg#1",
        "name,beach.jpg#1,Cleo", "not-kin,beach.jpg#1,Ann/0.jpg#1", "same,Ann/0.jpg#1,lost.jpg#1",
    )  # fmt: skip
    album = relate(config(told), told, told / "run")
    of = {face.photo: face.person for face in album.faces}
    assert of["Ann/0.jpg"] == of["Bob/0.jpg"] != of["Ann/1.jpg"]
    assert album.people[of["beach.jpg"]].name == "Cleo"
    pair = {of["beach.jpg"], of["Ann/0.jpg"]}
    (link,) = [link for link in album.links if {link.left, link.right} == pair]
    assert (link.answer, link.is_shown) == ("not-kin", False)
    assert "1 answer names a face that is gone (lost.jpg#1)" in album.left_out
    assert len(album.answers) == 4
    assert len(album.aside) == 1  # the page saves it again: the photo may come back
    assert '"gone:Ann/0.jpg#1:lost.jpg#1"' in (told / "run" / "relate.html").read_text()
    given = [row for row in rows(told, "relate.csv") if row["answer"]]
    assert len(given) == 1 and given[0]["answer"] == "not-kin"


def test_an_answer_is_of_a_face_and_not_of_a_file_name(told: Path) -> None:
    answer(told, "name,Ann/0.jpg#1,Ann", "name,beach.jpg#1,Cleo")
    relate(config(told), told, told / "run")
    one, other = told / "album" / "Ann" / "0.jpg", told / "album" / "beach.jpg"
    one.rename(told / "swapped.jpg")
    other.rename(one)
    (told / "swapped.jpg").rename(other)
    for _ in range(2):
        album = relate(config(told), told, told / "run")
        names = {face.photo: album.people[face.person].name for face in album.faces}
        assert (names["Ann/0.jpg"], names["beach.jpg"]) == ("Cleo", "Ann")
        assert {row.left for row in album.answers} == {"Ann/0.jpg#1", "beach.jpg#1"}
    shutil.move(told / "album" / "Bob" / "0.jpg", other)
    album = relate(config(told), told, told / "run")
    assert "Ann" not in {person.name for person in album.people}
    assert [row.right for row in album.aside] == ["Ann"]
    line = "1 answer set aside because another face is there now (Ann/0.jpg#1)"
    assert line in album.left_out


def test_answers_that_contradict_each_other_change_nothing(told: Path) -> None:
    before = {name: (told / "run" / name).read_bytes() for name in TABLES}
    answer(told, "same,Ann/0.jpg#1,Bob/0.jpg#1", "kin,Bob/0.jpg#1,Ann/0.jpg#1")
    with pytest.raises(DataError, match=r"confirmed.csv: contradicts itself: Ann/0.jpg#1 and Bob"):
        relate(config(told), told, told / "run")
    assert {name: (told / "run" / name).read_bytes() for name in TABLES} == before


def test_one_photograph_and_one_person(told: Path) -> None:
    for path in [*(told / "album").rglob("*.jpg")]:
        if path.name != "beach.jpg":
            path.unlink()
    album = relate(config(told), told, told / "run")
    assert (len(album.people), album.pairs, album.links, album.doubts) == (1, 0, (), ())
    assert album.faces[0].confidence == 1
    text = (told / "run" / "relate.csv").read_text()
    assert next(csv.reader([text]))[:2] == ["left", "right"] and text.count("\n") == 1


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_a_crop_that_is_damaged_is_named_and_made_again(
    told: Path, caplog: pytest.LogCaptureFixture, content: bytes | None
) -> None:
    crop = told / "run" / "album" / "faces" / "beach.jpg"
    before = crop.read_bytes()
    crop.write_bytes(before[:900] if content is None else content)
    people = rows(told, "people.csv")
    relate(config(told), told, told / "run")
    assert f"{crop}: is damaged, and is made again" in caplog.text
    assert crop.read_bytes() == before and rows(told, "people.csv") == people


def test_a_table_that_was_given_is_not_replaced(told: Path) -> None:
    before = (told / "run" / "people.csv").read_bytes()
    given = replace(config(told), people_table=told / "run" / "people.csv")
    with pytest.raises(DataError, match=r"people.csv: would be replaced .* another --run"):
        relate(given, told, told / "run")
    assert (told / "run" / "people.csv").read_bytes() == before


def empty(folder: Path) -> RelateConfig:
    shutil.rmtree(folder / "album")
    (folder / "album").mkdir()
    return config(folder)


def faceless(folder: Path) -> RelateConfig:
    album = empty(folder).folder
    Image.new("RGB", (200, 150), (90, 120, 150)).save(album / "sky.jpg")
    return config(folder)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (empty, "no JPEG.* below it"),
        (faceless, "no face on 1 photograph"),
        (lambda f: replace(config(f), folder=f / "none"), "none: no such folder"),
        (lambda f: replace(config(f), folder=f / "album" / "beach.jpg"), "no such folder"),
        (lambda f: replace(config(f), fdr=1.5), "fdr: found 1.5, wanted above 0 and below 1"),
        (lambda f: replace(config(f), head=f / "no.h5"), "no.h5"),
        (lambda f: replace(config(f), people_table=f / "no.csv"), "no.csv"),
        (lambda f: replace(config(f), confirmed=f / "no.csv"), "no.csv: no such file; wanted ans"),
        (lambda f: replace(config(f), confirmed=f / "album"), "album: cannot be read .it is no fi"),
    ],
)
def test_what_cannot_be_told(
    told: Path, spoil: Callable[[Path], RelateConfig], problem: str
) -> None:
    before = {name: (told / "run" / name).read_bytes() for name in TABLES}
    with pytest.raises(KinembedError, match=problem) as error:
        relate(spoil(told), told, told / "run")
    assert "\n" not in str(error.value)
    assert {name: (told / "run" / name).read_bytes() for name in TABLES} == before


def test_the_command(told: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = ["--run", str(told / "run"), "--data", str(told), "--device", "cpu", "--precision", "fp32"]
    assert command(["relate", str(told / "album"), *at, "--fdr", "0.2", "--json"]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["photos"] == 6 and result["faces"] == len(rows(told, "people.csv"))
    assert result["shown"] == sum(row["shown"] == "yes" for row in rows(told, "relate.csv"))
    assert result["path"] == str(told / "run" / "relate.html")
    assert f"{result['pairs']} pairs shown as kin" in printed.err
    page = (told / "run" / "relate.html").read_text()
    assert f'"main":{result["questions"]},' in page.replace('": ', '":')
    assert "question" in printed.err and "who is on a photo is not known" not in printed.err
    assert command(["relate", str(told / "album"), *at, "--fdr", "2"]) == 1
    assert "fdr: found 2, wanted above 0 and below 1" in capsys.readouterr().err


def test_links_of_black_and_white_photos_are_told(told: Path) -> None:
    wide = replace(config(told), fdr=0.9)
    assert not any("black and white" in line for line in relate(wide, told, told / "run").left_out)
    for path in (told / "album").rglob("*.jpg"):
        Image.open(path).convert("L").save(path)
    album = relate(wide, told, told / "run")
    count = len(album.shown)
    said = [line for line in album.left_out if "black and white" in line]
    assert len(said) == (count > 0) and all(line.startswith(f"{count} link") for line in said)
    assert count, "no link is shown, so this shows nothing"
