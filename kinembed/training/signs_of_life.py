"""How ranks tell that one of them is gone: each says now and then that it lives."""

import logging
import os
import signal
import socket
import threading
import time
from contextlib import suppress
from typing import Any

from kinembed.printable import one_line

log = logging.getLogger(__name__)

BEAT = 0.5  # seconds between two signs
LOOK = 6.0  # seconds in which it is found out who is gone, where something has failed
QUIET = 3.0  # seconds without a sign by which a rank is gone, there
LINGER = 10.0  # seconds that a rank goes on after another has ended with a problem
SILENT = 60.0  # seconds without a sign by which it is gone, where nothing has failed: it hangs
DEAF = 10.0  # seconds after SIGTERM in which a process ends by itself, or waits for a GPU
LEFT = "left: "  # what a rank's sign begins with once it has ended by itself


class Watch(threading.Thread):
    """Says that this rank lives, and listens to the others.

    The signs lie in the store by which the ranks have met: torchrun keeps it, or rank 0.

    Args:
        rank: of this process.
        size: how many ranks there are.
        store: of torch.distributed; no other thread uses it.
        place: of the store, as messages have it.
        prefix: of the names of the signs.
    """

    def __init__(self, rank: int, size: int, store: Any, place: str, prefix: str) -> None:
        super().__init__(name="signs of life", daemon=True)
        self.rank, self.size, self.store, self.place = rank, size, store, place
        self.names = [f"{prefix}/{number}" for number in range(size)]
        self.who = f"{socket.gethostname()}, process {os.getpid()}"
        self.count = 0
        self.ended = threading.Event()
        self.lock = threading.Lock()
        self.said = [""] * size
        self.heard = [time.monotonic()] * size  # when each last said something new
        self.owners = [""] * size  # machine and process of each
        self.signals: socket.socket | None = None  # the numbers of those that came
        self.told: float | None = None  # when SIGTERM came

    def begin(self) -> None:
        """Gives the first sign; the others may be listened to once all have."""
        self._say(f"0 {self.who}")

    def hear(self) -> None:
        """From now on hears of SIGTERM, too; called by the main thread.

        torchrun sends it where a rank of its machine is gone. A main thread that waits for NCCL,
        and so for that rank, takes no signal; but their numbers come through, by a socket.
        """
        if threading.current_thread() is threading.main_thread():
            self.signals, there = socket.socketpair()
            for each in (self.signals, there):
                each.setblocking(False)
            self.there = there
            self.before = signal.set_wakeup_fd(there.fileno(), warn_on_full_buffer=False)

    def _is_deaf(self) -> bool:
        """Whether SIGTERM came so long ago that the main thread cannot hear it."""
        if self.signals is not None:
            with suppress(OSError):
                if signal.SIGTERM in self.signals.recv(4096) and self.told is None:
                    self.told = time.monotonic()
        return self.told is not None and time.monotonic() - self.told >= DEAF

    def run(self) -> None:
        """Gives signs and listens until the training ends, or ends it where a rank is silent."""
        listened = time.monotonic()
        while not self.ended.wait(BEAT):
            self.count += 1
            if time.monotonic() - listened > 10 * BEAT:  # this process was stopped itself
                self.heard = [time.monotonic()] * self.size
            listened = time.monotonic()
            try:
                self._say(f"{self.count} {self.who}")
                silent = self._silent(SILENT)
                problem = self._problem(LINGER)
            except RuntimeError:
                if not self.ended.wait(4 * BEAT):
                    self._end(f"the ranks' meeting point {self.place} is gone: torchrun or rank 0")
                return
            if self._is_deaf() and not self.ended.is_set():
                self._end(self._found() or "terminated while it waited for a GPU or other ranks")
            elif problem is not None and not self.ended.is_set():
                self._end(problem)
            elif silent and not self.ended.is_set():
                self._end(f"{self._called(silent[0])} has said nothing for {SILENT:.0f} s")

    def why(self) -> str | None:
        """Who is gone, or ended with a problem, where something has failed; None: nobody."""
        until = time.monotonic() + LOOK
        while time.monotonic() < until:
            found = self._found()
            if found is not None:
                return found
            time.sleep(BEAT / 2)
        return None

    def _found(self) -> str | None:
        """The same, of this moment."""
        try:
            gone = self._silent(QUIET)
        except RuntimeError:
            return f"the ranks' meeting point {self.place} is gone: torchrun or rank 0"
        problem = self._problem(0)
        if problem is None and gone:
            return f"{self._called(gone[0])} is gone"
        return problem

    def leave(self, reason: str) -> None:
        """Ends, and says why: a problem of this rank; empty: another's."""
        self.stop()
        with suppress(RuntimeError):
            self._say(LEFT + one_line(reason)[:500])

    def stop(self) -> None:
        """Ends without a word."""
        self.ended.set()
        self.join(2)
        if self.signals is not None:
            signal.set_wakeup_fd(self.before)
            self.signals.close()
            self.there.close()
            self.signals = None

    def _say(self, sign: str) -> None:
        with self.lock:
            self.store.set(self.names[self.rank], sign)

    def _silent(self, seconds: float) -> list[int]:
        """The ranks that have said nothing new for so long, and have not ended by themselves."""
        with self.lock:
            signs = self.store.multi_get(self.names)
            now = time.monotonic()
            for number, sign in enumerate(signs):
                said = sign.decode("utf-8", "replace")
                if said != self.said[number]:
                    self.said[number], self.heard[number] = said, now
                    if not said.startswith(LEFT):
                        self.owners[number] = said.partition(" ")[2]
            return [
                number
                for number, heard in enumerate(self.heard)
                if now - heard >= seconds
                and number != self.rank
                and not self.said[number].startswith(LEFT)
            ]

    def _problem(self, seconds: float) -> str | None:
        """Who said so long ago that a problem ended it, and which."""
        for number, (said, heard) in enumerate(zip(self.said, self.heard, strict=True)):
            is_old = time.monotonic() - heard >= seconds
            if number != self.rank and said.startswith(LEFT) and said != LEFT and is_old:
                return f"rank {number} of {self.size} ended: {said.removeprefix(LEFT)}"
        return None

    def _called(self, number: int) -> str:
        return f"rank {number} of {self.size} ({one_line(self.owners[number])})"

    def _end(self, reason: str) -> None:
        """Ends the process: what it waits for can be interrupted by nothing else."""
        log.error("Error: %s; whole epochs are kept", reason)
        os._exit(1)
