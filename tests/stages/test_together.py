"""A stage's artefacts are replaced together: whichever of its writes fails, all are as they were."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from test_evaluate import generated_run

from kinembed import head as head_stage
from kinembed import io
from kinembed.calibrate import calibrate
from kinembed.cli import run as command
from kinembed.config import (
    CalibrateConfig,
    EvaluateConfig,
    HeadConfig,
    MapConfig,
    ReportConfig,
)
from kinembed.embedding_map import embedding_map
from kinembed.errors import RunError, WriteError
from kinembed.evaluate import evaluate
from kinembed.evaluation.head_log import read_head_log
from kinembed.head import head
from kinembed.run_report import run_report

SMALL = ("embed_dim=8", "hidden_dim=0", "expand=off")
HEAD = HeadConfig(overrides=SMALL, epochs=1, steps=2, folds=3)
Stage = Callable[[Path], object]
# Each with the artefact that others believe, which comes last.
STAGES: dict[str, tuple[Stage, str]] = {
    "head": (lambda run: head(HEAD, run, run), "head.h5"),
    "sweep": (lambda run: head(replace(HEAD, sweep=("seed=1,2",)), run, run), "sweep.csv"),
    "calibrate": (lambda run: calibrate(CalibrateConfig(pairs=400), run, run), "calibration.json"),
    "evaluate": (lambda run: evaluate(EvaluateConfig(count=300), run, run), "evaluation.json"),
}


@pytest.fixture
def used(tmp_path: Path) -> Path:
    """A run folder, and data folder, with the artefacts of every stage on a cache."""
    generated_run(tmp_path)
    head(replace(HEAD, seed=5), tmp_path, tmp_path)
    calibrate(CalibrateConfig(pairs=500), tmp_path, tmp_path)
    evaluate(EvaluateConfig(count=200), tmp_path, tmp_path)
    return tmp_path


def contents(run: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and "partial" not in str(path.relative_to(run))
    }


@pytest.mark.parametrize("name", STAGES)
def test_whichever_write_fails_all_artefacts_are_as_they_were(
    used: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    act, last = STAGES[name]
    before, sync = contents(used), os.fsync
    moved, written, failing = len(io.replaced_files()), 0, None

    def full(number: int) -> None:
        nonlocal written
        written += io._together.get() is not None
        if written == failing:
            raise OSError(28, "No space left on device")
        sync(number)

    monkeypatch.setattr(os, "fsync", full)
    write_ = io._move
    monkeypatch.setattr(io, "_move", lambda drafts: None)  # a rehearsal
    act(used)
    monkeypatch.setattr(io, "_move", write_)
    count = written
    assert count > 1 and contents(used) == before
    for number in {1, count // 2 + 1, count}:
        written, failing = 0, number
        with pytest.raises(WriteError, match="No space left on device"):
            act(used)
        assert contents(used) == before
    failing = None
    act(used)
    assert contents(used) != before
    assert io.replaced_files()[-1].name == last and len(io.replaced_files()) > moved


KILLED = """
import os, signal, sys
from pathlib import Path
from kinembed.config import HeadConfig
from kinembed.head import head

left = int(sys.argv[2])
move = os.replace

def replace(*paths):
    global left
    if str(paths[1]).endswith((".csv", ".h5", ".json")):
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
    move(*paths)

