"""SFace, the MobileNet-v1 face network of OpenCV's model zoo.

Zhong et al., "SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face Recognition",
https://arxiv.org/abs/2205.12010; the graph is that of `face_recognition_sface_2021dec` in
https://github.com/opencv/opencv_zoo, apart from its first two nodes, which are the pixel recipe.

Module names give the names in the ONNX file by the rule in `kinembed.backbones.weights.sface_onnx`.
"""

from typing import cast

from torch import Tensor, nn

from kinembed.backbones.trunk import Trunk

# (width, stride) of the depthwise-separable blocks conv_2 to conv_14; conv_1 gives 32 x 112 x 112
BLOCKS = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1)),
)


class ConvUnit(nn.Module):
    """A convolution without bias, its BatchNorm, and a PReLU with one slope per channel."""

    def __init__(self, inp: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv2d = nn.Conv2d(inp, out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.batchnorm = nn.BatchNorm2d(out, eps=1e-3)
        self.relu = nn.PReLU(out)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.relu(self.batchnorm(self.conv2d(x))))


class SFace(Trunk):
    """RGB faces (N, 3, 112, 112), (x - 127.5) / 128, to a 1024 x 7 x 7 map and 128-d vector."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_1 = ConvUnit(3, 32, 3)
        self.unit_names = ["conv_1"]
        inp = 32
        for number, (out, stride) in enumerate(BLOCKS, start=2):
            self.add_module(f"conv_{number}_dw", ConvUnit(inp, inp, 3, stride, groups=inp))
            self.add_module(f"conv_{number}", ConvUnit(inp, out, 1))
            self.unit_names += [f"conv_{number}_dw", f"conv_{number}"]
            inp = out
        self.bn1 = nn.BatchNorm2d(inp, eps=2e-5)
        self.dropout = nn.Dropout(0.4)
        self.pre_fc1 = nn.Linear(inp * 7 * 7, 128)
        self.fc1 = nn.BatchNorm1d(128, eps=2e-5)

    def feature_map(self, x: Tensor) -> Tensor:
        """Photos (N, 3, 112, 112) to the last convolution's map (N, 1024, 7, 7), before `bn1`."""
        for name in self.unit_names:
            x = self.get_submodule(name)(x)
        return x

    def native(self, feature_map: Tensor) -> Tensor:
        """The last feature map (N, 1024, 7, 7) to the network's own vector (N, 128)."""
        x = self.dropout(self.bn1(feature_map)).flatten(1)
        return cast(Tensor, self.fc1(self.pre_fc1(x)))
