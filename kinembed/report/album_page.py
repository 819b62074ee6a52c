"""`relate.html`: an album's people, their links and the open questions, in one file.

The file holds all it shows, and its Content-Security-Policy forbids whatever it does not hold:
opening it asks nobody for anything. Texts of strangers stand in it escaped.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kinembed.errors import DataError
from kinembed.inference.album import Album, Face, Link
from kinembed.inference.words import rate
from kinembed.io import write_bytes
from kinembed.printable import counted, in_xml, one_line
from kinembed.report.album_drawing import draw_links, percent
from kinembed.report.html_page import html_page, page_file
from kinembed.report.thumbnails import thumbnail

log = logging.getLogger(__name__)

SIDE, QUALITY = 112, 78  # of a face, pixels; of its JPEG
PICTURES = 4_000_000  # letters of all faces in the page
ON_A_CARD = 4  # faces of a person
ON_A_SIDE = 3  # faces on each side of a question
ROWS = 2000  # links in the table


def write_album_page(album: Album, path: Path, again: str, confirmed: Path | None = None) -> Path:
    """Writes the page of an album.

    Args:
        album: what is known of the album.
        path: the HTML.
        again: the command that makes it again.
        confirmed: the file that answers belong into; None: `confirmed.csv` beside the page.
    """
    confirmed = confirmed or path.parent / "confirmed.csv"
    return write_bytes(path, album_page(album, confirmed, again).encode())


def album_page(album: Album, confirmed: Path, again: str) -> str:
    """The page as HTML.

    Args:
        album: what is known of the album.
        confirmed: the file that answers belong into.
        again: the command that makes the page again.
    """
    names = [one_line(person.name) for person in album.people]
    pictures = _pictures(album)
    rows = _rows(album)
    data = {"people": names, "rows": rows, **_questions(album, pictures)}
    data["page"] = hashlib.sha256(json.dumps(data).encode()).hexdigest()[:16]
    folder = album.folder.resolve().name
    body = "\n".join(
        [
            _sprite(pictures),
            f'<header>\n<h1>Who may be kin in <bdi class="long">{in_xml(folder)}</bdi></h1>',
            _summary(album),
            "</header>\n<main>",
            _drawings(album, names),
            _questioning(confirmed, again),
            _table(album, names),
            _cards(album, names, pictures),
            _about(album),
            "</main>",
        ]
    )
    title = f"Who may be kin in {folder}"
    return html_page(title, body, page_file("album.css"), [page_file("album.js")], data)


# Parts of the page


def _summary(album: Album) -> str:
    shown = album.shown
    people, photos = len(album.people), album.photos
    found = (
        f"{counted(people, 'person', 'people')} on {counted(photos, 'photograph')}. "
        f"Every two were compared, {counted(album.pairs, 'pair')} in all."
    )
    if not shown:
        why = album.why_none
        said = f"<strong>{in_xml(why[:1].upper() + why[1:])}.</strong>" if why else ""
        said = said.replace("%", "\N{NO-BREAK SPACE}%")  # as `percent` writes it
    else:
        looks = "looks" if len(shown) == 1 else "look"
        said = (
            f"<strong>{counted(len(shown), 'pair')} {looks} alike enough to be listed as likely "
            f"kin.</strong> {_expected(album)}"
        )
    return f"""<p>{found} {said}</p>
