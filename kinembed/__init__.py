"""kinembed: tells from two face photos how likely two people are kin.

In Python, from a cache or from any array of vectors:

    from kinembed import EmbeddingCache, PairSampler, load_head, score_pairs, train_head

Each name is imported when it is first used, as some of them need torch or scikit-learn.
"""

__version__ = "0.1.0"

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost time
if TYPE_CHECKING:
    from kinembed.cache import EmbeddingCache
    from kinembed.data.families import (
        Families,
        cached_families,
        group_families,
        read_families,
    )
    from kinembed.data.samplers import PairSampler
    from kinembed.data.splits import split_people
    from kinembed.estimators.classifier import KinHeadClassifier
    from kinembed.estimators.embedder import KinEmbedder
    from kinembed.estimators.metric import KinMetricTransformer
    from kinembed.heads.base import Head
    from kinembed.heads.file import load_head, save_head
    from kinembed.heads.pair import distances
    from kinembed.heads.representations import Representations, score_pairs
    from kinembed.inference.comparing import Comparison
    from kinembed.inference.searching import SearchResult
    from kinembed.training.heads import TrainedHead
    from kinembed.training.on_arrays import train_head

__all__ = [
    "Comparison",
    "EmbeddingCache",
    "Families",
    "Head",
    "KinEmbedder",
    "KinHeadClassifier",
    "KinMetricTransformer",
    "PairSampler",
    "Representations",
    "SearchResult",
    "TrainedHead",
    "cached_families",
    "distances",
    "group_families",
    "load_head",
    "read_families",
    "save_head",
    "score_pairs",
    "split_people",
    "train_head",
]

_HOMES = {
    "cache": ("EmbeddingCache",),
    "inference.comparing": ("Comparison",),
    "data.families": ("Families", "cached_families", "group_families", "read_families"),
    "data.samplers": ("PairSampler",),
    "data.splits": ("split_people",),
    "estimators.classifier": ("KinHeadClassifier",),
    "estimators.embedder": ("KinEmbedder",),
    "estimators.metric": ("KinMetricTransformer",),
    "heads.file": ("load_head", "save_head"),
    "heads.base": ("Head",),
    "heads.pair": ("distances",),
    "heads.representations": ("Representations", "score_pairs"),
    "inference.searching": ("SearchResult",),
    "training.heads": ("TrainedHead",),
    "training.on_arrays": ("train_head",),
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    for home, names in _HOMES.items():
        if name in names:
            public: object = getattr(import_module(f"kinembed.{home}"), name)
            return public
    raise AttributeError(f"module 'kinembed' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
