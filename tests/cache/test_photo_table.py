"""`cache export --parquet`: vectors, people, and what head and map say, read back by others."""

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kinembed.cache import EmbeddingCache
from kinembed.cache.photo_table import export_table
from kinembed.cli import run as command
from kinembed.config import MapConfig
from kinembed.data.families import cached_families
from kinembed.embedding_map import embedding_map
from kinembed.errors import KinembedError, RunError
from kinembed.evaluation.photo_scores import kin_scores
from kinembed.heads.file import load_head, save_head
from kinembed.io import read_csv

if importlib.util.find_spec("pyarrow") is None:

    def test_it_says_what_to_install(answering: Path, faces: Path, tmp_path: Path) -> None:
        with pytest.raises(KinembedError, match=r"pip install 'kinembed\[parquet\]'"):
            export_table(answering, tmp_path / "out.parquet", (), faces)

    pytest.skip("pyarrow is not installed", allow_module_level=True)

from pyarrow import parquet


@pytest.fixture
def cache(answering: Path, tmp_path: Path) -> Path:
    """The cache of a run folder with a head, to write to."""
    run = tmp_path / "exported"
    run.mkdir()
    for name in ("embeddings.h5", "head.h5"):
        shutil.copy(answering / name, run / name)
    return run / "embeddings.h5"


def test_the_table_has_what_cache_head_and_map_know(
    cache: Path, faces: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "kinembed")
    monkeypatch.setattr("kinembed.embedding_map.MOST", 30)
    made = embedding_map(MapConfig(method="pca"), faces, cache.parent)
    whole = export_table(cache.parent, cache.parent / "whole.parquet", ("max", "max+avg"), faces)
    monkeypatch.setattr("kinembed.cache.photo_table.CHUNK", 7)
    out = export_table(cache.parent, cache.parent / "embeddings.parquet", ("max", "max+avg"), faces)
    table = parquet.read_table(out)
    assert table.equals(parquet.read_table(whole))
    assert table.column_names == [
        *("name", "person", "family", "vector_max", "vector_max+avg"),
        *("fold", "kin_score", "x", "y"),
    ]
    with EmbeddingCache.open(cache) as opened:
        names, people = opened.names.tolist(), opened.people.tolist()
        assert [name.encode() for name in table["name"].to_pylist()] == names
        assert [person.encode() for person in table["person"].to_pylist()] == people
        for view in ("max", "max+avg"):
            column = table[f"vector_{view}"].combine_chunks()
            assert np.array_equal(
                np.stack(column.to_numpy(zero_copy_only=False)), opened.vectors(view)
            )
        assert json.loads(table.schema.metadata[b"provenance"]) == opened.provenance
        wanted = kin_scores(
            load_head(cache.parent / "head.h5"), opened, cached_families(opened, faces)
        )
    assert np.isfinite(wanted).sum() > 20
    assert np.array_equal(table["kin_score"].to_numpy(), wanted, equal_nan=True)
    assert table["kin_score"].null_count == np.isnan(wanted).sum()
    assert table["fold"].to_pylist() == [0 if person else None for person in people]
    places = {row["name"]: (float(row["x"]), float(row["y"])) for row in read_csv(made.table)[1]}
    for name, x, y in zip(*(table[column].to_pylist() for column in ("name", "x", "y"))):
        assert (x, y) == places.get(name, (None, None))
    empty = f"columns x, y: empty for {table['x'].null_count} of {len(names)} photos"
    assert table["x"].null_count == len(names) - 30 and empty in caplog.text
    assert {"F" in family for family in table["family"].to_pylist() if family} == {True}


def test_pandas_opens_it_in_one_line(cache: Path, faces: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    table = pandas.read_parquet(export_table(cache.parent, cache.parent / "t.parquet", (), faces))
    assert np.stack(table["vector_max"]).shape[0] == len(table)
    assert len(table.groupby("family")["kin_score"].mean().dropna()) > 3


def test_what_is_missing_or_of_another_run_is_left_out_and_said(
    cache: Path, faces: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "kinembed")
    run, plain = cache.parent, ["name", "person", "family", "vector_max"]

    def columns(data: Path = faces) -> list[str]:
        caplog.clear()
        return list(
            parquet.read_table(export_table(cache.parent, run / "t.parquet", (), data)).column_names
        )

    assert columns() == [*plain, "fold", "kin_score"]
    assert f"without columns x, y: run kinembed map --run {run}" in caplog.text
    assert columns(tmp_path) == [*plain, "fold"]
    assert "without column kin_score" in caplog.text
    embedding_map(MapConfig(method="pca"), faces, run)
    good = (run / "map.json").read_text()
    assert columns() == [*plain, "fold", "kin_score", "x", "y"]
    for broken in ("{", good.replace('"cache": "', '"cache": "0'), '{"cache": 3}'):
        (run / "map.json").write_text(broken)
        assert columns() == [*plain, "fold", "kin_score"]
        assert "again" in caplog.text
    (run / "map.json").write_text(good)
    (run / "map.csv").write_text("name,x,y\nno such photo,1,2\n")
    assert columns()[-1] == "kin_score" and "map.csv" in caplog.text
    save_head(replace(load_head(run / "head.h5"), scale=2.0), run / "head.h5")
    assert columns() == [*plain, "fold", "kin_score"] and "is of another head" in caplog.text
    save_head(replace(load_head(run / "head.h5"), model="f" * 64), run / "head.h5")
    assert columns() == plain and "the head is of model" in caplog.text
    (run / "head.h5").unlink()
    assert columns() == plain and "kinembed head trains one" in caplog.text


def test_what_cannot_be_exported_is_one_line(
    cache: Path, faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = cache.parent
    with pytest.raises(RunError, match="has no view native"):
        export_table(cache.parent, run / "t.parquet", ("native",), faces)
    with pytest.raises(KinembedError, match="one is named twice"):
        export_table(cache.parent, run / "t.parquet", ("max", "max"), faces)
    for place in ("head.h5", "embeddings.h5", "embeddings.csv"):
        with pytest.raises(KinembedError, match="name another file for the output"):
            export_table(cache.parent, run / place, (), faces)
    asked = ["cache", "export", "--run", str(run), "--data", str(faces), "--view", "max"]
    assert command([*asked, "--view", "avg", "--csv"]) == 2
    assert "several are for --parquet" in capsys.readouterr().err
    assert command([*asked, "--view", "avg", "--parquet"]) == 0
    assert capsys.readouterr().out.strip() == str(run / "embeddings.parquet")
