"""What a machine need not have: scoring without torch, training without matplotlib."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import kinembed
from kinembed.config import FinetuneConfig, ScoreConfig
from kinembed.experiments import ExperimentsConfig, experiments
from kinembed.finetune import finetune, is_finished
from kinembed.score import score

CHECKOUT = Path(kinembed.__file__).parents[1]
HEAVY = ("matplotlib", "scipy", "sklearn", "torch", "torchvision", "facenet_pytorch", "pandas")
# Runs the command line where importing any of the heavy packages raises.
WITHOUT = """
import importlib.abc, sys
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {heavy!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
from kinembed.cli import main
main()
"""


def light(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a command on a machine without the heavy packages."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(heavy=HEAVY), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )


@pytest.fixture
def no_matplotlib(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", "kinembed")  # a command run before may have been quiet
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)


def test_scoring_needs_none_of_the_heavy_packages(run: Path, faces: Path, tmp_path: Path) -> None:
    pairs = faces / "sample_submission.csv"
    wanted = score(ScoreConfig(pairs, out=tmp_path / "wanted.csv"), faces, run).read_bytes()
    done = light("score", "--run", str(run), "--data", str(faces), "--pairs", str(pairs))
    assert done.returncode == 0, done.stderr
    assert (run / "submission.csv").read_bytes() == wanted


def test_the_cache_is_shown_without_the_heavy_packages(run: Path) -> None:
    done = light("cache", "info", "--run", str(run))
    assert done.returncode == 0, done.stderr
    assert "max" in done.stdout


def test_the_heavy_packages_are_missing_there(run: Path, faces: Path) -> None:
    done = light("finetune", "--run", str(run), "--data", str(faces))
    assert done.returncode != 0
    assert "No module named 'torch'" in done.stderr


@pytest.mark.drawn
@pytest.mark.usefixtures("no_matplotlib")
def test_a_training_without_matplotlib_is_whole_but_for_its_figure(
    run: Path, tuned: Path, faces: Path, short: FinetuneConfig, caplog: pytest.LogCaptureFixture
) -> None:
    assert (run / "curves.png").is_file()
    finetune(replace(short, seed=8), faces, run)
    assert not (run / "curves.png").exists()  # it was of another training
    messages = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert messages == ['curves.png is not drawn: pip install "kinembed[plots]" draws it']
    names = {path.name for path in tuned.iterdir()}
    assert {path.name for path in run.iterdir()} == names - {"curves.png"}
    assert is_finished(replace(short, seed=8), faces, run)


@pytest.mark.drawn
@pytest.mark.usefixtures("no_matplotlib")
def test_experiments_without_matplotlib_leave_their_tables(
    faces: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "experiments.png").write_bytes(b"of other experiments")
    settings = {"epochs": 1, "steps": 2, "val_steps": 1, "batch_size": 6, "device": "cpu"}
    config = ExperimentsConfig(("base",), ("mtcnn-onet",), ("families",), settings)
    assert experiments(config, faces, tmp_path) == tmp_path / "experiments.csv"
    assert (tmp_path / "experiments.md").is_file()
    assert not (tmp_path / "experiments.png").exists()
    assert 'experiments.png is not drawn: pip install "kinembed[plots]" draws it' in caplog.text
