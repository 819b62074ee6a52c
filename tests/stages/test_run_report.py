"""The stage `report`: what stands on the page, and what it says of what is missing."""

import copy
import json
import random
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinembed.auditing.finding import TITLES
from kinembed.auditing.record import AuditRecord
from kinembed.cache import EmbeddingCache
from kinembed.cli import run as command
from kinembed.config import ReportConfig
from kinembed.errors import KinembedError, RunError
from kinembed.evaluation.head_log import COLUMNS
from kinembed.heads.file import load_head
from kinembed.report.evaluation_file import read_evaluation
from kinembed.report.run_facts import FINDING, RunFacts
from kinembed.report.run_page import run_page
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
def evaluated(judged: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(judged, tmp_path / "judged"))


def test_the_page_holds_every_section_and_asks_nobody(evaluated: Path, faces: Path) -> None:
    page = page_of(evaluated, faces)
    assert set(SECTIONS) <= set(page.ids) and len(page.ids) == len(set(page.ids))
    assert not page.fetched and not page.pictures
    result = json.loads((evaluated / "evaluation.json").read_text())
    assert f"{result['auc']:.4f}" in page.text
    assert {"roc", "det", "scores", "reliability", "beside"} <= set(page.data["charts"])
    assert page.data["threshold"]["kin"] == result["kin"]
    assert "Nothing here yet: the data were not audited; run kinembed audit --run" in page.text
    assert "kinembed report --run" in page.text
    size = (evaluated / "report.html").stat().st_size
    assert size < 3_000_000


def test_faces_are_on_it_only_if_asked_for(evaluated: Path, faces: Path) -> None:
    assert page_of(evaluated, faces, photos=True).pictures > 8
    assert page_of(evaluated, evaluated, photos=True).pictures == 0


def test_faces_beside_the_data_folder_stay_out(
    evaluated: Path, faces: Path, tmp_path: Path
) -> None:
    private = shutil.copy(next((faces / "train").rglob("*.jpg")), tmp_path / "private.jpg")
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(private, data / "shown.jpg")
    path = evaluated / "evaluation.json"
    result = json.loads(path.read_text())
    result["right"] = []
    for names, pictures in (
        ([str(private), "../private.jpg"], 0),
        (["shown.jpg", "a/../shown.jpg"], 1),
    ):
        result["wrong"] = [{**result["wrong"][0], "photos": names}]
        path.write_text(json.dumps(result))
        assert page_of(evaluated, data, photos=True).pictures == pictures


@pytest.mark.parametrize("name", ["empty", "a run's folder"])
def test_an_empty_folder_says_what_to_run_in_each_section(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "kinembed")
    run, data = tmp_path / name, tmp_path / "the data"
    run.mkdir()
    page = page_of(run, data)
    assert set(SECTIONS) <= set(page.ids)
    places = shlex.join(["--run", str(run), "--data", str(data)])
    for what in ("embed", "head", "calibrate", "evaluate", "audit"):
        assert f"run kinembed {what} {places}" in page.text
    for text in (page.text, caplog.text):  # whatever is advised is for this run
        commands = re.findall(
            r"kinembed (?:finetune|embed|head|calibrate|evaluate|audit)\b.*", text
        )
        assert len(commands) > 6 and all(places in each for each in commands)
        assert text.count("--run") == text.count(places)
    assert page.data == {"charts": {}, "threshold": None}


