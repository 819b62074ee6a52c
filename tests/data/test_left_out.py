"""What readers leave out, and the nearest match of an unknown name."""

import time
from difflib import SequenceMatcher, get_close_matches

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinembed.data.left_out import COMPARED, LeftOut, nearest


def test_reasons_are_counted_with_their_first_example() -> None:
    left_out = LeftOut()
    assert not left_out and str(left_out) == ""
    for name in ("a", "b"):
        left_out.add("in hidden folders", name)
    other = LeftOut()
    other.add("in hidden folders", "c")
    other.add("no photos", "d")
    left_out.update(other)
    assert str(left_out) == "3 in hidden folders (a); 1 no photos (d)" and len(left_out) == 4


@given(st.lists(st.text("ab/1é", min_size=1, max_size=9), min_size=1, max_size=20), st.data())
def test_the_nearest_of_few_is_that_of_difflib(names: list[str], data: st.DataObject) -> None:
    name = data.draw(st.text("ab/1é", min_size=1, max_size=9))
    found = nearest(name, [text.encode() for text in names])
    same = [text for text in names if text.casefold() == name.casefold()]
    wanted = same[:1] or get_close_matches(name, names, 1)
    if not wanted:
        assert not found
    else:
        ratio = SequenceMatcher(None, wanted[0], name).ratio()
        assert SequenceMatcher(None, found, name).ratio() == ratio or same


@pytest.mark.parametrize(
    ("unknown", "wanted"),
    [
        ("train/F0007/MID2/P00289_face2.jpg", "train/F0007/MID2/P00288_face2.jpg"),
        ("TRAIN/f0007/mid2/p00288_face2.jpg", "train/F0007/MID2/P00288_face2.jpg"),
        ("face00288.jpg", ""),
        ("x" * 100_000, ""),
    ],
)
def test_the_nearest_of_200_000_takes_less_than_a_second(unknown: str, wanted: str) -> None:
    numbers = range(200_000)
    names = [f"train/F{i // 40:04}/MID{i % 40 // 4}/P{i:05}_face{i % 13}.jpg" for i in numbers]
    known = np.array([name.encode() for name in names])
    assert len(known) > COMPARED
    start = time.perf_counter()
    found = nearest(unknown, known)
    assert time.perf_counter() - start < 1
    if wanted:
        best = SequenceMatcher(None, unknown.casefold(), wanted.casefold()).ratio()
        ratio = SequenceMatcher(None, unknown.casefold(), found.casefold()).ratio()
        assert ratio >= best
    else:
        assert found == "" or SequenceMatcher(None, unknown, found).ratio() > 0.6
