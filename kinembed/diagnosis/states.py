"""What examinations tell of the folders, for whoever chooses the next command."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kinembed.data.photo_files import PhotoFiles


@dataclass
class DataState:
    """What a data folder has.

    Attributes:
        photos: what `embed` would see; None where it would stop.
        loose: photos below the folder, where there is no `train`.
        related: whether there are usable relations.
        pairs: whether there are pairs to score.
    """

    photos: PhotoFiles | None = None
    loose: int = 0
    related: bool = False
    pairs: bool = False


@dataclass
class RunState:
    """What a run folder has that is sound and fits.

    Attributes:
        model: the network that `finetune` trained.
        cache: the embedding cache.
        damaged: there is a cache, but not a sound one.
        place: the run folder of a cache that the head learnt from, where that is missing, not sound
            or older than its photos.
        album: `relate` wrote its people here.
        folds: what networks of `finetune --folds` wait for: the words of a command; empty: there
            are none.
        stale: photos came, went or changed since it was made.
        options: of `embed`, that made the cache or the interrupted embedding.
        partial: there is an interrupted embedding.
        busy: another process embeds into it now.
        head: of the cache.
        chance: its AUC, where it ranks held-out pairs no better than chance; None where better.
        few_families: how many families it holds out, where these are too few for a calibration.
        left: caches that the head learnt from and that are there and sound, where one is gone.
        calibration: of the head.
        evaluated: the figures are of this head.
        scored: the submission is younger than the head and the calibration.
    """

    model: bool = False
    cache: bool = False
    damaged: bool = False
    place: Path | None = None
    album: bool = False
    folds: str = ""
    stale: bool = False
    options: str = ""
    partial: bool = False
    busy: bool = False
    head: bool = False
    chance: float | None = None
    few_families: int = 0
    left: tuple[Path, ...] = ()
    calibration: bool = False
    evaluated: bool = False
    scored: bool = False
    files: list[str] = field(default_factory=list)
