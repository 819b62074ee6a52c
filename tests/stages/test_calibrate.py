"""The stage calibrate where photos have neighbours: both scales, in other caches and run folders."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from neighbours import people_vectors, random_directions, random_model

from kinembed.cache import EmbeddingCache
from kinembed.cache.writer import write_cache
from kinembed.calibrate import FEWEST_PAIRS, calibrate
from kinembed.cli import run as command
from kinembed.config import CalibrateConfig, EvaluateConfig, ScoreConfig
from kinembed.errors import DataError, RunError
from kinembed.evaluate import evaluate
from kinembed.evaluation.calibration import Calibration, Scale, load_calibration, save_calibration
from kinembed.evaluation.cross_fitting import cross_fit, estimate
from kinembed.evaluation.metrics import calibration_error
from kinembed.heads.base import sigmoid
from kinembed.heads.file import load_head, save_head
from kinembed.heads.metric import MetricHead, Projection
from kinembed.heads.query_expansion import MakeUp
from kinembed.heads.representations import Representations
from kinembed.score import score

pytestmark = pytest.mark.usefixtures("fewer")
WIDTH, FAMILIES, MEMBERS = 48, 40, 3
PEOPLE = [f"F{f:04}/MID{m}" for f in range(FAMILIES) for m in range(MEMBERS)]
ALONE = Scale(0.5, "youden", "platt", ((2.0,), (-1.0,)), 0.5, 0.5)
EXPANDED = Scale(-0.5, "youden", "platt", ((0.5,), (1.0,)), 0.5, 0.5)


def vectors_of(rng: np.random.Generator, owners: np.ndarray) -> np.ndarray:
    """Vectors of photos of people of families of three, who are alike."""
    of_family = random_directions(rng, FAMILIES, WIDTH)[owners // MEMBERS]
    return (people_vectors(rng, owners, WIDTH, 0.9) + 0.8 * of_family).astype(np.float32)


def write(path: Path, names: list[str], vectors: np.ndarray) -> Path:
    order = np.argsort([name.encode() for name in names])
    return write_cache(
        path, {"schema": 5, "model": "m" * 64, "backbone": "drawn"},
        np.array([names[row].encode() for row in order]),
        np.zeros((len(names), 32), np.uint8), {"native": [vectors[order]]},
    )  # fmt: skip


def make(folder: Path, photos: np.ndarray) -> Path:
    """A run and data folder of people with so many photos each, and a head that held all out."""
    rng = np.random.default_rng(0)
    owners = np.repeat(np.arange(len(PEOPLE)), photos)
    names = [f"train/{PEOPLE[p]}/{n}.jpg" for p, count in enumerate(photos) for n in range(count)]
    folder.mkdir(exist_ok=True)
    write(folder / "embeddings.h5", names, vectors_of(rng, owners))
    projection = Projection(np.eye(WIDTH, dtype=np.float32), np.zeros(WIDTH, np.float32), ())
    model = random_model(rng, WIDTH, slope=30.0, offset=-6.0, mistaken=1e-4)
    head = MetricHead(
        "native", "m" * 64, (projection,), scale=8.0, centre=0.2, knn_view="native",
        same_person=model, expansion_slopes=(0.25,), held_out=tuple(PEOPLE),
    )  # fmt: skip
    save_head(head, folder / "head.h5")
    kin = [f"{PEOPLE[f * MEMBERS + a]},{PEOPLE[f * MEMBERS + b]}"
           for f in range(FAMILIES) for a, b in ((0, 1), (0, 2), (1, 2))]  # fmt: skip
    (folder / "train_relationships.csv").write_text("\n".join(["p1,p2", *kin, ""]))
    return folder


def some_have_several(rng: np.random.Generator) -> np.ndarray:
    return rng.choice([1, 1, 3, 5], size=len(PEOPLE))


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Half of the people have one photo, the others several."""
    return make(tmp_path / "mixed", some_have_several(np.random.default_rng(1)))