<p class="notice"><strong>A likeness is no proof.</strong> Strangers can look alike, and kin can
look nothing alike. Never decide by this page about the rights, identity, money or whereabouts of
anybody. It shows faces: ask the people on it before you pass it on, and for children, those who
care for them. Nothing on this page leaves your computer.</p>"""


def _expected(album: Album) -> str:
    """How many of the links shown are expected to be false, in words."""
    links, false = len(album.shown), album.expected_false
    if all(link.answer for link in album.shown):
        return "Somebody confirmed it." if links == 1 else "Somebody confirmed each of them."
    if links == 1:
        return f"The chance that it is false is {_about_percent(false)}."
    number = f"about {false:.0f}" if false >= 9.95 else f"{max(false, 0.1):.1f}"
    number = f"fewer than {number}" if false < 0.05 else number
    return (
        f"<strong>Of these {links:,}, {number} are expected to be false</strong>: the faces do not "
        "tell which."
    )


def _about_percent(share: float) -> str:
    shown = percent(share)
    return f"about {shown}" if shown[0].isdigit() else shown


def _drawings(album: Album, names: Sequence[str]) -> str:
    drawings = draw_links(album, names)
    if not drawings:
        return ""
    single = len(album.people) - len({end for k in album.shown for end in (k.left, k.right)})
    rest = (
        f" {counted(single, 'person', 'people')} without a link "
        f"{'is' if single == 1 else 'are'} left out of it."
        if single
        else ""
    )
    scrolled = "\n".join(
        '<div class="drawing"><p class="moves-hint">Wider than the page: scroll it sideways.</p>'
        f'<div class="scrolled" tabindex="0" role="group" aria-label="Drawing {number}">{svg}</div>'
        "</div>"
        for number, svg in enumerate(drawings, 1)
    )
    return f"""<section aria-labelledby="drawing-title">
<h2 id="drawing-title">The links, drawn</h2>
<p>A line is a link: two people who are likely kin, that is, related by blood. The thicker, the
likelier. ✓ means that somebody confirmed it, ✕ that somebody said no.{rest} Who is whose parent or
cousin, the faces do not say.
<a href="#links-title">The same as a table</a></p>
<div id="families" data-limit="12">
{scrolled}
</div>
{_more("families")}
</section>"""


def _questioning(confirmed: Path, again: str) -> str:
    return f"""<section id="questions" aria-labelledby="questions-title" hidden>
<h2 id="questions-title">You know better: questions</h2>
<p>Answer what you know, skip what you do not, stop when you like. Your answers count as given when
the command runs again.</p>
<div id="asking">
<div id="card" tabindex="-1" role="group" aria-labelledby="ask">
<p id="where"></p>
<h3 id="ask"></h3>
<div id="sides">
<div class="side"><p class="who" id="left-name"></p><div class="row" id="left"></div></div>
<div class="side"><p class="who" id="right-name"></p><div class="row" id="right"></div></div>
</div>
<p id="note"></p>
<p id="given"></p>
<p id="conflict" role="alert"></p>
<div class="buttons">
<button type="button" id="yes" class="answer">Yes <kbd>y</kbd></button>
<button type="button" id="no" class="answer">No <kbd>n</kbd></button>
</div>
<div class="buttons">
<button type="button" id="back">← Back <kbd>k</kbd></button>
<button type="button" id="next">Skip → <kbd>j</kbd></button>
<button type="button" id="clear">Take back this answer</button>
</div>
</div>
<div>
<details id="given-all"><summary>Your answers (<span id="count">0</span>)</summary>
<ol id="answers"></ol></details>
<h3>When you are done</h3>
<ol id="steps">
<li>Save your answers: the button below<span class="by-keys">, or the key <kbd>s</kbd></span>. Your
browser puts a file <code>confirmed.csv</code> where it puts downloads.</li>
<li>Move it here, in the place of an older one: <code class="long">{in_xml(confirmed)}</code></li>
<li>Run again: <code class="long">{in_xml(again)}</code></li>
</ol>
<p class="by-keys"><label><input type="checkbox" id="keys" checked>
Answer by keys: <kbd>y</kbd> yes, <kbd>n</kbd> no, <kbd>j</kbd> or <kbd>→</kbd> next,
<kbd>k</kbd> or <kbd>←</kbd> back, <kbd>u</kbd> undo, <kbd>s</kbd> save</label></p>
</div>
</div>
</section>
<noscript><p class="notice">To answer questions and name people, allow this page its script. It
needs no network.</p></noscript>
<div id="bar" hidden>
<p role="status" id="status"></p>
<div class="buttons">
<button type="button" id="undo">Undo <kbd>u</kbd></button>
<button type="button" id="save">Save answers <span id="unsaved" hidden>(unsaved)</span>
<kbd>s</kbd></button>
</div>
</div>"""


def _table(album: Album, names: Sequence[str]) -> str:
    if not album.links:
        return ""
    order = sorted(range(len(album.links)), key=lambda index: not album.links[index].is_shown)
    rows = [_row(album, names, index) for index in order[:ROWS]]
    below = [album.links[index] for index in order[:ROWS] if not album.links[index].is_shown]
    among = sum(link.probability for link in below)
    more = len(order) - len(rows) + album.unlisted
    unlisted = (
        f"<p>{counted(more, 'other pair')} {'is' if more == 1 else 'are'} less likely still and "
        "not in this table.</p>"
        if more
        else ""
    )
    toggle = (
        '<p><label><input type="checkbox" id="below"> '
        f"Show also {counted(len(below), 'less likely pair')}; about {among:.0f} of them "
        f"{'is' if 0.5 <= among < 1.5 else 'are'} kin, but the faces do not tell which</label></p>"
        if below
        else ""
    )
    heads = "".join(
        f'<th scope="col"{first}><button type="button" data-sort="{key}">{text}</button></th>'
        for key, text, first in (
            ("who", "Who", ""),
            ("p", "Likely", ' aria-sort="descending"'),
            ("rate", "False", ""),
            ("photos", "Photos", ""),
        )
    )
    return f"""<section aria-labelledby="links-title">
