"""Which views of a cache a head takes."""

from dataclasses import dataclass, replace

from kinembed.cache import Embeddings
from kinembed.cache.provenance import Finetuned
from kinembed.views import JOIN, TTA


@dataclass(frozen=True)
class HeadViews:
    """The views that a metric head uses.

    Attributes:
        learnt: stacked views that projections are trained on.
        as_is: views compared without a projection, stacked after those; contrastive training has
            prepared them for it.
        knn_view: the view by whose cosines photos of one person are told.
        tta_views: 2 if the mirror image of each photo is used as well, else 1.
    """

    learnt: tuple[str, ...]
    as_is: tuple[str, ...]
    knn_view: str
    tta_views: int

    @property
    def view(self) -> str:
        """All views as one composite view."""
        return self.augmented(*self.learnt, *self.as_is)

    def augmented(self, *views: str) -> str:
        """A composite view of some views and, with TTA, of their mirrored ones."""
        mirrored = [view + TTA for view in views] if self.tta_views == 2 else []
        return JOIN.join([*views, *mirrored])


def choose_views(cache: Embeddings, wanted: str | None, flip: bool = True) -> HeadViews:
    """Chooses the views of a metric head.

    Args:
        cache: of one network or several.
        wanted: views to train on, joined by `+`. None: `native` and `max` of each network, or all
            if it has neither; of a contrastive network the view that it trained, as it is.
        flip: use mirror images as test-time augmentation, if the cache has them for all views.

    Raises:
        RunError: the cache lacks a view that is wanted.
    """
    plain = [view for view in cache.views if not view.endswith(TTA)]
    several = cache.provenance.get("caches")
    as_is: list[str] = []
    learnt: list[str] = []
    for number, about in enumerate(several or [cache.provenance], start=1):
        start = f"{number}." if several else ""
        own = [view for view in plain if view.startswith(start)]
        tuned = Finetuned.of(about)
        if tuned and tuned.recipe.is_contrastive and start + tuned.view in own:
            as_is.append(start + tuned.view)
        else:
            usual = [start + name for name in ("native", "max") if start + name in own]
            learnt += usual or own
    if wanted is not None:
        learnt, as_is = wanted.split(JOIN), []
    names = [*learnt, *as_is]
    tta_views = 2 if flip and {name + TTA for name in names} <= set(cache.views) else 1
    for_people = [name for name in names if name.rpartition(".")[2] == "native"] or names
    views = HeadViews(tuple(learnt), tuple(as_is), "", tta_views)
    return replace(views, knn_view=views.augmented(*for_people))
