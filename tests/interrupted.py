"""What tests of trainings share: a progress that interrupts, and what a run folder holds."""

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kinembed.backbones.weights import digest
from kinembed.progress import Bar
from kinembed.training.siamese import load_model


def history(run: Path) -> list[dict[str, float]]:
    with (run / "history.csv").open(newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def figures(run: Path) -> list[dict[str, float]]:
    """The history without the seconds, which no two runs share."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history(run)]


def digests(run: Path) -> tuple[str, str]:
    return digest(load_model(run / "model.pt")), digest(load_model(run / "model-last.pt"))


class Stopping:
    """A progress that does something in the middle of an epoch."""

    def __init__(self, label: str, act: Callable[[], object], step: int = 1) -> None:
        self.label, self.act, self.step = label, act, step

    @contextmanager
    def __call__(self, label: str, total: int) -> Iterator[Bar]:
        done = 0
        here = self

        class Counting:
            def advance(self, count: int, note: str = "") -> None:
                nonlocal done
                done += count
                if label.startswith(here.label) and done == here.step:
                    here.act()

        yield Counting()


def interrupt() -> None:
    raise KeyboardInterrupt
