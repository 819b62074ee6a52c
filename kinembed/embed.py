"""The stage `embed`: the vectors of all photos into the embedding cache."""

from __future__ import annotations

import logging
from pathlib import Path

from kinembed.config import EmbedConfig
from kinembed.embedding.by_ray import embed_by_ray
from kinembed.embedding.work import Embedding
from kinembed.printable import counted
from kinembed.progress import Progress, silent

log = logging.getLogger(__name__)


def embed(config: EmbedConfig, data: Path, run: Path, *, progress: Progress = silent) -> Path:
    """Embeds photos with a fine-tuned network, that of the run, or a backbone's own weights.

    With `config.flip`, test-time augmentation, the network also embeds each photo mirrored
    left-right, and each view VIEW has a second one, `VIEW-flip`. Views of an earlier cache of the
    same network stay unless others are asked for.

    With the framing `auto`, a sample of each folder tells where the faces lie on its photos. The
    frames of an earlier cache or of an interrupted embedding stay while they fit.

    Photos with unchanged bytes keep their rows of an earlier cache with the same settings, and an
    interrupted embedding goes on from its finished shards. Equal files of a shard are computed
    once.

    With `config.shard` it computes a part of the shards. Other processes, on this machine or others
    that share the folder, compute the other parts at the same time, and the last one joins them to
    the cache. However many parts there are, the bytes are the same.

    With `config.engine` "ray" actors of Ray compute the shards, on this machine or on a cluster
    that shares the folders; the bytes are the same again.

    Args:
        config: the settings.
        data: the data folder, with the photo folders `train` and `test`.
        run: the run folder; its `embeddings.h5` is replaced at the end.
        progress: shows the progress.

    Returns:
        The path of the cache; of the folder of shards, where other parts are not done.

    Raises:
        KinembedError: photos, weights, views or device are unusable; another process embeds into
            the run folder; or an interrupted embedding had other settings.
    """
    if config.engine == "ray":
        return embed_by_ray(config, data, run, progress)
    with Embedding.open(config, data, run, progress) as work:
        part, parts = config.shard or (1, 1)
        count = len(work.shards)
        own = range(count * (part - 1) // parts, count * part // parts)
        work.compute(own)
        if config.shard is None or work.shards.are_all_there():
            return work.finish()
        there = work.shards.count()
        log.info(
            "%s: part %d of %d %s; %s of %s %s there, and the last part joins them",
            work.shards.folder, part, parts, "is done" if own else work.shards.too_few(parts),
            f"{there:,}", counted(count, "shard"), "is" if there == 1 or count == 1 else "are",
        )  # fmt: skip
        return work.shards.folder
