"""The head as a torch module, as it learns."""

from typing import cast

import torch
from torch import Tensor, nn

from kinembed.config import Recipe
from kinembed.heads import Head


class KinHead(nn.Module):
    """|a - b|, dense relu layers with dropout, and one logit.

    Args:
        width: numbers in each vector.
        recipe: layers and their initialisation.
    """

    def __init__(self, width: int, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
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
        x = torch.abs(a - b)
        for layer in self.hidden:
            x = self.dropout(torch.relu(layer(x)))
        return cast(Tensor, self.output(x)).squeeze(-1)

    def penalty(self) -> Tensor:
        """The L2 term of the loss, over the hidden kernels only, as Keras counts it."""
        total = self.output.weight.new_zeros(())
        for layer in self.layers()[:-1]:
            total = total + layer.weight.square().sum()
        return self.recipe.l2 * total

    def to_head(self, view: str, model: str, **people: tuple[str, ...]) -> Head:
        """The head as numpy arrays, for the cache's side; `people` as a Head has them."""
        return Head(
            view=view,
            model=model,
            kernels=tuple(layer.weight.detach().cpu().numpy().T.copy() for layer in self.layers()),
            biases=tuple(layer.bias.detach().cpu().numpy().copy() for layer in self.layers()),
            **people,
        )
