"""Products and sums that are the same to the bit, independent of other rows."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kinembed.heads.exact import ExactKernel, row_dots, row_sums, unit
from kinembed.heads.metric import MetricHead, Projection
from kinembed.heads.pair import PairHead

# Prints digests of what heads make of the same vectors, by whichever kernels BLAS then has.
SCORES = """
import hashlib
import numpy as np
from kinembed.heads.metric import MetricHead, Projection
from kinembed.heads.pair import PairHead

rng = np.random.default_rng(0)
draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
vectors, pairs = draw(500, 130), rng.integers(500, size=(5310, 2))
heads = [
    PairHead("max", "", (draw(130, 100), draw(100, 25), draw(25, 1)), (draw(100), draw(25), draw(1))),
    PairHead("max", "", (draw(260, 1),), (draw(1),), features=("abs", "product")),
    MetricHead("max", "", (Projection(draw(65, 9), draw(9), (draw(65, 7), draw(7), draw(7, 9))),
                           Projection(draw(65, 9), draw(9))), tta_views=2),
]
for head in heads:
    whole = head.score(head.represent(vectors), pairs)
    few = rng.permutation(5310)[:500]
    assert (head.score(head.represent(vectors), pairs[few]) == whole[few]).all()
    assert (head.score(head.represent(vectors), pairs[few][:, ::-1]) == whole[few]).all()
    rows, places = np.unique(pairs[few], return_inverse=True)
    assert (head.score(head.represent(vectors[rows]), places.reshape(-1, 2)) == whole[few]).all()
    print(hashlib.sha256(whole.tobytes()).hexdigest())
"""


def scores_by(**environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SCORES], capture_output=True, text=True, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_scores_are_the_same_by_every_kernel_of_blas_and_any_threads() -> None:
    usual = scores_by()
    assert len(usual.split()) == 3
    for kernel in ("Haswell", "Zen", "SkylakeX", "Prescott"):  # one there is not is not taken
        assert scores_by(OPENBLAS_CORETYPE=kernel) == usual
    assert scores_by(OPENBLAS_NUM_THREADS="1") == usual


@given(st.integers(0, 1000), st.integers(1, 70), st.integers(1, 300), st.integers(1, 9))
def test_exact_products_are_products(seed: int, rows: int, inner: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.integers(-20, 20, size=(rows, 1))
    x = (rng.standard_normal((rows, inner)) * scale).astype(np.float32)
    kernel = rng.standard_normal((inner, columns)).astype(np.float32)
    exact = ExactKernel.of(kernel)
    result = exact.product(x)
    wanted = x.astype(np.longdouble) @ kernel.astype(np.longdouble)
    terms = np.abs(x[:, :, None].astype(np.float64) * kernel)  # (rows, inner, columns)
    bound = 8 * inner * terms.max((1, 2))[:, None] * 2.0 ** (1 - exact.bits)
    assert (np.abs(result - wanted) <= bound).all()
    # A column that varies little, and has a large kernel, costs the others nothing.
    tiny = np.float32(2.0**-17)
    uneven = ExactKernel.of(np.concatenate([kernel, kernel[:1] / tiny])).product(
        np.concatenate([x, x[:, :1] * tiny], 1)
    )
    assert (np.abs(uneven - wanted - x[:, :1] * kernel[:1]) <= 2 * bound).all()
    # In any order of its terms, at any position.
    order = rng.permutation(inner)
    turned = ExactKernel.of(np.ascontiguousarray(kernel[order])).product(x[:, order])
    assert turned.tobytes() == result.tobytes()
    some = rng.permutation(rows)[: rows // 2 + 1]
    assert exact.product(x[some]).tobytes() == result[some].tobytes()


def test_sums_of_whole_numbers_stay_below_what_a_float64_holds() -> None:
    for inner in (1, 2, 25, 100, 512, 2048, 65536):
        exact = ExactKernel.of(np.ones((inner, 1), np.float32))
        largest = 2**exact.bits
        assert inner * largest * largest <= 2**53
        assert exact.bits >= 18
    worst = np.full((3, 2048), 1 + 2.0**-23, np.float32)
    exact = ExactKernel.of(np.ascontiguousarray(worst[:1].T))
    assert (exact.product(worst) == exact.product(worst)[0]).all()


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_numbers_that_are_not_finite_stay_so(value: float) -> None:
    x = np.ones((2, 3), np.float32)
    x[1, 1] = value
    with np.errstate(invalid="ignore"):
        result = ExactKernel.of(np.ones((3, 2), np.float32)).product(x)
    assert np.isfinite(result[0]).all() and not np.isfinite(result[1]).any()


def test_rows_of_zeros_are_zeros() -> None:
    zeros = np.zeros((2, 3), np.float32)
    assert not ExactKernel.of(np.ones((3, 2), np.float32)).product(zeros).any()
    assert not ExactKernel.of(np.zeros((3, 2), np.float32)).product(zeros + 1).any()
    assert not unit(zeros).any()


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 20), st.integers(1, 70)),
                  elements=st.floats(-100, 100, width=32)))  # fmt: skip
def test_row_sums_are_sums_and_each_rows_own(x: np.ndarray) -> None:
    wanted = x.astype(np.float64).sum(1)
    result = row_sums(x.copy())
    assert result == pytest.approx(wanted, rel=1e-5, abs=1e-2)
    for row, each in zip(x, result, strict=True):
        assert row_sums(row[None].copy())[0] == each
    assert (row_dots(x, x) == row_dots(x[::-1], x[::-1])[::-1]).all()
    lengths = np.linalg.norm(unit(x).astype(np.float64), axis=1)
    for row, length in zip(x, lengths, strict=True):
        assert length == pytest.approx(1, rel=1e-5) or np.abs(row).max() < 1e-8


@pytest.mark.parametrize("weight", [1e20, 1e30, 3e38])
@pytest.mark.filterwarnings("error")
def test_huge_weights_give_scores_that_are_not_finite_and_no_warning(weight: float) -> None:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return np.copysign(np.float32(weight), rng.standard_normal(shape)).astype(np.float32)

    vectors = 30 * rng.standard_normal((50, 130)).astype(np.float32)
    pairs = rng.integers(50, size=(40, 2))
    layered = (draw(65, 9), draw(9), (draw(65, 7), draw(7), draw(7, 9)))
    heads = [
        PairHead("max", "", (draw(130, 100), draw(100, 25), draw(25, 1)),
                 (draw(100), draw(25), draw(1))),
        MetricHead("max", "", (Projection(*layered), Projection(draw(65, 9), draw(9))), tta_views=2),
    ]  # fmt: skip
    for head in heads:
        assert not np.isfinite(head.score(head.represent(vectors), pairs)).all()
