"""Random streams by name: each use of the run's seed draws from a stream of its own.

The streams of training keep the words that they had before they had names, so that a seed goes on
to train what it always trained. All others are spawned from the seed by the hash of their name, and
so meet no other stream, whatever their numbers are.
"""

# numpy.random takes 17 ms to import: what only names its types in annotations must not.
from __future__ import annotations

import zlib
from enum import Enum

import numpy as np


class Stream(Enum):
    """What is drawn.

    Attributes:
        SPLIT: who is held out.
        FOLDS: which families make a fold.
        EPOCH: the pairs of an epoch, by its number.
        VALIDATION: the pairs after every epoch.
        MEMBER: initial values and noise of a member of a head, by its number.
        MEMBER_EPOCH: its batches, by its number and the epoch's.
        MEMBER_VALIDATION: the pairs that judge it, by its number.
        SAME_PERSON: the photos that tell whether the nearest photo is of the same person.
        HEAD_PAIRS: the pairs that compare heads.
        HEAD_BOOTSTRAP: the resamples of those pairs.
        CALIBRATION: pairs, folds and resamples of `calibrate`.
        EVALUATION_PAIRS: the pairs of `evaluate`.
        EVALUATION_BOOTSTRAP: folds and resamples of `evaluate`.
    """

    SPLIT = "split"
    FOLDS = "folds"
    EPOCH = "epoch"
    VALIDATION = "validation"
    MEMBER = "member"
    MEMBER_EPOCH = "member epoch"
    MEMBER_VALIDATION = "member validation"
    SAME_PERSON = "same person"
    HEAD_PAIRS = "head pairs"
    HEAD_BOOTSTRAP = "head bootstrap"
    CALIBRATION = "calibration"
    EVALUATION_PAIRS = "evaluation pairs"
    EVALUATION_BOOTSTRAP = "evaluation bootstrap"


_FAR = 1 << 32  # where no epoch's number comes
# What stands before and behind a stream's numbers, of those that decide what is learnt.
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
        stream: what is drawn.
        numbers: which of several, such as an epoch's number.
    """
    if stream in _TRAINING:
        before, behind = _TRAINING[stream]
        return np.random.SeedSequence([seed, *before, *numbers, *behind])
    key = zlib.crc32(stream.value.encode())
    return np.random.SeedSequence(seed, spawn_key=(key, *numbers))


def generator(seed: int, stream: Stream, *numbers: int) -> np.random.Generator:
    """What draws from a stream; arguments as of `sequence`."""
    return np.random.default_rng(sequence(seed, stream, *numbers))


def torch_seed(seed: int, stream: Stream, *numbers: int) -> int:
    """A seed for torch, 64 bits, of a stream; arguments as of `sequence`."""
    return int(sequence(seed, stream, *numbers).generate_state(1, np.uint64)[0])
