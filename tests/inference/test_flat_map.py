"""Vectors on a plane: PCA against scikit-learn, neighbours by slow loops, UMAP seeded."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kinembed
from kinembed.errors import KinembedError
from kinembed.inference.flat_map import flat_map, nearest, principal_components


def drawn(seed: int, count: int, width: int, kind: type = np.float32) -> np.ndarray:
    rng = np.random.default_rng(seed)
    spread = np.geomspace(3, 0.3, width)  # so that the axes are distinguished
    return (rng.standard_normal((count, width)) * spread + rng.standard_normal(width)).astype(kind)


@settings(max_examples=25)
@given(st.integers(0, 99), st.integers(2, 60), st.integers(1, 12), st.integers(1, 4))
def test_components_are_those_of_scikit_learn(
    seed: int, count: int, width: int, wanted: int
) -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    vectors = drawn(seed, count, width)
    found, shares = principal_components(vectors, wanted)
    kept = min(wanted, width, count - 1)
    theirs = decomposition.PCA(kept, svd_solver="full").fit(vectors.astype(np.float64))
    points = theirs.transform(vectors.astype(np.float64))
    for axis in range(kept):  # up to a sign, which theirs chooses by another rule
        assert min(
            np.abs(found[:, axis] - sign * points[:, axis]).max() for sign in (1, -1)
        ) < 1e-5 * max(1, np.abs(points).max())
    assert shares[:kept] == pytest.approx(theirs.explained_variance_ratio_, abs=1e-9)
    assert not found[:, kept:].any() and not shares[kept:].any()


def test_signs_are_not_left_to_chance_and_blocks_do_not_matter() -> None:
    vectors = drawn(1, 2500, 6)  # three blocks of rows
    found, _ = principal_components(vectors, 2)
    order = np.random.default_rng(0).permutation(len(vectors))
    again, _ = principal_components(vectors[order], 2)
    assert np.allclose(found[order], again, atol=1e-6)
    assert np.array_equal(principal_components(vectors, 2)[0], found)
    halves, _ = principal_components(vectors.astype(np.float16), 2)
    assert np.allclose(halves, found, atol=0.02)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_or_equal_photos_have_places(count: int) -> None:
    same = np.ones((count, 4), np.float32)
    assert not flat_map(same, "auto", 0).points.any()
    flat = flat_map(drawn(0, count, 4), "auto", 0)
    assert flat.method == "pca" and np.isfinite(flat.points).all()
    with pytest.raises(KinembedError, match="too few for UMAP, which wants 30"):
        flat_map(same, "umap", 0)


@given(st.integers(0, 99), st.integers(2, 40), st.integers(1, 5))
def test_nearest_are_those_of_slow_loops(seed: int, count: int, wanted: int) -> None:
    points, wanted = drawn(seed, count, 3), min(wanted, count - 1)
    rows, distances = nearest(points, wanted)
    for row, (others, lengths) in enumerate(zip(rows.tolist(), distances)):
        slow = sorted(
            (float(np.linalg.norm(points[row].astype(float) - points[other])), other)
            for other in range(count)
            if other != row
        )[:wanted]
        assert lengths == pytest.approx([length for length, _ in slow], abs=2e-3)
        assert row not in others and len(set(others)) == wanted


def test_without_umap_it_is_pca_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    caplog.set_level("INFO", "kinembed")
    vectors = drawn(0, 40, 5)
    flat = flat_map(vectors, "auto", 0)
    assert flat.method == "pca" and flat.variance is not None and 0.5 < flat.variance < 1
    assert "pip install 'kinembed[map]'" in caplog.text
    with pytest.raises(KinembedError, match=r"UMAP is not installed; run pip install"):
        flat_map(vectors, "umap", 0)


# UMAP compiles for ten seconds; interpreted it takes three for so few photos.
UMAP = """
import numpy as np
from kinembed.inference.flat_map import flat_map, nearest
rng = np.random.default_rng(0)
owner = np.repeat(np.arange(3), 11)
vectors = (10 * rng.standard_normal((3, 8))[owner] + rng.standard_normal((33, 8))).astype("f4")
import umap
fits = umap.UMAP.fit_transform
umap.UMAP.fit_transform = lambda self, x: fits(self.set_params(n_epochs=30), x)
one, two, other = (flat_map(vectors, "umap", seed) for seed in (5, 5, 6))
assert one.method == "umap" and one.variance is None
assert np.array_equal(one.points, two.points) and not np.array_equal(one.points, other.points)
assert (owner[nearest(one.points, 1)[0][:, 0]] == owner).all()
"""


def test_umap_is_seeded_and_keeps_groups_together() -> None:
    pytest.importorskip("numba", reason="the extra map is not installed")
    paths = {"PYTHONPATH": str(Path(kinembed.__file__).parents[1]), "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", UMAP], env={**os.environ, **paths}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
