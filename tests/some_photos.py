"""What tests of photos in shards, and of photos within other files, share."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from kinembed.cache import EmbeddingCache
from kinembed.config import EmbedConfig
from kinembed.embed import embed


def a_few(faces: Path, data: Path) -> Path:
    """A family's photos and eight test photos of a data set, in an empty data folder."""
    for name in ("train/F0002", "test"):
        shutil.copytree(faces / name, data / name)
    for path in sorted((data / "test").iterdir())[8:]:
        path.unlink()
    return data


def check_packed(asked: str, folder: Path, on_cpu: EmbedConfig, place: Path) -> None:
    """Photos within other files are embedded as those of a folder, and once."""
    config = replace(on_cpu, backbone="mtcnn-onet", views=("max",))
    one = embed(replace(config, photos=(asked,)), place, place / "one")
    other = embed(replace(config, photos=(str(folder),)), place, place / "other")
    with EmbeddingCache.open(one) as a, EmbeddingCache.open(other) as b:
        assert np.array_equal(a.vectors("max"), b.vectors("max"))
        assert a.names.tolist() == b.names.tolist() and a.people.tolist() == b.people.tolist()
        assert np.array_equal(a.digests, b.digests)
    before = one.stat().st_mtime_ns
    assert embed(replace(config, photos=(asked,)), place, place / "one") == one
    assert one.stat().st_mtime_ns == before
