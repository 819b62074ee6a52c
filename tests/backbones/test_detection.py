"""All faces on photos: the cascade against a plain one, and on photographs composed for the test."""

from functools import cache
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from composed import Placed, compose, folder_of_faces, painted_faces
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from kinembed.backbones import detection
from kinembed.backbones.detection import Cascade, apart
from kinembed.backbones.faces import DetectedFace


@cache
def composed(width: int = 420, height: int = 360, seed: int = 1) -> tuple[np.ndarray, list[Placed]]:
    rng = np.random.default_rng(seed)
    image, placed = compose(painted_faces(4, seed=5), [150, 70, 52, 48], width, height, rng)
    return np.asarray(image), placed


def missed(placed: list[Placed], faces: list[DetectedFace]) -> list[int]:
    """Sizes of the faces that are not among those found."""
    middles = [face.points.mean(0) for face in faces]
    return [
        each.size
        for each in placed
        if not any(np.abs(middle - each.centre).max() < 0.3 * each.size for middle in middles)
    ]


@torch.inference_mode()
def slow_faces(cascade: Cascade, photo: np.ndarray, smallest: float) -> list[np.ndarray]:
    """The cascade with a loop for each size, cell and box: (5, 2) points, most probable first."""
    pixels = (torch.from_numpy(photo.copy()).permute(2, 0, 1)[None].float() - 127.5) / 128
    _, _, height, width = pixels.shape

    def cut(box: np.ndarray, side: int) -> torch.Tensor:
        left, top, right, bottom = (round(float(edge)) for edge in box)
        square = torch.zeros(1, 3, bottom - top, right - left)
        for y in range(max(0, top), min(height, bottom)):
            columns = slice(max(0, left), min(width, right))
            square[0, :, y - top, columns.start - left : columns.stop - left] = pixels[
                0, :, y, columns
            ]
        return functional.interpolate(square, side, mode="area")

    def squared(box: np.ndarray) -> np.ndarray:
        x, y, half = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, max(box[2:] - box[:2]) / 2
        return np.array([x - half, y - half, x + half, y + half])

    def overlap(one: np.ndarray, other: np.ndarray, nested: bool) -> float:
        across = min(one[2], other[2]) - max(one[0], other[0])
        down = min(one[3], other[3]) - max(one[1], other[1])
        common = max(0.0, across) * max(0.0, down)
        areas = [float(np.prod(box[2:] - box[:2])) for box in (one, other)]
        return float(common / (min(areas) if nested else sum(areas) - common))

    def suppressed(found: list[Any], most: float, nested: bool = False) -> list[Any]:
        kept: list[Any] = []
        for each in sorted(found, key=lambda each: -each[0]):
            if all(overlap(each[1], other[1], nested) <= most for other in kept):
                kept.append(each)
        return kept

    found: list[Any] = []
    size = smallest
    while size <= min(height, width):
        shape = (round(height * 12 / size), round(width * 12 / size))
        small = functional.interpolate(pixels, shape, mode="area")
        probability, offsets = cascade._pnet(small)
        of_size = []
        for row, column in np.ndindex(*probability.shape[1:]):
            score = float(probability[0, row, column])
            if score > 0.6:
                corner = np.array([column, row]) * 2 * size / 12
                box = np.concatenate([corner, corner + size])
                of_size.append((score, box + offsets[0, :, row, column].numpy() * size))
        found += suppressed(of_size, 0.5)
        size /= 0.709
    refined = []
    for _, box in suppressed(found, 0.7):
        probability, offsets = cascade._rnet(cut(squared(box), 24))
        if probability[0] > 0.7:
            refined.append((float(probability[0]), squared(box), offsets[0].numpy()))
    faces = []
    for _, box, offsets in suppressed(refined, 0.7):
        box = squared(box + offsets * (box[2] - box[0]))
        probability, offsets, points = cascade._onet(cut(box, 48))
        if probability[0] > 0.7:
            side = box[2] - box[0]
            own = box + offsets[0].numpy() * side
            faces.append((float(probability[0]), own, box[:2] + points[0].numpy().T * side))
    return [points for _, _, points in suppressed(faces, 0.7, nested=True)]


