"""The Dockerfile says what the rest of the checkout says; nothing here builds it."""

import re
import shlex
from pathlib import Path

import kinembed
from kinembed.config import ServeConfig

CHECKOUT = Path(kinembed.__file__).parents[1]
DOCKERFILE = (CHECKOUT / "Dockerfile").read_text()


def lines(word: str) -> list[str]:
    """What follows a word of the Dockerfile, with its continued lines."""
    whole = DOCKERFILE.replace("\\\n", " ")
    return re.findall(rf"^{word} (.*)$", whole, re.MULTILINE)


def test_what_is_copied_is_there_and_not_ignored() -> None:
    copied = [shlex.split(line)[:-1] for line in lines("COPY")]
    files = {name for some in copied for name in some}
    ignored = (CHECKOUT / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*" and {f"!{name}" for name in files} <= {*ignored}
    assert all((CHECKOUT / name).exists() for name in files)
    needed = re.findall(r'^(?:readme|license-files) = .*"(.+)"', _pyproject(), re.MULTILINE)
    assert {"pyproject.toml", "kinembed", *needed} == files


def test_python_torch_and_the_extras_are_those_of_the_package() -> None:
    (python,) = lines("FROM")
    version = python.removeprefix("python:").removesuffix("-slim")
    assert f"Programming Language :: Python :: {version}" in _pyproject()
    install = lines("RUN")[0]
    (extras,) = re.findall(r"/src\[(.+?)\]", install)
    defined = re.findall(r"^(\w+) = \[$", _pyproject(), re.MULTILINE)
    assert {"serve", "sface"} <= {*extras.split(",")} <= {*defined}
    (torch,) = re.findall(r"torch==\S+", install)
    assert f"TORCH ?= {torch}\n" in (CHECKOUT / "Makefile").read_text()


def test_it_listens_where_it_says_and_looks_there_for_health() -> None:
    assert lines("EXPOSE") == [str(ServeConfig.port)] and lines("USER") == ["nobody"]
    assert f"http://127.0.0.1:{ServeConfig.port}/health" in lines("HEALTHCHECK")[0]
    assert "--port" not in lines("ENTRYPOINT")[0]


def _pyproject() -> str:
    return (CHECKOUT / "pyproject.toml").read_text()
