"""The head as a torch module, as it learns."""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kinembed.heads.metric import MetricHead, Projection
from kinembed.heads.pair import PairHead, untold_width
from kinembed.recipes import ContrastiveRecipe, PairRecipe, check_features, feature_widths

# The features of `kinembed.heads.pair`, as torch computes them.
_COMPARISONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "abs": lambda a, b: torch.abs(a - b),
    "square": lambda a, b: torch.square(a - b),
    "diff-squares": lambda a, b: torch.square((a - b) * (a + b)),
    "product": torch.mul,
    "sum": torch.add,
    "l2": lambda a, b: torch.square(a - b).sum(-1, keepdim=True).clamp(min=1e-7).sqrt(),
    "cosine": lambda a, b: functional.cosine_similarity(a, b, dim=-1).unsqueeze(-1),
}

People = tuple[str, ...]


class KinHead(nn.Module):
    """Features of a and b, dense relu layers with dropout, and one logit.

    Args:
        width: numbers in each vector.
        recipe: features, layers and their initialisation.

    Raises:
        KinembedError: a feature is unknown or comes twice, or there is none.
    """

    def __init__(self, width: int, recipe: PairRecipe) -> None:
        super().__init__()
        check_features(recipe.features)
        self.recipe = recipe
        self.vector_width = untold_width(recipe.features, width)
        width = sum(feature_widths(recipe.features, width))
        self.hidden = nn.ModuleList()
        for out in recipe.hidden:
            self.hidden.append(nn.Linear(width, out))
            width = out
        self.output = nn.Linear(width, 1)
        self.dropout = nn.Dropout(recipe.dropout)
        self._initialise()

    def _initialise(self) -> None:
        for layer in self.layers():
            nn.init.xavier_uniform_(layer.weight)  # Keras' default, Glorot uniform
            if self.recipe.kernel_std is not None and layer is not self.output:
                nn.init.normal_(layer.weight, 0.0, self.recipe.kernel_std)
            if self.recipe.bias_mean is None:
                nn.init.zeros_(layer.bias)
            else:
                nn.init.normal_(layer.bias, self.recipe.bias_mean, 0.01)

    def layers(self) -> list[nn.Linear]:
        """The dense layers, the output last."""
        return [*cast(list[nn.Linear], list(self.hidden)), self.output]

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Vectors a and b, (N, width) each, to logits (N,)."""
        x = torch.cat([_COMPARISONS[name](a, b) for name in self.recipe.features], -1)
        for layer in self.hidden:
            x = self.dropout(torch.relu(layer(x)))
        return cast(Tensor, self.output(x)).squeeze(-1)

    def penalty(self) -> Tensor:
        """The L2 term of the loss, over the hidden kernels only, as Keras counts it."""
        total = self.output.weight.new_zeros(())
        for layer in self.layers()[:-1]:
            total = total + layer.weight.square().sum()
        return self.recipe.l2 * total

    def to_head(self, view: str, model: str, **people: Any) -> PairHead:
        """The head as numpy arrays, for the cache's side; `people` as a Head has them."""
        return PairHead(
            view=view,
            model=model,
            kernels=tuple(layer.weight.detach().cpu().numpy().T.copy() for layer in self.layers()),
            biases=tuple(layer.bias.detach().cpu().numpy().copy() for layer in self.layers()),
            features=self.recipe.features,
            vector_width=self.vector_width,
            **people,
        )


class CosineHead(nn.Module):
    """The cosine of two vectors as a logit: what recipe `kin` trains a trunk for.

    Args:
        width: numbers in each vector.
        recipe: a logit is the cosine, less that of logit 0, over its temperature.

    Attributes:
        centre: the cosine of logit 0.
    """

    scale: Tensor
    centre: Tensor

    def __init__(self, width: int, recipe: ContrastiveRecipe) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("scale", torch.tensor(1 / recipe.temperature))
        self.register_buffer("centre", torch.tensor(0.0))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Vectors a and b, (N, width) each, to logits (N,)."""
        return self.logits(functional.cosine_similarity(a, b, dim=-1))

    def logits(self, cosines: Tensor) -> Tensor:
        """Cosines to logits."""
        return self.scale.to(cosines.device) * (cosines - self.centre.to(cosines.device))

    def penalty(self) -> Tensor:
        """None: AdamW decays weights by itself."""
        return self.scale.new_zeros(())

    def to_head(
        self, view: str, model: str, held_out: tuple[str, ...] = (), trained: tuple[str, ...] = ()
    ) -> MetricHead:
        """The head for the cache's side; people as a MetricHead has them."""
        same = np.eye(self.width, dtype=np.float32)
        return MetricHead(
            view=view,
            model=model,
            projections=(Projection(same, np.zeros(self.width, np.float32)),),
            scale=float(self.scale),
            centre=float(self.centre),
            held_out=held_out,
            trained=trained,
        )


# The head of a siamese network, by the kind of its recipe.
HEAD_MODULES: dict[str, Callable[[int, Any], KinHead | CosineHead]] = {
    "pair": KinHead,
    "contrastive": CosineHead,
}
