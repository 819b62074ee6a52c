"""Stand-ins for the large backbones, for tests of what does not depend on the network.

A record keeps its name and its views, and takes a network that learns in a moment.
"""

from dataclasses import replace

import pytest
from torch import Tensor, nn

from kinembed.backbones import BACKBONES, Framing
from kinembed.backbones.trunk import Trunk

WIDTH = 8


class Small(Trunk):
    """Photos (N, 3, 32, 32) to a map (N, 8, 4, 4): two convolutions and a BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, 5, stride=4, padding=2)
        self.bn1 = nn.BatchNorm2d(WIDTH)
        self.conv2 = nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1)

    def feature_map(self, x: Tensor) -> Tensor:
        return self.conv2(self.bn1(self.conv1(x)).relu()).relu()


class Embedding(Small):
    """A network of five stages whose last two are an embedding of its own, as MobileFaceNet has."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Conv2d(WIDTH, WIDTH, 4, groups=WIDTH, bias=False)
        self.bn2 = nn.BatchNorm2d(WIDTH)

    def native(self, feature_map: Tensor) -> Tensor:
        return self.bn2(self.linear(feature_map)).flatten(1)


def stand_in(monkeypatch: pytest.MonkeyPatch, *names: str, network: type[Small] = Small) -> None:
    """From now on, and for this test, the backbones of these names are small."""
    views = ("max", "avg", "native") if network is Embedding else ("max", "avg")
    for name in names:
        small = replace(
            BACKBONES[name],
            network=f"small_networks:{network.__name__}",
            parameters=sum(parameter.numel() for parameter in network().parameters()),
            framing=Framing(side=32, inner=32),
            views=dict.fromkeys(views, WIDTH),
        )
        monkeypatch.setitem(BACKBONES, name, small)
