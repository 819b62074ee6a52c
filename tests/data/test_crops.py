"""Crops: where eyes and mouth come to lie, turned faces, edges, sharpness; and photos to crops."""

import io
from functools import cache

import numpy as np
import pytest
from composed import Placed, compose, painted_faces
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kinembed.backbones import LOOSE_FACE, find_backbone
from kinembed.backbones.framing import LOOSE, as_face, choose
from kinembed.backbones.landmarks import LandmarkFinder
from kinembed.data.aligner import Aligner
from kinembed.data.crops import CROP_SIDE, crop_face, crop_scale, sharpness
from kinembed.data.photos import decode_upright
from kinembed.errors import DataError

LOOSE_POINTS = np.array([*LOOSE_FACE[:2], (0.49, 0.49), *LOOSE_FACE[2:]]) * CROP_SIDE


@cache
def photograph() -> tuple[Image.Image, list[Placed]]:
    rng = np.random.default_rng(2)
    return compose(painted_faces(3, seed=5), [260, 110], 640, 480, rng)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned(points: np.ndarray, degrees: float, scale: float, shift: np.ndarray) -> np.ndarray:
    turn = scale * np.exp(1j * np.deg2rad(degrees))
    z = turn * (points @ [1, 1j])
    return np.stack([z.real, z.imag], 1) + shift


@settings(max_examples=15)
@given(st.floats(-180, 180), st.floats(0.2, 4), st.integers(0, 9))
def test_marks_at_eyes_and_mouth_come_to_lie_where_kaggles_do(
    degrees: float, scale: float, seed: int
) -> None:
    shift = np.array([460.0, 440.0]) + np.random.default_rng(seed).uniform(0, 9, 2)
    points = turned(LOOSE_POINTS - CROP_SIDE / 2, degrees, scale, shift)
    photo = np.zeros((880, 920, 3), np.uint8)
    y, x = np.mgrid[:880, :920]
    radius = max(1.5, 4 * scale)
    for number in (0, 1, 3, 4):
        near = (x + 0.5 - points[number, 0]) ** 2 + (y + 0.5 - points[number, 1]) ** 2 < radius**2
        photo[near] = 255
    crop = crop_face(photo, points)
    assert crop.shape == (CROP_SIDE, CROP_SIDE, 3) and crop.dtype == np.uint8
    assert crop_scale(points) == pytest.approx(scale, rel=1e-6)
    for number in (0, 1, 3, 4):
        cx, cy = LOOSE_POINTS[number]
        rows, columns = np.mgrid[:CROP_SIDE, :CROP_SIDE]
        near = (np.abs(columns - cx) < 15) & (np.abs(rows - cy) < 15)
        light = crop[..., 0] * near.astype(float)
        middle = np.array([(light * columns).sum(), (light * rows).sum()]) / light.sum() + 0.5
        assert np.abs(middle - (cx, cy)).max() < max(1.2, 0.8 / scale)


def test_what_lies_outside_of_the_photo_repeats_its_edge() -> None:
    photo = np.full((50, 60, 3), 40, np.uint8)
    photo[:, :30] = 200
    points = LOOSE_POINTS / CROP_SIDE * 60 + [-15, 0]  # a quarter lies left of the photo
    crop = crop_face(photo, points)
    assert (crop[:, :100] == 200).all() and (crop[:, -40:] == 40).all()


def test_a_crop_of_a_large_face_has_no_moire() -> None:
    """Stripes finer than the crop's pixels become their mean."""
    photo = np.zeros((1000, 1000, 3), np.uint8)
    photo[::2] = 255
    points = LOOSE_POINTS / CROP_SIDE * 900 + 50
    crop = crop_face(photo, turned(points - 500, 3, 1, np.array([500, 500])))
    assert np.abs(crop[20:-20, 20:-20].astype(int) - 127).max() < 12


