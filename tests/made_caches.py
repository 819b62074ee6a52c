"""What tests look at in the cache of a run, and how they harm it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from kinembed.backbones.embedder import Embedder
from kinembed.cache import EmbeddingCache


def opened(run: Path) -> EmbeddingCache:
    return EmbeddingCache.open(run / "embeddings.h5")


def names_in(run: Path) -> list[str]:
    with opened(run) as cache:
        return [name.decode() for name in cache.names.tolist()]


def content(run: Path) -> dict[str, bytes]:
    """Names, digests and vectors of a run's cache, byte for byte."""
    with opened(run) as cache:
        views = {view: cache.vectors(view).tobytes() for view in cache.views}
        return {"names": cache.names.tobytes(), "digests": cache.digests.tobytes(), **views}


@contextmanager
def computed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Counts the photos that go through the network."""
    counts: list[int] = []
    forward = Embedder.forward

    def counting(self: Embedder, photos: torch.Tensor) -> dict[str, torch.Tensor]:
        counts.append(len(photos))
        return forward(self, photos)

    with monkeypatch.context() as patch:
        patch.setattr(Embedder, "forward", counting)
        yield counts


def damage(run: Path, dataset: str, byte: int) -> None:
    path = run / "embeddings.h5"
    whole = bytearray(path.read_bytes())
    with opened(run) as cache:
        whole[cache.footer.extents[dataset].offset + byte] ^= 16
    path.write_bytes(whole)
