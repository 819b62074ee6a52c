"""Which views of a cache a head takes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kinembed.cache import Embeddings
from kinembed.cache.provenance import Finetuned
from kinembed.views import JOIN, TTA


@dataclass(frozen=True)
class HeadViews:
    """The views that a metric head uses.

    Attributes:
        names: the views, stacked in this order.
        as_is: they are compared without a projection; contrastive training has prepared them for
            it.
        knn_view: the view by whose cosines photos of one person are told.
        tta_views: 2 if the mirror image of each photo is used as well, else 1.
    """

    names: tuple[str, ...]
    as_is: bool
    knn_view: str
    tta_views: int

    @property
    def view(self) -> str:
        """All views as one composite view."""
        return self.augmented(*self.names)

    def augmented(self, *views: str) -> str:
        """A composite view of some views and, with TTA, of their mirrored ones."""
        mirrored = [view + TTA for view in views] if self.tta_views == 2 else []
        return JOIN.join([*views, *mirrored])


def choose_views(
    cache: Embeddings, wanted: str | None, flip: bool = True, number: int | None = None
) -> HeadViews:
    """Chooses the views of a metric head.

    Args:
        cache: of one network or several.
        wanted: views to train on, joined by `+`. None: `native` and `max` of the network, or all
            if it has neither; of a contrastive network the view that it trained, as it is.
        flip: use mirror images as test-time augmentation, if the cache has them for all views.
        number: of the network, from 1, in stacked caches; None: there is one network, or views are
            wanted by name.

    Raises:
        RunError: the cache lacks a view that is wanted.
    """
    as_is = False
    if wanted is not None:
        names = wanted.split(JOIN)
    else:
        start = "" if number is None else f"{number}."
        about = cache.provenance if number is None else cache.provenance["caches"][number - 1]
        own = [v for v in cache.views if v.startswith(start) and not v.endswith(TTA)]
        tuned = Finetuned.of(about)
        if tuned and tuned.recipe.is_contrastive and start + tuned.view in own:
            names, as_is = [start + tuned.view], True
        else:
            names = [start + name for name in ("native", "max") if start + name in own] or own
    tta_views = 2 if flip and {name + TTA for name in names} <= set(cache.views) else 1
    views = HeadViews(tuple(names), as_is, "", tta_views)
    return replace(views, knn_view=views.augmented(*people_views(names)))


def people_views(names: Sequence[str]) -> list[str]:
    """The views by which photos of one person are told: the networks' own, where there are."""
    return [name for name in names if name.rpartition(".")[2] == "native"] or list(names)
