"""scikit-learn's interface: its own checks, learning, pipelines, heads for files."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from kinembed import KinEmbedder, KinMetricTransformer, load_head, save_head
from kinembed.config import EmbedConfig
from kinembed.data import framings
from kinembed.data.families import read_families
from kinembed.embed import embed
from kinembed.errors import DataError, KinembedError
from kinembed.evaluation.metrics import roc_auc

SMALL = {
    "members": 2, "embed_dim": 6, "hidden_dim": 8, "epochs": 2, "steps": 15, "batch_pairs": 12, "noise": 0.2,
}  # fmt: skip


@parametrize_with_checks([KinMetricTransformer(random_state=0, **SMALL)])
def test_scikit_learns_checks(estimator, check) -> None:
    check(estimator)


def random_families(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors whose first numbers families agree in, below far louder noise; families; people."""
    rng = np.random.default_rng(seed)
    family = np.repeat(np.arange(24), 6)
    person = np.repeat(np.arange(72), 2)
    signal = rng.normal(size=(24, 5))[family] + 0.3 * rng.normal(size=(72, 5))[person]
    signal += 0.2 * rng.normal(size=signal.shape)
    loud = 5 * rng.normal(size=(len(family), 8))
    return np.concatenate([signal, loud], 1), family, person


def auc_of_kin(vectors: np.ndarray, family: np.ndarray) -> float:
    a, b = np.triu_indices(len(family), 1)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return roc_auc(family[a] == family[b], (unit[a] * unit[b]).sum(1))


def test_what_families_agree_in_is_learnt_for_families_it_never_saw() -> None:
    vectors, family, person = random_families()
    train = family < 16
    metric = KinMetricTransformer(
        random_state=0, **SMALL | {"epochs": 6, "learning_rate": 0.02}
    ).fit(vectors[train], family[train], people=person[train])
    result = metric.transform(vectors[~train])
    assert result.shape == (48, 12) and result.dtype == np.float32
    assert np.linalg.norm(result, axis=1) == pytest.approx(1, rel=1e-5)
    before = auc_of_kin(vectors[~train], family[~train])
    assert auc_of_kin(result, family[~train]) > before + 0.15
    rows = np.stack(np.triu_indices(48, 1), 1)
    logits = metric.score_pairs(vectors[~train], rows)
    kin = family[~train][rows[:, 0]] == family[~train][rows[:, 1]]
    assert roc_auc(kin, logits) == pytest.approx(auc_of_kin(result, family[~train]), abs=1e-4)
    assert logits[kin].mean() > 0 > logits[~kin].mean()
    assert (metric.score_pairs(vectors[~train], rows[:, ::-1]) == logits).all()


def test_seeds_repeat_and_people_matter() -> None:
    vectors, family, person = random_families()
    one, again, other, alone = (
        KinMetricTransformer(random_state=seed, **SMALL).fit(vectors, family, people=people).head_
        for seed, people in ((0, person), (0, person), (1, person), (0, None))
    )
    assert one.digest == again.digest
    assert len({one.digest, other.digest, alone.digest}) == 3


def test_what_cannot_be_learnt_from_is_a_value_error() -> None:
    vectors, family, person = random_families()
    for labels, problem in (
        (np.zeros(len(family)), "1 families|kin of 1 families"),
        (np.arange(len(family)), "kin of 0 families"),
    ):
        with pytest.raises(ValueError, match=problem):
            KinMetricTransformer(**SMALL).fit(vectors, labels)
    with pytest.raises(ValueError, match="143 people for 144 photos"):
        KinMetricTransformer(**SMALL).fit(vectors, family, people=person[1:])
    with pytest.raises(ValueError, match="contrast"):
        KinMetricTransformer(contrast="ratio").fit(vectors, family)


