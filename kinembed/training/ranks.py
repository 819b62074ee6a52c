"""The processes of one training, the ranks, as torchrun starts them: who is who, what they share.

Every rank draws what one process alone would draw for the whole batch, and takes its part through
the trunk. The vectors are gathered, and every rank computes head and loss of the whole batch, so
that what is learnt does not depend on how many ranks there are. A process that no torchrun has
started is alone, rank 0 of 1; the only one of torchrun goes the way of several, and may be joined.

Nothing else of kinembed knows torch.distributed, which is imported where there are several ranks.
"""

from __future__ import annotations

import atexit
import hashlib
import io
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from kinembed.errors import KinembedError
from kinembed.printable import counted, one_line

if TYPE_CHECKING:  # the command line asks for its rank without torch
    import torch
    from torch import Tensor, nn

    from kinembed.arrays import Rows
    from kinembed.training.signs_of_life import Watch

log = logging.getLogger(__name__)

T = TypeVar("T")

AGAIN = "-again"
BUCKET = 1 << 23  # numbers that are sent at once
PATIENCE = timedelta(minutes=30)  # for ranks that live and do not come
MOST_PORT = 65_535
STORE_PATIENCE = timedelta(seconds=20)  # for answers of the place where they meet
TEXT = 512  # bytes of a text that each rank tells the others
ON_ERROR = "TORCH_NCCL_ASYNC_ERROR_HANDLING"  # what torch does where NCCL notices a rank is gone
BY = "KINEMBED_RANKS_BY"  # by what ranks on GPUs talk: nccl, or gloo, which goes through the CPU


class LostRankError(RuntimeError):
    """Something that all ranks do together has failed: one of them is gone, or has a problem."""


