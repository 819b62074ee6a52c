"""relate.html in a browser: it answers by keyboard, saves what relate reads, and fits."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from albums import made_album

from kinembed.inference.album import Album, Confirmed, Doubt
from kinembed.inference.confirmed import read_confirmed, resolve
from kinembed.report.album_page import write_album_page

AGAIN = "kinembed relate shoebox --run <b>"
Opened = Callable[..., Any]
FOCUS = """() => {
  const active = document.activeElement;
  const style = getComputedStyle(active);
  const ring = active.matches(".node") && getComputedStyle(active.querySelector(".ring"));
  return [active.id || active.getAttribute("class") || active.tagName,
          ring ? ring.strokeWidth : `${style.outlineStyle} ${style.outlineWidth}`];
}"""


@pytest.fixture
def album(tmp_path: Path) -> Album:
    return made_album(tmp_path / "shoebox", 12)


@pytest.fixture
def file(album: Album, tmp_path: Path) -> Path:
    return write_album_page(album, tmp_path / "relate.html", AGAIN)


def saved(page: Any, tmp_path: Path) -> list[Confirmed]:
    with page.expect_download() as download:
        page.keyboard.press("s")
    assert download.value.suggested_filename == "confirmed.csv"
    download.value.save_as(tmp_path / "confirmed.csv")
    return read_confirmed(tmp_path / "confirmed.csv")


def test_questions_are_answered_by_keyboard_and_saved(
    album: Album, file: Path, opened: Opened, tmp_path: Path
) -> None:
    page = opened(file)
    page.keyboard.press("y")  # no question is to be seen yet: goes there
    assert page.evaluate("document.activeElement.id") == "card"
    name = [face.name for face in album.faces]
    status = page.locator("#status")
    page.keyboard.press("n")
    assert status.inner_text().startswith("No: ") and "Question 2 of" in status.inner_text()
    page.keyboard.press("n")
    page.keyboard.press("u")
    assert status.inner_text().startswith("Undone. Question 2 of")
    page.keyboard.press("Y")
    for key in ("j", "ArrowLeft", "k"):
        page.keyboard.press(key)
    assert page.locator("#where").inner_text().startswith("Question 2 of")
    assert page.locator("#yes").get_attribute("aria-pressed") == "true"
    doubts = len(album.doubts)
    for _ in range(doubts - 1):
        page.keyboard.press("j")
    page.keyboard.press("y")  # the first link, the least certain one
    answers = saved(page, tmp_path)
    first, second = album.doubts[:2]
    link = min(album.shown, key=lambda link: link.probability)
    left, right = (album.people[person].faces[0] for person in (link.left, link.right))
    assert answers == [
        Confirmed("different", name[first.left[0]], name[first.right[0]]),
        Confirmed("same", name[second.left[0]], name[second.right[0]]),
        Confirmed("kin", name[left], name[right]),
    ]
    assert resolve(answers, name, [""] * len(name), tmp_path).used == answers
    assert "Saved as confirmed.csv" in status.inner_text()
    drawn = page.locator(f'[data-link="{album.links.index(link)}"]')
    assert "kin" in (drawn.get_attribute("class") or "").split()


def test_everything_is_reached_by_tab_and_used_by_space(file: Path, opened: Opened) -> None:
    page = opened(file)
    seen: list[str] = []
    while True:
        page.keyboard.press("Tab")
        active, mark = page.evaluate(FOCUS)
        if active == "BODY":
            break
        assert mark == ("5px" if active == "node" else "solid 3px"), active
        seen.append(active)
        if active == "yes":
            page.keyboard.press("Space")
            assert page.locator("#status").inner_text().startswith("Yes: ")
            assert page.evaluate("document.activeElement.id") == "yes"  # ready for the next one
    order = [seen.index(each) for each in ("yes", "no", "next", "keys", "jump")]
    assert order == sorted(order)


def test_names_are_typed_hostile_ones_too_and_letters_in_them_are_no_answers(
    album: Album, file: Path, opened: Opened, tmp_path: Path
) -> None:
    typed = {0: '=Yun, "Jy" <b>', 1: "שרה/y n u s", 2: "-5"}
    page = opened(file)
    for person, name in typed.items():
        field = page.locator(f'[data-person="{person}"]')
        field.fill("")
        field.press_sequentially(name)
        field.press("Tab")
        assert page.locator(f'[data-node="{person}"]').get_attribute("aria-label") == name
    refused = page.locator('[data-person="3"]')
    refused.fill("../..")
    refused.press("Tab")
    assert "is no name" in page.locator("#status").inner_text()
    assert refused.input_value() == album.people[3].name
    page.locator("#card").focus()
    assert saved(page, tmp_path) == [
        Confirmed("name", album.faces[album.people[person].faces[0]].name, name)
        for person, name in typed.items()
    ]


def test_photos_of_any_name_come_back_as_they_are_called(
    album: Album, opened: Opened, tmp_path: Path
) -> None:
    odd = ('a,b"c', "=cmd()", "'=x", "-5", "@ü‮", "a\nb", "</script>", "x'")
    faces = [replace(face, photo=odd[k % 8] + f"/{k}") for k, face in enumerate(album.faces)]
    doubts = tuple(Doubt((k,), (k + 8,), 0.5, False) for k in range(8))
    strange = replace(album, faces=tuple(faces), doubts=doubts)
    page = opened(write_album_page(strange, tmp_path / "relate.html", AGAIN))
    page.locator("#card").focus()
    for _ in doubts:
        page.keyboard.press("n")
    pairs = [(faces[k].name, faces[k + 8].name) for k in range(8)]
    assert saved(page, tmp_path) == [Confirmed("different", *pair) for pair in pairs]


def test_answers_given_are_shown_and_can_be_changed_or_taken_back(
    album: Album, opened: Opened, tmp_path: Path
) -> None:
    name = [face.name for face in album.faces]
    link = min(album.shown, key=lambda link: link.probability)
    left, right = (name[album.people[person].faces[-1]] for person in (link.left, link.right))
    rows = (
        Confirmed("not-kin", right, left),
        Confirmed("name", name[0], "Oma"),
        Confirmed("same", "lost.jpg#1", name[0]),
    )
    links = tuple(replace(k, answer="not-kin") if k == link else k for k in album.links)
    again = replace(album, answers=rows, links=links)
    page = opened(write_album_page(again, tmp_path / "relate.html", AGAIN))
    assert page.locator("#count").inner_text() == "3"
    row = page.locator(f'[data-jump="{album.links.index(link)}"]')
    assert row.inner_text() == "no"
    row.click()
    assert page.locator("#given").inner_text() == "Answered: no. You can change it."
    page.keyboard.press("y")
    page.locator("#given-all summary").click()
    page.get_by_role("button", name="Take back: the face lost.jpg#1").click()
    first = [name[album.people[person].faces[0]] for person in (link.left, link.right)]
    assert saved(page, tmp_path) == [Confirmed("kin", *first), rows[1]]


def test_answers_are_saved_with_what_ties_them_to_their_faces(
    album: Album, opened: Opened, tmp_path: Path
) -> None:
    faces = tuple(replace(face, mark=f"{k:012x} 10 10 90 90") for k, face in enumerate(album.faces))
    of = {face.name: face.mark for face in faces}
    first = faces[album.doubts[0].left[0]].name
    aside = Confirmed("different", first, "lost.jpg#1", f"{'f' * 12} 0 0 5 5", "")
    marked = replace(album, faces=faces, aside=(aside,))
    page = opened(write_album_page(marked, tmp_path / "relate.html", AGAIN))
    page.locator("#card").focus()
    page.keyboard.press("n")
    field = page.locator('[data-person="0"]')
    field.fill("Andr\N{COMBINING ACUTE ACCENT}e")
    field.press("Tab")
    page.locator("#card").focus()
    kept, given, named = saved(page, tmp_path)
    assert kept == aside and page.locator("#conflict").inner_text() == ""
    assert (given.left_mark, given.right_mark) == (of[given.left], of[given.right])
    assert (named.left_mark, named.right_mark) == (of[named.left], "")


def test_two_cards_of_one_name_are_said_to_be_one_person(file: Path, opened: Opened) -> None:
    page = opened(file)
    field = page.locator('[data-person="9"]')
    field.fill("Anna")
    field.press("Tab")
    assert "Another card has this name, too" in page.locator("#status").inner_text()
    assert page.locator(".twice:visible").count() == 2  # on both cards
    field.fill("Anna Kim")
    field.press("Tab")
    assert page.locator(".twice:visible").count() == 0


def test_a_wide_drawing_opens_where_people_are_and_says_that_it_scrolls(
    opened: Opened, tmp_path: Path
) -> None:
    crowd = made_album(tmp_path / "crowd", 30)
    links = tuple(replace(k, left=min(k.left, 3), is_shown=True) for k in crowd.links if k.left)
    file = write_album_page(replace(crowd, links=links), tmp_path / "relate.html", AGAIN)
    page = opened(file, 360)
    page.wait_for_selector(".drawing:has(.moves) .moves-hint:visible")
    most = page.locator('[data-node="3"] .ring').first.bounding_box()  # who has most links
    box = page.locator(".scrolled").first.bounding_box()
    assert box["x"] <= most["x"] and most["x"] + most["width"] <= box["x"] + box["width"]
    assert page.locator("kbd:visible").count() == 0  # a phone has no keys
    captions = page.evaluate(
        "[...document.querySelectorAll('figcaption')].map(c => c.scrollHeight - c.clientHeight)"
    )
    assert captions and max(captions) <= 1  # file names are whole
    wide = opened(file, 3000)
    assert wide.locator(".moves-hint:visible").count() == 0


def test_contradictions_are_said(album: Album, file: Path, opened: Opened) -> None:
    page = opened(file)
    conflict = page.locator("#conflict")
    first = album.doubts[0]  # between the people 0 and 1, whose names differ
    assert {album.faces[side[0]].person for side in (first.left, first.right)} == {0, 1}
    page.locator("#card").focus()
    page.keyboard.press("y")
    assert "Anna and Ben are two names of one person" in conflict.inner_text()
    page.keyboard.press("u")
    assert conflict.inner_text() == ""


def test_answers_outlast_the_page_where_the_browser_keeps_them(file: Path, opened: Opened) -> None:
    page = opened(file)
    page.locator("#card").focus()
    page.keyboard.press("n")
    page.reload()
    assert page.locator("#count").inner_text() == "1"
    assert "kept your answers" in page.locator("#status").inner_text()


def test_it_works_where_the_browser_keeps_nothing(
    album: Album, opened: Opened, tmp_path: Path, file: Path
) -> None:
    page = opened(file)
    page.add_init_script("Object.defineProperty(window, 'localStorage', {get() {throw Error()}})")
    page.reload()
    page.locator("#card").focus()
    page.keyboard.press("n")
    assert len(saved(page, tmp_path)) == 1


def test_keys_can_be_switched_off(file: Path, opened: Opened) -> None:
    page = opened(file)
    page.locator("#keys").uncheck()
    page.keyboard.press("y")
    page.locator("#card").focus()
    page.keyboard.press("y")
    assert page.locator("#count").inner_text() == "0"


def test_the_table_is_sorted_and_shows_the_rest_when_asked(
    album: Album, file: Path, opened: Opened
) -> None:
    page = opened(file)
    rows = page.locator("#links tr:visible")
    assert rows.count() == len(album.shown) < len(album.links)
    page.locator("#below").check()
    assert rows.count() == len(album.links)
    page.get_by_role("button", name="Likely", exact=True).click()
    values = [float(row.get_attribute("data-p")) for row in rows.all()]
    assert values == sorted(values)
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    page.get_by_role("button", name="Who", exact=True).click()
    people = [row.locator("th bdi").first.inner_text() for row in rows.all()]
    numbered = [int(name.split()[1]) for name in people if name.startswith("Person ")]
    assert numbered == sorted(numbered) and max(numbered) > 9  # Person 10 comes after Person 9


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1400, "dark")])
def test_it_fits_and_bars_nobody(opened: Opened, tmp_path: Path, width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    names = ["long" * 75, "many words " * 30, "\N{RIGHT-TO-LEFT OVERRIDE}x", "שרה", "<b>"]
    crowd = made_album(tmp_path / ("folder" * 30), 30, names=names)
    faces = tuple(
        replace(face, photo="p" * 200 + f"/{k}.jpg") for k, face in enumerate(crowd.faces)
    )
    file = write_album_page(replace(crowd, faces=faces), tmp_path / "relate.html", AGAIN)
    page = opened(file, width, color_scheme=scheme, bypass_csp=True)  # for axe alone
    page.locator("#yes").click()
    page.locator("#below").check()
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= width
    found = axe.Axe().run(page).response["violations"]
    assert [(each["id"], [node["target"] for node in each["nodes"]][:3]) for each in found] == []


def test_long_lists_begin_short_and_a_face_in_the_drawing_leads_to_its_person(
    opened: Opened, tmp_path: Path
) -> None:
    crowd = made_album(tmp_path / "crowd", 70)
    page = opened(write_album_page(crowd, tmp_path / "relate.html", AGAIN))
    people = page.locator("#people li:visible")
    assert people.count() == 48
    page.locator("#families-more").click()
    last = max(max(link.left, link.right) for link in crowd.shown)
    page.locator(f'[data-node="{last}"]').click()
    assert people.count() == 70 and page.url.endswith(f"#person-{last}")
    assert page.locator(f"#person-{last}").bounding_box()["y"] < 800
    assert page.locator("#families-more").is_hidden()
    page.locator("#links-more").click()
    assert page.locator("#links tr:visible").count() == len(crowd.shown) > 25


def test_without_its_script_it_still_shows_everything(
    album: Album, file: Path, opened: Opened
) -> None:
    page = opened(file, java_script_enabled=False)
    assert page.locator("#people li:visible").count() == len(album.people)
    assert page.locator("#links tr:visible").count() == len(album.shown)
    assert page.locator("noscript").count() == 1 and not page.locator("#bar").is_visible()
