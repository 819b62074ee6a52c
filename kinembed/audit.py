"""The stage `audit`: what in a data set is doubtful, from the cache."""

from __future__ import annotations

import logging
from pathlib import Path

from kinembed.auditing.copies import same_bytes
from kinembed.auditing.finding import Finding, by_surety
from kinembed.cache.stacked import open_caches
from kinembed.config import AuditConfig
from kinembed.io import write_csv

log = logging.getLogger(__name__)

COLUMNS = (*("kind", "surety", "person", "other_person", "photo", "other_photo", "reason", "cure"),)


def audit(config: AuditConfig, data: Path, run: Path) -> Path:
    """Finds what is doubtful in the photos, people and relations of a cache.

    Args:
        config: the settings.
        data: the data folder: relations, and photos for the pictures.
        run: the run folder with `embeddings.h5`; `audit.csv` is written.

    Returns:
        The path of `audit.csv`.
    """
    with open_caches(config.caches or [run / "embeddings.h5"]) as cache:
        findings = by_surety(same_bytes(cache))
    return write_csv(run / "audit.csv", [_row(finding) for finding in findings], COLUMNS)


def _row(finding: Finding) -> dict[str, object]:
    people, photos = ([*each, "", ""] for each in (finding.people, finding.photos))
    return {
        "kind": finding.kind, "surety": finding.surety,
        "person": people[0], "other_person": people[1],
        "photo": photos[0], "other_photo": photos[1],
        "reason": finding.reason, "cure": finding.cure,
    }  # fmt: skip
