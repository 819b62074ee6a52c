"""dlib's face network, a residual network of 29 convolutions for faces of 150 x 150 px.

King, "High Quality Face Recognition with Deep Metric Learning", 2017,
http://blog.dlib.net/2017/02/high-quality-face-recognition-with-deep.html; the layers are those of
`anet_type` in https://github.com/davisking/dlib/blob/master/examples/dnn_face_recognition_ex.cpp.
Each of dlib's convolutions is followed by an affine layer, a factor and an offset for each channel:
`kinembed.backbones.weights.dlib_dat` multiplies them into the convolution.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from kinembed.backbones.trunk import Trunk

# (width, blocks) of the stages; the first block of each but the first halves the map
STAGES = ((32, 3), (64, 4), (128, 3), (256, 3), (256, 1))


class Block(nn.Module):
    """Two 3 x 3 convolutions and a skip; a halving block averages the skip in 2 x 2.

    Where the skip has fewer channels than the convolutions, or they a smaller map than the skip,
    zeros fill what is missing, as in dlib's `add_prev`.

    Args:
        inp: channels of the input.
        out: channels of the output.
        side: of the input's map.
        halves: whether the output's map is half as large.
    """

    def __init__(self, inp: int, out: int, side: int, halves: bool) -> None:
        super().__init__()
        # dlib pads convolutions of stride 1 alone
        self.conv1 = nn.Conv2d(inp, out, 3, 2, 0) if halves else nn.Conv2d(inp, out, 3, 1, 1)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1)
        self.halves = halves
        self.missing_channels = out - inp
        self.missing_rows = side // 2 - (side - 1) // 2 if halves else 0

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(torch.relu(self.conv1(x)))
        if self.halves:
            x = functional.avg_pool2d(x, 2)
        if self.missing_channels:
            x = functional.pad(x, (0, 0, 0, 0, 0, self.missing_channels))
        if self.missing_rows:
            y = functional.pad(y, (0, self.missing_rows, 0, self.missing_rows))
        return torch.relu(x + y)


class DlibResNet(Trunk):
    """RGB faces (N, 3, 150, 150) to a 256 x 2 x 2 map and a 128-d native vector.

    Args:
        stages: width and number of blocks of each stage.
        side: of the photos in pixels.
        width: of the native vector.
    """

    def __init__(
        self, stages: tuple[tuple[int, int], ...] = STAGES, side: int = 150, width: int = 128
    ) -> None:
        super().__init__()
        self.side = side
        inp = stages[0][0]
        self.conv = nn.Conv2d(3, inp, 7, 2)
        self.pool = nn.MaxPool2d(3, 2)
        rest = ((side - 5) // 2 - 1) // 2  # of the side, behind conv and pool
        blocks = []
        for number, (out, count) in enumerate(stages):
            for repeat in range(count):
                halves = number > 0 and repeat == 0
                blocks.append(Block(inp, out, rest, halves))
                inp, rest = out, rest // 2 if halves else rest
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(inp, width, bias=False)

    def feature_map(self, x: Tensor) -> Tensor:
        """Photos (N, 3, 150, 150) to the last feature map (N, 256, 2, 2)."""
        return cast(Tensor, self.blocks(self.pool(torch.relu(self.conv(x)))))

    def native(self, feature_map: Tensor) -> Tensor:
        """The last feature map (N, 256, 2, 2) to the network's own vector (N, 128)."""
        return cast(Tensor, self.fc(feature_map.mean((2, 3))))
