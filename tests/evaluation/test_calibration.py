"""Calibration: against scikit-learn, on families it was not fitted on, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.calibration import _sigmoid_calibration
from sklearn.isotonic import IsotonicRegression

from kinembed.cache import EmbeddingCache
from kinembed.calibrate import calibrate
from kinembed.cli import run as command
from kinembed.config import CalibrateConfig, ScoreConfig
from kinembed.data.families import cached_families
from kinembed.errors import DataError, KinembedError, RunError
from kinembed.evaluation.calibration import (
    TIE_BREAK,
    Calibration,
    Scale,
    check_calibration,
    fit,
    load_calibration,
    save_calibration,
)
from kinembed.evaluation.cross_fitting import Judged, cross_fit, estimate
from kinembed.evaluation.kept_calibrations import kept_calibrations, switch_calibration
from kinembed.evaluation.metrics import RankedScores, roc_auc, roc_curve
from kinembed.evaluation.out_of_fold import out_of_fold_scores
from kinembed.heads.file import HeadRecord, load_head, save_head
from kinembed.heads.query_expansion import MakeUp
from kinembed.score import score


def sampled_scores(seed: int, families: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, logits and families of pairs; families differ in the similarity of their members."""
    rng = np.random.default_rng(seed)
    place = rng.standard_normal((families, 4)) * 0.4
    kin = np.repeat(np.arange(families), 25)
    first = np.concatenate([kin, rng.integers(0, families, 6000)])
    second = np.concatenate([kin, rng.integers(0, families, 6000)])
    kept = (np.arange(len(first)) < len(kin)) | (first != second)
    first, second = first[kept], second[kept]
    labels = first == second
    alike = (place[first] * place[second]).sum(1)
    logits = 1.5 * labels + alike + rng.standard_normal(len(labels)) - 0.5
    return labels, logits, np.stack([first, second], 1)


few = st.sampled_from([-1.0, 0.0, 0.25, 2.0])
rows = st.lists(st.tuples(st.booleans(), few), min_size=2, max_size=25)


def as_arrays(samples: list[tuple[bool, float]]) -> tuple[np.ndarray, np.ndarray]:
    labels, logits = map(np.array, zip(*samples, strict=True))
    assume(labels.any() and not labels.all())
    return labels, logits


# Maps and thresholds


@pytest.mark.parametrize("weighted", [False, True])
def test_platt_is_scikit_learns(weighted: bool) -> None:
    labels, logits, _ = sampled_scores(0)
    weights = np.random.default_rng(0).integers(0, 3, len(labels)) if weighted else None
    result = fit(labels, logits, "youden", "platt", weights=weights)
    slope, offset = _sigmoid_calibration(
        logits, labels, None if weights is None else weights.astype(float)
    )
    assert result.knots[0][0] == pytest.approx(-slope, rel=1e-3)
    assert result.knots[1][0] == pytest.approx(-offset, rel=1e-3, abs=1e-3)


@given(rows, st.booleans())
def test_isotonic_is_scikit_learns(samples: list, weighted: bool) -> None:
    labels, logits = as_arrays(samples)
    weights = 1.0 + np.arange(len(labels)) % 3 if weighted else np.ones(len(labels))
    result = fit(labels, logits, "youden", "isotonic", weights=weights)
    wanted = IsotonicRegression(out_of_bounds="clip").fit(logits, labels, weights)
    at = np.linspace(-3, 3, 50)
    edge = 1 / (weights.sum() + 2)
    steps = np.interp(at, *result.knots)
    assert np.allclose(steps, wanted.predict(at).clip(edge, 1 - edge), atol=edge + 1e-9)
    steps = np.interp(logits, *result.knots)
    assert np.allclose(steps, wanted.predict(logits).clip(edge, 1 - edge))
    assert np.abs(result.probabilities(logits) - steps).max() <= TIE_BREAK


@given(rows, st.sampled_from([None, 0.1, 0.9]))
def test_an_isotonic_map_keeps_the_order_of_the_logits_within_and_between_its_steps(
    samples: list, prior: float | None
) -> None:
    labels, logits = as_arrays(samples)
    found = fit(labels, logits, "youden", "isotonic", prior)
    at = np.unique(np.append(np.linspace(-20, 20, 4001), logits))
    predicted = found.probabilities(at)
    assert (np.diff(predicted) > 0).all() and predicted[0] > 0 and predicted[-1] < 1
    # However many there are, a step stays clear of its neighbours.
    levels = np.unique(found.knots[1])
    reach = np.diff(levels, prepend=0.0, append=1.0) * 2 * TIE_BREAK
    plain = replace(found, prior=found.fitted_prior).probabilities(np.array(found.knots[0]))
    place = np.searchsorted(levels, found.knots[1])
    assert (plain >= levels[place] - reach[place]).all()
    assert (plain <= levels[place] + reach[place + 1]).all()


