"""Asks PyPI for published vulnerabilities of what is installed beside this interpreter.

Fails where there is one that is not explained below. Where PyPI cannot be asked (no network, or a
mirror that has no advisories), nothing is checked, which is said.
"""

import json
import subprocess
import sys

SECONDS = 120  # in all
# What is known, and why it does not concern kinembed: {"GHSA-…": "reason"}
EXPLAINED: dict[str, str] = {}
NOT_OURS = {"pip"}  # venv brings it along


def verdict(output: str) -> tuple[int, str]:
    """The exit code for an output of `pip-audit --format json`, and what to print."""
    try:
        packages = json.loads(output)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return 0, "pip-audit: skipped: PyPI cannot be asked"
    checked = [package for package in packages if "skip_reason" not in package]
    if not checked:
        return 0, "pip-audit: skipped: this index has no advisories"
    found = [
        f"{package['name']} {package['version']}: {advisory['id']}; mended in "
        f"{', '.join(advisory['fix_versions']) or 'no release yet'}"
        for package in checked
        if package["name"] not in NOT_OURS
        for advisory in package["vulns"]
        if not {advisory["id"], *advisory["aliases"]} & set(EXPLAINED)
    ]
    if found:
        return 1, "\n".join(
            [*found, "raise the bound in pyproject.toml, or explain it in .ci/audit.py"]
        )
    return 0, f"pip-audit: {len(checked)} of {len(packages)} packages checked, none is vulnerable"


def main() -> int:
    """Runs pip-audit."""
    command = [sys.executable, "-m", "pip_audit", "--local", "--skip-editable", "--format", "json"]
    try:
        done = subprocess.run(
            [*command, "--progress-spinner", "off", "--timeout", "10"],
            capture_output=True, text=True, timeout=SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        print("pip-audit: skipped: PyPI takes too long to answer")
        return 0
    if "No module named" in done.stderr:
        print(done.stderr, end="")
        return 1
    code, text = verdict(done.stdout)
    print(text)
    return code


if __name__ == "__main__":
    sys.exit(main())
