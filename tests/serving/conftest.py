"""A server in a thread, that the tests of this folder ask."""

import http.client
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kinembed.memory import lasting_memory
from kinembed.serving.answers import Answers
from kinembed.serving.desk import Desk
from kinembed.serving.guard import LOOPBACK, Guard
from kinembed.serving.web import make_application

pytest.importorskip("uvicorn", reason="kinembed[serve] is not installed")
MOST = 300_000  # bytes of a body
BOUNDARY = "----kinembed"


@dataclass
class Answer:
    """An answer to a request."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def error(self) -> str:
        assert list(self.json) == ["error"] and "\n" not in self.json["error"]
        return str(self.json["error"])


def form(files: list[tuple[str, str, bytes]]) -> bytes:
    """A multipart body of fields, names of files and their bytes."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
        "Content-Type: image/jpeg\r\n\r\n".encode()
        + content
        + b"\r\n"
        for field, name, content in files
    ]
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


@dataclass
class Served:
    """A server that listens, and how to ask it."""

    port: int
    desk: Desk
    guard: Guard

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Sends one request by a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            found = connection.getresponse()
            given = {name.lower(): value for name, value in found.getheaders()}
            return Answer(found.status, given, found.read())
        finally:
            connection.close()

    def post(self, path: str, *files: tuple[str, str, bytes], **headers: str) -> Answer:
        """Posts files."""
        kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask("POST", path, form(list(files)), {**kind, **given})


@pytest.fixture(scope="session")
def own_run(answering: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that a server may write its gallery into."""
    return Path(shutil.copytree(answering, tmp_path_factory.mktemp("served") / "run"))


@pytest.fixture(scope="session")
def answers(own_run: Path) -> Iterator[Answers]:
    """What answers, opened once."""
    with (
        lasting_memory(),  # as of the commands
        Answers.open(own_run, device="cpu", precision="fp32") as opened,
    ):
        yield opened


@pytest.fixture(scope="session")
def serving() -> Iterator[Callable[..., Served]]:
    """Starts servers, and ends them with the session."""
    from kinembed.serving.listening import Server, Timed, open_socket, settings

    running: list[tuple[Any, threading.Thread]] = []

    def start(
        application: Any,
        desk: Desk,
        names: tuple[str, ...] = LOOPBACK,
        protocol: type[Timed] = Timed,
        **about: Any,
    ) -> Served:
        guard = Guard(application, names, most=desk.most, **about)
        bound = open_socket("127.0.0.1", 0)
        listens = threading.Event()
        server = Server(settings(guard, protocol), listens.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        running.append((server, thread))
        assert listens.wait(30)
        return Served(bound.getsockname()[1], desk, guard)

    yield start
    for server, thread in running:
        server.should_exit = server.force_exit = True
        thread.join(10)


@pytest.fixture(scope="session")
def served(answers: Answers, serving: Callable[..., Served]) -> Served:
    """A server of `kinembed serve`."""
    desk = Desk(16, MOST, 20)
    return serving(make_application(answers, desk, is_described=True), desk)


@pytest.fixture(scope="session")
def photo(faces: Path) -> tuple[str, bytes]:
    """Name and bytes of a photo of the gallery."""
    path = sorted((faces / "train" / "F0001" / "MID1").iterdir())[0]
    return path.name, path.read_bytes()


@pytest.fixture(scope="session")
def other(faces: Path) -> tuple[str, bytes]:
    """Those of another person's."""
    path = sorted((faces / "train" / "F0001" / "MID2").iterdir())[0]
    return path.name, path.read_bytes()