def test_real_isotonic_scores_do_not_tie() -> None:
    labels, logits, _ = sampled_scores(0)
    found = fit(labels, logits, "youden", "isotonic")
    assert len(set(np.interp(logits, *found.knots))) < len(logits) / 10
    order = np.argsort(logits)
    assert (np.diff(found.probabilities(logits)[order]) > 0).all()


@pytest.mark.parametrize("kind", ["none", "platt"])
def test_very_high_and_very_low_logits_do_not_tie(kind: str) -> None:
    knots = ((1.0,), (-0.5,)) if kind == "platt" else ((), ())
    found = Scale(0.0, "youden", kind, knots, 0.5, 0.4)
    for start, stop in ((-5000, -4999), (-700, -699), (-600.5, -599.5), (11.5, 12.5), (40, 41)):
        logits = np.linspace(start, stop, 10_001)
        assert (np.diff(found.probabilities(logits)) > 0).all()


@given(rows, st.sampled_from(["accuracy", "youden", "far=0.25", "far=0.001"]))
def test_no_other_threshold_is_better(samples: list, target: str) -> None:
    labels, logits = as_arrays(samples)
    result = fit(labels, logits, target, "none", prior=0.3)

    def worth(accepted: np.ndarray) -> float:
        far, tar = accepted[~labels].mean(), accepted[labels].mean()
        if target == "accuracy":
            return 0.3 * tar + 0.7 * (1 - far)
        if target == "youden":
            return tar - far
        return tar if far <= float(target[4:]) else -1.0

    best = max(worth(logits >= threshold) for threshold in [*logits, np.inf])
    assert worth(result.accepts(logits)) == pytest.approx(best, abs=1e-12)
    assert np.isfinite(result.threshold)


@given(st.floats(0.001, 0.999), st.floats(0.01, 0.99))
def test_a_prior_moves_probabilities_as_bayes_says(prior: float, mix: float) -> None:
    logits = np.linspace(-5, 5, 21)
    before = Scale(0.0, "youden", "none", ((), ()), mix, mix)
    after = replace(before, prior=prior)
    # By the likelihoods of each score among kin and among strangers, up to a factor.
    predicted = before.probabilities(logits)
    kin, others = predicted / mix, (1 - predicted) / (1 - mix)
    wanted = kin * prior / (kin * prior + others * (1 - prior))
    assert np.allclose(after.probabilities(logits), wanted, rtol=1e-9, atol=1e-5)


@given(rows, st.sampled_from(["none", "platt", "isotonic"]), st.sampled_from([None, 0.01, 0.9]))
def test_probabilities_are_in_0_to_1_and_only_platts_may_decrease(
    samples: list, kind: str, prior: float | None
) -> None:
    labels, logits = as_arrays(samples)
    result = fit(labels, logits, "accuracy", kind, prior)
    predicted = result.probabilities(np.linspace(-50, 50, 301))
    assert ((predicted >= 0) & (predicted <= 1)).all()
    if kind != "platt":
        assert (np.diff(predicted) >= 0).all()


@pytest.mark.parametrize("target", ["", "far", "far=", "far=0", "far=1", "far=x", "eer", "far=nan"])
def test_an_unknown_target_is_refused(target: str) -> None:
    with pytest.raises(KinembedError, match="wanted accuracy, youden, or far=RATE"):
        fit(np.array([True, False]), np.array([1.0, 0.0]), target, "none")


# On held-out families


