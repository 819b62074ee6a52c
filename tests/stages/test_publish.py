"""`head --publish`: one file that answers like its head, and names and shows nobody."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from strangers import contents, resealed
from test_calibrate import (
    PEOPLE,
    WIDTH,
    all_pairs,
    make,
    pairs_of,
    probabilities_of,
    some_have_several,
)

from kinembed.cache import EmbeddingCache
from kinembed.calibrate import calibrate
from kinembed.cli import run as command
from kinembed.config import CalibrateConfig, EvaluateConfig, ScoreConfig
from kinembed.errors import DataError, RunError
from kinembed.evaluate import evaluate
from kinembed.evaluation.calibration import Calibration, Scale, load_calibration, save_calibration
from kinembed.evaluation.published import (
    ATTRIBUTE,
    is_published,
    read_any_head,
    read_published,
)
from kinembed.evaluation.publishing import PAIRS
from kinembed.head import publish
from kinembed.heads.exact import unit
from kinembed.heads.file import load_head, save_head
from kinembed.heads.made_up_cohort import with_made_up_cohort
from kinembed.heads.metric import MetricHead
from kinembed.heads.representations import Representations
from kinembed.score import score


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run and data folder with a head, its calibration and `given.h5`; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("published")
    rng = np.random.default_rng(1)
    make(folder, some_have_several(rng))
    head = load_head(folder / "head.h5")
    assert isinstance(head, MetricHead)
    kernel = (np.eye(WIDTH) + rng.normal(0, 0.02, (WIDTH, WIDTH))).astype(np.float32)
    projection = replace(head.projections[0], kernel=kernel)
    save_head(replace(head, projections=(projection,)), folder / "head.h5")
    calibrate(CalibrateConfig(pairs=2000), folder, folder)
    (folder / "words.md").write_text("# For tests\n\nNobody should use it.\n")
    publish(folder / "given.h5", folder, folder, card=folder / "words.md")
    return folder


@pytest.fixture
def given(folder: Path, tmp_path: Path) -> Path:
    """A copy of the published head."""
    return Path(shutil.copy(folder / "given.h5", tmp_path / "given.h5"))


def alone(head: MetricHead | Any, folder: Path, pairs: np.ndarray) -> np.ndarray:
    with EmbeddingCache.open(folder / "embeddings.h5") as cache:
        return Representations(cache, head, expand=False).score(pairs)


# What it holds


def test_its_scores_are_those_of_its_head(folder: Path) -> None:
    published = read_published(folder / "given.h5")
    head = load_head(folder / "head.h5")
    with EmbeddingCache.open(folder / "embeddings.h5") as cache:
        count = len(cache)
    pairs = np.stack(np.triu_indices(count, 1), 1)
    scale = load_calibration(folder / "calibration.json").alone
    before, after = (scale.probabilities(alone(h, folder, pairs)) for h in (head, published.head))
    assert 0 < np.abs(after - before).max() <= 0.001
    assert published.fidelity.dtype == "float16"
    assert published.fidelity.score <= 0.001 and published.fidelity.pairs == PAIRS
    assert published.calibration.alone == scale
    assert published.calibration.head == published.head.digest != head.digest
    assert published.origin.head == head.digest


def test_large_numbers_stay_float32(folder: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(folder, tmp_path / "run"))
    head = load_head(run / "head.h5")
    assert isinstance(head, MetricHead)
    # Its scale is such that the rounding of a similarity shows.
    steep = replace(head, scale=head.scale * 60)
    save_head(steep, run / "head.h5")
    calibrate(CalibrateConfig(pairs=2000, map="none"), run, run)
    fidelity = publish(tmp_path / "steep.h5", run, run).fidelity
    assert (fidelity.dtype, fidelity.score) == ("float32", 0.0)
    arrays, _ = contents(tmp_path / "steep.h5", ATTRIBUTE)
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}


def test_it_names_nobody(folder: Path) -> None:
    whole = (folder / "given.h5").read_bytes() + (folder / "given.md").read_bytes()
    assert not [person for person in PEOPLE if person.encode() in whole]
    assert b"MID" not in whole
    published = read_published(folder / "given.h5")
    head = published.head
    assert (head.held_out, head.trained, head.folds) == ((), (), ())
    assert published.calibration.people == ()
    assert published.origin.calibrated == len(PEOPLE)


def test_its_cohort_is_made_up(folder: Path) -> None:
    head, given = load_head(folder / "head.h5"), read_published(folder / "given.h5").head
    assert head.same_person is not None and given.same_person is not None
    with EmbeddingCache.open(folder / "embeddings.h5") as cache:
        photos = unit(np.array(cache.vectors("native")))
    assert len(photos) < 5000  # so all of them are what it is fitted to
    wanted = with_made_up_cohort(head.same_person, photos, 0)
    assert np.array_equal(given.same_person.cohort, wanted.cohort)
    assert given.same_person.settings() == head.same_person.settings()
    for real in (head.same_person.cohort, photos):
        assert (given.same_person.cohort @ real.T).max() < 0.95


def test_its_card_stands_in_it_and_beside_it(folder: Path) -> None:
    published = read_published(folder / "given.h5")
    text = (folder / "given.md").read_text()
    assert published.card == (folder / "words.md").read_text()
    assert text == published.card_text() and text.startswith(published.card)
    assert published.head.digest in text and published.origin.head in text
    assert "60 made-up vectors" in text and "| trained on | 0 people |" in text


def test_one_run_makes_the_same_file_again(folder: Path, tmp_path: Path) -> None:
    publish(tmp_path / "again.h5", folder, folder, card=folder / "words.md")
    assert (tmp_path / "again.h5").read_bytes() == (folder / "given.h5").read_bytes()


def test_a_fine_tuned_network_is_told_by_its_digest(run: Path, faces: Path) -> None:
    head = load_head(run / "head.h5")
    scale = Scale(0.0, "youden", "platt", ((2.0,), (0.0,)), 0.5, 0.5)
    save_calibration(Calibration(head.digest, head.held_out, "", scale), run / "calibration.json")
    published = publish(run / "mine.h5", faces, run)
    network = published.network
    assert (network.backbone, network.made, network.weights) == ("mtcnn-onet", "fine-tuned", "")
    assert network.model == head.model
    assert published.head.same_person is None
    assert read_published(run / "mine.h5").head.digest == published.head.digest


def test_the_three_answers_are_fitted_again_with_the_made_up_cohort(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = load_calibration(folder / "calibration.json").three_way
    after = read_published(folder / "given.h5").calibration.three_way
    assert before is not None and after is not None
    assert after.people == before.people and after.same != before.same
    assert after.kin[0] == pytest.approx(before.kin[0], rel=0.5)
    caplog.set_level("INFO")
    kept = publish(tmp_path / "kept.h5", tmp_path, folder).calibration.three_way
    assert kept == before and "the three answers stay as they were calibrated" in caplog.text


# Taking one


def test_score_takes_one_without_a_calibration_beside_it(folder: Path, tmp_path: Path) -> None:
    names = all_pairs(folder)
    run = tmp_path / "other"
    run.mkdir()
    shutil.copy(folder / "embeddings.h5", run)
    pairs = pairs_of(run, names)
    given = folder / "given.h5"
    by_file = probabilities_of(score(ScoreConfig(pairs=pairs, head=given), run, run))
    at_home = ScoreConfig(pairs=pairs, expand="off", out=tmp_path / "home.csv")
    assert np.abs(by_file - probabilities_of(score(at_home, folder, folder))).max() <= 0.001
    raw = probabilities_of(score(ScoreConfig(pairs=pairs, head=given, raw=True), run, run))
    assert np.abs(raw - by_file).max() > 0.01


def test_a_line_says_that_it_is_a_published_one(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    pairs = pairs_of(folder, all_pairs(folder))
    out = folder / "scores.csv"
    score(ScoreConfig(pairs=pairs, head=folder / "given.h5", out=out), folder, folder)
    assert f"calibrated by platt on {len(PEOPLE)} held-out people" in caplog.text
    assert "fitted on 0 people, published; each" not in caplog.text
    assert "fitted on 0 people, published)" in caplog.text


def test_a_head_of_a_run_folder_is_still_taken(folder: Path) -> None:
    head, _, published = read_any_head(folder / "head.h5")
    assert head.digest == load_head(folder / "head.h5").digest and published is None
    head, _, published = read_any_head(folder / "given.h5")
    assert published is not None and head.digest == published.head.digest
    assert is_published(folder / "given.h5") and not is_published(folder / "head.h5")
    with pytest.raises(RunError, match="no such file"):
        read_any_head(folder / "none.h5")


def test_it_opens_without_torch(folder: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from kinembed.evaluation.published import read_published\n"
        "print(read_published(Path(sys.argv[1])).describe())\n"
        "print(sorted({'torch', 'h5py', 'sklearn', 'scipy', 'PIL'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, folder / "given.h5"], capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    described, loaded = found.stdout.splitlines()
    assert described.startswith("published head ") and loaded == "[]"


def labelled(folder: Path, path: Path) -> Path:
    """Labelled pairs of all people's first photos."""
    with EmbeddingCache.open(folder / "embeddings.h5") as cache:
        names = [name.decode() for name in np.array(cache.names)]
    first = {name.rpartition("/")[0]: name for name in reversed(names)}
    photos = [first[f"train/{person}"] for person in PEOPLE]
    rows = [f"{a},{b},1" for a, b in zip(photos[::3], photos[1::3], strict=True)]
    rows += [f"{a},{b},0" for a, b in zip(photos[::3], [*photos[4::3], photos[1]], strict=True)]
    path.write_text("\n".join(["p1,p2,is_related", *rows, ""]))
    return path


