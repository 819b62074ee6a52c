"""Texts of strangers' files: nothing that is printed or drawn holds them as they are."""

import csv
import logging
import os
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image
from strangers import resealed

from kinembed.cli import run as kin
from kinembed.cli.progress import listen
from kinembed.errors import KinembedError
from kinembed.evaluation.calibration import Calibration, Scale
from kinembed.evaluation.kept_calibrations import keep_calibration
from kinembed.heads.file import load_head
from kinembed.printable import in_markdown, in_xml, lines, one_line
from kinembed.report.architecture import Drawing
from kinembed.report.charts import Chart
from kinembed.report.plots import write_plot
from kinembed.report.strips import draw_strips
from kinembed.report.tables import markdown_table

# Clears the screen, forges a line, colours what follows (in one byte of C1), turns letters around;
# is a tag, a formula and a picture.
EVIL = "=cmd|\x1b[2J\nError: forged\r\x9b31m\u202e\u2066<script>x![](u)\x07"
NAME = "=cmd\u202e<script>x![](u)"  # what readers of names let through
CELL = f'"{EVIL}"'  # in a CSV
SHOWN, SHOWN_NAME = "=cmd|\\x1b[2J\\nError: forged", "=cmd\\u202e"


def bad_letters(text: str) -> set[str]:
    """Control characters, marks of direction and the like; line ends are none."""
    return {
        letter
        for letter in set(text) - {"\n"}
        if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    }


# The escapes


@given(st.text(st.characters(exclude_categories=())))
def test_no_text_goes_through_as_it_is(text: str) -> None:
    assert one_line(text).isprintable() and not bad_letters(one_line(text))
    assert lines(text).count("\n") == text.count("\n") and not bad_letters(lines(text))
    shown = in_markdown(text)
    assert "\n" not in shown and not {"<", "`"} & set(shown.replace("\\`", ""))
    assert ElementTree.fromstring(f'<a b="{in_xml(text)}">{in_xml(text)}</a>').text in (
        one_line(text) or None,
    )
    assert str(KinembedError(text)) == one_line(text)


def test_a_text_that_can_be_seen_stays_as_it_is() -> None:
    for text in ("train/F0001/MID1/P00001_face0.jpg", "C:\\a b", "Zoë, 世界", ""):
        assert one_line(text) == lines(text) == text


def test_an_escape_is_that_of_python() -> None:
    assert one_line(EVIL) == repr(EVIL)[1:-1]


# What commands print


@pytest.fixture(scope="module")
def evil_run(made_once: Callable[..., Path], tuned: Path, faces: Path) -> Path:
    """A run folder and a data folder of a stranger, who says the worst wherever text may stand."""

    def make(folder: Path) -> None:
        run, data = folder / "run", folder / "data"
        shutil.copytree(tuned, run)
        shutil.copytree(faces, data)
        scale = Scale(0.0, EVIL, "none", ((), ()), 0.5, 0.5)
        keep_calibration(run, Calibration(load_head(run / "head.h5").digest, (), "", scale))
        (run / "calibration.json").unlink()  # that one is kept is enough

        def cache(arrays: dict, about: dict) -> None:
            about["device"] = about["imported"] = EVIL
            about["imported"] = {EVIL: EVIL}
            about["versions"] = {EVIL: EVIL}
            about["command"]["backbone"] = EVIL

        def head(arrays: dict, about: dict) -> None:
            about["record"].update(recipe=EVIL, settings=EVIL)

        resealed(run / "embeddings.h5", "provenance", cache)
        for path in (run / "head.h5", *(run / "heads").iterdir()):
            resealed(path, "head", head)
        relations = data / "train_relationships.csv"
        with relations.open("a", encoding="utf-8", newline="") as file:
            file.write(f"F0001/{NAME},F0001/MID1\n")
        shutil.copytree(data, folder / "more")
        with (folder / "more" / relations.name).open("a", encoding="utf-8", newline="") as file:
            file.write(f"{CELL},F0001/MID1\n")
        (data / "pairs.csv").write_text(f"p1,p2\n{CELL},test/{NAME}\n", encoding="utf-8")
        rows = list(csv.reader((data / "test_labels.csv").open(encoding="utf-8")))[1:]
        with (data / "labels.csv").open("w", encoding="utf-8", newline="") as file:
            file.write("p1,p2,ptype,label\n")
            writer = csv.writer(file)
            for pair, label in rows:
                writer.writerow([*pair.split("-"), EVIL, label])
        (data / "test" / f"{NAME}\x1b[2J\nx.jpg").write_bytes(b"no photo")
        (data / f"{NAME}\x1b[2J\n.safetensors").write_bytes(b"no weights")
        (data / f"{NAME}\x1b[2J\n.onnx").write_bytes(b"no network")
        (folder / f"{NAME}\x1b[2J\n").mkdir()

    return made_once("evil", make)


