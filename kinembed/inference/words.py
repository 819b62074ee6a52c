"""An answer in words: probabilities and rates as a sentence."""

from __future__ import annotations

from collections.abc import Sequence

SAME, KIN, UNRELATED = range(3)  # the order of the three answers
KEYS = ("same_person", "kin", "unrelated")
NAMES = ("the same person", "kin", "unrelated")
LIKELY, VERY_LIKELY = 0.6, 0.9  # least probabilities of these words
FINEST = 10_000  # unrelated pairs, at most, of which a rate counts some


def sentence(probabilities: Sequence[float], far: float) -> str:
    """The answer of a pair, the likeliest first.

    Args:
        probabilities: of the same person, of kin and of unrelated people; they add up to 1.
        far: the share of unrelated pairs at least as alike.

    Example:
        >>> sentence([0.02, 0.71, 0.27], 0.06)
        'likely kin: .71; the same person: .02; unrelated: .27; of 100 unrelated pairs 6 look as alike'
    """  # noqa: E501
    shown = rounded(probabilities)
    first = likeliest(probabilities)
    others = [f"{NAMES[each]}: {shown[each]}" for each in range(3) if each != first]
    best = f"{_how(probabilities[first])} {NAMES[first]}: {shown[first]}"
    return "; ".join([best, *others, rate(far)])


def triple_sentence(probability: float) -> str:
    """The answer of father, mother and child."""
    child = rounded([probability, 1 - probability])[0]
    if probability >= 0.5:
        return f"{_how(probability)} the child of both: {child}"
    return f"{_how(1 - probability)} not the child of both; the child of both: {child}"


def likeliest(probabilities: Sequence[float]) -> int:
    """The number of the likeliest answer; of equal ones the first."""
    return max(range(len(probabilities)), key=lambda each: (probabilities[each], -each))


def rate(far: float) -> str:
    """How many of so many unrelated pairs look as alike: of as few as make it a whole number."""
    of = 100
    while far * of < 0.95 and of < FINEST:
        of *= 10
    count = round(far * of)
    if count == 0:
        return f"of {of:,} unrelated pairs not one looks as alike"
    return f"of {of:,} unrelated pairs {count} look{'s' if count == 1 else ''} as alike"


def rounded(probabilities: Sequence[float]) -> list[str]:
    """Probabilities with two decimals that still add up to 1, without their leading zero.

    Rounds by largest remainders. What is small, but not 0, is never shown as certain.

    Example:
        >>> rounded([0.335, 0.335, 0.33])
        ['.34', '.33', '.33']
    """
    hundredths = [int(each * 100) for each in probabilities]
    remainders = [each * 100 - whole for each, whole in zip(probabilities, hundredths, strict=True)]
    order = sorted(range(len(probabilities)), key=lambda each: (-remainders[each], each))
    for each in order[: round(sum(probabilities) * 100) - sum(hundredths)]:
        hundredths[each] += 1
    return [_decimal(whole, each) for whole, each in zip(hundredths, probabilities, strict=True)]


def _decimal(hundredths: int, exact: float) -> str:
    if hundredths <= 0 and exact > 0:
        return "under .01"
    if hundredths >= 100 and exact < 1:
        return "over .99"
    return "1" if hundredths >= 100 else f".{hundredths:02d}"


def _how(probability: float) -> str:
    if probability >= VERY_LIKELY:
        return "very likely"
    return "likely" if probability >= LIKELY else "perhaps"
