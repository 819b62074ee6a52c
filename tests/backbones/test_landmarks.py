"""Eyes, nose and mouth: against facenet-pytorch's own cascade, and on photos without faces."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kinembed.backbones import Framing
from kinembed.backbones import detection as module
from kinembed.backbones.detection import apart
from kinembed.backbones.facenet import _facenet_module
from kinembed.backbones.landmarks import LandmarkFinder, find_landmarks
from kinembed.data.photos import read_photo
from kinembed.errors import WeightsError

ROOM = Framing(side=160, inner=112, top=24, left=24)


def slow_apart(boxes: np.ndarray, scores: np.ndarray, overlap: float) -> list[int]:
    """A box stays if none that stays and has a higher score overlaps it by more."""
    kept: list[int] = []
    for row in sorted(range(len(boxes)), key=lambda row: (-scores[row], row)):
        a = boxes[row]
        for other in kept:
            b = boxes[other]
            width = min(a[2], b[2]) - max(a[0], b[0])
            height = min(a[3], b[3]) - max(a[1], b[1])
            common = max(0, width) * max(0, height)
            union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
            if common > overlap * union:
                break
        else:
            kept.append(row)
    return kept


@pytest.mark.parametrize("seed", range(20))
def test_of_boxes_that_overlap_the_best_stays(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 60, (seed * 3, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 40, corner.shape)], 1)
    scores = rng.integers(0, 5, len(boxes)).astype(float)  # with ties
    for overlap in (0.1, 0.5, 0.7):
        assert apart(boxes, scores, overlap) == slow_apart(boxes, scores, overlap)


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """facenet-pytorch's MTCNN, with the little that it wants of torchvision."""

    def batched_nms(boxes: Tensor, scores: Tensor, group: Tensor, overlap: float) -> Tensor:
        apart_by_group = boxes + group[:, None] * 10_000.0
        return torch.tensor(slow_apart(apart_by_group.numpy(), scores.numpy(), overlap)).long()

    names = ("torchvision", "torchvision.transforms", "torchvision.ops", "torchvision.ops.boxes")
    stubs = {name: ModuleType(name) for name in names}
    stubs["torchvision.transforms"].functional = None  # type: ignore[attr-defined]
    stubs["torchvision.ops.boxes"].batched_nms = batched_nms  # type: ignore[attr-defined]
    for name, stub in stubs.items():
        monkeypatch.setitem(sys.modules, name, stub)
    before = set(sys.modules)
    yield _facenet_module("mtcnn").MTCNN(min_face_size=40, device="cpu", post_process=False)
    for name in set(sys.modules) - before:  # which hold the stubs
        del sys.modules[name]


def photos(faces: Path, count: int) -> list[np.ndarray]:
    paths = sorted((faces / "train").rglob("*.jpg"))
    return [read_photo(path, ROOM)[1] for path in paths[:: len(paths) // count]]


def test_the_points_are_those_of_facenet_pytorch(theirs: Any, faces: Path) -> None:
    finder, compared = LandmarkFinder(), 0
    for photo in photos(faces, 10):
        found = finder.find(photo)
        boxes, _, points = theirs.detect(photo, landmarks=True)
        assert (found is None) == (boxes is None)
        if found is not None:
            assert np.abs(found - points[0]).max() < 0.03 * len(photo)
            compared += 1
    assert compared >= 5


@pytest.mark.shared
def test_the_points_on_real_photos_are_those_of_facenet_pytorch(theirs: Any, shared: Any) -> None:
    paths = sorted(shared("rfiw/train/F0009").rglob("*.jpg"))[::8]
    pixels = [read_photo(path, ROOM)[1] for path in paths]
    found = np.array(find_landmarks(pixels))
    wanted = np.array([theirs.detect(each, landmarks=True)[2][0] for each in pixels])
    away = np.abs(found - wanted).max((1, 2))  # they do not always choose the same box
    assert np.median(away) < 0.02 * 160 and away.max() < 0.08 * 160
    assert np.abs(np.median(found, 0) - np.median(wanted, 0)).max() < 0.015 * 160


def test_the_points_move_with_the_face(faces: Path) -> None:
    photo = next(p for p in photos(faces, 10) if LandmarkFinder().find(p) is not None)
    moved = np.roll(photo, (9, -6), (0, 1))
    before, after, again = find_landmarks([photo, moved, photo])
    assert before is not None and after is not None and again is not None
    assert np.abs(after - before - [-6, 9]).mean() < 3
    assert (before == again).all()
    assert before[0][0] < before[1][0] and before[3][0] < before[4][0]  # left before right
    assert before[:2, 1].max() < before[2][1] < before[3:, 1].min()  # eyes, nose, mouth


def test_there_are_no_faces_on_other_pictures() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    grey = np.full((160, 160, 3), 90, np.uint8)
    before = torch.get_num_threads()
    assert find_landmarks([noise, grey, grey[:13, :12]]) == [None, None, None]
    assert torch.get_num_threads() == before


def test_changed_or_missing_weights_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "locate", lambda source: ("to install", None))
    with pytest.raises(WeightsError, match="facenet-pytorch is not installed; run pip install"):
        LandmarkFinder()
    path = tmp_path / "pnet.pt"
    path.write_bytes(b"other")
    monkeypatch.setattr(module, "locate", lambda source: ("installed", path))
    with pytest.raises(WeightsError, match=r"pnet\.pt: found sha256"):
        LandmarkFinder()
