"""The networks that the package facenet-pytorch brings: InceptionResnetV1 and MTCNN's O-Net."""

import importlib
import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional

from kinembed.backbones.trunk import Trunk
from kinembed.errors import KinembedError


def _facenet_module(name: str) -> ModuleType:
    """A submodule of facenet_pytorch, imported without the package's `__init__`.

    That would import torchvision, which is unused, takes a second, and fails if torch is a CPU
    build and torchvision is not.
    """
    spec = find_spec("facenet_pytorch")
    if spec is None or spec.submodule_search_locations is None:
        raise KinembedError("facenet-pytorch is not installed; run pip install facenet-pytorch")
    root = spec.submodule_search_locations[0]
    bare = {"facenet_pytorch": root, "facenet_pytorch.models": f"{root}/models"}
    before = {key: sys.modules.get(key) for key in bare}
    try:
        for key, path in bare.items():
            if before[key] is None:
                sys.modules[key] = ModuleType(key)
                sys.modules[key].__path__ = [path]
        return importlib.import_module(f"facenet_pytorch.models.{name}")
    finally:
        for key, module in before.items():
            if module is None:  # a later, real import must find the real package
                del sys.modules[key]


class InceptionResnetV1(Trunk):
    """RGB faces (N, 3, 160, 160) to a 1792 x 3 x 3 map and a unit-length 512-d native vector.

    Parameters are named as in facenet-pytorch's checkpoints.
    """

    def __init__(self) -> None:
        super().__init__()
        source: Any = _facenet_module("inception_resnet_v1").InceptionResnetV1(classify=False)
        for name, module in source.named_children():
            self.add_module(name, module)

    def feature_map(self, x: Tensor) -> Tensor:
        """Photos (N, 3, 160, 160) to the last feature map (N, 1792, 3, 3)."""
        for name, module in self.named_children():
            if name == "avgpool_1a":
                break
            x = module(x)
        return x

    def native(self, feature_map: Tensor) -> Tensor:
        """The last feature map (N, 1792, 3, 3) to the embedding (N, 512) of length 1."""
        x = feature_map
        for name in ("avgpool_1a", "dropout"):
            x = self.get_submodule(name)(x)
        x = self.get_submodule("last_linear")(x.flatten(1))
        return functional.normalize(self.get_submodule("last_bn")(x), dim=1)


class ONet(Trunk):
    """MTCNN's O-Net as a fully convolutional trunk: RGB faces to a map of 128 channels.

    Zhang et al., "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional
    Networks", https://arxiv.org/abs/1604.02878. Parameters are named as in facenet-pytorch, whose
    wheel carries the weights; its dense layers, bound to 48 x 48 px, are left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3)
        self.prelu1 = nn.PReLU(32)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.prelu2 = nn.PReLU(64)
        self.conv3 = nn.Conv2d(64, 64, 3)
        self.prelu3 = nn.PReLU(64)
        self.conv4 = nn.Conv2d(64, 128, 2)
        self.prelu4 = nn.PReLU(128)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.pool3 = nn.MaxPool2d(2, 2, ceil_mode=True)

    def feature_map(self, x: Tensor) -> Tensor:
        """Photos (N, 3, side, side), side >= 48, to the last feature map (N, 128, H, W)."""
        x = self.pool(self.prelu1(self.conv1(x)))
        x = self.pool(self.prelu2(self.conv2(x)))
        x = self.pool3(self.prelu3(self.conv3(x)))
        return cast(Tensor, self.prelu4(self.conv4(x)))
