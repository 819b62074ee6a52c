"""A pair head as a scikit-learn classifier, for cross-validation and grid search."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, validate_data

from kinembed.arrays import Float
from kinembed.errors import KinembedError
from kinembed.heads.base import sigmoid
from kinembed.heads.pair import ABS, PairHead
from kinembed.recipes import ONE_NUMBER, PairRecipe, check_features
from kinembed.training.head_stack import HeadStack, torch_for_heads


class KinHeadClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A pair head trained on the distances of pairs.

    X is (pairs, D) distances |a - b|, as `kinembed.distances(vectors, rows)` gives them, or other
    features of it, so that it is symmetric whatever it learns; y says of each pair whether it is
    kin, in any two values, the greater one for kin. Cross-validate with the pairs' families as
    groups: pairs of one family are not independent.

    Parameters are those of `recipes.PairRecipe`; the default is the report's best head, with a
    learning rate that suits training from scratch.

    Args:
        hidden: widths of the dense ReLU layers.
        dropout: fraction of units dropped after each of them.
        l2: factor of the sum of squared hidden kernels in the loss.
        kernel_std: initial hidden kernels are N(0, kernel_std); None: Glorot uniform.
        bias_mean: initial biases are N(bias_mean, .01); None: zero.
        loss: `bce` or `focal`.
        optimizer: `adam` or `rmsprop`.
        learning_rate: of the optimiser.
        epochs: passes over all pairs.
        batch_size: pairs per step.
        random_state: of initial values, order and dropout.

    Attributes:
        classes_: the two values of y, kin last.
        head_: the trained head; `to_head` prepares it for a file.
        n_features_in_: D.
    """

    def __init__(
        self,
        *,
        hidden: tuple[int, ...] = (100, 25),
        dropout: float = 0.1,
        l2: float = 1e-3,
        kernel_std: float | None = None,
        bias_mean: float | None = None,
        loss: str = "bce",
        optimizer: str = "adam",
        learning_rate: float = 1e-3,
        epochs: int = 30,
        batch_size: int = 32,
        random_state: Any = None,
    ) -> None:
        self.hidden = hidden
        self.dropout = dropout
        self.l2 = l2
        self.kernel_std = kernel_std
        self.bias_mean = bias_mean
        self.loss = loss
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> "KinHeadClassifier":  # noqa: N803
        """Fits (pairs, D) distances X and their (pairs,) labels y."""
        pairs, labels = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(labels)
        if type_of_target(labels) != "binary":
            raise ValueError(
                "Only binary classification is supported. The type of the target is "
                f"{type_of_target(labels)}."
            )
        self.classes_, codes = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError("Classifier can't train when only one class is present.")
        seed = int(check_random_state(self.random_state).randint(1 << 31))
        recipe = PairRecipe(
            "estimator",
            hidden=tuple(self.hidden),
            dropout=self.dropout,
            l2=self.l2,
            kernel_std=self.kernel_std,
            bias_mean=self.bias_mean,
            loss=self.loss,  # type: ignore[arg-type]
            optimizer=self.optimizer,  # type: ignore[arg-type]
            learning_rate=self.learning_rate,
        )
        self.head_ = _learn(pairs, codes, recipe, seed, self.epochs, self.batch_size)
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803
        """(pairs,) logits; positive if kin is more likely."""
        check_is_fitted(self)
        pairs = validate_data(self, X, dtype=np.float32, reset=False)
        return self.head_.score_features(pairs)

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803
        """(pairs, 2) probabilities, kin in the last column."""
        kin = sigmoid(self.decision_function(X))
        return np.stack([1 - kin, kin], 1)

    def predict(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803
        """(pairs,) the more likely of `classes_`."""
        scores = self.decision_function(X)
        predicted: NDArray[Any] = self.classes_[(scores > 0).astype(int)]
        return predicted

    def to_head(
        self,
        view: str,
        model: str,
        held_out: tuple[str, ...] = (),
        features: tuple[str, ...] = ABS,
    ) -> PairHead:
        """The head for `save_head`.

        Args:
            view: whose vectors it compares.
            model: digest of what made them.
            held_out: who was not learnt from.
            features: those of `distances` that X held.

        Raises:
            KinembedError: a feature is unknown or comes twice, or X cannot have held these.
        """
        check_is_fitted(self)
        check_features(features)
        one_number = ONE_NUMBER.intersection(features)
        if one_number:
            raise KinembedError(
                f"features: {', '.join(sorted(one_number))} do not say how wide the vectors are; "
                "train with kinembed.train_head"
            )
        if self.n_features_in_ % len(features):
            raise KinembedError(
                f"features: X had {self.n_features_in_} columns, which are not those of "
                f"{len(features)} features"
            )
        return replace(
            self.head_, view=view, model=model, held_out=held_out, features=tuple(features)
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


def _learn(
    pairs: Float,
    codes: NDArray[np.intp],
    recipe: PairRecipe,
    seed: int,
    epochs: int,
    batch_size: int,
) -> PairHead:
    rng = np.random.default_rng(seed)
    labels = codes.astype(np.float32)
    with torch_for_heads():
        stack = HeadStack(pairs.shape[1], [(recipe, seed)], [0], seed, batch_size)
        for _ in range(epochs):
            order = rng.permutation(len(pairs))
            for start in range(0, len(pairs), batch_size):
                rows = order[start : start + batch_size]
                stack.learn(
                    torch.from_numpy(pairs[rows])[None], torch.from_numpy(labels[rows])[None]
                )
            stack.forget()
        return stack.head(0)