IN_MARKDOWN = in_markdown(EVIL)
COMMANDS = {  # arguments, exit code, what is printed
    "provenance": ("cache info", 0, SHOWN),
    "provenance, unharmed": ("cache verify", 0, "sound"),
    "run folder": ("cache verify --run EVIL", 1, SHOWN_NAME),
    "view": ("cache export --view EVIL", 1, SHOWN_NAME),
    "record of a head": ("head --list", 0, IN_MARKDOWN),
    "people": ("head --data DATA --kind l1-dense --epochs 1 --steps 1", 0, SHOWN_NAME),
    "relations": ("head --data MORE", 1, SHOWN),
    "name of a head": ("head --use=EVIL", 1, SHOWN_NAME),
    "target": ("calibrate --list", 0, SHOWN),
    "relations of labels": ("evaluate --data DATA --pairs DATA/labels.csv", 0, SHOWN),
    "pairs": ("score --data DATA --pairs DATA/pairs.csv", 1, SHOWN),
    "photos": (
        "embed --data DATA --backbone mtcnn-onet --weights none --skip-unreadable --device cpu",
        0,
        SHOWN_NAME,
    ),
    "network": ("embed --data DATA --onnx=DATA/EVIL.onnx --photos test", 1, SHOWN_NAME),
    "weights": ("weights verify DATA/EVIL.safetensors --backbone mtcnn-onet", 1, SHOWN_NAME),
    "target of weights": (
        "weights convert DATA/EVIL.safetensors EVIL --backbone mtcnn-onet",
        1,
        SHOWN_NAME,
    ),
    "setting": ("finetune --data DATA --set EVIL", 1, SHOWN_NAME),
    "recipe": ("finetune --data DATA --recipe EVIL", 1, SHOWN_NAME),
    "command": ("EVIL", 2, SHOWN_NAME),
}


@pytest.mark.parametrize("source", COMMANDS)
def test_commands_print_what_files_say_escaped(
    source: str, evil_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(evil_run, tmp_path / "evil"))
    words, code, shown = COMMANDS[source]
    arguments = [
        word.replace("DATA", str(folder / "data"))
        .replace("MORE", str(folder / "more"))
        .replace("EVIL", f"{NAME}\x1b[2J\n")
        for word in words.split()
    ]
    if arguments[0] in ("cache", "head", "calibrate", "evaluate", "score", "embed"):
        arguments += ["--run", str(folder / "run")] if "--run" not in arguments else []
    found = kin(arguments)
    output = capfd.readouterr()
    text = output.out + output.err
    assert found == code, text
    assert not bad_letters(text)
    assert "\nError: forged" not in text
    assert shown in text
    for path in (folder / "run").rglob("*"):
        if path.suffix in (".svg", ".md", ".html"):
            drawn = path.read_text(encoding="utf-8")
            assert not bad_letters(drawn) and "<script" not in drawn


def test_drawings_and_tables_hold_no_text_as_it_is(tmp_path: Path) -> None:
    chart = Chart(EVIL, EVIL, EVIL, [(0.0, EVIL), (1.0, EVIL)], [(0.0, EVIL), (1.0, EVIL)])
    chart.line([0, 1], [0, 1], "black", name=EVIL)
    drawing = Drawing()
    drawing.row((100, EVIL, EVIL), kind="trunk", width=100)
    drawing.note(EVIL)
    for text in (chart.svg(), drawing.svg()):
        assert not bad_letters(text)
        tags = {part.tag.rpartition("}")[2] for part in ElementTree.fromstring(text).iter()}
        assert "script" not in tags and "text" in tags
    table = markdown_table([["name"], [EVIL]], 1)
    assert not bad_letters(table) and table.count("\n") == 3
    assert "<script" not in table and "![" not in table
    assert table.replace("\\|", "").count("|") == 6


@pytest.mark.filterwarnings("ignore:Glyph")
def test_pictures_are_drawn_whatever_they_say(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / NAME)
    pair = {"photos": [NAME, NAME], "kin": True, "probability": 0.5, "relation": EVIL * 300}
    assert draw_strips([pair], tmp_path, tmp_path / "errors.png").exists()

    def draw(figure: Figure) -> None:
        figure.subplots().set_title(f"{EVIL} $\\x$")  # no formula of matplotlib's

    assert write_plot(draw, (1, 1), tmp_path / "plot.png") is not None


def test_log_lines_are_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    listen(quiet=False, verbose=True)
    log = logging.getLogger("kinembed.embed")
    log.info("left out: %s", EVIL)
    try:
        raise ValueError(EVIL)
    except ValueError:
        log.debug("%s", EVIL, exc_info=True)
    shown = capsys.readouterr().err
    assert not bad_letters(shown)
    assert shown.splitlines()[0] == f"left out: {one_line(EVIL)}"
    assert "Traceback" in shown


@pytest.mark.parametrize("what", ["raise ValueError(evil)", "warnings.warn(evil)"])
def test_bugs_and_warnings_are_escaped(what: str) -> None:
    code = f"import warnings; from kinembed.cli import _escape; _escape(); evil = {EVIL!r}; {what}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "=cmd" in done.stderr and not bad_letters(done.stderr)


def test_a_name_that_the_terminal_has_no_letters_for_is_printed(run: Path) -> None:
    run = run.rename(run.with_name("世界"))
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(
        [sys.executable, "-m", "kinembed", "cache", "verify", "--run", run],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 0 and "\\u4e16\\u754c" in done.stdout and not done.stderr
