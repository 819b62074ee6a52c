"""Pairs that actors of Ray score, block against block, in shards."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kinembed import __version__
from kinembed.arrays import Rows
from kinembed.cache.stacked import open_caches
from kinembed.cluster.pool import SCORING, compute_shards
from kinembed.cluster.ray_pool import ray_pool
from kinembed.config import ScoreConfig
from kinembed.data.pair_files import read_pairs
from kinembed.errors import KinembedError
from kinembed.evaluation.published import read_any_head
from kinembed.heads.blockwise import BATCH, Blocks, BlockScorer, photos_in, scratch
from kinembed.heads.pair_shards import PLAN, PairShards
from kinembed.heads.representations import Representations
from kinembed.io import locked_folder
from kinembed.printable import counted
from kinembed.progress import Progress
from kinembed.scoring.scorer import GIGA, Ahead, ChangedError, Scorer

log = logging.getLogger(__name__)

PARTIAL = "score.partial"  # the folder of the shards of a scoring by Ray


class Scoring:
    """A scoring, ready to be computed shard by shard; see `PairShards`.

    Attributes:
        shards: of the pairs.
    """

    def __init__(
        self, shards: PairShards, representations: Representations, threads: int | None
    ) -> None:
        self.shards, self._representations, self._threads = shards, representations, threads
        self._blocks: BlockScorer | None = None

    @classmethod
    @contextmanager
    def open(
        cls, config: ScoreConfig, run: Path, caches: Sequence[Path], head: Path, folder: Path
    ) -> Iterator[Scoring]:
        """Opens cache and head.

        Args:
            config: the settings.
            run: the run folder, whose `representations.h5` has the expanded photos.
            caches: of the head.
            head: its file.
            folder: of the shards.

        Raises:
            KinembedError: the shards are of another cache or head.
        """
        shards = PairShards.read(folder)
        with open_caches(caches) as cache:
            own, _, _ = read_any_head(head)
            found = {"cache": cache.digest, "head": own.digest}
            if any(shards.about[name] != digest for name, digest in found.items()):
                raise KinembedError(
                    f"{folder}: its shards are of another cache or head than {cache.path} and "
                    f"{head}; each machine of the cluster needs the same ones"
                )
            expand = shards.about["expand"]
            kept = Representations(cache, own, expand=expand, path=run / "representations.h5")
            if expand and not kept.are_kept(shards.blocks.rows):
                raise KinembedError(
                    f"{kept.path}: has not the photos that this scoring expands; run kinembed "
                    "score again, which makes it, and no other command on this run meanwhile"
                )
            yield cls(shards, kept, config.threads)

    def compute(self, numbers: Sequence[int]) -> list[int]:
        """Computes shards that are not there, and returns their numbers."""
        for number in numbers:
            if not self.shards.is_done(number):
                self.shards.compute(number, self._score)
        return list(numbers)

    def _score(self, pairs: Rows, one: int, other: int) -> NDArray[np.float64]:
        """(n, C) what a shard holds of pairs of two blocks."""
        kept = self._representations
        if kept.expanded:
            return np.stack(kept.score_in_gallery(pairs, self._threads), 1)
        if self._blocks is None:
            self._blocks = BlockScorer(kept.head, kept.read, self.shards.blocks)
        return self._blocks.score(pairs, one, other, self._threads)[:, None]


@contextmanager
def scored_by_ray(
    scorer: Scorer, path: Path, caches: Sequence[Path], head: Path, progress: Progress
) -> Iterator[Ahead | None]:
    """Lets actors of Ray score all pairs of a file; the shards go when these are written.

    Raises:
        KinembedError: the rows are no pairs of photos, or as of `compute_shards`.
    """
    config, folder = scorer.config, scorer.run / PARTIAL
    if scorer.people is not None or not path.is_file():
        raise KinembedError(
            f"{path}: --engine ray scores pairs of photos, from a file; leave it out"
        )
    taken = KinembedError(
        f"{folder}: another kinembed scores pairs in this run folder; wait until it is done, or "
        "name another folder with --run"
    )
    with locked_folder(folder, taken, (folder / PLAN).exists):
        shards = _planned(scorer, path, folder)
        if shards is None:
            yield None
            return
        kept = scorer.representations
        if kept.expanded:  # compares all photos of a gallery, so one process does it
            kept.take(np.asarray(shards.blocks.rows))
            kept.keep()
        alike = replace(config, engine="local", threads=None)
        opening = partial(Scoring.open, alike, scorer.run, [*caches], head, folder)
        token = folder / "token"
        token.touch()
        with ray_pool(
            config.address, config.actors, config.actor_cpus, 0,
            [opening, token.resolve(), Path.cwd()],
        ) as pool:  # fmt: skip
            compute_shards(pool, folder, SCORING, progress)
        try:
            yield _joined(shards, kept.expanded)
        except ChangedError:  # by size and time it may look the same next time, too
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


def _planned(scorer: Scorer, path: Path, folder: Path) -> PairShards | None:
    """The shards of a file of pairs: those that are there, or new ones; None if it has no pair."""
    config, kept, status = scorer.config, scorer.representations, path.stat()
    about = {
        "cache": scorer.cache.digest,
        "head": scorer.head.digest,
        "expand": scorer.expand if kept.expanded else False,
        "pairs": [status.st_size, status.st_mtime_ns],
        "shard_pairs": config.shard_pairs,
        "actor_memory": config.actor_memory,
        "version": __version__,
    }
    try:
        shards = PairShards.read(folder)
        if {key: shards.about.get(key) for key in about} == about:
            scorer.begin(next(read_pairs(path, 1)))
            scorer.with_itself = shards.about["with_itself"]
            log.info("%s: goes on from the shards that are there", folder)
            return shards
        log.info("%s: its shards are of other pairs, cache or head, and are forgotten", folder)
    except KinembedError:
        pass
    for stale in folder.iterdir():
        if stale.name != "lock":
            stale.unlink()
    with scorer.read_ahead(path) as rows:
        if rows is None:
            if scorer.are_triples:
                raise KinembedError(
                    f"{path}: --engine ray scores pairs of photos, and these are triples; leave it "
                    "out"
                )
            return None
        one = kept.read(np.empty(0, np.intp))
        most = photos_in(int(config.actor_memory * GIGA), one)
        blocks = Blocks.of(rows, scorer.cache.starts, len(scorer.cache), most)
        about |= {"with_itself": scorer.with_itself, "names": scorer.names}
        shards = PairShards.plan(folder, about, rows, blocks, config.shard_pairs)
    log.info(
        "%s: %s in %s, %s of photos", folder, counted(len(shards.pairs), "pair"),
        counted(len(shards), "shard"), counted(len(blocks), "block"),
    )  # fmt: skip
    return shards


def _joined(shards: PairShards, expanded: bool) -> Ahead:
    """What all shards hold, in the order of the file.

    Raises:
        KinembedError: one is missing.
    """
    count = len(shards.pairs)
    logits = scratch((count,), np.float64)
    expansion = scratch((count,), np.float64) if expanded else None
    for number in range(len(shards)):
        part = shards.logits(number)
        if part is None:
            raise KinembedError(f"{shards.path(number)}: is gone; run kinembed score again")
        order = shards.order_of(number)
        for at in range(0, len(order), BATCH):
            where = order[at : at + BATCH]
            own = part[at : at + len(where)]
            logits[where] = own[:, 0]
            if expansion is not None:
                expansion[where] = own[:, 1]
    return Ahead(logits, shards.about["names"], expansion)
