"""The page "The report, statement by statement": what it names is there."""

import ast
import re
from dataclasses import fields
from pathlib import Path

import click
import pytest

import kinembed
from kinembed.cli import cli
from kinembed.recipes import FINETUNE_RECIPES, HEAD_RECIPES, RECIPE_KINDS, REPORTED

PACKAGE = Path(kinembed.__file__).parent
PAGE = PACKAGE.parent / "docs" / "report.md"
if not PAGE.is_file():
    pytest.skip("not run from a checkout", allow_module_level=True)
TEXT = PAGE.read_text(encoding="utf-8")
PLACES = sorted(set(re.findall(r"`([\w/]+\.py):([\w.]+)`", TEXT)))
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in TEXT.splitlines()
    if re.match(r"\| \d+ \|", line)
]


def names(path: Path) -> set[str]:
    """Functions, classes, methods and constants of a file: `Class.method` for those of a class."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found.add(node.name)
            found |= {f"{node.name}.{n.name}" for n in node.body if isinstance(n, ast.FunctionDef)}
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


def options(group: click.Group) -> set[str]:
    found: set[str] = set()
    for command in group.commands.values():
        if isinstance(command, click.Group):
            found |= options(command)
        found |= {name for option in command.params for name in option.opts}
    return found


@pytest.mark.parametrize(("file", "name"), PLACES, ids=[f"{f}:{n}" for f, n in PLACES])
def test_every_place_in_the_code_is_there(file: str, name: str) -> None:
    assert (PACKAGE / file).is_file()
    assert name in names(PACKAGE / file)


def test_every_statement_says_where_it_is_and_how_exact() -> None:
    assert [int(row[0]) for row in ROWS] == list(range(1, len(ROWS) + 1))
    assert len(ROWS) >= 56
    for number, says, where, verdict in ROWS:
        assert says, number
        assert re.search(r"`[\w/]+\.py:[\w.]+`|recipe `[\w-]+`", where), number
        assert verdict, number


def test_every_recipe_option_and_key_that_it_names_is_there() -> None:
    recipes = {**FINETUNE_RECIPES, **HEAD_RECIPES}
    named = set(re.findall(r"recipe `([\w-]+)`", TEXT))
    assert named <= recipes.keys()
    assert named >= {recipe for _, recipe in REPORTED}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", TEXT)) <= options(cli)
    keys = {field.name for kind in RECIPE_KINDS.values() for field in fields(kind)}
    assert set(re.findall(r"--set (\w+)=", TEXT)) <= keys
