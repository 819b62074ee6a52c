"""The frame of each folder's photos: as it was, as a network was fine-tuned, or by the faces."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence, ValuesView
from pathlib import Path
from typing import TYPE_CHECKING

from kinembed.backbones import Framing
from kinembed.backbones.framing import AUTO
from kinembed.cache import EmbeddingCache, cache_at
from kinembed.cache.provenance import Provenance, framings_of
from kinembed.config import EmbedConfig
from kinembed.data.framings import choose_framings
from kinembed.data.listing import Listing
from kinembed.errors import RunError

if TYPE_CHECKING:
    from kinembed.inference.network import Network  # torch

log = logging.getLogger(__name__)


class Framed(Mapping[str, Framing]):
    """The frame of each photo, by its name."""

    def __init__(self, listing: Listing, framings: Mapping[str, Framing]) -> None:
        self._listing = listing
        self._framings = {key: framings[key] for key in listing.by_folder}

    def __getitem__(self, name: str) -> Framing:
        return self._framings[self._listing.folder(self._listing.row(name))]

    def __iter__(self) -> Iterator[str]:
        return self._listing.names()

    def __len__(self) -> int:
        return len(self._listing)

    def values(self) -> ValuesView[Framing]:
        """The frames of all folders."""
        return self._framings.values()


def frames_of(
    config: EmbedConfig,
    network: Network,
    folders: Mapping[str, Sequence[Path]],
    cache: Path,
    partial: Path,
) -> dict[str, Framing]:
    """The frame of each folder's photos."""
    if config.framing == AUTO and network.asked != AUTO and network.framing is not None:
        log.info("framing %s, as in fine-tuning; name another with --framing", network.asked)
        return dict.fromkeys(folders, network.framing)
    before = _before(network, folders, cache, partial)
    if network.framing is not None:
        before = dict.fromkeys(folders, network.framing) | before
    return choose_framings(network.backbone, folders, config.framing, before)


def _before(
    network: Network, folders: Iterable[str], cache: Path, partial: Path
) -> dict[str, Framing]:
    """The frames that an interrupted embedding or the run's cache has by itself."""
    try:
        settings = json.loads((partial / "settings.json").read_bytes())
        backbone, framings = settings["backbone"], framings_of(settings, [*folders])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        if not cache_at(cache).is_file():
            return {}
        try:
            with EmbeddingCache.open(cache) as earlier:
                provenance = Provenance.read(earlier.provenance, cache)
        except RunError:  # of another version, damaged or imported: its rows are not kept either
            return {}
        if provenance.command["framing"] != AUTO:
            return {}
        backbone, framings = provenance.backbone, provenance.framings()
    side = network.backbone.framing.side
    if backbone != network.backbone.name or any(each.side != side for each in framings.values()):
        return {}
    return framings
