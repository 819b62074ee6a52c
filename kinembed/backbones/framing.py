"""Framings by name, and the choice between them by where eyes and mouth lie on photos."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kinembed.backbones import (
    ALIGNED_FACE,
    BACKBONES,
    FACE_112,
    LOOSE_112,
    LOOSE_FACE,
    Backbone,
    Face,
    Framing,
)
from kinembed.errors import unknown_name

Points = NDArray[np.float64]  # (4, 2), as `Face`

LOOSE, ALIGNED, WHOLE, AUTO = NAMES = ("loose", "aligned", "whole", "auto")
FITTED = "fitted"

# How far a folder's faces may lie from those of a name, as a share of the photo's side: the medians
# of N photos vary by 0.05 / sqrt(N).
NEAR, VARIATION = 0.02, 0.05
SMALLEST, LARGEST = 0.25, 8.0  # the photo, in sides of the input


def named_framing(backbone: Backbone, name: str) -> Framing:
    """The frame of a name.

    `loose` is for crops like Kaggle's. A photo `aligned` on ArcFace's template fills the input,
    as in the training of networks with that template, and so does any photo with `whole`.

    Raises:
        KinembedError: it is none of these.
    """
    if name not in (LOOSE, ALIGNED, WHOLE):
        raise unknown_name("framing", name, NAMES)
    side = backbone.framing.side
    return backbone.framing if name == LOOSE else Framing(side, side)


def describe_frame(network: str, framing: Framing) -> str:
    """The name of a network's frame, and its numbers: `loose: 76 of 112 px from 18, 18`."""
    known = BACKBONES.get(network)
    loose = LOOSE_112 if known is None else known.framing
    is_whole = framing == Framing(framing.side, framing.side)
    name = LOOSE if framing == loose else WHOLE if is_whole else FITTED
    return f"{name}: {framing.inner} of {framing.side} px from {framing.left}, {framing.top}"


def choose(
    backbone: Backbone, face: Face, photos: int, before: Sequence[Framing] = ()
) -> tuple[str, Framing]:
    """The frame for photos whose eyes and mouth lie so, and its name.

    Args:
        backbone: the network.
        face: where eyes and mouth lie on the photos, their medians.
        photos: how many photos these are medians of.
        before: frames in use, best first; the first that still suits stays.

    Returns:
        `loose`, `aligned` or `whole` where the face lies as on such photos, else `fitted`.
    """
    near = NEAR + VARIATION / photos**0.5
    away = {LOOSE: distance(face, LOOSE_FACE), ALIGNED: distance(face, ALIGNED_FACE)}
    away[WHOLE] = min(distance(face, wanted) for wanted in backbone.faces)
    for framing in before:
        suited = [name for name in away if named_framing(backbone, name) == framing]
        known = min(suited, key=lambda name: away[name], default=FITTED)
        misses = [distance(face, _seen(framing, wanted)) for wanted in backbone.faces]
        if min([*misses, *(away[name] for name in suited)]) <= near:
            return known, framing
    best = min(away, key=lambda name: away[name])
    if away[best] <= near:
        return best, named_framing(backbone, best)
    return FITTED, fit(backbone, face)


def fit(backbone: Backbone, face: Face) -> Framing:
    """The frame that brings eyes and mouth where the network takes them, by least squares.

    Args:
        backbone: the network.
        face: where they lie on the photos.
    """
    points = np.array(face)
    wanted = np.array(min(backbone.faces, key=lambda each: distance(face, each)))
    centred = points - points.mean(0)
    scale = float((centred * (wanted - wanted.mean(0))).sum() / (centred**2).sum())
    scale = min(max(scale, SMALLEST), LARGEST)
    left, top = (wanted.mean(0) - scale * points.mean(0)).tolist()
    side = backbone.framing.side
    return Framing(side, round(scale * side), round(top * side), round(left * side))


def distance(face: Face, other: Face) -> float:
    """Root mean square distance of the points of two faces, as a share of the side."""
    return float(np.sqrt(((np.array(face) - np.array(other)) ** 2).sum(1).mean()))


def as_face(points: Points) -> Face:
    """Four points (4, 2) as plain numbers."""
    one, two, three, four = ((float(x), float(y)) for x, y in points)
    return one, two, three, four


def framed_by_side(backbone: Backbone) -> Backbone:
    """The record of a foreign network, of which the input's side alone is known, with its frames.

    Networks of 112 x 112 px are trained with photos on ArcFace's template, others mostly with
    crops around the face.
    """
    if backbone.framing.side != LOOSE_112.side:
        return backbone
    return replace(backbone, framing=LOOSE_112, faces=(FACE_112,))


def _seen(framing: Framing, face: Face) -> Face:
    """The place on a photo of a face in the input: the inverse of the frame."""
    corner = np.array([framing.left, framing.top])
    return as_face((np.array(face) * framing.side - corner) / framing.inner)
