"""Log lines and progress bars of a running command, on standard error."""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import click

from kinembed.printable import lines, one_line
from kinembed.progress import Bar, Progress, silent


class _Lines(logging.Formatter):
    """One line for each record, whatever names it quotes; tracebacks below it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return one_line(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return lines(super().formatException(ei))


def listen(quiet: bool, verbose: bool) -> Progress:
    """Sends log lines to standard error, and returns the progress bar of stages."""
    level = logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO
    handler = logging.StreamHandler()
    from kinembed.training.ranks import label

    if rank := label():  # rank 0 says how far it is
        quiet, level = True, logging.ERROR
    handler.setFormatter(_Lines(f"{rank}%(message)s"))
    logger = logging.getLogger("kinembed")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(level)
    return silent if quiet or not sys.stderr.isatty() else _bar


@contextmanager
def said_once(folders: Sequence[Path]) -> Iterator[None]:
    """Leaves out what a log line has said of another of these folders."""
    names = sorted(map(str, folders), key=len, reverse=True)  # folds/10 begins as folds/1
    said: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        for name in names:
            text = text.replace(name, "")
        is_said = text in said
        said.add(text)
        return not is_said

    handlers = logging.getLogger("kinembed").handlers
    for handler in handlers:
        handler.addFilter(is_new)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(is_new)


def _bar(label: str, total: int) -> AbstractContextManager[Bar]:
    return _ClickBar(label, total)


class _ClickBar:
    def __init__(self, label: str, total: int) -> None:
        self.note = ""
        self.bar: Any = click.progressbar(
            length=total, label=one_line(label), file=sys.stderr, item_show_func=lambda _: self.note
        )

    def __enter__(self) -> "_ClickBar":
        self.bar.__enter__()
        return self

    def __exit__(self, *problem: Any) -> None:
        self.bar.__exit__(*problem)

    def advance(self, count: int, note: str = "") -> None:
        self.note = one_line(note)
        self.bar.update(count)
