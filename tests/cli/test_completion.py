"""Shell completion: the scripts for three shells, and what they complete."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import kinembed
from kinembed.backbones import BACKBONES
from kinembed.recipes import FINETUNE_RECIPES

CHECKOUT = Path(kinembed.__file__).parents[1]


def kin(instruction: str, **variables: str) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": str(CHECKOUT),
        "_KINEMBED_COMPLETE": instruction,
        **variables,
    }
    command = [sys.executable, "-m", "kinembed"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


def completed(shell: str, line: str) -> set[str]:
    """What a shell offers for the last word of a line."""
    out = kin(f"{shell}_complete", COMP_WORDS=line, COMP_CWORD=str(line.count(" ")))
    if shell == "zsh":  # kind, value and help on a line each
        return set(out.splitlines()[1::3])
    return {each.partition(",")[2] for each in out.splitlines()}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shells_script_names_the_command(shell: str) -> None:
    if shell == "bash" and shutil.which("bash") is None:
        pytest.skip("bash is not on this machine")
    script = kin(f"{shell}_source")
    assert f"_KINEMBED_COMPLETE={shell}_complete" in script
    assert "kinembed" in script.splitlines()[-2] + script.splitlines()[-1]


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_commands_options_and_names_are_completed(shell: str) -> None:
    assert completed(shell, "kinembed fi") == {"finetune"}
    assert completed(shell, "kinembed cache ver") == {"verify"}
    assert completed(shell, "kinembed score --pe") == {"--people"}
    assert completed(shell, "kinembed score --people m") == {"mean", "max"}
    assert completed(shell, "kinembed finetune --backbone ") == set(BACKBONES)
    assert completed(shell, "kinembed finetune --recipe ") == set(FINETUNE_RECIPES)


def test_fish_completes_commands_and_options() -> None:
    assert "finetune" in kin("fish_complete", COMP_WORDS="kinembed", COMP_CWORD="fi")
    assert "--people" in kin("fish_complete", COMP_WORDS="kinembed score", COMP_CWORD="--pe")


ASK = """
eval "$(_KINEMBED_COMPLETE=bash_source kinembed)"
COMP_WORDS=(kinembed score --th)
COMP_CWORD=2
_kinembed_completion kinembed
echo "${COMPREPLY[@]}"
"""


def test_bash_completes_by_the_line_of_the_docs(tmp_path: Path) -> None:
    if shutil.which("bash") is None:
        pytest.skip("bash is not on this machine")
    program = tmp_path / "kinembed"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m kinembed "$@"\n')
    program.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "PATH": path}
    done = subprocess.run(["bash", "-c", ASK], capture_output=True, text=True, env=environment)
    assert done.stdout == "--threads\n", done.stderr
