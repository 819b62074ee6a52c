"""report.html in a browser: its charts, its threshold, and how it fits phones, paper and everybody."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kinembed.auditing.record import AuditRecord
from kinembed.cache import EmbeddingCache
from kinembed.config import ReportConfig
from kinembed.evaluation.head_log import COLUMNS
from kinembed.heads.file import load_head
from kinembed.report.run_facts import FINDING
from kinembed.run_report import run_report

pytest.importorskip("vl_convert", reason="the extra report is not installed")

Opened = Callable[..., Any]
DRAWN = "() => [...document.querySelectorAll('.chart')].every((each) => each.querySelector('svg'))"
INK = """() => Object.fromEntries(["#chart-roc text", ".chart .mark-rect path", "body", "h1"].map(
  (name) => [name, getComputedStyle(document.querySelector(name))]).map(
  ([name, style]) => [name, name === "body" ? style.backgroundColor : style[
    name.endsWith("text") || name.endsWith("path") ? "fill" : "color"]]))"""
CUT_OFF = """() => [...document.querySelectorAll("main *, header *")].filter((each) => {
  const box = each.getBoundingClientRect();
  return box.width && getComputedStyle(each).visibility !== "hidden" && !each.closest("svg *")
    && (box.right > innerWidth + 1 || box.left < -1);
}).map((each) => `${each.tagName} ${each.className} ${each.textContent.slice(0, 40)}`)"""


@pytest.fixture(scope="module")
def reported(
    judged: Path, faces: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A page with everything, long and hostile names too, and the evaluation that it shows."""
    run = Path(shutil.copytree(judged, tmp_path_factory.mktemp("browser") / ("long" * 30)))
    result = json.loads((run / "evaluation.json").read_text())
    result["relations"] = {
        name: {"pairs": 50, "auc": 0.7, "interval": {"low": 0.6, "high": 0.8}, "against": "all"}
        for name in ("fs", "md", "<b>" + "wide" * 30)
    }
    result["wrong"][0]["photos"] = ["p" * 200, "<img src=x>"]
    (run / "evaluation.json").write_text(json.dumps(result))
    rows = [
        f"{member},{epoch},{1 / epoch},0.{60 + epoch},1" for member in (0, 1) for epoch in (1, 2)
    ]
    history = "\n".join(["member,epoch,train_loss,val_auc,seconds", *rows]) + "\n"
    (run / "history-head.csv").write_text(history)
    head = "2026-01-01,metric,embed_dim=8,avg,0,5,100,0.61,0.5,0.7,nobody,1.0,abcdefabcdef"
    (run / "heads.csv").write_text(",".join(COLUMNS) + f"\n{head}\n")
    finding = f"photo,0.8,F1/{'M' * 90},,{'x/' * 60}.jpg,,unlike the others,look"
    (run / "audit.csv").write_text(",".join(FINDING) + f"\n{finding}\n")
    with EmbeddingCache.open(run / "embeddings.h5") as cache:
        AuditRecord(cache.digest, load_head(run / "head.h5").digest).write(run)
    other = Path(shutil.copytree(judged, run.with_name("the other run")))
    against = ReportConfig(photos=True, against=(other,))
    return run_report(against, faces, run), result


