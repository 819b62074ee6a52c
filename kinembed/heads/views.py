"""Which views of a cache a head takes."""

from dataclasses import dataclass, replace

from kinembed.cache import Embeddings
from kinembed.views import JOIN, TTA


@dataclass(frozen=True)
class HeadViews:
    """What a metric head takes of a photo.

    Attributes:
        learnt: views that projections learn from, stacked.
        as_is: views that are compared as they are, behind those: a network learnt them for it.
        knn_view: the view by which neighbours are found.
        tta_views: 2 where the mirror image of each photo is taken beside it, else 1.
    """

    learnt: tuple[str, ...]
    as_is: tuple[str, ...]
    knn_view: str
    tta_views: int

    @property
    def view(self) -> str:
        """All of it as one composite view."""
        return self.augmented(*self.learnt, *self.as_is)

    def augmented(self, *views: str) -> str:
        """A composite view of some views, then of their mirrored ones where those are taken."""
        mirrored = [view + TTA for view in views] if self.tta_views == 2 else []
        return JOIN.join([*views, *mirrored])


def choose_views(cache: Embeddings, wanted: str | None, flip: bool = True) -> HeadViews:
    """Which views a metric head takes, and how.

    Args:
        cache: of one network or several.
        wanted: views joined by `+`, to be learnt from. None: of each network `native` and `max`,
            as far as there are such, else all; of a network that learnt by contrast the view that
            it learnt, as it is.
        flip: take mirror images as test-time augmentation, where there are those of all its views.

    Raises:
        RunError: the cache lacks one that is wanted.
    """
    plain = [view for view in cache.views if not view.endswith(TTA)]
    several = cache.provenance.get("caches")
    as_is: list[str] = []
    learnt: list[str] = []
    for number, about in enumerate(several or [cache.provenance], start=1):
        start = f"{number}." if several else ""
        own = [view for view in plain if view.startswith(start)]
        if about.get("contrastive_view") in [view.removeprefix(start) for view in own]:
            as_is.append(f"{start}{about['contrastive_view']}")
        else:
            found = [start + name for name in ("native", "max") if start + name in own]
            learnt += found or own
    if wanted is not None:
        learnt, as_is = wanted.split(JOIN), []
    parts = [*learnt, *as_is]
    tta_views = 2 if flip and {part + TTA for part in parts} <= set(cache.views) else 1
    near = [part for part in parts if part.rpartition(".")[2] == "native"] or parts
    views = HeadViews(tuple(learnt), tuple(as_is), "", tta_views)
    return replace(views, knn_view=views.augmented(*near))
