"""Computes the damaged rows of a cache again."""

from __future__ import annotations

import logging
from pathlib import Path

from kinembed.backbones.device import choose_device
from kinembed.backbones.published_weights import is_file
from kinembed.cache import EmbeddingCache, cache_at
from kinembed.cache.own import is_own
from kinembed.cache.provenance import Provenance
from kinembed.data.photo_files import FOLDERS
from kinembed.embedding.work import Embedding
from kinembed.errors import RunError
from kinembed.inference.network import open_network
from kinembed.progress import Progress, silent

log = logging.getLogger(__name__)


def repair(
    run: Path,
    data: Path,
    *,
    photos: tuple[str, ...] | None = None,
    weights: str | None = None,
    model: Path | None = None,
    onnx: Path | None = None,
    progress: Progress = silent,
) -> Path:
    """Computes the damaged rows of a run's own cache again, with the cache's settings.

    It reads photos of `train` and `test` below `data`, the run's `model.pt` and published weights.
    Any other place that the cache names has to be named here, too. If only some of its views have a
    mirrored one, as after a merge, it computes all rows, and all views get a mirrored one.

    Args:
        run: the run folder.
        data: the data folder.
        photos: as of `EmbedConfig`, and `weights`, `model` and `onnx` too: as the cache names them.
        weights: as above.
        model: as above.
        onnx: as above.
        progress: shows the progress.

    Raises:
        KinembedError: `kinembed embed` did not write the cache into this folder, the cache names
            another place, or its photos or model are missing.
    """
    path = run / "embeddings.h5"
    with EmbeddingCache.open(path) as cache:
        provenance, views = Provenance.read(cache.provenance, path), cache.views
    if not is_own(path):
        raise RunError(
            f"{path}: kinembed embed did not write it into this folder, and a repair reads the "
            "photos and the network that a cache names; run kinembed embed with what it was made of"
        )
    config = provenance.settings(views)
    is_below = set(config.photos) <= {*FOLDERS}
    named = {
        "--photos": (",".join(config.photos), ",".join(photos or ()), is_below),
        "--weights": (config.weights, weights or "", not is_file(config.backbone, config.weights)),
        "--model": (str(config.model or ""), str(model or ""), config.model is None),
        "--onnx": (str(config.onnx or ""), str(onnx or ""), config.onnx is None),
    }
    for option, (wanted, given, is_safe) in named.items():
        if given != wanted and (given or not is_safe):
            raise RunError(
                f"{path}: was made with {option} {wanted!r}, found "
                f"{repr(given) if given else 'none'}; name it as it was: kinembed cache verify "
                f"--repair {option} PATH"
            )
    log.info(
        "%s: repairs it with %s%s, from the photos of %s below %s", cache_at(path),
        config.onnx or config.model or config.backbone or run / "model.pt",
        f" (weights {config.weights})" if config.backbone else "", ", ".join(config.photos), data,
    )  # fmt: skip
    if open_network(config, run, choose_device("cpu"), progress).digest != provenance.model:
        raise RunError(
            f"{path}: was made by another model than the present one; run kinembed embed, which "
            "computes all of it"
        )
    with Embedding.open(config, data, run, progress, provenance.framings()) as work:
        work.compute(range(len(work.shards)))
        return work.finish()
