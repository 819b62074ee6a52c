"""The stage `score`: kinship probabilities of the pairs of a submission, from the cache alone."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path

from kinembed.cache.stacked import open_caches
from kinembed.config import ScoreConfig
from kinembed.data.relations import RELATIONS
from kinembed.errors import KinembedError
from kinembed.evaluation.published import choose_head
from kinembed.heads.kept import caches_of
from kinembed.outputs import check_output
from kinembed.progress import Progress, silent
from kinembed.scoring.scorer import Scorer
from kinembed.scoring.submission import submission

log = logging.getLogger(__name__)

SUBMISSION = "submission.csv"


def score(config: ScoreConfig, data: Path, run: Path, *, progress: Progress = silent) -> Path:
    """Scores pairs of photos, or of people, and writes them in the order in which they were given.

    Of three names a row, father, mother and child, a score says whether both are the parents.

    Pairs are read, scored and written `config.chunk` at a time, so that memory does not grow with
    their number. Where the vectors that a head compares are larger than memory, the pairs are read
    once more before, and scored block against block.

    With `config.engine` "ray" actors of Ray score the blocks, on this machine or on a cluster that
    shares the folders; the bytes are the same. An interrupted scoring goes on from its shards.

    Args:
        config: the pairs, and where the scores go: `.csv`, `.csv.gz` or `.parquet`.
        data: where the pairs are looked for if they do not lie where `config` says.
        run: the run folder with `embeddings.h5`, `head.h5` and, if wanted, `calibration.json`.
        progress: shows the progress of actors.

    Returns:
        The path of the submission: the columns of the pairs as they stand, such as `img_pair`, then
        `is_related`, probabilities with as many digits as tell them apart: the shortest that are
        read as the very same float64. Without a calibration they have the order of the head's
        logits, as far as float64 tells numbers apart.

    Raises:
        KinembedError: pairs, cache or head are missing, malformed, or do not belong together.
    """
    if config.calibration is not None and (config.raw or config.people is not None):
        other = "raw" if config.raw else "people"
        raise KinembedError(f"calibration: is not used with {other}; leave out one of the two")
    if config.chunk < 1:
        raise KinembedError(f"chunk: found {config.chunk}, wanted 1 or more")
    path = config.pairs
    if not path.exists() and not path.is_absolute() and (data / path).exists():
        path = data / path
    out = config.out if config.out is not None else run / SUBMISSION
    head = choose_head(run, config.head)
    caches = caches_of(run, config.caches, head)
    read = [*caches, path, head, data / RELATIONS]
    if config.calibration is not None:
        read.append(config.calibration)
    folders = [run, *(cache.parent for cache in caches)]
    check_output(out, read, folders, own=[SUBMISSION], header=["is_related"], data=data)
    count = 0
    with open_caches(caches) as cache:
        scorer = Scorer(config, data, run, cache)
        with ExitStack() as stack:
            if config.engine == "ray":
                from kinembed.scoring.by_ray import scored_by_ray

                ahead = stack.enter_context(scored_by_ray(scorer, path, caches, head, progress))
            else:
                ahead = scorer.blockwise(path)
            write = stack.enter_context(submission(out))
            for pairs, probabilities in scorer.scored(path, ahead):
                write(pairs, cache.finite(probabilities, scorer.head.view))
                count += len(pairs)
        scorer.representations.keep()
        for gallery, make_up in scorer.representations.found.items():
            log.info("%s: %s", gallery, make_up.describe())
    log.info("%s: %s scored", out, scorer.in_words(count))
    if scorer.with_itself:
        log.warning(
            "%s: %s of them have a photo with itself, which is no test of kinship",
            path, f"{scorer.with_itself:,}",
        )  # fmt: skip
    return out