def _number(name: str, environment: Mapping[str, str], default: int | None = None) -> int:
    text = environment.get(name, "" if default is None else str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise KinembedError(
            f"{name}: found {text!r} in the environment beside WORLD_SIZE; wanted a whole number, "
            "as torchrun sets it: start several processes by torchrun"
        )
    return int(text)


def rank_of_environment(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Which rank this process is, and of how many: 0 of 1 where WORLD_SIZE is not set.

    Raises:
        KinembedError: a number is missing or is none.
    """
    size = _number("WORLD_SIZE", environment, 1)
    if size <= 1:
        return 0, 1
    rank = _number("RANK", environment)
    if rank >= size:
        raise KinembedError(f"RANK: found {rank}, wanted less than WORLD_SIZE, {size}")
    return rank, size


def label(environment: Mapping[str, str] = os.environ) -> str:
    """What begins the lines of this process, `rank 1: `; of rank 0 and a process alone nothing."""
    try:
        rank, _ = rank_of_environment(environment)
    except KinembedError:
        return ""
    return f"rank {rank}: " if rank else ""


class Ranks:
    """The ranks of a training, as one of them sees them; without arguments a process alone.

    Args:
        rank: the number of this one, from 0. Rank 0 is the writer.
        size: how many there are.
        local_rank: the number of this one among those of its machine.
        local_size: how many are on its machine.
        restarts: how often torchrun has started them again.
        is_alone: whether every method gives what it is given; None: where there is one.
        by: by what those on GPUs talk, `nccl` or `gloo`.

    All ranks call the same methods in the same order.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        local_rank: int = 0,
        local_size: int = 1,
        restarts: int = 0,
        is_alone: bool | None = None,
        by: str = "gloo",
    ) -> None:
        self.rank = rank
        self.size = size
        self.local_rank = local_rank
        self.local_size = local_size
        self.restarts = restarts
        self.is_alone = size == 1 if is_alone is None else is_alone
        self.by = by

    @property
    def is_writer(self) -> bool:
        """Whether this one writes files and says how far it is."""
        return self.rank == 0

    def device(self, chosen: torch.device) -> torch.device:
        """The device of this rank: of several GPUs, the one of its number on its machine.

        By gloo, ranks may share a GPU.

        Raises:
            KinembedError: on all ranks: there are fewer GPUs than ranks, or ranks cannot share such
                a device.
        """
        if self.is_alone:
            return chosen
        import torch

        device, problem, mine = chosen, "", ""
        if chosen.type == "cuda":
            there, host = torch.cuda.device_count(), socket.gethostname()
            number = self.local_rank if self.by == "nccl" else self.local_rank % there
            if number < there:
                device = torch.device("cuda", number)
                torch.cuda.set_device(device)
                mine = f"{self.by} {host} {torch.cuda.get_device_properties(device).uuid}"
            else:
                problem = (
                    f"device: found {counted(there, 'GPU')} for {self.local_size} ranks on {host}; "
                    f"wanted torchrun --nproc-per-node {there} (or {BY}=gloo, slower, by which "
                    "ranks share a GPU)"
                )
        elif chosen.type != "cpu" and self.size > 1:
            problem = f"device: found {chosen.type} for {self.size} ranks, wanted cuda or cpu"
        texts = self.texts(f"!{problem}" if problem else mine)
        for text in texts:
            if text.startswith("!"):
                raise KinembedError(one_line(text[1:]))
        _check_gpus(texts)
        return device

    def part(self, count: int, rank: int | None = None) -> slice:
        """Which of `count` rows are this rank's, or another's: as many for each, or one more."""
        number = self.rank if rank is None else rank
        each, more = divmod(count, self.size)
        start = number * each + min(number, more)
        return slice(start, start + each + (number < more))

    def check_share(self, name: str, count: int, what: str) -> None:
        """Refuses a batch of which a rank would have no part.

        Raises:
            KinembedError: naming the setting.
        """
        if count < self.size:
            raise KinembedError(
                f"{name}: found {count} {what} for {self.size} ranks; wanted one or more for each"
            )

    def gather(self, mine: Tensor, count: int) -> Tensor:
        """All rows of all ranks, `count` of them, in their order; gradients flow to one's own."""
        if self.is_alone:
            return mine
        import torch
        from torch import distributed

        parts = [self.part(count, rank) for rank in range(self.size)]
        most = parts[0].stop - parts[0].start
        sent = mine.new_zeros((most, *mine.shape[1:]))
        sent[: len(mine)] = mine.detach()
        sent = self._sendable(sent)
        received = [torch.empty_like(sent) for _ in parts]
        with _together():
            distributed.all_gather(received, sent)
        rows = [each[: part.stop - part.start] for each, part in zip(received, parts, strict=True)]
        rows = [each.to(mine.device) for each in rows]
        rows[self.rank] = mine
        return torch.cat(rows)

    def _sendable(self, tensor: Tensor) -> Tensor:
        """The same numbers where they can be sent from: gloo sends from the CPU alone."""
        return tensor if self.by == "nccl" and tensor.is_cuda else tensor.cpu()

    def texts(self, mine: str) -> list[str]:
        """What each rank says, in their order; at most `TEXT` bytes of it."""
        import torch

        row = bytearray(mine.encode("utf-8", "surrogateescape")[:TEXT].ljust(TEXT, b"\0"))
        rows = self.gather(torch.frombuffer(row, dtype=torch.uint8)[None], self.size)
        contents = [each.numpy().tobytes().rstrip(b"\0") for each in rows]
        return [content.decode("utf-8", "replace") for content in contents]

    def shared_out(self, rows: Rows, compute: Callable[[Rows], Tensor]) -> Tensor:
        """What is computed of rows (N,), (N, …), of which each rank computes a part."""
        if self.is_alone or len(rows) < self.size:
            return compute(rows)
        return self.gather(compute(rows[self.part(len(rows))]), len(rows))

    def add_gradients(
        self, shares: Iterable[nn.Parameter], wholes: Iterable[nn.Parameter] = ()
    ) -> None:
        """Makes the gradients of all ranks those of the whole batch.

        Args:
            shares: parameters of which each rank has what its part of the batch gives.
            wholes: parameters of which each rank has the gradient of the whole batch already;
                they get the mean, so that all ranks have the same to the last bit.
        """
        if self.is_alone:
            return
        gradients = [p.grad for p in shares if p.grad is not None]
        alike = [p.grad for p in wholes if p.grad is not None]
        for gradient in alike:
            gradient /= self.size
        self._add([*gradients, *alike])

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replaces numbers by their means over the ranks."""
        if self.is_alone:
            return
        averaged = list(tensors)
        self._add(averaged)
        for each in averaged:
            each /= self.size

    def add(self, numbers: Tensor) -> Tensor:
        """The sum over the ranks, in place."""
        if self.is_alone:
            return numbers
        from torch import distributed

        sent = self._sendable(numbers)
        with _together():
            distributed.all_reduce(sent)
        return numbers if sent is numbers else numbers.copy_(sent)

    def _add(self, tensors: list[Tensor]) -> None:
        """Replaces tensors of one type by their sums over the ranks, many numbers at a time."""
        import torch

        for bucket in _buckets(tensors):
            flat = self.add(torch.cat([each.flatten() for each in bucket]))
            sums = torch.split(flat, [each.numel() for each in bucket])
            for each, its in zip(bucket, sums, strict=True):
                each.copy_(its.view_as(each))

    def from_writer(self, make: Callable[[], T]) -> T:
        """What the writer makes, on all ranks: tensors on the CPU, numbers, text, lists, dicts.

        The others make nothing, so that what the writer reads need be on its machine alone.
        """
        if self.is_alone:
            return make()
        import torch

        content = io.BytesIO()
        if self.is_writer:
            made = make()
            torch.save(made, content)
        size = int(self._of_writer(torch.tensor(content.tell())))
        sent = torch.zeros(size, dtype=torch.uint8)
        if self.is_writer:
            sent = torch.frombuffer(content.getbuffer(), dtype=torch.uint8).clone()
        sent = self._of_writer(sent)
        if self.is_writer:
            return made
        received = io.BytesIO(sent.numpy().tobytes())
        value: T = torch.load(received, map_location="cpu", weights_only=True)
        return value

    def agree(self, number: float) -> float:
        """The writer's number in place of one's own, as where clocks differ."""
        return self.from_writer(lambda: number)

    def spread(self, network: nn.Module) -> None:
        """Makes a network on the CPU that of the writer, number by number."""
        if not self.is_alone:
            for each in network.state_dict().values():
                each.copy_(self._of_writer(each))

    def _of_writer(self, tensor: Tensor) -> Tensor:
        from torch import distributed

        with _together():
            distributed.broadcast(tensor, 0)
        return tensor

    def check_same(self, what: str, value: str) -> None:
        """Refuses ranks that would train something else than the writer.

        Args:
            what: is compared, as the message says it.
            value: of this rank.

        Raises:
            KinembedError: on all ranks, naming the first that differs.
        """
        if self.is_alone:
            return
        digest = hashlib.sha256(value.encode("utf-8", "surrogateescape")).hexdigest()
        everybodys = self.texts(digest)
        differs = [rank for rank, its in enumerate(everybodys) if its != everybodys[0]]
        if differs:
            raise KinembedError(
                f"rank {differs[0]} of {self.size} has other {what} than rank 0; wanted the same "
                "on all machines"
            )

    def wait(self) -> None:
        """Waits until all ranks are here."""
        if not self.is_alone:
            import torch

            self.add(torch.zeros(1))


ALONE = Ranks()


def _check_gpus(texts: list[str]) -> None:
    """Refuses ranks that talk in different ways, and by NCCL two of one GPU.

    Args:
        texts: of each rank: by what it talks, its machine, and its GPU; empty on a CPU.
    """
    first: dict[str, int] = {}
    for rank, text in enumerate(texts):
        by, _, where = text.partition(" ")
        if by != texts[0].partition(" ")[0] and by and texts[0]:
            raise KinembedError(
                f"{BY}: rank {rank} talks by {by}, rank 0 by {texts[0].partition(' ')[0]}; wanted "
                "the same on all machines"
            )
        if by == "nccl" and where in first:
            host, _, gpu = where.partition(" ")
            raise KinembedError(
                f"device: ranks {first[where]} and {rank} have one GPU, {one_line(gpu)} of "
                f"{one_line(host)}; wanted one for each: all GPUs in CUDA_VISIBLE_DEVICES of all "
                f"ranks (or {BY}=gloo, slower, by which ranks share a GPU)"
            )
        first.setdefault(where, rank)


def _buckets(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for each in tensors:
        if bucket and sum(t.numel() for t in bucket) + each.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(each)
    if bucket:
        yield bucket


@contextmanager
def _together() -> Iterator[None]:
    """Tells a failure of what all ranks do together from others."""
    try:
        yield
    except RuntimeError as error:
        from kinembed.backbones.device import is_out_of_memory

        if is_out_of_memory(error):
            raise
        raise LostRankError(one_line(str(error).partition("\n")[0])) from None


@contextmanager
def joined(environment: Mapping[str, str] = os.environ) -> Iterator[Ranks]:
    """Meets the other ranks; a process that no torchrun has started is alone.

    While the block runs, all ranks watch each other: where one is gone or has a problem, the others
    end with its name.

    Raises:
        KinembedError: the ranks do not come together, or one of them is gone.
    """
    rank, size = rank_of_environment(environment)
    if size == 1 and "TORCHELASTIC_RUN_ID" not in environment:
        yield ALONE
        return
    ranks = Ranks(
        rank,
        size,
        _number("LOCAL_RANK", environment, rank),
        _number("LOCAL_WORLD_SIZE", environment, size),
        _number("TORCHELASTIC_RESTART_COUNT", environment, 0),
        is_alone=False,
    )
    watch = _meet(ranks, environment)
    try:
        yield ranks
        ranks.wait()
    except KinembedError as error:
        watch.leave(str(error))
        raise
    except KeyboardInterrupt:
        watch.leave("interrupted")
        raise
    except BaseException as error:
        # torchrun terminates the ranks of its machine where one of them is gone.
        if isinstance(error, LostRankError) or not isinstance(error, Exception):
            with _unterminated():
                reason = watch.why()
            watch.leave("")
            if reason is None and isinstance(error, LostRankError):
                reason = f"the ranks have lost each other: {error}"
            if reason is not None:
                raise KinembedError(reason) from None
        else:
            watch.leave(one_line(f"{type(error).__name__}: {error}".partition("\n")[0]))
        raise
    else:
        watch.stop()


class _Group:
    """What this process has met the other ranks by; it lasts for all its trainings."""

    name = ""


def _meet(ranks: Ranks, environment: Mapping[str, str]) -> Watch:
    """Makes the group of all ranks, the first time, and begins to watch them."""
    from torch import distributed
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    from kinembed.training.signs_of_life import Watch

    host, port = environment.get("MASTER_ADDR", ""), _number("MASTER_PORT", environment)
    if not host or port > MOST_PORT:
        raise KinembedError(
            f"MASTER_ADDR, MASTER_PORT: found {host!r} and {port} in the environment; wanted the "
            "machine of rank 0 and a port, as torchrun sets them"
        )
    place = f"{host}:{port}"
    ranks.by = _by(environment)
    of_torchrun = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        if not distributed.is_initialized():
            store = _store(host, port, is_master=ranks.is_writer and not of_torchrun)
            _Group.name = f"kinembed/{meet(store, ranks.rank, ranks.size)}"
            if _Group.name.endswith(AGAIN):  # torchrun counts no change of the number of machines
                ranks.restarts = max(1, ranks.restarts)
            # By 1, which torchrun sets, or 3 torch would end this process, in many lines. By 2 it
            # ends what waits for NCCL alone; then the next call fails, and we say who is gone.
            if os.environ.get(ON_ERROR, "1") in ("1", "3"):
                os.environ[ON_ERROR] = "2"
            distributed.init_process_group(
                "cpu:gloo,cuda:nccl" if ranks.by == "nccl" else "gloo",
                store=PrefixStore(_Group.name, store),
                rank=ranks.rank,
                world_size=ranks.size,
                timeout=PATIENCE,
            )
            atexit.register(_part)
        signs = TCPStore(
            host, port, is_master=False, wait_for_workers=False, timeout=STORE_PATIENCE
        )
        watch = Watch(ranks.rank, ranks.size, signs, place, _Group.name)
        watch.begin()
        ranks.wait()
    except (RuntimeError, ValueError, OSError) as error:
        reason = one_line(str(error).partition("\n")[0])
        raise KinembedError(
            f"the {ranks.size} ranks do not come together at {place} ({reason}); wanted torchrun "
            "with the same endpoint on all machines"
        ) from None
    watch.hear()
    watch.start()
    return watch


def _by(environment: Mapping[str, str]) -> str:
    """By what ranks on GPUs talk."""
    import torch
    from torch import distributed

    is_there = torch.cuda.is_available() and distributed.is_nccl_available()
    by = environment.get(BY, "nccl" if is_there else "gloo")
    if by != "gloo" and (by != "nccl" or not is_there):
        has = "gloo or nccl" if is_there else "gloo: this machine has no GPU, or torch no NCCL"
        raise KinembedError(f"{BY}: found {by!r} in the environment; wanted {has}")
    return by


def _store(host: str, port: int, *, is_master: bool) -> Any:
    """The place where ranks meet, waited for where another rank keeps it.

    Waiting is torch's own and lets no signal through, so it is done a little at a time.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    until = time.monotonic() + PATIENCE.total_seconds()
    while True:
        try:
            store = TCPStore(
                host, port, is_master=is_master, wait_for_workers=False, timeout=STORE_PATIENCE
            )
        except RuntimeError:
            if is_master or time.monotonic() > until:
                raise
        else:
            store.set_timeout(PATIENCE)
            return store


def meet(store: Any, rank: int, size: int, patience: timedelta = PATIENCE) -> str:
    """A name for a group of ranks, the same for all of them and new each time that they meet.

    Where torchrun starts ranks again, their store still holds what those before said in it, and
    torch's own way would connect to processes that are dead. So each says hello by a number drawn
    for this time, and rank 0 names the group in an answer that quotes all of these. The name ends
    with `AGAIN` where the store has seen others before.

    Args:
        store: of torch.distributed.
        rank: of this process.
        size: how many there are.
        patience: for the others.

    Raises:
        RuntimeError: some do not come.
    """
    place = "kinembed/meeting"
    mine = secrets.token_hex(8)
    names = [f"{place}/{number}" for number in range(size)]
    agreed = [f"{place}/agreed/{number}" for number in range(size)]
    if rank == 0 and store.check([place]):
        mine += AGAIN
    store.set(names[rank], mine)
    until = time.monotonic() + patience.total_seconds()
    while time.monotonic() < until:
        if rank == 0:
            here = [store.get(name).decode() if store.check([name]) else "" for name in names]
            store.set(place, " ".join(here))
            told = [store.get(name).decode() if store.check([name]) else "" for name in agreed[1:]]
            if all(each == mine for each in told):
                return mine
        elif store.check([place]):
            quoted = store.get(place).decode().split(" ")
            if len(quoted) == size and quoted[rank] == mine and all(quoted):
                group = str(quoted[0])
                store.set(agreed[rank], group)
                return group
        time.sleep(0.02)
    raise RuntimeError("some of them do not come")


def _part() -> None:
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


@contextmanager
def _unterminated() -> Iterator[None]:
    """Lets no SIGTERM end the few seconds in which it is found out who is gone."""
    import signal
    import threading

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: Any = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