@pytest.fixture(scope="module")
def bare(judged: Path, faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run without a calibration, relations, training and audit."""
    run = Path(shutil.copytree(judged, tmp_path_factory.mktemp("browser") / "bare"))
    (run / "calibration.json").unlink()
    result = json.loads((run / "evaluation.json").read_text())
    del result["decision"]
    (run / "evaluation.json").write_text(json.dumps(result))
    return run_report(ReportConfig(), run, run)


def opened_page(opened: Opened, path: Path, width: int = 1400, **settings: Any) -> Any:
    page = opened(path, width, **settings)
    page.wait_for_function(DRAWN)
    return page


def test_the_slider_changes_the_matrix_by_keyboard(
    reported: tuple[Path, dict[str, Any]], opened: Opened
) -> None:
    path, result = reported
    page = opened_page(opened, path)
    kin, others = result["kin"], result["pairs"] - result["kin"]

    def matrix() -> list[int]:
        return [int(page.locator(f"#{key}").inner_text().replace(",", "")) for key in
                ("tp", "fn", "fp", "tn")]  # fmt: skip

    at = float(page.locator("#at").inner_text().replace("\N{MINUS SIGN}", "-"))
    assert abs(at - result["decision"]["threshold"]) < 0.1
    before = matrix()
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "slider":
            break
    for _ in range(40):
        page.keyboard.press("ArrowRight")
    after = matrix()
    assert after != before and sum(after[:2]) == kin and sum(after[2:]) == others
    slider = page.locator("#slider")
    point = int(slider.input_value())
    roc = result["curves"]["roc"]
    first = roc["threshold"].index(next(each for each in roc["threshold"] if each is not None))
    far, tar = roc["far"][first + point], roc["tar"][first + point]
    assert after == [round(tar * kin), kin - round(tar * kin), round(far * others),
                     others - round(far * others)]  # fmt: skip
    words = page.locator("#words").inner_text()
    assert f"False accept rate {100 * far:.1f} %" in words or f"{100 * far:.2f} %" in words
    assert slider.get_attribute("aria-valuetext").startswith("score ")
    page.keyboard.press("Home")
    assert "of unrelated pairs" in page.locator("#words").inner_text() and matrix()[2] <= after[2]
    page.keyboard.press("End")
    assert matrix() == [kin, 0, others, 0]


def test_charts_say_what_they_show_under_the_pointer_and_as_tables(
    reported: tuple[Path, dict[str, Any]], opened: Opened
) -> None:
    page = opened_page(opened, reported[0], color_scheme="dark")
    page.locator("#chart-reliability .mark-symbol path").first.hover()
    tip = page.locator("#vg-tooltip-element")
    assert re.search(r"predicted probability\s*0?\.\d", tip.inner_text())
    ink, ground = tip.evaluate(
        "(e) => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]"
    )
    assert (ink, ground) == ("rgb(232, 234, 237)", "rgb(30, 35, 41)")
    figures = page.locator("figure")
    assert figures.count() == page.locator("[role=img][aria-label] > .chart").count() >= 9
    for figure in figures.all():
        figure.locator("summary").click()
        assert figure.locator("tbody tr").count() > 0


def test_it_follows_the_scheme_and_prints_in_colours_for_paper(
    reported: tuple[Path, dict[str, Any]], opened: Opened
) -> None:
    page = opened_page(opened, reported[0], width=718)  # A4 less its margins
    light = page.evaluate(INK)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(INK)
    assert all(light[name] != dark[name] for name in light)
    page.emulate_media(color_scheme="dark", media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    paper = page.evaluate(INK)
    assert paper["body"] == "rgb(255, 255, 255)" and paper["#chart-roc text"] == "rgb(0, 0, 0)"
    assert paper[".chart .mark-rect path"] == light[".chart .mark-rect path"]
    assert page.evaluate(CUT_OFF) == []
    assert page.locator("#pairs tbody tr").first.is_visible()
    assert page.locator("nav").is_hidden() and page.locator("figure details").first.is_hidden()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("#pairs tbody tr").first.is_hidden()


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1400, "dark")])
@pytest.mark.parametrize("which", ["reported", "bare"])
def test_it_fits_and_bars_nobody(
    opened: Opened, request: pytest.FixtureRequest, which: str, width: int, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found = request.getfixturevalue(which)
    path = found if isinstance(found, Path) else found[0]
    page = opened_page(opened, path, width, color_scheme=scheme, bypass_csp=True)  # for axe alone
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    violations = axe.Axe().run(page).response["violations"]
    assert [
        (each["id"], [node["target"] for node in each["nodes"]][:3]) for each in violations
    ] == []


def test_what_is_missing_is_said_and_the_rest_is_drawn(bare: Path, opened: Opened) -> None:
    page = opened_page(opened, bare)
    for section, command in (("figures", "calibrate"), ("training", "head"), ("doubts", "audit")):
        said = page.locator(f"#{section} .absent").first.inner_text()
        assert f"run kinembed {command}" in said
    assert (
        page.locator("#chart-roc svg").is_visible()
        and page.locator("#chart-reliability").count() == 0
    )
    assert page.locator("#words").inner_text().startswith("False accept rate")


def test_without_its_script_it_says_so_and_shows_its_numbers(bare: Path, opened: Opened) -> None:
    page = opened(bare, java_script_enabled=False)
    assert page.locator("noscript p").is_visible()
    assert int(page.locator("#tp").inner_text().replace(",", "")) > 0
    page.locator("#figures figure summary").first.click()
    assert page.locator("#figures figure tbody tr").first.is_visible()
