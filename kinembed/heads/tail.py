"""How often strangers, and photos of one person, are very alike: what a large gallery is told by.

Pairs of strangers grow with the square of a gallery's photos, pairs of one person only with the
photos. So in a large gallery strangers explain most pairs that look like one person's, but not
those that are far more alike. How many of these they explain is told as far as training had enough
pairs of strangers to count; beyond that nothing is concluded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kinembed.checked import Bounds, Values

DOUBT = 2.0  # by how much more often than in training strangers may look alike in a gallery
SURE = 3.0  # standard errors by which a sample may be off
MAJORITY = 4.0  # times the pairs that strangers explain: what is found where no more is told
MOST_LEVELS = 64

Double = NDArray[np.float64]
Counts = NDArray[np.intp] | Double


@dataclass(frozen=True)
class Tail:
    """Shares of the pairs of training that are more alike than some levels.

    Attributes:
        levels: (L,) likenesses, rising. Above the first, the body, even strangers are many, in any
            gallery far more than photos of one person; the others are the cut and some above it.
        found: (L,) share of the pairs of one person above each.
        strangers: (L,) share of the pairs of people of two families above each.
        slope: of the log odds of one person against such strangers, above the cut.
        offset: of these log odds, where as large a share of pairs is of one person as in training.
    """

    levels: tuple[float, ...]
    found: tuple[float, ...]
    strangers: tuple[float, ...]
    slope: float
    offset: float

    def settings(self) -> dict[str, object]:
        """As `of` reads it."""
        return {key: list(x) if isinstance(x, tuple) else x for key, x in asdict(self).items()}

    @classmethod
    def of(cls, settings: object, cut: float) -> Tail:
        """What a head's file holds.

        Raises:
            ValueError: in a few words, what is wrong.
        """
        values = Values(settings)
        values.only(["levels", "found", "strangers", "slope", "offset"])
        levels = values.numbers("levels", Bounds(least=-2, most=2), MOST_LEVELS)
        found = values.numbers("found", Bounds(least=1e-6, most=1), MOST_LEVELS)
        strangers = values.numbers("strangers", Bounds(above=0, most=0.1), MOST_LEVELS)
        if not 2 <= len(levels) == len(found) == len(strangers):
            raise ValueError("its levels and shares are not equally many, at least 2")
        if not all(low < high for low, high in pairwise(levels)):
            raise ValueError("its levels do not rise")
        if not levels[1] == cut:
            raise ValueError(f"its second level is {levels[1]:g}, and the cut {cut:g}")
        for name, shares in (("found", found), ("strangers", strangers)):
            if not all(low >= high for low, high in pairwise(shares)):
                raise ValueError(f"its shares {name} rise")
        return cls(
            levels, found, strangers,
            values.number("slope", Bounds(least=1e-6, most=1e6)),
            values.number("offset", Bounds(least=-1e6, most=1e6)),
        )  # fmt: skip

    @property
    def body(self) -> float:
        """The likeness above which even strangers are many."""
        return self.levels[0]

    def power(self, body: float) -> float:
        """How much wider than in training a gallery's own photos show its strangers to be.

        The shares of strangers above a likeness, of a wider distribution with an exponential or
        normal tail, are those of training to a power below 1: the larger, the further out.

        Args:
            body: share of the gallery's pairs that are above the body.
        """
        of_body = self.strangers[0]
        return math.log(min(max(body, of_body), 0.5)) / math.log(of_body)

    def most_strangers(self, body: float) -> Double:
        """(L - 1,) the largest shares of a gallery's strangers above the levels from the cut on.

        Training's, to a power: of what the gallery shows, and of doubt, which makes the share at
        the cut `DOUBT` times as large, and those further out larger.

        Args:
            body: share of the gallery's pairs that are above the body.
        """
        shares = np.array(self.strangers[1:])
        doubt = 1 + math.log(DOUBT) / math.log(shares[0])
        most: Double = shares ** (self.power(body) * doubt)
        return most

    def prior(self, counts: Sequence[float] | Counts, pairs: float, body: float) -> float:
        """The share of a gallery's pairs that are of one person, at least; 0 if there may be none.

        By the level that tells of most. Each is sure by `SURE` standard errors of its count, beside
        the strangers' largest share.

        Args:
            counts: (L - 1,) how many of its pairs are above each level from the cut on.
            pairs: of the gallery.
            body: share of them above the body.
        """
        above = np.asarray(counts, np.float64)
        surplus = above - pairs * self.most_strangers(body) - SURE * np.sqrt(above)
        return max(0.0, float((surplus / np.array(self.found[1:])).max()) / pairs)

    def cut(
        self, counts: Sequence[float] | Counts, pairs: float, body: float, trained: float
    ) -> float:
        """The likeness of a probability of one half in a gallery; infinite where none is told.

        One half even if strangers are as often alike as they may be. More pairs above any level
        never make it higher.

        Args:
            counts: (L - 1,) how many of its pairs are above each level from the cut on.
            pairs: of the gallery.
            body: share of them above the body.
            trained: share of the pairs in training that were of one person.
        """
        prior = min(trained, self.prior(counts, pairs, body))
        if prior <= 0:
            return math.inf
        odds = log_odds(trained) - log_odds(prior) + math.log(DOUBT)
        half = (odds - self.offset) / self.slope
        if half <= self.levels[-1]:
            return max(self.levels[1], half)
        # The log odds hold up to there. Above, no more is told than how many strangers explain.
        last = counts[-1] - SURE * math.sqrt(counts[-1])
        explained = pairs * float(self.most_strangers(body)[-1])
        return self.levels[-1] if last >= MAJORITY * explained else math.inf


def log_odds(share: float) -> float:
    """Of a share between 0 and 1."""
    return math.log(share) - math.log1p(-share)
