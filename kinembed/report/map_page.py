"""`map.html`: photos as dots on a plane, with their people and kin, in one file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kinembed.arrays import Rows
from kinembed.data.layouts import family_of
from kinembed.data.protocols import RELATIONS
from kinembed.errors import DataError
from kinembed.inference.flat_map import Numbers
from kinembed.printable import counted, in_xml, one_line
from kinembed.report.html_page import html_page, page_file
from kinembed.report.thumbnails import thumbnail_uri

log = logging.getLogger(__name__)

GRID = 10_000  # steps along the longer side
SIDE, QUALITY = 48, 72  # of a thumbnail, pixels; of its JPEG
MOST_THUMBNAILS = 4_000  # some 1.1 kB each, so up to 4.5 MB
MOST_ROWS = 3_000  # people in the table


@dataclass(frozen=True)
class MapFacts:
    """What the page shows.

    Attributes:
        names: (N,) of photos.
        people: (N,) who is on each, `FAMILY/PERSON`; empty: nobody who is known.
        points: (N, 2) places.
        kin: pairs of people, and how they are related.
        how: what placed them, in words.
        what: was placed, in words.
        beware: of what, in a sentence; may be empty.
        of_all: photos of the cache.
        same_person: share of the photos whose nearest shows the same person, where they have
            another; None: nobody has.
        same_family: the same of families.
        photos: the data folder, for thumbnails; None: none.
        again: the command that makes the page.
    """

    names: tuple[str, ...]
    people: tuple[str, ...]
    points: Numbers
    kin: tuple[tuple[str, str, str], ...]
    how: str
    what: str
    beware: str
    of_all: int
    same_person: float | None
    same_family: float | None
    photos: Path | None
    again: str


def map_page(facts: MapFacts) -> tuple[str, int]:
    """The page as HTML, and how many thumbnails are on it."""
    shown, owner = np.unique(facts.people, return_inverse=True)
    people = [str(person) for person in shown]  # sorted, so that "" is the first
    families = sorted({family_of(person) for person in people})
    number = {person: place for place, person in enumerate(people) if person}
    kin = [
        [number[a], number[b], one_line(RELATIONS.get(kind, kind))]
        for a, b, kind in facts.kin
        if a in number and b in number
    ]
    folders: dict[str, int] = {}
    folder, files = [], []
    for name in facts.names:
        place, _, file = name.rpartition("/")
        folder.append(folders.setdefault(place, len(folders)))
        files.append(one_line(file))
    grid = _on_grid(facts.points)
    pictures = _thumbnails(facts, owner) if facts.photos is not None else {}
    data = {
        "x": grid[:, 0].tolist(),
        "y": grid[:, 1].tolist(),
        "person": owner.tolist(),
        "folder": folder,
        "file": files,
        "folders": [one_line(place) for place in folders],
        "people": [one_line(person) for person in people],
        "family": [families.index(family_of(person)) for person in people],
        "families": [one_line(family) for family in families],
        "kin": kin,
        "pictures": pictures,
    }
    body = (
        f"<header>{_lead(facts, people, families)}</header>\n"
        f"{_main(facts, people, owner, kin, len(pictures))}"
    )
    script = [page_file("map_page.js")]
    return html_page("Map of photos", body, page_file("map_page.css"), script, data), len(pictures)


def _on_grid(points: Numbers) -> Rows:
    """(N, 2) whole numbers from 0 to `GRID`; the longer side fills it, y points down."""
    low, high = points.min(0), points.max(0)
    span = max(float((high - low).max()), 1e-12)
    centred = (points - (low + high) / 2) / span + 0.5
    centred[:, 1] = 1 - centred[:, 1]
    grid: Rows = np.rint(np.clip(centred, 0, 1) * GRID).astype(np.intp)
    return grid


def _lead(facts: MapFacts, people: Sequence[str], families: Sequence[str]) -> str:
    known = [person for person in people if person]
    named = [family for family in families if family]
    counts = [counted(len(facts.names), "photo")]
    if known:
        counts.append(f"of {counted(len(known), 'person', 'people')}")
    if named:
        counts.append(f"in {counted(len(named), 'family', 'families')}")
    return (
        f"<h1>Map of photos</h1>\n<p>{in_xml(' '.join(counts))}, {in_xml(facts.what)}.</p>\n"
        '<p class="notice"><strong>Near is alike, not kin.</strong> A picture in two dimensions '
        'loses most of what the vectors say: see <a href="#reading">how to read it</a>.</p>'
    )


def _reading(facts: MapFacts, thumbnails: int) -> str:
    """How to read the map, and what is not on it."""
    shares = [("person", facts.same_person), ("family", facts.same_family)]
    told = [
        f"the same {what} in {100 * share:.0f} of 100 cases"
        for what, share in shares
        if share is not None
    ]
    near = f" The nearest dot of a photo is of {', of '.join(told)}." if told else ""
    left = facts.of_all - len(facts.names)
    rest = f" The cache has {counted(left, 'photo')} more, which are not shown." if left else ""
    faces = " No faces are on this page."
    if facts.photos is not None:
        faces = (
            f" It has thumbnails of {counted(thumbnails, 'photo')}, which show where a person is "
            "chosen or a dot pointed at: faces are personal data, so give it to nobody who may not "
            "see them."
        )
    lines = (
        " Once somebody is chosen, dark lines join listed kin, and thin coloured ones join a "
        "person's photos to the one in their middle."
    )
    return (
        '<section id="reading" aria-labelledby="reading-title">\n<h2 id="reading-title">How to '
        f"read it</h2>\n<p>Placed by {in_xml(facts.how)}.{in_xml(near)}{lines}</p>\n"
        f"<p>{in_xml(facts.beware)} Nothing on this page decides about anybody.{rest}{faces}</p>\n"
        "</section>"
    )


def _main(
    facts: MapFacts,
    people: Sequence[str],
    owner: Rows,
    kin: Sequence[Sequence[Any]],
    thumbnails: int,
) -> str:
    options = "".join(
        f'<option value="{in_xml(name)}">'
        for name in [*sorted({family_of(person) for person in people} - {""}), *people]
        if name
    )
    groups = "".join(
        f'<option value="{value}">{text}</option>'
        for value, text in (("family", "families"), ("person", "people"), ("none", "nothing"))
    )
    colours = f'<select id="colour">{groups}</select>'
    return f"""<main>