<h2 id="links-title">The links as a table</h2>
<p><b>Likely</b>: of 100 pairs with this number, about so many are kin. <b>False</b>: of this pair
and all likelier ones, about so many in 100 are not kin. The list ends where that passes
{percent(album.fdr)}. <b>Photos</b>: how many show the one, and the other.</p>
{toggle}
<table>
<thead><tr>{heads}<th scope="col">Answer</th></tr></thead>
<tbody id="links" data-limit="25">
{chr(10).join(rows)}
</tbody>
</table>
{_more("links")}
{unlisted}
</section>"""


def _row(album: Album, names: Sequence[str], index: int) -> str:
    link = album.links[index]
    photos = [len(album.people[person].faces) for person in (link.left, link.right)]
    answer = {"kin": "yes", "not-kin": "no"}.get(link.answer, "?")
    who = "".join(
        f'<span class="person">{_face(album.people[person].faces[0])}'
        f'<bdi data-name="{person}">{in_xml(names[person])}</bdi></span>'
        for person in (link.left, link.right)
    )
    return (
        f'<tr{"" if link.is_shown else " class=below"} data-p="{link.probability:.6f}" '
        f'data-rate="{link.false_rate:.6f}" data-photos="{sum(photos)}">'
        f'<th scope="row">{who}</th><td>{_chance(link)}</td>'
        f"<td>{percent(link.false_rate)}</td><td>{photos[0]} + {photos[1]}</td>"
        f'<td><button type="button" class="jump" data-jump="{index}" disabled '
        f'data-about="{link.left} {link.right}">{answer}</button></td></tr>'
    )


def _cards(album: Album, names: Sequence[str], pictures: dict[int, str]) -> str:
    kin: dict[int, list[tuple[int, Link]]] = {}
    for link in album.shown:
        kin.setdefault(link.left, []).append((link.right, link))
        kin.setdefault(link.right, []).append((link.left, link))
    cards = "\n".join(
        _card(album, names, pictures, person, kin.get(person, []))
        for person in range(len(album.people))
    )
    return f"""<section aria-labelledby="people-title">
