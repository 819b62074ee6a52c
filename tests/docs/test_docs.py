"""README and docs: every block of commands runs, or says why not; nothing is left out.

Blocks are fenced as `bash`, `python` or `text`. Those of a page run in order in one folder: `bash`
by bash, `python` in one namespace. A block that cannot run has `<!-- not run: REASON -->` above it.
The folder holds a small synthetic dataset in `data`, random weights in `mobilefacenet.pt`, and what
the quick start leaves in `runs/default`, and vectors of those weights in `runs/dlib`, but for the pages that make it themselves.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

import kinembed
from kinembed.cli import cli
from kinembed.recipes import RENAMED
from kinembed.synthetic import generate_dataset

ROOT = Path(kinembed.__file__).parents[1]
DOCS = ROOT / "docs"
if not (ROOT / "README.md").is_file():
    pytest.skip("not run from a checkout", allow_module_level=True)

COMMANDS = DOCS / "commands.md"  # made from the commands' help; its blocks are synopses
PAGES = [ROOT / "README.md", *(page for page in sorted(DOCS.rglob("*.md")) if page != COMMANDS)]
OTHERS = [ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
OTHERS += [ROOT / "data" / "README.md", ROOT / "benchmarks" / "README.md"]
FROM_SCRATCH = ("README.md", "index.md", "quickstart.md", "cache.md")
QUICK_START = """
kinembed embed --backbone mtcnn-onet --quiet
kinembed head --quiet
kinembed score --pairs sample_submission.csv --quiet
kinembed embed --run runs/dlib --backbone mobilefacenet --weights mobilefacenet.pt --quiet
"""
FENCE = re.compile(r"(?:^<!-- (?P<mark>[^\n]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
                   re.MULTILINE | re.DOTALL)  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, and what is above it."""

    page: str
    line: int
    language: str
    text: str
    mark: str | None

    @property
    def runs(self) -> bool:
        return self.language != "text" and self.mark is None


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page.name,
            text.count("\n", 0, match.start("text")) + 1,
            match["language"],
            match["text"],
            match["mark"],
        )
        for match in FENCE.finditer(text)
    ]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def workplace(made_once: Callable[..., Path], program: Path) -> Path:
    """What a page's folder begins with."""

    def make(folder: Path) -> None:
        import onnx
        import torch
        from onnx import TensorProto, helper

        from kinembed.backbones import find_backbone

        generate_dataset(
            folder / "data", families=10, test_families=2, photos=(2, 3), side=64, seed=1
        )
        shutil.copy(folder / "data" / "test_labels.csv", folder / "labelled.csv")
        (folder / "album").mkdir()
        shutil.copy(folder / "data" / "test" / "face00000.jpg", folder / "album" / "aunt.jpg")
        torch.manual_seed(0)
        network = find_backbone("mobilefacenet").build()
        torch.save(network.state_dict(), folder / "mobilefacenet.pt")
        pooled = [
            helper.make_node("AveragePool", ["photos"], ["map"], kernel_shape=[28, 28],
                             strides=[28, 28]),
            helper.make_node("Flatten", ["map"], ["vectors"]),
        ]  # fmt: skip
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape])
            for name, shape in (("photos", (3, 112, 112)), ("vectors", (48,)))
        ]
        graph = helper.make_graph(pooled, "face", ends[:1], ends[1:])
        opset = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), folder / "face.onnx")
        in_bash(QUICK_START, folder, program)

    pytest.importorskip("onnx", reason="onnx makes the ONNX file of a page")
    return made_once("docs", make)


