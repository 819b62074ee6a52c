"""One process of a training of small networks, for tests; not a test itself.

rank_worker.py [--die RANK HOW] finetune …     the command line, as `python -m kinembed` has it
rank_worker.py trainings DATA OUT              trainings in which rank 1 has something else, then each
                                               of `TRAININGS`, and one in which rank 0 dies
"""

import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import MethodType

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from small_networks import stand_in

from kinembed.config import FinetuneConfig

NAME = "resnet50"
SHORT = FinetuneConfig(
    backbone=NAME,
    weights="none",
    epochs=2,
    steps=3,
    val_steps=2,
    batch_size=7,  # no two ranks have as many
    split="families",
    keep="last",
    device="cpu",
    precision="fp32",
    framing="loose",
    seed=3,
)
# Trainings that have to be the same, however many ranks there are.
TRAININGS = {
    "regularized": replace(SHORT, recipe="regularized", sync_batchnorm=True),
    "parts": replace(SHORT, recipe="dense", sync_batchnorm=True, accumulate=2, batch_size=9),
    "kept": replace(SHORT, recipe="regularized", freeze_stages=2, save_memory=True),
    "kin": replace(SHORT, recipe="kin", overrides=("batch_pairs=4",), batch_size=32),
    "strong": replace(
        SHORT, recipe="kin", overrides=("batch_pairs=3", "augment=strong"), batch_size=32
    ),
}


def options(data: Path, run: Path) -> list[str]:
    """Of the command `finetune`: those of `regularized` among `TRAININGS`."""
    return [
        *("--backbone", NAME, "--weights", "none", "--recipe", "regularized", "--seed", "3"),
        *("--epochs", "2", "--steps", "3", "--val-steps", "2", "--batch-size", "7"),
        *("--split", "families", "--device", "cpu", "--precision", "fp32", "--framing", "loose"),
        *("--data", str(data), "--run", str(run), "--sync-batchnorm"),
    ]


def draw_no_curves(patch: pytest.MonkeyPatch) -> None:
    """No curves are drawn."""
    patch.setattr("kinembed.report.curves.draw_curves", lambda *_: None)


def train(data: Path, out: Path) -> None:
    """Every training, into a run folder of its name; the second half of `kin` is resumed."""
    from interrupted import Stopping, interrupt

    from kinembed.finetune import finetune

    for name, config in TRAININGS.items():
        run = out / name
        if name == "kin":
            with pytest.raises(KeyboardInterrupt):
                finetune(config, data, run, progress=Stopping("epoch 2", interrupt))
        finetune(config, data, run, resume=name == "kin")


def die_in_epoch_2(rank: str, how: str) -> None:
    """The first time that they are started, a rank ends itself in the middle of epoch 2."""
    from kinembed.training.pair_trainer import PairTrainer

    step, count = PairTrainer._step, 0

    def dying(self: PairTrainer, *arguments: object) -> object:
        nonlocal count
        count += 1
        if count == 5 and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
            os.kill(os.getpid(), getattr(signal, how))
        return MethodType(step, self)(*arguments)

    if os.environ["RANK"] == rank:
        PairTrainer._step = dying  # type: ignore[method-assign, assignment]


def differ(data: Path, out: Path) -> None:
    """Prints why trainings are refused in which rank 1 has another of something."""
    from kinembed import finetune as stage
    from kinembed.errors import KinembedError

    is_other = os.environ["RANK"] == "1"
    config = replace(SHORT, recipe="dense", epochs=1, steps=1, val_steps=1)
    photos = out / f"photos of {os.environ['RANK']}"
    shutil.copytree(data, photos)
    one, other = sorted((photos / "train").rglob("*.jpg"))[:2]
    for what in ("settings", "resume", "version", "photos"):
        with pytest.MonkeyPatch.context() as patch:
            mine = config
            if is_other and what == "settings":
                mine = replace(config, seed=4)
            if is_other and what == "version":
                patch.setattr(stage, "__version__", "0.0")
            if is_other and what == "photos":
                shutil.copy(other, one)
            try:
                stage.finetune(mine, photos, out / "run", resume=is_other and what == "resume")
            except KinembedError as error:
                print(f"{what}: {error}", flush=True)


def main() -> None:
    patch = pytest.MonkeyPatch()
    stand_in(patch, NAME)
    draw_no_curves(patch)
    arguments = sys.argv[1:]
    if arguments[0] == "trainings":
        data, out = map(Path, arguments[1:3])
        differ(data, out / "differing")
        train(data, out)
        die_in_epoch_2("0", "SIGKILL")
        arguments = ["finetune", *options(data, out / "killed")]
    if arguments[0] == "--die":
        die_in_epoch_2(*arguments[1:3])
        arguments = arguments[3:]
    from kinembed.cli import main as command

    sys.argv[1:] = arguments
    command()


if __name__ == "__main__":
    main()
