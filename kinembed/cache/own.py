"""Which cache a run folder wrote itself: `embed.json` beside it holds the sha256 of its seal.

A repair reads photos and networks that a cache names, so it is for caches of one's own run. A cache
that was copied into the folder has another seal than the folder's record.
"""

import json
from pathlib import Path

from kinembed.cache import EmbeddingCache
from kinembed.checked import Values, read_json
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