def test_evaluate_takes_one_and_says_that_it_names_nobody(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Path(shutil.copytree(folder, tmp_path / "run"))
    pairs = labelled(folder, tmp_path / "pairs.csv")
    asked = EvaluateConfig(pairs=pairs, head=folder / "given.h5", expand="off", pictures=False)
    found = json.loads(evaluate(asked, run, run).read_text())
    own = EvaluateConfig(pairs=pairs, expand="off", pictures=False)
    wanted = json.loads(evaluate(own, run, run).read_text())
    assert found["auc"] == pytest.approx(wanted["auc"], abs=0.005)
    assert found["decision"]["threshold"] == wanted["decision"]["threshold"]
    assert "a published head does not name the 0 people who trained it" in caplog.text


def test_evaluate_refuses_the_very_people_who_trained_it(folder: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(folder, tmp_path / "run"))
    head = load_head(run / "head.h5")
    save_head(replace(head, trained=tuple(PEOPLE)), run / "head.h5")  # type: ignore[call-arg]
    calibrate(CalibrateConfig(pairs=600), run, run)
    publish(run / "theirs.h5", run, run)
    pairs = labelled(folder, tmp_path / "pairs.csv")
    with pytest.raises(DataError, match="its people trained the published head"):
        evaluate(EvaluateConfig(pairs=pairs, head=run / "theirs.h5", pictures=False), run, run)


# What is refused


def test_no_file_without_a_calibration(folder: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(folder, tmp_path / "run"))
    shutil.rmtree(run / "calibrations")
    (run / "calibration.json").unlink()
    with pytest.raises(RunError, match=r"no calibration.*run kinembed calibrate") as raised:
        publish(tmp_path / "none.h5", run, run)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "none.h5").exists() and not (tmp_path / "none.md").exists()


