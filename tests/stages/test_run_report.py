"""The stage `report`: what stands on the page, and what it says of what is missing."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from kinembed.cli import run as command
from kinembed.config import EvaluateConfig, ReportConfig
from kinembed.errors import KinembedError, RunError
from kinembed.evaluate import evaluate
from kinembed.run_report import run_report

pytest.importorskip("vl_convert", reason="the extra report is not installed")

SECTIONS = (
    *("summary", "data", "training", "heads", "figures", "threshold", "relations", "pairs"),
    *("doubts", "provenance", "commands"),
)


class Page(HTMLParser):
    """Headings by section, texts, and whatever a browser would fetch."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.fetched: list[str] = []
        self.pictures = 0
        self.text = ""
        self._open: list[str] = []
        content = path.read_text(encoding="utf-8")
        self.feed(content)
        self.data = json.loads(
            re.search(r'id="page-data">(.*?)</script>', content, re.DOTALL)[1]  # type: ignore[index]
        )

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._open.append(tag)
        about = dict(attributes)
        if "id" in about:
            self.ids.append(str(about["id"]))
        self.pictures += tag == "img"
        for name in ("src", "href"):
            target = about.get(name) or "#"
            if not target.startswith(("#", "data:")):
                self.fetched.append(target)

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] not in ("script", "style"):
            self.text += data


def page_of(run: Path, data: Path, **settings: object) -> Page:
    return Page(run_report(ReportConfig(**settings), data, run))  # type: ignore[arg-type]


@pytest.fixture
def evaluated(answering: Path, faces: Path, tmp_path: Path) -> Path:
    run = Path(shutil.copytree(answering, tmp_path / "judged"))
    evaluate(EvaluateConfig(count=400), faces, run)
    return run


def test_the_page_holds_every_section_and_asks_nobody(evaluated: Path, faces: Path) -> None:
    page = page_of(evaluated, faces)
    assert set(SECTIONS) <= set(page.ids) and len(page.ids) == len(set(page.ids))
    assert not page.fetched and not page.pictures
    result = json.loads((evaluated / "evaluation.json").read_text())
    assert f"{result['auc']:.4f}" in page.text
    assert {"roc", "det", "scores", "reliability", "beside"} <= set(page.data["charts"])
    assert page.data["threshold"]["kin"] == result["kin"]
    assert "Nothing here yet: the data were not audited; run kinembed audit" in page.text
    assert "kinembed report --run" in page.text
    size = (evaluated / "report.html").stat().st_size
    assert size < 3_000_000


def test_faces_are_on_it_only_if_asked_for(evaluated: Path, faces: Path) -> None:
    assert page_of(evaluated, faces, photos=True).pictures > 8
    assert page_of(evaluated, evaluated, photos=True).pictures == 0


def test_an_empty_folder_says_what_to_run_in_each_section(tmp_path: Path) -> None:
    page = page_of(tmp_path, tmp_path)
    assert set(SECTIONS) <= set(page.ids)
    for what in ("embed", "head", "calibrate", "evaluate", "audit"):
        assert f"run kinembed {what}" in page.text
    assert page.data == {"charts": {}, "threshold": None}


def test_what_is_of_another_head_or_damaged_is_left_out_and_said(
    evaluated: Path, faces: Path
) -> None:
    path = evaluated / "evaluation.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps(result | {"head": "0" * 64}))
    assert "of another head; run kinembed evaluate again" in page_of(evaluated, faces).text
    for broken in ("{", "[]", json.dumps({**result, "curves": 5}), json.dumps({"head": 1})):
        path.write_text(broken)
        page = page_of(evaluated, faces)
        assert "is no evaluation of this version" in page.text and "roc" not in page.data["charts"]
    (evaluated / "heads.csv").write_text("a,b\n1,2\n")
    (evaluated / "audit.csv").write_text("a,b\n1,2\n")
    (evaluated / "embeddings.h5").write_bytes(b"nothing")
    page = page_of(evaluated, faces)
    assert "found other columns; run kinembed audit again" in page.text
    assert "not an embedding cache" in page.text


def test_texts_of_strangers_stay_texts(evaluated: Path, faces: Path) -> None:
    path = evaluated / "evaluation.json"
    bad = '</script><img src=x onerror="alert(1)">'
    result = json.loads(path.read_text())
    result["wrong"][0]["photos"] = [bad, bad]
    result["source"] = bad
    path.write_text(json.dumps(result))
    page = page_of(evaluated, faces)
    assert not page.pictures and bad in page.text
    other = evaluated.with_name(bad.replace("/", "-"))
    shutil.copytree(evaluated, other)
    page = page_of(evaluated, faces, against=(other,))
    assert not page.pictures and not page.fetched
    runs = page.data["charts"]["roc"]["layer"][1]["encoding"]["color"]["scale"]["domain"]
    assert runs == ["judged", other.name]


def test_what_cannot_be_reported_is_an_error(evaluated: Path, faces: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such folder; run kinembed embed"):
        page_of(tmp_path / "none", faces)
    with pytest.raises(KinembedError, match="no such file; run kinembed evaluate"):
        page_of(evaluated, faces, against=(tmp_path,))
    with pytest.raises(KinembedError, match="named twice"):
        page_of(evaluated, faces, against=(evaluated, evaluated))
    with pytest.raises(KinembedError, match=r"head\.h5"):
        page_of(evaluated, faces, out=evaluated / "head.h5")


def test_the_command_says_where_the_page_is(
    evaluated: Path, faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["report", "--run", str(evaluated), "--data", str(faces), "--json", "--quiet"]
    assert command(asked) == 0
    assert json.loads(capsys.readouterr().out) == {"path": str(evaluated / "report.html")}
