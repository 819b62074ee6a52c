"""Text that files bring along, so that it can be shown: on a terminal, in Markdown, in SVG.

Names, relations, settings and whatever else a stranger's file says may hold escape sequences that
clear the screen, line ends that forge a line, and marks that change the order of letters.
"""

import shlex
from pathlib import Path

DEFAULT_RUN = Path("runs/default")

_XML = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}
_MARKDOWN = {"&": "&amp;", "<": "&lt;", "\\": "\\\\", "|": r"\|", "[": r"\[", "`": r"\`"}


def one_line(text: object) -> str:
    r"""A text in which each character that cannot be seen is escaped, as in Python's `repr`.

    Those are control characters, line ends, marks of direction and other characters of no width,
    spaces other than the common one, and what is no Unicode.

    Example:
        >>> one_line("a\x1b[2J\nb")
        'a\\x1b[2J\\nb'
    """
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in shown
    )


def counted(number: int, one: str, many: str = "") -> str:
    """A number of things with their name: `1 photo`, `2,000 photos`.

    Args:
        number: how many.
        one: what one of them is called.
        many: what several are called, if not `one` with an s.
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def decimal(number: float, digits: int = 2) -> str:
    """A number from 0 to 1 without its leading zero: `.72`."""
    return f"{number:.{digits}f}".removeprefix("0")


def at_run(words: str, run: Path) -> str:
    """A command that is advised, with `--run` unless the run folder is the usual one."""
    return words if run == DEFAULT_RUN else f"{words} --run {shlex.quote(one_line(run))}"


def lines(text: object) -> str:
    """A text of several lines, each escaped as by `one_line`."""
    return "\n".join(map(one_line, str(text).split("\n")))


def in_markdown(text: object) -> str:
    """A text as one line of Markdown that shows it as it is: no table, link, picture or HTML."""
    return "".join(_MARKDOWN.get(letter, letter) for letter in one_line(text))


def in_xml(text: object) -> str:
    """A text as one line of SVG or HTML, between two tags or in a quoted attribute."""
    return "".join(_XML.get(letter, letter) for letter in one_line(text))
