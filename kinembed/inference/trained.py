"""Says where somebody whom a question is about trained the head that answers it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kinembed.arrays import Rows

if TYPE_CHECKING:
    from kinembed.cache import Embeddings
    from kinembed.heads.base import Head


def same_bytes(cache: Embeddings, digests: Sequence[str]) -> Rows:
    """The rows of a cache's photos that are the same files, by their sha256 in hex."""
    found = np.zeros(len(cache), np.bool_)
    for digest in digests:
        found |= (cache.digests == np.frombuffer(bytes.fromhex(digest), np.uint8)).all(1)
    return np.flatnonzero(found)


def trained_on(head: Head, cache: Embeddings, rows: Rows) -> list[str]:
    """A line for each person on some photos of a cache who trained a head, or a member of it."""
    trained = {*head.trained, *(person for fold in head.folds for person in fold)}
    known = {each.decode() for each in cache.people[rows].tolist()} & trained
    return [
        f"the head was trained on {person}, so for their kin these numbers are too good"
        for person in sorted(known)
    ]
