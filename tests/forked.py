"""`kinembed` for a page of commands: one process imports torch and forks for each command."""

import gc
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

CLIENT = """#!{python} -SsE
import os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    words = [os.getcwd(), *sys.argv[1:]]
    socket.send_fds(server, ["\\0".join(words).encode()], [0, 1, 2])
    sys.exit(int(server.recv(8) or b"1"))
"""
SHORT = {
    "finetune": ["--epochs", "1", "--steps", "2", "--val-steps", "1", "--framing", "loose"],
    "head": ["--epochs", "1", "--steps", "2", "--val-steps", "1"],
}  # in place of what a command says
FEWER = {"calibrate": ["--pairs", "2000"], "evaluate": ["--count", "2000"]}  # where it says nothing
SAYING = {"--pairs", "--count", "--protocol", "--list", "--use"}


def shortened(arguments: list[str]) -> list[str]:
    """A command that takes less time."""
    short = SHORT.get(arguments[0], [])
    if not SAYING & {*arguments}:
        short = short or FEWER.get(arguments[0], [])
    if arguments[0] in ("embed", "experiments") and "--framing" not in arguments:
        short = ["--framing", "loose"]  # looking at painted faces takes longer than embedding them
    if arguments[0] == "map" and "--out" in arguments and "--method" not in arguments:
        short = ["--method", "pca"]  # UMAP compiles itself first, and heads.md has it already
    return [*arguments, *short]


@contextmanager
def forked_kinembed(folder: Path, installed: Path | None = None) -> Iterator[None]:
    """Puts a program `kinembed` into a folder; its trainings take two steps.

    Args:
        folder: where to put it.
        installed: the folder of the package, if not this checkout's.
    """
    places = [str(installed)] if installed is not None else []
    with tempfile.TemporaryDirectory(prefix="kinembed-") as place:  # a socket's path is short
        address = str(Path(place) / "socket")
        server = subprocess.Popen(
            [sys.executable, __file__, address],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([*places, *sys.path])},
        )
        try:
            assert server.stdout is not None and server.stdout.readline()
            client = folder / "kinembed"
            client.write_text(CLIENT.format(python=sys.executable, address=address))
            client.chmod(0o755)
            yield
        finally:
            server.kill()
            server.communicate()


def _import_early() -> None:
    """Imports what the commands would import, each for itself; no command runs yet."""
    import pytest
    import torch._dynamo  # noqa: F401 - an optimizer's first step imports it
    from fewer_draws import draw_fewer
    from PIL import Image
    from sketched import PLOTTING, sketch

    import kinembed

    Image.init()
    for room in PLOTTING:
        import_module(room).write_plot = sketch
    draw_fewer(pytest.MonkeyPatch())
    for module in pkgutil.walk_packages(kinembed.__path__, "kinembed."):
        if not module.name.endswith("__main__"):
            with suppress(ImportError):  # of an extra that is not installed
                import_module(module.name)
    gc.collect()
    gc.freeze()  # the commands' own collections leave all of it alone


def serve(address: str) -> None:
    """Runs a command for each connection, in a process of its own with the client's files."""
    from kinembed.cli import run

    _import_early()

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        print("ready", flush=True)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
        while True:
            client, _ = server.accept()
            if os.fork():
                client.close()
                continue
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            words, files, _, _ = socket.recv_fds(client, 1 << 16, 3)
            for number, file in enumerate(files):
                os.dup2(file, number)
            folder, *arguments = words.decode().split("\0")
            os.chdir(folder)
            code = run(shortened(arguments))
            sys.stdout.flush()
            client.send(str(code).encode())
            os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
