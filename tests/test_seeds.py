"""Random streams: named, apart from each other, and those of training as they always were."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinembed.seeds import Stream, generator, sequence, torch_seed

NUMBERS = {
    **dict.fromkeys((Stream.EPOCH, Stream.MEMBER, Stream.MEMBER_VALIDATION), 1),
    Stream.FRESH_VALIDATION: 1,
    Stream.MEMBER_EPOCH: 2,
}
# Streams that one command draws from. A split meets the first epoch, as it did before streams had
# names: what `finetune` trains would be another network if it did not.
COMMANDS = {
    "finetune": (Stream.VALIDATION, Stream.FRESH_VALIDATION, Stream.EPOCH),
    "pair head": (Stream.VALIDATION, Stream.EPOCH, Stream.HEAD_PAIRS, Stream.HEAD_BOOTSTRAP),
    "metric head": (
        *(Stream.SPLIT, Stream.FOLDS, Stream.MEMBER_EPOCH, Stream.MEMBER_VALIDATION),
        *(Stream.SAME_PERSON, Stream.HEAD_PAIRS, Stream.HEAD_BOOTSTRAP),
    ),
    "judging": (
        *(Stream.SPLIT, Stream.HEAD_PAIRS, Stream.HEAD_BOOTSTRAP, Stream.CALIBRATION),
        *(Stream.EVALUATION_PAIRS, Stream.EVALUATION_BOOTSTRAP),
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
@given(seed=st.integers(0, 2**32 - 1), one=st.integers(1, 9), other=st.integers(1, 9))
def test_no_two_streams_of_a_command_meet(command: str, seed: int, one: int, other: int) -> None:
    states = [
        sequence(seed, stream, *(one, other)[: NUMBERS.get(stream, 0)]).generate_state(4).tolist()
        for stream in COMMANDS[command]
    ]
    for left, right in combinations(states, 2):
        assert left != right


def test_training_draws_as_it_always_did() -> None:
    assert generator(5, Stream.SPLIT).random() == np.random.default_rng(5).random()
    for stream, numbers, words in (
        (Stream.FOLDS, (), [5, 2]),
        (Stream.EPOCH, (3,), [5, 3]),
        (Stream.VALIDATION, (), [5, 1 << 32]),
        (Stream.MEMBER_EPOCH, (4, 7), [5, 4, 7]),
        (Stream.MEMBER_VALIDATION, (4,), [5, 4, 1 << 32]),
    ):
        assert generator(5, stream, *numbers).random() == np.random.default_rng(words).random()
    state = np.random.SeedSequence([5, 4]).generate_state(1, np.uint64)[0]
    assert torch_seed(5, Stream.MEMBER, 4) == state


def test_other_streams_depend_on_seed_name_and_numbers_alone() -> None:
    assert generator(1, Stream.CALIBRATION).random() == generator(1, Stream.CALIBRATION).random()
    first = generator(1, Stream.CALIBRATION).random()
    assert first != generator(2, Stream.CALIBRATION).random()
    assert first != generator(1, Stream.HEAD_PAIRS).random()