<h2 id="people-title">The people</h2>
<p>All faces of a card are taken for one person. Type a name where you know it. One name is one
person: two cards named Anna become one, so give two Annas their surnames.</p>
<ul id="people" data-limit="48">
{cards}
</ul>
{_more("people")}
</section>"""


def _card(
    album: Album,
    names: Sequence[str],
    pictures: dict[int, str],
    person: int,
    kin: list[tuple[int, Link]],
) -> str:
    faces = album.people[person].faces
    count = counted(len(faces), "photo")
    name = in_xml(names[person])
    links = ", ".join(
        f'<bdi data-name="{other}">{in_xml(names[other])}</bdi> ({_chance(link)})'
        for other, link in kin[:ON_A_CARD]
    )
    more = f" and {len(kin) - ON_A_CARD} more" if len(kin) > ON_A_CARD else ""
    shown = [faces[0], *(face for face in faces[1:ON_A_CARD] if face in pictures)]
    rest = len(faces) - len(shown)
    return (
        f'<li id="person-{person}" tabindex="-1"><div class="row">'
        f"{''.join(map(_face, shown))}{f'<span>+ {rest}</span>' if rest else ''}</div>"
        f'<label><span class="hidden">Name of person {person + 1}</span>'
        f'<input type="text" value="{name}" title="{name}" data-person="{person}" dir="auto" '
        f'autocomplete="off" spellcheck="false" disabled></label>'
        f"<p>{count}{f'; likely kin: {links}{more}' if links else ''}</p></li>"
    )


def _about(album: Album) -> str:
    lines = [
        f"Answered by {in_xml(album.source)}.",
        "The share of kin among the pairs of this album is estimated: "
        f"{_about_percent(album.kin_prior)}. All numbers hold for photographs like those that the "
        "model was calibrated on; on others they can be off.",
        *map(in_xml, album.left_out),
        "The same as tables, for other programs: people.csv and relate.csv, beside this page.",
    ]
    items = "\n".join(f'<li class="long">{line}</li>' for line in lines)
    return f"""<section aria-labelledby="about-title">
