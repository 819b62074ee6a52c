"""ResNet-50 and SENet-50 as keras-vggface defines them, without the classifier.

Cao et al., "VGGFace2: A dataset for recognising faces across pose and age",
https://arxiv.org/abs/1710.08092; the graph is that of `keras_vggface/models.py` in
https://github.com/rcmalli/keras-vggface. Against torchvision's ResNet-50: the stride sits on the
1x1 reduction, the first convolution pads as TensorFlow's "same", the first max-pool does not pad,
and the BatchNorm constants are Keras'.

Module names give the Keras layer names by the rule in `kinembed.backbones.weights.keras_h5`.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.fx import wrap
from torch.nn import functional

from kinembed.backbones.trunk import Trunk

# (width of the 3x3, blocks, stride of the first block) of stages 2 to 5
STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
BN_MOMENTUM = 0.01  # Keras' default of 0.99 weighs the old value; torch's weighs the new one


def pad_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Pads maps (N, C, H, W) with zeros as TensorFlow's "same" does.

    The output of an unpadded `kernel` x `kernel` window is then ceil(H / stride) high. An odd row
    goes to the bottom and right, where a torch convolution pads both sides alike.
    """
    edges: list[int] = []
    for size in (x.shape[3], x.shape[2]):  # functional.pad takes the last axis first
        steps = -(-size // stride) - 1
        total = max(steps * stride + kernel - size, 0)
        edges += [total // 2, total - total // 2]
    return functional.pad(x, edges)


# torch.fx, which folds BatchNorm, cannot trace arithmetic on sizes: it treats this as one step
wrap("pad_same")


class ConvBn(nn.Module):
    """A convolution `conv` without bias, then its BatchNorm `bn`.

    Pads as "same" at stride 1, and not at all at stride 2. The two are separate modules, so that
    torch.fx can fold the BatchNorm into the convolution.
    """

    def __init__(self, inp: int, out: int, kernel: int, stride: int, eps: float) -> None:
        super().__init__()
        padding = kernel // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(inp, out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps, BN_MOMENTUM)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    """1x1 reduction, 3x3, 1x1 increase to 4 x `width`, and the skip around them."""

    def __init__(self, inp: int, width: int, stride: int, eps: float) -> None:
        super().__init__()
        out = 4 * width
        self.conv1x1_reduce = ConvBn(inp, width, 1, stride, eps)
        self.conv3x3 = ConvBn(width, width, 3, 1, eps)
        self.conv1x1_increase = ConvBn(width, out, 1, 1, eps)
        self.conv1x1_proj = ConvBn(inp, out, 1, stride, eps) if inp != out else None

    def residual(self, x: Tensor) -> Tensor:
        """Maps (N, inp, H, W) to what is added to the skip: (N, 4 * width, H', W')."""
        x = torch.relu(self.conv1x1_reduce(x))
        x = torch.relu(self.conv3x3(x))
        return cast(Tensor, self.conv1x1_increase(x))

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.conv1x1_proj is None else self.conv1x1_proj(x)
        return torch.relu(self.residual(x) + skip)


class SEBottleneck(Bottleneck):
    """A bottleneck whose channels are weighted by a squeeze-and-excitation gate.

    Hu et al., "Squeeze-and-Excitation Networks", https://arxiv.org/abs/1709.01507.
    """

    def __init__(self, inp: int, width: int, stride: int, eps: float) -> None:
        super().__init__(inp, width, stride, eps)
        out = 4 * width
        self.conv1x1_down = nn.Conv2d(out, out // 16, 1)
        self.conv1x1_up = nn.Conv2d(out // 16, out, 1)

    def residual(self, x: Tensor) -> Tensor:
        """As `Bottleneck.residual`, each channel times its gate in 0..1."""
        x = super().residual(x)
        gate = torch.relu(self.conv1x1_down(x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.conv1x1_up(gate))


class ResNet50(Trunk):
    """BGR faces (N, 3, 224, 224) less the VGGFace2 mean to a 2048 x 7 x 7 map.

    Photos may be larger; below 197 pixels the map is too small for the 7 x 7 pool of `max` and
    `avg`.
    """

    block: type[Bottleneck] = Bottleneck
    eps = 1e-3  # Keras' default

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ConvBn(3, 64, 7, 2, self.eps)
        self.block_names: list[str] = []
        inp = 64
        for stage, (width, repeats, stride) in enumerate(STAGES, start=2):
            for repeat in range(repeats):
                name = f"conv{stage}_{repeat + 1}"
                self.add_module(name, self.block(inp, width, 1 if repeat else stride, self.eps))
                self.block_names.append(name)
                inp = 4 * width

    def feature_map(self, x: Tensor) -> Tensor:
        """Photos (N, 3, 224, 224) to the last convolutional map (N, 2048, 7, 7)."""
        x = torch.relu(self.conv1(pad_same(x, kernel=7, stride=2)))
        x = functional.max_pool2d(x, 3, 2)
        for name in self.block_names:
            x = self.get_submodule(name)(x)
        return x

    def view(self, name: str, feature_map: Tensor) -> Tensor:
        """One view (N, 2048) of the feature map: `max`, `avg` or `map-max`.

        keras-vggface pools the map by a 7 x 7 average before any global pool, so its
        `pooling="max"`, our `max`, is at 224 pixels the maximum over one cell, equal to `avg`.
        `map-max` is the maximum over the convolutional map itself.
        """
        if name == "map-max":
            return feature_map.amax((2, 3))
        return super().view(name, functional.avg_pool2d(feature_map, 7))


class SENet50(ResNet50):
    """BGR faces (N, 3, 224, 224) less the VGGFace2 mean to a 2048 x 7 x 7 map, with SE gates."""

    block = SEBottleneck
    eps = 1e-4