def test_cross_fitted_pairs_are_of_families_that_did_not_fit() -> None:
    labels, logits, families = sampled_scores(1)
    rng = np.random.default_rng(5)
    judged, accepted, predicted = cross_fit(labels, logits, families, "far=0.1", "platt", None, rng)
    assert judged[labels].all() and 0.1 < judged[~labels].mean() < 0.3
    assert np.isfinite(predicted[judged]).all() and np.isnan(predicted[~judged]).all()
    # Scores of one fold turned upside down change only what is fitted without it.
    fold = np.random.default_rng(5).permutation(60)[families] % 5
    inside = (fold == 2).all(1)
    turned = np.where(inside, -logits, logits)
    _, other, _ = cross_fit(
        labels, turned, families, "far=0.1", "platt", None, np.random.default_rng(5)
    )
    threshold = logits[inside & accepted].min()
    assert ((turned[inside] >= threshold) == other[inside]).mean() > 0.99


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_estimates_hold_on_new_families(kind: str) -> None:
    inside, errors = 0, []
    for seed in range(6):
        labels, logits, families = sampled_scores(seed)
        fitted = fit(labels, logits, "far=0.01", kind)
        predicted = estimate(
            labels, logits, families, "far=0.01", kind, None, np.random.default_rng(seed)
        )
        new_labels, new_logits, _ = sampled_scores(100 + seed)
        far = fitted.accepts(new_logits)[~new_labels].mean()
        inside += predicted["far_interval"]["low"] <= far <= predicted["far_interval"]["high"]
        errors.append(predicted["ece"])
    assert inside >= 5
    assert np.mean(errors) < 0.05


def test_pairs_that_are_judged_are_counted_and_another_mix_is_said() -> None:
    labels, logits, families = sampled_scores(1)
    judged, *_ = cross_fit(
        labels, logits, families, "accuracy", "platt", None, np.random.default_rng(0)
    )
    found = Judged.of(labels, families, judged)
    others = [(bool(j), a == b) for j, k, (a, b) in zip(judged, labels, families, strict=True)
              if not k]  # fmt: skip
    assert found == Judged(
        int((labels & judged).sum()), sum(j for j, _ in others), sum(j and w for j, w in others),
        len(others), sum(w for _, w in others),
    )  # fmt: skip
    assert Judged(900, 2000, 54, 10_000, 54).skew == ""
    assert Judged(10_000, 927, 927, 10_000, 927).skew == (
        "927 of 10,000 non-kin pairs are of families not fitted on, and 100% of these within one "
        "family, where 9% of all are; more families are wanted"
    )
    ranked, roc = RankedScores(labels, logits), roc_curve(labels, logits)
    assert roc.auc == pytest.approx(ranked.auc(), abs=1e-12)


def test_an_estimate_is_worse_where_scores_are_random() -> None:
    labels, logits, families = sampled_scores(2)
    noise = np.random.default_rng(0).standard_normal(len(logits))
    predicted = estimate(
        labels, noise, families, "accuracy", "platt", 0.5, np.random.default_rng(0)
    )
    assert 0.4 < predicted["accuracy"] < 0.6
    assert (
        predicted["accuracy_interval"]["low"] < 0.5 < predicted["accuracy_interval"]["high"] + 0.05
    )


def test_too_few_families_are_refused() -> None:
    labels, logits, families = sampled_scores(0, families=5)
    with pytest.raises(DataError, match="5 held-out families: wanted at least 6"):
        estimate(labels, logits, families, "accuracy", "none", None, np.random.default_rng(0))


# The stage and its file


@pytest.fixture
def held_out(run: Path, faces: Path) -> Path:
    """A run whose head held out all ten families: untrained, which does not matter here."""
    path = run / "head.h5"
    with EmbeddingCache.open(run / "embeddings.h5") as cache:
        names = [name.decode() for name in cache.names if name.startswith(b"train/")]
    people = tuple(sorted({"/".join(name.split("/")[1:3]) for name in names}))
    save_head(replace(load_head(path), held_out=people), path)
    return run


def test_the_stage_writes_what_it_reads(held_out: Path, faces: Path) -> None:
    path = calibrate(CalibrateConfig(pairs=400, map="isotonic", prior=0.2), faces, held_out)
    result = load_calibration(path)
    assert save_calibration(result, held_out / "again.json").read_bytes() == path.read_bytes()
    head = load_head(held_out / "head.h5")
    assert result.people == head.held_out and (result.expanded, result.make_up) == (None, None)
    assert result.alone.fitted_prior == 0.5 and result.alone.prior == 0.2
    assert result.alone.estimates is not None
    assert set(result.alone.estimates) >= {"auc", "auc_interval", "threshold_interval", "non_kin"}
    before = path.read_bytes()
    calibrate(CalibrateConfig(pairs=400, map="isotonic", prior=0.2), faces, held_out)
    assert path.read_bytes() == before