def test_a_calibration_of_another_head_is_none(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(folder, tmp_path / "run"))
    shutil.rmtree(run / "calibrations")
    head = load_head(run / "head.h5")
    save_head(replace(head, scale=3.0), run / "head.h5")  # type: ignore[call-arg]
    arguments = ["head", "--publish", str(tmp_path / "none.h5"), "--run", str(run), "--quiet"]
    assert command([*arguments, "--data", str(run)]) == 1
    assert "its head has no calibration" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["head.h5", "embeddings.h5", "given.txt", "heads/mine.h5"])
def test_no_file_in_the_place_of_another(folder: Path, tmp_path: Path, name: str) -> None:
    run = Path(shutil.copytree(folder, tmp_path / "run"))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    arguments = ["head", "--publish", str(run / name), "--run", str(run), "--data", str(run)]
    assert command(arguments) == 1
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_card_that_is_no_text(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "card.md").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RunError, match="is not UTF-8"):
        publish(tmp_path / "x.h5", folder, folder, card=tmp_path / "card.md")
    with pytest.raises(RunError, match="no such file"):
        publish(tmp_path / "x.h5", folder, folder, card=tmp_path / "none.md")
    (tmp_path / "card.md").write_text("a" * 200_001)
    with pytest.raises(RunError, match="200,001 letters"):
        publish(tmp_path / "x.h5", folder, folder, card=tmp_path / "card.md")


