"""The stage `map`: what stands on the page and in map.csv, and what it refuses."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kinembed.cache import SCHEMA, EmbeddingCache
from kinembed.cache.writer import write_cache
from kinembed.cli import run as command
from kinembed.config import MapConfig
from kinembed.embedding_map import EmbeddingMap, embedding_map
from kinembed.errors import DataError, KinembedError, RunError
from kinembed.heads.file import load_head, save_head
from kinembed.inference import flat_map
from kinembed.io import read_csv

PCA = MapConfig(method="pca")


def page_data(path: Path) -> dict:
    content = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="page-data">(.*?)</script>', content, re.DOTALL)[1])


def cache_of(run: Path, people: list[str], names: list[str] | None = None, width: int = 6) -> Path:
    rng = np.random.default_rng(0)
    count = len(people)
    names = names or [f"train/{row:03}.jpg" for row in range(count)]
    order = np.argsort([name.encode() for name in names], kind="stable")
    about = {"schema": SCHEMA, "model": "0123", "backbone": "one", "dtype": "float32"}
    write_cache(
        run / "embeddings.h5", about, np.array([names[row].encode() for row in order]),
        np.zeros((count, 32), np.uint8), {"max": [rng.standard_normal((count, width)).astype("f4")]},
        people=np.array([people[row].encode() for row in order]),
    )  # fmt: skip
    return run


@pytest.fixture
def mapped(answering: Path, tmp_path: Path) -> Path:
    """A run folder to write to: cache and head."""
    run = tmp_path / "mapped"
    run.mkdir()
    for name in ("embeddings.h5", "head.h5"):
        shutil.copy(answering / name, run / name)
    return run


def test_page_and_table_hold_every_known_photo_by_the_head(mapped: Path, faces: Path) -> None:
    made = embedding_map(PCA, faces, mapped)
    with EmbeddingCache.open(mapped / "embeddings.h5") as cache:
        known = [n.decode() for n, p in zip(cache.names, cache.people) if p]
        vectors = cache.vectors("avg")[[bool(p) for p in cache.people]]
        digest = cache.digest
    head = load_head(mapped / "head.h5")
    assert made == replace(
        made, path=mapped / "map.html", table=mapped / "map.csv", photos=len(known), method="pca",
        placed=head.digest[:12], thumbnails=0, bytes=(mapped / "map.html").stat().st_size,
    )  # fmt: skip
    columns, rows = read_csv(made.table)
    assert columns == ["name", "person", "family", "x", "y"]
    assert [row["name"] for row in rows] == known
    assert {row["family"] for row in rows} == {row["person"].split("/")[0] for row in rows}
    points, _ = flat_map.principal_components(head.represent(vectors), 2)
    found = np.array([[float(row["x"]), float(row["y"])] for row in rows])
    assert np.allclose(found, points, rtol=1e-5, atol=1e-6)
    about = json.loads((mapped / "map.json").read_text())
    assert about["cache"] == digest and about["head"] == head.digest[:12]
    data = page_data(made.path)
    folders = [data["folders"][each] for each in data["folder"]]
    assert [f"{a}/{b}" for a, b in zip(folders, data["file"])] == known
    assert len(data["kin"]) > 3 and not data["pictures"]
    assert [data["people"][each] for each in data["person"]] == [row["person"] for row in rows]
    assert made.people == len(data["people"]) and made.families == len(data["families"])
    first = (made.path.read_bytes(), made.table.read_bytes())
    embedding_map(PCA, faces, mapped)
    assert (made.path.read_bytes(), made.table.read_bytes()) == first


def test_places_on_the_page_are_those_of_the_table(mapped: Path, faces: Path) -> None:
    made = embedding_map(replace(PCA, view="max"), faces, mapped)
    assert made.placed == "max"
    data, (_, rows) = page_data(made.path), read_csv(made.table)
    points = np.array([[float(row["x"]), -float(row["y"])] for row in rows])
    grid = np.stack([data["x"], data["y"]], 1)
    assert grid.min() == 0 and grid.max() == 10_000
    wanted = (points - points.min(0)) / np.ptp(points, 0).max()
    assert np.allclose((grid - grid.min(0)) / 10_000, wanted, atol=2e-4)


def test_shares_of_neighbours_are_those_of_slow_loops(mapped: Path, faces: Path) -> None:
    made = embedding_map(PCA, faces, mapped)
    _, rows = read_csv(made.table)
    points = np.array([[float(row["x"]), float(row["y"])] for row in rows])
    for column, found in (("person", made.same_person), ("family", made.same_family)):
        groups, hits = [row[column] for row in rows], []
        for row, point in enumerate(points):
            if groups.count(groups[row]) > 1:
                distances = ((points - point) ** 2).sum(1)
                distances[row] = np.inf
                hits.append(groups[int(distances.argmin())] == groups[row])
        assert found == pytest.approx(np.mean(hits), abs=1 / len(rows))


def test_thumbnails_only_if_asked_for_and_what_cannot_be_read_is_said(
    mapped: Path, data: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", "kinembed")
    whole = embedding_map(replace(PCA, photos=True), data, mapped)
    pictures = page_data(whole.path)["pictures"]
    assert len(pictures) == whole.thumbnails == whole.photos
    assert all(each.startswith("data:image/jpeg;base64,/9j/") for each in pictures.values())
    broken = data / read_csv(whole.table)[1][3]["name"]
    broken.write_bytes(b"no photo")
    monkeypatch.setattr("kinembed.report.map_page.MOST_THUMBNAILS", 25)
    some = embedding_map(replace(PCA, photos=True), data, mapped)
    assert "thumbnails of 25 of" in caplog.text
    shown = page_data(some.path)
    people = {shown["person"][int(row)] for row in shown["pictures"]}
    assert len(people) >= min(24, some.people - 1)  # one of each person goes before a second
    monkeypatch.undo()
    caplog.set_level("INFO", "kinembed")
    rest = embedding_map(replace(PCA, photos=True), data, mapped)
    assert rest.thumbnails == whole.thumbnails - 1 and str(broken.name) in caplog.text


def test_some_people_or_families_are_shown(mapped: Path, faces: Path) -> None:
    whole = embedding_map(PCA, faces, mapped)
    families = sorted({row["family"] for row in read_csv(whole.table)[1]})
    two = embedding_map(replace(PCA, families=tuple(families[:2])), faces, mapped)
    assert {row["family"] for row in read_csv(two.table)[1]} == set(families[:2])
    few = embedding_map(replace(PCA, people=7, seed=4), faces, mapped)
    assert 7 <= few.people < whole.people
    found = {row["person"] for row in read_csv(few.table)[1]}
    chosen = {person.split("/")[0] for person in found}
    whole_families = embedding_map(replace(PCA, families=tuple(chosen)), faces, mapped)
    assert {row["person"] for row in read_csv(whole_families.table)[1]} == found
    assert embedding_map(replace(PCA, people=10**6), faces, mapped).photos == whole.photos
    with pytest.raises(DataError, match=r"family 'F00x': not in the cache"):
        embedding_map(replace(PCA, families=("F00x",)), faces, mapped)


def test_a_map_of_a_part_or_in_another_place_leaves_the_whole_one_as_it_is(
    mapped: Path, faces: Path, tmp_path: Path
) -> None:
    embedding_map(PCA, faces, mapped)
    names = ("map.html", "map.csv", "map.json")
    whole = [(mapped / name).read_bytes() for name in names]
    part = embedding_map(replace(PCA, people=5), faces, mapped)
    assert (part.path, part.table) == (mapped / "map-part.html", mapped / "map-part.csv")
    few = replace(PCA, people=4, out=mapped / "few.html")
    other = replace(PCA, view="max", out=tmp_path / "elsewhere" / "page.html")
    for config in (few, few, other):  # twice: a map of before may be replaced
        made = embedding_map(config, faces, mapped)
        assert (made.path, made.table) == (config.out, config.out.with_suffix(".csv"))
        assert len(read_csv(made.table)[1]) == made.photos
        assert f"--out {config.out}" in made.path.read_text()
    (mapped / ".lock").mkdir()  # so nothing can be written there
    assert embedding_map(other, faces, mapped).path == other.out
    assert [(mapped / name).read_bytes() for name in names] == whole


def test_more_photos_than_it_can_show_are_drawn_by_the_seed(
    mapped: Path, faces: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "kinembed")
    whole = embedding_map(PCA, faces, mapped)
    monkeypatch.setattr("kinembed.embedding_map.MOST", 20)
    few = embedding_map(PCA, faces, mapped)
    assert few.photos == 20
    assert f"left out: {whole.photos - 20} photos; a map shows 20 at most" in caplog.text
    assert "photos more, which are not shown" in few.path.read_text()


@pytest.mark.parametrize("count", [1, 2, 12])
def test_small_caches_without_people_relations_or_head(tmp_path: Path, count: int) -> None:
    made = embedding_map(MapConfig(), tmp_path, cache_of(tmp_path, [""] * count))
    assert (made.photos, made.people, made.families, made.method) == (count, 0, 0, "pca")
    assert made.same_person is None and made.placed == "max"
    data = page_data(made.path)
    assert data["people"] == [""] and data["kin"] == [] and len(data["x"]) == count
    with pytest.raises(DataError, match="who is on the photos is not known"):
        embedding_map(replace(PCA, people=3), tmp_path, tmp_path)


def test_people_without_a_family_and_strange_names_stay_texts(tmp_path: Path) -> None:
    bad = '</script><img src=x onerror="alert(1)">'
    people = ["Ada", "Ada", "F/<b>1", bad.replace("/", "-")]
    names = ["a/1.jpg", "a/2.jpg", "b/</script>.jpg", "c/=x\u202e.jpg"]
    made = embedding_map(MapConfig(), tmp_path, cache_of(tmp_path, people, names))
    content = made.path.read_text()
    assert "<img" not in content and "<b>1" not in content and "\u202e" not in content
    assert content.count("</script>") == 2  # the data's own end and the script's
    data = page_data(made.path)
    assert data["people"][0] == bad.replace("/", "-") and data["families"] == ["", "F"]
    assert (made.people, made.families) == (3, 1)


def test_what_cannot_be_mapped_is_one_line(mapped: Path, faces: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such file; run kinembed embed"):
        embedding_map(PCA, faces, tmp_path / "none")
    with pytest.raises(RunError, match="has no view native"):
        embedding_map(replace(PCA, view="native"), faces, mapped)
    for out in (mapped / "embeddings.h5", mapped / "map.csv", mapped / "audit.html"):
        with pytest.raises(
            KinembedError, match="name another file for|wanted a name that ends in .html"
        ):
            embedding_map(replace(PCA, out=out), faces, mapped)
    (mapped / "embeddings.h5").write_bytes(b"nothing")
    with pytest.raises(RunError, match="not an embedding cache"):
        embedding_map(PCA, faces, mapped)


def test_a_head_of_another_network_leaves_the_view(
    mapped: Path, faces: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "kinembed")
    save_head(replace(load_head(mapped / "head.h5"), model="f" * 64), mapped / "head.h5")
    assert embedding_map(PCA, faces, mapped).placed == "max"
    assert "the head is of model ffffffffffff" in caplog.text and "of a view" in caplog.text


def test_the_command_prints_what_it_made(
    mapped: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "picture.html"
    asked = ["map", "--run", str(mapped), "--data", str(faces), "--json", "--quiet"]
    assert command([*asked, "--method", "pca", "--people", "5", "--out", str(out)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["path"] == str(out) and set(found) == set(EmbeddingMap.__dataclass_fields__)
    assert f"map --run {mapped} --data {faces} --method pca --people 5" in out.read_text()
