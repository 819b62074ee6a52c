"""What the frozen stages of a network give of each photo: computed once, kept for all steps."""

import logging
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from kinembed.arrays import Rows
from kinembed.memory import free_memory
from kinembed.progress import Progress
from kinembed.training.frozen_batchnorm import ReplicatedForward
from kinembed.training.trainer import blocks

log = logging.getLogger(__name__)

BATCH = 32  # photos in a pass
MAPPED = 512  # photos between two looks at the progress
MOST_MEMORY = 0.5  # share of what is free that they may take


class FrozenMaps:
    """Maps of photos, and of mirrored ones where these are asked for.

    Args:
        tables: (N, ..., C) of the photos as they are, and mirrored.
    """

    def __init__(self, tables: list[Tensor]) -> None:
        self.tables = tables

    def take(self, rows: Rows, mirrored: Tensor | None = None) -> Tensor:
        """Maps (M, C, ...) of photos (M,), mirrored where flags (M,) say so."""
        index = torch.from_numpy(rows)
        maps = self.tables[0][index]  # (M, ..., C)
        if mirrored is not None:
            maps[mirrored] = self.tables[1][index[mirrored]]
        return maps.movedim(-1, 1)


def run_once(
    forward: ReplicatedForward,
    take: Callable[[Rows, bool], Tensor],
    photos: int,
    mirrored: bool,
    progress: Progress,
) -> FrozenMaps | None:
    """Runs the part of a network that does not learn on all photos.

    Args:
        forward: the network, whose part that does not learn is skipped.
        take: photos (M,), mirrored or not, as the network takes them.
        photos: N, how many there are.
        mirrored: mirrored photos are asked for, too.
        progress: shows how far it is.

    Returns:
        None where they take too much memory; logs how much.
    """
    versions = (False, True)[: 1 + mirrored]
    (one,) = forward.maps([take(np.zeros(1, np.intp), False)])  # (1, C, ...)
    table = (photos, *one.movedim(1, -1).shape[1:])
    needed, free = len(versions) * photos * one.nbytes, free_memory()
    if free is not None and needed > MOST_MEMORY * free:
        log.info(
            "frozen stages run in every step: what they give of all photos takes %.1f GB, and "
            "%.1f GB are free", needed / 1e9, free / 1e9,
        )  # fmt: skip
        return None
    tables = [torch.empty(table, dtype=one.dtype) for _ in versions]
    with progress("frozen stages", len(versions) * photos) as bar:
        for mirror, kept in zip(versions, tables, strict=True):
            for rows in blocks(np.arange(photos), MAPPED):
                batches = [take(part, mirror) for part in blocks(rows, BATCH)]
                kept[rows[0] : rows[-1] + 1] = torch.cat(forward.maps(batches)).movedim(1, -1)
                bar.advance(len(rows))
    return FrozenMaps(tables)
