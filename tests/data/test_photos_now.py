"""Which photos are still what was embedded."""

import os
from pathlib import Path

import numpy as np

from kinembed.cache import EmbeddingCache
from kinembed.data.photos_now import photos_now


def test_gone_and_changed_files_are_found_and_touched_ones_are_not(run: Path, data: Path) -> None:
    with EmbeddingCache.open(run / "embeddings.h5") as cache:
        names = [name.decode() for name in cache.names.tolist()]
        for name in names:
            os.utime(data / name, ns=(5, 5))
        now = photos_now(cache, data)
        assert not now.missing and not now.changed
        (data / names[0]).unlink()
        (data / names[1]).write_bytes(b"another")
        content = bytearray((data / names[2]).read_bytes())
        content[-1] ^= 1
        (data / names[2]).write_bytes(content)
        now = photos_now(cache, data)
        assert now.missing == {0} and now.changed == {1, 2}
        assert photos_now(cache, data, np.array([2, 5])).changed == {2}
        assert len(photos_now(cache, data / "elsewhere").missing) == len(names)
