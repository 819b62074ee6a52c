"""A queue that takes the photos of all waiting requests through the network together."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kinembed.arrays import Vectors
from kinembed.data.photos import Pixels
from kinembed.inference.answerer import Answerer

if TYPE_CHECKING:  # torch
    from kinembed.backbones.mapper import Mapper

MOST = 64  # crops at a time

Asked = tuple[Sequence[Pixels], "Future[dict[str, Vectors]]"]


@dataclass
class BatchedAnswerer(Answerer):
    """An `Answerer` that many threads may ask: one thread computes for all of them.

    A GPU maps photos of several requests at once. On the CPU each core maps its own, as `Answerer`
    does, so that no answer depends on who else asks.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._waiting: queue.Queue[Asked | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._kept: dict[Mapper, ThreadPoolExecutor] = {}  # the threads of each network

    def start(self) -> None:
        """Starts the thread."""
        self._thread = threading.Thread(target=self._compute, name="network", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread, after what it is at; who still waits gets an error."""
        self._waiting.put(None)

    def vectors(self, crops: Sequence[Pixels]) -> dict[str, Vectors]:
        """As `Answerer.vectors`, after waiting for one's turn."""
        if self._thread is None or not len(crops):
            return super().vectors(crops)
        future: Future[dict[str, Vectors]] = Future()
        self._waiting.put((crops, future))
        return future.result()

    @contextmanager
    def _threads(self, mapper: Mapper) -> Iterator[ThreadPoolExecutor]:
        if mapper in self._kept:
            yield self._kept[mapper]
            return
        with super()._threads(mapper) as threads:
            yield threads

    def _compute(self) -> None:
        """Answers one after the other, by the same threads all along."""
        with ExitStack() as stack:
            for opened in self._opened:
                threads = stack.enter_context(super()._threads(opened.mapper))
                self._kept[opened.mapper] = threads
            self._answer_all()
            self._kept.clear()

    def _answer_all(self) -> None:
        while (first := self._waiting.get()) is not None:
            asked = [first]
            while sum(len(crops) for crops, _ in asked) < MOST:
                try:
                    following = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    self._waiting.put(None)
                    break
                asked.append(following)
            self._answer(asked)
        while True:
            try:
                left = self._waiting.get_nowait()
            except queue.Empty:
                return
            if left is not None:
                left[1].set_exception(RuntimeError("the server stops"))

    def _answer(self, asked: Sequence[Asked]) -> None:
        """Computes some requests' crops; a problem goes to all of them."""
        try:
            found = super().vectors([crop for crops, _ in asked for crop in crops])
        except BaseException as error:
            for _, future in asked:
                future.set_exception(error)
            return
        start = 0
        for crops, future in asked:
            stop = start + len(crops)
            future.set_result({view: block[start:stop] for view, block in found.items()})
            start = stop