def test_sharper_is_more_and_flat_is_nothing() -> None:
    flat = np.full((40, 40, 3), 7, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    blurred = np.asarray(Image.fromarray(noise).resize((20, 20)).resize((40, 40)))
    assert sharpness(flat) == 0 < sharpness(blurred) < sharpness(noise)
    grey = noise[..., :1].repeat(3, 2).astype(float) @ [0.299, 0.587, 0.114]
    slow = [
        grey[y - 1, x] + grey[y + 1, x] + grey[y, x - 1] + grey[y, x + 1] - 4 * grey[y, x]
        for y in range(1, 39)
        for x in range(1, 39)
    ]
    assert sharpness(noise[..., :1].repeat(3, 2)) == pytest.approx(np.var(slow))


def test_framing_auto_takes_crops_for_loose_ones() -> None:
    aligner = Aligner()
    image, _ = photograph()
    faces = aligner.align(encoded(image.rotate(12, Image.Resampling.BICUBIC), "PNG"), "photo")
    found = [LandmarkFinder().find(np.pad(face.crop, ((24, 24), (24, 24), (0, 0)), "edge"))
             for face in faces]  # fmt: skip
    places = [(each[[0, 1, 3, 4]] - 24) / CROP_SIDE for each in found if each is not None]
    assert len(places) == 2
    name, _ = choose(find_backbone("mobilefacenet"), as_face(np.median(places, 0)), len(places))
    assert name == LOOSE


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_photo_that_exif_turns_has_the_crops_of_the_upright_one(orientation: int) -> None:
    image, placed = photograph()
    back = {1: 0, 3: 180, 6: 90, 8: 270}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    lying = image.rotate(back, expand=True)
    aligner = Aligner()
    upright = aligner.align(encoded(image, "PNG"), "photo")
    result = aligner.align(encoded(lying, "PNG", exif=exif), "photo")
    assert len(upright) == len(result) == len(placed) == 2
    for one, other in zip(upright, result, strict=True):
        assert (one.crop == other.crop).all() and (one.face.box == other.face.box).all()


def test_places_are_of_the_whole_photo_however_small_it_is_searched() -> None:
    image, placed = photograph()
    large = image.resize((2560, 1920), Image.Resampling.BICUBIC)
    for kind, min_face in (("JPEG", 80), ("JPEG", 320), ("PNG", 160)):
        faces = Aligner(min_face=min_face).align(encoded(large, kind), "photo")
        assert len(faces) == 2, min_face
        for face, place in zip(faces, placed, strict=True):
            assert np.abs(face.face.points.mean(0) - 4 * place.centre).max() < place.size


def test_a_small_face_is_cropped_from_the_whole_photo_not_from_the_shrunk_one() -> None:
    image, _ = photograph()
    large = image.resize((1280, 960), Image.Resampling.BICUBIC)
    sharp = Aligner(min_face=40).align(encoded(large, quality=95), "photo")
    whole = Aligner(min_face=20).align(encoded(large, quality=95), "photo")  # never shrunk
    for one, other in zip(sharp, whole, strict=True):
        assert 0.7 < one.sharpness / other.sharpness < 1.4


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_other_kinds_of_pixels(mode: str) -> None:
    image, _ = photograph()
    kind = "TIFF" if mode == "CMYK" else "PNG"
    assert len(Aligner().align(encoded(image.convert(mode), kind), "photo")) == 2


def test_of_an_animation_the_first_picture_counts() -> None:
    image, _ = photograph()
    empty = Image.new("RGB", image.size, "grey")
    aligner = Aligner()
    for frames, count in (([image, empty], 2), ([empty, image], 0)):
        content = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], quality=90)
        assert len(aligner.align(content, "photo")) == count


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (39, 39)])
def test_tiny_photos_have_no_faces(size: tuple[int, int]) -> None:
    assert Aligner().align(encoded(Image.new("RGB", size, "red")), "photo") == []


def test_a_panorama_is_searched_at_its_own_shape() -> None:
    image, placed = photograph()
    panorama = Image.new("RGB", (9000, 480), "grey")
    panorama.paste(image, (8000, 0))
    faces = Aligner().align(encoded(panorama), "photo")
    assert len(faces) == 2
    assert np.abs(faces[0].face.points.mean(0) - placed[0].centre - [8000, 0]).max() < 60


@pytest.mark.parametrize(
    "content", [b"", b"%PDF-1.7 page", b"\xff\xd8\xff\xe0 cut short", b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_photo_is_an_error_that_names_it(content: bytes) -> None:
    with pytest.raises(DataError, match="holiday: cannot be decoded"):
        Aligner().align(content, "holiday")


@pytest.mark.parametrize(("shrink", "wanted"), [(1, 1), (2, 2), (4, 4), (8, 8), (16, 8)])
def test_a_jpeg_is_decoded_smaller_by_powers_of_two(shrink: int, wanted: int) -> None:
    image = Image.new("RGB", (1001, 777), "red")
    decoded = decode_upright(encoded(image), "photo", shrink)
    assert decoded.shrunk == wanted
    assert decoded.image.size == (-(-1001 // wanted), -(-777 // wanted))
    assert decode_upright(encoded(image, "PNG"), "photo", shrink).image.size == (1001, 777)
