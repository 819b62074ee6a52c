"""Photos changed at random: what is drawn, and the JPEG of it against scipy's transforms."""

import io
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.fft import dct, dctn, idctn
from scipy.ndimage import map_coordinates
from torch import Tensor

from kinembed.training.augment import (
    JPEG_TABLE,
    STRENGTHS,
    Draws,
    Strength,
    _cosines,
    _jpeg,
    augment,
)

NOTHING = Strength(shift=0, zoom=0, turn=0, light=0, grey=0, poor=0)
ALL = Strength(shift=0.3, zoom=0.3, turn=0.5, light=0.9, grey=0.5, poor=0.9)


def photos(count: int, side: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Noise: no two photos are alike, and none is like its mirror image."""
    rng = np.random.default_rng([count, side])
    drawn = rng.integers(256, size=(count, 3, side, side), dtype=np.uint8)
    return torch.from_numpy(drawn).to(dtype)


def draws(seed: int, count: int) -> Draws:
    return Draws(torch.Generator().manual_seed(seed), count, slice(0, count))


def how_much(seed: int) -> float:
    return float(torch.rand(1, generator=torch.Generator().manual_seed(seed)))


def changed(x: Tensor, strength: Strength, seed: int = 0) -> Tensor:
    return augment(x, strength, draws(seed, len(x)))


def apart(one: Tensor, other: Tensor) -> Tensor:
    """The farthest that each photo is from another."""
    return (one - other).abs().amax((1, 2, 3))


def mirrored(x: Tensor) -> Tensor:
    return torch.from_numpy(x.numpy()[..., ::-1].copy())


# What is drawn


@pytest.mark.parametrize("strength", [*STRENGTHS.values(), ALL], ids=[*STRENGTHS, "all"])
def test_one_seed_gives_the_same_photos_and_another_gives_others(strength: Strength) -> None:
    x = photos(8, 24)
    before = x.clone()
    one = changed(x, strength, 3)
    assert torch.equal(one, changed(x, strength, 3))
    assert (apart(one, changed(x, strength, 4)) > 1).all()
    assert torch.equal(x, before)


def test_a_generator_goes_on_from_batch_to_batch() -> None:
    x, drawn = photos(4, 16), draws(0, 4)
    first, second = (augment(x, STRENGTHS["strong"], drawn) for _ in range(2))
    assert (apart(first, second) > 1).all()


@pytest.mark.parametrize("ranks", [2, 3])
def test_parts_of_a_batch_are_changed_as_in_the_whole(ranks: int) -> None:
    x = photos(7, 16)
    whole = changed(x, ALL)
    bounds = [7 * rank // ranks for rank in range(ranks + 1)]
    for start, stop in itertools.pairwise(bounds):
        mine = slice(start, stop)
        drawn = Draws(torch.Generator().manual_seed(0), 7, mine)
        # a kernel may add up another number of photos in another order
        assert apart(augment(x[mine], ALL, drawn), whole[mine]).max() < 1e-3


@pytest.mark.parametrize("side", [8, 13, 24])
@pytest.mark.parametrize("strength", [*STRENGTHS.values(), ALL], ids=[*STRENGTHS, "all"])
def test_photos_stay_photos(strength: Strength, side: int) -> None:
    for x in (photos(12, side), photos(12, side) * 0, photos(12, side) * 0 + 255):
        y = changed(x, strength)
        assert y.shape == x.shape and y.dtype == x.dtype
        assert y.isfinite().all() and y.min() >= 0 and y.max() <= 255


def test_about_half_of_the_photos_are_mirrored_and_nothing_else() -> None:
    x = photos(400, 9)
    y = changed(x, NOTHING)
    as_they_were, turned = apart(y, x) < 0.01, apart(y, mirrored(x)) < 0.01
    assert (as_they_were ^ turned).all()
    assert abs(float(turned.float().mean()) - 0.5) < 0.1


@pytest.mark.parametrize("name", ["shift", "zoom", "turn", "light", "grey"])
def test_every_strength_changes_photos(name: str) -> None:
    x = photos(20, 16)
    y = changed(x, replace(NOTHING, **{name: 1.0 if name == "grey" else 0.2}))
    assert (torch.minimum(apart(y, x), apart(y, mirrored(x))) > 1).sum() >= 18


def test_a_photo_of_one_colour_is_of_one_colour_wherever_it_is_moved() -> None:
    colours = torch.tensor([[200.0, 20, 90], [0, 255, 128]])
    x = colours[:, :, None, None].expand(2, 3, 16, 16)
    y = changed(x, replace(NOTHING, shift=0.5, zoom=0.4, turn=0.8))
    assert (apart(y, x) < 0.01).all()


def test_photos_are_mirrored_turned_zoomed_and_shifted_as_scipy_does() -> None:
    x = photos(6, 12)
    y = changed(x, replace(NOTHING, shift=0.1, zoom=0.2, turn=0.5), seed=1)
    rng = torch.Generator().manual_seed(1)
    draws = [torch.rand(6, generator=rng).double().numpy() for _ in range(5)]
    assert 0 < (draws[0] < 0.5).sum() < 6
    line = (np.arange(12) + 0.5) / 6 - 1  # of pixels, the photo's edges at -1 and 1
    for photo, found, half, *ways in zip(x.numpy(), y.numpy(), *draws, strict=True):
        turn, zoom, right, down = np.array([0.5, 0.2, 0.1, 0.1]) * (2 * np.array(ways) - 1)
        places = line[None] * (-1 if half < 0.5 else 1) + 1j * line[:, None]
        places = places * np.exp(1j * turn) * (1 + zoom) + right + 1j * down
        rows, columns = ((part + 1) * 6 - 0.5 for part in (places.imag, places.real))
        for channel, moved in zip(photo, found, strict=True):
            wanted = map_coordinates(channel, [rows, columns], order=1, mode="nearest")
            assert np.abs(moved - wanted).max() < 0.01


def test_light_moves_grey_photos_by_at_most_its_strength() -> None:
    x = torch.full((200, 3, 8, 8), 100.0)
    y = changed(x, replace(NOTHING, light=0.3))
    assert (y.amax((1, 2, 3)) - y.amin((1, 2, 3)) < 0.01).all()
    assert y.min() >= 70 - 0.01 and y.max() <= 130 + 0.01
    assert y.min() < 73 and y.max() > 127  # all of it is used


@pytest.mark.parametrize("strength", [NOTHING, ALL], ids=["else nothing", "else all"])
def test_grey_photos_have_equal_channels(strength: Strength) -> None:
    y = changed(photos(12, 16), replace(strength, grey=1.0))
    assert (y - y[:, :1]).abs().max() < 0.01
    assert (y.std((1, 2, 3)) > 1).any()


def test_grey_photos_are_as_bright_as_pillow_says() -> None:
    x = photos(6, 8)
    y = changed(x, replace(NOTHING, grey=1.0))
    arrays = x.permute(0, 2, 3, 1).numpy().astype(np.uint8)
    grey = np.stack([np.array(Image.fromarray(a).convert("L")) for a in arrays])
    wanted = torch.from_numpy(grey).float()[:, None].expand(-1, 3, -1, -1)
    assert (torch.minimum(apart(y, wanted), apart(y, mirrored(wanted))) < 0.6).all()


def test_as_many_photos_are_grey_as_asked_for() -> None:
    y = changed(photos(400, 6), replace(NOTHING, grey=0.3))
    grey = (y - y[:, :1]).abs().amax((1, 2, 3)) < 0.01
    assert abs(float(grey.float().mean()) - 0.3) < 0.1


def test_as_many_photos_are_poor_as_asked_for() -> None:
    x = photos(400, 16)
    y = changed(x, replace(NOTHING, poor=0.3))
    spoilt = torch.minimum(apart(y, x), apart(y, mirrored(x))) > 1
    assert abs(float(spoilt.float().mean()) - (1 - 0.7**3)) < 0.1
    flat = changed(x * 0 + 77, replace(NOTHING, poor=1.0))
    # a photo of one colour is poor already, but for the rounding of JPEG's first coefficient
    assert (flat - 77).abs().max() < 16 * 2.5 / 2 / 8 + 0.01


# JPEG


def slow_jpeg(photo: np.ndarray, table: np.ndarray) -> np.ndarray:
    """One channel, block by block."""
    side = len(photo)
    spare = -side % 8
    padded = np.pad(photo, (0, spare), mode="edge")
    for top in range(0, side, 8):
        for left in range(0, side, 8):
            block = padded[top : top + 8, left : left + 8]
            coefficients = dctn(block - 128, norm="ortho")
            block[:] = idctn(np.round(coefficients / table) * table, norm="ortho") + 128
    return padded[:side, :side]


def quality(seed: int) -> float:
    return 20 + 40 * float(torch.rand(1, generator=torch.Generator().manual_seed(seed)))


def test_the_cosines_are_orthonormal_and_scipys() -> None:
    waves = _cosines(torch.zeros(1, dtype=torch.float64)).numpy()
    assert np.allclose(waves @ waves.T, np.eye(8), atol=1e-14)
    assert np.allclose(waves, dct(np.eye(8), axis=0, norm="ortho"), atol=1e-14)


def test_the_table_is_the_one_of_every_jpeg_of_quality_50() -> None:
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "JPEG", quality=50)
    assert list(Image.open(file).quantization[0]) == list(JPEG_TABLE)


def test_seeds_reach_qualities_on_both_sides_of_50() -> None:
    assert min(quality(seed) for seed in range(4)) < 50 < max(quality(seed) for seed in range(4))


@pytest.mark.parametrize("side", [1, 8, 13, 16, 23])
@pytest.mark.parametrize("seed", range(4))
def test_jpeg_rounds_the_coefficients_of_every_block(side: int, seed: int) -> None:
    x = photos(2, side, torch.float64)
    y = _jpeg(x, how_much(seed))
    percent = 5000 / quality(seed) if quality(seed) < 50 else 200 - 2 * quality(seed)
    table = np.maximum(np.reshape(JPEG_TABLE, (8, 8)) * percent / 100, 1)
    wanted = [[slow_jpeg(channel, table) for channel in photo] for photo in x.numpy()]
    assert y.shape == x.shape
    assert np.abs(y.numpy() - np.array(wanted)).max() < 1e-9
    assert (y - x).abs().max() > 0.1


@pytest.mark.parametrize("side", [16, 19])
def test_jpeg_by_a_table_of_ones_is_near_the_photo(
    monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    monkeypatch.setattr("kinembed.training.augment.JPEG_TABLE", (1e-9,) * 64)  # 1 is the least
    drawn = np.random.default_rng(side).random((3, 3, side, side))
    x = torch.from_numpy(drawn * 255)  # of no whole numbers, whose halves may be rounded either way
    y = _jpeg(x, how_much(0))
    wanted = [[slow_jpeg(channel, np.ones((8, 8))) for channel in photo] for photo in x.numpy()]
    assert np.abs(y.numpy() - np.array(wanted)).max() < 1e-9
    # as far as rounding takes it: a twelfth in square, of the coefficients and so of the pixels
    error = y - x
    assert 0.2 < float(error.square().mean().sqrt()) < 0.35 and error.abs().max() < 4