def test_another_run_without_figures_is_a_note_and_figures_stand_side_by_side(
    evaluated: Path, faces: Path, tmp_path: Path
) -> None:
    other, bare = tmp_path / "other run", tmp_path / "bare"
    shutil.copytree(evaluated, other)
    bare.mkdir()
    path = other / "evaluation.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps(result | {"auc": 0.5625, "auc_by_families": None}))
    page = page_of(evaluated, faces, against=(other, bare))
    assert f"bare has no figures: {bare / 'evaluation.json'}: no such file" in page.text
    assert f"run kinembed evaluate --run {bare} --data {faces}" in page.text
    table = (evaluated / "report.html").read_text().partition('aria-label="Table: Figures"')[2]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in table.split("<tr>")[1:]]
    assert rows[0] == ["figure", "judged", "other run"]
    (auc,) = (row for row in rows if row[0] == "ROC AUC")
    assert auc[1].startswith(f"{result['auc']:.4f} (") and auc[2] == "0.5625"
    assert f"ROC curves of judged (AUC {result['auc']:.4f}) and other run (AUC 0.5625)" in page.text
    assert "other run" not in page_of(evaluated, faces).text


def test_what_is_of_another_head_or_damaged_is_left_out_and_said(
    evaluated: Path, faces: Path
) -> None:
    path = evaluated / "evaluation.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps(result | {"head": "0" * 64}))
    assert "of another head; run kinembed evaluate --run" in page_of(evaluated, faces).text
    for broken in ("{", "[]", json.dumps({**result, "curves": 5}), json.dumps({"head": 1})):
        path.write_text(broken)
        page = page_of(evaluated, faces)
        assert "is no evaluation of this version" in page.text and "roc" not in page.data["charts"]
    (evaluated / "heads.csv").write_text("a,b\n1,2\n")
    (evaluated / "audit.csv").write_text("a,b\n1,2\n")
    (evaluated / "embeddings.h5").write_bytes(b"nothing")
    page = page_of(evaluated, faces)
    assert "found other columns; run kinembed audit --run" in page.text
    assert "not an embedding cache" in page.text


HISTORY = "member,epoch,train_loss,val_auc,seconds\n0,1,0.5,0.7,1\n0,2,0.4,,2\n1,1,0.6,0.8,1\n"
HEAD_ROW = (
    "2026-01-01T00:00:00+00:00,metric,embed_dim=8,avg,0,5,100,{auc},0.5,0.7,nobody,1.0,abcdefabcdef"
)
HEADS = ",".join(COLUMNS) + "\n" + HEAD_ROW.format(auc="0.61") + "\n"
AUDIT = ",".join(FINDING) + "\nperson,{surety},F1/MID1,,,,nothing supports it,look\n"


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("history-head.csv", HISTORY, [HISTORY.replace("0.4", "x"), HISTORY.replace("0.4", "nan"),
                                       HISTORY.replace("0.4", "1e999"), "epoch\n", "a,b\n1,2\n",
                                       HISTORY.replace("0,2,", "0,,"), "\x00", '"'],),
        ("heads.csv", HEADS, [HEADS.replace("0.61", "x"), HEADS.replace("0.61", "inf"),
                              HEADS.replace("0.61", ""), "a,b\n1,2\n"],),
        ("audit.csv", AUDIT.format(surety=0.8), [AUDIT.format(surety="x"), AUDIT.format(surety="-1"),
                                                 AUDIT.format(surety=7), AUDIT.format(surety="nan"),
                                                 AUDIT.format(surety=0.8).replace("person,0", "ear,0")]),
    ],
)  # fmt: skip
def test_tables_by_hand_are_shown_or_said_to_be_none(
    evaluated: Path, faces: Path, name: str, good: str, bad: list[str]
) -> None:
    section, shown = {
        "history-head.csv": ("Training", "at the end 0.4 to 0.6 in training"),
        "heads.csv": ("Heads trained here", "0.61 (0.5 to 0.7)"),
        "audit.csv": ("What is doubtful in the data", TITLES["person"]),
    }[name]
    if name == "audit.csv":
        with EmbeddingCache.open(evaluated / "embeddings.h5") as cache:
            record = AuditRecord(cache.digest, load_head(evaluated / "head.h5").digest)
        replace(record, cache="0" * 64).write(evaluated)
        (evaluated / name).write_text(good)
        assert "is of another cache; run kinembed audit --run" in page_of(evaluated, faces).text
        replace(record, head="0" * 64).write(evaluated)
        assert "is of another head; run kinembed audit --run" in page_of(evaluated, faces).text
        replace(record, not_judged={"copy": "not asked for"}).write(evaluated)
        assert "Not judged: copy (not asked for)." in page_of(evaluated, faces).text
    (evaluated / name).write_text(good)
    assert shown in page_of(evaluated, faces).text
    for content in bad:
        (evaluated / name).write_text(content)
        text = page_of(evaluated, faces).text
        assert section in text and shown not in text and "Nothing here yet: " in text, content
        assert f"{name}" in text or "make it again" in text, content


