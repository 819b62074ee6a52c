"""The page of an album: whole, closed to the network, and safe from the texts of strangers."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from albums import made_album

from kinembed.inference.album import Album, Confirmed
from kinembed.report import album_drawing as drawing_module
from kinembed.report import album_page as page_module
from kinembed.report.album_drawing import percent, short
from kinembed.report.album_page import write_album_page

AGAIN = "kinembed relate shoebox --run <b>"
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=https://evil.example/x onerror=alert(1)>',
    "'; alert(1) //</style>",
    "\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe",
    "שרה בת אברהם",
    "long " * 60,
    "=HYPERLINK(0)",
    "a&lt;b&amp;",
    "line\nend, \x1b[2J",
)
VOID = {"meta", "input", "br", "img", "link", "hr"}


class Parsed(HTMLParser):
    """Tags in order, with their attributes, and the texts of scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), f"{tag}: an attribute twice"
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in self.inside:
            self.inside[self.open[-1]].append(data)
        else:
            self.text += data


def page(album: Album, tmp_path: Path) -> str:
    return write_album_page(album, tmp_path / "relate.html", AGAIN).read_text(encoding="utf-8")


@pytest.mark.parametrize("people", [1, 2, 12, 60])
def test_it_is_well_formed_each_id_once_and_each_reference_found(
    tmp_path: Path, people: int
) -> None:
    html = page(made_album(tmp_path / "album", people), tmp_path)
    parsed = Parsed(html)
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) and ids.count("page-data") == 1
    for _, attributes in parsed.tags:
        for name in ("href", "aria-labelledby"):
            target = attributes.get(name) or ""
            if name == "aria-labelledby" or target.startswith("#"):
                assert not target or target.removeprefix("#") in ids, target
    cards = [attributes for _, attributes in parsed.tags if "data-person" in attributes]
    assert len(cards) == people


def test_texts_of_strangers_add_no_tag_and_no_attribute(tmp_path: Path) -> None:
    plain = made_album(tmp_path / "album", 12, names=[f"name{k}" for k in range(9)])
    hostile = made_album(tmp_path / "album", 12, names=HOSTILE)
    faces = [replace(face, photo=f"{HOSTILE[k % 9]}/{k}.jpg") for k, face in enumerate(plain.faces)]
    evil = "<script>alert(1)</script>"
    hostile = replace(
        hostile, faces=tuple(faces), source=evil, left_out=(evil,), folder=Path(evil) / '"><b>',
        answers=(Confirmed("name", faces[0].name, HOSTILE[0]),),
    )  # fmt: skip
    a, b = (Parsed(page(album, tmp_path)) for album in (plain, hostile))
    assert [(tag, list(of)) for tag, of in a.tags] == [(tag, list(of)) for tag, of in b.tags]
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in b.text and "\x1b" not in b.text
    assert r"\u202egpj.exe" in b.text and "שרה בת אברהם" in b.text
    assert a.inside["script"][1] == b.inside["script"][1]  # the script holds no text of theirs
    data = json.loads(b.inside["script"][0])
    assert "<" not in b.inside["script"][0]
    assert data["rows"][0]["left"] == faces[0].name and data["rows"][0]["right"] == HOSTILE[0]


def test_nothing_in_it_leads_out_and_its_policy_knows_its_script(tmp_path: Path) -> None:
    html = page(made_album(tmp_path / "album", 12), tmp_path)
    parsed = Parsed(html)
    for tag, attributes in parsed.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form"}
        for name, value in attributes.items():
            assert not name.startswith("on") and name not in {"style", "action", "srcset"}
            if name in {"src", "href", "xlink:href"}:
                assert (value or "").startswith(("#", "data:image/jpeg;base64,")), value
    (style,), (_, script) = parsed.inside["style"], parsed.inside["script"]
    assert "url(" not in style and "@import" not in style
    for word in ("fetch", "XMLHttp", "WebSocket", "sendBeacon", "innerHTML", "eval(", "import("):
        assert word not in script, word
    assert re.findall(r"https?://[^\"']+", html) == ["http://www.w3.org/2000/svg"]
    policy = next(of["content"] for _, of in parsed.tags if "http-equiv" in of)
    assert policy is not None and policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    for text in (style, script):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_too_many_to_draw_are_left_to_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    album = made_album(tmp_path / "album", 12)
    monkeypatch.setattr(drawing_module, "LARGEST", 3)
    html = page(album, tmp_path)
    assert "people are linked: too many to draw. See the table." in html
    assert html.count("<tr ") == len(album.links)


def test_each_face_is_in_it_once_and_few_are_if_there_is_little_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    album = made_album(tmp_path / "album", 30)
    html = page(album, tmp_path)
    symbols = re.findall(r'<symbol id="f(\d+)"', html)
    assert len(symbols) == len(set(symbols)) == len(album.faces)
    monkeypatch.setattr(page_module, "PICTURES", 5000)
    small = page(album, tmp_path)
    assert 1 < small.count("<symbol") < 30
    assert len(Parsed(small).tags) < len(Parsed(html).tags) and small.count("data-person=") == 30


def test_a_crop_that_cannot_be_read_is_said_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    album = made_album(tmp_path / "album", 3)
    album.faces[0].crop.write_bytes(b"no photo")
    album.faces[1].crop.unlink()
    html = page(album, tmp_path)
    assert html.count("<symbol") == len(album.faces) - 2
    assert "2 faces have no picture in relate.html, e.g. " in caplog.text


