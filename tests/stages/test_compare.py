"""`compare`: the same person, kin or unrelated, from photos as they are; bad input in one line."""

import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kinembed.cli import run as kinembed
from kinembed.compare import compare
from kinembed.config import CompareConfig
from kinembed.data.aligned_folder import align_folder
from kinembed.errors import DataError, KinembedError
from kinembed.evaluation.published import read_published
from kinembed.evaluation.triples import TripleScore
from kinembed.inference.answerer import Answerer
from kinembed.inference.comparing import Asked, Comparison, PairAnswer
from kinembed.inference.grey import TAKEN_FOR_KIN, grey_note
from kinembed.inference.named_people import (
    FaceReader,
    FoundFace,
    NamedPerson,
    PhotoFaces,
    take_faces,
    without_shared,
)
from kinembed.ready import READY

ON_CPU: dict[str, Any] = {"device": "cpu", "precision": "fp32"}


@pytest.fixture(scope="module")
def photos(faces: Path) -> list[Path]:
    """One painted photo each of eight people, in four families."""
    people = [path for family in sorted((faces / "train").iterdir())[:4]
              for path in sorted(family.iterdir())[:2]]  # fmt: skip
    return [sorted(person.iterdir())[0] for person in people]


@pytest.fixture(scope="module")
def group(photos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph of two: a large face at the right, a smaller one at the left."""
    sheet = Image.new("RGB", (520, 300), (90, 120, 90))
    for photo, side, corner in ((photos[0], 220, (270, 40)), (photos[2], 150, (60, 80))):
        with Image.open(photo) as image:
            sheet.paste(image.resize((side, side), Image.Resampling.BICUBIC), corner)
    path = tmp_path_factory.mktemp("group") / "garden.png"
    sheet.save(path)
    return path


@pytest.fixture(scope="module")
def ask(answering: Path, faces: Path) -> Iterator[Callable[..., Comparison]]:
    """Compares, with a network that is opened once."""
    answerer = Answerer.open(answering, **ON_CPU)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kinembed.inference.answerer.Answerer.open", lambda *a, **k: answerer)

        def asked(a: Path, b: Path, **settings: Any) -> Comparison:
            return compare(CompareConfig(a=a, b=b, **settings), faces, answering)

        yield asked


def numbers(found: Comparison) -> list[float]:
    pair = found.answer
    return [*pair.probabilities, pair.far, pair.logit, pair.log_odds]


def folder(path: Path, photos: list[Path]) -> Path:
    path.mkdir(parents=True)
    for number, photo in enumerate(photos):
        shutil.copy(photo, path / f"{number}{photo.suffix}")
    return path


def test_three_answers_add_up_and_say_whom_they_are_of(
    ask: Callable[..., Comparison], photos: list[Path]
) -> None:
    found = ask(photos[0], photos[1], crops=True)
    assert sum(found.answer.probabilities) == pytest.approx(1)
    assert 0 < found.answer.far <= 1
    first, read, prior, calibrated, source = found.lines()
    assert first == found.sentence and "look" in first
    assert read == "; ".join(f"{path}: a face crop, taken whole" for path in photos[:2])
    assert "kin and unrelated are equally common; --prior changes" in prior
    assert "held-out people" in calibrated and "head" in source


def test_who_trained_the_head_is_said_by_the_bytes_of_their_photos(
    answering: Path,
    faces: Path,
    photos: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    who = "/".join(photos[0].parts[-3:-1])
    opened = Answerer.open(answering, **ON_CPU)
    opened = replace(opened, head=replace(opened.head, held_out=(), trained=(who,)))
    monkeypatch.setattr(Answerer, "open", lambda *a, **k: opened)
    copy = Path(shutil.copy(photos[0], tmp_path / "of somebody.jpg"))
    words = f"the head was trained on {who}, so for their kin these numbers are too good"
    for a, is_said in ((copy, True), (photos[1], False)):
        found = compare(CompareConfig(a=a, b=photos[2], crops=True), faces, answering)
        assert (words in found.lines()) is is_said
    of_three = CompareConfig(father=photos[2], mother=copy, child=photos[4], crops=True)
    assert words in compare(of_three, faces, answering).lines()


@settings(max_examples=15)
@given(st.lists(st.integers(0, 7), min_size=2, max_size=6, unique=True), st.data())
def test_the_order_of_people_and_of_photos_changes_no_bit(
    ask: Callable[..., Comparison], photos: list[Path], tmp_path_factory: pytest.TempPathFactory,
    chosen: list[int], data: st.DataObject,
) -> None:  # fmt: skip
    cut = data.draw(st.integers(1, len(chosen) - 1))
    sides = [[photos[each] for each in part] for part in (chosen[:cut], chosen[cut:])]
    mixed = [data.draw(st.permutations(side)) for side in sides]
    base = tmp_path_factory.mktemp("order")
    a, b, c, d = (folder(base / name, side) for name, side in zip("abcd", [*sides, *mixed],
                                                                  strict=True))  # fmt: skip
    wanted = numbers(ask(a, b, crops=True))
    assert numbers(ask(b, a, crops=True)) == wanted
    assert numbers(ask(d, c, crops=True)) == wanted
    if len(sides[0]) == 1:
        assert numbers(ask(b, sides[0][0], crops=True)) == wanted


def test_more_photos_are_all_used(
    ask: Callable[..., Comparison], photos: list[Path], faces: Path
) -> None:
    one = ask(photos[0], photos[1], crops=True)
    all_of = ask(photos[0].parent, photos[1].parent, crops=True)
    assert len(all_of.people[0].photos) == len(list(photos[0].parent.iterdir())) > 1
    assert numbers(one) != numbers(all_of)


def test_the_prior_moves_the_probabilities_alone(
    ask: Callable[..., Comparison], photos: list[Path]
) -> None:
    plain, rare = (ask(*photos[:2], crops=True, prior=prior) for prior in (None, 0.01))
    assert numbers(plain)[3:] == numbers(rare)[3:]
    odds = [math.log(each.answer.kin / each.answer.unrelated) for each in (plain, rare)]
    assert odds[0] == pytest.approx(plain.answer.log_odds)
    assert odds[1] == pytest.approx(odds[0] + math.log(0.01 / 0.98))
    assert rare.answer.same_person < plain.answer.same_person
    assert "assumes .01 kin, .01 the same person and .98 unrelated" in "".join(rare.notes)


def test_of_several_faces_the_largest_is_taken_and_another_can_be_named(
    ask: Callable[..., Comparison], photos: list[Path], group: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO, "kinembed")
    found = ask(group, photos[5])
    assert "garden.png: shows 2 faces; face 1, the largest, is taken" in caplog.text
    assert "--face names another (2: " in caplog.text
    (photo,) = found.people[0].photos
    large, small = photo.faces
    assert large.box[0] > 250 > small.box[2] and not photo.is_crop
    assert all(np.isfinite(face.points).all() for face in (large, small))
    other = ask(group, photos[5], face=(2,))
    assert other.people[0].chosen == (1,) and numbers(other) != numbers(found)
    assert numbers(ask(photos[5], group, face=(2,))) == numbers(other)
    assert numbers(ask(group, photos[5], face=(2, 1))) == numbers(other)
    both = ask(group, group, face=(1, 2))
    assert numbers(both) == numbers(ask(group, group, face=(2, 1)))
    assert both.people[0].note() == "face 1 of 2" and both.people[1].note() == "face 2 of 2"


def test_in_a_folder_the_face_that_fits_the_others_is_taken(
    ask: Callable[..., Comparison], photos: list[Path], group: Path, tmp_path: Path
) -> None:
    own = sorted(photos[2].parent.iterdir())  # of the smaller face
    person = ask(folder(tmp_path / "her", [*own, group]), photos[5]).people[0]
    by_name = {photo.path.suffix: which for photo, which in zip(person.photos, person.chosen,
                                                                strict=True)}  # fmt: skip
    assert by_name[".png"] == 1


def test_what_a_folder_leaves_out_is_counted(
    ask: Callable[..., Comparison], photos: list[Path], tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    her = folder(tmp_path / "her", [photos[0], photos[0], photos[1], photos[5]])
    (her / "notes.txt").write_text("aunt")
    (her / "broken.jpg").write_bytes(photos[0].read_bytes()[:300])
    Image.new("RGB", (200, 150), (40, 90, 200)).save(her / "sky.png")
    found = ask(her, photos[5])
    counts = found.people[0].left_out.counts
    assert counts == {
        "other files": 1,
        "that cannot be read": 1,
        "without a face": 1,
        "copies of another photo": 1,
        "also among the other person's photos": 1,
    }
    assert len(found.people[0].photos) == 2 and "left out: " in caplog.text
    about = found.as_json()["people"][0]
    assert {each["reason"] for each in about["left_out"]} == set(counts)


def test_a_folder_of_two_people_is_doubted(
    ask: Callable[..., Comparison], photos: list[Path], tmp_path: Path,
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    own = sorted(photos[0].parent.iterdir())
    mixed = folder(tmp_path / "mixed", [*own, photos[4]])
    last = len(own)

    def told(self: Answerer, scores: Any, priors: Any = None) -> np.ndarray:
        """All photos of a folder fit the others, but the last."""
        result = np.tile([0.8, 0.1, 0.1], (len(scores), 1))
        if len(scores) == last + 1:
            result[last] = [0.01, 0.5, 0.49]
        return result

    monkeypatch.setattr(Answerer, "probabilities", told)
    ask(mixed, photos[5], crops=True)
    assert f"mixed: 1 photo may show somebody else than the others ({last}.jpg)" in caplog.text
    caplog.clear()
    ask(photos[0].parent, photos[5], crops=True)
    assert "somebody else" not in caplog.text
    album = folder(tmp_path / "album", [each for each in photos if each != photos[5]])
    nobody = np.array([0.01, 0.5, 0.49])
    monkeypatch.setattr(Answerer, "probabilities", lambda *a: np.tile(nobody, (len(a[1]), 1)))
    ask(album, photos[5], crops=True)
    assert "album: its photos do not look like one person; kinembed relate tells" in caplog.text


def test_father_mother_and_child(answering: Path, faces: Path, photos: list[Path]) -> None:
    def asked(father: Path, mother: Path, **more: Any) -> Comparison:
        config = CompareConfig(
            father=father, mother=mother, child=photos[4], crops=True, **ON_CPU, **more
        )
        return compare(config, faces / "nowhere", answering)  # without relations: no weights

    found, turned, rare = (
        asked(photos[0], photos[2]), asked(photos[2], photos[0]),
        asked(photos[0], photos[2], prior=0.01),
    )  # fmt: skip
    odds = sum(pair.log_odds for pair in found.pairs)
    assert found.triple == pytest.approx(1 / (1 + math.exp(-odds)))
    assert rare.triple == pytest.approx(1 / (1 + 99 * math.exp(-odds)))
    assert turned.triple == found.triple
    assert [*reversed(turned.pairs)] == list(found.pairs)
    assert "child of both" in found.sentence
    assert any("weigh alike" in line for line in found.lines())
    about = found.as_json()
    assert about["child_of_both"] == found.triple and about["father"]["far"] == found.pairs[0].far


def test_three_who_are_not_three_people_are_doubted(
    answering: Path, faces: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    father = (0.67, 0.2, 0.13)  # and child are one person; mother and child alone are unrelated

    def told(self: Asked, pairs: list[tuple[int, int]], priors: Any) -> list[PairAnswer]:
        of = {(0, 2): father, (1, 2): (0.01, 0.2, 0.79), (0, 1): (0.1, 0.1, 0.8)}
        return [PairAnswer(*of[pair], 0.1, 0.0, 4.0) for pair in pairs]

    monkeypatch.setattr(Asked, "answers", told)
    config = CompareConfig(
        father=photos[0], mother=photos[2], child=photos[4], crops=True, prior=0.1, **ON_CPU
    )
    found = compare(config, faces / "nowhere", answering)
    assert found.sentence.startswith("father and child look like one person: .67; if not: very li")
    assert any(line.startswith("mother and child alone look unrelated") for line in found.lines())
    assert any("of one of them alone is not considered" in line for line in found.lines())
    father = (0.2, 0.67, 0.13)
    assert compare(config, faces / "nowhere", answering).sentence.startswith("very likely the chil")


def test_two_black_and_white_photos_are_told(
    ask: Callable[..., Comparison], photos: list[Path], tmp_path: Path
) -> None:
    grey = [tmp_path / f"grey{number}.png" for number in range(2)]
    for path, photo in zip(grey, photos, strict=False):
        Image.open(photo).convert("L").save(path)
    said = [any("black and white" in line for line in ask(*two, crops=True).lines())
            for two in (grey, (grey[0], photos[1]), photos[:2])]  # fmt: skip
    assert said == [True, False, False]


def test_the_figure_of_black_and_white_photos_is_that_of_the_card() -> None:
    card = read_published(READY).card
    row = next(line for line in card.splitlines() if line.startswith("| both black and white |"))
    assert float(row.split("|")[2].split()[0]) == pytest.approx(TAKEN_FOR_KIN, abs=0.005)
    assert "takes .73 of such strangers for kin" in grey_note("both are", True)
    assert ".73" not in grey_note("both are", False)


def test_a_heads_own_weights_of_both_parents_go_first(
    answering: Path, faces: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = replace(Answerer.open(answering, **ON_CPU), triples=TripleScore(0.7, 0.2, -0.3, 12))
    monkeypatch.setattr(Answerer, "open", lambda *a, **k: opened)
    config = CompareConfig(father=photos[0], mother=photos[2], child=photos[4], crops=True)
    found = compare(config, faces, answering)
    one, other = (pair.logit for pair in found.pairs)
    assert found.triple == pytest.approx(1 / (1 + math.exp(-(0.7 * one + 0.2 * other - 0.3))))
    assert any("calibrated on triples of 12 held-out families" in line for line in found.lines())


@pytest.fixture
def typed(answering: Path, faces: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command; what it prints on one of its two streams."""

    def typing(*arguments: object, code: int = 0) -> str:
        there = ["--run", answering, "--data", faces, "--device", "cpu", "--precision", "fp32"]
        capfd.readouterr()
        assert kinembed(list(map(str, ["compare", *arguments, *there]))) == code
        out, err = capfd.readouterr()
        return err if code else out

    return typing


def test_json_pictures_and_regions(
    typed: Callable[..., str], photos: list[Path], tmp_path: Path
) -> None:
    picture, regions = tmp_path / "faces.png", tmp_path / "regions.png"
    out = typed(*photos[:2], "--json", "--picture", picture, "--explain", regions, "--crops")
    about = json.loads(out)
    assert about["same_person"] + about["kin"] + about["unrelated"] == pytest.approx(1)
    assert about["answer"] in ("same_person", "kin", "unrelated")
    assert set(about) == {
        *("sentence", "answer", "same_person", "kin", "unrelated", "far", "logit", "log_odds"),
        *("priors", "source", "notes", "model", "head", "people", "files"),
    }
    assert about["files"] == {"picture": str(picture), "explain": str(regions)}
    assert [each["photos"][0]["crop"] for each in about["people"]] == [True, True]
    assert all(len(about[name]) == 64 for name in ("model", "head"))
    for path in (picture, regions):
        with Image.open(path) as image:
            assert image.format == "PNG" and image.width > 700


def pdf(path: Path) -> Path:
    path.write_bytes(b"%PDF-1.7\n" + bytes(200))
    return path


def film(path: Path) -> Path:
    path.write_bytes(b"\0\0\0\x18ftypisom" + bytes(200))
    return path


def sky(path: Path) -> Path:
    Image.new("RGB", (300, 200), (40, 90, 200)).save(path)
    return path


def empty(path: Path) -> Path:
    path.mkdir()
    return path


def texts(path: Path) -> Path:
    path.mkdir()
    (path / "a.txt").write_text("a")
    return path


@pytest.mark.parametrize(
    ("make", "name", "said"),
    [
        (pdf, "scan.pdf", "scan.pdf: is a PDF; save its page as a photo; wanted a photo (JPEG"),
        (film, "clip.mp4", "clip.mp4: is a video; save a frame of it"),
        (
            sky,
            "sky.png",
            "sky.png: no face is found on it; wanted an upright face, seen from the front",
        ),
        (empty, "aunt", "aunt: has no photo with a face: it is empty; wanted photos of one person"),
        (texts, "texts", "texts: has no photo with a face: found 1 other file (a.txt)"),
        (lambda path: path, "gone.jpg", "gone.jpg: No such file or directory; wanted a photo"),
    ],
)
def test_what_is_no_photo_of_a_face_is_one_line(
    typed: Callable[..., str], photos: list[Path], tmp_path: Path,
    make: Callable[[Path], Path], name: str, said: str,
) -> None:  # fmt: skip
    path = make(tmp_path / name)
    for two in ((path, photos[0]), (photos[0], path)):
        problem = typed(*two, "--quiet", code=1)
        assert problem.startswith("Error: ") and said in problem and problem.count("\n") == 1
        assert "--skip-unreadable" not in problem


def test_a_face_compared_with_itself_is_one_line(
    typed: Callable[..., str], photos: list[Path], group: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copy(photos[0], tmp_path / "copy.jpg"))
    one = folder(tmp_path / "one", [photos[0]])
    for a, b, said in (
        (photos[0], copy, "are one photo, byte for byte: that compares a face with itself"),
        (photos[0], photos[0], "is named twice"),
        (one, photos[0], "have the same photos, byte for byte"),
        (group, group, "wanted two of its faces, such as --face 1,2"),
    ):
        problem = typed(a, b, "--quiet", code=1)
        assert said in problem and problem.count("\n") == 1, problem


def test_faces_that_are_not_there_are_one_line(
    ask: Callable[..., Comparison], photos: list[Path], group: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copy(group, tmp_path / "other.png"))
    with pytest.raises(DataError, match=r"garden.png: has no face 3; found 2 faces"):
        ask(group, photos[0], face=(3,))
    with pytest.raises(DataError, match="which show several faces each; wanted a number for each"):
        ask(group, other, face=(2,))
    with pytest.raises(DataError, match="found 3 numbers, wanted one for each of 2 photos"):
        ask(group, photos[0], face=(1, 1, 1))
    with pytest.raises(DataError, match="a folder takes the faces that fit each other; leave out"):
        ask(photos[0].parent, photos[1].parent, face=(1,))


def test_wrong_usage(typed: Callable[..., str], photos: list[Path], tmp_path: Path) -> None:
    assert "without B; wanted two people, A and B, or --father" in typed(photos[0], code=2)
    assert "found nobody; wanted two people" in typed(code=2)
    family = ("--father", photos[0], "--child", photos[1])
    assert "without --mother; wanted two people" in typed(*family, code=2)
    assert "found A and one of a family of three" in typed(photos[2], *family, code=2)
    assert "wanted a number from 1 on" in typed(*photos[:2], "--face", "0", code=2)
    assert "--explain: draws the regions of two people" in typed(
        "--father", photos[0], "--mother", photos[1], "--child", photos[2], "--explain",
        tmp_path / "x.png", code=2,
    )  # fmt: skip
    assert "x.bmp: a picture is a PNG" in typed(*photos[:2], "--picture", "x.bmp", code=1)
    png = Path(shutil.copy(photos[0], tmp_path / "a.png"))  # formats are known by content
    assert "is an input of this command" in typed(png, photos[1], "--picture", png, code=1)
    assert png.read_bytes() == photos[0].read_bytes()


@pytest.mark.parametrize(
    "given_",
    [
        {"father": Path("a")},
        {"a": Path("a"), "father": Path("b"), "child": Path("c")},
        {"a": Path("a"), "b": Path("b"), "child": Path("c")},
    ],
)
def test_neither_two_people_nor_three_are_refused(given_: dict[str, Path]) -> None:
    with pytest.raises(KinembedError, match="; wanted two people, A and B, or --father"):
        CompareConfig(**given_).paths()


@pytest.mark.shared
def test_crops_are_taken_as_they_are(shared: Callable[[str], Path]) -> None:
    kaggle = sorted(shared("rfiw/train/F0024").rglob("*.jpg"))[:12]
    aligned = sorted(shared("cases/aligned/photos").rglob("*.jpg"))[:4]
    found = [photo for person in FaceReader().people([*kaggle, *aligned[:2]])
             for photo in person.photos]  # fmt: skip
    assert sum(photo.is_crop for photo in found[: len(kaggle)]) >= len(kaggle) - 2
    assert not any(photo.is_crop for photo in found[len(kaggle) :])
    assert all(photo.faces[0].crop.shape == (224, 224, 3) for photo in found)


@pytest.mark.parametrize("size", [(1, 1), (8, 200), (1, 4000), (64, 64)])
def test_a_crop_that_shows_nothing_is_refused(
    ask: Callable[..., Comparison], photos: list[Path], tmp_path: Path, size: tuple[int, int]
) -> None:
    Image.new("RGB", size, "black").save(tmp_path / "black.png")
    with pytest.raises(DataError, match=r"black.png: is (of one colour|\d+ x \d+ pixels); wanted"):
        ask(tmp_path / "black.png", photos[0], crops=True)


def test_the_face_numbers_that_are_advised_are_taken() -> None:
    face = FoundFace(1, np.zeros((224, 224, 3), np.uint8), (0.0, 0.0, 9.0, 9.0))
    two = (face, replace(face, number=2))
    one, other = (
        NamedPerson.of(PhotoFaces(Path(name), name, (9, 9), False, two, face.crop)) for name in "ab"
    )
    for people, advised in (
        ((one, one), "1,2"),
        ((one, other), "1,1"),
        ((one, other, one), "1,1,2"),
    ):
        with pytest.raises(DataError, match=f"--face {advised}"):
            take_faces(people, [1])
        without_shared(take_faces(people, [int(each) for each in advised.split(",")]))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of this kind are of Unix")
def test_a_pipe_is_named_without_advice_of_another_command(
    ask: Callable[..., Comparison], photos: list[Path], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "broken.jpg").write_bytes(photos[0].read_bytes()[:300])
    for name in ("pipe.jpg", "broken.jpg"):
        with pytest.raises(DataError, match=name) as error:
            ask(tmp_path / name, photos[0], crops=True)
        assert "skip-unreadable" not in str(error.value)
    with pytest.raises(DataError, match="is a pipe; wanted a photo$"):
        align_folder(tmp_path / "pipe.jpg", tmp_path / "out", min_face=40)


def test_a_picture_of_three_says_who_is_who(
    answering: Path, faces: Path, photos: list[Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    notes: list[str] = []

    def drawn(people: list[Any], *more: Any) -> Path:
        notes.extend(person.note for person in people)
        return tmp_path / "three.png"

    monkeypatch.setattr("kinembed.report.compare_picture.draw_answer", drawn)
    config = CompareConfig(
        father=photos[0], mother=photos[2], child=photos[4], crops=True,
        picture=tmp_path / "three.png", **ON_CPU,
    )  # fmt: skip
    compare(config, faces / "nowhere", answering)
    assert notes == [f"{who}; a face crop, taken whole" for who in ("father", "mother", "child")]
