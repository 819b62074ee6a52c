"""Tables to read, in Markdown."""

from collections.abc import Sequence

from kinembed.printable import in_markdown


def markdown_table(
    rows: Sequence[Sequence[str]], text_columns: int, *, are_markdown: bool = False
) -> str:
    """A Markdown table with columns in line.

    Args:
        rows: cells, which are escaped; the first row is the header.
        text_columns: the first columns, aligned to the left; all others are numbers.
        are_markdown: the cells are Markdown already, and stay as they are.
    """
    if not are_markdown:
        rows = [[in_markdown(text) for text in row] for row in rows]
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * w if i < text_columns else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    lines = []
    for row in [rows[0], rule, *rows[1:]]:
        cells = [
            text.ljust(width) if i < text_columns else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"| {' | '.join(cells)} |\n")
    return "".join(lines)
