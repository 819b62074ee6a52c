"""Photos changed at random on their way into a training: on the device, a batch at a time."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

LUMA = (0.299, 0.587, 0.114)  # of RGB, ITU-R BT.601
# JPEG's quantisation of brightness at quality 50, from the standard's annex K.
JPEG_TABLE = (
    *(16, 11, 10, 16, 24, 40, 51, 61), *(12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56), *(14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77), *(24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101), *(72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip


@dataclass(frozen=True)
class Strength:
    """How far photos are changed.

    Attributes:
        shift: of the middle, as a share of half the side, to each side.
        zoom: of the size, either way.
        turn: radians, either way.
        light: of brightness, contrast and saturation, either way.
        grey: share of photos without colour.
        poor: share of photos that are blurred; also of those of low resolution, and as JPEG.
    """

    shift: float
    zoom: float
    turn: float
    light: float
    grey: float
    poor: float


STRENGTHS = {
    "light": Strength(shift=0.05, zoom=0.06, turn=0.08, light=0.15, grey=0.1, poor=0.0),
    "strong": Strength(shift=0.08, zoom=0.1, turn=0.12, light=0.25, grey=0.15, poor=0.08),
}


def mirror_some(photos: Tensor, mirrored: Tensor) -> Tensor:
    """Mirrors photos (N, 3, side, side) where (N,) flags say so."""
    return torch.where(mirrored.to(photos.device).view(-1, 1, 1, 1), photos.flip(3), photos)


class Draws:
    """Random numbers for some photos of a batch: those that all of it in one place would get.

    Args:
        rng: what draws, on the CPU.
        count: photos in the batch.
        mine: which of them these are.
    """

    def __init__(self, rng: torch.Generator, count: int, mine: slice) -> None:
        self.rng, self.count, self.mine = rng, count, mine

    def each(self) -> Tensor:
        """One for each photo, from 0 to 1."""
        return torch.rand(self.count, generator=self.rng)[self.mine]

    def either_way(self, bound: float) -> Tensor:
        """One for each photo, from -bound to bound."""
        return (self.each() * 2 - 1) * bound

    def some(self, share: float) -> tuple[Tensor, float | None]:
        """Which photos a share falls on, (M,), and a number for all; None: on none of the batch."""
        chosen = torch.rand(self.count, generator=self.rng) < share
        one = float(torch.rand(1, generator=self.rng)) if chosen.any() else None
        return chosen[self.mine].nonzero()[:, 0], one


def augment(photos: Tensor, strength: Strength, draws: Draws) -> Tensor:
    """Mirrors half of the photos and moves, turns, lights and degrades them a little.

    Args:
        photos: (N, 3, side, side) float RGB, 0 to 255.
        strength: how far.
        draws: the random numbers.

    Returns:
        (N, 3, side, side) float RGB, 0 to 255.
    """
    x = _warped(photos, strength, draws)
    x = _relit(x, strength, draws)
    if strength.poor:
        for degrade in (_blur, _lower_resolution, _jpeg):
            chosen, how_much = draws.some(strength.poor)
            if how_much is not None and len(chosen):
                rows = chosen.to(x.device)
                x = x.index_copy(0, rows, degrade(x[rows], how_much))
    return x.clamp(0, 255)


def _warped(x: Tensor, strength: Strength, draws: Draws) -> Tensor:
    """Mirrored, turned, zoomed and shifted in one resampling; edge pixels fill what is outside."""
    mirrored = torch.where(draws.each() < 0.5, -1.0, 1.0)
    angle = draws.either_way(strength.turn)
    size = 1 + draws.either_way(strength.zoom)
    cos, sin = torch.cos(angle) * size, torch.sin(angle) * size
    right, down = (draws.either_way(strength.shift) for _ in range(2))
    rows = [
        torch.stack([cos * mirrored, -sin, right], 1),
        torch.stack([sin * mirrored, cos, down], 1),
    ]
    grid = functional.affine_grid(  # (N, side, side, 2)
        torch.stack(rows, 1).to(x.device), list(x.shape), align_corners=False
    )
    return functional.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _relit(x: Tensor, strength: Strength, draws: Draws) -> Tensor:
    """Other brightness, contrast and saturation; some without colour."""
    brightness, contrast, saturation = (1 + draws.either_way(strength.light) for _ in range(3))
    saturation[draws.each() < strength.grey] = 0
    factors = [f.to(x.device).view(-1, 1, 1, 1) for f in (brightness, contrast, saturation)]
    luma = (x * x.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)  # (N, 1, side, side)
    x = luma + (x - luma) * factors[2]
    middle = x.mean((1, 2, 3), keepdim=True)
    return ((x - middle) * factors[1] + middle) * factors[0]


def _blur(x: Tensor, how_much: float) -> Tensor:
    """By a Gaussian of .5 to 1.5 px, one for all."""
    std = 0.5 + how_much
    at = torch.arange(-3, 4, dtype=x.dtype, device=x.device)
    line = torch.exp(-(at**2) / (2 * std**2))
    line = (line / line.sum()).expand(3, 1, 1, 7)
    padded = functional.pad(x, (3, 3, 3, 3), mode="replicate")
    return functional.conv2d(
        functional.conv2d(padded, line, groups=3), line.transpose(2, 3), groups=3
    )


def _lower_resolution(x: Tensor, how_much: float) -> Tensor:
    """Shrunk to a third to two thirds of its side, one for all, and back."""
    side = x.shape[-1]
    small = max(8, int(side * (1 + how_much) / 3))
    shrunk = functional.interpolate(x, size=small, mode="bilinear", antialias=True)
    return functional.interpolate(shrunk, size=side, mode="bilinear")


def _jpeg(x: Tensor, how_much: float) -> Tensor:
    """As JPEG of quality 20 to 60 leaves it, one for all, each colour like brightness."""
    quality = 20 + 40 * how_much
    scale = 50 / quality if quality < 50 else 2 - quality / 50
    table = (x.new_tensor(JPEG_TABLE).view(8, 8) * scale).clamp(min=1)
    count, channels, side, _ = x.shape
    whole = -(-side // 8) * 8
    padded = functional.pad(x, (0, whole - side, 0, whole - side), mode="replicate")
    blocks = padded.view(count, channels, whole // 8, 8, whole // 8, 8).transpose(3, 4) - 128
    waves = _cosines(x)
    coefficients = waves @ blocks @ waves.T  # (N, 3, side / 8, side / 8, 8, 8)
    kept = (coefficients / table).round() * table
    back = (waves.T @ kept @ waves + 128).transpose(3, 4).reshape(count, channels, whole, whole)
    return back[..., :side, :side]


def _cosines(like: Tensor) -> Tensor:
    """The orthonormal discrete cosine transform of 8 numbers, (8, 8)."""
    at = torch.arange(8, dtype=like.dtype, device=like.device)
    waves = torch.cos(math.pi * (2 * at[None] + 1) * at[:, None] / 16) / 2
    waves[0] /= math.sqrt(2)
    return waves
