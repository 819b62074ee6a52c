"""The links of an album as drawings, one for each group of linked people."""

from collections.abc import Sequence

import numpy as np

from kinembed.inference.album import Album, Link
from kinembed.printable import in_xml, one_line
from kinembed.report.graph_layout import Points, components, lay_out

RADIUS = 30  # of a face, pixels
SIDE, ABOVE, BELOW = 54, 38, 62  # from the middle of a face to the edge of the drawing
LETTERS = 13  # of a name below a face
LARGEST = 400  # people of a drawing
ALONG = (0.5, 0.42, 0.58, 0.34, 0.66, 0.27, 0.73)  # where a label may be on its line, best first
LABEL, FREE = np.array([30, 15]), 1.2  # its size; no better if farther from others, in its sizes
FEW = 40  # links with their probabilities written on them


def draw_links(album: Album, names: Sequence[str]) -> list[str]:
    """Drawings as SVG elements for a page that defines `#f0`, `#f1` … as faces; large ones first.

    Args:
        album: the album.
        names: of its people.
    """
    links = [(index, link) for index, link in enumerate(album.links) if link.is_shown]
    groups = components(len(album.people), [(link.left, link.right) for _, link in links])
    group_of = {person: number for number, people in enumerate(groups) for person in people}
    of_group: list[list[tuple[int, Link]]] = [[] for _ in groups]
    for index, link in links:
        of_group[group_of[link.left]].append((index, link))
    return [
        _drawing(album, names, people, inside)
        for people, inside in zip(groups, of_group, strict=True)
    ]


def short(name: str) -> str:
    """A name as it stands below a face."""
    name = one_line(name)
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 1].rstrip()}…"


def percent(probability: float) -> str:
    """A probability as `83 %`, `over 99 %` or `under 1 %`, never 0 or 100; no line ends in it."""
    shown = f"{min(max(probability, 0.01), 0.99):.0%}".replace("%", "\N{NO-BREAK SPACE}%")
    if probability > 0.99:
        return f"over {shown}"
    return f"under {shown}" if probability < 0.01 else shown


def _drawing(
    album: Album, names: Sequence[str], people: list[int], links: list[tuple[int, Link]]
) -> str:
    if len(people) > LARGEST:
        return f"<p>{len(people):,} people are linked: too many to draw. See the table.</p>"
    place = {person: row for row, person in enumerate(people)}
    pairs = [(place[link.left], place[link.right]) for _, link in links]
    points = lay_out(len(people), pairs) + np.array([SIDE, ABOVE])
    width, height = points.max(axis=0) + np.array([SIDE, BELOW])
    middles = [_bend(points, a, b) for a, b in pairs]
    shown = [names[person] for person in people]
    who = ", ".join(shown[:4]) + (f" and {len(shown) - 4} more" if len(shown) > 4 else "")
    few = len(links) <= FEW
    lines = [
        _line(index, link, points[a], points[b], middle)
        for (index, link), (a, b), middle in zip(links, pairs, middles, strict=True)
    ]
    spots = _spots(points, pairs, middles)
    labels = [
        _label(index, link, spot, few and is_free)
        for (index, link), (spot, is_free) in zip(links, spots, strict=True)
    ]
    nodes = [_node(album, names, person, points[place[person]]) for person in people]
    return "\n".join(
        [
            f'<svg class="family" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
            f'height="{height:.0f}" role="group" '
            f'aria-label="{in_xml(f"{len(people)} people, {len(links)} links: {who}")}">',
            *lines, *labels, *nodes, "</svg>",
        ]
    )  # fmt: skip


def _bend(points: Points, a: int, b: int) -> Points:
    """The point a link is drawn towards: its middle, or beside it where a face is in its way."""
    start, along = points[a], points[b] - points[a]
    length = float(np.linalg.norm(along))
    across = np.array([-along[1], along[0]]) / length
    relative = np.delete(points, [a, b], axis=0) - start  # (N - 2, 2)
    share = relative @ along / length**2
    aside = relative @ across
    # A face, and on its lower side its name.
    name = np.delete(points, [a, b], axis=0) + np.array([0, RADIUS + 13]) - start
    by_name = (np.abs(name @ across) < 8) & (name @ along > 0) & (name @ along < length**2)
    blocked = (share > 0.05) & (share < 0.95) & ((np.abs(aside) < RADIUS + 6) | by_name)
    bend = 0.0
    if blocked.any():
        worst = int(np.flatnonzero(blocked)[np.abs(aside[blocked]).argmin()])
        bend = (-2.0 if aside[worst] >= 0 else 2.0) * (RADIUS + 16 - min(abs(aside[worst]), RADIUS))
        bend = min(max(bend, -0.6 * length), 0.6 * length)
    middle: Points = start + along / 2 + across * bend
    return middle


def _line(index: int, link: Link, start: Points, end: Points, middle: Points) -> str:
    thick = 1.5 + 6.5 * max(0.0, 2 * link.probability - 1)
    path = f"M{_at(start)}Q{_at(middle)} {_at(end)}"
    return (
        f'<path class="link {link.answer}" data-link="{index}" data-ends="{link.left} {link.right}"'
        f' stroke-width="{thick:.1f}" d="{path}"/>'
    )


def _spots(
    points: Points, pairs: list[tuple[int, int]], middles: list[Points]
) -> list[tuple[Points, bool]]:
    """A point on each line, and whether a label there covers no other label, face or name."""
    taken = [*points, *(points + np.array([0, RADIUS + 13]))]
    spots = []
    for (a, b), middle in zip(pairs, middles, strict=True):
        along = [
            (1 - t) ** 2 * points[a] + 2 * t * (1 - t) * middle + t**2 * points[b] for t in ALONG
        ]
        free = [
            min(FREE, float((np.abs(np.array(taken) - spot) / LABEL).max(axis=1).min()))
            for spot in along
        ]
        best = int(np.argmax(free))
        spots.append((along[best], free[best] >= 1))
        if free[best] >= 1:
            taken.append(along[best])
    return spots


def _label(index: int, link: Link, spot: Points, has_room: bool) -> str:
    """The probability, or the answer, on the line; where there is no room the answer alone."""
    sign = {"kin": "✓", "not-kin": "✕"}.get(link.answer, "")
    chance = percent(link.probability)[-4:].replace("\N{NO-BREAK SPACE}", "") if has_room else ""
    return (
        f'<g class="chance {link.answer}" data-sign="{index}" data-chance="{chance}" '
        f'transform="translate({_at(spot)})"><circle r="10"/>'
        f'<text y="4">{sign or chance}</text></g>'
    )


def _node(album: Album, names: Sequence[str], person: int, point: Points) -> str:
    x, y = point
    name = names[person]
    face = album.people[person].faces[0]
    return (
        f'<a class="node" href="#person-{person}" data-node="{person}" '
        f'aria-label="{in_xml(name)}"><title>{in_xml(name)}</title>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS}"/>'
        f'<use href="#f{face}" x="{x - RADIUS:.1f}" y="{y - RADIUS:.1f}" width="{2 * RADIUS}" '
        f'height="{2 * RADIUS}" clip-path="url(#round)"/>'
        f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS}"/>'
        f'<text class="name" data-short="{person}" x="{x:.1f}" y="{y + RADIUS + 17:.1f}">'
        f"{in_xml(short(name))}</text></a>"
    )


def _at(point: Points) -> str:
    return f"{point[0]:.1f} {point[1]:.1f}"
