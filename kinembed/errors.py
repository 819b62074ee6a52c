"""The problems kinembed explains in one line. Everything else is a bug and shows its traceback."""

from collections.abc import Iterable

from kinembed.printable import one_line


class KinembedError(Exception):
    """A problem that the user can fix: says what was found, what was wanted, and what to run.

    As a text it is one line, in which what a file brought along is escaped.
    """

    def __str__(self) -> str:
        return one_line(super().__str__())


def unknown_name(what: str, name: str, known: Iterable[str]) -> KinembedError:
    """The error of a name that is none of those known: lists them, and says which is nearest."""
    from difflib import get_close_matches  # slow to import

    names = list(known)
    nearest = get_close_matches(name, names, 1)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    return KinembedError(f"{what} {name!r} is unknown; known are {', '.join(names)}{hint}")


class DataError(KinembedError):
    """Photos, families, relations or pairs are missing or malformed."""


class WeightsError(KinembedError):
    """Pretrained or fine-tuned weights are missing or do not fit the network."""


class RunError(KinembedError):
    """A run folder lacks an artefact, or its artefacts do not match."""


class WriteError(KinembedError):
    """A file cannot be written."""


class UnprintedError(Exception):
    """Standard output cannot be written to."""

    def __init__(self, reason: OSError) -> None:
        self.reason = reason