<form id="controls" aria-label="What the map shows">
<p><label for="find">Find a person or family</label>
<input id="find" list="names" autocomplete="off" spellcheck="false">
<datalist id="names">{options}</datalist></p>
<p><label for="colour">Colours by</label> {colours}</p>
<p class="buttons"><button type="button" id="nearer" aria-label="Zoom in">+</button>
<button type="button" id="farther" aria-label="Zoom out">&minus;</button>
<button type="button" id="whole">Whole map</button>
<button type="button" id="clear" disabled>Clear choice</button></p>
</form>
<figure>
<div id="place"><canvas id="map" tabindex="0" role="application" aria-describedby="keys"
aria-label="Map of {counted(len(facts.names), "photo")}"></canvas>
<div id="tip" hidden></div></div>
<figcaption><span id="legend"></span> <span id="keys">Click or tap a dot to choose it. On the map,
arrow keys go from photo to photo, Enter chooses, +, - and 0 zoom, Shift and arrows move, Escape
clears.</span></figcaption>
</figure>
<noscript><p class="notice">Without JavaScript there is no map; the table below has all
people.</p></noscript>
<p id="status" role="status"></p>
<section id="chosen" aria-labelledby="chosen-title" hidden>
<h2 id="chosen-title"></h2>
<div id="chosen-body"></div>
</section>
{_reading(facts, thumbnails)}
<section aria-labelledby="all-title">
<h2 id="all-title">As a table</h2>
{_people_table(facts, people, owner, kin)}
</section>
<section aria-labelledby="again-title">
<h2 id="again-title">The command</h2>
<pre>{in_xml(facts.again)}</pre>
</section>
</main>"""


def _people_table(
    facts: MapFacts, people: Sequence[str], owner: Rows, kin: Sequence[Sequence[Any]]
) -> str:
    """People with the middle of their photos; the coordinates are those of the table."""
    counts = np.bincount(owner, minlength=len(people))
    sums = np.zeros((len(people), 2))
    np.add.at(sums, owner, facts.points)
    middles = sums / counts[:, None]
    relatives = [0] * len(people)
    for a, b, _ in kin:
        relatives[a] += 1
        relatives[b] += 1
    rows = [
        f'<tr><th scope="row">{in_xml(person or "nobody known")}</th><td>{counts[place]}</td>'
        f"<td>{relatives[place]}</td><td>{middles[place, 0]:.3g}, {middles[place, 1]:.3g}</td></tr>"
        for place, person in enumerate(people[:MOST_ROWS])
    ]
    more = ""
    if len(people) > MOST_ROWS:
        more = (
            f"<p>The first {MOST_ROWS:,} of {len(people):,} people; the table beside this page, "
            "map.csv, has all photos.</p>"
        )
    return (
        f"<details><summary>{counted(len(people), 'person', 'people')}: photos, listed kin and the "
        f'middle of their photos</summary>{more}<div class="scrolled" tabindex="0" role="group" '
        'aria-label="Table of people"><table><thead><tr><th scope="col">person</th><th scope="col">'
        'photos</th><th scope="col">kin</th><th scope="col">x, y</th></tr></thead><tbody>'
        f"{''.join(rows)}</tbody></table></div></details>"
    )


def _thumbnails(facts: MapFacts, owner: Rows) -> dict[int, str]:
    """JPEGs as data URIs by photo: first one of each person, then the second; says what lacks."""
    assert facts.photos is not None
    seen: dict[int, int] = {}
    turn = []  # which photo of its person each is
    for person in owner.tolist():
        turn.append(seen.get(person, 0))
        seen[person] = turn[-1] + 1
    order = sorted(range(len(turn)), key=lambda row: (turn[row], row))
    found: dict[int, str] = {}
    unreadable = 0
    for row in order[:MOST_THUMBNAILS]:
        try:
            found[row] = thumbnail_uri(facts.photos / facts.names[row], SIDE, QUALITY)
        except DataError:
            unreadable += 1
    if unreadable:
        log.info(
            "no thumbnail of %s that cannot be read below %s, such as %s",
            counted(unreadable, "photo"), facts.photos,
            next(facts.names[row] for row in order if row not in found),
        )  # fmt: skip
    if len(order) > MOST_THUMBNAILS:
        log.info(
            "thumbnails of %s of %s photos; --people and --families show fewer photos with all",
            f"{MOST_THUMBNAILS:,}", f"{len(order):,}",
        )  # fmt: skip
    return found
