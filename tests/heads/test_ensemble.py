"""Ensembles of pair heads: trained by seeds, kept in a file, exact and symmetric."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kinembed import train_head
from kinembed.config import HeadConfig
from kinembed.data.families import group_families
from kinembed.errors import RunError
from kinembed.head import head as stage
from kinembed.heads.ensemble import EnsembleHead
from kinembed.heads.file import load_head, read_head, save_head
from kinembed.heads.pair import PairHead
from kinembed.training.pair_heads import member_seeds

WIDTH = 12


def trained(members: int, seed: int = 3, **settings: int):
    """A short training on generated families, and its vectors."""
    rng = np.random.default_rng(0)
    names = [f"F{f:02}/MID{m}/P{p}.jpg" for f in range(20) for m in range(3) for p in (0, 1)]
    kin = [(f"F{f:02}/MID0", f"F{f:02}/MID{m}") for f in range(20) for m in (1, 2)]
    families = group_families(names, kin)
    centres = rng.standard_normal((20, WIDTH))[families.family[families.owner]]
    vectors = (centres + 0.4 * rng.standard_normal((120, WIDTH))).astype(np.float32)
    short = {"epochs": 3, "steps": 5, "val_steps": 3, "batch_size": 10, **settings}
    found = train_head(
        vectors, families, "dense", overrides=(f"members={members}", "learning_rate=1e-3"),
        seed=seed, **short,
    )  # fmt: skip
    return found, vectors


def test_an_ensemble_is_the_mean_of_heads_from_several_seeds() -> None:
    found, vectors = trained(3)
    head = found.head
    assert isinstance(head, EnsembleHead) and head.kind == "ensemble"
    pairs = np.random.default_rng(1).integers(0, len(vectors), (700, 2))
    scores = np.stack([one.score(vectors, pairs) for one in head.members()])
    assert np.allclose(head.score(vectors, pairs), scores.mean(0), rtol=1e-12)
    assert np.abs(scores[0] - scores[1]).max() > 1e-3
    assert len(set(member_seeds(3, 3)) | set(member_seeds(3, 4))) == 6
    assert [row.member for row in found.history] == [0] * 3 + [1] * 3 + [2] * 3


def test_one_member_is_the_head_as_it_was() -> None:
    (one, _), (other, _) = trained(1), trained(1)
    assert isinstance(one.head, PairHead) and one.head.digest == other.head.digest
    assert member_seeds(1, 7) == [7]


def test_scores_are_exact_and_symmetric_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    found, vectors = trained(3)
    pairs = np.random.default_rng(1).integers(0, len(vectors), (700, 2))
    scores = found.head.score(vectors, pairs)
    assert np.array_equal(found.head.score(vectors, pairs[:, ::-1]), scores)
    alone = [found.head.score(vectors, pair[None])[0] for pair in pairs[:40]]
    assert np.array_equal(alone, scores[:40])
    monkeypatch.setattr("kinembed.heads.base.PAIRS_PER_THREAD", 100)
    assert np.array_equal(found.head.score(vectors, pairs, 3), scores)


def test_it_comes_back_from_its_file_with_its_people(tmp_path: Path) -> None:
    found, _ = trained(2)
    again = load_head(save_head(found.head, tmp_path / "head.h5"))
    assert isinstance(again, EnsembleHead)
    assert (again.digest, again.held_out) == (found.head.digest, found.head.held_out)
    ((people, judge),) = again.out_of_fold()
    assert people == again.held_out and judge is again
    fewer = replace(found.head, heads=found.head.heads[:1])
    assert fewer.digest != found.head.digest
    wide = replace(found.head.heads[0], kernels=(np.zeros((5, 1), np.float32),), biases=(
        np.zeros(1, np.float32),))  # fmt: skip
    path = save_head(replace(found.head, heads=(found.head.heads[0], wide)), tmp_path / "b.h5")
    with pytest.raises(RunError, match="its heads are of several widths"):
        load_head(path)


def test_the_command_trains_one(run: Path, faces: Path) -> None:
    config = HeadConfig(kind="l1", ensemble=3, epochs=1, steps=2, val_steps=2, batch_size=8)
    head, record = read_head(stage(config, faces, run))
    assert isinstance(head, EnsembleHead) and len(head.members()) == 3
    assert record.settings == "members=3"
    assert (run / "history-head.csv").read_text().splitlines()[0].endswith(",member")
