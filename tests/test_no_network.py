"""Nothing of a face leaves the machine: no command but a download asks the network.

The commands run in a process of their own whose audit hook (PEP 578) refuses every connection,
every look-up of an address and every program that is not this Python. C code that opens sockets of
its own would not be seen; kinembed and its dependencies ask the network through Python alone.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from shoebox import paint_shoebox, paint_two

import kinembed

CHECKOUT = Path(kinembed.__file__).parents[1]
GUARD = """
import json, sys
out, steps = sys.argv[1], json.loads(sys.argv[2])
asked = []
NETWORK = {"socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname",
           "socket.gethostbyaddr", "socket.getnameinfo", "socket.sendto", "socket.sendmsg",
           "urllib.Request", "http.client.connect", "ftplib.connect", "smtplib.connect"}
def guard(event, arguments):
    other = event == "subprocess.Popen" and arguments[0] != sys.executable
    other = other or event in ("os.system", "os.exec", "os.posix_spawn", "os.spawn")
    if event in NETWORK or other:
        asked.append(f"{event} {arguments}")
        raise OSError("this machine has no network")
sys.addaudithook(guard)
from kinembed.cli import run
with open(out, "w") as answers:
    for words in steps:
        code = run(words)
        answers.write(json.dumps({"words": words, "code": code, "asked": asked[:]}) + "\\n")
        asked.clear()
"""
ELSEWHERE = re.compile(r"""(?:src|href|action|url|import|fetch)\W{1,3}(?:https?:)?//[^\s"'<>)]+""")


class Answer(NamedTuple):
    words: list[str]
    code: int
    asked: list[str]


def guarded(folder: Path, *steps: list[str], **environment: str) -> list[Answer]:
    """Runs commands, one after the other, in a process that has no network."""
    out = folder / "answers"
    done = subprocess.run(
        [sys.executable, "-c", GUARD, str(out), json.dumps(steps)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), **environment},
    )
    lines = out.read_text().splitlines() if out.exists() else []
    assert len(lines) == len(steps), done.stderr
    answers = [Answer(**json.loads(line)) for line in lines]
    for answer in answers:
        assert answer.code == 0 or answer.asked, f"{answer.words}\n{done.stderr}"
    return answers


def steps(run: Path, faces: Path) -> dict[str, list[str]]:
    """A call of each command that works with faces, by the command's name."""
    at = ["--run", str(run), "--data", str(faces), "--quiet"]
    asked = ["--run", "asked", "--data", str(faces), "--quiet"]  # the packaged head answers
    pairs = ["--pairs", str(faces / "sample_submission.csv")]
    wanted = {
        "align": ["shoebox", "crops"],
        "embed": ["--device", "cpu", "--framing", "loose"],
        "score": pairs,
        "audit": [],
        "doctor": [],
        "map": ["--method", "pca"],
    }
    return {name: [name, *words, *at] for name, words in wanted.items()} | {
        "embed by SFace": ["embed", "--backbone", "sface", "--framing", "loose", *asked],
        "compare": ["compare", "mother.jpg", "daughter.jpg", *asked],
        "relate": ["relate", "shoebox", "--run", "album", "--quiet"],
        "search": ["search", "mother.jpg", *asked],
    }


@pytest.fixture(scope="module")
def answers(
    tuned: Path, faces: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Answer], Path]:
    """What each command answers without a network, and the folder it worked in."""
    folder = tmp_path_factory.mktemp("offline")
    run = shutil.copytree(tuned, folder / "run")
    paint_shoebox(folder / "shoebox", 4, families=2)
    paint_two(folder / "mother.jpg", folder / "daughter.jpg")
    called = steps(run, faces)
    found = guarded(folder, *called.values())
    return dict(zip(called, found, strict=True)), folder


def test_no_command_asks_the_network(answers: tuple[dict[str, Answer], Path]) -> None:
    found, _ = answers
    asked = {name: answer.asked for name, answer in found.items() if answer.asked}
    assert not asked
    assert all(answer.code == 0 for answer in found.values())


def test_no_page_names_a_place_elsewhere(answers: tuple[dict[str, Answer], Path]) -> None:
    _, folder = answers
    pages = [path for kind in ("html", "svg") for path in folder.rglob(f"*.{kind}")]
    for page in pages:
        assert not ELSEWHERE.findall(page.read_text(encoding="utf-8")), page
    assert any(page.suffix == ".html" for page in pages)


DOWNLOAD = """
from kinembed.backbones import BACKBONES
from kinembed.backbones.published_weights import find_weights
backbone = BACKBONES["mobilefacenet"]
find_weights(backbone, backbone.sources["ms-celeb-1m"])
"""


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'', ('127.0.0.1', 9))",
        "import os; os.system('true')",
        "import subprocess; subprocess.run(['true'])",
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')",
        DOWNLOAD,
    ],
)
def test_the_guard_refuses(tmp_path: Path, code: str) -> None:
    guard = GUARD.partition("from kinembed.cli")[0]
    text = f"{guard}\ntry:\n    exec({code!r})\nexcept Exception:\n    print(asked[0])"
    done = subprocess.run(
        [sys.executable, "-c", text, "", "[]"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "KINEMBED_CACHE": str(tmp_path)},
    )
    assert re.match(r"(socket|urllib|os|subprocess)\.\w+ \(", done.stdout), done.stderr


def test_the_scan_of_pages_sees_places_elsewhere() -> None:
    for text in (
        '<script src="https://example.org/a.js">',
        "<link href='//fonts.example.org/f.css'>",
        "background: url(http://example.org/a.png)",
        "fetch('https://example.org')",
        '@import "//example.org"',
    ):
        assert ELSEWHERE.search(text), text
    assert not ELSEWHERE.search('<svg xmlns="http://www.w3.org/2000/svg">')
    assert not ELSEWHERE.search('<a href="#people"><img src="data:image/png;base64,AA//AA">')
