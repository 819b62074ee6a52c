"""Actors of Ray. See https://docs.ray.io/en/latest/ray-core/actors.html.

Ray gives machines and starts killed actors again. What is done, the sealed shards say.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, Literal

from kinembed.cluster.pool import TRIES, Answer, Lost
from kinembed.cluster.worker import Worker
from kinembed.errors import KinembedError, RunError
from kinembed.io import uninterrupted
from kinembed.printable import counted
from kinembed.threads import processors

log = logging.getLogger(__name__)

POLL = 0.2  # seconds
CONNECTING = 10.0  # seconds until an address does not answer
RESTARTING = 600.0  # seconds that a killed actor may take to be there again
STORE = 80 << 20  # bytes: the least that Ray takes; only numbers pass through it
# Ray calls home unless it is told not to.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}
# Of a Ray of our own: bound to 127.0.0.1, as on macOS and Windows. It runs what it is sent, so it
# takes nothing without the token, which otherwise it would keep in the home folder.
OWN = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
ACTOR = {"HDF5_PLUGIN_PRELOAD": "::"}  # HDF5 loads no filter that a file may name


class RayPool:
    """Actors of a Ray cluster, each a `Worker`.

    Args:
        ray: the module, connected.
        actors: how many; None: as many as fit, where a processor of each machine stays free.
        cpus: processors of each; a share where below 1.
        gpus: GPUs of each; a share where below 1.
        arguments: of `Worker`, but for the processors.

    Raises:
        RunError: nothing fits.
    """

    def __init__(
        self, ray: Any, actors: int | None, cpus: float, gpus: float, arguments: Sequence[Any]
    ) -> None:
        self._ray = ray
        machines = [node.get("Resources", {}) for node in ray.nodes() if node.get("Alive")]
        count = fitting(machines, cpus, gpus) if actors is None else actors
        total = {kind: sum(each.get(kind, 0) for each in machines) for kind in ("CPU", "GPU")}
        self._text = (
            f"{counted(count, 'actor')} of {cpus:g} CPUs and {gpus:g} GPUs each; Ray has "
            f"{counted(len(machines), 'machine')} with {total['CPU']:g} CPUs and {total['GPU']:g} "
            "GPUs"
        )
        if not count:
            raise RunError(
                f"Ray has no machine for an actor of {cpus:g} CPUs and {gpus:g} GPUs: {self}; ask "
                "for less with --actor-cpus and --actor-gpus, or wait for one with --actors N"
            )
        log.info("%s", self)
        made = ray.remote(Worker).options(
            num_cpus=cpus, num_gpus=gpus, max_restarts=-1, max_task_retries=0,
            runtime_env={"env_vars": QUIET | ACTOR},
        )  # fmt: skip
        threads = max(1, math.floor(cpus))
        self._actors = [made.remote(*arguments, threads) for _ in range(count)]
        self._calls: dict[Any, int] = {}  # actors by what they will answer
        self._opening: dict[int, float] = {}  # since when actors are asked to open the work
        self._later: list[int] = []  # of these, those that are not there yet
        self._next = 0.0  # when these are asked again

    def __len__(self) -> int:
        return len(self._actors)

    def __str__(self) -> str:
        return self._text

    def call(self, actor: int, method: Literal["open", "compute"], *arguments: int) -> None:
        """Calls a method of a `Worker`; of an actor that was lost, once it is there again."""
        called = getattr(self._actors[actor], method)
        self._opening.pop(actor, None)
        if method == "open":  # with retries it waits while an actor restarts; without, it fails
            called = called.options(max_task_retries=TRIES - 1)
            self._opening[actor] = time.monotonic()
        self._calls[called.remote(*arguments)] = actor

    def answer(self, seconds: float) -> Answer | None:
        """The next answer of any actor; None if there is none in this time."""
        ray = self._ray
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self._later and (time.monotonic() >= self._next or not self._calls):
                time.sleep(max(0.0, self._next - time.monotonic()))
                self._ask_again()
            with uninterrupted():  # in Ray's own code a handler's exception is lost
                ready, _ = ray.wait(list(self._calls), timeout=POLL)
            if not ready:
                continue
            actor = self._calls.pop(ready[0])
            try:
                return Answer(actor, ray.get(ready[0]))
            except ray.exceptions.ActorUnavailableError as error:
                since = self._opening.get(actor)
                if since is None or time.monotonic() - since > RESTARTING:
                    return Answer(actor, Lost(_reason(error)))
                self._later.append(actor)
                self._next = time.monotonic() + POLL
            except ray.exceptions.RayError as error:
                return Answer(actor, Lost(_reason(error)))
        return None

    def _ask_again(self) -> None:
        """Asks actors that were not there yet; on a busy machine Ray's own retries are too few."""
        for actor in self._later:
            since = self._opening[actor]
            self.call(actor, "open")
            self._opening[actor] = since
        self._later = []

    def close(self) -> None:
        """Ends the actors."""
        for actor in self._actors:
            with suppress(Exception):  # it has ended, or Ray has
                self._ray.kill(actor, no_restart=True)