def test_the_same_album_gives_the_same_page(tmp_path: Path) -> None:
    album = made_album(tmp_path / "album", 25)
    assert page(album, tmp_path) == page(album, tmp_path)


def test_it_says_how_many_links_are_false(tmp_path: Path) -> None:
    album = made_album(tmp_path / "album", 2)
    assert "The chance that it is false is about 17\xa0%." in page(album, tmp_path)
    (link,) = album.links
    ten = replace(album, links=tuple(replace(link, probability=0.9) for _ in range(10)))
    said = "Of these 10, 1.0 are expected to be false: the faces do not tell which."
    assert said in Parsed(page(ten, tmp_path)).text
    four = replace(album, links=tuple(replace(link, probability=0.91) for _ in range(4)))
    assert "Of these 4, 0.4 are expected to be false" in Parsed(page(four, tmp_path)).text
    sure = (replace(link, probability=0.998),)
    assert "that it is false is under 1\xa0%." in page(replace(album, links=sure), tmp_path)
    given = (replace(link, probability=1.0, answer="kin"),)
    assert "Somebody confirmed it." in page(replace(album, links=given), tmp_path)
    html = page(replace(album, links=()), tmp_path)
    assert "No link can be shown" in html and "<table" not in html
    assert "of 1 pair none is likely kin" in html and "too many" not in html


def test_it_says_that_an_album_is_too_large(tmp_path: Path) -> None:
    crowd = made_album(tmp_path / "crowd", 120)
    links = tuple(replace(k, is_shown=False, probability=0.52) for k in crowd.links)
    html = page(replace(crowd, links=links), tmp_path)
    assert "the likeliest of 7,140 pairs is 52\xa0% likely kin. 120 people are too many" in html
    confirmed = replace(links[0], is_shown=True, answer="kin", probability=1.0)
    assert replace(crowd, links=(confirmed, *links[1:])).why_none
    assert crowd.why_none == ""


def test_answers_belong_to_the_question_they_answer(tmp_path: Path) -> None:
    album = made_album(tmp_path / "album", 12)
    link, doubt = album.links[3], album.doubts[0]
    left, right = (album.people[person].faces[-1] for person in (link.left, link.right))
    name = [face.name for face in album.faces]
    answers = (
        Confirmed("kin", name[right], name[left]),  # the other way round, of other faces
        Confirmed("different", name[doubt.right[-1]], name[doubt.left[0]]),
        Confirmed("name", name[left], "Oma"),
        Confirmed("same", "lost.jpg#1", name[0]),
    )
    html = page(replace(album, answers=answers), tmp_path)
    data = json.loads(Parsed(html).inside["script"][0])
    keys = {question["key"] for question in data["questions"]}
    rows = [row["key"] for row in data["rows"]]
    assert rows[:3] == [f"kin:{link.left}:{link.right}", "same:0", f"name:{link.left}"]
    assert set(rows[:2]) <= keys and rows[3] not in keys
    assert [tuple(row[k] for k in ("answer", "left", "right")) for row in data["rows"]] == [
        (row.answer, row.left, row.right) for row in answers
    ]


def test_answers_set_aside_are_of_no_question_and_keep_their_marks(tmp_path: Path) -> None:
    album = made_album(tmp_path / "album", 12)
    link = album.links[0]
    ends = [album.faces[album.people[each].faces[0]].name for each in (link.left, link.right)]
    aside = Confirmed("kin", *ends, f"{'a' * 12} 0 0 9 9", "")
    html = page(replace(album, aside=(aside,)), tmp_path)
    (row,) = json.loads(Parsed(html).inside["script"][0])["rows"]
    assert row == {"key": f"gone:{ends[0]}:{ends[1]}", **vars(aside)}


def test_it_asks_what_is_doubtful_first_and_the_unlikely_last(tmp_path: Path) -> None:
    album = made_album(tmp_path / "album", 12)
    links = list(album.links)
    unlikely = next(k for k, link in enumerate(links) if not link.is_shown)
    links[unlikely] = replace(links[unlikely], probability=0.55)  # not listed, and yet likely
    html = page(replace(album, links=tuple(links)), tmp_path)
    data = json.loads(Parsed(html).inside["script"][0])
    asked = [question.get("link") for question in data["questions"]]
    count = len(album.doubts)
    assert asked[:count] == [None] * count and asked[count] == unlikely
    main = [links[k].probability for k in asked[count : data["main"]]]
    assert main == sorted(main) and len(main) == len(album.shown) + 1
    assert all(not links[k].is_shown for k in asked[data["main"] :])
    assert len(asked) == count + len(links)
    assert data["main"] == replace(album, links=tuple(links)).questions  # as the command says


def test_percents_are_never_sure() -> None:
    assert [percent(p).replace("\xa0", " ") for p in (1, 0.9999, 0.83, 0.004, 0)] == [
        "over 99 %", "over 99 %", "83 %", "under 1 %", "under 1 %",
    ]  # fmt: skip


def test_names_below_faces_are_short() -> None:
    assert short("Anna") == "Anna"
    assert all(len(short(name)) <= 13 for name in HOSTILE) and short(HOSTILE[5]).endswith("…")
