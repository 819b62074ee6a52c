"""docs/kaggle.ipynb: executed from top to bottom on synthetic families, as Kaggle would mount them."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

import kinembed
from kinembed.outputs import ARTEFACTS

nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")
pytest.importorskip("vl_convert", reason="the extra report is not installed")

ROOT = Path(kinembed.__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "kaggle.ipynb"
if not NOTEBOOK.is_file():
    pytest.skip("not run from a checkout", allow_module_level=True)


def code_cells() -> list[str]:
    return [
        cell["source"] for cell in nbformat.read(NOTEBOOK, 4).cells if cell["cell_type"] == "code"
    ]


def test_it_is_valid_and_holds_no_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
        if "kinembed " in cell["source"] and cell["source"].startswith("%%bash"):
            assert (
                "set -e" in cell["source"] or "doctor" in cell["source"]
            )  # else failures go unseen


def test_it_goes_from_mounted_archives_to_a_submission_and_a_report(
    faces: Path, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted = tmp_path / "input" / "recognizing-faces-in-the-wild"
    mounted.mkdir(parents=True)
    for table in faces.glob("*.csv"):
        shutil.copy(table, mounted)
    for folder in ("train", "test"):
        shutil.make_archive(str(mounted / folder), "zip", faces / folder)
    work, scratch = tmp_path / "work", tmp_path / "scratch"
    work.mkdir()
    monkeypatch.setenv("KINEMBED_QUICK", "1")
    monkeypatch.setenv("KINEMBED_INPUT", str(mounted.parent))
    monkeypatch.setenv("SCRATCH", str(scratch))
    monkeypatch.setenv("PATH", os.pathsep.join([str(program), os.environ["PATH"]]))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, 4)
    nbclient.NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": str(work)}}
    ).execute()
    wanted = (faces / "sample_submission.csv").read_text().splitlines()
    for name in ("submission.csv", "submission-lab.csv"):
        rows = (work / name).read_text().splitlines()
        assert [row.split(",")[0] for row in rows] == [row.split(",")[0] for row in wanted]
        assert len({row.split(",")[1] for row in rows[1:]}) > 1
    assert {path.name for path in work.iterdir()} == {
        *("submission.csv", "submission-lab.csv", "report.html", "map.html", "map.csv")
    }  # no photos, and no embeddings
    assert len(list((scratch / "photos" / "train").rglob("*.jpg"))) == len(
        list((faces / "train").rglob("*.jpg"))
    )
    evaluation = json.loads((scratch / "runs/lab/evaluation.json").read_text())
    assert evaluation["pairs"] == 1000 and evaluation["decision"] is not None
    report = (work / "report.html").read_text(encoding="utf-8")
    assert evaluation["head"] in report and 'id="chart-reliability"' in report
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/svg+xml" in output.get("data", {}) for output in shown) == 2
    assert not (scratch / "painted").exists()
    for path in (scratch / "runs").glob("*/*"):
        assert path.is_dir() or ARTEFACTS.fullmatch(path.name), path


def test_without_photos_it_paints_some_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KINEMBED_INPUT", str(tmp_path / "nothing"))
    monkeypatch.setenv("DATA", "")
    (cell,) = (text for text in code_cells() if "zipfile" in text)
    exec(compile(cell, "photos", "exec"), {"os": os, "Path": Path, "scratch": tmp_path})
    assert "painted families" in capsys.readouterr().out
    assert os.environ["DATA"] == str(tmp_path / "painted")
    assert (tmp_path / "painted/train_relationships.csv").is_file()


def test_a_setting_is_changed_by_its_cell_but_not_where_it_came_from_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cell,) = (text for text in code_cells() if "settings = {" in text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", {"SCRATCH": str(tmp_path / "s"), "EPOCHS": "7"})
    kernel: dict[str, object] = {}
    exec(cell, kernel)
    exec(cell.replace('"100"', '"50"').replace('"30"', '"9"'), kernel)
    assert os.environ["STEPS"] == "50" and os.environ["EPOCHS"] == "7"
    assert os.environ["RUNS"] == str(tmp_path / "s" / "runs")


@pytest.mark.skipif(os.name != "posix", reason="programs as POSIX has them")
def test_a_gpu_that_torch_cannot_use_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cell,) = (text for text in code_cells() if "nvidia-smi" in text)
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    (tmp_path / "torch.py").write_text("def ones(*_, device):\n    raise RuntimeError('no kernel')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="use this GPU: RuntimeError: no kernel; choose GPU T4"):
        exec(cell, {})
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    exec(cell, {})
