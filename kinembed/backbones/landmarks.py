"""Eyes, nose and mouth of a face: MTCNN's cascade of three networks.

Zhang et al., "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional Networks",
https://arxiv.org/abs/1604.02878. The networks and their weights are facenet-pytorch's; its own
cascade imports torchvision, which this one does without.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from kinembed.backbones import WeightSource
from kinembed.backbones.facenet import ONet
from kinembed.backbones.published_weights import check_unchanged, locate
from kinembed.backbones.weights import read_checkpoint
from kinembed.errors import WeightsError
from kinembed.threads import processors

Boxes = NDArray[np.float32]  # (B, 4): left, top, right, bottom in pixels

CELL, STRIDE = 12, 2  # of P-Net, in its own pixels
SHRINK = 0.709  # from one size of face to the next
SMALLEST = 0.25  # face that is looked for, of the photo's side
THRESHOLDS = (0.6, 0.7, 0.7)
SHA256 = {
    "pnet": "a2a71925e0b9996a42f63e47efc1ca19043e69558b5c523b978d611dfae49c8f",
    "rnet": "bbb937de72efc9ef83b186c49f5f558467a1d7e3453a8ece0d71a886633f6a86",
    "onet": "165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d",
}


class PNet(nn.Module):
    """Photos (N, 3, H, W) to probabilities (N, h, w) and offsets (N, 4, h, w) of faces by cell."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 10, 3), nn.PReLU(10)
        self.conv2, self.prelu2 = nn.Conv2d(10, 16, 3), nn.PReLU(16)
        self.conv3, self.prelu3 = nn.Conv2d(16, 32, 3), nn.PReLU(32)
        self.conv4_1, self.conv4_2 = nn.Conv2d(32, 2, 1), nn.Conv2d(32, 4, 1)
        self.pool = nn.MaxPool2d(2, 2, ceil_mode=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.pool(self.prelu1(self.conv1(x)))
        x = self.prelu3(self.conv3(self.prelu2(self.conv2(x))))
        return self.conv4_1(x).softmax(1)[:, 1], self.conv4_2(x)


class RNet(nn.Module):
    """Boxes (N, 3, 24, 24) to probabilities (N,) and offsets (N, 4) of a face."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 28, 3), nn.PReLU(28)
        self.conv2, self.prelu2 = nn.Conv2d(28, 48, 3), nn.PReLU(48)
        self.conv3, self.prelu3 = nn.Conv2d(48, 64, 2), nn.PReLU(64)
        self.dense4, self.prelu4 = nn.Linear(576, 128), nn.PReLU(128)
        self.dense5_1, self.dense5_2 = nn.Linear(128, 2), nn.Linear(128, 4)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.pool(self.prelu1(self.conv1(x)))
        x = self.pool(self.prelu2(self.conv2(x)))
        x = self.prelu3(self.conv3(x))
        x = self.prelu4(self.dense4(x.permute(0, 3, 2, 1).flatten(1)))  # as Caffe's columns lie
        return self.dense5_1(x).softmax(1)[:, 1], self.dense5_2(x)


class LandmarkNet(ONet):
    """O-Net: boxes (N, 3, 48, 48) to probabilities (N,) and points (N, 2, 5), shares of the box."""

    def __init__(self) -> None:
        super().__init__()
        self.dense5, self.prelu5 = nn.Linear(1152, 256), nn.PReLU(256)
        self.dense6_1, self.dense6_2 = nn.Linear(256, 2), nn.Linear(256, 4)
        self.dense6_3 = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.feature_map(x)
        x = self.prelu5(self.dense5(x.permute(0, 3, 2, 1).flatten(1)))
        return self.dense6_1(x).softmax(1)[:, 1], self.dense6_3(x).view(-1, 2, 5)


def find_landmarks(photos: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32] | None]:
    """What `LandmarkFinder.find` finds on each photo, by a thread for each processor.

    Raises:
        WeightsError: facenet-pytorch is missing, or its files have changed.
    """
    finder, before = LandmarkFinder(), torch.get_num_threads()
    try:
        # For such small networks torch's own threads would mostly wait for each other.
        with ThreadPoolExecutor(processors(), "", torch.set_num_threads, (1,)) as pool:
            return list(pool.map(finder.find, photos))
    finally:
        torch.set_num_threads(before)


class LandmarkFinder:
    """Finds the eyes, nose and mouth of the largest face on a photo, on the CPU.

    Raises:
        WeightsError: facenet-pytorch is missing, or its files have changed.
    """

    def __init__(self) -> None:
        self._pnet = _loaded("pnet", PNet())
        self._rnet = _loaded("rnet", RNet())
        self._onet = _loaded("onet", LandmarkNet())

    @torch.inference_mode()
    def find(self, photo: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """The left eye (as seen), right eye, nose, and left and right corner of the mouth.

        Args:
            photo: (H, W, 3) uint8, RGB.

        Returns:
            (5, 2) float32, x and y in pixels; None where there is no face.
        """
        pixels = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None].float()
        pixels = (pixels - 127.5) / 128  # (1, 3, H, W)
        boxes = self._proposed(pixels)
        boxes = self._refined(pixels, boxes)
        if not len(boxes):
            return None
        found, points = self._onet(_cropped(pixels, boxes, 48))
        sides = boxes[:, 2] - boxes[:, 0]
        sound = np.flatnonzero(found.numpy() > THRESHOLDS[2])
        if not len(sound):
            return None
        largest = sound[sides[sound].argmax()]
        corner, side = boxes[largest, :2], sides[largest]
        result: NDArray[np.float32] = corner + points[largest].numpy().T * side
        return result

    def _proposed(self, pixels: Tensor) -> Boxes:
        """Boxes of faces by P-Net, of all sizes."""
        height, width = pixels.shape[2:]
        size = SMALLEST * min(height, width)
        found: list[tuple[Boxes, NDArray[np.float32]]] = []
        while size <= min(height, width):
            shape = (round(height * CELL / size), round(width * CELL / size))
            probability, offsets = self._pnet(functional.interpolate(pixels, shape, mode="area"))
            row, column = np.nonzero(probability[0].numpy() > THRESHOLDS[0])
            scores = probability[0].numpy()[row, column]
            corner = np.stack([column, row], 1) * (STRIDE * size / CELL)
            boxes = np.concatenate([corner, corner + size], 1).astype(np.float32)
            boxes = boxes + offsets[0].numpy()[:, row, column].T * np.float32(size)
            kept = apart(boxes, scores, 0.5)
            found.append((boxes[kept], scores[kept]))
            size /= SHRINK
        boxes, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return _square(boxes[apart(boxes, scores, 0.7)])

    def _refined(self, pixels: Tensor, boxes: Boxes) -> Boxes:
        """The boxes that R-Net takes for faces, put right."""
        if not len(boxes):
            return boxes
        probability, offsets = (part.numpy() for part in self._rnet(_cropped(pixels, boxes, 24)))
        faces = np.flatnonzero(probability > THRESHOLDS[1])
        boxes, probability, offsets = boxes[faces], probability[faces], offsets[faces]
        sides = boxes[:, 2:] - boxes[:, :2]
        boxes = boxes + offsets * np.concatenate([sides, sides], 1)
        return _square(boxes[apart(boxes, probability, 0.7)])


def apart(boxes: Boxes, scores: NDArray[np.float32], overlap: float) -> list[int]:
    """Non-maximum suppression: of boxes that overlap by more, the one with the highest score.

    Args:
        boxes: (B, 4).
        scores: (B,).
        overlap: intersection over union.

    Returns:
        The rows that stay, highest score first.
    """
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    left = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(int(best))
        corner = np.maximum(boxes[best, :2], boxes[left, :2])
        common = np.clip(np.minimum(boxes[best, 2:], boxes[left, 2:]) - corner, 0, None).prod(1)
        left = left[common <= overlap * (area[best] + area[left] - common)]
    return kept


def _square(boxes: Boxes) -> Boxes:
    """Boxes (B, 4) made square around their centres."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(1, keepdims=True) / 2
    return np.concatenate([centre - half, centre + half], 1)


def _cropped(pixels: Tensor, boxes: Boxes, side: int) -> Tensor:
    """Boxes of a photo (1, 3, H, W) as (B, 3, side, side); what lies outside is grey, 0."""
    height, width = pixels.shape[2:]
    crops = []
    for left, top, right, bottom in np.rint(boxes).astype(int).tolist():
        outside = (-min(left, 0), max(right - width, 0), -min(top, 0), max(bottom - height, 0))
        inside = pixels[:, :, max(top, 0) : bottom, max(left, 0) : right]
        crops.append(functional.interpolate(functional.pad(inside, outside), side, mode="area"))
    return torch.cat(crops)


def _loaded(name: str, network: Any) -> Any:
    """A network with facenet-pytorch's weights."""
    source = WeightSource(
        licence="MIT (facenet-pytorch)",
        bundled=f"facenet_pytorch:data/{name}.pt",
        install="facenet-pytorch",
        sha256=SHA256[name],
    )
    _, path = locate(source)
    if path is None:
        raise WeightsError("facenet-pytorch is not installed; run pip install facenet-pytorch")
    check_unchanged(path, source)
    network.load_state_dict(read_checkpoint(path))
    return network.eval()
