"""Framings by name, and which one suits faces that lie at a place."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from kinembed.backbones import ALIGNED_FACE, BACKBONES, LOOSE_FACE, Backbone, Face, Framing
from kinembed.backbones.framing import (
    as_face,
    choose,
    distance,
    fit,
    framed_by_side,
    named_framing,
)
from kinembed.errors import KinembedError

MOBILE = BACKBONES["mobilefacenet"]
TIGHT: Face = ((0.29, 0.32), (0.735, 0.315), (0.3, 0.77), (0.718, 0.765))  # KinFaceW-II's


def moved(face: Face, scale: float, left: float, top: float) -> Face:
    """The face on a photo that is resized by a factor and moved by shares of its side."""
    return as_face(np.array(face) * scale + [left, top])


def placed(framing: Framing, face: Face) -> np.ndarray:
    """Where a frame brings the points of a face, as shares of the input: (4, 2)."""
    points = []
    for x, y in face:
        left, top = x * framing.inner + framing.left, y * framing.inner + framing.top
        points.append((left / framing.side, top / framing.side))
    return np.array(points)


@pytest.mark.parametrize("record", BACKBONES.values(), ids=lambda record: record.name)
def test_each_network_has_the_three_framings(record: Backbone) -> None:
    side = record.framing.side
    assert named_framing(record, "loose") == record.framing
    assert named_framing(record, "aligned") == named_framing(record, "whole") == Framing(side, side)
    with pytest.raises(KinembedError, match="framing 'lose' is unknown; .* did you mean loose"):
        named_framing(record, "lose")


@pytest.mark.parametrize("record", BACKBONES.values(), ids=lambda record: record.name)
@pytest.mark.parametrize("photos", [1, 5, 64])
def test_faces_as_kaggles_are_loose_and_aligned_ones_aligned(record: Backbone, photos: int) -> None:
    for shift in (0.0, 0.015, -0.015):
        loose, aligned = moved(LOOSE_FACE, 1, shift, 0), moved(ALIGNED_FACE, 1, 0, shift)
        assert choose(record, loose, photos) == ("loose", record.framing)
        assert choose(record, aligned, photos) == ("aligned", named_framing(record, "aligned"))


def test_faces_where_the_network_takes_them_stay_whole() -> None:
    assert choose(MOBILE, MOBILE.faces[0], 64) == ("whole", Framing(112, 112))


def test_fewer_photos_are_taken_for_a_name_from_farther_away() -> None:
    beside = moved(LOOSE_FACE, 1, 0, 0.05)
    assert choose(MOBILE, beside, 1)[0] == "loose"
    assert choose(MOBILE, beside, 64)[0] == "fitted"


@pytest.mark.parametrize("scale", [0.2, 0.7, 1.3])
@pytest.mark.parametrize("record", BACKBONES.values(), ids=lambda record: record.name)
def test_other_faces_are_brought_where_the_network_takes_them(
    record: Backbone, scale: float
) -> None:
    record = replace(record, faces=record.faces[:1])
    face = moved(TIGHT, scale, 0.1, -0.03)
    name, framing = choose(record, face, 64)
    assert name == "fitted" and framing == fit(record, face)

    def miss(framing: Framing) -> float:
        return float(((placed(framing, face) - np.array(record.faces[0])) ** 2).sum())

    # No frame near it is better, but by the rounding to pixels.
    best = miss(framing)
    for change in (-3, 3):
        for side in ("inner", "top", "left"):
            other = replace(framing, **{side: getattr(framing, side) + change})
            assert miss(other) > best
    assert best**0.5 < 0.15


def test_no_frame_makes_a_photo_tiny_or_huge() -> None:
    tiny, huge = moved(TIGHT, 0.01, 0.4, 0.4), moved(TIGHT, 30, 0, 0)
    assert fit(MOBILE, tiny).inner == 8 * 112
    assert fit(MOBILE, huge).inner == 28


def test_of_several_places_the_nearest_is_taken() -> None:
    record = BACKBONES["resnet50"]
    assert record.faces == (LOOSE_FACE, ALIGNED_FACE)
    for wanted in record.faces:
        framing = fit(record, moved(wanted, 0.9, 0.05, 0.05))
        assert np.abs(placed(framing, moved(wanted, 0.9, 0.05, 0.05)) - wanted).max() < 0.01


@pytest.mark.parametrize("face", [LOOSE_FACE, ALIGNED_FACE, TIGHT])
def test_a_frame_in_use_stays_while_it_suits(face: Face) -> None:
    name, framing = choose(MOBILE, face, 64)
    near, far = moved(face, 1, 0.012, -0.01), moved(face, 0.7, 0.2, 0.1)
    assert choose(MOBILE, near, 64, [framing]) == (name, framing)
    assert choose(MOBILE, far, 64, [framing])[1] != framing
    other = Framing(112, 50, 3, 4)
    assert choose(MOBILE, near, 64, [other, framing])[1] == framing


def test_distances_are_root_mean_squares() -> None:
    a, b = LOOSE_FACE, ALIGNED_FACE
    squares = [(x - u) ** 2 + (y - v) ** 2 for (x, y), (u, v) in zip(a, b, strict=True)]
    assert distance(a, b) == pytest.approx((sum(squares) / 4) ** 0.5)


def test_foreign_networks_of_112_px_are_framed_as_those_of_arcfaces_template() -> None:
    foreign = Backbone("x", "", 0, Framing(112, 112), MOBILE.pixels, {"native": 3}, {})
    framed = framed_by_side(foreign)
    assert (framed.framing, framed.faces) == (MOBILE.framing, MOBILE.faces)
    other = replace(foreign, framing=Framing(160, 160))
    assert framed_by_side(other) == other


def test_framings_come_back_from_json_and_nothing_else_does() -> None:
    framing = Framing(112, 300, -40, 7)
    content = json.loads(json.dumps(asdict(framing)))
    assert Framing.of_json(content) == framing
    for change in ({"inner": 0}, {"side": -1}, {"top": 1.5}, {"left": True}, {"inner": 10**9}):
        with pytest.raises(TypeError):
            Framing.of_json({**content, **change})
    for other in ({}, {**content, "turn": 1}, [1, 2], None, "x"):
        with pytest.raises(TypeError):
            Framing.of_json(other)
