"""The program starts fast: its help imports no command."""

import os
import resource
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest

import kinembed
import kinembed.cli
from kinembed.cli import COMMANDS

CHECKOUT = Path(kinembed.__file__).parents[1]
ROOMS = [path.stem for path in (CHECKOUT / "kinembed" / "cli").glob("[a-z]*.py")]


def python(*arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    words = [sys.executable, *arguments]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout


def seconds(*arguments: str) -> float:
    """The least processor time of several runs."""

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    times = []
    for _ in range(7):
        before = used()
        python(*arguments)
        times.append(used() - before)
    return min(times)


def test_every_command_is_in_the_table_with_its_first_paragraph() -> None:
    found = {}
    for room in ROOMS:
        commands = {
            name: command
            for name, command in vars(import_module(f"kinembed.cli.{room}")).items()
            if isinstance(command, click.Command)
        }
        groups = [each for each in commands.values() if isinstance(each, click.Group)]
        inner = [command for group in groups for command in group.commands.values()]
        for command in commands.values():
            if command not in inner:
                assert command.name is not None and command.help is not None
                found[command.name] = (room, " ".join(command.help.split("\n\n")[0].split()))
    assert found == COMMANDS


@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_help_imports_no_command(words: list[str]) -> None:
    code = (
        "import sys; from kinembed.cli import run; run(sys.argv[1:]); "
        "print(*sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    imported = {name for name in done.stderr.split() if name.startswith("kinembed")}
    assert imported <= {f"kinembed{name}" for name in ("", ".cli", ".errors", ".printable")}


@pytest.mark.skipif(sys.platform == "win32", reason="processor times of child processes")
def test_help_takes_at_most_half_more_than_importing_click() -> None:
    assert seconds("-m", "kinembed", "--help") <= 1.5 * seconds("-c", "import click")