def test_a_flipped_byte_is_refused(given: Path) -> None:
    whole = given.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(whole), 150).tolist():
        given.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(RunError, match="not a published head"):
            read_published(given)
    for end in (0, 7, len(whole) // 2, len(whole) - 1):
        given.write_bytes(whole[:end])
        with pytest.raises(RunError, match="not a published head"):
            read_published(given)


def _set(*keys: str, value: Any) -> Callable[[dict[str, np.ndarray], dict[str, Any]], None]:
    def change(arrays: dict[str, np.ndarray], about: dict[str, Any]) -> None:
        for key in keys[:-1]:
            about = about[key]
        about[keys[-1]] = value

    return change


def _array(name: str, value: Callable[[np.ndarray], np.ndarray]) -> Callable[..., None]:
    def change(arrays: dict[str, np.ndarray], about: dict[str, Any]) -> None:
        arrays[name] = value(arrays[name])

    return change


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_set("schema", value=2), "schema 2, this version reads 1"),
        (_set("schema", value=True), "schema True"),
        (_set("digest", value="0" * 64), "not that of its digest"),
        (_set("calibration", "head", value="0" * 64), "changed or damaged"),
        (_set("calibration", value=None), "calibration"),
        (_set("kind", value="forest"), "kind 'forest' is unknown"),
        (_set("settings", "scale", value="x"), "scale: found 'x'"),
        (_set("settings", "scale", value=9.0), "not that of its digest"),
        (_set("network", "made", value="by me"), "made: found 'by me'"),
        (_set("network", "model", value="0" * 64), "not that of its digest"),
        (_set("network", value=[]), "network: found"),
        (_set("origin", "trained", value=-1), "trained: found -1"),
        (_set("origin", "more", value=1), "which is none of its values"),
        (_set("triples", value={"father": 1.0}), "is missing"),
        (_set("fidelity", "dtype", value="float32"), "not float32 arrays"),
        (_set("fidelity", "score", value=2), "score: found 2"),
        (_set("card", value="a" * 200_001), "card: found 200,001 letters"),
        (_set("more", value=1), "which is none of its values"),
        (_array("members/0/0", lambda a: a * np.float16(np.nan)), "not all finite"),
        (_array("members/0/0", lambda a: a[:, :-1]), "do not fit each other"),
        (_array("members/0/0", lambda a: a.astype(np.float32)), "not float16 arrays"),
        (_array("same_person/cohort", lambda a: a * 2), "no table of unit vectors"),
    ],
)  # fmt: skip
def test_what_a_stranger_could_write_is_refused(
    given: Path, change: Callable[..., None], problem: str
) -> None:
    resealed(given, ATTRIBUTE, change)
    with pytest.raises(RunError, match="not a published head") as raised:
        read_published(given)
    assert problem in str(raised.value) and "\n" not in str(raised.value)


def test_an_older_calibration_in_it_is_refused(given: Path) -> None:
    resealed(given, ATTRIBUTE, _set("calibration", "schema", value=1))
    with pytest.raises(RunError, match="a calibration of schema 1"):
        read_published(given)


# The command


def test_the_command_prints_what_it_wrote(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["head", "--publish", str(tmp_path / "mine.h5"), "--run", str(folder), "--json"]
    assert command([*arguments, "--data", str(folder), "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    published = read_published(tmp_path / "mine.h5")
    assert found["head"] == published.head.digest
    assert found["bytes"] == (tmp_path / "mine.h5").stat().st_size
    assert (found["path"], found["card"]) == tuple(
        str(tmp_path / name) for name in ("mine.h5", "mine.md")
    )
    assert set(found) == {
        "path", "card", "head", "origin", "network", "fidelity", "bytes"
    }  # fmt: skip


def test_a_card_is_of_a_published_head(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["head", "--card", "card.md"]) == 2
    assert "--publish" in capsys.readouterr().err
