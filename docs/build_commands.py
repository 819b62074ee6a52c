"""Writes `docs/commands.md` from the commands themselves: python docs/build_commands.py."""

import re
from collections.abc import Iterator
from dataclasses import fields
from inspect import cleandoc
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click

from kinembed.cli import cli
from kinembed.recipes import (
    BASE,
    FINETUNE_RECIPES,
    HEAD_RECIPES,
    KIN,
    METRIC,
    Bounds,
    Recipe,
    as_set,
    changed_settings,
)
from kinembed.report.tables import markdown_table

PAGE = Path(__file__).with_name("commands.md")
SHARED = ("run", "data", "seed", "quiet", "verbose")  # by every command
HEAD = """# Commands

<!-- Made by `python docs/build_commands.py` from the commands' own help: edit that. -->

Every command prints its help with `--help`. Progress and logs go to standard error, results to
files and to standard output. Exit codes: 0 done; 1 a problem, explained in one line; 2 wrong
usage; 130 interrupted; 143 terminated.

"""
KEYS = """
## Keys of recipes

`--set KEY=VALUE` and `head --sweep KEY=VALUE,VALUE` change these values of a recipe. A list is
written `100,25`, and no value `none`. `--sweep` takes `seed`, too, and parts lists by `;`.
"""
GROUPS = {
    "Recipes of pair heads": BASE,
    "Recipe metric, of heads": METRIC,
    "Recipe kin, of finetune": KIN,
}
COMPLETION = """
## Shell completion

Commands, options and the names of backbones and recipes complete with the tab key. Put one line
into your shell's start file, then open a new shell:

- bash, `~/.bashrc`: `eval "$(_KINEMBED_COMPLETE=bash_source kinembed)"`
- zsh, `~/.zshrc`: `eval "$(_KINEMBED_COMPLETE=zsh_source kinembed)"`
- fish, `~/.config/fish/config.fish`: `_KINEMBED_COMPLETE=fish_source kinembed | source`
"""


def build_commands() -> str:
    """The page: the options of every command, then each command with its own."""
    found = dict(leaves(cli))
    shared = [p for p in next(iter(found.values())).params if p.name in SHARED]
    parts = [HEAD, "## Options of every command\n\n", options_table(shared)]
    for name, command in found.items():
        parts.append(f"\n## kinembed {name}\n\n{prose(command)}\n\n    {usage(name, command)}\n")
        own = [p for p in command.params if isinstance(p, click.Option) and is_own(p, shared)]
        if own:
            parts += ["\n", options_table(own)]
    return "".join([*parts, KEYS, *(keys_of(*group) for group in GROUPS.items()), COMPLETION])


def keys_of(title: str, recipe: Recipe) -> str:
    """The keys of a recipe with meaning, values and default, and what like recipes change."""
    meanings = attributes(type(recipe))
    hints = get_type_hints(type(recipe), include_extras=True)
    rows = [["key", "meaning", "values", "default"]]
    for field in fields(recipe):
        if field.name != "name":
            default = as_set(getattr(recipe, field.name)) or "none"
            values = values_of_key(hints[field.name])
            rows.append([f"`{field.name}`", meanings[field.name], values, default.lower()])
    named: dict[str, Recipe] = {**FINETUNE_RECIPES, **HEAD_RECIPES}
    like = [each for each in named.values() if type(each) is type(recipe) and each is not recipe]
    text = f"\n### {title}\n\n" + markdown_table(rows, text_columns=4, are_markdown=True)
    if like:
        text += f"\nDefaults are those of recipe `{recipe.name}`. Other recipes change:\n\n"
        changes = [[f"`{each.name}`", changed_settings(each, recipe)] for each in like]
        changes = [[name, what.replace(";", ", ")] for name, what in changes]
        text += markdown_table([["recipe", "changes"], *changes], text_columns=2, are_markdown=True)
    return text


def attributes(kind: type) -> dict[str, str]:
    """The meaning of each attribute, from the docstring of a class."""
    _, _, listed = cleandoc(kind.__doc__ or "").partition("Attributes:\n")
    one_line = re.sub(r"\n\s{8,}", " ", listed)
    return dict(re.findall(r"^\s*(\w+): (.+)$", one_line, re.MULTILINE))


def values_of_key(annotation: Any) -> str:
    """Which values a key takes, from its annotation."""
    parts = get_args(annotation)
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{name}`" for name in parts)
    if get_origin(annotation) is tuple:
        return f"list: {values_of_key(parts[0])}"
    for bounds in getattr(annotation, "__metadata__", ()):
        assert isinstance(bounds, Bounds)
        whole = "whole, " if parts[0] is int else ""
        return f"{whole}{bounds}"
    return " or ".join("none" if part is NoneType else values_of_key(part) for part in parts)


def leaves(group: click.Group, start: str = "") -> Iterator[tuple[str, click.Command]]:
    """All commands by what is typed to call them."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, f"{start}{name} ")
        else:
            yield start + name, command


def prose(command: click.Command) -> str:
    """What a command does, as paragraphs."""
    return cleandoc(command.help or "")


def usage(name: str, command: click.Command) -> str:
    """The synopsis: `kinembed NAME [OPTIONS] ARGUMENTS`."""
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    words = [p.metavar or str(p.name).upper() for p in arguments]
    return " ".join(["kinembed", name, "[OPTIONS]", *words])


def is_own(option: click.Option, shared: list[click.Parameter]) -> bool:
    """Whether an option is this command's alone, or has a default of its own."""
    same = [p for p in shared if p.name == option.name]
    return not same or same[0].default != option.default


def options_table(options: list[click.Parameter]) -> str:
    """A row for each option: names, meaning, default."""
    rows = [["option", "meaning", "default"]]
    for option in options:
        assert isinstance(option, click.Option)
        text, _, default = (option.help or "").partition("[default: ")
        default = "required" if option.required else default.rstrip("]") or default_of(option)
        names = " / ".join([*option.opts, *option.secondary_opts])
        rows.append(
            [
                f"`{' '.join(filter(None, [names, value_of(option)]))}`".replace("|", "\\|"),
                text.strip(),
                default,
            ]
        )
    return markdown_table(rows, text_columns=3, are_markdown=True)


def value_of(option: click.Option) -> str:
    """What stands for the value of an option; empty for flags."""
    if option.is_flag:
        return ""
    if option.metavar:
        return option.metavar
    if isinstance(option.type, click.Choice):
        return "|".join(map(str, option.type.choices))
    if isinstance(option.type, click.Path):
        return "PATH"
    kinds = {"integer": "N", "float": "X"}
    return kinds.get(option.type.name.removesuffix(" range"), "NAME")


def default_of(option: click.Option) -> str:
    """The default as it is typed; empty where there is none, or it is a flag that is not set."""
    value = option.default
    if option.is_flag:
        both = bool(option.secondary_opts)
        return (option.opts[0] if value else option.secondary_opts[0]) if both else ""
    return str(value) if isinstance(value, str | int | float | Path) else ""


if __name__ == "__main__":
    PAGE.write_text(build_commands(), encoding="utf-8")
