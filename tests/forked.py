"""`kinembed` for a page of commands: one process imports torch and forks for each command."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLIENT = """#!{python} -SsE
import os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    words = [os.getcwd(), *sys.argv[1:]]
    socket.send_fds(server, ["\\0".join(words).encode()], [0, 1, 2])
    sys.exit(int(server.recv(8) or b"1"))
"""
SHORT = {command: ["--epochs", "1", "--steps", "2", "--val-steps", "1"]
         for command in ("finetune", "head")}  # fmt: skip


@contextmanager
def forked_kinembed(folder: Path, installed: Path | None = None) -> Iterator[None]:
    """Puts a program `kinembed` into a folder; its trainings take an epoch of two steps.

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


def serve(address: str) -> None:
    """Runs a command for each connection, in a process of its own with the client's files."""
    import matplotlib.figure  # noqa: F401 - what the commands would import, each for itself
    import torch  # noqa: F401

    from kinembed.cli import run

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
            code = run([*arguments, *SHORT.get(arguments[0], [])])
            sys.stdout.flush()
            client.send(str(code).encode())
            os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
