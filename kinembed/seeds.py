"""Named random streams: each use of the run's seed has an independent stream.

The streams of training are seeded as they were before they had names, so that a seed trains the
same network as before. The others are spawned from the seed by the hash of their name, so that no
two streams coincide.
"""

# numpy.random takes 17 ms to import: what only names its types in annotations must not.
from __future__ import annotations

import zlib
from enum import Enum

import numpy as np


class Stream(Enum):
    """The use of a stream.

    Attributes:
        SPLIT: the held-out people.
        FOLDS: which families make a fold.
        EPOCH: the pairs of an epoch, by its number.
        VALIDATION: the pairs after every epoch.
        FRESH_VALIDATION: the pairs after an epoch, by its number, where each has its own.
        MEMBER: initial values and noise of a member of a head, by its number.
        MEMBER_EPOCH: its batches, by its number and the epoch's.
        MEMBER_VALIDATION: the pairs that judge it, by its number.
        SAME_PERSON: the strangers to whom photos are compared, to tell photos of one person.
        EXPANSION: the pairs by which the slope of expansion is fitted.
        HEAD_PAIRS: the pairs that compare heads.
        HEAD_BOOTSTRAP: the resamples of those pairs.
        CALIBRATION: pairs, folds and resamples of `calibrate`.
        EVALUATION_PAIRS: the pairs of `evaluate`.
        EVALUATION_BOOTSTRAP: folds and resamples of `evaluate`.
        FRAMING: the photos that tell how a folder's faces lie.
        COHORT: made-up vectors in place of strangers', in a published head.
        TRIPLES: triples of held-out families, by which both parents are weighed.
        THREE_WAY: pairs of people, by which the three answers are told.
        FUSION: the pairs by which heads are fused.
        RETRIEVAL: probes and resamples of the retrieval figures.
        MAP: the people or photos that a map shows, where it cannot show all.
        AUDIT: faults made on purpose by `audit`, by the number of the kind of finding.
    """

    SPLIT = "split"
    FOLDS = "folds"
    EPOCH = "epoch"
    VALIDATION = "validation"
    FRESH_VALIDATION = "fresh validation"
    MEMBER = "member"
    MEMBER_EPOCH = "member epoch"
    MEMBER_VALIDATION = "member validation"
    SAME_PERSON = "same person"
    EXPANSION = "expansion"
    HEAD_PAIRS = "head pairs"
    HEAD_BOOTSTRAP = "head bootstrap"
    CALIBRATION = "calibration"
    EVALUATION_PAIRS = "evaluation pairs"
    EVALUATION_BOOTSTRAP = "evaluation bootstrap"
    FRAMING = "framing"
    COHORT = "cohort"
    TRIPLES = "triples"
    MAP = "map"
    AUDIT = "audit"
    THREE_WAY = "three way"
    RETRIEVAL = "retrieval"
    FUSION = "fusion"


_FAR = 1 << 32  # above every epoch's number
# The seed words before and after a stream's numbers, for the streams of training.
_TRAINING: dict[Stream, tuple[tuple[int, ...], tuple[int, ...]]] = {
    Stream.SPLIT: ((), ()),
    Stream.FOLDS: ((2,), ()),
    Stream.EPOCH: ((), ()),
    Stream.VALIDATION: ((_FAR,), ()),
    Stream.MEMBER: ((), ()),
    Stream.MEMBER_EPOCH: ((), ()),
    Stream.MEMBER_VALIDATION: ((), (_FAR,)),
}


def sequence(seed: int, stream: Stream, *numbers: int) -> np.random.SeedSequence:
    """The seed sequence of a stream.

    Args:
        seed: the run's.
        stream: its use.
        numbers: the stream's number among several, such as an epoch.
    """
    if stream in _TRAINING:
        before, after = _TRAINING[stream]
        return np.random.SeedSequence([seed, *before, *numbers, *after])
    key = zlib.crc32(stream.value.encode())
    return np.random.SeedSequence(seed, spawn_key=(key, *numbers))


def generator(seed: int, stream: Stream, *numbers: int) -> np.random.Generator:
    """The random generator of a stream; arguments as for `sequence`."""
    return np.random.default_rng(sequence(seed, stream, *numbers))


def torch_seed(seed: int, stream: Stream, *numbers: int) -> int:
    """The 64-bit torch seed of a stream; arguments as for `sequence`."""
    return int(sequence(seed, stream, *numbers).generate_state(1, np.uint64)[0])
