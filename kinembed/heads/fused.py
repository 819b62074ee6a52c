"""Late fusion: heads of several networks or views, whose standardised logits are averaged.

Kittler et al., "On combining classifiers" (1998): where the parts err differently, the mean of
their answers errs less than each, and than one head of all their vectors side by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Float, Rows, Vectors
from kinembed.checked import Bounds, Values
from kinembed.heads.base import Head, People, head_class
from kinembed.heads.same_person import SamePerson
from kinembed.views import JOIN

MOST_PARTS = 100


@dataclass(frozen=True)
class FusedHead(Head):
    """Compares two photos by the weighted sum of the logits of several heads, its parts.

    A vector stacks those that the parts take, and a representation stacks what they make of them.

    Attributes:
        parts: the heads, each with the view that it takes.
        gains: what the logit of each part is multiplied with: its weight by its standard deviation.
        by_fold: the parts are of networks that each held out another fold: part i is the member
            that holds out fold i. Otherwise each part has a member for each fold. A part may itself
            be fused by fold.
        others: as for `Head`.
    """

    kind: ClassVar[str] = "fused"

    view: str
    model: str
    parts: tuple[Head, ...]
    gains: tuple[float, ...]
    by_fold: bool = False
    knn_view: str = ""
    same_person: SamePerson | None = None
    held_out: People = ()
    trained: People = ()
    folds: tuple[People, ...] = ()

    @property
    def width(self) -> int:
        """Width of an input vector: of those of all parts together."""
        return sum(part.width for part in self.parts)

    @property
    def representation_width(self) -> int:
        """The sum of the parts' widths."""
        return sum(part.representation_width for part in self.parts)

    @property
    def expansion_slope(self) -> float:
        """The sum of the parts', each times its gain."""
        slopes = (part.expansion_slope for part in self.parts)
        return sum(gain * slope for gain, slope in zip(self.gains, slopes, strict=True))

    def represent(self, vectors: Vectors) -> Float:
        """(N, W) float32 representations of (N, width) vectors, part beside part."""
        cuts = _cuts([part.width for part in self.parts])
        result = np.empty((len(vectors), self.representation_width), np.float32)
        for part, inputs, columns in zip(self.parts, cuts, self._columns, strict=True):
            result[:, columns] = part.represent(vectors[:, inputs])
        return result

    def normalise(self, means: Float) -> Float:
        """As each part does it, with its columns of (N, W) means."""
        columns = zip(self.parts, self._columns, strict=True)
        return np.concatenate([part.normalise(means[:, cut]) for part, cut in columns], 1)

    def products(self, representations: Float) -> tuple[Float, Float] | None:
        """As `Head.products`, if all parts have such a form."""
        rows, numbers = [], np.zeros(len(representations), np.float32)
        for part, gain, columns in zip(self.parts, self.gains, self._columns, strict=True):
            own = part.products(representations[:, columns])
            if own is None:
                return None
            rows.append(own[0] * np.float32(np.sqrt(gain)))
            numbers += own[1] * np.float32(gain)
        return np.concatenate(rows, 1), numbers

    def _score(self, representations: Vectors, pairs: Rows, out: NDArray[np.float64]) -> None:
        one = np.empty(len(pairs), np.float64)
        out[:] = 0
        for part, gain, columns in zip(self.parts, self.gains, self._columns, strict=True):
            part._score(representations[:, columns], pairs, one)
            out += gain * one

    @property
    def _columns(self) -> list[slice]:
        """The columns of each part in a representation."""
        return _cuts([part.representation_width for part in self.parts])

    def members(self) -> list[Head]:
        """For each fold the head that holds it out; without folds the head itself."""
        alone = replace(self, folds=(), by_fold=False)
        if self.by_fold:  # a part is one of so many in the mean, and all of it as a member
            return [
                replace(alone, view=part.view, parts=(part,), gains=(gain * len(self.parts),))
                for part, gain in zip(self.parts, self.gains, strict=True)
            ]
        if not self.folds:
            return [self]
        members: list[Head] = []
        for parts in zip(*(part.members() for part in self.parts), strict=True):
            view = JOIN.join(part.view for part in parts)
            members.append(replace(alone, view=view, parts=parts))
        return members

    def settings(self) -> dict[str, Any]:
        """All fields but model, people and arrays; those of each part with its kind."""
        return {
            "view": self.view,
            "gains": list(self.gains),
            "by_fold": self.by_fold,
            "knn_view": self.knn_view,
            "same_person": self.same_person.settings() if self.same_person else None,
            "parts": [{"kind": part.kind, "settings": part.settings()} for part in self.parts],
        }

    def arrays(self) -> dict[str, Float]:
        """Those of each part, as `parts/0/members/0/0`; `same_person/cohort`, if it expands."""
        arrays = {
            f"parts/{number}/{name}": array
            for number, part in enumerate(self.parts)
            for name, array in part.arrays().items()
        }
        if self.same_person is not None:
            arrays["same_person/cohort"] = self.same_person.cohort
        return arrays

    @classmethod
    def from_arrays(
        cls, settings: Mapping[str, Any], arrays: Mapping[str, Float], **about: Any
    ) -> FusedHead:
        """As `Head.from_arrays`."""
        values = Values(settings)
        values.only(["view", "gains", "by_fold", "knn_view", "same_person", "parts"])
        arrays = dict(arrays)
        same_person = None
        if values.get("same_person") is not None:
            cohort = arrays.pop("same_person/cohort")
            same_person = SamePerson.of(values.object("same_person").content, cohort)
        listed = values.objects("parts", MOST_PARTS)
        by_part: dict[str, dict[str, Float]] = {f"parts/{n}": {} for n in range(len(listed))}
        for name, array in arrays.items():
            part, number, rest = name.split("/", 2)
            by_part[f"{part}/{number}"][rest] = array
        parts = [
            _read_part(one, part, about["model"])
            for one, part in zip(listed, by_part.values(), strict=True)
        ]
        gains = values.numbers("gains", Bounds(least=0, most=1e12), MOST_PARTS)
        by_fold, folds = values.flag("by_fold"), len(about.get("folds", ()))
        members = [len(parts)] if by_fold else [len(part.members()) for part in parts]
        if len(gains) != len(parts) or not any(gains):
            raise ValueError(f"{len(gains)} gains for {len(parts)} parts")
        if folds and any(count != folds for count in members):
            raise ValueError("its parts have other folds")
        if values.text("view") != JOIN.join(part.view for part in parts):
            raise ValueError("its view is not its parts'")
        return cls(
            view=values.text("view"),
            parts=tuple(parts),
            gains=gains,
            by_fold=by_fold,
            knn_view=values.text("knn_view"),
            same_person=same_person,
            **about,
        )


def _read_part(about: Values, arrays: Mapping[str, Float], model: str) -> Head:
    """A part of a file."""
    about.only(["kind", "settings"])
    kind, settings = about.text("kind"), about.object("settings")
    if kind == FusedHead.kind:
        inner = settings.objects("parts", MOST_PARTS)
        if not settings.flag("by_fold") or any(each.get("kind") == kind for each in inner):
            raise ValueError("a part is fused, but not of the networks of several folds")
    return head_class(kind).from_arrays(settings.content, arrays, model=model)


def _cuts(widths: list[int]) -> list[slice]:
    """The columns of each of some tables side by side."""
    return [slice(*bounds) for bounds in pairwise([0, *np.cumsum(widths).tolist()])]
