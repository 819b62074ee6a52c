"""A fact that an examination finds, and the cure where something is wrong."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

from kinembed.errors import KinembedError

State = Literal["fine", "note", "wrong"]


@dataclass(frozen=True)
class Finding:
    """A fact.

    Attributes:
        topic: what it is about, in a word or two.
        fact: one line.
        state: `fine`; `note`, where something is missing or odd that not everybody needs; `wrong`,
            where a command would fail or mislead.
        cure: what to do, mostly a command; empty where nothing has to be done.
        values: the same as numbers and names, for programs.
    """

    topic: str
    fact: str
    state: State = "fine"
    cure: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


def examined(topic: str, where: str, *arguments: object) -> list[Finding]:
    """The findings of an examination, with the warnings it logs; whatever it raises is one more.

    What is examined may be broken in any way, so this is the place that takes every exception, and
    each examination is imported by itself.

    Args:
        topic: of a finding that it cannot be examined.
        where: `module:function` of this package, a generator of findings.
        arguments: of the function.
    """
    found: list[Finding] = []
    module, _, name = where.partition(":")
    with _collected_warnings() as warnings:
        try:
            examine = getattr(import_module(f"{__package__}.{module}"), name)
            for finding in examine(*arguments):  # what it found before it fails stays
                found.append(finding)
        except KinembedError as error:
            found.append(of_error(topic, error))
        except Exception as error:  # a broken installation raises anything
            reason = " ".join(str(error).split())
            fact = f"cannot be examined: {type(error).__name__}: {reason}"
            found.append(Finding(topic, fact, "wrong", "mend what this names, then run it again"))
    found += [Finding(topic, text, "note") for text in warnings]
    return found


def of_error(topic: str, error: KinembedError, **values: Any) -> Finding:
    """An error as a finding: what it says after its last semicolon is its cure.

    What it wanted is none.
    """
    fact, _, cure = str(error).rpartition("; ")
    if cure.startswith("wanted "):
        return Finding(topic, str(error), "wrong", values=values)
    return Finding(topic, fact or cure, "wrong", cure if fact else "", values)


@contextmanager
def _collected_warnings() -> Iterator[list[str]]:
    """Collects the warnings of kinembed's logger instead of showing them."""
    texts: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.WARNING:
                texts.append(record.getMessage())

    logger = logging.getLogger("kinembed")
    before = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [Collector()], False
    try:
        yield texts
    finally:
        logger.handlers, logger.propagate = before
