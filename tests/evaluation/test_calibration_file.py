"""Calibrations from strangers: every value has one type and one range."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinembed.errors import RunError
from kinembed.evaluation.calibration import (
    Calibration,
    Scale,
    load_calibration,
    save_calibration,
    seal,
)
from kinembed.heads.query_expansion import MakeUp

PLATT = Scale(0.5, "far=0.01", "platt", ((1.5,), (-0.25,)), 0.5, 0.25, {"far": 0.01, "pairs": 7})
ISOTONIC = Scale(
    -3, "youden", "isotonic", ((-1.0, 0.0, 2.0), (0.1, 0.1, 0.9)), 0.5, 0.5,
    {"far_interval": {"low": 0.0, "high": 0.5}},
)  # fmt: skip
GOOD = Calibration("ab" * 32, ("F1/MID1",), "nobody", PLATT, ISOTONIC, MakeUp(9, 4, (1, 2, 3)))

About = dict[str, Any]


def top(**values: object) -> Callable[[About], object]:
    return lambda about: about.update(values)


def alone(**values: object) -> Callable[[About], object]:
    return lambda about: about["alone"].update(values)


def expanded(**values: object) -> Callable[[About], object]:
    return lambda about: about["expanded"].update(values)


def make_up(**values: object) -> Callable[[About], object]:
    return lambda about: about["make_up"].update(values)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save_calibration(GOOD, tmp_path / "calibration.json")


def test_a_calibration_comes_back_from_its_file(path: Path) -> None:
    assert load_calibration(path) == GOOD


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (top(schema="3"), "a calibration of schema '3', wanted 4"),
        (top(schema=3.0), "a calibration of schema 3.0, wanted 4"),
        (top(head=7), "head: found 7, wanted a text"),
        (top(head="\ud800"), "text that is not Unicode"),
        (top(people="abc"), "people: found 'abc', wanted a list"),
        (top(people=[1]), "people: found 1, wanted a text"),
        (top(epoch_chosen_by=None), "epoch_chosen_by: found None, wanted a text"),
        (top(alone=None), "alone: found None, wanted values by their names"),
        (top(expanded=None), "a scale without its make-up"),
        (top(more=1), "found 'more', which is none of its values"),
        (alone(more=1), "found 'more', which is none of its values"),
        (alone(threshold=True), "threshold: found True, wanted a number"),
        (alone(threshold="5"), "threshold: found '5', wanted a number"),
        (alone(threshold=10**400), "threshold: found a number of more than 40 digits"),
        (alone(threshold=1e300), "threshold: found 1e.300, wanted -1e.12 to 1e.12"),
        (alone(prior=1), "prior: found 1, wanted between 0 and 1"),
        (alone(fitted_prior="0.5"), "fitted_prior: found '0.5', wanted a number"),
        (alone(target="far=2"), "target: found 'far=2', wanted accuracy"),
        (alone(target=[]), r"target: found \[\], wanted a text"),
        (alone(map="spline"), "map: found 'spline', wanted none or platt or isotonic"),
        (alone(map=["platt"]), "map: found"),
        (alone(map="none"), "map none has 1 and 1 numbers"),
        (alone(knots=[[-1.0], [0.0]]), "its map falls"),
        (alone(knots=[[0.0], [0.0]]), "its map falls"),
        (alone(knots=[["1"], [0.0]]), "knots: found '1', wanted a number"),
        (alone(knots=[[1e308], [0.0]]), "knots: found 1e.308, wanted"),
        (alone(knots=[[1.0, 2.0], [0.0]]), "map platt has 2 and 1 numbers"),
        (alone(knots=[[1.0]]), "knots: found 1 lists, wanted 2"),
        (alone(knots=7), "knots: found 7, wanted a list"),
        (alone(estimates={"far": "low"}), "far: found 'low', wanted a number"),
        (alone(estimates={"far_interval": {"low": 1}}), "high is missing"),
        (alone(estimates=[1]), "estimates: found"),
        (expanded(knots=[[0.0, 1.0], [0.1, 1.5]]), "its map leaves 0 to 1"),
        (expanded(knots=[[0.0, 1.0], [-0.1, 0.5]]), "its map leaves 0 to 1"),
        (expanded(knots=[[0.0, 1.0], [0.9, 0.1]]), "its map falls"),
        (expanded(knots=[[1.0, 0.0], [0.1, 0.9]]), "its map falls"),
        (expanded(knots=[[0.0, 1.0], [0.1]]), "map isotonic has 2 and 1 numbers"),
        (expanded(knots=[[], []]), "map isotonic has 0 and 0 numbers"),
        (make_up(photos=-1), "photos: found -1, wanted 0 to"),
        (make_up(photos=True), "photos: found True, wanted a whole number"),
        (make_up(expanded=10), "expanded: found 10, wanted 0 to 9"),
        (make_up(others=[1, 2]), "not enough values"),
        (make_up(others=[1, 2, 10]), "others: found 10, wanted 0 to 9"),
        (make_up(more=1), "found 'more', which is none of its values"),
        (expanded(expansion_slope=1.0), "found 'expansion_slope', which is none of its values"),
        (top(make_up=None), "a scale without its make-up"),
        (make_up(others=[1, 2, 10**40]), "others: found a number of more"),
    ],
)
def test_a_value_out_of_range_is_refused_in_one_line(
    path: Path, change: Callable[[About], object], problem: str
) -> None:
    about = json.loads(path.read_text())
    change(about)
    about["sha256"] = seal(about)
    path.write_text(json.dumps(about))
    with pytest.raises(RunError, match=problem) as error:
        load_calibration(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    assert "run kinembed calibrate" in str(error.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"7", b"\xff", b"[" * 10**5, b'{"schema": 3, "head": NaN}',
     b'{"schema": 3, "alone": {"threshold": 1e400}}', b'{"schema": ' + b"9" * 5000 + b"}"],
)  # fmt: skip
def test_what_is_no_json_object_of_finite_numbers_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(RunError, match="is no calibration of this version") as error:
        load_calibration(path)
    assert "\n" not in str(error.value)


def test_a_byte_that_flipped_is_found(path: Path) -> None:
    whole = path.read_bytes()
    for at in range(0, len(whole), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            assert load_calibration(path) == GOOD  # of white space
        except RunError as error:
            assert "\n" not in str(error)
    path.write_text(json.dumps(json.loads(whole) | {"people": ["F9/MID9"]}))
    with pytest.raises(RunError, match="it was changed or damaged after it was written"):
        load_calibration(path)


@pytest.mark.parametrize("kind", ["none", "platt", "isotonic"])
@pytest.mark.parametrize("priors", [(1e-320, 0.5), (0.5, 1e-320), (1e-320, 1 - 1e-16)])
def test_probabilities_are_numbers_whatever_the_prior(
    kind: str, priors: tuple[float, float]
) -> None:
    knots = {"none": ((), ()), "platt": ((1.0,), (0.0,)), "isotonic": ((-1.0, 1.0), (0.0, 1.0))}
    scale = Scale(0.0, "accuracy", kind, knots[kind], *priors)
    found = scale.probabilities(np.array([-1e3, -1.0, 0.0, 1.0, 1e3]))
    assert (np.diff(found) >= 0).all() and ((found >= 0) & (found <= 1)).all()
