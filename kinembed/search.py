"""The stage `search`: who in a cache is most likely kin of one person."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from kinembed.cache import Embeddings
from kinembed.cache.stacked import open_caches
from kinembed.config import SearchConfig
from kinembed.data.photos_now import photos_now
from kinembed.errors import KinembedError
from kinembed.evaluation.published import choose_head
from kinembed.heads.kept import caches_of
from kinembed.inference.answerer import Answerer
from kinembed.inference.gallery import FILES, Groups, open_gallery
from kinembed.inference.probe import find_probe
from kinembed.inference.searching import (
    STRANGERS,
    Found,
    SearchResult,
    search_gallery,
    shown_shares,
    shown_strangers,
)
from kinembed.inference.words import KEYS
from kinembed.io import write_csv
from kinembed.outputs import check_outputs, check_suffix
from kinembed.printable import counted
from kinembed.progress import Progress, silent

log = logging.getLogger(__name__)

SIDE = 224  # of the probe's face on the picture, pixels
COLUMNS = (
    *("rank", "answer", "name", *KEYS),
    *("far", "strangers", "log_odds", "photos", "photo"),
)


def search(
    config: SearchConfig, data: Path, run: Path, *, progress: Progress = silent
) -> SearchResult:
    """Ranks the people of a cache by how likely they are kin of one person.

    Who is likely that person is set apart. What is returned depends on the person and the cache
    alone: it is computed exactly, whatever is ruled out on the way.

    Args:
        config: the person and the settings.
        data: the folder that the cache's photos lie below, for the picture.
        run: the run folder with `embeddings.h5`; its own head answers, else the packaged one. A
            gallery is represented once and kept there.
        progress: shows the progress.

    Raises:
        KinembedError: the person has no face, the gallery has no people, or what answers is
            missing or of another network.
    """
    if config.top < 1:
        raise KinembedError(f"top: found {config.top}, wanted 1 or more")
    check_suffix(".png", config.picture)
    caches = caches_of(run, config.caches, choose_head(run, config.head))
    check_outputs([config.out, config.picture], [config.photo, *caches], run, data, COLUMNS)
    answerer = Answerer.open(
        run, config.head, device=config.device, precision=config.precision, progress=progress
    )
    with open_caches(caches) as cache:
        answerer.cache_photos(cache, np.empty(0, np.intp))  # refuses that of another network
        groups = Groups.of(cache, config.by)
        probe = find_probe(config, cache, answerer, progress)
        path = run / FILES[config.by] if run.is_dir() else None
        with progress("Gallery", len(groups.rows)) as bar:
            gallery = open_gallery(path, answerer.head, cache, groups, config.by, bar.advance)
        result = search_gallery(config, answerer, cache, groups, gallery, probe)
        if config.out is not None:
            result.files["out"] = write_csv(config.out, _rows(result), COLUMNS)
        if config.picture is not None:
            result.files["picture"] = _draw(result, config.picture, data, cache)
    return result


def _rows(result: SearchResult) -> list[dict[str, Any]]:
    """The table that `--out` writes."""
    groups = (("same_person", result.same), ("kin", result.kin))
    return [
        {"rank": rank if answer == "kin" else "", "answer": answer}
        | {name: value for name, value in asdict(each).items() if name != "known"}
        for answer, people in groups
        for rank, each in enumerate(people, 1)
    ]


def _draw(result: SearchResult, path: Path, data: Path, cache: Embeddings) -> Path:
    """Draws a sheet of those whose photos are still the files that were embedded."""
    from kinembed.report.search_sheet import Card, draw_sheet

    def card(found: Found, title: str) -> Card:
        same, kin = shown_shares(found)
        said = f"kin {kin}, same {same}"
        photo = None if found.photo in changed else data / found.photo
        return Card(title, photo, (said, f"{STRANGERS}: {shown_strangers(found)}"))

    probe = result.probe
    everybody = (*result.same, *result.kin)
    shown = [*([] if not probe.photo else [probe.photo]), *(each.photo for each in everybody)]
    now = photos_now(cache, data, cache.find(shown))
    changed = {cache.names[row].decode() for row in now.changed}
    if changed:
        log.warning(
            "%s: %s since it was embedded (%s), so the picture leaves it out; run kinembed embed "
            "again", data, counted(len(changed), "photo has changed", "photos have changed"),
            min(changed),
        )  # fmt: skip
    crop = probe.crop
    if crop is None and probe.photo not in changed and (data / probe.photo).is_file():
        from kinembed.backbones import Framing
        from kinembed.data.photos import read_photo

        crop = read_photo(data / probe.photo, Framing(SIDE, SIDE))[1]
    groups = [
        (
            "the same person, or rather that than kin",
            [card(each, each.name) for each in result.same],
        ),
        (
            f"most likely kin among {result.gallery}",
            [card(each, f"{rank}. {each.name}") for rank, each in enumerate(result.kin, 1)],
        ),
    ]
    if not any((data / each.photo).is_file() for each in everybody):
        log.warning("%s: holds none of the photos, so the picture shows no faces; name the folder "
                    "that they lie below with --data", data)  # fmt: skip
    return draw_sheet(probe.name, probe.note, crop, groups, result.notes, path)
