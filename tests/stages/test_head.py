"""The stage `head` in a run folder: which recipe it trains, what it follows, what it keeps."""

import json
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from neighbours import people_vectors, random_directions
from test_evaluate import generated_run

from kinembed.cache import EmbeddingCache
from kinembed.cache.provenance import Finetuned
from kinembed.cache.writer import write_cache
from kinembed.cli import run as command
from kinembed.cli.results import of_kept_heads
from kinembed.config import EmbedConfig, FinetuneConfig, HeadConfig, ScoreConfig
from kinembed.data.families import cached_families
from kinembed.embed import embed
from kinembed.errors import KinembedError, RunError
from kinembed.evaluation.calibration import Calibration, Scale, load_calibration, save_calibration
from kinembed.evaluation.head_log import read_head_log
from kinembed.evaluation.kept_calibrations import keep_calibration
from kinembed.evaluation.out_of_fold import judge
from kinembed.finetune import finetune
from kinembed.head import head
from kinembed.heads.file import load_head, read_head
from kinembed.heads.kept import kept_heads, use_head
from kinembed.heads.metric import MetricHead
from kinembed.heads.pair import PairHead
from kinembed.heads.query_expansion import find_neighbours
from kinembed.recipes import KIN, RECIPES
from kinembed.score import score

SHORT = HeadConfig(epochs=2, steps=3, val_steps=2, batch_size=8)
QUICK = ("embed_dim=8", "hidden_dim=0", "members=2", "expand=off")
METRIC = HeadConfig(kind="metric", overrides=QUICK, epochs=1, steps=2)


def retold(run: Path, finetuned: Finetuned | None) -> None:
    """Says otherwise how the network of the run's cache was trained."""
    with EmbeddingCache.open(run / "embeddings.h5") as cache:
        views = {view: [np.array(cache.vectors(view))] for view in cache.views}
        told = {key: value for key, value in cache.provenance.items() if key != "finetuned"}
        if finetuned is not None:
            told["finetuned"] = finetuned.as_json()
        names, digests = np.array(cache.names), np.array(cache.digests)
    write_cache(run / "embeddings.h5", told, names, digests, views)


# Which recipe


def test_bare_head_on_a_fine_tuned_run_retrains_its_recipe_s_head(run: Path, faces: Path) -> None:
    before = load_head(run / "head.h5")
    after, record = read_head(head(SHORT, faces, run))
    assert isinstance(before, PairHead) and isinstance(after, PairHead)
    assert [k.shape for k in after.kernels] == [k.shape for k in before.kernels]
    assert (after.view, after.features, after.held_out) == ("max", ("abs",), before.held_out)
    assert after.digest != before.digest
    assert (record.stage, record.recipe, record.settings) == ("head", "dense", "")


def test_its_overrides_and_its_view_are_those_of_the_training(run: Path, faces: Path) -> None:
    recipe = replace(RECIPES["dense"], hidden=(7,), dropout=0.0)
    retold(run, Finetuned(recipe, "avg"))
    found, record = read_head(head(SHORT, faces, run))
    assert isinstance(found, PairHead) and found.view == "avg"
    assert [k.shape for k in found.kernels] == [(128, 7), (7, 1)]
    assert record.settings == "hidden=7;dropout=0.0"
    found = load_head(head(replace(SHORT, views=("max",), overrides=("hidden=5",)), faces, run))
    assert isinstance(found, PairHead) and found.view == "max"
    assert [k.shape for k in found.kernels] == [(128, 5), (5, 1)]


@pytest.mark.parametrize("finetuned", [None, Finetuned(KIN, "avg")])
def test_on_other_caches_the_default_is_metric(
    run: Path, faces: Path, finetuned: Finetuned | None
) -> None:
    retold(run, finetuned)
    assert isinstance(load_head(head(replace(METRIC, kind=None), faces, run)), MetricHead)


def test_a_cache_that_does_not_say_how_is_refused(run: Path, faces: Path) -> None:
    with EmbeddingCache.open(run / "embeddings.h5") as cache:
        views = {view: [np.array(cache.vectors(view))] for view in cache.views}
        told = {**cache.provenance, "finetuned": {"recipe": {"kind": "pair"}}}
        names, digests = np.array(cache.names), np.array(cache.digests)
    write_cache(run / "embeddings.h5", told, names, digests, views)
    with pytest.raises(RunError, match="finetuned: recipe: name is missing"):
        head(SHORT, faces, run)


