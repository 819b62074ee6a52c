"""The stage `report`: the story of a run as one page to look at."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from kinembed.config import ReportConfig
from kinembed.errors import KinembedError, RunError
from kinembed.io import write_bytes
from kinembed.outputs import check_output, check_suffix
from kinembed.report.evaluation_file import read_evaluation
from kinembed.report.run_facts import completed, read_run
from kinembed.report.run_page import run_page

log = logging.getLogger(__name__)

PAGE = "report.html"


def run_report(config: ReportConfig, data: Path, run: Path) -> Path:
    """Writes `report.html`, which holds all that it shows and asks nobody for anything.

    What the run folder, or another run, lacks is said, with the command that makes it.

    Args:
        config: the settings.
        data: the data folder: relations, and photos where they are asked for.
        run: the run folder.

    Returns:
        The path of the page.

    Raises:
        KinembedError: there is no run folder, another run is named twice, or vl-convert-python is
            missing.
    """
    if not run.is_dir():
        raise RunError(f"{run}: no such folder; run kinembed embed --run {run} first")
    out = config.out or run / PAGE
    check_suffix(".html", out)
    check_output(out, [], [run], own=[PAGE], data=data)
    against: dict[str, dict[str, Any]] = {}
    absent: dict[str, str] = {}
    for other in config.against:
        name = other.name or str(other)
        if name in against or name in absent or name == run.name:
            name = str(other)
        if name in against or name in absent:
            raise KinembedError(f"--against {other}: was named twice")
        try:
            against[name] = read_evaluation(other)
        except KinembedError as error:
            absent[name] = completed(str(error), other, data)
            log.warning("--against: %s", absent[name])
    facts = read_run(run, data)
    asked = [word for other in config.against for word in ("--against", str(other))]
    asked += ["--photos"] if config.photos else []
    asked += ["--out", str(config.out)] if config.out is not None else []
    content = run_page(facts, against, absent, photos=config.photos, asked=asked).encode()
    write_bytes(out, content)
    for what, why in facts.missing.items():
        if what != "finetuning":  # most runs have none
            log.info("%s: %s", what, why)
    log.info("%s: %.1f MB, open it in a browser", out, len(content) / 1e6)
    return out
