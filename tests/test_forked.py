"""Forks stand for processes in other tests: what a process has and how it ends is theirs too."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from forked import Forked

if os.name != "posix":
    pytest.skip("forks", allow_module_level=True)

SAYING = """
import os, sys, tempfile, threading
print(sys.argv, os.getcwd(), os.environ.get("OURS"), tempfile.gettempdir(), sys.stdin.read())
print("torch" in sys.modules, threading.active_count(), file=sys.stderr)
"""
SLEEPS = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"


def test_a_fork_has_what_it_is_started_with(forked: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [forked, "-c", SAYING, "é", ""], input="hello", capture_output=True, text=True,
        cwd=tmp_path, env={**os.environ, "OURS": "a=b", "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout == f"['-c', 'é', ''] {tmp_path} a=b {tmp_path} hello\n"
    assert done.stderr == "True 1\n"


@pytest.mark.parametrize(
    ("code", "ends", "out", "error"),
    [
        ("", 0, "ended\n", ""),
        ("raise SystemExit(7)", 7, "ended\n", ""),
        ("raise SystemExit('no')", 1, "ended\n", "no\n"),
        ("1 / 0", 1, "ended\n", "ZeroDivisionError"),
        ("raise KeyboardInterrupt", -signal.SIGINT, "ended\n", "KeyboardInterrupt"),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, "", ""),
    ],
)
def test_it_ends_as_a_process_does(
    forked: Path, code: str, ends: int, out: str, error: str
) -> None:
    code = f"import atexit; atexit.register(print, 'ended')\n{code}"
    done = subprocess.run([forked, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (ends, out)
    assert error in done.stderr and bool(error) == bool(done.stderr)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("kind", [Forked, subprocess.Popen])
def test_signals_reach_it(forked: Path, kind: type[subprocess.Popen], sent: signal.Signals) -> None:
    """Those sent to the program that stands for it too, and none outlives that program."""
    with kind([forked, "-c", SLEEPS], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        pid = int(process.stdout.readline())
        process.send_signal(sent)
        assert process.wait(30) == -sent
    for _ in range(300):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    pytest.fail("it lives on")