def test_the_cascade_finds_what_a_plain_one_finds() -> None:
    photo, placed = composed()
    cascade = Cascade()
    (found,) = cascade.find_faces([photo], 40)
    wanted = slow_faces(cascade, photo, 40)
    assert len(found) == len(wanted) >= 3
    for face in found:
        assert min(np.abs(face.points - points).max() for points in wanted) < 0.05
    assert not missed(placed, found)


def test_a_face_lies_in_its_box_and_the_largest_comes_first() -> None:
    photo, _ = composed()
    (faces,) = Cascade().find_faces([photo], 40)
    sizes = [face.size for face in faces]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 1.5 * sizes[1]
    for face in faces:
        assert 0.7 < face.probability <= 1
        assert (face.box[:2] < face.points).all() and (face.points < face.box[2:]).all()
        left_eye, right_eye, nose, left_mouth, right_mouth = face.points
        assert left_eye[0] < right_eye[0] and left_mouth[0] < right_mouth[0]
        assert left_eye[1] < nose[1] < right_mouth[1]


def test_photos_of_a_batch_have_the_faces_that_each_has_alone() -> None:
    photos = [composed()[0], composed()[0][:, ::-1].copy(), np.full((360, 420, 3), 90, np.uint8)]
    cascade = Cascade()
    alone = [cascade.find_faces([photo], 40)[0] for photo in photos]
    together = cascade.find_faces(photos, 40)
    assert [len(faces) for faces in together] == [len(faces) for faces in alone]
    assert len(alone[0]) and not alone[2]
    for one, other in zip(chain(*alone), chain(*together), strict=True):
        assert np.abs(one.points - other.points).max() < 0.01
        assert abs(one.probability - other.probability) < 1e-4


def test_a_photo_seen_in_strips_has_the_cells_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    photo = composed()[0]
    cascade = Cascade()
    whole = cascade.find_faces([photo], 24)[0]
    cells = []
    real = cascade._pnet.forward
    monkeypatch.setattr(cascade._pnet, "forward", lambda x: cells.append(x.shape) or real(x))
    monkeypatch.setattr(detection, "LARGE_PIXELS", 1 << 12)
    pixels = torch.randn(1, 3, 201, 97)
    with torch.inference_mode():
        strips = cascade._cells(pixels)
        assert len(cells) > 2
        for part, wanted in zip(strips, real(pixels), strict=True):
            assert part.shape == wanted.shape
            assert torch.allclose(part, wanted, atol=1e-5)
    found = cascade.find_faces([photo], 24)[0]  # halved before it is shrunk further, too
    assert len(found) == len(whole)
    for one, other in zip(found, whole, strict=True):
        assert np.abs(one.points - other.points).max() < 0.06 * one.size


def test_there_is_no_face_on_photos_smaller_than_faces() -> None:
    cascade = Cascade()
    for shape in ((1, 1), (5, 300), (11, 11), (39, 39)):
        assert cascade.find_faces([np.full((*shape, 3), 128, np.uint8)], 40) == [[]]


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.3, 0.5, 0.7]))
def test_no_box_lies_within_another(seed: int, overlap: float) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 60, (25, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(3, 60, corner.shape)], 1)
    boxes = boxes.astype(np.float32)
    kept = apart(boxes, rng.random(25).astype(np.float32), overlap, nested=True)
    assert kept
    for n, one in enumerate(kept):
        for other in kept[:n]:
            low = np.maximum(boxes[one, :2], boxes[other, :2])
            high = np.minimum(boxes[one, 2:], boxes[other, 2:])
            areas = (boxes[[one, other], 2:] - boxes[[one, other], :2]).prod(1)
            assert np.clip(high - low, 0, None).prod() <= overlap * areas.min() * (1 + 1e-5)


@pytest.mark.shared
def test_real_faces_on_clutter_are_found(shared: Any) -> None:
    pictures = list(folder_of_faces(shared("rfiw/train/F0009"), 40))
    rng = np.random.default_rng(3)
    sizes = [40, 44, 50, 60, 70, 90, 120, 160, 220]
    image, placed = compose(pictures, sizes, 1200, 800, rng)
    (faces,) = Cascade().find_faces([np.asarray(image)], 40)
    assert len(missed(placed, faces)) <= 1 and len(faces) <= len(placed) + 1


def test_faces_at_other_places_count_as_missed() -> None:
    photo, placed = composed()
    (faces,) = Cascade().find_faces([photo], 40)
    moved = [Placed(each.left + each.size, each.top, each.size) for each in placed]
    assert missed(moved, faces)