def pairs_of(folder: Path, names: list[tuple[str, str]]) -> Path:
    path = folder / "pairs.csv"
    path.write_text("\n".join(["p1,p2", *(f"{a},{b}" for a, b in names), ""]))
    return path


def all_pairs(folder: Path, count: int = 60) -> list[tuple[str, str]]:
    """Pairs of the photos of a cache, some expanded and some not."""
    with EmbeddingCache.open(folder / "embeddings.h5") as cache:
        names = [name.decode() for name in np.array(cache.names)]
    people = [name.rpartition("/")[0] for name in names]
    singles = [name for name, who in zip(names, people, strict=True) if people.count(who) == 1]
    rng = np.random.default_rng(2)
    drawn = [rng.choice(each, size=(count // 2, 2)).tolist() for each in (names, singles)]
    return [(a, b) for pairs in drawn for a, b in pairs if a != b]


def probabilities_of(path: Path) -> np.ndarray:
    with path.open(newline="") as file:
        return np.array([float(row["is_related"]) for row in csv.DictReader(file)])


# Scales


def test_each_pair_has_the_scale_that_it_is_of() -> None:
    both = Calibration("h", (), "", ALONE, EXPANDED, MakeUp(9, 4, (1, 2, 3)))
    logits, expansion = np.array([-2.0, 0.0, 1.0, 0.0]), np.array([0.0, 0.0, 0.3, 2.0])
    wanted = [sigmoid(np.array([2 * -2.0 - 1])), sigmoid(np.array([2 * 0.0 - 1]))]
    wanted += [sigmoid(np.array([0.5 * 1.0 + 1])), sigmoid(np.array([0.5 * 0.0 + 1]))]
    assert both.probabilities(logits, expansion) == pytest.approx(np.concatenate(wanted), abs=1e-12)
    assert both.accepts(logits, expansion).tolist() == [False, False, True, True]
    ((alone, of_alone), (expanded, of_expanded)) = both.scales(expansion)
    assert (of_alone, of_expanded) == (ALONE, EXPANDED)
    assert alone.tolist() == [True, True, False, False] and (expanded == ~alone).all()
    singles = np.zeros(4)
    only = Calibration("h", (), "", ALONE)
    assert (both.probabilities(logits, singles) == only.probabilities(logits, singles)).all()
    assert (only.probabilities(logits, singles) == ALONE.probabilities(logits)).all()
    assert both.probabilities(np.zeros(0), np.zeros(0)).shape == (0,)


def test_a_scale_of_photos_alone_refuses_expanded_pairs_and_says_what_to_run() -> None:
    only = Calibration("h", (), "", ALONE)
    for method in (only.probabilities, only.accepts):
        with pytest.raises(RunError) as error:
            method(np.zeros(3), np.array([0.0, 0.5, 0.0]))
        text = str(error.value)
        assert text.startswith("1 of 3 pairs are scored with others of the same person")
        assert "--expand off" in text and "run kinembed calibrate" in text and "\n" not in text


# The stage


@pytest.mark.parametrize("kind", ["platt", "isotonic", "none"])
def test_both_scales_are_fitted_and_used_by_score(mixed: Path, kind: str) -> None:
    path = calibrate(CalibrateConfig(pairs=3000, map=kind), mixed, mixed)  # type: ignore[arg-type]
    found = load_calibration(path)
    assert found.expanded is not None and found.expanded != found.alone
    assert (found.alone.map, found.expanded.map) == (kind, kind)
    for scale in (found.alone, found.expanded):
        assert scale.estimates is not None
        assert scale.estimates["ece"] < (0.3 if kind == "none" else 0.08)
    head = load_head(mixed / "head.h5")
    names = all_pairs(mixed)
    score(ScoreConfig(pairs_of(mixed, names)), mixed, mixed)
    with EmbeddingCache.open(mixed / "embeddings.h5") as cache:
        rows = cache.rows([name for pair in names for name in pair]).reshape(-1, 2)
        expanded, alone = Representations(cache, head), Representations(cache, head, expand=False)
        is_expanded = expanded.expansion(rows) > 0
        logits, plain = expanded.score(rows), alone.score(rows)
        assert expanded.found["photos"] == found.make_up
    assert 5 < is_expanded.sum() < len(names) - 5
    wanted = np.where(
        is_expanded, found.expanded.probabilities(logits), found.alone.probabilities(plain)
    )
    assert probabilities_of(mixed / "submission.csv") == pytest.approx(wanted, abs=1e-12)
    score(ScoreConfig(mixed / "pairs.csv", expand="off"), mixed, mixed)
    wanted = found.alone.probabilities(plain)
    assert probabilities_of(mixed / "submission.csv") == pytest.approx(wanted, abs=1e-12)


def test_the_scale_of_photos_alone_is_that_of_a_head_that_does_not_expand(mixed: Path) -> None:
    with_neighbours = load_calibration(calibrate(CalibrateConfig(pairs=1000), mixed, mixed))
    head = load_head(mixed / "head.h5")
    plain = replace(head, same_person=None, expansion_slopes=())  # type: ignore[type-var]
    save_head(plain, mixed / "head.h5")
    without = load_calibration(calibrate(CalibrateConfig(pairs=1000), mixed, mixed))
    assert with_neighbours.alone == without.alone
    assert with_neighbours.expanded is not None and without.expanded is None


def test_a_calibration_holds_for_another_cache_of_the_model(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Named, or copied with the head into another run folder; not for another head."""
    fitted = load_calibration(calibrate(CalibrateConfig(pairs=2000), mixed, mixed))
    other = tmp_path / "other"
    other.mkdir()
    rng = np.random.default_rng(8)
    photos = [f"album/{n:02}.jpg" for n in range(12)]
    write(other / "embeddings.h5", photos, vectors_of(rng, np.arange(12) * MEMBERS))
    pairs = pairs_of(other, [(a, b) for a in photos[:3] for b in photos[3:]])
    base = ["score", "--run", str(other), "--data", str(other), "--pairs", str(pairs)]
    named = ["--head", str(mixed / "head.h5"), "--calibration", str(mixed / "calibration.json")]
    assert command([*base, *named]) == 0
    result = probabilities_of(other / "submission.csv")
    head = load_head(mixed / "head.h5")
    with EmbeddingCache.open(other / "embeddings.h5") as cache:
        rows = np.array([(i, j) for i in range(3) for j in range(3, 12)])
        logits = Representations(cache, head, expand=False).score(rows)
    assert result == pytest.approx(fitted.alone.probabilities(logits), abs=1e-12)
    for name in ("head.h5", "calibration.json"):
        shutil.copy(mixed / name, other)
    assert command(base) == 0
    assert (probabilities_of(other / "submission.csv") == result).all()
    assert "0 of 12 photos likely have others of the same person" in capsys.readouterr().err
    save_head(replace(head, centre=0.1), other / "head.h5")  # type: ignore[type-var]
    with pytest.raises(RunError, match="run kinembed calibrate again, or name the head"):
        score(ScoreConfig(pairs, calibration=other / "calibration.json"), other, other)


def test_one_pair_has_one_probability_in_albums_of_any_size(mixed: Path, tmp_path: Path) -> None:
    calibrate(CalibrateConfig(pairs=2000), mixed, mixed)
    rng = np.random.default_rng(8)
    vectors = vectors_of(rng, np.arange(100))
    found = []
    for size in (2, 6, 12, 100):
        run = tmp_path / str(size)
        run.mkdir()
        photos = [f"album/{n:03}.jpg" for n in range(size)]
        write(run / "embeddings.h5", photos, vectors[:size])
        pairs = pairs_of(run, [(photos[0], photos[1])])
        config = ScoreConfig(pairs, head=mixed / "head.h5", calibration=mixed / "calibration.json")
        found.append(probabilities_of(score(config, run, run))[0])
    assert len(set(found)) == 1


def test_the_make_up_is_in_the_file_and_said(mixed: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    path = calibrate(CalibrateConfig(pairs=2000), mixed, mixed)
    make_up = load_calibration(path).make_up
    assert make_up is not None and json.loads(path.read_text())["make_up"] == {
        "photos": make_up.photos, "expanded": make_up.expanded, "others": [*make_up.others],
    }  # fmt: skip
    described = make_up.describe()
    assert f"in galleries like this one ({described}): threshold" in caplog.text
    assert "photos alone, in any gallery: threshold" in caplog.text
    caplog.clear()
    score(ScoreConfig(pairs_of(mixed, all_pairs(mixed))), mixed, mixed)
    assert f"expanded for galleries in which {described}" in caplog.text
    assert f"photos: {described}" in caplog.messages
    caplog.clear()
    score(ScoreConfig(mixed / "pairs.csv", expand="off"), mixed, mixed)
    assert described not in caplog.text and "each photo alone; calibrated by" in caplog.text


def test_both_scales_are_for_one_prior_and_their_thresholds_cut_a_submission(
    mixed: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("INFO")
    found = load_calibration(calibrate(CalibrateConfig(pairs=2000), mixed, mixed))
    assert found.expanded is not None and found.alone.prior == found.expanded.prior == 0.5
    assert found.expanded.fitted_prior != 0.5 and "prior 0.5;" in caplog.text
    rare = load_calibration(calibrate(CalibrateConfig(pairs=2000, prior=0.1), mixed, mixed))
    assert rare.expanded is not None and rare.alone.prior == rare.expanded.prior == 0.1
    base = ["calibrate", "--run", str(mixed), "--data", str(mixed), "--pairs", "2000"]
    assert command([*base, "--map", "isotonic", "--target", "far=0.1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    found = load_calibration(mixed / "calibration.json")
    assert found.expanded is not None
    logits = np.linspace(-8, 8, 4001)
    for name, scale in (("alone", found.alone), ("expanded", found.expanded)):
        cut = told[name]["threshold_probability"]
        assert ((scale.probabilities(logits) >= cut) == scale.accepts(logits)).all()


def test_few_families_are_warned_of_where_pairs_are_drawn(
    mixed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    head = load_head(mixed / "head.h5")
    save_head(replace(head, held_out=tuple(PEOPLE[: 8 * MEMBERS])), mixed / "head.h5")
    for stage, config in ((calibrate, CalibrateConfig()), (evaluate, EvaluateConfig())):
        caplog.clear()
        stage(config, mixed, mixed)
        assert "8 families are few: intervals are too narrow" in caplog.text


def test_where_hardly_any_pair_is_expanded_there_is_no_scale_for_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = np.ones(len(PEOPLE), int)
    counts[:4] = 6
    few = make(tmp_path / "few", counts)
    path = calibrate(CalibrateConfig(pairs=1000), few, few)
    found = load_calibration(path)
    assert found.expanded is None and found.make_up is None
    assert f"too few, wanted {FEWEST_PAIRS}" in caplog.text and "is scored alone" in caplog.text
    base = ["score", "--run", str(few), "--data", str(few)]
    base += ["--pairs", str(pairs_of(few, all_pairs(few)))]
    # Each photo is scored alone then, and it is said.
    assert command(base) == 0
    assert "each photo is scored alone" in capsys.readouterr().err
    written = (few / "submission.csv").read_bytes()
    assert command([*base, "--expand", "off"]) == 0
    assert (few / "submission.csv").read_bytes() == written
    assert command([*base, "--raw"]) == 0
    assert (few / "submission.csv").read_bytes() != written


def test_where_expanded_pairs_are_of_too_few_families_there_is_no_scale_for_them(
    mixed: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_all_alone(labels: np.ndarray, *rest: object) -> object:
        if len(labels) < 1000:
            raise DataError("3 held-out families: wanted at least 6")
        return estimate(labels, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("kinembed.calibrate.estimate", of_all_alone)
    found = load_calibration(calibrate(CalibrateConfig(pairs=1000), mixed, mixed))
    assert found.expanded is None and found.make_up is None
    assert "(3 held-out families: wanted at least 6), so there is no map for such" in caplog.text


def test_few_expanded_pairs_are_left_out_of_what_is_cross_fitted(
    mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrate(CalibrateConfig(pairs=3000), mixed, mixed)
    config = EvaluateConfig(count=1000, pictures=False)
    whole = json.loads(evaluate(config, mixed, mixed).read_text())["decision"]

    def of_all_alone(labels: np.ndarray, *rest: object) -> object:
        if len(labels) < 1000:
            raise DataError("3 held-out families: wanted at least 6")
        return cross_fit(labels, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("kinembed.evaluation.figures.cross_fit", of_all_alone)
    rest = json.loads(evaluate(config, mixed, mixed).read_text())["decision"]
    assert 0 < rest["pairs"] < whole["pairs"] and rest["pairs_expanded"] == whole["pairs_expanded"]


def test_where_all_are_expanded_both_scales_are_of_all_pairs(tmp_path: Path) -> None:
    full = make(tmp_path / "full", np.full(len(PEOPLE), 5))
    found = load_calibration(calibrate(CalibrateConfig(pairs=2000), full, full))
    assert found.expanded is not None and found.make_up is not None
    assert found.make_up.expanded > 0.95 * found.make_up.photos
    for scale in (found.alone, found.expanded):
        assert scale.estimates is not None and scale.estimates["ece"] < 0.1
    accuracy = [scale.estimates["accuracy"] for scale in (found.alone, found.expanded)]  # type: ignore[index]
    assert accuracy[1] > accuracy[0] + 0.02  # expansion is worth something here


# The figures


def test_evaluate_cross_fits_each_pair_by_its_scale(mixed: Path) -> None:
    path = calibrate(CalibrateConfig(pairs=3000), mixed, mixed)
    result = json.loads(
        evaluate(EvaluateConfig(count=3000, pictures=False), mixed, mixed).read_text()
    )
    decision = result["decision"]
    assert decision["how"] == "cross-fitted" and 100 < decision["pairs_expanded"] < 2900
    assert decision["ece"] < 0.08
    found = load_calibration(path)
    assert found.expanded is not None
    assert decision["threshold"] == found.alone.threshold
    assert decision["threshold_expanded"] == found.expanded.threshold
    # On others than those it was fitted on, as it stands.
    save_calibration(replace(found, people=("F9999/MID1",)), path)
    decision = json.loads(
        evaluate(EvaluateConfig(count=3000, pictures=False), mixed, mixed).read_text()
    )["decision"]
    assert decision["how"] == "calibrated" and decision["ece"] < 0.08
    wild = replace(found.expanded, threshold=-99.0)
    save_calibration(replace(found, people=("F9999/MID1",), expanded=wild), path)
    after = json.loads(
        evaluate(EvaluateConfig(count=3000, pictures=False), mixed, mixed).read_text()
    )["decision"]
    assert after["far"] > decision["far"] + 0.05 and after["brier"] == decision["brier"]


def test_both_scales_are_right_about_other_people(mixed: Path, tmp_path: Path) -> None:
    found = load_calibration(calibrate(CalibrateConfig(pairs=6000), mixed, mixed))
    from kinembed.data.families import cached_families
    from kinembed.evaluation.out_of_fold import out_of_fold_scores

    head = load_head(mixed / "head.h5")
    with EmbeddingCache.open(mixed / "embeddings.h5") as cache:
        families = cached_families(cache, mixed)
        scored = out_of_fold_scores(head, cache, families, 6000, np.random.default_rng(77))
    predicted = found.probabilities(scored.logits, scored.expansion)
    for chosen in (scored.expansion > 0, scored.expansion == 0):
        assert calibration_error(scored.pairs.labels[chosen], predicted[chosen]) < 0.1


def test_too_few_pairs_are_refused_and_few_are_said(
    mixed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for pairs in (2, 10, 150):
        with pytest.raises(DataError, match=r"kin pairs and .* too few .* draw more with --pairs"):
            calibrate(CalibrateConfig(pairs=pairs), mixed, mixed)
    assert not (mixed / "calibration.json").exists()
    calibrate(CalibrateConfig(pairs=400), mixed, mixed)
    assert "others are few, wanted 400 of each" in caplog.text
    assert "; draw more with --pairs, or hold out more people" in caplog.text
    caplog.clear()
    calibrate(CalibrateConfig(pairs=3000), mixed, mixed)
    assert "others are few, wanted" not in caplog.text


def test_pairs_that_are_drawn_again_and_again_are_few(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    singles = make(tmp_path / "singles", np.ones(len(PEOPLE), np.intp))  # 120 kin pairs
    calibrate(CalibrateConfig(pairs=4000), singles, singles)
    assert "120 different kin pairs and " in caplog.text
    assert "hardly any others can be drawn" in caplog.text and "--pairs" not in caplog.text


def test_too_few_families_name_what_holds_out_more(mixed: Path) -> None:
    head = replace(load_head(mixed / "head.h5"), held_out=tuple(PEOPLE[: 3 * MEMBERS]))
    save_head(head, mixed / "head.h5")
    said = f"3 held-out families: wanted at least 6, .*; kinembed head --run {mixed} --kind metric "
    with pytest.raises(DataError, match=said):
        calibrate(CalibrateConfig(pairs=1000), mixed, mixed)
    with EmbeddingCache.open(mixed / "embeddings.h5") as cache:
        split = {"by": "families", "fraction": 0.2, "seed": 0, "held_out": "0" * 64}
        told = {**cache.provenance, "split": split}
        names, digests = np.array(cache.names), np.array(cache.digests)
        views = {view: [np.array(cache.vectors(view))] for view in cache.views}
    write_cache(mixed / "embeddings.h5", told, names, digests, views)
    with pytest.raises(DataError, match="kinembed finetune --folds 5 holds out everybody"):
        calibrate(CalibrateConfig(pairs=1000), mixed, mixed)


def test_a_head_whose_interval_reaches_chance_is_warned_of(
    mixed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calibrate(CalibrateConfig(pairs=1000), mixed, mixed)
    assert "no better than chance" not in caplog.text
    rng = np.random.default_rng(4)  # vectors that know no family
    with EmbeddingCache.open(mixed / "embeddings.h5") as cache:
        names = [name.decode() for name in np.array(cache.names)]
    write(mixed / "embeddings.h5", names, random_directions(rng, len(names), WIDTH))
    calibrate(CalibrateConfig(pairs=1000), mixed, mixed)
    assert "ranks pairs of held-out people no better than chance (AUC 0." in caplog.text
    assert "; 95 % by families: 0." in caplog.text
    assert f"train another with kinembed head --run {mixed}" in caplog.text


# The three answers


def test_people_of_several_photos_tell_the_same_person_from_kin(
    mixed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    found = load_calibration(calibrate(CalibrateConfig(pairs=1000), mixed, mixed)).three_way
    assert found is not None and found.estimates is not None
    assert min(found.pairs) > 1_000 and found.people == len(PEOPLE)
    assert found.estimates["accuracy"] > 0.6 and found.estimates["ece"] < 0.1
    assert f"accuracy {found.estimates['accuracy']:.3f}" in caplog.text
    again = load_calibration(calibrate(CalibrateConfig(pairs=1000), mixed, mixed)).three_way
    assert again == found


def test_single_photos_tell_no_same_person_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    singles = make(tmp_path / "singles", np.ones(len(PEOPLE), int))
    found = load_calibration(calibrate(CalibrateConfig(pairs=1000), singles, singles))
    assert found.three_way is None
    assert "the same person is not told from kin: nobody held out has two photos" in caplog.text
