"""One self-contained HTML file: what it does not hold, its policy forbids."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from kinembed.printable import in_xml


def html_page(
    title: str, body: str, style: str, scripts: Sequence[str], data: Any, head: str = ""
) -> str:
    """A page whose styles and scripts are its own, and which asks nobody for anything.

    Args:
        title: as text.
        body: HTML.
        style: CSS.
        scripts: JavaScript, in order.
        data: JSON types, for the scripts: the element `#page-data`.
        head: HTML for the head.
    """
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; "
        f"script-src {' '.join(map(_hash, scripts))}; base-uri 'none'; form-action 'none'"
    )
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            '<meta name="referrer" content="no-referrer">',
            f"<title>{in_xml(title)}</title>\n<style>{style}</style>\n{head}</head>\n<body>",
            body,
            f'<script type="application/json" id="page-data">{script_json(data)}</script>',
            *(f"<script>{script}</script>" for script in scripts),
            "</body>\n</html>\n",
        ]
    )


def table(label: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that scrolls by itself where it is too wide.

    Args:
        label: what it is of, for those who hear the page, as text.
        columns: as text.
        rows: cells as HTML; the first of a row is its header.
    """
    head = "".join(f'<th scope="col">{in_xml(column)}</th>' for column in columns)
    body = "\n".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    return (
        f'<div class="scrolled" tabindex="0" role="group" aria-label="Table: {in_xml(label)}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
    )


def script_json(data: Any) -> str:
    """JSON that ends no element of a page, whatever the texts in it."""
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def page_file(name: str) -> str:
    """The text of a file of this folder, such as a script."""
    return resources.files("kinembed.report").joinpath(name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    """What a policy calls an element of this content."""
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
