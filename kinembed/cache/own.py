"""Which cache a run folder wrote itself: `embed.json` beside it holds the sha256 of its seal.

A repair reads photos and networks that a cache names, so it is for caches of one's own run. A cache
that was copied into the folder has another seal than the folder's record.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from kinembed.backbones.published_weights import is_file
from kinembed.cache import EmbeddingCache
from kinembed.cache.provenance import Provenance
from kinembed.checked import Values, read_json
from kinembed.config import EmbedConfig
from kinembed.errors import RunError
from kinembed.io import write_bytes

NAME = "embed.json"


def keep_own(path: Path) -> None:
    """Records that its run folder wrote the cache at `path`."""
    if not is_own(path):
        with EmbeddingCache.open(path) as cache:
            content = json.dumps({"seal": cache.footer.seal})
        write_bytes(path.with_name(NAME), content.encode() + b"\n")


def is_own(path: Path) -> bool:
    """Whether its run folder wrote the cache at `path`, whatever has become of its rows since.

    Raises:
        RunError: it is no embedding cache.
    """
    try:
        record = path.with_name(NAME)
        if not record.is_file():  # a pipe would be waited for
            return False
        seal = Values(read_json(record.read_bytes())).text("seal")
    except (OSError, ValueError):
        return False
    with EmbeddingCache.open(path) as cache:
        return cache.footer.seal == seal


def network_settings(
    path: Path, views: Sequence[str] | None = None
) -> tuple[EmbedConfig, Provenance]:
    """Settings that open the network of a cache, and the cache's provenance.

    Args:
        path: of the cache.
        views: of the settings; None: the cache's.

    Raises:
        RunError: its vectors were imported, or its run folder did not write it and it names a
            network elsewhere, which may be anybody's file.
    """
    with EmbeddingCache.open(path) as cache:
        if "imported" in cache.provenance:
            raise RunError(f"{path}: its vectors were imported, so no photo can be embedded")
        found = Provenance.read(cache.provenance, path)
        settings = found.settings(cache.views if views is None else views)
    places = [str(each) for each in (settings.onnx, settings.model) if each is not None]
    if is_file(settings.backbone, settings.weights):
        places.append(settings.weights)
    if places and not is_own(path):
        raise RunError(
            f"{path}: kinembed embed did not write it into this folder, and it names a network "
            f"elsewhere ({places[0]}), which is not opened; run kinembed embed here"
        )
    return settings, found
