"""The command line: its group of commands, messages, exit codes."""

import io
import os
import re
import shlex
import signal
import sys
import traceback
import warnings
from contextlib import suppress
from typing import Any, NoReturn

import click

from kinembed import __version__
from kinembed.cli import ask, cache, check, share, stages, weights
from kinembed.cli.results import UnprintedError
from kinembed.errors import KinembedError
from kinembed.io import replaced_files
from kinembed.printable import lines, one_line
from kinembed.threads import limit_libraries


def main() -> None:
    """Runs the command line and turns problems into one line and an exit code."""
    _open_standard_files()
    _escape()
    limit_libraries()
    signal.signal(signal.SIGTERM, _terminate)
    os.environ["HDF5_PLUGIN_PRELOAD"] = "::"  # HDF5 loads no filter that a file may name
    sys.exit(_flushed(run(sys.argv[1:])))


def _open_standard_files() -> None:
    """Opens what the caller closed, as by `2>&-`, so that no file of ours takes its number.

    Log lines then go nowhere. Standard output is opened for reading: a result that cannot be
    printed is a problem, and a command without one does not need it.
    """
    for number, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, flags), number)
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8")
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8")


def _escape() -> None:
    """Escapes what is printed past results and log lines, or cannot be printed as it is."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that its encoding lacks
    warnings.formatwarning = lambda message, category, filename, lineno, line=None: (
        f"{one_line(filename)}:{lineno}: {category.__name__}: {one_line(message)}\n"
    )
    sys.excepthook = lambda *bug: _say("".join(traceback.format_exception(*bug)).rstrip())


def _flushed(code: int) -> int:
    """The exit code, after what is left to print; no reader is a quiet end, as of other programs.

    Python itself would end with a traceback.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = code or _unprinted(error)
    return code


def _unprinted(error: OSError) -> int:
    if isinstance(error, BrokenPipeError):
        return 128 + signal.SIGPIPE if hasattr(signal, "SIGPIPE") else 1
    _say(f"Error: standard output: the result cannot be printed ({os.strerror(error.errno or 0)})")
    return 1


def _say(text: str) -> None:
    """Prints lines on standard error, escaped, if that can be written to."""
    with suppress(OSError):
        click.echo(lines(text), err=True)


class Terminated(BaseException):
    """SIGTERM; no KeyboardInterrupt, as click takes those for itself."""


def _terminate(*_: Any) -> NoReturn:
    raise Terminated


def run(arguments: list[str]) -> int:
    """Runs one command; returns its exit code.

    0 done; 1 a problem, explained in one line; 2 wrong usage; 130 interrupted; 141 nobody reads
    the output; 143 terminated.
    """
    before = len(replaced_files())

    def ending() -> str:
        names = [
            path.name for path in replaced_files()[before:] if path.parent.suffix != ".partial"
        ]
        goes_on = _GOES_ON.get("".join(arguments[:1]), "")
        if not names:
            return f"the artefacts in the run folder are as they were{goes_on}"
        return f"replaced are {', '.join(dict.fromkeys(names))}{goes_on}"

    try:
        result = cli.main(arguments, prog_name="kinembed", standalone_mode=False)
    except click.ClickException as error:
        usage = io.StringIO()
        error.show(file=usage)
        _say(usage.getvalue().rstrip())
        return error.exit_code
    except Terminated:
        _say(f"Terminated: {ending()}")
        return 143
    except (click.Abort, KeyboardInterrupt):
        _say(f"\nInterrupted: {ending()}")
        return 130
    except KinembedError as error:
        _say(f"Error: {error}{one_line(_same_places(str(error), arguments))}")
        return 1
    except MemoryError:
        _say("Error: out of memory; use fewer photos or a smaller --batch-size")
        return 1
    except UnprintedError as error:
        return _unprinted(error.reason)
    except OSError as error:
        _say(one_line(f"Error: {error}; {ending()}"))
        return 1
    return result if isinstance(result, int) else 0


# What a command does when it is called again after an interruption.
_GOES_ON = {
    "align": "; the same command goes on with the rest",
    "relate": "; the same command goes on with the rest",
    "finetune": "; --resume goes on from the last whole epoch, if there is one",
    "embed": "; the same command goes on from the finished shards",
    "experiments": "; the same command goes on with the rest",
}
_PLACES = ("--run", "--data", "--cache")


def _same_places(problem: str, arguments: list[str]) -> str:
    """The folders and caches of a call, for the commands that its error names and that take them.

    Without them, `run kinembed embed` would write into another run folder than the one in use.
    """
    names = re.findall(r"kinembed ([a-z]+(?: [a-z]+)?)", problem)
    takes = {option for name in names for p in _named_command(name).params for option in p.opts}
    given = []
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        option, equals, value = argument.partition("=")
        if option in _PLACES and option in takes:
            given += [option, value if equals else following]
    return f" (with {shlex.join(given)})" if given else ""


def _named_command(words: str) -> click.Command:
    """The command of one word or two; of other words the program itself."""
    first, _, second = words.partition(" ")
    command = cli.commands.get(first, cli)
    return command.commands.get(second, command) if isinstance(command, click.Group) else command


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    epilog='Shell completion: put  eval "$(_KINEMBED_COMPLETE=bash_source kinembed)"  into '
    "~/.bashrc; zsh_source and fish_source are for the other shells.",
)
@click.version_option(__version__, message="kinembed %(version)s")
def cli() -> None:
    """Estimate from two face photos how likely two people are kin."""


_ROOMS = (stages, ask, check, share)
for _command in (
    *(each for room in _ROOMS for each in room.COMMANDS),
    cache.cache,
    weights.weights,
):
    cli.add_command(_command)
