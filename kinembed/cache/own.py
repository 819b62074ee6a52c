"""Which cache a run folder wrote itself: `embed.json` holds the sha256 of its seal, and how.

A repair reads photos and networks that a cache names, so it is for caches of one's own run. A cache
that was copied into the folder has another seal than the folder's record.
"""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from kinembed.backbones.published_weights import is_file
from kinembed.cache import EmbeddingCache
from kinembed.cache.provenance import Provenance, embed_words
from kinembed.checked import Values, read_json
from kinembed.config import EmbedConfig
from kinembed.errors import RunError
from kinembed.io import write_bytes
from kinembed.printable import one_line

NAME = "embed.json"
UNKNOWN = "kinembed embed --backbone NAME, or without a name after kinembed finetune"


def keep_own(path: Path) -> None:
    """Records that its run folder wrote the cache at `path`."""
    if not is_own(path):
        with EmbeddingCache.open(path) as cache:
            made = embed_words(cache.provenance, cache.views)
            content = json.dumps({"seal": cache.footer.seal, "options": made})
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


def how_to_make(path: Path, otherwise: str) -> str:
    """The command that makes a cache again which is gone, as its folder's record tells.

    Args:
        path: of the cache.
        otherwise: what to say where there is no record.
    """
    record = path.with_name(NAME)
    try:
        if record.is_file():  # a pipe would be waited for
            options = Values(read_json(record.read_bytes())).texts("options")
            run = ["--run", str(path.parent)]
            return one_line(shlex.join(["kinembed", "embed", *run, *options]))
    except (OSError, ValueError):
        pass
    return otherwise


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
        own_views = cache.views
        settings = found.settings(own_views if views is None else views)
    for option, place in (("--onnx", settings.onnx), ("--model", settings.model)):
        if place is not None and not place.is_file():
            words = embed_words(found.as_json(), own_views)
            words[words.index(option) + 1] = "FILE"
            again = shlex.join(["kinembed", "embed", "--run", str(path.parent), *words])
            where = "" if place.is_absolute() else ", seen from the folder where it was made"
            raise RunError(
                one_line(
                    f"{path}: names its network {place}{where}, where there is no such file now; "
                    f"put it there, or name its new place, which computes nothing again: {again}"
                )
            )
    places = [str(each) for each in (settings.onnx, settings.model) if each is not None]
    if is_file(settings.backbone, settings.weights):
        places.append(settings.weights)
    if places and not is_own(path):
        raise RunError(
            f"{path}: kinembed embed did not write it into this folder, and it names a network "
            f"elsewhere ({places[0]}), which is not opened; run kinembed embed here"
        )
    return settings, found
