"""Pictures of an answer: nothing is cut off, faces and maps are where they should be."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kinembed.inference.explain import GRID, Regions
from kinembed.report.compare_picture import GAP, SIDE, Shown, draw_answer, draw_regions

RED, GREEN = (200, 0, 0), (0, 160, 0)


def flat(colour: tuple[int, int, int], count: int = 1) -> np.ndarray:
    return np.full((count, 224, 224, 3), colour, np.uint8)


def one(colour: tuple[int, int, int], name: str = "a.jpg", count: int = 1) -> Shown:
    return Shown(name, "1 face", flat(colour, count))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG" and image.info == {"Software": "kinembed"}
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("count", [2, 3])
def test_faces_stand_side_by_side_with_white_around(count: int, tmp_path: Path) -> None:
    people = [one(RED, "x" * 300), one(GREEN, count=9), one(RED)][:count]
    texts = ["a line without an end " * 20, "w" * 400, "forged\nline \x1b[2J"]
    path = draw_answer(people, "kin " * 60, [0.1, 0.2, 0.7], texts, tmp_path / "out.png")
    sheet = pixels(path)
    assert sheet.shape[1] == GAP + count * (SIDE + GAP)
    middle = sheet[GAP + SIDE // 2]
    for number, colour in enumerate([RED, GREEN, RED][:count]):
        left = GAP + number * (SIDE + GAP)
        assert (middle[left : left + SIDE] == colour).all()
    edges = (sheet[:, : GAP - 2], sheet[:, -GAP + 2 :], sheet[: GAP - 2], sheet[-GAP + 2 :])
    assert all((edge == 255).all() for edge in edges)


def test_the_face_that_was_taken_is_marked_on_its_photograph(tmp_path: Path) -> None:
    photograph = np.full((400, 600, 3), (0, 0, 255), np.uint8)
    boxes = np.array([[30, 40, 200, 300], [350, 60, 560, 380]], float)
    drawn = []
    for taken in (0, 1):
        person = Shown("a.jpg", "", flat(RED), photograph, boxes, taken)
        path = draw_answer([person, one(GREEN)], "kin", None, [], tmp_path / f"{taken}.png")
        drawn.append((pixels(path) == (255, 176, 0)).all(2))
    columns = [np.flatnonzero(mask.any(0)).mean() for mask in drawn]
    assert columns[0] < columns[1] and all(mask.any() for mask in drawn)


def test_small_pictures_stay_below_their_own_face(tmp_path: Path) -> None:
    photograph = np.full((300, 900, 3), (0, 0, 255), np.uint8)
    person = Shown("a", "", flat(RED, 5), photograph, np.array([[0, 0, 99, 99.0]]))
    sheet = pixels(draw_answer([person, one(GREEN)], "kin", None, [], tmp_path / "out.png"))
    red = (sheet == RED).all(2)
    assert red.any() and not red[:, GAP + SIDE :].any()


def test_a_map_colours_the_regions_and_their_sign(tmp_path: Path) -> None:
    falls = np.zeros((2, GRID, GRID), np.float32)
    falls[0, 1, 1], falls[1, 5, 5] = 2.0, -2.0
    sheet = pixels(
        draw_regions([one(RED), one(RED)], Regions(0.3, falls), tmp_path / "map.png")
    ).astype(int)
    top = next(y for y in range(GAP + 10, 90) if (sheet[y, GAP + SIDE // 2] != 255).all())
    cell = SIDE / GRID

    def colour(side: int, row: float, column: float) -> np.ndarray:
        x = GAP + side * (SIDE + GAP) + round(column * cell)
        return sheet[top + round(row * cell), x]

    blue, orange, plain = colour(0, 1.2, 1.2), colour(1, 5.2, 5.2), colour(0, 4.5, 4.5)
    assert orange[0] > orange[2] + 60 and blue[2] > blue[0] + 60
    assert np.ptp(plain) == 0 and np.ptp(colour(1, 1.2, 1.2)) == 0


def test_a_map_without_any_change_can_be_drawn(tmp_path: Path) -> None:
    empty = Regions(0.0, np.zeros((2, GRID, GRID), np.float32))
    assert pixels(draw_regions([one(RED), one(GREEN)], empty, tmp_path / "map.png")).any()