def test_the_log_names_the_other_choice_and_both_aucs(
    run: Path, faces: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    head(SHORT, faces, run)
    own = read_head(run / "head.h5")[1].auc
    assert (
        f"head dense: AUC {own:.4f}; kinembed head --run {run} --kind metric trains the kind that "
        "ranks best"
    ) in caplog.text
    caplog.clear()
    head(METRIC, faces, run)
    metric = read_head(run / "head.h5")[1].auc
    dense = [each.record.auc or 0 for each in kept_heads(run) if each.record.recipe == "dense"]
    assert (
        f"head metric: AUC {metric:.4f}; kinembed head --run {run} without --kind and --recipe "
        f"trains the network's own, dense, of AUC {max(dense):.4f} here (dense-max-"
    ) in caplog.text
    assert f"; kinembed head --use NAME --run {run} goes back to another" in caplog.text
    caplog.clear()
    head(SHORT, faces, run)
    assert f"--kind metric trains the kind that ranks best, of AUC {metric:.4f} here" in caplog.text
    retold(run, None)
    caplog.clear()
    head(METRIC, faces, run)
    assert "--recipe regularized trains the best of the report\n" in caplog.text


# What it follows


def test_the_log_compares_a_head_with_the_one_it_follows_on_the_same_pairs(
    run: Path, faces: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = load_head(run / "head.h5")
    caplog.set_level(logging.INFO)
    head(replace(SHORT, seed=4), faces, run)
    with EmbeddingCache.open(run / "embeddings.h5") as cache:
        families = cached_families(cache, faces)
        old, new = (
            judge(each, cache, families, 4).auc for each in (before, load_head(run / "head.h5"))
        )
    assert f"which it follows: AUC {old:.4f} on the same pairs" in caplog.text
    assert f"AUC {new:.4f} (95 % by families" in caplog.text


def test_a_warm_start_begins_with_the_fine_tuned_weights(run: Path, faces: Path) -> None:
    before = load_head(run / "head.h5")
    still = replace(SHORT, overrides=("learning_rate=1e-30",), warm_start=True)
    after = load_head(head(still, faces, run))
    assert isinstance(before, PairHead) and isinstance(after, PairHead)
    for one, other in zip(
        (*before.kernels, *before.biases), (*after.kernels, *after.biases), strict=True
    ):
        assert np.allclose(one, other, rtol=1e-6, atol=1e-20)
    cold = load_head(head(replace(still, warm_start=False), faces, run))
    assert isinstance(cold, PairHead) and not np.allclose(cold.kernels[0], before.kernels[0])
    learnt = load_head(head(replace(SHORT, warm_start=True), faces, run))
    assert learnt.digest not in (before.digest, after.digest)


def test_a_warm_start_without_such_a_head_is_refused(run: Path, faces: Path) -> None:
    warm = replace(SHORT, warm_start=True)
    with pytest.raises(KinembedError, match="warm_start: recipe metric trains another kind"):
        head(replace(METRIC, warm_start=True), faces, run)
    with pytest.raises(KinembedError, match="has layers 128x100, 100x25, 25x1 on features abs, "):
        head(replace(warm, overrides=("hidden=5",)), faces, run)
    with pytest.raises(RunError, match="compares view max, found avg; leave out --warm-start"):
        head(replace(warm, views=("avg",)), faces, run)
    (run / "head.h5").unlink()
    for path in (run / "heads").iterdir():
        path.unlink()
    with pytest.raises(RunError, match="keeps no head that was fine-tuned with the network"):
        head(warm, faces, run)


def test_one_member_without_folds_is_trained(run: Path, faces: Path) -> None:
    retold(run, None)
    one = replace(
        METRIC, overrides=("embed_dim=8", "hidden_dim=0", "expand=off"), ensemble=1, folds=0
    )
    found = load_head(head(one, faces, run))
    assert isinstance(found, MetricHead) and len(found.members()) == 1
    assert found.held_out and found.trained and not set(found.held_out) & set(found.trained)


def test_the_same_vectors_twice_are_a_warning(
    run: Path, faces: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copied = Path(shutil.copy(run / "embeddings.h5", tmp_path / "copied.h5"))
    config = replace(SHORT, kind="mix", caches=(run / "embeddings.h5", copied), val_steps=1)
    head(replace(config, views=("1.max", "2.avg")), faces, tmp_path / "unlike")
    assert "very vectors" not in caplog.text
    head(replace(config, views=("1.max", "2.avg", "2.max")), faces, tmp_path / "again")
    assert "view 2.max has the very vectors of view 1.max" in caplog.text


def test_an_ensemble_of_another_number_than_there_are_folds_is_refused(tmp_path: Path) -> None:
    generated_run(tmp_path)
    config = HeadConfig(overrides=("embed_dim=8", "expand=off"), epochs=1, steps=1)
    for folds, ensemble in ((None, 3), (4, 2)):
        with pytest.raises(RunError, match=f"ensemble: found {ensemble}, with .* folds"):
            head(replace(config, folds=folds, ensemble=ensemble), tmp_path, tmp_path)
    assert not (tmp_path / "heads.csv").exists()
    found = load_head(head(replace(config, folds=3, ensemble=3), tmp_path, tmp_path))
    assert len(found.members()) == len(found.folds) == 3


# What it keeps


def test_who_chose_the_epoch_is_said(
    run: Path, faces: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They chose the epoch of the network, whichever head takes its vectors."""
    caplog.set_level(logging.INFO)
    chosen = []
    for config in (SHORT, METRIC, replace(METRIC, patience=3)):
        caplog.clear()
        head(config, faces, run)
        chosen.append(read_head(run / "head.h5")[1].epoch_chosen_by)
        assert "chose its epoch, or its network's" in caplog.text
    assert chosen == ["held-out people"] * 3
    assert [row["epoch_chosen_by"] for row in read_head_log(run / "heads.csv")] == chosen


def test_the_first_submission_comes_back_bit_for_bit(
    faces: Path, tmp_path: Path, short: FinetuneConfig, on_cpu: EmbedConfig
) -> None:
    finetune(replace(short, epochs=1, steps=2), faces, tmp_path)
    embed(on_cpu, faces, tmp_path)
    first = score(ScoreConfig(), faces, tmp_path).read_bytes()
    tuned = load_head(tmp_path / "head.h5").digest
    for config in (SHORT, METRIC):
        head(config, faces, tmp_path)
        assert score(ScoreConfig(), faces, tmp_path).read_bytes() != first
    assert len(kept_heads(tmp_path)) == 3
    use_head(tmp_path, tuned[:12])
    assert score(ScoreConfig(), faces, tmp_path).read_bytes() == first


def test_the_command_goes_back_to_a_head_and_its_calibration(
    run: Path, faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = ["--run", str(run), "--data", str(faces)]

    def answer(*words: str) -> tuple[str, str]:
        assert command([*words, *there]) == 0
        said = capsys.readouterr()
        return said.out, said.err

    answer("score")
    first, digest = (run / "submission.csv").read_bytes(), load_head(run / "head.h5").digest[:12]
    short = ["--epochs", "1", "--steps", "2", "--batch-size", "8"]
    answer("head", *short, "--kind", "mix", "--view", "avg")
    _, err = answer("score")
    assert "head mix" in err and "on view avg (AUC 0." in err
    assert (run / "submission.csv").read_bytes() != first
    scale = Scale(0.0, "youden", "platt", ((2.0,), (0.0,)), 0.5, 0.5)
    fitted = Calibration(load_head(run / "head.h5").digest, (), "", scale)
    keep_calibration(run, fitted)
    calibration = (run / "calibration.json").read_bytes()
    out, _ = answer("head", "--list")
    assert out.startswith("| name ") and out.count("| yes ") == 1
    heads = json.loads(answer("head", "--list", "--json")[0])["heads"]
    (mix,) = (each for each in heads if each["in_use"])
    assert (mix["recipe"], mix["view"], mix["stage"]) == ("mix", "avg", "head")
    assert 0 < mix["auc"] < 1 and mix["epoch_chosen_by"] == "held-out people"
    (tuned,) = (each["name"] for each in heads if each["name"].endswith(digest))
    _, err = answer("head", "--use", tuned[:-4])
    assert f"{run / 'head.h5'}: is {tuned} now" in err
    assert "calibration.json: is of another head, and none is kept of this one" in err
    _, err = answer("score")
    assert "until then, scores are not calibrated" in err
    assert (run / "submission.csv").read_bytes() == first
    fitted = replace(fitted, head=load_head(run / "head.h5").digest)
    keep_calibration(run, fitted)
    _, err = answer("head", "--use", "mix")
    assert f"calibration.json: is platt-youden-{mix['name'][-12:]}-" in err
    assert (run / "calibration.json").read_bytes() == calibration
    kept = json.loads(answer("calibrate", "--list", "--json")[0])["calibrations"]
    assert sorted(each["in_use"] for each in kept) == [False, True]
    other = next(each["name"] for each in kept if not each["in_use"])
    out, _ = answer("calibrate", "--use", other, "--list")
    assert load_calibration(run / "calibration.json") == fitted and out.count("| yes ") == 1
    assert command(["calibrate", "--use", "none", *there]) == 1
    assert "there is none of that name; wanted one of platt-youden-" in capsys.readouterr().err
    assert command(["head", "--use", "none", *there]) == 1
    assert "there is none of that name; wanted one of " in capsys.readouterr().err


def test_a_bad_head_log_is_refused_before_training(
    tuned: Path, faces: Path, tmp_path: Path
) -> None:
    import shutil

    run = Path(shutil.copytree(tuned, tmp_path / "run"))
    (run / "heads.csv").write_text("when,recipe\n")
    before = (run / "head.h5").read_bytes()
    with pytest.raises(RunError, match="wanted the head log of kinembed head.*; move it away"):
        head(HeadConfig(epochs=10**6), faces, run)  # would take days
    assert (run / "head.h5").read_bytes() == before


def test_a_link_that_leads_nowhere_is_no_kept_head(tuned: Path, tmp_path: Path) -> None:
    import shutil

    from kinembed.heads.kept import keep_in_use, kept_heads

    run = Path(shutil.copytree(tuned, tmp_path / "run"))
    keep_in_use(run)
    names = [each.name for each in kept_heads(run)]
    (run / "heads" / "c.h5").symlink_to(tmp_path / "nowhere")
    assert [each.name for each in kept_heads(run)] == names != []


def test_lists_write_nothing_and_name_what_is_in_use(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(run / "heads", ignore_errors=True)
    digest = load_head(run / "head.h5").digest
    scale = Scale(0.0, "youden", "platt", ((2.0,), (0.0,)), 0.5, 0.5)
    save_calibration(Calibration(digest, (), "", scale), run / "calibration.json")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    for stage, key in (("head", "heads"), ("calibrate", "calibrations")):
        assert command([stage, "--list", "--json", "--run", str(run)]) == 0
        (one,) = json.loads(capsys.readouterr().out)[key]
        assert one["in_use"]
        assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
        assert command([stage, "--use", one["name"], "--list", "--run", str(run)]) == 0
        assert capsys.readouterr().out.count(one["name"]) == 1
        before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}


def test_a_head_does_not_follow_itself(
    run: Path, faces: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(run / "heads", ignore_errors=True)
    (run / "head.h5").unlink()
    caplog.set_level(logging.INFO)
    for _ in range(2):
        head(replace(SHORT, seed=4), faces, run)
    assert "which it follows" not in caplog.text
    (kept,) = (run / "heads").glob("*.h5")
    os.utime(kept, (0, 0))  # as a copy may have it
    last = read_head_log(run / "heads.csv")[-1]
    assert of_kept_heads(run)["heads"][0]["when"] == last["when"]
    assert caplog.text.count("it is the very head of before") == 1


# Query expansion


def test_a_head_compares_its_photos_once_and_so_does_the_head_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    people = [f"F{family:04}/MID{member}" for family in range(30) for member in range(2)]
    owners = np.repeat(np.arange(len(people)), 4)
    vectors = people_vectors(rng, owners, 32, 0.9)
    vectors += 0.4 * random_directions(rng, 30, 32)[owners // 2]  # kin are alike
    names = [f"train/{people[owner]}/{row:04}.jpg".encode() for row, owner in enumerate(owners)]
    about = {"schema": 5, "model": "m" * 64, "backbone": "drawn"}
    digests = np.zeros((len(names), 32), np.uint8)
    write_cache(tmp_path / "embeddings.h5", about, np.array(names), digests, {"native": [vectors]})
    kin = [f"F{family:04}/MID0,F{family:04}/MID1" for family in range(30)]
    (tmp_path / "train_relationships.csv").write_text("\n".join(["p1,p2", *kin, ""]))
    compared = []

    def counted(*arguments: Any, **settings: Any) -> Any:
        compared.append(len(arguments[2]))
        return find_neighbours(*arguments, **settings)

    monkeypatch.setattr("kinembed.heads.query_expansion.find_neighbours", counted)
    monkeypatch.setattr("kinembed.training.heads.find_neighbours", counted)
    short = HeadConfig(overrides=("embed_dim=8", "hidden_dim=0"), epochs=1, steps=1, folds=2)
    for _ in range(2):  # the second one also judges the first, on the same pairs
        compared.clear()
        trained = load_head(head(short, tmp_path, tmp_path))
        assert trained.same_person is not None
        assert compared == [len(names)]
    compared.clear()
    with EmbeddingCache.open(tmp_path / "embeddings.h5") as cache:
        result = judge(trained, cache, cached_families(cache, tmp_path), short.seed)
    assert compared == [len(names)]
    row = read_head_log(tmp_path / "heads.csv")[-1]
    assert float(row["auc"]) == pytest.approx(result.auc, abs=1e-4)  # as without the shared ones
