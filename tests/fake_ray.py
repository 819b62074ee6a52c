"""Ray as far as kinembed uses it, in this process: actors that die when a test says so.

What goes to an actor and comes back is pickled, as Ray does it.
"""

import os
import pickle
import random
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any


class FakeRay:
    """Stands in for the module `ray`.

    Args:
        dies: is asked for each call, by actor, method and arguments: True kills the actor in it.
        seed: of the order of answers.
    """

    def __init__(self, dies: Callable[..., bool] = lambda *_: False, seed: int = 0) -> None:
        self.dies, self.order = dies, random.Random(seed)
        error = type("RayError", (Exception,), {})
        unavailable = type("ActorUnavailableError", (error,), {})
        self.exceptions = SimpleNamespace(RayError=error, ActorUnavailableError=unavailable)
        self.away = 0  # how many calls find an actor that restarts still away
        self.machines: list[dict[str, Any]] = [{"Alive": True, "Resources": {"CPU": 4.0}}]
        self.options: dict[str, Any] = {}
        self.asked: dict[str, Any] = {}
        self.environment: dict[str, str] = {}
        self.actors: list[Actor] = []
        self.calls: list[tuple[Any, ...]] = []
        self.is_open = False
        self.killed: list[Actor] = []

    def is_initialized(self) -> bool:
        return self.is_open

    def init(self, **asked: Any) -> None:
        self.asked, self.is_open = asked, True
        self.environment = {k: v for k, v in os.environ.items() if k.startswith("RAY_")}

    def shutdown(self) -> None:
        self.is_open = False

    def nodes(self) -> list[dict[str, Any]]:
        return self.machines

    def remote(self, kind: type) -> Any:
        def options(**options: Any) -> Any:
            self.options = options

            def make(*arguments: Any) -> Actor:
                self.actors.append(Actor(self, len(self.actors), kind, pickle.dumps(arguments)))
                return self.actors[-1]

            return SimpleNamespace(remote=make)

        return SimpleNamespace(options=options)

    def wait(self, calls: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        ready = self.order.choice(calls)
        return [ready], [call for call in calls if call is not ready]

    def get(self, call: Callable[[], Any]) -> Any:
        return call()

    def kill(self, actor: "Actor", no_restart: bool) -> None:
        assert no_restart
        self.killed.append(actor)


class Actor:
    """An actor, made again from its arguments where it died."""

    def __init__(self, ray: FakeRay, number: int, kind: type, arguments: bytes) -> None:
        self.ray, self.number, self.kind, self.arguments = ray, number, kind, arguments
        self.it = kind(*pickle.loads(arguments))
        self.restarts = False

    def __getattr__(self, method: str) -> Any:
        def remote(*arguments: Any, retries: int = 0) -> Callable[[], Any]:
            def call() -> Any:
                if self.restarts and not retries:  # as Ray does, which only then waits
                    raise self.ray.exceptions.RayError("The actor is restarting..")
                if self.restarts and self.ray.away:
                    self.ray.away -= 1
                    raise self.ray.exceptions.ActorUnavailableError("The actor is restarting")
                self.restarts = False
                self.ray.calls.append((self.number, method, *arguments))
                if self.ray.dies(self.number, method, *arguments):
                    self.restarts = True
                    self.it = self.kind(*pickle.loads(self.arguments))
                    raise self.ray.exceptions.RayError(
                        "The actor died: its process was killed.\nMore"
                    )
                return pickle.loads(pickle.dumps(getattr(self.it, method)(*arguments)))

            return call

        def options(max_task_retries: int) -> Any:
            return SimpleNamespace(remote=partial(remote, retries=max_task_retries))

        return SimpleNamespace(remote=remote, options=options)
