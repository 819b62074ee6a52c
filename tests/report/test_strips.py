"""The sheet of wrong pairs: captions that can be read."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from kinembed.report.strips import GAP, NAME, SIDE, draw_strips, fitted


@pytest.mark.parametrize("name", ["test/a.jpg", "train/F0601/MID11/" + "P00936_face2" * 9 + ".jpg"])
def test_a_name_fits_and_loses_its_beginning_alone(name: str) -> None:
    shown = fitted(name, 2 * SIDE, NAME)
    assert ImageFont.load_default(NAME).getlength(shown) <= 2 * SIDE
    assert shown == name or (shown[0] == "…" and name.endswith(shown[1:]) and len(shown) > 20)


def test_captions_of_two_pairs_do_not_meet(tmp_path: Path) -> None:
    name = f"train/F0001/{'MID1' * 40}/a.jpg"
    (tmp_path / name).parent.mkdir(parents=True)
    Image.new("RGB", (20, 20), (200, 0, 0)).save(tmp_path / name)
    pair = {"photos": [name, name], "kin": True, "probability": 0.5, "relation": "gmgd"}
    sheet = np.asarray(Image.open(draw_strips([pair, pair], tmp_path, tmp_path / "errors.png")))
    between = sheet[:, GAP + 2 * SIDE + 1 : 2 * GAP + 2 * SIDE]
    assert (between[80:] == 255).all()  # below the titles
