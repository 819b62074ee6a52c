"""The command line: its group of commands, messages, exit codes."""

import os
import re
import shlex
import signal
import sys
from typing import Any, NoReturn

import click

from kinembed import __version__
from kinembed.cli import cache, stages, weights
from kinembed.errors import KinembedError


def main() -> None:
    """Runs the command line and turns problems into one line and an exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    os.environ["HDF5_PLUGIN_PRELOAD"] = "::"  # HDF5 loads no filter that a file may name
    sys.exit(run(sys.argv[1:]))


class Terminated(BaseException):
    """SIGTERM; no KeyboardInterrupt, as click takes those for itself."""


def _terminate(*_: Any) -> NoReturn:
    raise Terminated


def run(arguments: list[str]) -> int:
    """Runs one command; returns its exit code.

    0 done; 1 a problem, explained in one line; 2 wrong usage; 130 interrupted; 143 terminated.
    """
    goes_on = _GOES_ON.get("".join(arguments[:1]), "")
    kept = f"the artefacts in the run folder are as they were{goes_on}"
    try:
        result = cli.main(arguments, prog_name="kinembed", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except Terminated:
        click.echo(f"Terminated: {kept}", err=True)
        return 143
    except (click.Abort, KeyboardInterrupt):
        click.echo(f"\nInterrupted: {kept}", err=True)
        return 130
    except KinembedError as error:
        click.echo(f"Error: {error}{_same_places(str(error), arguments)}", err=True)
        return 1
    except MemoryError:
        click.echo("Error: out of memory; use fewer photos or a smaller --batch-size", err=True)
        return 1
    except OSError as error:
        click.echo(f"Error: {error}; the artefacts in the run folder are as they were", err=True)
        return 1
    return result if isinstance(result, int) else 0


# What a command does when it is called again after an interruption.
_GOES_ON = {
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


for _command in (*stages.COMMANDS, cache.cache, weights.weights):
    cli.add_command(_command)
