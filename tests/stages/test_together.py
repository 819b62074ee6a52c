"""A stage's artefacts are replaced together: whichever of its writes fails, all are as they were."""

import os
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
from kinembed.config import CalibrateConfig, EvaluateConfig, HeadConfig
from kinembed.errors import RunError, WriteError
from kinembed.evaluate import evaluate
from kinembed.evaluation.head_log import read_head_log
from kinembed.head import head

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


def test_a_kill_among_the_moves_leaves_the_head_in_use_as_it_was(used: Path) -> None:
    before = contents(used)
    process = subprocess.run(
        [sys.executable, "-c", KILLED, str(used), "2"], capture_output=True, text=True
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert contents(used)["head.h5"] == before["head.h5"]
    assert len(read_head_log(used / "heads.csv")) == 2
    head(HEAD, used, used)
    assert not list(used.rglob(".*"))  # what the killed process left is swept


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
