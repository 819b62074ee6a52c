"""What a sealed file has to hold to be an embedding cache."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from kinembed.cache.footer import Seal

SCHEMA = 2
BLOCK = 64  # rows that share a checksum
FLIP = "-flip"  # ends the name of a view of photos that were mirrored left-right
JOIN = "+"  # between the views of a composite one, so that no view's own name may hold it

_TYPES = {
    "names": re.compile(r"\|S[0-9]+"),
    "digests": re.compile(r"\|u1"),
    "stats": re.compile(r"<i8"),
    "views": re.compile(r"<f[24]"),
    "checksums": re.compile(r"\|u1"),
}
_WIDTHS = {"digests": 32, "stats": 2, "checksums": 32}


def views_of(seal: Seal) -> tuple[str, ...]:
    """Names of the views."""
    return tuple(name.partition("/")[2] for name in seal.extents if name.startswith("views/"))


def base_views(views: Sequence[str]) -> tuple[str, ...]:
    """The views without those of mirrored photos; of a mirrored one alone, the name it goes by."""
    return tuple(dict.fromkeys(view.removesuffix(FLIP) for view in views))


def with_flips(views: Sequence[str]) -> tuple[str, ...]:
    """Each view, and that of the mirrored photos behind it."""
    return tuple(name for view in views for name in (view, view + FLIP))


def decisive(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What of the provenance changes numbers: of the versions, torch's alone."""
    found = {k: v for k, v in provenance.items() if k not in ("command", "versions", "imported")}
    versions = provenance.get("versions")
    found["torch"] = versions.get("torch") if isinstance(versions, dict) else None
    result: dict[str, Any] = json.loads(json.dumps(found))  # as it comes back from a file
    return result


def check_structure(seal: Seal) -> None:
    """Refuses a sealed file that is no cache.

    Raises:
        ValueError: in a few words, why.
    """
    schema = seal.about.get("schema")
    if schema != SCHEMA:
        raise ValueError(f"schema {str(schema)[:20]}, this version reads {SCHEMA}")
    if not isinstance(seal.about.get("model"), str):
        raise ValueError("its provenance names no model")
    data = [name for name in seal.extents if not name.startswith("checksums/")]
    wanted = {"names", "digests", "stats", *(f"checksums/{name}" for name in data)}
    if missing := sorted(wanted - set(seal.extents)):
        raise ValueError(f"it has no {missing[0]}")
    if len(seal.extents) != 2 * len(data) or not views_of(seal):
        raise ValueError("its checksums are not of its datasets, or it has no view")
    rows = seal.extents["names"].shape[:1]
    blocks = (-(-rows[0] // BLOCK),)
    for name, extent in seal.extents.items():
        kind, _, rest = name.partition("/")
        if kind not in _TYPES or (kind == "views" and (not rest or "/" in rest)):
            raise ValueError(f"dataset {name!r} is none of a cache's")
        if not _TYPES[kind].fullmatch(extent.dtype):
            raise ValueError(f"{name} is of type {extent.dtype!r}")
        width = () if kind == "names" else (_WIDTHS.get(kind, extent.shape[-1]),)
        if extent.shape != ((blocks if kind == "checksums" else rows) + width):
            raise ValueError(f"{name} is of shape {extent.shape}: names, digests and views differ")