def test_the_transformers_head_goes_to_a_file(tmp_path: Path) -> None:
    vectors, family, _ = random_families()
    metric = KinMetricTransformer(random_state=0, **SMALL).fit(vectors, family)
    head = metric.to_head("native", "m" * 64, held_out=("F0001/MID1",))
    again = load_head(save_head(head, tmp_path / "head.h5"))
    assert (again.view, again.model, again.held_out) == ("native", "m" * 64, ("F0001/MID1",))
    assert (again.represent(vectors.astype(np.float32)) == metric.transform(vectors)).all()


def test_photos_to_a_metric_in_one_pipeline(faces: Path) -> None:
    families = read_families(faces)
    paths = [str(faces / name) for name in families.photos]
    family = families.family[families.owner]
    embedder = KinEmbedder("mtcnn-onet", device="cpu", precision="fp32")
    pipeline = make_pipeline(embedder, KinMetricTransformer(random_state=0, **SMALL))
    result = pipeline.fit_transform(paths, family)
    assert result.shape == (len(paths), 12)
    assert (pipeline.transform(paths[:3]) == result[:3]).all()
    for train, test in GroupKFold(2).split(paths, family, family):
        pipeline.fit([paths[row] for row in train], family[train])
        held_out = pipeline.transform([paths[row] for row in test])
        assert held_out.shape == (len(test), 12) and np.isfinite(held_out).all()


def test_the_frame_is_that_of_the_fitted_photos(
    faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [faces / "test" / name for name in sorted(os.listdir(faces / "test"))]
    embedder = KinEmbedder("mtcnn-onet", device="cpu", precision="fp32")
    whole = embedder.transform(paths)  # by themselves: the same photos, the same frame
    assert (embedder.fit(paths).transform(paths) == whole).all()
    monkeypatch.setattr(framings, "look", None)
    assert np.allclose(embedder.transform(paths[:3]), whole[:3], rtol=1e-5)
    named = KinEmbedder("mtcnn-onet", framing="loose", device="cpu", precision="fp32")
    assert not np.allclose(named.transform(paths[:3]), whole[:3], rtol=1e-2)
    with pytest.raises(KinembedError, match="framing 'tight' is unknown"):
        named.set_params(framing="tight").transform(paths[:3])


def test_vectors_are_those_of_the_cache(faces: Path, tmp_path: Path) -> None:
    from kinembed import EmbeddingCache

    config = EmbedConfig(
        backbone="mtcnn-onet",
        views=("max", "avg"),
        flip=True,
        device="cpu",
        precision="fp32",
        framing="loose",
    )
    with EmbeddingCache.open(embed(config, faces, tmp_path)) as cache:
        names = [name.decode() for name in cache.names][::7]
        wanted = np.concatenate(
            [cache.vectors(v)[cache.rows(names)] for v in ("max", "avg", "max-flip", "avg-flip")], 1
        )
    embedder = KinEmbedder(
        "mtcnn-onet",
        views=("max", "avg"),
        tta=True,
        device="cpu",
        precision="fp32",
        framing="loose",
        batch_size=5,
    )
    result = embedder.fit().transform([faces / name for name in names])
    assert result == pytest.approx(wanted, rel=1e-4, abs=1e-5)


def test_photos_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    embedder = KinEmbedder("mtcnn-onet", device="cpu")
    Image.new("RGB", (60, 60)).save(tmp_path / "good.png")
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    with pytest.raises(DataError, match=r"bad\.jpg: cannot be decoded"):
        embedder.transform([tmp_path / "good.png", tmp_path / "bad.jpg"])
    with pytest.raises(DataError, match=r"none\.jpg: No such file"):
        embedder.transform([tmp_path / "none.jpg"])
    for wrong, problem in (
        (KinEmbedder("none"), "backbone 'none' is unknown"),
        (KinEmbedder("mtcnn-onet", batch_size=-1), "batch_size: found -1"),
        (KinEmbedder("mtcnn-onet", views=("native",)), "has max, avg"),
    ):
        with pytest.raises(KinembedError, match=problem):
            wrong.fit()