<h2 id="about-title">How this was made</h2>
<ul>
{items}
</ul>
</section>"""


# What the script is told


def _rows(album: Album) -> list[dict[str, str]]:
    """The answers of `confirmed.csv`, each with the key of the question that it answers."""
    face_of = {face.name: index for index, face in enumerate(album.faces)}
    sides = [(set(doubt.left), set(doubt.right)) for doubt in album.doubts]

    def key(answer: str, left: str, right: str) -> str:
        a, b = face_of.get(left), face_of.get(right)
        if a is None or (b is None and answer != "name"):
            return f"gone:{left}:{right}"
        if b is None:
            return f"name:{album.faces[a].person}"
        if answer in ("kin", "not-kin"):
            return _kin_key(album.faces[a].person, album.faces[b].person)
        for number, (one, other) in enumerate(sides):
            if (a in one and b in other) or (b in one and a in other):
                return f"same:{number}"
        return f"faces:{min(a, b)}:{max(a, b)}"

    return [
        {"key": key(row.answer, row.left, row.right), **vars(row)}
        for row in album.answers
    ] + [
        {"key": f"gone:{row.left}:{row.right}", **vars(row)}
        for row in album.aside
    ]  # fmt: skip


def _questions(album: Album, pictures: dict[int, str]) -> dict[str, Any]:
    """Questions, main ones first; the names of faces, for `confirmed.csv` and as shown."""
    links = list(enumerate(album.links))
    main = sorted((k for k in links if k[1].is_asked), key=lambda k: (k[1].probability, k[0]))
    questions = [_doubt(album, number, pictures) for number in range(len(album.doubts))]
    questions += [_link(album, *link, pictures) for link in main]
    count = len(questions)
    questions += [_link(album, *link, pictures) for link in links[:ROWS] if not link[1].is_asked]
    used = {face for question in questions for face in (*question["left"], *question["right"])}
    used |= {person.faces[0] for person in album.people}
    return {
        "main": count,
        "questions": questions,
        "faces": {str(face): _shown_face(album.faces[face]) for face in sorted(used)},
        "named": [person.is_named for person in album.people],
        "firsts": [person.faces[0] for person in album.people],
    }


def _shown_face(face: Face) -> tuple[str, str, int, str]:
    """How `confirmed.csv` names it, how the page does, whose it is taken for, and its mark."""
    return face.name, one_line(face.photo), face.person, face.mark


def _doubt(album: Album, number: int, pictures: dict[int, str]) -> dict[str, Any]:
    doubt = album.doubts[number]
    now = "They count as one person now" if doubt.is_merged else "They count as two people now"
    return {
        "key": f"same:{number}",
        "owners": [album.faces[side[0]].person for side in (doubt.left, doubt.right)],
        "left": _some(doubt.left, pictures),
        "right": _some(doubt.right, pictures),
        "note": f"{now}. By the faces: {percent(doubt.probability)} likely the same person.",
    }


def _link(album: Album, index: int, link: Link, pictures: dict[int, str]) -> dict[str, Any]:
    left, right = ([pair[side] for pair in link.faces] for side in (0, 1))
    firsts = [album.people[person].faces[0] for person in (link.left, link.right)]
    likely = "" if link.answer else f"By the faces: {percent(link.probability)} likely. "
    alike = rate(link.far)
    return {
        "key": _kin_key(link.left, link.right),
        "link": index,
        "people": [link.left, link.right],
        "left": _some((firsts[0], *left), pictures),
        "right": _some((firsts[1], *right), pictures),
        "note": f"{likely}{alike[0].upper()}{alike[1:]}.",
    }


def _some(faces: Sequence[int], pictures: dict[int, str]) -> list[int]:
    """The first faces, each once, those after the first only if the page has their pictures."""
    once = list(dict.fromkeys(faces))
    return [once[0], *(face for face in once[1:] if face in pictures)][:ON_A_SIDE]


def _kin_key(left: int, right: int) -> str:
    return f"kin:{min(left, right)}:{max(left, right)}"


# Pictures


def _pictures(album: Album) -> dict[int, str]:
    """JPEGs of faces in base64, by index, as many as the page has room for."""
    result: dict[int, str] = {}
    room, missing, example = PICTURES, 0, ""
    for face in dict.fromkeys(_wanted(album)):
        if room <= 0:
            break
        try:
            result[face] = thumbnail(album.faces[face].crop, SIDE, QUALITY)
        except DataError as error:
            missing, example = missing + 1, example or str(error)
            continue
        room -= len(result[face])
    if missing:
        log.warning("%d faces have no picture in relate.html, e.g. %s", missing, example)
    return result


def _wanted(album: Album) -> Iterator[int]:
    """Faces that the page shows, those it needs most first."""
    for person in album.people:
        yield person.faces[0]
    for doubt in album.doubts:
        yield from (*doubt.left[:ON_A_SIDE], *doubt.right[:ON_A_SIDE])
    for link in album.shown:
        yield from (face for pair in link.faces[:ON_A_SIDE] for face in pair)
    for place in range(1, ON_A_CARD):
        for person in album.people:
            yield from person.faces[place : place + 1]


def _sprite(pictures: dict[int, str]) -> str:
    """Each picture once, for all places that show it; who has none is a shape."""
    symbols = "\n".join(
        f'<symbol id="f{face}" viewBox="0 0 {SIDE} {SIDE}"><image width="{SIDE}" height="{SIDE}" '
        f'href="data:image/jpeg;base64,{picture}"/></symbol>'
        for face, picture in pictures.items()
    )
    return f"""<svg id="sprite" width="0" height="0" aria-hidden="true">
<clipPath id="round" clipPathUnits="objectBoundingBox"><circle cx=".5" cy=".5" r=".5"/></clipPath>
{symbols}
</svg>"""


def _face(face: int) -> str:
    return (
        f'<svg class="face" viewBox="0 0 {SIDE} {SIDE}" aria-hidden="true">'
        f'<use href="#f{face}"/></svg>'
    )


# Texts


def _chance(link: Link) -> str:
    said = {"kin": "con&shy;firmed", "not-kin": "re&shy;jected"}
    return said.get(link.answer) or percent(link.probability)


def _more(what: str) -> str:
    """The button that shows the rest of a list."""
    return f'<p><button type="button" id="{what}-more" hidden></button></p>'