def in_bash(text: str, folder: Path, program: Path) -> None:
    """Runs a block as a shell does that stops at the first failure."""
    path = os.pathsep.join([str(program), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", [p for p in PAGES if any(b.runs for b in blocks(p))],
                         ids=lambda page: page.stem)  # fmt: skip
def test_the_blocks_of_a_page_run(
    page: Path, workplace: Path, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "work"
    shutil.copytree(workplace, folder)
    if page.name in FROM_SCRATCH:
        shutil.rmtree(folder / "runs")
    monkeypatch.chdir(folder)
    names: dict[str, object] = {"__name__": page.stem}
    for block in blocks(page):
        if not block.runs:
            continue
        if block.language == "bash":
            in_bash(block.text, folder, program)
        else:
            where = "\n" * (block.line - 1)  # so that a traceback names the page's line
            exec(compile(where + block.text, str(page), "exec"), names)
    described = (DOCS / "formats.md").read_text(encoding="utf-8")
    for path in folder.glob("runs/*/*"):
        assert (
            f"`{path.name}" in described
            or path.suffix in (".npy", ".txt", ".parquet")
            or (path.is_dir() and "BACKBONE-RECIPE-SPLIT" in described)
        ), f"formats.md does not describe {path.name}"


def test_every_block_runs_or_says_why_not() -> None:
    for page in PAGES:
        for block in blocks(page):
            where = f"{block.page}:{block.line}"
            assert block.language in ("bash", "python", "text", "yaml"), where
            if block.language == "yaml":  # of another program
                assert block.mark is not None, where
            if block.mark is not None:
                assert re.fullmatch(r"not run: \S+( \S+){1,}", block.mark), f"{where}: no reason"
            if block.language == "text":
                assert block.mark is None, where
                assert not re.search(r"^\s*(kinembed|pip|make|python3?) ", block.text, re.M), where


def test_blocks_are_fenced() -> None:
    for page in PAGES:
        lines = prose(page).splitlines()
        for before, line in zip(["", *lines], lines, strict=False):
            in_list = re.match(r"\s*([-*]|\d+\.) ", before) or before.startswith("  ")
            assert not line.startswith("    ") or in_list, f"{page.name}: {line.strip()}"


def test_the_readme_is_short() -> None:
    readme = ROOT / "README.md"
    assert len(readme.read_bytes()) <= 8192
    assert "make demo" in readme.read_text() and "make test" in readme.read_text()


def commands(group: click.Group, start: str = "kinembed") -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{start} {name}")
        else:
            yield f"{start} {name}"


def test_every_command_and_every_public_name_is_shown() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for command in commands(cli):
        assert re.search(rf"{command}\b", text), command
    shown = (DOCS / "python.md").read_text(encoding="utf-8")
    for name in kinembed.__all__:
        assert re.search(rf"\b{name}\b", shown), name


def headings(page: Path) -> set[str]:
    """The anchors of a page, as Python-Markdown makes them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    kept = [re.sub(r"[^\w\s-]", "", title).strip().lower() for title in titles]
    return {re.sub(r"[-\s]+", "-", title) for title in kept}


@pytest.mark.parametrize(
    "page", [*PAGES, *OTHERS], ids=lambda page: f"{page.parent.name}/{page.stem}"
)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        there = page.parent / name if name else page
        assert there.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in headings(there), f"{page.name}: {target}"


def test_the_site_has_every_page() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r": (\S+\.md)$", text, re.MULTILINE)
    assert sorted(listed) == sorted(
        page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")
    )


def test_the_site_builds(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is in the extra docs; make docs builds the site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<title>kinembed" in page
    assert not re.search(r'(src|href)="(https?:)?//', page), "the page fetches from elsewhere"


def test_every_file_of_the_run_folder_is_described() -> None:
    described = (DOCS / "formats.md").read_text(encoding="utf-8")
    inputs = {"train_relationships.csv", "mid.csv", "sample_submission.csv", "test_labels.csv"}
    found = set()
    for path in (ROOT / "kinembed").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                kinds = "h5|pt|json|csv|svg|png|md|npy|txt|parquet|html"
                if re.fullmatch(rf"[a-z][a-z-]*\.({kinds})", node.value):
                    found.add(node.value)
    assert {"embeddings.h5", "head.h5", "heads.csv", "calibration.json", "model.pt"} <= found
    for name in sorted(found - inputs):
        assert f"`{name}`" in described, f"formats.md does not describe {name}"


def test_every_renamed_key_is_in_the_changelog() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for old, new in RENAMED.items():
        assert f"`{new}`" in changes and f"`{old}`" in changes, old


def test_the_citation_is_of_this_version() -> None:
    lines = (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    keys = dict(line.split(": ", 1) for line in lines if re.match(r"[a-z-]+: ", line))
    assert keys["cff-version"] == "1.2.0"
    assert keys["version"].strip('"') == kinembed.__version__
    assert keys["license"] == "MIT" and {"message", "title"} <= set(keys)
    assert "  - name: kinembed contributors" in lines
