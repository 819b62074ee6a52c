"""How long a training takes, said once after its first steps where there is no GPU."""

import logging
import time
from collections.abc import Callable

import torch

log = logging.getLogger(__name__)

TIMED_STEPS = 3  # after the first, which takes longer
SHORT = 60  # seconds that need no word
LONG = 15 * 60  # seconds for which there is something quicker
VALIDATION = 1 / 3  # of the time of a training step: no gradients
INSTEAD = (
    "no GPU is used: a laptop does without fine-tuning, by kinembed embed --backbone sface, "
    "kinembed head and kinembed score; this goes on"
)


class Forecast:
    """Times the first steps of a training on a CPU.

    Args:
        device: where it runs; of one that is not a CPU nothing is said.
        steps: of training that are left, each validation step counting `VALIDATION`.
        epochs: that are left.
        clock: seconds, as `time.perf_counter` tells them.
    """

    def __init__(
        self,
        device: torch.device,
        steps: float,
        epochs: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.device = device
        self.steps = steps
        self.epochs = epochs
        self.clock = clock
        self.done = 0
        self.began = 0.0

    def step(self) -> None:
        """Counts a step, and says how long all of them take once it is known."""
        if self.device.type != "cpu" or self.done > TIMED_STEPS:
            return
        self.done += 1
        if self.done == 1:
            self.began = self.clock()
        elif self.done == TIMED_STEPS + 1:
            seconds = (self.clock() - self.began) / TIMED_STEPS * self.steps
            if seconds >= SHORT:
                epochs = f"{self.epochs} epoch{'s' if self.epochs != 1 else ''}"
                log.info("about %s for %s on cpu", duration(seconds), epochs)
            if seconds >= LONG:
                log.warning("%s", INSTEAD)


def duration(seconds: float) -> str:
    """A time in one unit that a person would choose: `50 s`, `12 min`, `5 h` or `3 days`."""
    for limit, unit, name in ((90, 1, "s"), (90 * 60, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86_400:.0f} days"
