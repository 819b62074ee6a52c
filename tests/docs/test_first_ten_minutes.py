"""A newcomer's first ten minutes: what the page says, typed one after the other, and its answers.

The package is installed as the page says, but for what it depends on, which is here already. A block
of `text` below a block of `bash` is what the commands print: numbers may differ, `…` stands for
anything, and on a line of its own for any lines.
"""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from forked import forking
from shoebox import paint_shoebox, paint_two

import kinembed

ROOT = Path(kinembed.__file__).parents[1]
PAGE = ROOT / "docs" / "first-ten-minutes.md"
if not PAGE.is_file():
    pytest.skip("not run from a checkout", allow_module_level=True)

STEP = re.compile(r"```bash\n(?P<commands>.*?)```\n(?:\n```text\n(?P<answer>.*?)```)?", re.DOTALL)
NUMBER = re.compile(r"\.?\d[\d.,]*")


def steps() -> list[tuple[str, str]]:
    """The commands of the page, each with the answer that it shows; the first ones install."""
    text = PAGE.read_text(encoding="utf-8")
    return [(match["commands"], match["answer"] or "") for match in STEP.finditer(text)]


def pattern(answer: str) -> re.Pattern[str]:
    """What an answer of the page allows."""
    lines = []
    for line in answer.splitlines():
        if line.strip() == "…":
            lines.append(r"(?:.*\n)*?")
            continue
        parts = [
            r"\.?\d[\d.,]*".join(map(re.escape, NUMBER.split(part))) for part in line.split("…")
        ]
        lines.append(".*".join(parts) + r"\n")
    return re.compile("".join(lines))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory, forked: Path) -> Path:
    """A folder with the program, of a copy of the package that pip installed."""
    if find_spec("pip") is None or find_spec("setuptools") is None:
        pytest.skip("needs pip and setuptools")
    source, target, folder = (tmp_path_factory.mktemp(name) for name in ("source", "site", "bin"))
    wanted = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "kinembed", source / "kinembed", ignore=wanted)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
               "--no-build-isolation", "--target", str(target), str(source)]  # fmt: skip
    done = subprocess.run(install, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    forking(folder, python=forked, installed=target)
    return folder / "kinembed"


def answered(commands: str, folder: Path, program: Path) -> str:
    """What commands print, standard error among it; none may fail."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder,
        env={**os.environ, "PATH": os.pathsep.join([str(program), os.environ["PATH"]])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout}"
    return done.stdout


def test_a_newcomers_first_ten_minutes(program: Path, tmp_path: Path) -> None:
    paint_two(tmp_path / "mother.jpg", tmp_path / "daughter.jpg")
    paint_shoebox(tmp_path / "shoebox")
    (install, _), *rest = steps()
    assert "pip install" in install and "[sface]" in install
    for commands, answer in rest:
        found = answered(commands, tmp_path, program)
        assert pattern(answer).fullmatch(found), f"{commands}\n{found}\nwanted\n{answer}"


def test_a_page_is_compared_with_what_is_printed() -> None:
    allows = pattern("likely kin: .71\n…\nfound … of 1,770 pairs\n")
    assert allows.fullmatch("likely kin: .68\nfound 3 links of 45 pairs\n")
    assert allows.fullmatch("likely kin: 0.9\nmore\nand more\nfound 3 of 45 pairs\n")
    for other in (
        "unlikely kin: .71\nfound 3 of 45 pairs\n",
        "likely kin: .71\nfound 3 of 45 pairs\nand more\n",
        "likely kin: \nfound 3 of 45 pairs\n",
    ):
        assert not allows.fullmatch(other), other


@pytest.mark.shared
def test_photographs_of_real_people_are_told_apart(
    shared: Callable[[str], Path], program: Path, tmp_path: Path
) -> None:
    """The same commands on photos of four families, of which the packaged head saw some."""
    folder = tmp_path / "shoebox"
    folder.mkdir()
    families = sorted(path for path in (shared("rfiw") / "train").iterdir() if path.is_dir())[:4]
    people = [person for family in families for person in sorted(family.iterdir())[:3]]
    photos = [photo for person in people for photo in sorted(person.glob("*.jpg"))[:3]]
    for number, photo in enumerate(photos):
        shutil.copy(photo, folder / f"{number:04}.jpg")
    owners = [photo.parent for photo in photos]
    first = next(row for row in range(1, len(photos)) if owners[row] == owners[row - 1])
    other = next(row for row in range(len(photos)) if owners[row].parent != owners[0].parent)

    def asked(one: int, two: int) -> dict[str, float]:
        words = f"kinembed compare shoebox/{one:04}.jpg shoebox/{two:04}.jpg --json --quiet"
        found: dict[str, float] = json.loads(answered(words, tmp_path, program))
        return found

    assert asked(first - 1, first)["same_person"] > 0.5
    assert asked(0, other)["same_person"] < 0.5
    answered("kinembed relate shoebox --run runs/shoebox --quiet", tmp_path, program)
    with (tmp_path / "runs" / "shoebox" / "people.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    count = len({row["person"] for row in rows})
    assert len({*owners}) / 2 < count < 2 * len({*owners})
