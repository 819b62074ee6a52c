"""VGG16 ("VGG-Face") as keras-vggface defines it, without the classifier.

Parkhi et al., "Deep Face Recognition", BMVC 2015; the graph is that of `keras_vggface/models.py`
in https://github.com/rcmalli/keras-vggface. Module names are the Keras layer names.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from kinembed.backbones.trunk import Trunk

# (width, convolutions) of each stage; a 2 x 2 max-pool ends it
STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


class VGG16(Trunk):
    """BGR faces (N, 3, 224, 224) less the VGGFace mean to the 512 x 7 x 7 map after pool5."""

    def __init__(self) -> None:
        super().__init__()
        inp = 3
        for stage, (width, convolutions) in enumerate(STAGES, start=1):
            for number in range(1, convolutions + 1):
                self.add_module(f"conv{stage}_{number}", nn.Conv2d(inp, width, 3, padding=1))
                inp = width

    def feature_map(self, x: Tensor) -> Tensor:
        """Photos (N, 3, 224, 224) to the map after pool5 (N, 512, 7, 7)."""
        for stage, (_, convolutions) in enumerate(STAGES, start=1):
            for number in range(1, convolutions + 1):
                x = torch.relu(self.get_submodule(f"conv{stage}_{number}")(x))
            x = functional.max_pool2d(x, 2)
        return x
