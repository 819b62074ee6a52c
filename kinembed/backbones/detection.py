"""Faces on photos of any size: MTCNN's cascade of three networks.

Zhang et al., "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional Networks",
https://arxiv.org/abs/1604.02878. The networks and their weights are facenet-pytorch's; its own
cascade imports torchvision, which this one does without.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from kinembed.backbones import WeightSource
from kinembed.backbones.facenet import ONet
from kinembed.backbones.faces import DetectedFace, Numbers
from kinembed.backbones.published_weights import check_unchanged, locate
from kinembed.backbones.weights import read_checkpoint
from kinembed.errors import WeightsError

Pixels = NDArray[np.uint8]
Boxes = Numbers  # (B, 4): left, top, right, bottom in pixels

CELL, STRIDE = 12, 2  # of P-Net, in its own pixels
SHRINK = 0.709  # from one size of face to the next
THRESHOLDS = (0.6, 0.7, 0.7)
# A larger photo is halved before it is shrunk to less than half, and P-Net sees it strip by strip.
LARGE_PIXELS = 1 << 20
CROPS = 1024  # boxes that a network judges at a time
SHA256 = {
    "pnet": "a2a71925e0b9996a42f63e47efc1ca19043e69558b5c523b978d611dfae49c8f",
    "rnet": "bbb937de72efc9ef83b186c49f5f558467a1d7e3453a8ece0d71a886633f6a86",
    "onet": "165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d",
}


@dataclass(frozen=True, eq=False)
class Candidates:
    """What O-Net takes for faces on a photo, several of them maybe the same.

    Attributes:
        boxes: (F, 4) the squares that O-Net looked at.
        probability: (F,) of a face.
        offsets: (F, 4) how far the face's own box lies from them, in sides of the square.
        points: (F, 5, 2) eyes, nose and mouth, in pixels.
    """

    boxes: Boxes
    probability: Numbers
    offsets: Numbers
    points: Numbers

    @property
    def sides(self) -> Numbers:
        """(F,) of the squares, in pixels."""
        sides: Numbers = self.boxes[:, 2] - self.boxes[:, 0]
        return sides


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
    """O-Net: boxes (N, 3, 48, 48) to probabilities (N,), offsets (N, 4) and points (N, 2, 5).

    Offsets and points are shares of the box.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dense5, self.prelu5 = nn.Linear(1152, 256), nn.PReLU(256)
        self.dense6_1, self.dense6_2 = nn.Linear(256, 2), nn.Linear(256, 4)
        self.dense6_3 = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.feature_map(x)
        x = self.prelu5(self.dense5(x.permute(0, 3, 2, 1).flatten(1)))
        points = self.dense6_3(x).view(-1, 2, 5)
        return self.dense6_1(x).softmax(1)[:, 1], self.dense6_2(x), points


