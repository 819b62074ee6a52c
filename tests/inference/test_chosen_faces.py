"""The person's face on photos that show several."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinembed.inference.chosen_faces import choose_faces


def likeness(who: list[str], seed: int = 0) -> np.ndarray:
    """Of faces of these people: alike if they are one person, with some noise."""
    rng = np.random.default_rng(seed)
    vectors = {person: rng.normal(size=64) for person in sorted(set(who))}
    faces = np.stack([vectors[person] + 0.5 * rng.normal(size=64) for person in who])
    faces /= np.linalg.norm(faces, axis=1, keepdims=True)
    return (faces @ faces.T).astype(np.float32)


@given(st.lists(st.lists(st.sampled_from("bcdef"), max_size=3, unique=True), min_size=2,
                max_size=6), st.randoms(use_true_random=False))  # fmt: skip
def test_the_person_of_all_photos_is_found(others: list[list[str]], random: Random) -> None:
    others[0] = []  # one photo shows the person alone
    photos = [random.sample(["a", *each], len(each) + 1) for each in others]
    chosen = choose_faces(
        [len(each) for each in photos], likeness([face for photo in photos for face in photo])
    )
    assert [photo[which] for photo, which in zip(photos, chosen, strict=True)] == ["a"] * len(
        photos
    )


def test_without_a_photo_of_one_it_is_who_is_on_all() -> None:
    photos = [["b", "a"], ["a", "c"], ["d", "a"], ["b", "a", "c"]]
    chosen = choose_faces([2, 2, 2, 3], likeness([face for photo in photos for face in photo]))
    assert chosen == [1, 0, 1, 1]


@pytest.mark.parametrize("count", [1, 3])
def test_one_photo_gives_its_largest_face(count: int) -> None:
    assert choose_faces([count], likeness(list("abc")[:count])) == [0]
