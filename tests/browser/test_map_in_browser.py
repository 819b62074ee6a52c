"""map.html in a browser: it is searched, chosen and moved by mouse and keyboard, and fits."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kinembed.report.map_page import MapFacts, map_page

Opened = Callable[..., Any]
LONG = "F3/" + "long name " * 12


def facts(photos: Path | None = None, **changes: Any) -> MapFacts:
    """Four families of three people with four photos each, and a photo of nobody."""
    people = [
        f"F{f}/{LONG[3:] if f == 3 and p == 2 else f'P{p}'}" for f in range(4) for p in range(3)
    ]
    owner = np.repeat(np.arange(12), 4)
    rng = np.random.default_rng(0)
    places = rng.uniform(-5, 5, (12, 2))[owner] + rng.normal(0, 0.15, (48, 2))
    about = {
        "names": (*(f"train/{people[o]}/{n}.jpg" for n, o in enumerate(owner)), "test/x.jpg"),
        "people": (*(people[o] for o in owner), ""),
        "points": np.concatenate([places, [[0.0, 0.0]]]),
        "kin": tuple((f"F{f}/P0", f"F{f}/P1", "fs") for f in range(4)),
        "how": "a test",
        "what": "by hand",
        "beware": "",
        "of_all": 60,
        "same_person": 0.5,
        "same_family": None,
        "photos": photos,
        "again": "kinembed map --run x",
    }
    return MapFacts(**{**about, **changes})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "train" / "F0" / "P0"
    folder.mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (60, 60), "orange").save(folder / f"{number}.jpg")
    page, thumbnails = map_page(facts(tmp_path / "data"))
    assert thumbnails == 4
    (tmp_path / "map.html").write_text(page, encoding="utf-8")
    return tmp_path / "map.html"


def drawn(page: Any) -> str:
    """The picture on the canvas, once it is painted."""
    page.evaluate(
        "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )
    return str(page.evaluate("document.getElementById('map').toDataURL()"))


def test_a_family_is_found_by_name_and_its_kin_are_listed(file: Path, opened: Opened) -> None:
    page = opened(file)
    before = drawn(page)
    page.fill("#find", "F2")
    page.keyboard.press("Enter")
    assert page.inner_text("#chosen-title") == "Family F2"
    assert "3 people, 12 photos" in page.inner_text("#status")
    rows = page.locator("#chosen tbody tr")
    assert rows.count() == 3 and "P1 (father-son)" in rows.nth(0).inner_text()
    chosen = drawn(page)
    assert chosen != before
    page.get_by_role("button", name="P1", exact=True).click()
    assert page.inner_text("#chosen-title") == "F2/P1"
    assert "1 listed relative, whom lines join" in page.inner_text("#status")
    page.get_by_role("button", name="Zoom to them").click()
    assert drawn(page) != chosen
    page.get_by_role("button", name="Whole family F2").click()
    page.click("#whole")
    assert drawn(page) == chosen
    page.click("#clear")
    assert drawn(page) == before and page.locator("#chosen").is_hidden()
    page.fill("#find", "nobody of that name")
    page.keyboard.press("Enter")
    assert "No person or family here is called nobody" in page.inner_text("#status")
    assert page.locator("#chosen").is_hidden()


def test_keys_go_from_photo_to_photo_and_choose(file: Path, opened: Opened) -> None:
    page = opened(file)
    page.focus("#map")
    seen = set()
    for key in ("ArrowLeft", "ArrowUp", "ArrowRight", "ArrowDown") * 2:
        page.keyboard.press(key)
        assert page.locator("#tip").is_visible()
        seen.add(page.inner_text("#status"))
    assert len(seen) >= 3
    page.keyboard.press("ArrowLeft")
    person = re.match(r"(F\d)/", page.inner_text("#status"))
    while person is None:  # the photo of nobody
        page.keyboard.press("ArrowLeft")
        person = re.match(r"(F\d)/", page.inner_text("#status"))
    page.keyboard.press("Enter")
    assert page.inner_text("#chosen-title") == f"Family {person[1]}"
    near = drawn(page)
    page.keyboard.press("+")
    assert drawn(page) != near
    page.keyboard.press("0")
    assert drawn(page) == near
    page.keyboard.press("Escape")
    assert page.locator("#chosen").is_hidden() and page.locator("#tip").is_hidden()


SWEEP = """() => {
  const canvas = document.getElementById("map"), box = canvas.getBoundingClientRect(), found = new Map();
  for (let y = 5; y < box.height; y += 9) for (let x = 5; x < box.width; x += 9) {
    canvas.dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + x, clientY: box.top + y }));
    const tip = document.getElementById("tip");
    if (!tip.hidden) found.set(tip.innerText, [tip.querySelectorAll("img").length, x, y]);
  }
  return [...found];
}"""


def test_the_pointer_shows_names_and_thumbnails_chooses_and_drags(
    file: Path, opened: Opened
) -> None:
    page = opened(file)
    found = dict(page.evaluate(SWEEP))
    assert len(found) > 30  # of 49, some of which lie on each other
    for text, (pictures, _, _) in found.items():
        assert re.match(r"F\d/.*\ntrain/F\d/|nobody known\ntest/x.jpg", text)
        assert pictures == text.startswith("F0/P0\n")
    box = page.locator("#map").bounding_box()
    person = next(text for text in found if text.startswith("F1/"))
    page.select_option("#colour", "person")
    page.mouse.click(box["x"] + found[person][1], box["y"] + found[person][2])
    assert page.inner_text("#chosen-title") == person.split("\n")[0]
    page.get_by_role("button", name="Zoom to them").click()
    box, before = page.locator("#map").bounding_box(), drawn(page)
    page.mouse.move(box["x"] + 300, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 340, box["y"] + 230, steps=3)
    page.mouse.up()
    assert drawn(page) != before and page.inner_text("#chosen-title") == person.split("\n")[0]


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1400, "dark")])
def test_it_fits_and_bars_nobody(file: Path, opened: Opened, width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = opened(file, width, color_scheme=scheme, bypass_csp=True)  # for axe alone
    page.fill("#find", LONG[:12])
    page.keyboard.press("Enter")
    page.locator("summary").click()
    page.focus("#map")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = axe.Axe().run(page).response["violations"]
    assert [(each["id"], [node["target"] for node in each["nodes"]][:3]) for each in found] == []


def test_without_its_script_the_table_has_everybody(file: Path, opened: Opened) -> None:
    page = opened(file, java_script_enabled=False)
    page.locator("summary").click()
    assert page.locator("tbody tr").count() == 13  # twelve people, and nobody


def test_one_photo_is_a_map_too(tmp_path: Path, opened: Opened) -> None:
    one = facts(names=("a.jpg",), people=("",), points=np.zeros((1, 2)), kin=())
    (tmp_path / "one.html").write_text(map_page(one)[0], encoding="utf-8")
    page = opened(tmp_path / "one.html")
    assert page.input_value("#colour") == "none"
    page.focus("#map")
    page.keyboard.press("+")
    page.keyboard.press("ArrowUp")
    assert page.locator("#tip").is_hidden()  # there is no photo above the only one