def fitting(machines: Sequence[Mapping[str, float]], cpus: float, gpus: float) -> int:
    """How many actors fit on machines, with a processor of each left free where it has several.

    Actors that take all processors leave none for what else Ray has to run, and it waits for ever
    (https://github.com/ray-project/ray/issues/44687).

    Args:
        machines: `CPU` and `GPU` of each.
        cpus: of an actor.
        gpus: of an actor.
    """
    total = 0
    for machine in machines:
        free = machine.get("CPU", 0)
        fit = math.floor(max(free - 1, min(free, 1)) / cpus + 1e-9)
        if gpus:
            fit = min(fit, math.floor(machine.get("GPU", 0) / gpus + 1e-9))
        total += fit
    return total


@contextmanager
def ray_pool(
    address: str | None,
    actors: int | None,
    cpus: float,
    gpus: float,
    arguments: Sequence[Any],
) -> Iterator[RayPool]:
    """Connects to Ray, and ends the actors at the end.

    Args:
        address: of a cluster, `auto` for that of this machine; None: a Ray of our own, on this
            machine alone, which ends with the block.
        actors: as of `RayPool`, and so the others.
        cpus: as above.
        gpus: as above.
        arguments: as above.

    Raises:
        KinembedError: Ray is not installed, does not answer, or has no room.
    """
    if gpus > 1 and gpus != int(gpus):
        raise KinembedError(f"--actor-gpus {gpus:g}: above 1 Ray gives whole GPUs only")
    with ExitStack() as stack:
        # Where an actor is killed, Ray prints so, and standard output is for the command's result.
        stack.enter_context(redirect_stdout(sys.stderr))
        environment = dict(QUIET)
        if address is None:
            environment |= OWN | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
        stack.enter_context(_environment(environment))
        try:
            import ray
        except ImportError:
            raise KinembedError('--engine ray needs Ray: pip install "kinembed[ray]"') from None
        if not ray.is_initialized():
            _connect(ray, address, actors, cpus, stack)
        pool = RayPool(ray, actors, cpus, gpus, arguments)
        stack.callback(pool.close)
        yield pool


def _connect(
    ray: Any, address: str | None, actors: int | None, cpus: float, stack: ExitStack
) -> None:
    """Connects to Ray until the end of `stack`."""
    options: dict[str, Any] = {"address": address}
    _check_listens(address)
    if address is None:
        # Its logs name files; a path of a socket in it may have a hundred letters.
        folder = Path(tempfile.mkdtemp(prefix="kinembed-ray-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        there = processors()
        options = {
            "address": "local",
            "num_cpus": there if actors is None else max(there, math.ceil(actors * cpus) + 1),
            "include_dashboard": False,
            "object_store_memory": STORE,
            "_temp_dir": str(folder / "ray"),  # to which Ray lets anybody
        }
    stack.callback(ray.shutdown)
    try:
        with uninterrupted():  # Ray takes SIGTERM for itself
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:  # of any kind: that a node is slow to start is a bare one
        where = "on this machine" if address is None else f"at {address}"
        raise KinembedError(f"Ray {where} does not answer: {_reason(error)}") from None


def _check_listens(address: str | None) -> None:
    """Refuses an address, HOST:PORT, at which nothing is: Ray would wait for minutes.

    Raises:
        KinembedError: naming it.
    """
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not (host and port.isascii() and port.isdigit()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECTING).close()
    except (OSError, OverflowError, ValueError) as error:
        raise KinembedError(f"Ray at {address} does not answer: {_reason(error)}") from None


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Sets variables of the environment, which Ray reads as it is imported and started."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _reason(error: BaseException) -> str:
    """What an error of Ray says first, in one line."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}"
