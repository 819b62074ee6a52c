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


def augment(photos: Tensor, strength: Strength, rng: torch.Generator) -> Tensor:
    """Mirrors half of the photos and moves, turns, lights and degrades them a little.

    Args:
        photos: (N, 3, side, side) float RGB, 0 to 255.
        strength: how far.
        rng: what draws, on the CPU.

    Returns:
        (N, 3, side, side) float RGB, 0 to 255.
    """
    x = _warped(photos, strength, rng)
    x = _relit(x, strength, rng)
    if strength.poor:
        for degrade in (_blur, _lower_resolution, _jpeg):
            chosen = (torch.rand(len(x), generator=rng) < strength.poor).nonzero()[:, 0]
            if len(chosen):
                rows = chosen.to(x.device)
                x = x.index_copy(0, rows, degrade(x[rows], rng))
    return x.clamp(0, 255)


def _either_way(count: int, bound: float, rng: torch.Generator) -> Tensor:
    return (torch.rand(count, generator=rng) * 2 - 1) * bound


def _warped(x: Tensor, strength: Strength, rng: torch.Generator) -> Tensor:
    """Mirrored, turned, zoomed and shifted in one resampling; edge pixels fill what is outside."""
    count = len(x)
    mirrored = torch.where(torch.rand(count, generator=rng) < 0.5, -1.0, 1.0)
    angle = _either_way(count, strength.turn, rng)
    size = 1 + _either_way(count, strength.zoom, rng)
    cos, sin = torch.cos(angle) * size, torch.sin(angle) * size
    right, down = (_either_way(count, strength.shift, rng) for _ in range(2))
    rows = [
        torch.stack([cos * mirrored, -sin, right], 1),
        torch.stack([sin * mirrored, cos, down], 1),
    ]
    grid = functional.affine_grid(  # (N, side, side, 2)
        torch.stack(rows, 1).to(x.device), list(x.shape), align_corners=False
    )
    return functional.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _relit(x: Tensor, strength: Strength, rng: torch.Generator) -> Tensor:
    """Other brightness, contrast and saturation; some without colour."""
    count = len(x)
    brightness, contrast, saturation = (
        (1 + _either_way(count, strength.light, rng)) for _ in range(3)
    )
    saturation[torch.rand(count, generator=rng) < strength.grey] = 0
    factors = [f.to(x.device).view(-1, 1, 1, 1) for f in (brightness, contrast, saturation)]
    luma = (x * x.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)  # (N, 1, side, side)
    x = luma + (x - luma) * factors[2]
    middle = x.mean((1, 2, 3), keepdim=True)
    return ((x - middle) * factors[1] + middle) * factors[0]


def _blur(x: Tensor, rng: torch.Generator) -> Tensor:
    """By a Gaussian of .5 to 1.5 px, one for all."""
    std = 0.5 + float(torch.rand(1, generator=rng))
    at = torch.arange(-3, 4, dtype=x.dtype, device=x.device)
    line = torch.exp(-(at**2) / (2 * std**2))
    line = (line / line.sum()).expand(3, 1, 1, 7)
    padded = functional.pad(x, (3, 3, 3, 3), mode="replicate")
    return functional.conv2d(
        functional.conv2d(padded, line, groups=3), line.transpose(2, 3), groups=3
    )


def _lower_resolution(x: Tensor, rng: torch.Generator) -> Tensor:
    """Shrunk to a third to two thirds of its side, one for all, and back."""
    side = x.shape[-1]
    small = max(8, int(side * (1 + float(torch.rand(1, generator=rng))) / 3))
    shrunk = functional.interpolate(x, size=small, mode="bilinear", antialias=True)
    return functional.interpolate(shrunk, size=side, mode="bilinear")


def _jpeg(x: Tensor, rng: torch.Generator) -> Tensor:
    """As JPEG of quality 20 to 60 leaves it, one for all, each colour like brightness."""
    quality = 20 + 40 * float(torch.rand(1, generator=rng))
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
