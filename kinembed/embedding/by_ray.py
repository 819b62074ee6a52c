"""An embedding whose shards actors of Ray compute, on this machine or on a cluster."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from kinembed.cache import cache_at
from kinembed.cluster.pool import EMBEDDING, compute_shards
from kinembed.cluster.ray_pool import ray_pool
from kinembed.config import EmbedConfig
from kinembed.embedding.joining import join_shards
from kinembed.embedding.kept_listing import FILE as LISTING
from kinembed.embedding.kept_listing import asked_photos, list_and_keep
from kinembed.embedding.shards import locked
from kinembed.embedding.work import Embedding
from kinembed.io import check_writable, make_folder
from kinembed.progress import Progress


def embed_by_ray(config: EmbedConfig, data: Path, run: Path, progress: Progress) -> Path:
    """Lets actors of Ray compute the shards, and joins them. This process needs no network."""
    path, folder = run / "embeddings.h5", run / "embed.partial"
    check_writable(path)
    if config.restart:  # here, as an actor that starts again would delete what is done
        with locked(folder):
            for each in [*folder.glob("*.json"), *folder.glob("*.h5")]:
                each.unlink()
    alike = replace(config, shard=(1, 1), restart=False, engine="local")
    opening = partial(Embedding.open, alike, data, run, is_listed=True)
    make_folder(folder)
    try:
        with TemporaryDirectory(prefix="seen-", dir=folder) as seen:
            token = Path(seen).resolve() / "token"
            token.touch()
            with ray_pool(
                config.address, config.actors, config.actor_cpus, config.actor_gpus,
                [opening, token, Path.cwd()],
            ) as pool:  # fmt: skip
                list_and_keep(folder, *asked_photos(config, data))
                are_there = compute_shards(pool, folder, EMBEDDING, progress)
    finally:
        if not (folder / "settings.json").exists():  # nothing has begun
            with suppress(OSError):
                for each in (folder / LISTING, (folder / LISTING).with_suffix(".lock")):
                    each.unlink(missing_ok=True)
                folder.rmdir()
    if not are_there:
        return cache_at(path)
    return join_shards(
        run, data, config.photos, config.people_table, config.in_shards, is_shared=True
    )
