"""`kinembed audit` in a run folder: its files, its output, and what `head --exclude` makes of it."""

import json
from pathlib import Path

import pytest
from faulty_families import Faulty

from kinembed.cli import run as command
from kinembed.io import read_csv

QUICK = ("embed_dim=8", "hidden_dim=0", "expand=off")


def faulty_run(folder: Path) -> Path:
    faulty = Faulty(families=12)
    faulty.digests["train/F001/MID2/0.jpg"] = faulty.digests["train/F002/MID3/1.jpg"]
    faulty.relations.add(("F003/MID2", "F004/MID3"))
    return faulty.write(folder)


def test_the_command_prints_counts_and_the_surest(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = str(faulty_run(tmp_path))
    assert command(["audit", "--run", run, "--data", run, "--top", "2"]) == 0
    out = capfd.readouterr().out
    assert "| copy     | one photograph under two people" in out
    assert out.count("byte for byte") == 1 and "F003/MID2 / F004/MID3" in out


def test_json_is_all_of_the_table(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = str(faulty_run(tmp_path))
    arguments = ["audit", "--run", run, "--data", run, "--kinds", "copy,relation", "--json"]
    assert command(arguments) == 0
    result = json.loads(capfd.readouterr().out)
    columns, rows = read_csv(tmp_path / "audit.csv")
    assert result["path"] == str(tmp_path / "audit.csv")
    assert [
        {**row, "surety": float(row["surety"]) if row["surety"] else None} for row in rows
    ] == result["findings"]
    assert sum(result["counts"].values()) == len(rows) and result["counts"]["copy"] == 1
    assert columns == list(result["findings"][0])


def test_head_leaves_out_what_audit_writes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = faulty_run(tmp_path)
    monkeypatch.setattr("kinembed.audit.ENOUGH", 0)
    table = tmp_path / "exclude.csv"
    arguments = ["audit", "--run", str(run), "--data", str(run), "--write", str(table)]
    assert command([*arguments, "--surest", "2", "--kinds", "copy,relation"]) == 0
    rows = read_csv(table)[1]
    assert rows[1] == {"photo": "", "person": "F003/MID2", "other_person": "F004/MID3"}
    assert len(rows) == 2 and rows[0]["photo"].endswith(".jpg")
    capfd.readouterr()
    quick = [part for each in QUICK for part in ("--set", each)]
    settings = ["--epochs", "1", "--steps", "2", "--folds", "2", "--exclude", str(table)]
    assert command(["head", "--run", str(run), "--data", str(run), *quick, *settings]) == 0
    error = capfd.readouterr().err
    assert "exclude.csv: leaves out 1 photo, 0 people and 1 relation; 1 pair of people" in error
    assert "108 relations\n" in error
    assert "12 families, 60 people, 239 photos" in error


def test_pictures_of_each_kind_are_drawn_where_photos_are(run: Path, faces: Path) -> None:
    assert command(["audit", "--run", str(run), "--data", str(faces), "--least", "0"]) == 0
    drawn = {path.stem for path in (run / "audit").iterdir()}
    assert drawn == {row["kind"] for row in read_csv(run / "audit.csv")[1]}
    assert "relation" in drawn
    assert command(["audit", "--run", str(run), "--data", str(faces), "--no-pictures"]) == 0
    assert {path.stem for path in (run / "audit").iterdir()} == drawn


def test_a_wrong_kind_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert command(["audit", "--run", str(tmp_path), "--kinds", "copies"]) == 1
    error = capfd.readouterr().err
    assert error.startswith("Error: kinds: found 'copies', wanted some of copy, photo, double")


def test_what_is_not_judged_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = str(faulty_run(tmp_path))
    (tmp_path / "head.h5").unlink()
    asked = ["audit", "--run", run, "--data", run]
    assert command(asked) == 0
    lines = [line.split("|") for line in capfd.readouterr().out.splitlines()]
    listed = {line[1].strip(): line[4].strip() for line in reversed(lines) if len(line) == 6}
    kin = ("person", "relation", "unlisted", "family")
    assert all(listed[kind] == "not judged" for kind in kin) and listed["copy"] == "1"
    assert command([*asked, "--kinds", "relation", "--json"]) == 0
    result = json.loads(capfd.readouterr().out)
    assert result["not_judged"]["relation"] == "no head; run kinembed head"
    assert result["not_judged"]["copy"] == "not asked for" and result["missing"] == 240


def test_a_changed_photo_is_told_and_not_drawn(
    run: Path, data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = ["audit", "--run", str(run), "--data", str(data), "--least", "0", "--json"]
    assert command(asked) == 0
    said = capfd.readouterr()
    before = json.loads(said.out)
    assert before["changed"] == before["missing"] == 0 and "changed since" not in said.err
    drawn = {path.name: path.read_bytes() for path in (run / "audit").iterdir()}
    photos = sorted((data / "train").rglob("*.jpg"))
    for photo in photos[1:]:
        photo.write_bytes(photos[0].read_bytes())
    photos[0].unlink()
    assert command(asked) == 0
    said = capfd.readouterr()
    after = json.loads(said.out)
    assert after["changed"] == len(photos) - 1 and after["missing"] == 1
    assert "have changed since it was embedded" in said.err
    assert "does not hold the photos" not in said.err and "1 of " in said.err
    now = {path.name: path.read_bytes() for path in (run / "audit").iterdir()}
    assert now.keys() == drawn.keys() and now != drawn
