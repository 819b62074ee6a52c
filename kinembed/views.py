"""Names of views: a network's own, mirrored and composite ones.

`max-flip` holds the vectors of photos mirrored left-right: test-time augmentation (TTA).
`max+native` is composite: the concatenated vectors of several views.
"""

from collections.abc import Sequence

TTA = "-flip"  # suffix of a view of mirrored photos
JOIN = "+"  # joins the names in a composite view, so no view's own name may contain it


def parts_of(view: str) -> tuple[str, ...]:
    """The names in a composite view; of another its own."""
    return tuple(view.split(JOIN))


def with_tta(views: Sequence[str]) -> tuple[str, ...]:
    """Each view, followed by its mirrored one."""
    return tuple(name for view in views for name in (view, view + TTA))


def without_tta(views: Sequence[str]) -> tuple[str, ...]:
    """The views without their mirrored ones; a mirrored view alone becomes its original."""
    return tuple(dict.fromkeys(view.removesuffix(TTA) for view in views))
