"""`search`: the people of a cache ranked for one person, and every bad input in one line."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kinembed.cache import EmbeddingCache
from kinembed.cache.writer import write_cache
from kinembed.cli import run as kinembed
from kinembed.config import SearchConfig
from kinembed.errors import DataError, KinembedError, RunError
from kinembed.evaluation.calibration import load_calibration, save_calibration
from kinembed.evaluation.published import Origin
from kinembed.heads.file import load_head, save_head
from kinembed.heads.pooled_people import PooledPeople
from kinembed.inference import searching
from kinembed.inference.answerer import Answerer
from kinembed.inference.searching import SearchResult
from kinembed.search import search

ON_CPU: dict[str, Any] = {"device": "cpu", "precision": "fp32"}
SELF = "F0001/MID1"


@pytest.fixture
def own(answering: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(answering, tmp_path / "own"))


@pytest.fixture(scope="module")
def photo(faces: Path) -> Path:
    return sorted((faces / "train" / SELF).iterdir())[0]


@pytest.fixture(scope="module")
def find(
    answering: Path, faces: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., SearchResult]:
    """Searches, with a network that is opened once."""
    run = Path(shutil.copytree(answering, tmp_path_factory.mktemp("search") / "run"))
    answerer = Answerer.open(run, **ON_CPU)

    def asked(photo: Path | str, **settings: Any) -> SearchResult:
        config = SearchConfig(Path(photo), **{"crops": Path(photo).exists(), **settings})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("kinembed.search.Answerer.open", lambda *a, **k: answerer)
            return search(config, faces, run)

    return asked


def test_the_people_are_ranked_and_the_person_is_set_apart(
    find: Callable[..., SearchResult], photo: Path, faces: Path
) -> None:
    found = find(photo, top=6)
    (same,) = [each for each in found.same if each.known]
    assert same.name == SELF and same.photos == len(list(photo.parent.iterdir()))
    assert len(found.kin) == 6 and SELF not in [each.name for each in found.kin]
    evidence = [each.log_odds for each in found.kin]
    assert evidence == sorted(evidence, reverse=True)
    for each in (*found.same, *found.kin):
        assert each.same_person + each.kin + each.unrelated == pytest.approx(1)
        assert each.strangers == pytest.approx(each.far * (found.size - len(found.same)))
        assert (faces / each.photo).parent.as_posix().endswith(each.name)
    people = [path for path in (faces / "train").glob("*/*") if path.is_dir()]
    assert found.size == len(people)
    assert found.priors == pytest.approx((1 / found.size, 3 / found.size))


def test_numbers_are_those_of_the_answerer(
    find: Callable[..., SearchResult], answering: Path, faces: Path, photo: Path
) -> None:
    found = find("train/" + photo.relative_to(faces / "train").as_posix(), top=1000)
    answerer = Answerer.open(answering, **ON_CPU)
    with EmbeddingCache.open(answering / "embeddings.h5") as cache:
        for each in (*found.same, *found.kin):
            rows = np.flatnonzero(cache.people == each.name.encode())
            own = cache.rows([f"train/{photo.relative_to(faces / 'train').as_posix()}"])
            photos = answerer.cache_photos(cache, np.concatenate([own, rows]))
            groups = [np.array([0]), np.arange(1, len(rows) + 1)]
            people: PooledPeople = answerer.people(photos, groups)
            scores = answerer.scores(people, np.array([[1, 0]]))
            ((same, kin, unrelated),) = answerer.probabilities(scores, found.priors).tolist()
            assert (each.same_person, each.kin, each.unrelated) == (same, kin, unrelated)
            assert each.far == answerer.far(scores)[0]


def test_a_photo_a_folder_and_names_of_the_cache_are_one_person(
    find: Callable[..., SearchResult], photo: Path, faces: Path
) -> None:
    name = photo.relative_to(faces).as_posix()
    by_file, by_name = find(photo), find(name)
    assert by_name.probe.named is None and by_name.probe.photo == name
    assert "of the cache is the same file" in by_file.probe.note
    folder, person = find(photo.parent), find(SELF)
    assert folder.probe.person.counts.tolist() == person.probe.person.counts.tolist()
    assert person.probe.rows.tolist() == folder.probe.rows.tolist()
    for found in (by_file, by_name, folder, person):
        assert [each.name for each in found.same if each.known] == [SELF]


def test_someone_who_is_not_in_the_cache(
    find: Callable[..., SearchResult], photo: Path, tmp_path: Path
) -> None:
    with Image.open(photo) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "mirrored.png")
    found = find(tmp_path / "mirrored.png")
    assert not any(each.known for each in found.same) and len(found.kin) == 10


def test_photos_are_searched_one_by_one(
    find: Callable[..., SearchResult], photo: Path, faces: Path
) -> None:
    found = find(photo, by="photo", top=5)
    own = {path.relative_to(faces).as_posix() for path in photo.parent.iterdir()}
    assert {each.name for each in found.same if each.known} == own
    assert len(found.kin) == 5 and all(each.photo == each.name for each in found.kin)
    assert found.priors == pytest.approx((5 / found.size, 15 / found.size))


def test_a_person_who_trained_the_head_is_named(own: Path, faces: Path, photo: Path) -> None:
    config = SearchConfig(photo, crops=True, **ON_CPU)
    words = f"the head was trained on {SELF}, so for their kin these numbers are too good"
    assert words not in search(config, faces, own).notes
    head = load_head(own / "head.h5")
    trained = replace(head, held_out=(), trained=head.held_out)
    save_head(trained, own / "head.h5")
    calibration = load_calibration(own / "calibration.json")
    save_calibration(replace(calibration, head=trained.digest), own / "calibration.json")
    assert words in search(config, faces, own).notes


def test_a_prior_changes_probabilities_and_no_evidence(
    find: Callable[..., SearchResult], photo: Path
) -> None:
    rare, common = (find(photo, top=1000, prior=prior) for prior in (0.02, 0.4))
    both = {each.name: each for each in rare.kin}
    shared = [each for each in common.kin if each.name in both]
    assert shared
    for each in shared:
        assert each.log_odds == both[each.name].log_odds and each.far == both[each.name].far
        assert each.kin > both[each.name].kin
    with pytest.raises(KinembedError, match="prior: found 1, wanted a share of kin"):
        find(photo, prior=1.0)


def test_the_command_prints_a_table_json_and_files(
    own: Path, faces: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["search", str(photo), "--crops", "--top", "4", "--run", str(own), "--data", str(faces)]
    base += ["--device", "cpu"]
    table, picture = tmp_path / "found.csv", tmp_path / "found.png"
    assert kinembed([*base, "--out", str(table), "--picture", str(picture)]) == 0
    text = capsys.readouterr().out
    assert f"the same person: {SELF} (known by name or photo" in text
    assert "rank  name" in text and "FAR" in text and "strangers as alike" in text
    assert "no proof of kinship" in text and "answered by" in text
    assert kinembed([*base, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows if row["answer"] == "kin"] == [
        each["name"] for each in printed["kin"]
    ]
    assert [row["rank"] for row in rows if row["answer"] == "kin"] == ["1", "2", "3", "4"]
    with Image.open(picture) as image:
        assert image.width > 900 and len(image.convert("RGB").getcolors(1 << 20)) > 200
    assert (own / "gallery.h5").is_file()
    assert kinembed([*base, "--out", str(own / "gallery.h5")]) == 1
    assert "is the place of an artefact" in capsys.readouterr().err


def test_names_that_are_not_there(find: Callable[..., SearchResult]) -> None:
    with pytest.raises(DataError, match=r"F0001/MID99: no such file or folder, and no photo or "
                       r"person of .*embeddings\.h5 \(nearest: F0001/MID"):  # fmt: skip
        find("F0001/MID99")
    with pytest.raises(KinembedError, match="top: found 0"):
        find("F0001/MID1", top=0)


def test_what_is_no_photo_or_has_no_face(
    find: Callable[..., SearchResult], tmp_path: Path, photo: Path
) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4\n")
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (300, 300), "grey").save(tmp_path / "grey.png")
    for name, words in (
        ("a.pdf", "is a PDF"), ("empty", "has no photo with a face"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=words):
            find(tmp_path / name)
    with pytest.raises(DataError, match="no face is found on it"):
        find(tmp_path / "grey.png", crops=False)
    with pytest.raises(DataError, match="has no face 2; found 1 face"):
        find(photo, face=2)


def test_a_gallery_without_people_says_what_to_run(
    own: Path, faces: Path, photo: Path, tmp_path: Path
) -> None:
    path = tmp_path / "flat.h5"
    with EmbeddingCache.open(own / "embeddings.h5") as cache:
        views = {view: [np.array(cache.vectors(view))] for view in cache.views}
        names, nobody = np.array(cache.names), np.array([b""] * len(cache))
        write_cache(path, cache.provenance, names, np.array(cache.digests), views, people=nobody)
    config = SearchConfig(photo, crops=True, caches=(path,), **ON_CPU)
    with pytest.raises(DataError, match="there are no people to search; search its photos with "
                       "--by photo, or run kinembed embed"):  # fmt: skip
        search(config, faces, own)
    found = search(replace(config, by="photo"), faces, own)
    assert [each.name for each in found.same if each.known] == [photo.relative_to(faces).as_posix()]


def test_a_cache_of_another_network_is_refused(
    own: Path, tuned: Path, faces: Path, photo: Path
) -> None:
    config = SearchConfig(photo, crops=True, caches=(tuned / "embeddings.h5",), **ON_CPU)
    with pytest.raises(RunError, match="is of another network"):
        search(config, faces, own)


def test_a_gallery_of_one(own: Path, faces: Path, photo: Path, tmp_path: Path) -> None:
    path = tmp_path / "one.h5"
    with EmbeddingCache.open(own / "embeddings.h5") as cache:
        kept = np.flatnonzero(cache.people == b"F0002/MID1")
        write_cache(
            path, cache.provenance, np.array(cache.names)[kept], np.array(cache.digests)[kept],
            {view: [np.array(cache.vectors(view)[kept])] for view in cache.views},
        )  # fmt: skip
    found = search(SearchConfig(photo, crops=True, caches=(path,), **ON_CPU), faces, own)
    assert [each.name for each in (*found.same, *found.kin)] == ["F0002/MID1"]
    assert found.priors == pytest.approx((1 / 3, 1 / 3))
    itself = search(SearchConfig(Path("F0002/MID1"), caches=(path,), **ON_CPU), faces, own)
    assert itself.kin == () and itself.lines()[2] == "nobody else among 1 person"


def test_a_run_folder_that_cannot_be_written_to_is_searched(
    own: Path, faces: Path, photo: Path
) -> None:
    (own / "gallery.h5").mkdir()
    found = search(SearchConfig(photo, crops=True, **ON_CPU), faces, own)
    assert len(found.kin) == 10


def test_a_folder_of_several_people_of_the_cache_is_told(
    find: Callable[..., SearchResult], faces: Path, tmp_path: Path
) -> None:
    people = sorted(path for path in (faces / "train").glob("*/*") if path.is_dir())[:3]
    for number, person in enumerate(people):
        shutil.copy(sorted(person.iterdir())[0], tmp_path / f"{number}.jpg")
    (said,) = [each for each in find(tmp_path).notes if "people of the cache" in each]
    names = ["/".join(person.parts[-2:]) for person in people]
    assert f"photos of 3 people of the cache ({names[0]}, {names[1]}, …)" in said
    assert not [each for each in find(people[0]).notes if "people of the cache" in each]


def test_a_published_head_may_have_been_trained_on_these_people(
    find: Callable[..., SearchResult], photo: Path, answering: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddingCache.open(answering / "embeddings.h5") as cache:
        people = sorted({each.decode() for each in cache.people.tolist() if each})
    for trained, said in ((people, "was trained on this cache's people"),
                          (people[1:], "does not name its training people")):  # fmt: skip
        head = replace(load_head(answering / "head.h5"), trained=tuple(trained))
        origin = Origin.of(head, load_calibration(answering / "calibration.json"))
        monkeypatch.setattr(Answerer, "origin", property(lambda _, own=origin: own))
        assert any(said in note for note in find(photo).notes)


def test_a_photo_that_changed_is_told_and_not_drawn(
    own: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = SearchConfig(Path(SELF), top=3, picture=tmp_path / "found.png", **ON_CPU)
    found = search(asked, data, own)
    assert "changed since" not in caplog.text
    before = (tmp_path / "found.png").read_bytes()
    probe = data / found.probe.photo
    (data / found.kin[0].photo).write_bytes(probe.read_bytes())
    search(asked, data, own)
    assert f"1 photo has changed since it was embedded ({found.kin[0].photo})" in caplog.text
    assert (tmp_path / "found.png").read_bytes() != before


@pytest.mark.parametrize("asked", [{"face": 5}, {"crops": True}])
def test_a_name_of_the_cache_takes_no_settings_of_photos(
    find: Callable[..., SearchResult], asked: dict[str, Any]
) -> None:
    with pytest.raises(DataError, match="wants a photo, not a name"):
        find(SELF, **asked)


def test_the_same_picture_in_another_file_is_the_same_person(
    find: Callable[..., SearchResult], photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, turned = tmp_path / "mother.png", tmp_path / "turned.png"
    image = Image.open(photo).convert("RGB")
    image.save(copy)  # other bytes, the same pixels
    image.rotate(180).save(turned)
    room = "kinembed.inference.searching."
    monkeypatch.setattr(room + "SURE", 0)  # this network's vectors are all alike
    monkeypatch.setattr(room + "SAME_PICTURE", 0.99)
    assert SELF not in [each.name for each in find(copy, top=1000).kin]
    seen: list[dict[int, str]] = []
    of_all = searching._same_pictures

    def watched(*given: Any) -> dict[int, str]:
        everybody = list(range(len(given[2].names)))
        seen.append(of_all(*given[:4], everybody, given[-1]))
        return {}

    monkeypatch.setattr(room + "_same_pictures", watched)
    find(copy)
    find(turned)
    assert [list(each.values()) for each in seen] == [
        [f"train/{SELF}/{photo.name}"],
        [],
    ]


def test_blocks_change_nothing_and_a_search_stops_between_them(
    find: Callable[..., SearchResult], photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find(photo, top=12).as_json()
    calls = []

    def ended() -> None:
        calls.append(1)
        if len(calls) == 9:
            raise InterruptedError

    whole = searching.search_gallery
    monkeypatch.setattr(searching, "BLOCK", 1)  # each person's photos alone
    assert find(photo, top=12).as_json() == found
    monkeypatch.setattr("kinembed.search.search_gallery", lambda *given: whole(*given, ended))
    with pytest.raises(InterruptedError):
        find(photo, top=12)
