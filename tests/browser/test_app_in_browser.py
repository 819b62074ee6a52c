"""The page of `kinembed app` in a browser: it compares, searches and relates, and asks nobody else."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from forked import Forked
from PIL import Image
from shoebox import paint_shoebox, paint_two

import kinembed

CHECKOUT = Path(kinembed.__file__).parents[1]
pytest.importorskip("uvicorn", reason="kinembed[serve] is not installed")


@dataclass
class App:
    """The running program."""

    url: str
    folder: Path  # of temporary files
    run: Path


@pytest.fixture(scope="module")
def app(
    answering: Path, faces: Path, tmp_path_factory: pytest.TempPathFactory, forked: Path
) -> Iterator[App]:
    import shutil

    folder = tmp_path_factory.mktemp("app")
    run = Path(shutil.copytree(answering, folder / "run"))
    (folder / "tmp").mkdir()
    words = ["app", "--no-browser", "--json", "--run", str(run), "--data", str(faces)]
    words += ["--device", "cpu"]
    with Forked(
        [forked, "-m", "kinembed", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "TMPDIR": str(folder / "tmp")},
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        printed = "".join(process.stdout.readline() for _ in range(3))
        assert printed, process.stderr.read()
        yield App(json.loads(printed)["url"], folder / "tmp", run)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143
        said = process.stderr.read()
    assert "Traceback" not in said
    assert list((folder / "tmp").glob("kinembed-app-*")) == []  # nothing is kept


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("photos")
    paint_two(folder / "mother.jpg", folder / "daughter.jpg")
    with Image.open(folder / "mother.jpg") as one, Image.open(folder / "daughter.jpg") as other:
        both = Image.new("RGB", (one.width + other.width, one.height))
        both.paste(one, (0, 0))
        both.paste(other, (one.width, 0))
        both.save(folder / "both.jpg", quality=92)
    (folder / "no photo.jpg").write_bytes(b"text")
    paint_shoebox(folder / "shoebox", 6, 2)
    return {path.stem: path for path in folder.iterdir()}


@dataclass
class Visit:
    """Opens the page; keeps what goes wrong on it."""

    browser: Any
    app: App
    faults: list[str] = field(default_factory=list)
    contexts: list[Any] = field(default_factory=list)

    def __call__(self, width: int = 1400, **settings: Any) -> Any:
        context = self.browser.new_context(viewport={"width": width, "height": 900}, **settings)
        self.contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: self.faults.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("request", lambda request: self.asked(request.url))
        page.goto(self.app.url)
        page.locator("#source", has_text="Answered by").wait_for()
        return page

    def asked(self, url: str) -> None:
        if not url.startswith((self.app.url, "blob:", "data:")):
            self.faults.append(f"asks for {url}")


@pytest.fixture
def visit(chromium: Any, app: App) -> Iterator[Visit]:
    opened = Visit(chromium, app)
    yield opened
    for context in opened.contexts:
        context.close()
    assert opened.faults == []


def compared(page: Any, photos: dict[str, Path], first: str, second: str) -> str:
    page.set_input_files("#a", photos[first])
    page.set_input_files("#b", photos[second])
    page.locator("#compare button[type=submit]").click()
    said = page.locator("#compare .answer .said")
    said.wait_for()
    return str(said.inner_text())


def test_two_photos_are_compared_in_words(visit: Visit, photos: dict[str, Path]) -> None:
    page = visit()
    said = compared(page, photos, "mother", "daughter")
    assert said.startswith(("Perhaps", "Likely", "Very likely")) and "unrelated pairs" in said
    assert re.search(r": (under )?\d+%; .*: (under )?\d+%; .*: (under )?\d+%; of", said)
    assert page.locator("#compare .box").count() == 2
    page.locator("#compare summary", has_text="Settings").click()
    page.fill("#compare-prior", "1")
    page.locator("#compare button[type=submit]").click()
    page.locator("#compare .notes li", has_text="assumes .01 kin").wait_for(state="attached")


def test_another_face_is_taken_by_pressing_it(visit: Visit, photos: dict[str, Path]) -> None:
    page = visit()
    compared(page, photos, "both", "daughter")
    boxes = page.locator("#a ~ .preview .box")
    assert boxes.count() == 2 and boxes.nth(0).get_attribute("aria-pressed") == "true"
    before = page.locator("#compare .said").inner_text()
    boxes.nth(1).focus()
    page.keyboard.press("Enter")
    page.locator("#a ~ .preview .box[aria-label^='Face 2 of 2, taken']").wait_for()
    assert page.locator("#compare .said").inner_text() != before


def test_it_is_used_by_keyboard(visit: Visit, photos: dict[str, Path]) -> None:
    page = visit()
    page.set_input_files("#photo", photos["mother"])
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        active = page.evaluate(
            "[document.activeElement.id || document.activeElement.textContent.trim(),"
            " getComputedStyle(document.activeElement).outlineStyle]"
        )
        if page.evaluate("document.activeElement === document.body"):
            break
        assert active[1] == "solid", active
        seen.append(active[0])
        if active[0] == "Search":
            page.keyboard.press("Space")
    wanted = ["Two photos", "a", "b", "Compare", "photo", "Search", "photos", "folder", "Relate"]
    assert [each for each in seen if each in wanted] == wanted
    page.locator("#search .said", has_text="Most likely kin").wait_for()
    assert page.locator("#search tbody tr").count() >= 10
    images = page.locator("#search .who img")
    assert images.count() == page.locator("#search .who").count()
    assert images.first.evaluate("image => image.naturalWidth") == 96


def test_what_is_wrong_is_said(visit: Visit, photos: dict[str, Path]) -> None:
    page = visit()
    page.locator("#compare button[type=submit]").click()
    page.locator("#compare .wrong", has_text="Choose a photo first: first photo").wait_for()
    assert page.evaluate("document.activeElement.id") == "a"
    page.set_input_files("#photo", photos["no photo"])
    page.locator("#search button[type=submit]").click()
    page.locator("#search .wrong", has_text="no photo.jpg: is no photo").wait_for()
    page.locator("#album form button[type=submit]").first.click()
    page.locator("#progress .wrong", has_text="Choose photos first").wait_for()
    page.evaluate("limit = 1000")
    page.set_input_files("#photo", photos["mother"])
    page.locator("#search button[type=submit]").click()
    page.locator("#search .wrong", has_text="Choose smaller photos").wait_for()
    # Chromium logs that the server refused the photo; nothing else.
    assert all("422" in fault for fault in visit.faults) and len(visit.faults) == 1
    visit.faults.clear()


def test_an_album_is_related_and_its_answers_count(
    visit: Visit, photos: dict[str, Path], app: App, tmp_path: Path
) -> None:
    page = visit()
    page.set_input_files("#photos", sorted(photos["shoebox"].iterdir()))
    assert page.locator("#chosen").inner_text() == "6 photos chosen."
    page.locator("#album form button[type=submit]").first.click()
    page.locator("#related .said").wait_for(timeout=120_000)
    assert "on 6 photographs" in page.locator("#related .said").inner_text()
    with page.context.expect_page() as opening:
        page.locator("#related a[target]").click()
    album = opening.value
    album.wait_for_load_state()
    visit_faults: list[str] = []
    album.on("console", lambda message: visit_faults.append(message.text))
    album.reload()
    assert "Relate again" in album.locator("#steps").inner_text()
    assert album.evaluate("window.origin") == "null"  # it may do nothing in this page's name
    (tmp_path / "confirmed.csv").write_text("answer,left,right\n")
    page.set_input_files("#confirmed", tmp_path / "confirmed.csv")
    page.locator("#again button").click()
    page.locator("#progress .wrong, #related .said").first.wait_for(timeout=120_000)
    assert list(app.folder.glob("kinembed-app-*/*/photos/album/*.jpg"))
    assert visit_faults == []


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1400, "dark")])
def test_it_fits_and_bars_nobody(
    visit: Visit, photos: dict[str, Path], width: int, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = visit(width, color_scheme=scheme, bypass_csp=True)  # for axe alone
    compared(page, photos, "both", "daughter")
    page.set_input_files("#photo", photos["mother"])
    page.locator("#search button[type=submit]").click()
    page.locator("#search .said").wait_for()
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=f"{folder}/app-{width}-{scheme}.png", full_page=True)
    found = axe.Axe().run(page).response["violations"]
    assert [(each["id"], [node["target"] for node in each["nodes"]][:3]) for each in found] == []


Asked = Callable[..., Any]


def test_a_page_of_another_site_gets_nothing(chromium: Any, app: App, tmp_path: Path) -> None:
    import http.server
    import threading

    tried = """<!doctype html><title>evil</title><form id="f" method="post" enctype="multipart/form-data"
      action="URLsearch"><input name="photo"></form><script>
      async function get(path, options) {
        try { return String((await fetch("URL" + path, options)).status); } catch { return "none"; }
      }
      async function all() {
        return [await get("about"), await get("albums", {method: "POST"}),
                await get("compare", {method: "POST", body: new FormData()}),
                (await get("about", {mode: "no-cors"}))];
      }</script>""".replace("URL", app.url)
    (tmp_path / "evil.html").write_text(tried)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    other = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0),
        lambda *a: Quiet(*a, directory=str(tmp_path)),  # type: ignore[arg-type]
    )
    threading.Thread(target=other.serve_forever, daemon=True).start()
    page = chromium.new_page()
    try:
        # Even a page that knows the token, on another port of this machine.
        page.goto(f"http://127.0.0.1:{other.server_port}/evil.html")
        assert page.evaluate("all()") == ["none", "none", "none", "none"]
        with page.expect_navigation() as going:
            page.evaluate("document.getElementById('f').submit()")
        assert going.value.status == 403
    finally:
        page.close()
        other.shutdown()
        other.server_close()
