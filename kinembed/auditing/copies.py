"""One photograph under two people, or on both sides of a split."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from kinembed.auditing.finding import Finding, LeaveOut
from kinembed.cache import Embeddings


def same_bytes(cache: Embeddings) -> list[Finding]:
    """Photos whose files are equal, byte for byte, under two people or in `test/` and elsewhere."""
    digests = np.ascontiguousarray(cache.digests)
    known = np.flatnonzero(digests.any(1))  # imported ones are 0
    keys = digests[known].view("V32").ravel()
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.append(True, keys[order][1:] != keys[order][:-1]))
    found = []
    for group in np.split(known[order], starts[1:]) if len(known) else []:
        rows = sorted(group.tolist())
        for one, other in pairwise(rows):
            people = tuple(cache.people[row].decode() for row in (one, other))
            photos = tuple(cache.names[row].decode() for row in (one, other))
            if people[0] == people[1]:
                continue
            found.append(
                Finding(
                    "copy", 1.0, "the same file, byte for byte", "keep it under one person",
                    people, photos, LeaveOut(photos=photos),
                )
            )  # fmt: skip
    return found
