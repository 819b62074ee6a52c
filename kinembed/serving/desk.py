"""How many requests are let in, and the threads that work on them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from kinembed.serving.answers import Photo
from kinembed.serving.photos_form import Budget, photo_of, read_photos
from kinembed.serving.refused import RefusedError
from kinembed.threads import processors

Result = TypeVar("Result")

READERS = 16  # threads that decode photos, at most: a photo takes up to 200 MB meanwhile
LOOK = 0.5  # seconds after which it is seen that a client is gone
BODIES = 16  # times the largest body that all requests together may hold


class Desk:
    """Lets requests in, reads their photos, and works on them in threads.

    Decoding and looking for faces takes a processor, so that as many threads do it as there are
    processors. Who waits for the network takes none.

    Args:
        at_once: requests that are let in; another one is told to come again.
        most: bytes of a body.
        seconds: in which a body has to arrive, and those in which it has to be answered.
    """

    def __init__(self, at_once: int, most: int, seconds: float) -> None:
        self.at_once = at_once
        self.most = most
        self.seconds = seconds
        self.inside = 0
        self.budget = Budget(BODIES * most)
        readers = min(processors(), READERS)
        self._turn = asyncio.Semaphore(readers)
        self._reading = ThreadPoolExecutor(readers, "photos", _one_thread)
        self._answering = ThreadPoolExecutor(at_once, "answers", _one_thread)

    def close(self) -> None:
        """Lets nobody wait any longer."""
        for pool in (self._reading, self._answering):
            pool.shutdown(wait=False, cancel_futures=True)

    @asynccontextmanager
    async def photos(
        self, content_type: str, stream: AsyncIterator[bytes], fields: Sequence[str]
    ) -> AsyncIterator[list[tuple[str, bytes]]]:
        """Lets a request in and reads its photos: name and bytes of each.

        Raises:
            RefusedError: too many are inside, or the form is another one, too large, or too slow.
        """
        if self.inside >= self.at_once:
            raise RefusedError(
                503, f"{self.at_once} requests are being answered; ask again soon", 1
            )
        self.inside += 1
        taken = 0
        try:
            found, taken = await read_photos(
                content_type, stream, fields, self.budget, most=self.most, seconds=self.seconds
            )
            yield found
        finally:
            self.budget.held -= taken
            self.inside -= 1

    async def answer(
        self,
        photos: Sequence[tuple[str, bytes]],
        read: Callable[[Photo], Result],
        answer: Callable[[list[Result], Callable[[], None]], dict[str, object]],
        is_gone: Callable[[], Awaitable[bool]],
    ) -> dict[str, object]:
        """Reads photos in one kind of threads and answers in the other.

        Args:
            photos: name and bytes of each.
            read: what is made of a photo.
            answer: what is made of all of these; it calls the function that it is given now and
                then, which raises once nobody waits for the answer any more.
            is_gone: whether nobody waits for the answer any more.

        Raises:
            RefusedError: a name is no file's, or it takes too long.
            KinembedError: as of both functions.
        """
        given = [photo_of(name, content) for name, content in photos]
        loop = asyncio.get_running_loop()
        ended = threading.Event()

        def check() -> None:
            if ended.is_set():
                raise RefusedError(400, "nobody waits for the answer")

        async def work() -> dict[str, object]:
            async with self._turn:  # one a request: who came earlier is ready earlier
                if await is_gone():
                    ended.set()
                check()
                found = await loop.run_in_executor(self._reading, lambda: list(map(read, given)))
            answered = loop.run_in_executor(self._answering, answer, found, check)
            answered.add_done_callback(_seen)
            while not (await asyncio.wait([answered], timeout=LOOK))[0]:
                if await is_gone():
                    ended.set()
            return await answered

        try:
            return await self._in_time(work())
        finally:
            ended.set()

    async def _in_time(self, work: Awaitable[Result]) -> Result:
        """What some work gives, which stops if it takes too long.

        Raises:
            RefusedError: it takes too long.
        """
        try:
            return await asyncio.wait_for(work, self.seconds)
        except asyncio.TimeoutError:
            reason = f"no answer in {self.seconds:g} seconds; ask again later"
            raise RefusedError(503, reason, 10) from None


def _seen(done: asyncio.Future[dict[str, object]]) -> None:
    """Looks at what came of some work, which asyncio logs where nobody does."""
    if not done.cancelled():
        done.exception()


def _one_thread() -> None:
    """Lets torch compute with the thread at hand alone."""
    import torch

    torch.set_num_threads(1)
