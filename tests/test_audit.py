"""The audit of dependencies: fails on a published vulnerability, and on nothing else."""

import importlib.util
import json
from pathlib import Path

import pytest

import kinembed

CHECKOUT = Path(kinembed.__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("audit", CHECKOUT / ".ci" / "audit.py")
assert SPEC is not None and SPEC.loader is not None
audit = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(audit)

SOUND = {"name": "numpy", "version": "2.0", "vulns": []}
UNKNOWN = {"name": "torch", "skip_reason": "not found on PyPI"}
ADVISORY = {"id": "PYSEC-1", "fix_versions": ["9.9"], "aliases": ["GHSA-1"]}
BAD = {"name": "pillow", "version": "9.0", "vulns": [ADVISORY]}
OF_PIP = {"name": "pip", "version": "23", "vulns": [ADVISORY]}


@pytest.mark.parametrize(
    ("packages", "code", "said"),
    [
        ([SOUND, BAD], 1, "pillow 9.0: PYSEC-1; mended in 9.9"),
        ([SOUND, UNKNOWN, OF_PIP], 0, "2 of 3 packages checked"),
        ([UNKNOWN], 0, "no advisories"),
        (None, 0, "cannot be asked"),
    ],
)
def test_vulnerable_packages_fail(packages: list | None, code: int, said: str) -> None:
    output = "" if packages is None else json.dumps({"dependencies": packages, "fixes": []})
    found, text = audit.verdict(output)
    assert found == code and said in text


def test_an_explained_vulnerability_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(audit.EXPLAINED, "GHSA-1", "a decoder that is never asked")
    assert audit.verdict(json.dumps({"dependencies": [BAD], "fixes": []}))[0] == 0
