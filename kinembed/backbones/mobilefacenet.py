"""MobileFaceNet, the 1.0 M parameter face network of `foamliu/MobileFaceNet`.

Chen et al., "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on Mobile
Devices", https://arxiv.org/abs/1804.07573. Parameter names follow the released state dict, so it
loads strictly.
"""

from typing import cast

import torch
from torch import Tensor, nn

from kinembed.backbones.trunk import Trunk

# expansion, width, repeats, stride of the first repeat
INVERTED_RESIDUALS = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))


def conv_bn(inp: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution without bias, its BatchNorm and ReLU6."""
    conv = nn.Conv2d(inp, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU6(inplace=True))


class DepthwiseSeparable(nn.Module):
    """Depthwise 3x3, BN, ReLU, pointwise, BN, ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.pointwise = nn.Conv2d(width, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.depthwise(x)))
        return torch.relu(self.bn2(self.pointwise(x)))


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise 3x3, linear 1x1; a skip where the shape allows."""

    def __init__(self, inp: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inp * expansion
        self.skip = stride == 1 and inp == out
        self.conv = nn.Sequential(
            conv_bn(inp, hidden, 1),
            conv_bn(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.skip else cast(Tensor, self.conv(x))


class GlobalDepthwise(nn.Module):
    """A depthwise convolution over the whole 7 x 7 map, and its BatchNorm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, groups=width, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.bn(self.depthwise(x)))


class MobileFaceNet(Trunk):
    """RGB faces (N, 3, 112, 112) to a 512 x 7 x 7 map and a 128-d native vector."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = conv_bn(3, 64, 3, stride=2)
        self.dw_conv = DepthwiseSeparable(64)
        blocks: list[nn.Module] = []
        width = 64
        for expansion, out, repeats, stride in INVERTED_RESIDUALS:
            for repeat in range(repeats):
                blocks.append(InvertedResidual(width, out, 1 if repeat else stride, expansion))
                width = out
        self.features = nn.Sequential(*blocks)
        self.conv2 = conv_bn(width, 512, 1)
        self.gdconv = GlobalDepthwise(512)
        self.conv3 = nn.Conv2d(512, 128, 1)
        self.bn = nn.BatchNorm2d(128)

    def feature_map(self, x: Tensor) -> Tensor:
        """Photos (N, 3, 112, 112) to the last feature map (N, 512, 7, 7)."""
        return cast(Tensor, self.conv2(self.features(self.dw_conv(self.conv1(x)))))

    def native(self, feature_map: Tensor) -> Tensor:
        """The last feature map (N, 512, 7, 7) to the network's own vector (N, 128)."""
        return cast(Tensor, self.bn(self.conv3(self.gdconv(feature_map))).flatten(1))