def test_relations_that_are_elsewhere_are_asked_for(evaluated: Path) -> None:
    assert page_of(evaluated, evaluated).text.count("with --data") == 2  # in two sections


def test_any_value_of_an_evaluation_is_checked(evaluated: Path, faces: Path) -> None:
    """Each number and list spoilt in turn: the page says so, whatever else the run has."""
    path = evaluated / "evaluation.json"
    result = json.loads(path.read_text())
    shown = ("source", "kin", "pairs", "auc", "average_precision", "eer", "tar_at_far", "decision",
             "relations", "wrong", "right", "curves", "same_photograph", "skipped_trained",
             "epoch_chosen_by", "bootstrap")  # fmt: skip
    for key in shown:
        for bad in (None, "x", -1, [[]], {"a": "b"}):
            if (key, bad) in (("decision", None), ("source", "x"), ("epoch_chosen_by", "x"),
                              ("bootstrap", "x")):  # fmt: skip
                continue
            path.write_text(json.dumps(result | {key: bad}))
            with pytest.raises(KinembedError, match="is no evaluation of this version"):
                read_evaluation(evaluated)
    for inside, key in (("curves", "roc"), ("curves", "scores"), ("decision", "reliability"),
                        ("decision", "threshold"), ("decision", "ece")):  # fmt: skip
        path.write_text(json.dumps(result | {inside: result[inside] | {key: "x"}}))
        with pytest.raises(KinembedError, match=key):
            read_evaluation(evaluated)
    rising = result["curves"] | {"roc": {"far": [0, 1], "tar": [0, 1], "threshold": [0.1, 0.2]}}
    path.write_text(json.dumps(result | {"curves": rising}))
    assert "wanted falling numbers" in page_of(evaluated, faces).text
    path.write_text(json.dumps(result))
    assert read_evaluation(evaluated) == result


def test_a_spoilt_evaluation_is_refused_or_shown(judged: Path, tmp_path: Path) -> None:
    """Values anywhere in it, replaced or left out: never another error."""
    result = json.loads((judged / "evaluation.json").read_text())
    interval = {"low": 0.6, "high": 0.8}
    result["relations"] = {"fs": {"pairs": 9, "against": "all", "auc": 0.7, "interval": interval}}
    result["folds"] = {"fs": {"accuracy": 0.6, "folds": [0.6, 0.7], "interval": interval}}
    places = [place for place in _places(result) if place]
    rng = random.Random(0)
    shown = refused = 0
    for _ in range(400):
        found = copy.deepcopy(result)
        *above, last = rng.choice(places)
        inside = found
        for key in above:
            inside = inside[key]
        value = rng.choice([None, "x", -1, 0, 0.5, 2, 1e308, [], {}, True, [0], {"a": 1}, ...])
        if value is ...:
            inside.pop(last)
        else:
            inside[last] = value
        (tmp_path / "evaluation.json").write_text(json.dumps(found))
        try:
            facts = RunFacts(tmp_path, tmp_path, evaluation=read_evaluation(tmp_path))
        except KinembedError:
            refused += 1
        else:
            shown += "ROC AUC" in run_page(facts, {}, {}, photos=False, asked=[])
    assert shown > 20 and refused > 100 and shown + refused == 400


def _places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield above
    inside = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, each in inside:
        yield from _places(each, (*above, key))


