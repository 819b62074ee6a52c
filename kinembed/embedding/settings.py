"""The settings of an embedding: as asked, as its earlier cache has them, and as its shards do."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinembed.backbones import Framing
from kinembed.cache import EmbeddingCache, cache_at
from kinembed.cache.provenance import (
    Provenance,
    check_provenance,
    embed_words,
    vector_settings,
)
from kinembed.checked import Bounds, Values, read_json
from kinembed.config import DTYPES, Dtype, EmbedConfig
from kinembed.errors import RunError
from kinembed.io import write_bytes
from kinembed.printable import at_run, one_line
from kinembed.views import TTA, parts_of, with_tta, without_tta

if TYPE_CHECKING:
    from kinembed.backbones.mapper import Mapper  # torch
    from kinembed.inference.network import Network

log = logging.getLogger(__name__)


def as_earlier(config: EmbedConfig, path: Path, folder: Path, network: Network) -> EmbedConfig:
    """The settings, with those of before where no others are named.

    Args:
        config: the settings.
        path: the run's cache, whose views and number format stay.
        folder: of the shards of an interrupted embedding, whose number format comes first.
        network: which made the one and the other, or nothing of them stays.
    """
    usual, (earlier, dtype) = network.ready.names, _earlier(path, network.digest)
    if config.dtype is None:
        begun = None if config.restart else _begun(folder, network.digest)
        config = replace(config, dtype=begun or dtype)
        if begun is not None and begun != dtype:
            log.info(
                "%s: goes on with numbers of %s; --restart and --dtype begin with others",
                folder, begun,
            )  # fmt: skip
        elif dtype != "float32":
            log.info("%s: its numbers stay %s; --dtype names another format", cache_at(path), dtype)
    more = [view for view in without_tta(earlier) if view not in usual]
    if config.views is None and more:
        config = replace(config, views=(*usual, *more))
    if config.flip is None:
        config = replace(config, flip=any(view.endswith(TTA) for view in earlier))
    views = config.views or usual
    now = {*views, *(with_tta(views) if config.flip else ())}
    if dropped := [view for view in earlier if view not in now]:
        log.info(
            "%s: views %s are dropped, as others are asked for", cache_at(path), ",".join(dropped)
        )
    elif any(view not in usual for view in earlier):
        log.info(
            "%s: its views %s are kept; --views and --no-flip drop some",
            cache_at(path),
            ",".join(earlier),
        )
    return config


def _earlier(path: Path, model: str) -> tuple[tuple[str, ...], Dtype]:
    """Views and number format of a cache of the same network; the usual where there is none."""
    with suppress(RunError):  # which is said where its rows would be kept
        if cache_at(path).is_file():
            with EmbeddingCache.open(path) as cache:
                if cache.provenance["model"] == model:
                    return cache.views, _known(cache.provenance.get("dtype")) or "float32"
    return (), "float32"


def _begun(folder: Path, model: str) -> Dtype | None:
    """Number format of an interrupted embedding by the same network; None where there is none."""
    try:
        settings = read_settings(folder)
    except RunError:  # which is said where its shards would be kept
        return None
    return _known(settings.get("dtype")) if settings.get("model") == model else None


def _known(dtype: object) -> Dtype | None:
    return next((each for each in DTYPES if each == dtype), None)


def warn_of_views(config: EmbedConfig, network: Network, run: Path) -> None:
    """Says where the head of `finetune` compares a view that is not made."""
    if network.finetuned is None or config.views is None:
        return
    if not set(parts_of(network.finetuned.view)) <= set(config.views):
        log.warning(
            "views %s: the head of kinembed finetune compares %s; run %s before score",
            ",".join(config.views), network.finetuned.view, at_run("kinembed head", run),
        )  # fmt: skip


def settings_of(
    config: EmbedConfig, network: Network, mapper: Mapper, framings: Mapping[str, Framing]
) -> dict[str, Any]:
    """The settings that all shards of one embedding share, and what made the first of them."""
    provenance = _provenance(config, network, mapper, framings)
    return vector_settings(provenance) | {
        "views": list(network.ready.names),
        "flip": config.flip,
        "batch_size": config.batch_of(mapper.device.type),
        "shard_photos": config.shard_photos,
        "skip_unreadable": config.skip_unreadable,
        **({"rehash": True} if config.rehash else {}),
        "provenance": provenance,
    }


def _provenance(
    config: EmbedConfig, network: Network, mapper: Mapper, framings: Mapping[str, Framing]
) -> dict[str, Any]:
    import torch

    return Provenance.of(
        config,
        network.backbone,
        network.digest,
        framings=framings,
        precision=mapper.precision,
        device=mapper.device.type,
        torch=torch.__version__,
        split=network.split,
        finetuned=network.finetuned,
    ).as_json()


def keep_settings(
    folder: Path, settings: Mapping[str, Any], restart: bool = False
) -> dict[str, Any]:
    """Refuses, or deletes, shards with other settings, and writes the settings.

    Args:
        folder: of the shards.
        settings: as JSON types; `provenance` among them may differ.
        restart: delete existing shards.

    Returns:
        The provenance of all shards: that of the first process.

    Raises:
        RunError: there are shards with other settings; says which differ.
    """
    path = folder / "settings.json"
    if path.is_file() and not restart:
        before: dict[str, Any] = {}
        try:
            before = read_settings(folder)
            every = {**settings, **before}
            different = [
                key for key in every if before.get(key) != settings.get(key) and key != "provenance"
            ]
        except RunError:
            different = ["settings.json"]
        if different:
            named = [_option(key, before.get(key)) for key in different]
            go_on = " ".join(named) if all(named) else how_to_go_on(folder) if before else "that"
            raise RunError(
                f"{folder}: holds shards of an interrupted embedding with another "
                f"{', '.join(different)}; go on with {go_on}, or forget it with --restart"
            )
        provenance: dict[str, Any] = before["provenance"]
        return provenance
    for stale in [*folder.glob("*.json"), *folder.glob("*.h5")]:
        stale.unlink()
    write_bytes(path, json.dumps(settings).encode())
    return dict(settings["provenance"])


def how_to_go_on(folder: Path) -> str:
    """The command that goes on with shards, as their settings tell.

    Raises:
        RunError: they are missing or malformed.
    """
    settings, usual = read_settings(folder), EmbedConfig()
    views = tuple(settings["views"])
    try:
        made = settings["provenance"]
        words = embed_words(made, with_tta(views) if settings.get("flip") else views)
        batch_size = usual.batch_of(str(made["device"]))
    except (KeyError, TypeError, ValueError):  # a provenance that lacks some
        return "kinembed embed as before"
    defaults = {
        "batch_size": batch_size, "shard_photos": usual.shard_photos,
        "skip_unreadable": False, "rehash": False,
    }  # fmt: skip
    for key, default in defaults.items():
        if settings.get(key, default) != default:
            words += _option(key, settings[key]).split()
    return one_line(shlex.join(["kinembed", "embed", "--run", str(folder.parent), *words]))


def _option(key: str, value: Any) -> str:
    """The option that sets an embedding's setting as it was; empty where no option alone does."""
    option = f"--{key.replace('_', '-')}"
    if key in ("shard_photos", "batch_size", "dtype", "precision", "device"):
        return f"{option} {shlex.quote(one_line(str(value)))}"
    if key == "views":
        return f"{option} {shlex.quote(one_line(','.join(value)))}"
    if key == "flip":
        return option if value else "--no-flip"
    if key in ("skip_unreadable", "rehash"):
        return option if value else f"no {option}"
    return ""


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of shards.

    Raises:
        RunError: they are missing or malformed.
    """
    try:
        settings = read_json((folder / "settings.json").read_bytes())
        values = Values(settings)
        values.texts("views")
        check_provenance(values.object("provenance").content)
        for key in ("batch_size", "shard_photos"):
            values.whole(key, Bounds(least=1))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{folder / 'settings.json'}: is not understood ({error}); delete {folder}, and run "
            "kinembed embed again"
        ) from None
    return settings
