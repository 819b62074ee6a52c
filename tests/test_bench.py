"""`benchmarks/bench.py` at its small size: rows measure, and what cannot run or fails is said."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
HERE = ("facenet", "onnxruntime", "h5py", "head", "forward", "loop")


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    """The script, which finds the others beside itself, as when it is run."""
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    spec = importlib.util.spec_from_file_location("bench", FOLDER / "bench.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules["bench"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(FOLDER))
    for name in set(sys.modules) - before:  # `keras` and `open` are no names to leave behind
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(FOLDER)):
            del sys.modules[name]


@pytest.mark.parametrize("name", HERE)
def test_a_row_measures_both_sides(bench: ModuleType, name: str, tmp_path: Path) -> None:
    for package in bench.ROWS[name].packages:
        pytest.importorskip(package.replace("scikit-learn", "sklearn"), reason="an extra")
    result = bench.run_row(name, bench.Bench(tmp_path, small=True))
    assert result["comparisons"]
    for row in result["comparisons"]:
        assert row["ours"] > 0 and row["theirs"] > 0
        assert row["lowest"] <= row["ratio"] <= row["highest"]


def test_rows_that_cannot_run_are_named_and_the_others_go_on(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json"
    arguments = ["--small", "--out", str(out), "--only", "keras-fp32", "--only", "pairs"]
    assert bench.main([*arguments, "--others", str(tmp_path / "none")]) == 0
    found = json.loads(out.read_text())
    assert found["ok"] and found["rows"]["keras-fp32"] == {
        "skipped": "not in the Python of --others: tensorflow, tf_keras; `make bench` installs them"
    }
    [row] = found["rows"]["pairs"]["comparisons"]
    table = capsys.readouterr().out
    assert f"| drawing pairs | {bench.figure(row['ours'])} pairs/s | plain loop: " in table
    assert "keras-fp32 skipped: not in the Python" in table
    assert found["versions"]["numpy"] in table and found["machine"]["processors"] > 0


def test_a_row_that_fails_makes_all_fail(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert bench.main(["--only", "pairs"]) == 1
    assert bench.main(["--only", "pairs", "--minutes", "0"]) == 1
    text = capsys.readouterr().out
    assert "pairs failed: exit code 1" in text and "the 0 minutes were over before it" in text


def test_floors_stand_beside_what_is_reached(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import floors

    second = floors.Took(1.0, 2.0)
    monkeypatch.setattr(floors, "imports", lambda modules: second)
    out = tmp_path / "floors.json"
    assert floors.main(["--small", "--only", "head", "--only", "search", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert len(found["head"]) > 3
    for line in (*found["head"], *found["search"]):
        assert line["took"]["clock"] > 0
        assert line["floor"] is None or line["floor"]["clock"] > 0
    line = floors.Line("work", floors.Took(2.0, 3.0), floors.Took(1.0, 2.4), "bytes")
    assert str(line) == "| work | 1 / 2.4 s: bytes | 2 / 3 s | 0.50 and 0.80 |"


def test_the_ratio_is_of_the_turns(bench: ModuleType) -> None:
    from turns import compared

    rates = compared("", "", "photos/s", [1, 2, 4], [2, 2, 16], amount=8, their_amount=4)
    assert (rates.ours, rates.theirs) == (4, 2)  # 8 / 2 and 4 / 2 a second
    assert (rates.lowest, rates.ratio, rates.highest) == (2, 4, 8)
    times = compared("", "", "ms", [1, 2, 4], [2, 2, 16])
    assert (times.ours, times.theirs) == (2_000, 2_000) and times.ratio == 2