def test_score_applies_the_calibration_unless_raw(held_out: Path, faces: Path) -> None:
    raw = score(ScoreConfig(), faces, held_out).read_text()
    calibrate(CalibrateConfig(pairs=400, prior=0.01), faces, held_out)
    calibrated = score(ScoreConfig(), faces, held_out).read_text()
    assert score(ScoreConfig(raw=True), faces, held_out).read_text() == raw
    assert calibrated != raw
    mean = np.mean([float(line.split(",")[1]) for line in calibrated.splitlines()[1:]])
    assert mean < 0.1


def test_a_calibration_of_another_head_is_refused(held_out: Path, faces: Path) -> None:
    path = calibrate(CalibrateConfig(pairs=400), faces, held_out)
    head = load_head(held_out / "head.h5")
    result = load_calibration(path)
    check_calibration(result, head, path)
    other = replace(head, held_out=())
    with pytest.raises(RunError, match="run kinembed calibrate again, or name the head") as error:
        check_calibration(result, other, path)
    for text in (
        str(path),
        f"head {head.digest[:12]}",
        f"found head {other.digest[:12]}",
        "--head",
    ):
        assert text in str(error.value)
    save_head(replace(head, biases=(*head.biases[:-1], head.biases[-1] + 1)), held_out / "head.h5")
    before = path.read_bytes()
    with pytest.raises(RunError, match="run kinembed calibrate again"):
        score(ScoreConfig(calibration=path), faces, held_out)
    assert path.read_bytes() == before


