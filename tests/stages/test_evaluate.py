"""Evaluating: honest pairs, the figures' sources, protocols, and what is samples."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from sklearn.metrics import roc_auc_score

from kinembed import head as head_stage
from kinembed.cache import EmbeddingCache
from kinembed.cache.writer import write_cache
from kinembed.calibrate import calibrate
from kinembed.cli import run as command
from kinembed.config import CalibrateConfig, EvaluateConfig, HeadConfig
from kinembed.data.protocols import PROTOCOLS, photograph_of, read_labelled
from kinembed.errors import DataError, KinembedError, RunError
from kinembed.evaluate import evaluate
from kinembed.evaluation import cross_fitting
from kinembed.evaluation.calibration import Calibration, fit, load_calibration, save_calibration
from kinembed.head import head as train_head
from kinembed.heads.file import HeadRecord, load_head, save_head
from kinembed.heads.pair import PairHead
from kinembed.heads.representations import Representations
from kinembed.report.evaluation import evaluation_table
from kinembed.report.evaluation_file import read_evaluation

pytestmark = pytest.mark.usefixtures("fewer")
WIDTH = 6
CHARTS = ("roc.svg", "det.svg", "scores.svg")


def generated_run(folder: Path, families: int = 24, held_out: int = 14) -> Path:
    """A run of families whose members are close to each other, and a head that measures distance."""
    rng = np.random.default_rng(3)
    names, rows, relations = [], [], []
    for family in range(families):
        centre = rng.standard_normal(WIDTH)
        for person in range(3):
            own = centre + 0.6 * rng.standard_normal(WIDTH)
            for photo in range(2):
                names.append(f"train/F{family:02}/MID{person}/P{family:03}{photo}_face{person}.jpg")
                rows.append(own + 0.2 * rng.standard_normal(WIDTH))
        relations += [f"F{family:02}/MID{a},F{family:02}/MID{b}" for a, b in ((0, 1), (1, 2))]
    (folder / "train_relationships.csv").write_text("\n".join(["p1,p2", *relations]))
    digests = rng.integers(0, 255, (len(names), 32)).astype(np.uint8)
    write_cache(
        folder / "embeddings.h5",
        {"schema": 5, "model": "m", "backbone": "samples"},
        np.array([name.encode() for name in names]),
        digests,
        {"max": [np.array(rows, np.float32)]},
    )
    people = sorted({"/".join(name.split("/")[1:3]) for name in names})
    kept = tuple(person for person in people if int(person[1:3]) < held_out)
    kernel = np.full((WIDTH, 1), -1.0, np.float32)
    trained = tuple(sorted(set(people) - set(kept)))
    head = PairHead("max", "m", (kernel,), (np.full(1, 5.0, np.float32),), kept, trained)
    save_head(head, folder / "head.h5")
    return folder


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    return generated_run(tmp_path)


def asked(folder: Path, **settings) -> dict:
    path = evaluate(EvaluateConfig(**{"count": 600, **settings}), folder, folder)
    return json.loads(path.read_text())


def labelled(folder: Path, rows: list[list[str]], header: str = "p1,p2,is_related") -> Path:
    with (folder / "labelled.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header.split(","), *rows])
    return folder / "labelled.csv"


def some_pairs(folder: Path) -> list[list[str]]:
    """Pairs of the held-out people, half of them of one family, with a relation."""
    with EmbeddingCache.open(folder / "embeddings.h5") as cache:
        names = [n.decode() for n in cache.names if int(n[7:9]) < 14]
    rows = []
    for at in range(0, len(names), 6):
        rows.append([names[at], names[at + 2], "1", "fs" if at % 4 else "md"])
        rows.append([names[at], names[(at + 20) % len(names)], "0", "fs" if at % 4 else "md"])
    return rows


# The pairs of the held-out people


def test_figures_are_of_held_out_people_and_agree_with_scikit_learn(judged: Path) -> None:
    result = asked(judged)
    assert result["pairs"] == 600 and result["kin"] == 300 and result["families"] == 14
    assert 0.8 < result["auc"] < 1
    interval = result["auc_by_families"]
    assert interval["low"] < result["auc"] < interval["high"]
    assert "decision" not in result
    for row in result["wrong"]:
        assert all(int(name[7:9]) < 14 for name in row["photos"])
    assert asked(judged) == result


def test_relations_that_are_lost_are_warned_of_once(
    judged: Path, caplog: pytest.LogCaptureFixture
) -> None:
    relations = judged / "train_relationships.csv"
    lines = relations.read_text().splitlines()
    lost = [f"F9999/MID1,F9999/MID{n}" for n in range(2, len(lines))]
    relations.write_text("\n".join([*lines, *lost]) + "\n")
    asked(judged)
    assert sum("relations are not used" in message for message in caplog.messages) == 1


def test_who_chose_the_head_s_epoch_is_said(judged: Path) -> None:
    head = load_head(judged / "head.h5")
    for chooser in ("held-out people", "validation people", "nobody", ""):
        save_head(head, judged / "head.h5", HeadRecord(epoch_chosen_by=chooser))
        result = asked(judged)
        assert result["epoch_chosen_by"] == chooser
        said = "the same people chose the head's epoch" in evaluation_table(result)
        assert said == (chooser == "held-out people")
    save_head(head, judged / "head.h5", HeadRecord(epoch_chosen_by="held-out people"))
    result = asked(judged, pairs=labelled(judged, [row[:3] for row in some_pairs(judged)]))
    assert "chose the head's epoch" not in evaluation_table(result)


def test_a_stale_calibration_is_said_and_left_out(
    judged: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = calibrate(CalibrateConfig(pairs=600), judged, judged)
    wrong = replace(load_calibration(path), head="0" * 64)
    save_calibration(wrong, path)
    assert asked(judged)["decision"]["map"] == "platt"  # that which is kept
    assert "until then, calibrations/platt-accuracy-" in caplog.text
    for kept in (judged / "calibrations").iterdir():
        kept.unlink()
    assert "decision" not in asked(judged)
    assert "until then, scores are not calibrated" in caplog.text


def test_a_threshold_fitted_on_the_judged_people_is_cross_fitted(judged: Path) -> None:
    calibrate(CalibrateConfig(pairs=600), judged, judged)
    result = asked(judged)["decision"]
    assert result["how"] == "cross-fitted" and result["pairs"] < 600
    assert 0.6 < result["accuracy"] <= 1 and 0 <= result["ece"] < 0.3
    # The calibration's own numbers are not what is judged.
    path = judged / "calibration.json"
    fitted = load_calibration(path)
    wild = replace(fitted, alone=replace(fitted.alone, threshold=-99.0, knots=((1e-9,), (0.0,))))
    save_calibration(wild, path)
    assert asked(judged)["decision"]["accuracy"] == result["accuracy"]
    # One that was fitted on others is.
    save_calibration(replace(wild, people=("F20/MID0",)), path)
    other = asked(judged)["decision"]
    assert other["how"] == "calibrated" and other["pairs"] == 600
    assert (other["tar"], other["far"], other["accuracy"]) == (1, 1, 0.5)
    assert other["brier"] == pytest.approx(0.25)


def test_a_head_without_held_out_people_needs_pairs(judged: Path) -> None:
    head = load_head(judged / "head.h5")
    save_head(replace(head, held_out=(), trained=()), judged / "head.h5")
    with pytest.raises(RunError, match="does not say who was held out"):
        asked(judged)
    pairs = labelled(judged, [row[:3] for row in some_pairs(judged)])
    assert asked(judged, pairs=pairs)["pairs"] == 28


# Labelled pairs


@pytest.mark.parametrize(
    "header",
    ["p1,p2,is_related", "left,right,LABEL", "a,b,kin", "image1,image2,related"],
)
def test_any_csv_of_labelled_pairs_is_accepted(judged: Path, header: str) -> None:
    rows = [row[:3] for row in some_pairs(judged)]
    result = asked(judged, pairs=labelled(judged, rows, header))
    with EmbeddingCache.open(judged / "embeddings.h5") as cache:
        vectors = cache.vectors("max")
        a, b = (vectors[cache.rows([row[side] for row in rows])] for side in (0, 1))
    scores = -np.abs(a - b).sum(1)
    labels = [int(row[2]) for row in rows]
    assert result["auc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    texts = [[f"{row[0]}-{row[1]}", row[2]] for row in rows]
    again = asked(judged, pairs=labelled(judged, texts, "img_pair,is_related"))
    assert again["auc"] == result["auc"]


def test_each_relation_is_judged_by_itself(judged: Path) -> None:
    rows = some_pairs(judged)
    result = asked(judged, pairs=labelled(judged, rows, "p1,p2,is_related,ptype"))
    for name in ("fs", "md"):
        row = result["relations"][name]
        assert row["pairs"] == sum(pair[3] == name for pair in rows)
        assert row["against"] == "its own"
        own = asked(judged, pairs=labelled(judged, [pair for pair in rows if pair[3] == name],
                                           "p1,p2,is_related,ptype"))  # fmt: skip
        assert row["auc"] == own["auc"]
    bare = [[a, b, label, name if label == "1" else ""] for a, b, label, name in rows]
    result = asked(judged, pairs=labelled(judged, bare, "p1,p2,is_related,ptype"))
    assert {row["against"] for row in result["relations"].values()} == {"all"}


def test_pairs_that_trained_the_head_are_refused(judged: Path) -> None:
    rows = [row[:3] for row in some_pairs(judged)]
    seen = "train/F20/MID1/P0200_face1.jpg"
    path = labelled(judged, [*rows, [rows[0][0], seen, "0"], [seen, seen, "1"]])
    with pytest.raises(DataError, match=r"line 30: .*F20.*trained on them \(2 such lines\)"):
        asked(judged, pairs=path)


def test_pairs_that_trained_the_head_are_left_out_and_counted_on_request(
    judged: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row[:3] for row in some_pairs(judged)]
    seen = "train/F20/MID1/P0200_face1.jpg"
    wanted = asked(judged, pairs=labelled(judged, rows))
    more = [*rows[:5], [rows[0][0], seen, "0"], *rows[5:], [seen, seen, "1"]]
    path = labelled(judged, more)
    with pytest.raises(DataError, match=r"line 7: .*\(2 such lines\).*--skip-trained leaves these"):
        asked(judged, pairs=path)
    result = asked(judged, pairs=path, skip_trained=True)
    assert (result["skipped_trained"], wanted["skipped_trained"]) == (2, 0)
    assert {**result, "skipped_trained": 0} == wanted
    assert "2 lines on people who trained the head are left out" in caplog.text
    base = ["evaluate", "--run", str(judged), "--data", str(judged), "--skip-trained"]
    assert command([*base, "--pairs", str(path)]) == 0
    assert "14 families; 2 others, on people who trained the head, left out" in (
        capsys.readouterr().out
    )
    labelled(judged, [[seen, seen, "1"], [seen, seen.replace("MID1/P0200", "MID1/P0201"), "0"]])
    with pytest.raises(DataError, match=r"line 2: .*\(2 such lines\)") as error:
        asked(judged, pairs=path, skip_trained=True)
    assert "--skip-trained" not in str(error.value)


def renamed(folder: Path, name: Callable[[str], str]) -> dict[str, str]:
    """Renames the photos of a cache, on which then nobody is known; the new names by the old."""
    with EmbeddingCache.open(folder / "embeddings.h5") as cache:
        old = [each.decode() for each in cache.names.tolist()]
        names = sorted((name(each), row) for row, each in enumerate(old))
        rows = [row for _, row in names]
        write_cache(
            folder / "embeddings.h5", cache.provenance,
            np.array([each.encode() for each, _ in names]), np.array(cache.digests)[rows],
            {"max": [np.array(cache.vectors("max"))[rows]]},
            people=np.full(len(names), b""),
        )  # fmt: skip
    return {old[row]: each for each, row in names}


def test_of_photos_of_nobody_known_it_is_said_that_they_may_have_trained_the_head(
    judged: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = some_pairs(judged)
    flat = renamed(judged, lambda name: name.split("/", 1)[1].replace("/", "_"))
    caplog.clear()
    asked(judged, pairs=labelled(judged, [[flat[a], flat[b], label] for a, b, label, _ in pairs]))
    assert f"in {len(pairs)} of {len(pairs)} lines it is not known who is on a photo" in caplog.text
    assert "whether these people trained the head cannot be told" in caplog.text


def test_photos_of_nobody_known_are_told_by_their_folders(judged: Path) -> None:
    pairs = some_pairs(judged)
    moved = renamed(judged, lambda name: name.replace("train/", "album/faces/"))
    held_out = [[moved[a], moved[b], label] for a, b, label, _ in pairs]
    asked(judged, pairs=labelled(judged, held_out))
    trained = [new for old, new in moved.items() if old.startswith("train/F20/")]
    path = labelled(judged, [*held_out, [trained[0], trained[-1], "1"]])
    with pytest.raises(DataError, match=f"line {len(held_out) + 2}: .*F20.*was trained on them"):
        asked(judged, pairs=path)
    assert asked(judged, pairs=path, skip_trained=True)["skipped_trained"] == 1


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("p1,p2\na,b\n", "line 1: found 'p1,p2', wanted"),
        ("p1,is_related\na,1\n", "line 1"),
        ("p1,p2,is_related\n", "a header but no rows"),
        ("p1,p2,is_related\na,b,2\n", "line 2: found label '2'"),
        ("p1,p2,is_related\na,b,1\na,b\n", "line 3: found 'a,b', 2 fields under a header of 3"),
        ("img_pair,is_related\nab,1\n", "line 2: found 'ab', wanted a pair a.jpg-b.jpg"),
        ("", "empty"),
    ],
)
def test_malformed_labelled_pairs_are_named(judged: Path, content: str, problem: str) -> None:
    (judged / "x.csv").write_text(content)
    with (
        EmbeddingCache.open(judged / "embeddings.h5") as cache,
        pytest.raises(DataError, match=problem) as error,
    ):
        read_labelled(judged / "x.csv", cache)
    assert "\n" not in str(error.value)


def test_photos_that_are_not_in_the_cache_are_named(judged: Path) -> None:
    rows = [*[row[:3] for row in some_pairs(judged)], ["nobody.jpg", "x.jpg", "1"]]
    with pytest.raises(DataError, match=r"line 30: photo 'nobody\.jpg' is not in"):
        asked(judged, pairs=labelled(judged, rows))


def test_labels_that_contradict_each_other_are_named(judged: Path) -> None:
    rows = [row[:3] for row in some_pairs(judged)]
    a, b, _ = rows[0]
    for again in ([a, b, "0"], [b, a, "0"]):
        with pytest.raises(DataError, match=r"lines 2 and 30: .* are labelled 1 and 0; wanted one"):
            asked(judged, pairs=labelled(judged, [*rows, again]))
    triples = [[a, b, rows[1][1], "1"], [b, a, rows[1][1], "0"]]
    with pytest.raises(DataError, match=r"lines 2 and 3: .* wanted one label for three photos"):
        asked(judged, pairs=labelled(judged, triples, "father,mother,child,label"))


def test_repeated_rows_and_photos_with_themselves_are_said(
    judged: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    rows = [row[:3] for row in some_pairs(judged)]
    a, b, label = rows[0]
    path = labelled(judged, [*rows, [b, a, label], [a, a, "1"]])
    assert asked(judged, pairs=path)["pairs"] == 30
    assert "labelled.csv: 1 of 30 rows repeat photos of another (line 30 those of 2)" in caplog.text
    assert f"1 of 30 rows have a photo with itself, which is no test of kinship (line 31: {a})" in (
        caplog.text
    )


def test_names_that_are_found_to_be_one_photo_are_refused(judged: Path) -> None:
    rows = [row[:3] for row in some_pairs(judged)]
    name = rows[0][0]
    for one in (name.removeprefix("train/"), f"/far/away/{name}"):
        with pytest.raises(DataError, match=f"line 30: .* are both found to be {name} of"):
            asked(judged, pairs=labelled(judged, [*rows, [one, name, "1"]]))


def test_a_head_from_elsewhere_says_that_nobody_it_held_out_is_here(judged: Path) -> None:
    head = load_head(judged / "head.h5")
    save_head(replace(head, held_out=("X1/A", "X1/B"), trained=("X2/A",)), judged / "head.h5")
    wanted = r"none of the 2 people whom the head held out \(X1/A, …\).*--pairs CSV"
    with pytest.raises(RunError, match=wanted):
        asked(judged)
    with pytest.raises(RunError, match=wanted):
        calibrate(CalibrateConfig(), judged, judged)


@pytest.mark.parametrize(
    ("target", "far", "is_said"),
    [
        ("far=0.01", 0.0308, True),
        ("far=0.1", 0.04, True),
        ("far=0.01", 0.019, False),
        ("accuracy", 0.4, False),
    ],
)
def test_the_table_names_the_target_and_where_it_is_missed(
    judged: Path, target: str, far: float, is_said: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrate(CalibrateConfig(target=target), judged, judged)
    monkeypatch.setattr(cross_fitting, "MOST_SHIFT", 1.0)  # so few families give another mix
    result = asked(judged)
    decision = result["decision"]
    kin = decision["pairs"] - decision["non_kin"]
    assert 0 < decision["non_kin"] < decision["pairs"]
    decision |= {"far": far, "non_kin": 2000, "pairs": kin + 2000}
    table = evaluation_table(result)
    assert (
        f"at the threshold for target {target} and 0.5 kin, cross-fitted on {kin:,} kin and 2,000 "
        "non-kin pairs: TAR"
    ) in table
    assert (f"FAR {far:.4f} is far from the target" in table) is is_said
    decision["non_kin"] = 20  # so few pairs say nothing of it
    assert "is far from the target" not in evaluation_table(result)


def test_figures_of_another_mix_of_pairs_are_left_out_and_it_is_said(
    judged: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_fitting, "MOST_SHIFT", -1.0)
    caplog.set_level("INFO")
    calibrate(CalibrateConfig(), judged, judged)
    result = asked(judged)
    why = result["undecided"]
    assert "decision" not in result and "non-kin pairs are of families not fitted on, and" in why
    assert f"  no figures at the threshold: {why}\n" in evaluation_table(result)
    assert "; no figures on families not fitted on: " in caplog.text
    assert read_evaluation(judged)["undecided"] == why


# Intervals


def test_intervals_of_one_family_are_none_and_few_are_warned_of(
    judged: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with EmbeddingCache.open(judged / "embeddings.h5") as cache:
        one = [name.decode() for name in cache.names if name[6:9] == b"F03"]
        two = [name.decode() for name in cache.names if name[6:9] == b"F04"]
    rows = [[one[0], one[2], "1"], [one[0], one[4], "0"], [one[1], one[3], "1"],
            [one[2], one[4], "0"]]  # fmt: skip
    result = asked(judged, pairs=labelled(judged, rows))
    assert result["families"] == 1 and result["auc_by_families"] is None
    assert all(row["interval"] is None for row in result["tar_at_far"].values())
    assert "all pairs are of one of the families: there are no intervals" in caplog.text
    assert "95 % by families: no interval" in evaluation_table(result)
    rows += [[two[0], two[2], "1"], [two[1], two[5], "0"]]
    assert asked(judged, pairs=labelled(judged, rows))["families"] == 2
    assert "2 families are few: intervals are too narrow" in caplog.text


# What leaks, and what is samples


def test_pairs_of_one_photograph_are_counted(judged: Path) -> None:
    assert photograph_of("train/F01/MID2/P0007_face12.jpg", "F01/MID2") == "F01/P0007"
    assert photograph_of("F01/MID2/young/P0007_face1.png", "F01/MID2") == "F01/P0007"
    assert photograph_of("P0007_face1.png", "") is None
    assert photograph_of("test/face0001.jpg", "F01/MID2") is None
    result = asked(judged)
    audit = result["same_photograph"]
    assert audit["known"] and 100 < audit["kin"] < 200  # half, as each person has two photos
    assert audit["auc_without"] < 1


def test_charts_are_svg_and_strips_are_made_where_photos_are(judged: Path) -> None:
    asked(judged)
    for name in CHARTS:
        root = ElementTree.parse(judged / name).getroot()
        lines = root.findall("{http://www.w3.org/2000/svg}polyline")
        assert lines and all(len(line.get("points").split()) > 1 for line in lines)
        numbers = [float(x) for line in lines for x in line.get("points").replace(",", " ").split()]
        assert np.isfinite(numbers).all() and min(numbers) >= 0 and max(numbers) <= 500
    assert not (judged / "reliability.svg").exists() and not (judged / "errors.png").exists()
    calibrate(CalibrateConfig(pairs=600), judged, judged)
    with EmbeddingCache.open(judged / "embeddings.h5") as cache:
        for name in cache.names:
            path = judged / name.decode()
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (30, 40), (int(name[8:9]) * 20, 0, 90)).save(path)
    asked(judged)
    assert (judged / "reliability.svg").exists()
    with Image.open(judged / "errors.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 5
    before = (judged / "errors.png").stat().st_mtime_ns
    asked(judged, pictures=False)
    assert (judged / "errors.png").stat().st_mtime_ns == before


# The field's protocols


def kinfacew(folder: Path, names: list[tuple[str, str, int]]) -> None:
    (folder / "meta_data").mkdir(exist_ok=True)
    for relation in ("fd", "fs", "md", "ms"):
        cells = np.empty((len(names), 4), object)
        for row, (a, b, label) in enumerate(names):
            cells[row] = [row % 5 + 1, label, a, b]
        savemat(folder / "meta_data" / f"{relation}_pairs.mat", {"pairs": cells})


@pytest.fixture
def faces_in_pairs(tmp_path: Path) -> Path:
    """KinFaceW's layout: vectors whose distance is the row's number, kin below 5.5."""
    names, rows, pairs = [], [], []
    for at in range(10):
        for side in (1, 2):
            pairs.append(f"fd_{at:03}_{side}.jpg")
    for images in ("father-dau", "father-son", "mother-dau", "mother-son"):
        for name in pairs:
            names.append(f"{images}/{name}")
            rows.append([float(int(name[3:6])) if name[7] == "2" else 0.0] + [0.0] * (WIDTH - 1))
    order = np.argsort(names)
    write_cache(
        tmp_path / "embeddings.h5",
        {"schema": 5, "model": "m", "backbone": "samples"},
        np.array([names[i].encode() for i in order]),
        np.arange(len(names) * 32).reshape(-1, 32).astype(np.uint8),
        {"max": [np.array(rows, np.float32)[order]]},
    )
    kernel = np.full((WIDTH, 1), -1.0, np.float32)
    save_head(PairHead("max", "m", (kernel,), (np.zeros(1, np.float32),)), tmp_path / "head.h5")
    pairs = [(f"fd_{at:03}_1.jpg", f"fd_{at:03}_2.jpg", int(at < 5)) for at in range(10)]
    pairs[4], pairs[5] = (*pairs[4][:2], 0), (*pairs[5][:2], 1)  # two that no threshold gets
    kinfacew(tmp_path, pairs)
    return tmp_path


def test_kinfacews_folds_are_judged_by_the_other_four(faces_in_pairs: Path, capsys) -> None:
    result = asked(faces_in_pairs, protocol="kinfacew", pairs=faces_in_pairs)
    assert result["pairs"] == 40
    assert set(result["folds"]) == {"fd", "fs", "md", "ms", "mean"}
    # Fold 5 holds rows 4 and 9, fold 1 rows 0 and 5: by the others' threshold one of each is wrong.
    assert result["folds"]["fd"]["folds"] == [0.5, 1, 1, 1, 0.5]
    assert result["folds"]["mean"]["accuracy"] == pytest.approx(0.8)
    base = ["evaluate", "--run", str(faces_in_pairs), "--protocol", "kinfacew"]
    assert command([*base, str(faces_in_pairs)]) == 0
    text = capsys.readouterr().out
    assert "father-daughter" in text and "mean" in text
    assert "by folds, each at the threshold that is best on the others" in text
    assert "calibrate" not in text


def test_kinfacews_intervals_are_of_families(faces_in_pairs: Path) -> None:
    result = asked(faces_in_pairs, protocol="kinfacew", pairs=faces_in_pairs)
    assert (result["families"], result["bootstrap"]) == (10, "families")
    for row in (result["auc_by_families"], result["folds"]["mean"]["interval"]):
        assert row["low"] < row["high"]
    mean = result["folds"]["mean"]
    assert mean["interval"]["low"] < mean["accuracy"] < mean["interval"]["high"]
    assert "(95 %: " in evaluation_table(result)


TINY = ("embed_dim=4", "hidden_dim=0", "steps=2", "epochs=1")


def test_a_head_of_kinfacews_folds_is_judged_by_the_member_that_holds_out_each(
    faces_in_pairs: Path,
) -> None:
    photos = [(f"fd_{at:03}_1.jpg", f"fd_{at:03}_2.jpg", int(at < 5)) for at in range(10)]
    kinfacew(faces_in_pairs, photos)  # a kin and another pair in each fold
    path = train_head(HeadConfig(kinfacew=faces_in_pairs, overrides=TINY), Path(), faces_in_pairs)
    head = load_head(path)
    assert [sorted(fold) for fold in head.folds] == [
        sorted(f"fd_{at:03}/{side}" for at in (fold, fold + 5) for side in (1, 2))
        for fold in range(5)
    ]
    result = asked(faces_in_pairs, protocol="kinfacew", pairs=faces_in_pairs)
    with EmbeddingCache.open(faces_in_pairs / "embeddings.h5") as cache:
        pairs = PROTOCOLS["kinfacew"](faces_in_pairs, cache)
        scores = np.full(len(pairs), np.nan)
        for fold, member in enumerate(head.members()):
            own = pairs.folds == fold + 1
            scores[own] = Representations(cache, member).score(pairs.rows[own])
    assert result["auc"] == pytest.approx(roc_auc_score(pairs.labels, scores), abs=1e-12)
    assert result["skipped_trained"] == 0


def test_a_fine_tuned_network_may_know_the_people_of_kinfacews_folds(
    faces_in_pairs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    photos = [(f"fd_{at:03}_1.jpg", f"fd_{at:03}_2.jpg", int(at < 5)) for at in range(10)]
    kinfacew(faces_in_pairs, photos)
    config = HeadConfig(kinfacew=faces_in_pairs, overrides=TINY)
    train_head(config, Path(), faces_in_pairs)
    assert "fine-tuned" not in caplog.text
    tuned = [{"finetuned": {"view": "max"}}]
    monkeypatch.setattr(head_stage, "networks_of", lambda provenance: tuned)
    train_head(config, Path(), faces_in_pairs)
    assert "if it learnt from KinFaceW, it knows the people of all folds" in caplog.text


def test_kinfacews_folds_leave_no_room_for_others(faces_in_pairs: Path) -> None:
    for settings in ({"folds": 3}, {"split": "people"}, {"kind": "l1"}):
        with pytest.raises(KinembedError, match="kinfacew: the protocol says who is held out"):
            train_head(HeadConfig(kinfacew=faces_in_pairs, **settings), Path(), faces_in_pairs)
    pairs = [(f"fd_{at:03}_1.jpg", f"fd_{at // 2:03}_2.jpg", at % 2) for at in range(10)]
    kinfacew(faces_in_pairs, pairs)
    with pytest.raises(DataError, match=r"pair 2: fd_000/2 is in folds 1 and 2; wanted everybody"):
        train_head(HeadConfig(kinfacew=faces_in_pairs), Path(), faces_in_pairs)


@pytest.mark.parametrize("content", [b"", b"MATLAB 5.0", b"\x89HDF\r\n\x1a\n" + b"\0" * 600])
def test_a_file_that_is_not_matlab_is_refused(faces_in_pairs: Path, content: bytes) -> None:
    (faces_in_pairs / "meta_data" / "md_pairs.mat").write_bytes(content)
    with pytest.raises(DataError, match=r"md_pairs\.mat: not KinFaceW's pairs") as error:
        asked(faces_in_pairs, protocol="kinfacew", pairs=faces_in_pairs)
    assert "\n" not in str(error.value)
    savemat(faces_in_pairs / "meta_data" / "md_pairs.mat", {"pairs": np.zeros((3, 3))})
    with pytest.raises(DataError, match=r"md_pairs\.mat: not KinFaceW's pairs"):
        asked(faces_in_pairs, protocol="kinfacew", pairs=faces_in_pairs)
    (faces_in_pairs / "meta_data" / "md_pairs.mat").unlink()
    with pytest.raises(DataError, match=r"md_pairs\.mat: no such file"):
        asked(faces_in_pairs, protocol="kinfacew", pairs=faces_in_pairs)


def test_rfiws_lists_are_read_and_judged_per_relation(judged: Path) -> None:
    rows = some_pairs(judged)
    lines = [
        f"{at} {a.removeprefix('train/')} far/away/{b} {relation} {label}"
        for at, (a, b, label, relation) in enumerate(rows)
    ]
    path = judged / "list.txt"
    path.write_text("\n".join([*lines, ""]))
    result = asked(judged, protocol="rfiw", pairs=path)
    wanted = asked(judged, pairs=labelled(judged, rows, "p1,p2,is_related,relation"))
    assert result["auc"] == wanted["auc"] and result["relations"] == wanted["relations"]
    for line, found in (
        ("0 a b fs", "'0 a b fs', 4 fields under rows of 5"),
        ("0 a b fs 2", "label '2', wanted 0 or 1"),
        ("0 a b fs 1 1", "'0 a b fs 1 1', 6 fields"),
    ):
        path.write_text(f"{lines[0]}\n{line}\n")
        with pytest.raises(DataError, match=rf"list\.txt, line 2: found {found}"):
            asked(judged, protocol="rfiw", pairs=path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"list\.txt: "):
        asked(judged, protocol="rfiw", pairs=path)


def test_a_named_calibration_must_be_of_the_head(faces_in_pairs: Path) -> None:
    config = {"protocol": "kinfacew", "pairs": faces_in_pairs}
    other = faces_in_pairs / "other.json"
    save_head(
        PairHead("max", "m", (np.full((WIDTH, 1), -2.0, np.float32),), (np.zeros(1, np.float32),)),
        faces_in_pairs / "other.h5",
    )
    fitted = fit(np.array([True, False]), np.array([1.0, -1.0]), "youden", "none")
    digest = load_head(faces_in_pairs / "other.h5").digest
    save_calibration(Calibration(digest, (), "", fitted), other)
    with pytest.raises(RunError, match=f"is of head {digest[:12]}.* with --head"):
        asked(faces_in_pairs, calibration=other, **config)
    result = asked(faces_in_pairs, calibration=other, head=faces_in_pairs / "other.h5", **config)
    assert result["decision"]["how"] == "calibrated"


# The command


def test_the_command_prints_a_table_or_json(judged: Path, capsys) -> None:
    base = ["evaluate", "--run", str(judged), "--data", str(judged), "--count", "600"]
    assert command(base) == 0
    text = capsys.readouterr().out
    assert "ROC AUC" in text and "TAR at FAR 0.1%" in text and "run kinembed calibrate" in text
    assert command([*base, "--json"]) == 0
    path = judged / "evaluation.json"
    printed = json.loads(capsys.readouterr().out)
    assert printed == {"path": str(path), **json.loads(path.read_text())}
    assert command([*base, "--pairs", "x.csv", "--protocol", "rfiw", "y"]) == 2
    assert command([*base, "--pairs", "x.csv"]) == 1
    assert "x.csv: no such file" in capsys.readouterr().err


LIGHT = """
import sys
from kinembed.cli import run
code = run({arguments!r})
heavy = {{"torch", "sklearn", "scipy", "matplotlib", "PIL"}} & set(sys.modules)
print("exit", code, "heavy", sorted(heavy))
"""


@pytest.mark.parametrize("stage", ["calibrate", "evaluate"])
def test_the_commands_import_nothing_heavy(judged: Path, stage: str) -> None:
    arguments = [stage, "--run", str(judged), "--data", str(judged)]
    done = subprocess.run(
        [sys.executable, "-c", LIGHT.format(arguments=arguments)], capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "exit 0 heavy []", done.stderr


def test_a_calibration_for_a_rare_prior_is_judged_at_that_prior(judged: Path) -> None:
    calibrate(CalibrateConfig(pairs=2000, prior=0.01), judged, judged)
    estimates = load_calibration(judged / "calibration.json").alone.estimates
    decision = asked(judged, count=2000)["decision"]
    assert (decision["how"], decision["prior"]) == ("cross-fitted", 0.01)
    assert decision["far"] == pytest.approx(estimates["far"], abs=0.03)
    assert decision["tar"] == pytest.approx(estimates["tar"], abs=0.15)
    accuracy = 0.01 * decision["tar"] + 0.99 * (1 - decision["far"])
    assert decision["accuracy"] == pytest.approx(accuracy, abs=1e-9)
    calibrate(CalibrateConfig(pairs=2000), judged, judged)
    even = asked(judged, count=2000)["decision"]
    assert even["prior"] == 0.5 and even["tar"] > decision["tar"]
