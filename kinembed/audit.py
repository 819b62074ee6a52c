"""The stage `audit`: what in a data set is doubtful, from the cache."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from kinembed.auditing.copies import copies
from kinembed.auditing.doubles import doubles
from kinembed.auditing.evidence import KinEvidence
from kinembed.auditing.finding import (
    ENOUGH,
    KINDS,
    Finding,
    Kind,
    by_surety,
    on_both_sides,
    strongest,
)
from kinembed.auditing.likeness import PhotoLikeness
from kinembed.auditing.odd_photos import odd_photos
from kinembed.auditing.record import AuditRecord
from kinembed.auditing.relations import Kinship, misplaced, unlisted_kin, unsupported
from kinembed.auditing.weak_families import weak_families
from kinembed.cache import Embeddings
from kinembed.cache.stacked import open_caches
from kinembed.config import AuditConfig
from kinembed.data.exclusions import COLUMNS as EXCLUDED
from kinembed.data.families import Families, cached_families, group_families
from kinembed.data.photos_now import photos_now
from kinembed.data.relations import RELATIONS, has_relations
from kinembed.errors import DataError, RunError
from kinembed.evaluation.published import is_published
from kinembed.heads.base import Head
from kinembed.heads.file import load_head
from kinembed.heads.kept import IN_USE, caches_of
from kinembed.heads.representations import check_knn_view, check_model
from kinembed.heads.same_person import SamePerson
from kinembed.heads.views import choose_views
from kinembed.io import moved_together, remove, write_csv
from kinembed.outputs import check_outputs
from kinembed.printable import counted
from kinembed.seeds import Stream, generator

log = logging.getLogger(__name__)

COLUMNS = ("kind", "surety", "person", "other_person", "photo", "other_photo", "reason", "cure")
OF_PHOTOS = ("photo", "double")
OF_KIN = ("person", "relation", "unlisted", "family")
PICTURES = "audit"  # their folder in the run folder


def audit(config: AuditConfig, data: Path, run: Path) -> Path:
    """Finds what is doubtful in the photos, people and relations of a cache.

    Without a head or relations, these are not judged, which is logged.

    Args:
        config: the settings.
        data: the data folder: relations, and photos for pictures and copies.
        run: the run folder with `embeddings.h5` and perhaps `head.h5`; `audit.csv` is written,
            what it is of into `audit.json`, and a picture of each kind of finding into `audit/`.

    Returns:
        The path of `audit.csv`.

    Raises:
        KinembedError: cache, head or relations are not as they have to be, or nobody is known.
    """
    config.check(KINDS)
    caches = caches_of(run, config.caches, config.head or run / IN_USE)
    read = [*caches, config.head or run / "head.h5", data / RELATIONS]
    check_outputs([config.write], read, run, data, EXCLUDED)
    with open_caches(caches) as cache:
        families = _families(cache, data)
        log.info("%s", families.summary())
        head = _head(config, run, cache)
        now = photos_now(cache, data)
        changed = {cache.names[row].decode() for row in now.changed}
        _tell(cache, data, len(now.missing), changed)
        unasked = [kind for kind in KINDS if config.kinds and kind not in config.kinds]
        skipped: dict[str, str] = dict.fromkeys(unasked, "not asked for")
        found = _findings(config, data, cache, families, head, now.changed, skipped)
        sides = _sides(head)
        findings = [_with_doubt(on_both_sides(each, sides), changed) for each in by_surety(found)]
        record = AuditRecord(
            cache.digest, "" if head is None else head.digest, skipped, len(now.missing),
            len(now.changed),
        )  # fmt: skip
        at_hand = len(now.missing) < len(cache)
        few = len(families.people) < ENOUGH
        sure = [each for each in findings if not few or each.kind == "copy"]
        sure = [each for each in sure if (each.surety or 0) >= config.least]
        unsure = strongest([each for each in findings if each.kind != "copy"], config.top)
        findings = sure + (unsure if few else [])
    path = run / "audit.csv"
    with moved_together(run):
        write_csv(path, [_row(finding) for finding in findings], COLUMNS)
        if config.write is not None:
            write_csv(config.write, _left_out(sure[: config.surest]), EXCLUDED)
        _draw(config, findings, families, data, run, changed if at_hand else None)
        record.write(run)
    log.info("%s: %s", path, counted(len(findings), "finding"))
    if few and unsure:
        log.info(
            "%s are too few to say how sure a finding is (wanted %s or more), so the strongest "
            "%s of each kind are listed without a surety; copies have one",
            counted(len(families.people), "person", "people"), ENOUGH, config.top,
        )  # fmt: skip
    if config.write is not None:
        log.info(
            "%s: what the %s surest leave out; kinembed head --exclude takes it",
            config.write, f"{min(config.surest, len(sure)):,}",
        )  # fmt: skip
    return path


def _families(cache: Embeddings, data: Path) -> Families:
    """Who is on the photos, with the relations, if there are any.

    Raises:
        DataError: nobody is known, or the relations are malformed.
    """
    if has_relations(data):
        return cached_families(cache, data)
    people = [person.decode() for person in cache.people.tolist()]
    if not any(people):
        raise DataError(
            f"{cache.path}: who is on its {len(people):,} photos is not known, so nothing can be "
            "doubted; run kinembed embed with --photos of a folder FAMILY/PERSON/, or with "
            "--people-table"
        )
    log.info("%s: no relations, so these are not judged", data)
    names = [name.decode() for name in cache.names.tolist()]
    return group_families(names, [], range(len(names)), people)


def _head(config: AuditConfig, run: Path, cache: Embeddings) -> Head | None:
    path = config.head or run / "head.h5"
    if config.head is None and not path.exists():
        return None
    if is_published(path):
        raise RunError(
            f"{path}: a published head, which does not say who trained it; audit needs the head.h5 "
            "of a run folder"
        )
    head = load_head(path)
    check_model(cache, head)
    return head


def _sides(head: Head | None) -> dict[str, str]:
    """On which side of the head's split each person lies."""
    if head is None:
        return {}
    if head.folds:
        folds = enumerate(head.folds, 1)
        return {person: f"fold {number}" for number, fold in folds for person in fold}
    trained = dict.fromkeys(head.trained, "the training people")
    return trained | dict.fromkeys(head.held_out, "the held-out people")


