"""The calibrations of a run folder: all are kept, and `calibration.json` is the one in use.

A calibration lies in `calibrations/NAME.json`, by its map, target, head and digest;
`calibration.json` is a copy of one of them. The time of a file is that of its last use.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

from kinembed.config import Expand
from kinembed.errors import RunError
from kinembed.evaluation.calibration import (
    Calibration,
    check_calibration,
    content,
    load_calibration,
    save_calibration,
)
from kinembed.heads.base import Head
from kinembed.heads.query_expansion import Expanding
from kinembed.io import moved_together, write_bytes

log = logging.getLogger(__name__)

IN_USE = "calibration.json"
FOLDER = "calibrations"


@dataclass(frozen=True)
class KeptCalibration:
    """A calibration of a run folder.

    Attributes:
        name: of its file, without `.json`.
        calibration: threshold and map.
        in_use: `calibration.json` is a copy of it.
    """

    name: str
    calibration: Calibration
    in_use: bool


def keep_calibration(run: Path, calibration: Calibration) -> Path:
    """Writes a calibration to `calibration.json`, and keeps it; returns the path of the former.

    One that is in use and was not kept is kept first.
    """
    with moved_together(run):  # the one in use comes last
        keep_in_use(run)
        write_bytes(_kept_path(run, calibration, content(calibration)), content(calibration))
        return save_calibration(calibration, run / IN_USE)


def keep_in_use(run: Path) -> None:
    """Keeps the calibration in use, where it is not kept; one that cannot be read is left."""
    path = run / IN_USE
    if not path.is_file():
        return
    try:
        kept = _kept_path(run, load_calibration(path), path.read_bytes())
    except RunError as error:
        log.warning("%s", error)
        return
    if not kept.exists():
        write_bytes(kept, path.read_bytes())


def kept_calibrations(run: Path) -> list[KeptCalibration]:
    """The calibrations of a run folder, the last used last; it is said which cannot be read."""
    in_use = (run / IN_USE).read_bytes() if (run / IN_USE).is_file() else None
    found = []
    for path in sorted((run / FOLDER).glob("*.json"), key=lambda path: (_mtime(path), path.name)):
        try:
            calibration = load_calibration(path)
        except RunError as error:
            log.warning("%s", error)
            continue
        found.append(KeptCalibration(path.stem, calibration, path.read_bytes() == in_use))
    return found


def all_calibrations(run: Path) -> list[KeptCalibration]:
    """Those of a run folder, and the one in use if it is not kept yet; writes nothing."""
    kept, path = kept_calibrations(run), run / IN_USE
    if not path.is_file() or any(each.in_use for each in kept):
        return kept
    try:
        calibration = load_calibration(path)
    except RunError as error:
        log.warning("%s", error)
        return kept
    name = _kept_path(run, calibration, path.read_bytes()).stem
    return [*kept, KeptCalibration(name, calibration, True)]


def use_calibration(run: Path, name: str) -> Path:
    """Makes a kept calibration, of that very name, the one in use."""
    keep_in_use(run)
    kept = run / FOLDER / f"{name}.json"
    path = write_bytes(run / IN_USE, kept.read_bytes())
    os.utime(kept)
    return path


def switch_calibration(run: Path, head: Head) -> None:
    """Takes the calibration that was last used of a head; says so, and where there is none."""
    keep_in_use(run)
    kept = [each for each in kept_calibrations(run) if each.calibration.head == head.digest]
    if any(each.in_use for each in kept):
        return
    if kept:
        log.info("%s: is %s now, of this head", use_calibration(run, kept[-1].name), kept[-1].name)
    elif (run / IN_USE).exists():
        log.warning(
            "%s: is of another head, and none is kept of this one, so its scores are not "
            "calibrated; run kinembed calibrate", run / IN_USE,
        )  # fmt: skip


def find_calibration(
    run: Path, head: Head, named: Path | None = None
) -> tuple[Calibration, Path] | None:
    """The calibration of a head, and where it lies; None where there is none.

    That in use may be of another head, after a new one was made. Then it is said in a line, and
    one that is kept and fits is taken.

    Args:
        run: the run folder.
        head: what scores.
        named: the file that has to fit; None: what the run folder has.

    Raises:
        RunError: a file is no calibration, or the one that was named does not fit.
    """
    path = named or run / IN_USE
    if named is None and not os.path.lexists(path):
        return None
    calibration = load_calibration(path)
    try:
        check_calibration(calibration, head, path)
    except RunError as error:
        if named is not None:
            raise
        kept = [k for k in kept_calibrations(run) if k.calibration.head == head.digest]
        instead = f"{FOLDER}/{kept[-1].name}.json fits" if kept else "scores are not calibrated"
        log.warning("%s; until then, %s", error, instead)
        if not kept:
            return None
        return kept[-1].calibration, run / FOLDER / f"{kept[-1].name}.json"
    return calibration, path


def expanding(asked: Expand, calibration: Calibration | None, head: Head) -> Expanding:
    """How photos are expanded: not if their pairs would have no probability, which it says."""
    if asked == "off":
        return False
    if calibration is None or calibration.expanded is not None or head.same_person is None:
        return "exact" if asked == "exact" else True
    log.info("the calibration is of photos alone: each photo is scored alone")
    return False


def _kept_path(run: Path, calibration: Calibration, file: bytes) -> Path:
    """Where a calibration is kept whose file has these bytes."""
    target = re.sub(r"[^\w.+-]", "_", calibration.alone.target)
    digest = hashlib.sha256(file).hexdigest()[:12]
    name = f"{calibration.alone.map}-{target}-{calibration.head[:12] or 'any'}-{digest}"
    return run / FOLDER / f"{name}.json"


def _mtime(path: Path) -> float:
    return path.stat().st_mtime
