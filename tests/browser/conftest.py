"""An installed Chromium, driven by Playwright; tests that need it skip where there is none."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip

Opened = Callable[..., Any]


@pytest.fixture(scope="module")  # while it is open, nothing else can run an event loop
def chromium() -> Iterator[Any]:
    """The browser."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("Chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Any) -> Iterator[Opened]:
    """Opens a page file; fails if it logs an error, or asks for anything but itself."""
    contexts, faults = [], []

    def open_page(path: Path, width: int = 1400, **settings: Any) -> Any:
        viewport = {"width": width, "height": 800}
        context = chromium.new_context(viewport=viewport, **settings)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)  # of a busy machine
        page.on("console", lambda message: faults.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: asked(request.url, path))
        page.goto(path.as_uri())
        return page

    def asked(url: str, path: Path) -> None:
        if url.partition("#")[0] != path.as_uri() and not url.startswith(("data:image/", "blob:")):
            faults.append(f"asks for {url}")

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []
