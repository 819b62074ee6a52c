"""The command line: its group of commands, messages, exit codes."""

import io
import os
import re
import shlex
import signal
import sys
import warnings
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

import click

from kinembed import __version__
from kinembed.errors import KinembedError, UnprintedError
from kinembed.printable import lines, one_line

if TYPE_CHECKING:  # what the program's help does not need costs time
    from pathlib import Path


def main() -> None:
    """Runs the command line and turns problems into one line and an exit code."""
    _open_standard_files()
    _escape()
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
    sys.excepthook = _say_bug


def _say_bug(*bug: Any) -> None:
    import traceback  # of which a run without a bug has no need

    _say("".join(traceback.format_exception(*bug)).rstrip())


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
    """Prints lines on standard error, escaped, if that can be written to.

    Of several processes of one training, each but the first says which it is.
    """
    from kinembed.training.ranks import label

    with suppress(OSError):
        click.echo(label() + lines(text), err=True)


class Terminated(BaseException):
    """SIGTERM; no KeyboardInterrupt, as click takes those for itself."""


def _terminate(*_: Any) -> NoReturn:
    raise Terminated


def run(arguments: list[str]) -> int:
    """Runs one command; returns its exit code.

    0 done; 1 a problem, explained in one line; 2 wrong usage; 130 interrupted; 141 nobody reads
    the output; 143 terminated.
    """
    before = len(_replaced())

    def ending() -> str:
        names = [path.name for path in _replaced()[before:] if path.parent.suffix != ".partial"]
        goes_on = _GOES_ON.get("".join(arguments[:1]), "")
        if not names:
            return f"the artefacts in the run folder are as they were{goes_on}"
        return f"written before it: {', '.join(dict.fromkeys(names))}{goes_on}"

    def ended(how: str) -> str:
        endless = arguments[:1] in (["app"], ["serve"])  # which end in no other way
        return "Ended." if endless else f"{how}: {ending()}"

    try:
        result = cli.main(arguments, prog_name="kinembed", standalone_mode=False)
    except click.ClickException as error:
        usage = io.StringIO()
        error.show(file=usage)
        _say(usage.getvalue().rstrip())
        return error.exit_code
    except Terminated:
        _say(ended("Terminated"))
        return 143
    except (click.Abort, KeyboardInterrupt):
        _say(f"\n{ended('Interrupted')}")
        return 130
    except KinembedError as error:
        _say(f"Error: {error}{one_line(_same_places(str(error), arguments))}")
        return 1
    except MemoryError:
        _say("Error: out of memory; use fewer photos or a smaller --batch-size")
        return 1
    except UnprintedError as error:
        return _unprinted(error.reason)
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        _say(f"Error: the device is out of memory; run it with --device cpu ({_start(error)})")
        return 1
    except OSError as error:
        _say(one_line(f"Error: {error}; {ending()}"))
        return 1
    return result if isinstance(result, int) else 0


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether it is torch's, of a device; without torch there is none."""
    if "torch" not in sys.modules:
        return False
    from kinembed.backbones.device import is_out_of_memory

    return is_out_of_memory(error)


def _start(error: RuntimeError) -> str:
    return one_line(str(error).partition("\n")[0][:200])


def _replaced() -> "list[Path]":
    """The files that this process has replaced: none before what replaces them is imported."""
    writing = sys.modules.get("kinembed.io")
    return [] if writing is None else writing.replaced_files()


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
        is_named = re.search(rf"kinembed [^;,]*{option}\b", problem)
        if option in _PLACES and option in takes and not is_named:
            given += [option, value if equals else following]
    return f" (with {shlex.join(given)})" if given else ""


def _named_command(words: str) -> click.Command:
    """The command of one word or two; of other words the program itself."""
    first, _, second = words.partition(" ")
    command = cli.get_command(None, first) or cli
    return command.commands.get(second, command) if isinstance(command, click.Group) else command


# The commands, each with its module and the first line of its help.
COMMANDS = {
    "finetune": ("stages", "Fine-tune the siamese network on kin and non-kin pairs."),
    "experiments": (
        "stages",
        "Fine-tune every recipe on every backbone and split; skip finished ones.",
    ),
    "embed": ("stages", "Write the embedding of every photo to the cache."),
    "head": ("stages", "Train the head that compares two embeddings, from the cache alone."),
    "calibrate": ("stages", "Fit the threshold and the probability map on held-out people."),
    "evaluate": ("stages", "Evaluate the head on labelled pairs, or on held-out people."),
    "score": ("stages", "Score the pairs of a submission, from the cache alone."),
    "demo": (
        "stages",
        "Run the whole chain on synthetic families: a minute of two cores, no download.",
    ),
    "align": ("ask", "Find the faces on photos and crop them, for embed --photos DST."),
    "compare": ("ask", "Tell whether two people are one person, kin, or unrelated."),
    "search": ("ask", "Find who in a cache is most likely kin of one person."),
    "relate": ("ask", "Tell who is who in an album, and who may be kin."),
    "audit": ("check", "Find what is doubtful in the data: photos, people, relations."),
    "doctor": (
        "check",
        "Say what is installed, what is in --data and --run, what is wrong, and what to run next.",
    ),
    "export": ("share", "Export the network and the head as one ONNX file."),
    "map": ("share", "Draw the photos as a map: near where they are alike, with their kin."),
    "report": (
        "share",
        "Write a page about a run: data, training, figures, threshold, doubts, provenance.",
    ),
    "app": ("share", "Open a page in the browser that compares, searches and relates photos."),
    "serve": ("share", "Compare, search and represent photos over HTTP, on this machine."),
    "cache": ("cache", "Inspect, verify, convert and merge embedding caches."),
    "weights": ("weights", "List, fetch, convert and verify pretrained weights."),
}


class Program(click.Group):
    """The commands. Each is imported when it is called, and none for the help of the program."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context | None, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"kinembed.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    @property
    def commands(self) -> dict[str, click.Command]:
        """All commands by name; imports them."""
        named = {name: self.get_command(None, name) for name in COMMANDS}
        return {name: command for name, command in named.items() if command is not None}

    @commands.setter
    def commands(self, commands: object) -> None:
        """Click sets an empty dictionary."""

    def invoke(self, ctx: click.Context) -> Any:
        from kinembed.threads import limit_libraries

        limit_libraries()
        return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    epilog='Shell completion: put  eval "$(_KINEMBED_COMPLETE=bash_source kinembed)"  into '
    "~/.bashrc; zsh_source and fish_source are for the other shells.",
)
@click.version_option(__version__, message="kinembed %(version)s")
def cli() -> None:
    """Estimate from two face photos how likely two people are kin."""
