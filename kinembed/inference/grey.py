"""Whether faces are black and white: of two such, strangers look like kin to a network."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from kinembed.data.photos import Pixels

LEVELS = 6  # between the channels of a pixel, in the mean of a crop without colour, of 255
TAKEN_FOR_KIN = 0.73  # of unrelated pairs, both black and white, by the packaged head: its card


def is_grey(crop: Pixels) -> bool:
    """Whether the crop of a face, (S, S, 3) uint8, shows no colour, or hardly any."""
    return float(np.ptp(crop, axis=2).mean()) < LEVELS


def are_grey(crops: Iterable[Pixels]) -> bool:
    """Whether all crops of a person are black and white."""
    return all(is_grey(crop) for crop in crops)


def grey_note(who: str, packaged: bool) -> str:
    """What to know of people whose photos are all black and white.

    Args:
        who: them, with their verb: `both are`.
        packaged: the packaged head answers, of which it was measured.
    """
    if packaged:
        share = f"{TAKEN_FOR_KIN:.2f}".removeprefix("0")
        said = f"takes {share} of such strangers for kin, and is not to be believed there"
        return f"{who} black and white: the packaged head {said}"
    return f"{who} black and white, which makes strangers look like kin; nobody measured how often"