def test_a_stale_calibration_is_said_and_the_raw_head_or_a_kept_one_is_used(
    held_out: Path, faces: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = held_out / "head.h5"
    head, other = load_head(own), held_out / "other.h5"
    save_head(replace(head, biases=(*head.biases[:-1], head.biases[-1] + 1)), other)
    path = calibrate(CalibrateConfig(pairs=400), faces, held_out)
    first = path.read_bytes()
    calibrated = score(ScoreConfig(), faces, held_out).read_bytes()
    save_head(load_head(other), own)
    caplog.clear()
    found = score(ScoreConfig(), faces, held_out).read_bytes()
    assert "with --head; until then, scores are not calibrated" in caplog.text
    assert found == score(ScoreConfig(raw=True), faces, held_out).read_bytes()
    calibrate(CalibrateConfig(pairs=400, map="isotonic"), faces, held_out)
    assert path.read_bytes() != first
    save_head(head, own)
    caplog.clear()
    assert score(ScoreConfig(), faces, held_out).read_bytes() == calibrated
    assert f"until then, calibrations/platt-accuracy-{head.digest[:12]}" in caplog.text
    assert len([each for each in caplog.records if each.levelname == "WARNING"]) == 1
    for more in ({"raw": True}, {"people": "mean"}):
        with pytest.raises(KinembedError, match="calibration: is not used with"):
            score(ScoreConfig(calibration=path, **more), faces, held_out)


def test_all_calibrations_are_kept_and_go_with_their_head(
    held_out: Path, faces: Path, caplog: pytest.LogCaptureFixture
) -> None:
    head = load_head(held_out / "head.h5")
    path = calibrate(CalibrateConfig(pairs=400), faces, held_out)
    platt = path.read_bytes()
    calibrate(CalibrateConfig(pairs=400, map="isotonic", target="far=0.1"), faces, held_out)
    isotonic = path.read_bytes()
    names = [each.name for each in kept_calibrations(held_out)]
    assert sorted(name.rpartition("-")[0] for name in names) == [
        f"isotonic-far_0.1-{head.digest[:12]}",
        f"platt-accuracy-{head.digest[:12]}",
    ]
    assert [each.calibration.alone.map for each in kept_calibrations(held_out) if each.in_use] == [
        "isotonic"
    ]
    caplog.set_level("INFO")
    caplog.clear()
    switch_calibration(held_out, head)  # that in use is of it already
    assert path.read_bytes() == isotonic and not caplog.records
    switch_calibration(held_out, replace(head, held_out=()))
    assert "is of another head, and none is kept of this one" in caplog.text
    assert path.read_bytes() == isotonic
    path.write_bytes(platt)
    save_calibration(replace(load_calibration(path), head="0" * 64), path)  # not kept
    switch_calibration(held_out, head)
    assert path.read_bytes() == isotonic and len(kept_calibrations(held_out)) == 3
    (held_out / "calibrations" / "none-x-0-0.json").write_text("{}")
    assert (
        len(kept_calibrations(held_out)) == 3 and "is no calibration of this version" in caplog.text
    )


def test_a_head_worse_than_chance_is_not_calibrated(held_out: Path, faces: Path) -> None:
    path = held_out / "head.h5"
    head = load_head(path)
    with EmbeddingCache.open(held_out / "embeddings.h5") as cache:
        families = cached_families(cache, faces)
        rng = np.random.default_rng(0)
        scored = out_of_fold_scores(head, cache, families, 400, rng)
    if roc_auc(scored.pairs.labels, scored.logits) > 0.5:
        head = replace(head, kernels=(*head.kernels[:-1], -head.kernels[-1]))
    save_head(head, path)
    said = r"no better than chance \(AUC 0\.\d+; 95 % by families: .* to .* kinembed head --run"
    with pytest.raises(RunError, match=said) as error:
        calibrate(CalibrateConfig(pairs=400), faces, held_out)
    assert "\n" not in str(error.value) and not (held_out / "calibration.json").exists()


@pytest.mark.parametrize("slope", [0.0, -1.0])
def test_a_map_that_falls_is_no_calibration(tmp_path: Path, slope: float) -> None:
    wrong = calibration_of(Scale(0.0, "youden", "platt", ((slope,), (0.0,)), 0.5, 0.5))
    with pytest.raises(
        RunError, match=r"is no calibration of this version .its map falls.; run kinembed"
    ):
        load_calibration(save_calibration(wrong, tmp_path / "calibration.json"))


def test_who_chose_the_head_s_epoch_is_said(
    held_out: Path, faces: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    head = load_head(held_out / "head.h5")
    for chooser in ("held-out people", "nobody", ""):
        caplog.clear()
        save_head(head, held_out / "head.h5", HeadRecord(epoch_chosen_by=chooser))
        path = calibrate(CalibrateConfig(pairs=400), faces, held_out)
        assert load_calibration(path).epoch_chosen_by == chooser
        assert ("chose the head's epoch" in caplog.text) == (chooser == "held-out people")


def test_a_head_without_held_out_people_is_refused(run: Path, faces: Path) -> None:
    path = run / "head.h5"
    save_head(replace(load_head(path), held_out=()), path)
    with pytest.raises(RunError, match="does not say who was held out"):
        calibrate(CalibrateConfig(), faces, run)
    save_head(replace(load_head(path), held_out=("F9/MID1",)), path)
    with pytest.raises(RunError, match=r"none of the 1 people .* \(F9/MID1\) has photos"):
        calibrate(CalibrateConfig(), faces, run)
    save_head(replace(load_head(path), held_out=("F0001/MID1", "F9/MID1")), path)
    with pytest.raises(DataError, match=r"1 of 2 people have no photos in the cache \(F9/MID1\)"):
        calibrate(CalibrateConfig(), faces, run)


def calibration_of(alone: Scale, expanded: Scale | None = None) -> Calibration:
    """A calibration by hand; expanded if it has a scale for that."""
    make_up = None if expanded is None else MakeUp(20, 12, (1, 2, 3))
    return Calibration("h" * 64, ("F1/MID1",), "nobody", alone, expanded, make_up)


def test_a_calibration_of_another_schema_says_what_to_run(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    scale = fit(np.array([True, False]), np.array([1.0, 0.0]), "youden", "none")
    save_calibration(calibration_of(scale), path)
    before = json.loads(path.read_text())
    for schema in (3, 9, "4", None, 4.0):
        path.write_text(json.dumps(before | {"schema": schema}))
        with pytest.raises(RunError) as error:
            load_calibration(path)
        wanted = f"a calibration of schema {schema!r}, wanted 4; run kinembed calibrate again"
        assert str(error.value) == f"{path}: {wanted}"


def test_the_command(held_out: Path, faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["calibrate", "--run", str(held_out), "--data", str(faces), "--pairs", "300"]
    assert command([*arguments, "--target", "far=0.1", "--map", "none"]) == 0
    assert "threshold" in capsys.readouterr().err
    assert load_calibration(held_out / "calibration.json").alone.target == "far=0.1"
    assert command([*arguments, "--target", "far=2"]) == 1
    assert "Error: target: found 'far=2'" in capsys.readouterr().err
