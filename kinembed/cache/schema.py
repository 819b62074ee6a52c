"""The schema of an embedding cache, checked on the footer."""

import re

from kinembed.cache.footer import Footer

SCHEMA = 5
MOST_MODEL = 256  # letters of the digest that names it
BLOCK = 64  # rows that share a checksum

_TYPES = {
    "names": re.compile(r"\|S[0-9]+"),
    "people": re.compile(r"\|S[0-9]+"),
    "digests": re.compile(r"\|u1"),
    "stats": re.compile(r"<i8"),
    "views": re.compile(r"<f[24]|\|i1"),
    "scales": re.compile(r"<f4"),
    "checksums": re.compile(r"\|u1"),
}
_WIDTHS = {"digests": 32, "stats": 2, "checksums": 32}


def views_of(footer: Footer) -> tuple[str, ...]:
    """Names of the views, sorted."""
    views = (name.partition("/")[2] for name in footer.extents if name.startswith("views/"))
    return tuple(sorted(views))


def check_schema(footer: Footer) -> None:
    """Refuses a file that is no cache.

    Raises:
        ValueError: the reason, in a few words.
    """
    schema = footer.about.get("schema")
    if type(schema) is not int or schema != SCHEMA:
        raise ValueError(f"schema {ascii(schema)[:20]}, this version reads {SCHEMA}")
    data = [name for name in footer.extents if not name.startswith("checksums/")]
    wanted = {"names", "people", "digests", "stats", *(f"checksums/{name}" for name in data)}
    if missing := sorted(wanted - set(footer.extents)):
        raise ValueError(f"it has no {missing[0]}")
    scaled = {
        f"scales/{n}" for n in views_of(footer) if footer.extents[f"views/{n}"].dtype == "|i1"
    }
    if scaled != {name for name in data if name.startswith("scales/")}:
        raise ValueError("views of bytes and scales do not fit each other")
    if len(footer.extents) != 2 * len(data) or not views_of(footer):
        raise ValueError("its checksums are not of its datasets, or it has no view")
    rows = footer.extents["names"].shape[:1]
    blocks = (-(-rows[0] // BLOCK),)
    for name, extent in footer.extents.items():
        kind, _, rest = name.partition("/")
        if kind not in _TYPES or (kind in ("views", "scales") and (not rest or "/" in rest)):
            raise ValueError(f"dataset {name!r} is none of a cache's")
        if not _TYPES[kind].fullmatch(extent.dtype):
            raise ValueError(f"{name} is of type {extent.dtype!r}")
        width = (
            () if kind in ("names", "people", "scales") else (_WIDTHS.get(kind, extent.shape[-1]),)
        )
        if extent.shape != ((blocks if kind == "checksums" else rows) + width):
            raise ValueError(f"{name} is of shape {extent.shape}: names, digests and views differ")