def _findings(
    config: AuditConfig,
    data: Path,
    cache: Embeddings,
    families: Families,
    head: Head | None,
    changed: Collection[int],
    skipped: dict[str, str],
) -> list[Finding]:
    """All findings of the kinds that are asked for; kinds not judged are added to `skipped`."""
    wanted = config.kinds or KINDS

    def rng(kind: Kind) -> np.random.Generator:
        return generator(config.seed, Stream.AUDIT, KINDS.index(kind))

    found: list[Finding] = []
    view, model = _same_person(config, cache, families, head)
    likeness = None
    if model is not None and {"copy", *OF_PHOTOS} & set(wanted):
        likeness = PhotoLikeness(cache.vectors(view), families, model)
    if "copy" in wanted:
        own = np.zeros(len(cache))
        if likeness is not None:
            own[families.rows] = likeness.own
        found += copies(cache, view, data, lambda row: float(own[row]), changed)
    if model is None:
        why = f"view {view} does not tell people apart"
        skipped.update({kind: why for kind in OF_PHOTOS if kind in wanted})
    if likeness is not None and "photo" in wanted:
        found += odd_photos(likeness, rng("photo"))
    if likeness is not None and "double" in wanted:
        found += doubles(likeness, rng("double"))
    if not set(OF_KIN) & set(wanted):
        return found
    if not len(families.relations):
        skipped.update(_skipped(wanted, "no relations"))
        return found
    if head is None:
        skipped.update(_skipped(wanted, "no head; run kinembed head"))
        log.info("no head, so relations are not judged; run kinembed head")
        return found
    evidence = KinEvidence(head, cache, families, rng("relation"))
    kinship = Kinship(families, evidence, rng("unlisted"))
    judged, listed = len(kinship.listed), len(np.unique(np.sort(families.relations, 1), axis=0))
    if judged < listed:
        log.info(
            "%s of %s relations are not judged: the head was trained on these people; a head with "
            "folds judges all", f"{listed - judged:,}", f"{listed:,}",
        )  # fmt: skip
    if not judged:
        why = "the head was trained on these people; a head with folds judges all"
        skipped.update(_skipped(wanted, why))
        return found
    if "person" in wanted:
        found += misplaced(kinship, rng("person"))
    if "relation" in wanted:
        found += unsupported(kinship)
    if "unlisted" in wanted:
        found += unlisted_kin(kinship, rng("unlisted"))
    if "family" in wanted:
        found += weak_families(kinship, rng("family"))
    return found