def test_relations_and_folds_have_a_row_each_with_counts_and_intervals(
    evaluated: Path, faces: Path
) -> None:
    path = evaluated / "evaluation.json"
    result = json.loads(path.read_text())
    interval = {"low": 0.6125, "high": 0.8375}
    result["relations"] = {
        "fs": {"pairs": 1234, "against": "its own", "auc": 0.7125, "interval": interval},
        "<b>": {"pairs": 5, "against": "all"},
    }
    result["folds"] = {"fs": {"accuracy": 0.6543, "folds": [0.6, 0.7], "interval": None}}
    path.write_text(json.dumps(result))
    page = page_of(evaluated, faces)
    for text in (
        "father-son",
        "1,234",
        "0.7125",
        "0.6125 to 0.8375",
        "<b>",
        "0.6543",
        "0.600 0.700",
    ):
        assert text in page.text
    assert page.data["charts"]["by-relation"]["data"]["values"][0]["low"] == 0.6125


def test_a_fine_tuned_run_shows_its_curves_and_the_commands_that_made_it(
    tuned: Path, faces: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(tuned, tmp_path / "tuned run"))
    page = page_of(run, faces)
    for key in ("loss", "auc", "accuracy"):
        spec = page.data["charts"][f"curve-{key}"]
        assert {row["of"] for row in spec["data"]["values"]} == {"training", "validation"}
        assert len(spec["data"]["values"]) == 2 * 2
    places = f"--run '{run}' --data {faces}"
    assert (
        "kinembed finetune --backbone mtcnn-onet --recipe dense --epochs 2 --steps 3 --val-steps 2 "
        "--batch-size 8 --split families --keep best --device cpu --precision fp32 "
        f"--framing loose --seed 3 {places}"
    ) in page.text
    line = next(line for line in page.text.splitlines() if line.startswith("kinembed embed "))
    assert (
        line
        == f"kinembed embed --framing loose --views avg,max --no-flip --precision fp32 {places}"
    )
    assert not any(line.startswith("kinembed calibrate") for line in page.text.splitlines())


def test_imported_vectors_have_their_command(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.eye(8, dtype=np.float32))
    names = [f"train/F{k}/MID1/P{k}.jpg" for k in range(8)]
    (tmp_path / "n.txt").write_text("\n".join(names) + "\n")
    files = [str(tmp_path / name) for name in ("v.npy", "n.txt")]
    run = tmp_path / "run"
    asked = ["cache", "import", *files, "--backbone-name", "theirs", "--run", str(run), "--quiet"]
    assert command(asked) == 0
    text = page_of(run, tmp_path).text
    assert "kinembed cache import v.npy NAMES.txt --backbone-name theirs --run" in text
    assert "the file of names" in text


def test_the_commands_are_those_that_were_typed(judged: Path, faces: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(judged, tmp_path / "again"))
    typed = ["head", "--recipe", "metric", "--set", "embed_dim=8", "--view", "avg", "--folds", "2",
             "--seed", "4", "--epochs", "1", "--steps", "3"]  # fmt: skip
    places = ["--run", str(run), "--data", str(faces)]
    assert command([*typed, *places, "--quiet"]) == 0
    assert command(["calibrate", "--target", "youden", "--pairs", "800", *places, "--quiet"]) == 0
    text = page_of(run, faces).text
    line = next(line for line in text.splitlines() if line.startswith("kinembed head "))
    told = line.split()
    assert told[told.index("--seed") + 1] == "4" and told[told.index("--folds") + 1] == "2"
    settings = {told[n + 1] for n, word in enumerate(told) if word == "--set"}
    assert settings == {"embed_dim=8", "epochs=1", "steps=3"}
    assert f"kinembed calibrate --target youden --run {run}" in text
    assert "how many pairs kinembed calibrate drew" in text
    assert "it is of another head; run kinembed evaluate --run" in text


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