class Cascade:
    """MTCNN's three networks, one after the other.

    Args:
        device: of the networks.

    Raises:
        WeightsError: facenet-pytorch is missing, or its files have changed.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        self._pnet = _loaded("pnet", PNet()).to(self.device)
        self._rnet = _loaded("rnet", RNet()).to(self.device)
        self._onet = _loaded("onet", LandmarkNet()).to(self.device)

    def find_faces(self, photos: Sequence[Pixels], smallest: float) -> list[list[DetectedFace]]:
        """All faces on photos of one size, on each the largest first.

        Args:
            photos: (H, W, 3) uint8 each, RGB.
            smallest: the size of faces to look for, in pixels, 12 or more.
        """
        result = []
        for found in self.candidates(photos, smallest, keep_more=True):
            boxes = found.boxes + found.offsets * found.sides[:, None]
            rows = apart(boxes, found.probability, 0.7, nested=True)
            faces = [
                DetectedFace(boxes[row], found.points[row], float(found.probability[row]))
                for row in rows
            ]
            result.append(sorted(faces, key=lambda face: -face.size))
        return result

    @torch.inference_mode()
    def candidates(
        self, photos: Sequence[Pixels], smallest: float, keep_more: bool = False
    ) -> list[Candidates]:
        """What the networks take for faces on photos of one size.

        Args:
            photos: as of `find_faces`.
            smallest: as of `find_faces`.
            keep_more: suppress R-Net's boxes before they are put right, as facenet-pytorch does:
                after it they are more alike, and O-Net sees too few of a face that it hardly knows.
        """
        pixels = torch.from_numpy(np.stack(photos)).to(self.device).permute(0, 3, 1, 2).float()
        pixels = (pixels - 127.5) / 128  # (N, 3, H, W)
        boxes = self._refined(pixels, self._proposed(pixels, smallest), keep_more)
        crops = [(photo, box) for photo, own in enumerate(boxes) for box in own]
        probability, offsets, points = self._judged(self._onet, pixels, crops, 48)
        owner = np.array([photo for photo, _ in crops], int)
        result = []
        for photo, own in enumerate(boxes):
            rows = np.flatnonzero((owner == photo) & (probability > THRESHOLDS[2]))
            own = own[probability[owner == photo] > THRESHOLDS[2]]
            sides = own[:, 2] - own[:, 0]
            places = own[:, None, :2] + points[rows].transpose(0, 2, 1) * sides[:, None, None]
            result.append(Candidates(own, probability[rows], offsets[rows], places))
        return result

    def _proposed(self, pixels: Tensor, smallest: float) -> list[Boxes]:
        """Boxes of faces by P-Net, of all sizes."""
        height, width = pixels.shape[2:]
        size = smallest
        found: list[list[tuple[Boxes, Numbers]]] = [[] for _ in pixels]
        while size <= min(height, width):
            shape = (round(height * CELL / size), round(width * CELL / size))
            while pixels[0, 0].numel() > LARGE_PIXELS and 2 * shape[0] <= pixels.shape[2] // 2:
                pixels = functional.avg_pool2d(pixels, 2)
            small = functional.interpolate(pixels, shape, mode="area")
            probabilities, offsets = (part.cpu().numpy() for part in self._cells(small))
            for own, probability, offset in zip(found, probabilities, offsets, strict=True):
                row, column = np.nonzero(probability > THRESHOLDS[0])
                scores = probability[row, column]
                corner = np.stack([column, row], 1) * (STRIDE * size / CELL)
                boxes = np.concatenate([corner, corner + size], 1).astype(np.float32)
                boxes = boxes + offset[:, row, column].T * np.float32(size)
                kept = apart(boxes, scores, 0.5)
                own.append((boxes[kept], scores[kept]))
            size /= SHRINK
        return [_square(_apart_of_all_sizes(own)) for own in found]

    def _cells(self, photos: Tensor) -> tuple[Tensor, Tensor]:
        """P-Net's probabilities and offsets; those of a large photo strip by strip.

        A strip has the rows that its cells see, so the cells are those of the whole.
        """
        height, width = photos.shape[2:]
        rows = -(-(height - CELL) // STRIDE) + 1  # of cells; the last may see less
        step = max(1, LARGE_PIXELS // (STRIDE * width))
        if rows <= step:
            result: tuple[Tensor, Tensor] = self._pnet(photos)
            return result
        strips = [
            self._pnet(photos[:, :, STRIDE * top : STRIDE * (top + step - 1) + CELL])
            for top in range(0, rows, step)
        ]
        probability, offsets = zip(*strips, strict=True)
        return torch.cat(probability, 1), torch.cat(offsets, 2)

    def _refined(self, pixels: Tensor, boxes: list[Boxes], keep_more: bool) -> list[Boxes]:
        """The boxes that R-Net takes for faces, put right."""
        crops = [(photo, box) for photo, own in enumerate(boxes) for box in own]
        probability, offsets = self._judged(self._rnet, pixels, crops, 24)
        ends = np.cumsum([len(own) for own in boxes])[:-1]
        parts = zip(boxes, np.split(probability, ends), np.split(offsets, ends), strict=True)
        result = []
        for own, scores, moves in parts:
            faces = np.flatnonzero(scores > THRESHOLDS[1])
            own, scores, moves = own[faces], scores[faces], moves[faces]
            sides = own[:, 2:] - own[:, :2]
            right = own + moves * np.concatenate([sides, sides], 1)
            kept = apart(own if keep_more else right, scores, 0.7)
            result.append(_square(right[kept]))
        return result

    def _judged(
        self, network: Any, pixels: Tensor, crops: Sequence[tuple[int, Numbers]], side: int
    ) -> list[Numbers]:
        """What R-Net or O-Net says of boxes of photos (N, 3, H, W), each with its photo's number.

        Args:
            network: R-Net or O-Net.
            pixels: the photos.
            crops: number of the photo and (4,) box.
            side: of the network's input.
        """
        parts = []
        for at in range(0, len(crops), CROPS):
            some = crops[at : at + CROPS]
            inputs = [_cropped(pixels[photo : photo + 1], box, side) for photo, box in some]
            parts.append(network(torch.cat(inputs)))
        if not parts:
            parts = [network(pixels.new_zeros(0, 3, side, side))]
        return [torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True)]


def apart(boxes: Boxes, scores: Numbers, overlap: float, nested: bool = False) -> list[int]:
    """Non-maximum suppression: of boxes that overlap by more, the one with the highest score.

    Args:
        boxes: (B, 4).
        scores: (B,).
        overlap: intersection over union.
        nested: of the smaller box in place of the union, so that none lies within another.

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
        whole = area[best] + area[left] - common
        if nested:
            whole = np.minimum(area[best], area[left])
        left = left[common <= overlap * whole]
    return kept


def _square(boxes: Boxes) -> Boxes:
    """Boxes (B, 4) made square around their centres."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(1, keepdims=True) / 2
    return np.concatenate([centre - half, centre + half], 1)


def _cropped(photo: Tensor, box: Numbers, side: int) -> Tensor:
    """A box of a photo (1, 3, H, W) as (1, 3, side, side); what lies outside is grey, 0."""
    height, width = photo.shape[2:]
    left, top, right, bottom = np.rint(box).astype(int).tolist()
    outside = (-min(left, 0), max(right - width, 0), -min(top, 0), max(bottom - height, 0))
    inside = photo[:, :, max(top, 0) : bottom, max(left, 0) : right]
    return functional.interpolate(functional.pad(inside, outside), side, mode="area")


def _apart_of_all_sizes(found: Sequence[tuple[Boxes, Numbers]]) -> Boxes:
    """Boxes of a photo, those of each size apart already."""
    if not found:
        return np.empty((0, 4), np.float32)
    boxes, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return boxes[apart(boxes, scores, 0.7)]


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