def _skipped(wanted: Collection[str], why: str) -> dict[str, str]:
    return {kind: why for kind in OF_KIN if kind in wanted}


def _tell(cache: Embeddings, data: Path, missing: int, changed: Collection[str]) -> None:
    """Says which photos are not at hand, or no longer those that were embedded."""
    if missing == len(cache):
        log.info(
            "%s: does not hold the photos, so findings are not drawn, nor copies compared by their "
            "pictures; name the folder that they lie below with --data", data,
        )  # fmt: skip
    elif missing:
        log.info(
            "%s: %s of %s photos are not there; they are judged by their vectors alone", data,
            f"{missing:,}", f"{len(cache):,}",
        )  # fmt: skip
    if changed:
        log.warning(
            "%s: %s since it was embedded (%s), and judged as before; run kinembed embed again",
            data, counted(len(changed), "photo has changed", "photos have changed"), min(changed),
        )  # fmt: skip


def _with_doubt(finding: Finding, changed: Collection[str]) -> Finding:
    """A finding that says where a photo of it is no longer what was embedded."""
    if not set(finding.photos) & set(changed):
        return finding
    return replace(finding, reason=f"{finding.reason}; a photo has changed since it was embedded")


def _same_person(
    config: AuditConfig, cache: Embeddings, families: Families, head: Head | None
) -> tuple[str, SamePerson | None]:
    """What tells photos of one person, and by which view: the head's, else fitted on the cache."""
    if head is not None and head.same_person is not None:
        check_knn_view(cache, head)
        return head.knn_view, head.same_person
    from kinembed.training.same_person import fit_same_person

    view = choose_views(cache, None).knn_view
    everybody = np.arange(len(families.people))
    rng = generator(config.seed, Stream.SAME_PERSON)
    model = fit_same_person(cache.vectors(view), families, everybody, rng)
    if model is None:
        log.info("view %s does not tell people apart, so their photos are not judged", view)
    return view, model


def _row(finding: Finding) -> dict[str, object]:
    people, photos = ([*each, "", ""] for each in (finding.people, finding.photos))
    return {
        "kind": finding.kind, "surety": "" if finding.surety is None else finding.surety,
        "person": people[0], "other_person": people[1],
        "photo": photos[0], "other_photo": photos[1],
        "reason": finding.reason, "cure": finding.cure,
    }  # fmt: skip


def _left_out(findings: Sequence[Finding]) -> list[dict[str, object]]:
    """The rows of a table of exclusions, each once."""
    rows = [
        row
        for finding in findings
        for row in (
            *((photo, "", "") for photo in finding.leave_out.photos),
            *(("", person, "") for person in finding.leave_out.people),
            *(("", *pair) for pair in finding.leave_out.pairs),
        )
    ]
    return [dict(zip(EXCLUDED, row, strict=True)) for row in dict.fromkeys(rows)]


def _draw(
    config: AuditConfig, findings: Sequence[Finding], families: Families, data: Path, run: Path,
    changed: Collection[str] | None,
) -> None:  # fmt: skip
    """Draws the surest findings of each kind, without changed photos; None: nothing is at hand."""
    if not config.pictures:
        return
    for kind in KINDS:
        path = run / PICTURES / f"{kind}.png"
        some = [finding for finding in findings if finding.kind == kind][: config.top]
        if not some or changed is None:
            if path.exists():
                remove(path)  # of another audit
            continue
        from kinembed.report.audit_sheets import draw_sheet  # Pillow takes long to import

        draw_sheet(kind, some, families, data, path, changed)