os.replace = replace
run = Path(sys.argv[1])
head(HeadConfig(overrides=("embed_dim=8", "expand=off"), epochs=1, steps=2, folds=3), run, run)
"""


def test_a_kill_among_the_moves_leaves_the_head_in_use_as_it_was(used: Path, forked: Path) -> None:
    before = contents(used)
    process = subprocess.run([forked, "-c", KILLED, used, "2"], capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert contents(used)["head.h5"] == before["head.h5"]
    assert len(read_head_log(used / "heads.csv")) == 2
    head(HEAD, used, used)
    assert not list(used.rglob(".*"))  # what the killed process left is swept


PAGES: dict[str, tuple[Callable[[Path, Path], object], tuple[str, ...]]] = {
    "report": (lambda data, run: run_report(ReportConfig(), data, run), ("report.html",)),
    "map": (
        lambda data, run: embedding_map(MapConfig(method="pca"), data, run),
        ("map.csv", "map.json", "map.html"),
    ),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_kill_while_a_page_is_written_leaves_whole_files_and_the_next_run_writes_all(
    name: str, judged: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies in the folder at a moment is what a kill at this moment leaves."""
    monkeypatch.setattr("kinembed.run_report.run_page", lambda *_, **__: "drawn")
    make, files = PAGES[name]
    run = Path(shutil.copytree(judged, tmp_path / "run"))
    for file in files:
        (run / file).write_bytes(b"earlier")
    killed: list[dict[str, bytes]] = []

    def seen(act: Callable[..., object]) -> Callable[..., None]:
        def acts(*given: object) -> None:
            killed.append(contents(run))
            act(*given)
            killed.append(contents(run))

        return acts

    with monkeypatch.context() as patch:
        for act in ("fsync", "replace"):
            patch.setattr(os, act, seen(getattr(os, act)))
        make(faces, run)
    new = contents(run)
    assert [path.name for path in io.replaced_files()[-len(files) :]] == list(files)
    for state in killed:
        is_new = [state[file] == new[file] for file in files]
        assert all(made or state[file] == b"earlier" for made, file in zip(is_new, files))
        assert is_new == sorted(is_new, reverse=True)  # the page comes last
    left = next(state for state in reversed(killed) if state[files[-1]] == b"earlier")
    assert sum(file.endswith(".tmp") for file in left) == 1 and len(killed) > 2
    for file, content in left.items():
        (run / file).write_bytes(content)
    make(faces, run)
    assert contents(run) == new  # and what was left is gone


def test_two_processes_that_log_at_once_lose_no_row(tmp_path: Path) -> None:
    add = (
        "import sys; from pathlib import Path; from kinembed.evaluation.head_log import COLUMNS, "
        "log_head\nfor _ in range(25): log_head(Path(sys.argv[1]), dict.fromkeys(COLUMNS[1:], 1))"
    )
    path = tmp_path / "heads.csv"
    both = [subprocess.Popen([sys.executable, "-c", add, str(path)]) for _ in range(4)]
    assert [process.wait() for process in both] == [0] * 4
    assert len(read_head_log(path)) == 100


def test_a_broken_log_fails_before_training(
    run: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / "heads.csv").write_text("when,recipe\n")
    monkeypatch.setattr(head_stage, "open_caches", lambda _: pytest.fail("it went on"))
    with pytest.raises(RunError, match=r"heads\.csv: found columns"):
        head(HEAD, faces, run)
    (run / "heads.csv").unlink()
    (run / "history-head.csv").mkdir()
    with pytest.raises(WriteError, match=r"history-head\.csv: cannot be written"):
        head(HEAD, faces, run)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_interruption_says_truly_what_was_replaced(
    run: Path,
    faces: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    moment: str,
) -> None:
    before, move = contents(run), os.replace

    def replace_(*paths: Path) -> None:
        move(*paths)
        os.kill(os.getpid(), signal.SIGINT)

    if moment == "before":
        monkeypatch.setattr(io, "_move", lambda _: os.kill(os.getpid(), signal.SIGINT))
    else:
        monkeypatch.setattr(os, "replace", replace_)
    arguments = ["head", "--run", str(run), "--data", str(faces), "--epochs", "1", "--steps", "1"]
    assert command(arguments) == 130
    said = capsys.readouterr().err.splitlines()[-1]
    if moment == "before":
        assert said == "Interrupted: the artefacts in the run folder are as they were"
        assert contents(run) == before
    else:
        assert said.startswith("Interrupted: written before it: ") and said.endswith("head.h5")
