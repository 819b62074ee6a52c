"""Processes that begin with torch and kinembed imported: forks of one that has imported them.

An import of torch takes two seconds of a processor, and the first step of an optimizer as long again.
All that tests start in this way are forks of one server, which has imported and run nothing. A fork is
a process as any other: it has the files, environment, folder and arguments that it was started with,
and ends by itself, by a signal, or by kill -9. What is about a start itself (imports, closed
files) is tested with `sys.executable`.

The programs `python` and `kinembed`, which `forking` writes, hand all that to the server, pass on what
signals they get, and end as their forks do.
"""

import atexit
import gc
import os
import pkgutil
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

PID_TO = "FORKED_PID_TO"
CLIENT = """#!{python} -SsE
import os, signal, socket, sys
told = os.environ.pop({pid_to!r}, None)
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    for sent in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sent, lambda number, _: server.sendall(bytes([number])))
    words = [{kind!r}, os.getcwd(), str(len(sys.argv) - 1), *sys.argv[1:]]
    words += [name + "=" + value for name, value in os.environ.items()]
    text = os.fsencode("\\0".join(words))
    socket.send_fds(server, [len(text).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(text)
    answers = server.makefile()
    pid = answers.readline()
    if told:
        os.write(int(told), pid.encode())
        os.close(int(told))
    code = int(answers.readline() or 1)
if code < 0:
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
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


def forking(
    folder: Path, *, python: str | Path = sys.executable, installed: str | Path = ""
) -> None:
    """Starts a server, and writes two programs that start forks of it.

    `python` takes `-c CODE`, `-m MODULE`, or a file; `kinembed` is for a page of commands: its
    trainings take two steps, and its figures are sketches.

    Args:
        folder: where the programs go, each into a folder of its name.
        python: what runs the server: a Python, or a program `python` of another server.
        installed: the folder of the package, if not this checkout's.
    """
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    until = os.getppid() if is_worker else os.getpid()  # all end with the session
    place = Path(tempfile.mkdtemp(prefix="kinembed-"))  # a socket's path is short
    address = str(place / "socket")
    server = subprocess.Popen(
        [python, __file__, address, str(until), str(installed)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
    )
    assert server.stdout is not None and server.stdout.readline() == b"ready\n"
    server.stdout.close()
    for kind in ("python", "kinembed"):  # apart, as each may be all of a PATH
        (folder / kind).mkdir(parents=True)
        client = folder / kind / kind
        client.write_text(
            CLIENT.format(python=sys.executable, pid_to=PID_TO, address=address, kind=kind)
        )
        client.chmod(0o755)


class Forked(subprocess.Popen[Any]):
    """A fork to which signals are sent, kill -9 too, as to a `Popen`.

    Args:
        words: the program `python` of a server, and its arguments.
        options: as of `Popen`.
    """

    def __init__(self, words: Sequence[str | Path], **options: Any) -> None:
        reading, writing = os.pipe()
        environment = {**options.pop("env", os.environ), PID_TO: str(writing)}
        with open(reading) as told:
            try:
                super().__init__(words, env=environment, pass_fds=(writing,), **options)
            finally:
                os.close(writing)
            self.forked = int(told.read())

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.forked, sig)

    def __exit__(self, problem: type[BaseException] | None, *more: Any) -> None:
        if problem is not None:
            self.kill()  # else a failed test waits for its end
        super().__exit__(problem, *more)


@dataclass(frozen=True)
class Start:
    """What a fork is started with."""

    kind: str
    folder: str
    arguments: list[str]
    environment: dict[str, str]
    files: list[int]

    @staticmethod
    def received(client: socket.socket) -> "Start":
        size, files, _, _ = socket.recv_fds(client, 8, 3)
        text = b""
        while len(text) < int.from_bytes(size, "big"):
            if not (part := client.recv(1 << 16)):
                raise EOFError
            text += part
        kind, folder, count, *words = os.fsdecode(text).split("\0")
        arguments, variables = words[: int(count)], words[int(count) :]
        return Start(kind, folder, arguments, dict(v.split("=", 1) for v in variables), files)

    def run(self) -> NoReturn:
        """In the fork: does what was asked for, and ends the process as Python does, but for memory.

        Python frees every object in the end, which would copy the server's memory first.
        """
        code = 0
        try:
            self._run()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else end.code is not None
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        except BaseException as problem:
            traceback.print_exc()
            code = -signal.SIGINT if isinstance(problem, KeyboardInterrupt) else 1
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        atexit._run_exitfuncs()
        with suppress(OSError):
            sys.stdout.flush()
        with suppress(OSError):
            sys.stderr.flush()
        if code == -signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        os._exit(code)

    def _run(self) -> None:
        os.chdir(self.folder)
        for number, file in enumerate(self.files):
            os.dup2(file, number)
            os.close(file)
        os.environ.clear()
        os.environ.update(self.environment)
        tempfile.tempdir = None  # Python finds it once, by the environment
        if self.kind == "kinembed":
            from kinembed.cli import run

            _sketch_and_draw_fewer()
            sys.exit(run(shortened(self.arguments)))
        if threads := self.environment.get("OMP_NUM_THREADS"):
            import torch

            torch.set_num_threads(int(threads))
        first, *rest = self.arguments
        if first == "-m":
            sys.argv, sys.path[0] = rest, self.folder
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        elif first == "-c":
            sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
            main = sys.modules["__main__"] = ModuleType("__main__")
            exec(compile(rest[0], "<string>", "exec"), vars(main))
        else:
            sys.argv, sys.path[0] = self.arguments, str(Path(first).parent)
            runpy.run_path(first, run_name="__main__")


def _import_early() -> None:
    """Imports what the forks would import, each for itself; nothing runs yet."""
    import fewer_draws  # noqa: F401
    import pytest  # noqa: F401
    import sketched
    import torch._dynamo  # noqa: F401 - an optimizer's first step imports it
    from PIL import Image

    import kinembed

    Image.init()
    for room in sketched.PLOTTING:
        import_module(room)
    for module in pkgutil.walk_packages(kinembed.__path__, "kinembed."):
        if not module.name.endswith("__main__"):
            with suppress(ImportError):  # of an extra that is not installed
                import_module(module.name)
    gc.collect()
    gc.freeze()  # the forks' own collections leave all of it alone


def _sketch_and_draw_fewer() -> None:
    import pytest
    from fewer_draws import draw_fewer
    from sketched import PLOTTING, sketch

    for room in PLOTTING:
        sys.modules[room].write_plot = sketch  # type: ignore[attr-defined]
    draw_fewer(pytest.MonkeyPatch())


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def serve(address: str, until: int) -> Start:
    """Forks for each connection; returns in the forks, and ends the process itself elsewhere."""
    woken, waking = socket.socketpair()
    for each in (woken, waking):
        each.setblocking(False)
    forks: dict[socket.socket, int] = {}
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen(64)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
        print("ready", flush=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        while _lives(until):
            ready, _, _ = select.select([server, woken, *forks], [], [], 1.0)
            if server in ready:
                client, _ = server.accept()
                try:
                    start = Start.received(client)
                except (EOFError, OSError):  # the client was killed
                    client.close()
                    continue
                pid = os.fork()
                if not pid:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    signal.signal(signal.SIGINT, signal.default_int_handler)
                    for each in (woken, waking, client, *forks):
                        each.close()
                    return start
                for file in start.files:
                    os.close(file)
                forks[client] = pid
                client.sendall(f"{pid}\n".encode())
            for client in forks.keys() & {*ready}:
                sent = b""
                with suppress(ConnectionError):
                    sent = client.recv(8)
                for number in sent or bytes([signal.SIGKILL]):  # the client has gone
                    os.kill(forks[client], number)
                    if number == signal.SIGKILL:
                        ready.append(woken)
            if woken in ready:
                with suppress(BlockingIOError):
                    woken.recv(1 << 12)
                for client, pid in [*forks.items()]:
                    done, status = os.waitpid(pid, os.WNOHANG)
                    if done:
                        with suppress(OSError):  # the client has gone
                            client.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
                        client.close()
                        del forks[client]
    for pid in forks.values():
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(Path(address).parent, ignore_errors=True)
    os._exit(0)


def main() -> None:
    address, until, installed = sys.argv[1:]
    if installed:
        for name in [*sys.modules]:
            if name.partition(".")[0] in ("kinembed", "fewer_draws", "sketched"):
                del sys.modules[name]
        sys.path.insert(1, installed)
    _import_early()
    serve(address, int(until)).run()


if __name__ == "__main__":
    main()
