"""Ensembles of pair heads: the mean of the logits of several, trained from different seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Float, Rows, Vectors
from kinembed.checked import Values
from kinembed.heads.base import Head, People
from kinembed.heads.pair import PairHead

MOST_HEADS = 100


@dataclass(frozen=True)
class EnsembleHead(Head):
    """Pair heads of the same vectors, whose logits are averaged in their order.

    Attributes:
        heads: one or more, all of one width.
        others: as for `Head`.
    """

    kind: ClassVar[str] = "ensemble"
    is_identity: ClassVar[bool] = True

    view: str
    model: str
    heads: tuple[PairHead, ...]
    held_out: People = ()
    trained: People = ()
    folds: tuple[People, ...] = ()

    @property
    def width(self) -> int:
        """Width of an input vector."""
        return self.heads[0].width

    @property
    def representation_width(self) -> int:
        """The width of the vectors."""
        return self.width

    def represent(self, vectors: Vectors) -> Vectors:
        """The vectors themselves: the features are of pairs."""
        return vectors

    def _score(self, representations: Vectors, pairs: Rows, out: NDArray[np.float64]) -> None:
        one = np.empty(len(pairs), np.float64)
        out[:] = 0
        for head in self.heads:
            head._score(representations, pairs, one)
            out += one
        out /= len(self.heads)

    def members(self) -> list[Head]:
        """The pair heads."""
        return list(self.heads)

    def settings(self) -> dict[str, Any]:
        """View, and the settings of each member."""
        return {"view": self.view, "heads": [head.settings() for head in self.heads]}

    def arrays(self) -> dict[str, Float]:
        """Those of each member: `0/kernels/0`, `0/biases/0` and so on."""
        return {
            f"{number}/{name}": array
            for number, head in enumerate(self.heads)
            for name, array in head.arrays().items()
        }

    @classmethod
    def from_arrays(
        cls, settings: Mapping[str, Any], arrays: Mapping[str, Float], **about: Any
    ) -> EnsembleHead:
        """The ensemble of settings and arrays, as `Head.from_arrays` says."""
        values = Values(settings)
        values.only(["view", "heads"])
        view, members = values.text("view"), values.objects("heads", MOST_HEADS)
        if not members:
            raise ValueError(f"0 heads, wanted 1 to {MOST_HEADS}")
        parts: dict[str, dict[str, Float]] = {str(number): {} for number in range(len(members))}
        for name, array in arrays.items():
            number, _, rest = name.partition("/")
            parts[number][rest] = array
        heads = tuple(
            PairHead.from_arrays({**one.content, "view": view}, part, model=about["model"])
            for one, part in zip(members, parts.values(), strict=True)
        )
        if len({head.width for head in heads}) != 1:
            raise ValueError("its heads are of several widths")
        return cls(view=view, heads=heads, **about)
