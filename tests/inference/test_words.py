"""Answers in words: the numbers shown add up, and nothing small is called certain."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinembed.inference.words import NAMES, likeliest, rate, rounded, sentence, triple_sentence

odds = st.lists(st.floats(1e-9, 1e9), min_size=3, max_size=3)


def test_a_sentence_begins_with_the_likeliest_answer() -> None:
    assert sentence([0.02, 0.71, 0.27], 0.06) == (
        "likely kin: .71; the same person: .02; unrelated: .27; "
        "of 100 unrelated pairs 6 look as alike"
    )
    assert sentence([0.999, 0.0006, 0.0004], 0).startswith("very likely the same person: over .99")
    assert sentence([0.3, 0.3, 0.4], 0.5).startswith("perhaps unrelated: .40")


@given(odds)
def test_shown_probabilities_add_up_and_are_near(weights: list[float]) -> None:
    probabilities = [each / sum(weights) for each in weights]
    shown = rounded(probabilities)
    values = {"under .01": 0.0, "over .99": 1.0, "1": 1.0}
    numbers = [values.get(text) if text in values else float(text) for text in shown]
    assert sum(number or 0 for number in numbers) == pytest.approx(1)
    for number, exact in zip(numbers, probabilities, strict=True):
        assert number is not None and abs(number - exact) < 0.01
        assert number != 1 or exact == 1 or "over .99" in shown


@given(odds)
def test_the_sentence_names_all_three_answers_once(weights: list[float]) -> None:
    probabilities = [each / sum(weights) for each in weights]
    text = sentence(probabilities, 0.5)
    assert all(text.count(f"{name}: ") == 1 for name in NAMES)
    assert NAMES[likeliest(probabilities)] in text.partition(";")[0]


@pytest.mark.parametrize(
    ("far", "text"),
    [
        (0.06, "of 100 unrelated pairs 6 look as alike"),
        (0.01, "of 100 unrelated pairs 1 looks as alike"),
        (0.0012, "of 1,000 unrelated pairs 1 looks as alike"),
        (0.00004, "of 10,000 unrelated pairs not one looks as alike"),
        (1.0, "of 100 unrelated pairs 100 look as alike"),
    ],
)
def test_a_rate_counts_pairs(far: float, text: str) -> None:
    assert rate(far) == text


def test_a_triple_is_said_both_ways() -> None:
    assert triple_sentence(0.83) == "likely the child of both: .83"
    assert triple_sentence(0.05) == "very likely not the child of both; the child of both: .05"
