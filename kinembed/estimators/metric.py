"""A metric head as a scikit-learn transformer."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from kinembed.arrays import Float, Rows
from kinembed.data.families import Families, group_families
from kinembed.data.splits import HeldOut, Split
from kinembed.errors import KinembedError
from kinembed.heads.base import Head
from kinembed.training.on_arrays import train_head

MAX_RELATIONS = 2000  # per family; larger families are sampled


class KinMetricTransformer(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Learns a projection that brings photos of kin close together.

    X is (photos, D) vectors, y the family of each photo. `people` names the person on each photo;
    without it each photo counts as a person, so that photos of one person count as kin. All members
    of a family count as kin. Cross-validate with the families as groups.

    The cosine of two transformed vectors is their similarity; `score_pairs` turns it into a logit.
    There is no query expansion, which needs all photos of a cache.

    Args:
        members: projections in the ensemble.
        embed_dim: width of each projection.
        hidden_dim: width of the parallel ReLU layer; 0: none.
        contrast: the loss: `supcon`, `nt-xent`, `triplet` or `margin`.
        temperature: divisor of similarities.
        noise: standard deviation of noise, relative to that of each input.
        dropout: fraction of the ReLU layer's units that are dropped.
        learning_rate: the maximum of its one cycle.
        epochs: epochs of `steps` batches.
        steps: batches per epoch.
        batch_pairs: kin pairs per batch, each of another family.
        random_state: of initial values, batches, noise and dropout.

    Attributes:
        head_: the trained head; `to_head` prepares it for a file.
        n_features_in_: D.

    Example:
        >>> import numpy as np
        >>> from kinembed import KinMetricTransformer
        >>> rng = np.random.default_rng(0)
        >>> families = np.repeat(np.arange(20), 4)
        >>> vectors = np.eye(20, 32)[families] + rng.normal(size=(80, 32))
        >>> metric = KinMetricTransformer(embed_dim=8, steps=10, epochs=2, random_state=0)
        >>> metric.fit_transform(vectors, families).shape
        (80, 24)
    """

    def __init__(
        self,
        *,
        members: int = 3,
        embed_dim: int = 256,
        hidden_dim: int = 512,
        contrast: str = "supcon",
        temperature: float = 0.07,
        noise: float = 0.8,
        dropout: float = 0.3,
        learning_rate: float = 1e-3,
        epochs: int = 10,
        steps: int = 30,
        batch_pairs: int = 192,
        random_state: Any = None,
    ) -> None:
        self.members = members
        self.embed_dim = embed_dim
        self.hidden_dim = hidden_dim
        self.contrast = contrast
        self.temperature = temperature
        self.noise = noise
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.steps = steps
        self.batch_pairs = batch_pairs
        self.random_state = random_state

    def fit(
        self,
        X: ArrayLike,  # noqa: N803
        y: ArrayLike,
        people: ArrayLike | None = None,
    ) -> "KinMetricTransformer":
        """Fits (photos, D) vectors X, their families y and, if known, people (photos,).

        Raises:
            ValueError: there are not two families of two people or more.
        """
        vectors, labels = validate_data(self, X, y, dtype=np.float32, ensure_min_samples=2)
        who = np.arange(len(labels)) if people is None else column_or_1d(people)
        if len(who) != len(labels):
            raise ValueError(f"{len(who)} people for {len(labels)} photos")
        seed = int(check_random_state(self.random_state).randint(1 << 31))
        families = _families(labels, who, seed)
        everybody = np.arange(len(families.people))
        keys = (
            *("members", "embed_dim", "hidden_dim", "contrast", "temperature", "noise", "dropout"),
            *("learning_rate", "epochs", "steps", "batch_pairs"),
        )
        overrides = tuple(f"{key}={getattr(self, key)}" for key in keys)
        try:
            # Nobody is held out: callers split X and y.
            nobody = HeldOut((Split(everybody, everybody[:0]),), False, "families")
            trained = train_head(
                vectors, families, "metric", split=nobody, seed=seed,
                overrides=(*overrides, "expand=off", "score_norm=off"),
            )  # fmt: skip
        except KinembedError as error:
            raise ValueError(str(error)) from None
        self.head_ = trained.head
        return self

    def transform(self, X: ArrayLike) -> Float:  # noqa: N803
        """(photos, members * embed_dim) float32 representations of length 1."""
        check_is_fitted(self)
        vectors = validate_data(self, X, dtype=np.float32, reset=False)
        return np.asarray(self.head_.represent(vectors), np.float32)

    def score_pairs(self, X: ArrayLike, pairs: Rows) -> NDArray[np.float64]:  # noqa: N803
        """(K,) logits of (K, 2) pairs of rows of X; positive if kin is more likely."""
        represented = self.transform(X)
        return self.head_.score(represented, np.asarray(pairs, np.intp).reshape(-1, 2))

    def to_head(self, view: str, model: str, **people: Any) -> Head:
        """The head for `save_head`.

        Args:
            view: whose vectors it takes.
            model: digest of what made them.
            people: `held_out` and `trained`, names of people, where they are known.
        """
        from dataclasses import replace

        check_is_fitted(self)
        about = {"held_out": (), "trained": (), **people}
        return replace(self.head_, view=view, model=model, knn_view=view, **about)  # type: ignore[type-var]

    @property
    def _n_features_out(self) -> int:
        return self.head_.representation_width

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def _families(labels: NDArray[Any], people: NDArray[Any], seed: int) -> Families:
    """Families of all-kin people, from (photos,) family labels and (photos,) people."""
    _, family = np.unique(labels, return_inverse=True)
    _, person = np.unique(people, return_inverse=True)
    names = [
        f"F{f:09}/P{p:09}/{photo:09}"
        for photo, (f, p) in enumerate(zip(family.tolist(), person.tolist(), strict=True))
    ]
    members: dict[str, list[str]] = {}
    for name in sorted({name.rpartition("/")[0] for name in names}):
        members.setdefault(name.partition("/")[0], []).append(name)
    rng = np.random.default_rng(seed)
    relations: list[tuple[str, str]] = []
    for own in members.values():
        first, second = np.triu_indices(len(own), 1)
        if len(first) > MAX_RELATIONS:
            sampled = rng.permutation(len(first))[:MAX_RELATIONS]
            first, second = first[sampled], second[sampled]
        relations += [(own[a], own[b]) for a, b in zip(first, second, strict=True)]
    return group_families(names, relations, range(len(names)))
