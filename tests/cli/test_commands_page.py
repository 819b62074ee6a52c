"""The page of the commands: up to date, and without a gap."""

import importlib.util
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import click
import pytest

import kinembed
from kinembed.cli import cli
from kinembed.recipes import FINETUNE_RECIPES, HEAD_RECIPES

DOCS = Path(kinembed.__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    path = DOCS / "build_commands.py"
    if not path.is_file():
        pytest.skip("not run from a checkout")
    spec = importlib.util.spec_from_file_location("build_commands", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_as_the_commands_are(builder: ModuleType) -> None:
    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    assert page == builder.build_commands(), "run python docs/build_commands.py"


def test_no_command_and_no_option_is_missing(builder: ModuleType) -> None:
    page = builder.build_commands()
    shared, *sections = page.split("\n## kinembed ")
    by_name = {section.partition("\n")[0]: section for section in sections}

    def visit(group: click.Group, start: str) -> None:
        for name, command in group.commands.items():
            if isinstance(command, click.Group):
                visit(command, f"{start}{name} ")
                continue
            section = by_name.pop(f"{start}{name}")
            for option in command.params:
                if isinstance(option, click.Option):
                    assert option.help, f"{start}{name} {option.opts[0]} has no help"
                    assert any(f"{option.opts[0]}" in part for part in (section, shared))

    visit(cli, "")
    assert not by_name


def test_every_key_of_every_recipe_is_on_the_page_with_its_meaning(builder: ModuleType) -> None:
    page = builder.build_commands()
    for title, recipe in builder.GROUPS.items():
        table = page.partition(f"### {title}\n")[2].partition("\n###")[0]
        for key in asdict(recipe):
            assert key == "name" or f"| `{key}` " in table, key
    for name in (*FINETUNE_RECIPES, *HEAD_RECIPES):
        titles = [title for title, recipe in builder.GROUPS.items() if recipe.name == name]
        assert titles or f"| `{name}` " in page
