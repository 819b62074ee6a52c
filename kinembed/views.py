"""Names of views: a network's own, those of mirrored photos, and several joined to one.

`max-flip` holds the vectors of photos that were mirrored left-right before the network: test-time
augmentation (TTA). `max+native` is composite: the vectors of several views, one after the other.
"""

from collections.abc import Sequence

TTA = "-flip"  # ends the name of a view of mirrored photos
JOIN = "+"  # between the views of a composite one, so that no view's own name may hold it


def with_tta(views: Sequence[str]) -> tuple[str, ...]:
    """Each view, and that of the mirrored photos after it."""
    return tuple(name for view in views for name in (view, view + TTA))


def without_tta(views: Sequence[str]) -> tuple[str, ...]:
    """The networks' own views; of a mirrored one alone, the one that it mirrors."""
    return tuple(dict.fromkeys(view.removesuffix(TTA) for view in views))
