"""`--track tensorboard`: the event files hold each epoch of the history once."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from interrupted import Stopping, history, interrupt

from kinembed.cli import run as command
from kinembed.config import FinetuneConfig, HeadConfig
from kinembed.errors import KinembedError
from kinembed.finetune import finetune
from kinembed.head import head
from kinembed.io import read_csv
from kinembed.training.tracking import TAGS, Tracker, track_members

Scalars = dict[str, dict[int, float]]


@pytest.fixture
def scalars() -> Callable[[Path], Scalars]:
    """Reads an event folder by tensorboard's own reader; a step that is there twice is a fault."""
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def read(folder: Path) -> Scalars:
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
        events.Reload()
        found: Scalars = {}
        for tag in events.Tags()["scalars"]:
            steps = [(event.step, event.value) for event in events.Scalars(tag)]
            assert len(dict(steps)) == len(steps), f"{tag} has a step twice"
            found[tag] = dict(steps)
        return found

    return read


def test_an_interrupted_and_resumed_training_has_each_epoch_once(
    faces: Path, tmp_path: Path, short: FinetuneConfig, scalars: Callable[[Path], Scalars]
) -> None:
    config, run = replace(short, epochs=3, steps=2, val_steps=1), tmp_path / "run"
    events = run / "tensorboard" / "finetune"
    with pytest.raises(KeyboardInterrupt):
        finetune(config, faces, run, track=True, progress=Stopping("epoch 3/", interrupt))
    assert set(scalars(events)["loss/train"]) == {1, 2}
    (events / "events.out.tfevents.1.of-another-program").write_bytes(b"")
    finetune(config, faces, run, resume=True, track=True)
    rows, found = history(run), scalars(events)
    assert set(found) == {TAGS[name] for name in rows[0] if name in TAGS} and len(found) == 8
    for name, tag in TAGS.items():
        assert found[tag] == pytest.approx({int(r["epoch"]): r[name] for r in rows}, rel=1e-5)
    assert len(list(events.iterdir())) == 2  # ours, and what is not ours is left


def test_each_member_of_a_head_is_a_run_of_its_own(
    faces: Path, answering: Path, tmp_path: Path, scalars: Callable[[Path], Scalars]
) -> None:
    run = Path(shutil.copytree(answering, tmp_path / "run"))
    folder = run / "tensorboard" / "head"
    track_members(folder, [{"member": 7, "epoch": 1, "train_loss": 1.0}])  # of a head before
    config = HeadConfig(recipe="metric", folds=2, epochs=2, steps=2)
    head(config, faces, run, track=True)
    _, rows = read_csv(run / "history-head.csv")
    assert {row["member"] for row in rows} == {"0", "1"}
    for member in "01":
        own = {int(row["epoch"]): row for row in rows if row["member"] == member}
        found = scalars(folder / f"member-{member}")
        for name in ("train_loss", "val_auc"):
            wanted = {epoch: float(row[name]) for epoch, row in own.items() if row[name]}
            assert found.get(TAGS[name], {}) == pytest.approx(wanted, rel=1e-5)
    assert scalars(folder / "member-7") == {}


def test_without_tensorboard_nothing_begins_and_the_line_says_what_to_install(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: FinetuneConfig
) -> None:
    for name in ("tensorboard", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(KinembedError, match=r"pip install 'kinembed\[tensorboard\]'"):
        finetune(short, faces, tmp_path / "run", track=True)
    with pytest.raises(KinembedError, match=r"pip install 'kinembed\[tensorboard\]'"):
        Tracker(tmp_path / "events")
    assert list(tmp_path.iterdir()) == []
    finetune(replace(short, epochs=1), faces, tmp_path / "run")  # which imports nothing of it


def test_a_sweep_is_not_tracked(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["head", "--track", "tensorboard", "--sweep", "embed_dim=8,16"]) == 2
    assert "--track is of one head; leave out --sweep" in capsys.readouterr().err
