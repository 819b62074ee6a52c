"""Tri-subject verification: triples of families, against slow oracles, and what both parents say."""

import csv
import json
import shutil
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from kinembed.cache import SCHEMA, EmbeddingCache
from kinembed.cache.writer import write_cache
from kinembed.config import EvaluateConfig, ScoreConfig
from kinembed.data.families import Families, group_families
from kinembed.errors import DataError, KinembedError
from kinembed.evaluate import evaluate
from kinembed.evaluation.calibration import Calibration, Scale, save_calibration
from kinembed.evaluation.triples import TripleScore, find_trios, sample_triples
from kinembed.heads.base import sigmoid
from kinembed.heads.file import load_head, save_head
from kinembed.heads.pair import PairHead
from kinembed.report.evaluation import evaluation_table
from kinembed.score import score

WIDTH = 12
ROLES = ("FATHER", "MOTHER", "SON")


def families_of(relations: list[tuple[str, ...]]) -> Families:
    people = sorted({person for relation in relations for person in relation[:2]})
    return group_families([f"{person}/{i}.jpg" for person in people for i in (0, 1)], relations)


def named(families: Families) -> set[tuple[str, ...]]:
    return {tuple(families.people[row] for row in trio) for trio in find_trios(families).tolist()}


def test_trios_without_types_are_two_relatives_of_a_third_who_are_not_related() -> None:
    relations = [
        ("F1/DAD", "F1/KID"), ("F1/KID", "F1/MUM"), ("F1/SIS", "F1/DAD"), ("F1/SIS", "F1/MUM"),
        ("F1/SIS", "F1/KID"), ("F2/A", "F2/B"), ("F2/B", "F2/C"), ("F2/C", "F2/A"),
        ("F1/MUM", "F2/A"),
    ]  # fmt: skip
    families = families_of(relations)
    related = {frozenset(relation) for relation in relations}
    wanted = {
        (one, other, child)
        for one, other, child in permutations(families.people, 3)
        if frozenset((one, child)) in related and frozenset((other, child)) in related
        and frozenset((one, other)) not in related
        and len({person[:2] for person in (one, other, child)}) == 1
    }  # fmt: skip
    assert named(families) == wanted
    assert ("F1/DAD", "F1/MUM", "F1/KID") in wanted and ("F1/MUM", "F1/DAD", "F1/SIS") in wanted
    assert not any(trio[2][:2] == "F2" for trio in wanted)


def test_trios_with_types_say_who_is_the_father() -> None:
    families = families_of(
        [
            ("F1/DAD", "F1/KID", "fs"), ("F1/MUM", "F1/KID", "MS"), ("F1/GRAN", "F1/DAD", "ms"),
            ("F1/SIS", "F1/KID", "sibs"), ("F1/DAD", "F1/SIS", "fd"),
        ]
    )  # fmt: skip
    assert named(families) == {("F1/DAD", "F1/MUM", "F1/KID")}


def test_half_of_the_triples_have_the_child_of_another_family() -> None:
    families = families_of(
        [pair for f in range(7) for pair in ((f"F{f}/D", f"F{f}/K"), (f"F{f}/M", f"F{f}/K"))]
    )
    trios = find_trios(families)
    rows, is_kin = sample_triples(families, trios, 400, np.random.default_rng(0))
    assert rows.shape == (400, 3) and is_kin.sum() == 200
    family = families.family[families.owner_of(rows)]
    assert (family[:, 0] == family[:, 1]).all()
    assert np.array_equal(family[:, 0] == family[:, 2], is_kin)
    known = set(map(tuple, trios.tolist()))
    assert {tuple(trio) for trio in families.owner_of(rows)[is_kin].tolist()} == known


def parents_run(folder: Path, families: int = 30, held_out: int = 20) -> Path:
    """Children that lie between their parents, and a head that measures distance."""
    rng = np.random.default_rng(5)
    names, vectors, relations = [], [], []
    for family in range(families):
        father, mother = rng.standard_normal((2, WIDTH))
        child = (father + mother) / 2 + 0.5 * rng.standard_normal(WIDTH)
        for role, centre in zip(ROLES, (father, mother, child), strict=True):
            for photo in range(2):
                names.append(f"train/F{family:02}/{role}/P{photo}.jpg")
                vectors.append(centre + 0.1 * rng.standard_normal(WIDTH))
        relations += [f"F{family:02}/{parent},F{family:02}/SON" for parent in ROLES[:2]]
    (folder / "train_relationships.csv").write_text("\n".join(["p1,p2", *relations]))
    order = np.argsort(names)
    write_cache(
        folder / "embeddings.h5",
        {"schema": SCHEMA, "model": "m", "backbone": "samples"},
        np.array([names[row].encode() for row in order]),
        rng.integers(0, 255, (len(names), 32)).astype(np.uint8),
        {"max": [np.array(vectors, np.float32)[order]]},
    )
    people = sorted({"/".join(name.split("/")[1:3]) for name in names})
    kept = tuple(person for person in people if int(person[1:3]) < held_out)
    kernel = np.full((WIDTH, 1), -1.0, np.float32)
    trained = tuple(sorted(set(people) - set(kept)))
    head = PairHead("max", "m", (kernel,), (np.full(1, 9.0, np.float32),), kept, trained)
    save_head(head, folder / "head.h5")
    return folder


def triples(count: int, label: bool = True) -> list[list[str]]:
    rows = []
    for family in range(count):
        father, mother, son = (f"F{family:02}/{role}/P1.jpg" for role in ROLES)
        rows.append([father, mother, son, "1"])
        other = f"F{(family + 3) % count:02}/SON/P0.jpg"
        rows.append([father, mother, other, "0"])
    return rows if label else [row[:3] for row in rows]


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    return parents_run(tmp_path)


def asked(folder: Path, content: str, **settings) -> dict:
    (folder / "triples.txt").write_text(content)
    config = EvaluateConfig(pairs=folder / "triples.txt", **settings)
    return json.loads(evaluate(config, folder, folder).read_text())


def logits_of(folder: Path, rows: list[list[str]]) -> np.ndarray:
    """(K, 2) of both parents with the child."""
    with EmbeddingCache.open(folder / "embeddings.h5") as cache:
        vectors = np.array(cache.vectors("max"))
        father, mother, son = (
            vectors[cache.rows([f"train/{row[side]}" for row in rows])] for side in range(3)
        )
    return 9 - np.abs(np.stack([father - son, mother - son], 1)).sum(2)


def test_a_list_of_the_second_track_is_judged_by_both_parents(judged: Path) -> None:
    rows = triples(20)
    lines = [f"./x/{f} ./x/{m} ./x/{c} FMS {label}" for f, m, c, label in rows]
    result = asked(judged, "\n".join(lines))
    assert (result["pairs"], result["kin"], result["families"]) == (40, 20, 20)
    found = result["triples"]
    assert found["families"] == 20 and found["father"] == pytest.approx(found["mother"], rel=0.15)
    parents = logits_of(judged, rows)
    labels = [int(row[3]) for row in rows]
    combined = parents @ [found["father"], found["mother"]] + found["offset"]
    assert result["auc"] == pytest.approx(roc_auc_score(labels, combined), abs=1e-9)
    assert result["auc"] >= max(roc_auc_score(labels, parents[:, side]) for side in (0, 1)) - 0.01
    decision = result["decision"]
    assert decision["how"] == "by held-out families"
    assert decision["accuracy"] == np.mean((combined >= 0) == labels) > 0.7
    assert decision["accuracy_interval"]["low"] < decision["accuracy"]
    interval = result["auc_by_families"]
    assert interval["low"] < result["auc"] < interval["high"]
    assert set(result["relations"]) == {"fms"}
    text = evaluation_table(result)
    assert "20 kin and 20 non-kin triples, 20 families" in text and "father, mother-son" in text
    table = "\n".join(
        ["child;mother;father;is_related", *(f"{c};{m};{f};{y}" for f, m, c, y in rows)]
    )
    assert asked(judged, table)["auc"] == result["auc"]


def test_without_validation_families_a_triple_scores_the_mean(judged: Path) -> None:
    (judged / "train_relationships.csv").unlink()
    rows = triples(20)
    result = asked(judged, "\n".join(" ".join([f, m, c, "FMD", y]) for f, m, c, y in rows))
    assert result["triples"] == {"father": 0.5, "mother": 0.5, "offset": 0.0, "families": 0}
    mean = logits_of(judged, rows).mean(1)
    labels = [int(row[3]) for row in rows]
    assert result["auc"] == pytest.approx(roc_auc_score(labels, mean), abs=1e-9)
    assert result["decision"]["how"] == "cross-fitted"
    few = asked(judged, "\n".join(" ".join([f, m, c, "FMD", y]) for f, m, c, y in triples(4)))
    assert "decision" not in few and "too few families" in evaluation_table(few)


def test_triples_on_trained_people_are_refused_or_left_out(judged: Path) -> None:
    content = "\n".join(" ".join([f, m, c, "FMS", y]) for f, m, c, y in triples(25))
    with pytest.raises(DataError, match=r"line 36: .*trained on them \(13 such lines\)"):
        asked(judged, content)
    result = asked(judged, content, skip_trained=True)
    assert (result["pairs"], result["skipped_trained"]) == (37, 13)


def test_three_names_a_row_are_scored_in_their_order(judged: Path) -> None:
    rows = triples(20, label=False)[::-1]
    path = judged / "asked.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["Father", "mother", "child"], *rows])
    out = score(ScoreConfig(path, chunk=7), judged, judged)
    with out.open(newline="") as file:
        header, *written = csv.reader(file)
    assert header == ["Father", "mother", "child", "is_related"]
    assert [row[:3] for row in written] == rows
    logits = logits_of(judged, rows)
    found = np.array([float(row[3]) for row in written])
    result = asked(judged, "\n".join(" ".join([f, m, c, "FMS", y]) for f, m, c, y in triples(20)))
    weights = TripleScore(**result["triples"])
    assert np.allclose(found, sigmoid(weights.logits(logits)), atol=1e-6)
    raw = score(replace(ScoreConfig(path, chunk=7), raw=True), judged, judged)
    found = np.array([float(line.rsplit(",", 1)[1]) for line in raw.read_text().splitlines()[1:]])
    assert np.allclose(found, sigmoid(logits.mean(1)), atol=1e-6)
    people = [["F01/FATHER", "F01/MOTHER", "F02/SON"]]
    path.write_text("\n".join(["father,mother,child", *(",".join(row) for row in people)]))
    by_people = score(replace(ScoreConfig(path), people="mean", raw=True), judged, judged)
    photos = [
        [f"{person}/P{at}.jpg" for person, at in zip(people[0], photo, strict=True)]
        for photo in np.ndindex(2, 2, 2)
    ]
    wanted = sigmoid(logits_of(judged, photos).mean(0).mean(keepdims=True))[0]
    assert float(by_people.read_text().split(",")[-1]) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("relations", [True, False])
def test_what_scores_triples_is_said_and_no_calibration_is_named(
    judged: Path, relations: bool, caplog: pytest.LogCaptureFixture
) -> None:
    head = load_head(judged / "head.h5")
    scale = Scale(0.0, "youden", "platt", ((2.0,), (0.0,)), 0.5, 0.5)
    saved = save_calibration(Calibration(head.digest, ("F01/SON",), "", scale), judged / "c.json")
    shutil.copy(saved, judged / "calibration.json")
    if not relations:
        (judged / "train_relationships.csv").unlink()
    path = judged / "asked.csv"
    path.write_text("\n".join(["father,mother,child", ",".join(triples(1, label=False)[0]), ""]))
    caplog.set_level("INFO")
    score(ScoreConfig(path), judged, judged)
    assert "calibrated by platt" not in caplog.text
    assert "the calibration is of pairs, and is not used" in caplog.text
    fit = "calibrated on triples of 20 held-out families"
    mean = "a triple's score is the mean of the child's logits with both parents"
    assert (fit in caplog.text, mean in caplog.text) == (relations, not relations)
    why = "father and mother weigh alike: no relations of the people on these photos are known"
    assert (why in caplog.text) is not relations
    assert caplog.messages[-1].endswith("1 triple scored")
    caplog.clear()
    score(ScoreConfig(path, raw=True), judged, judged)
    assert mean in caplog.text and "weigh alike" not in caplog.text
    with pytest.raises(KinembedError, match="calibration: is of pairs.*leave out --calibration"):
        score(ScoreConfig(path, calibration=saved), judged, judged)


def test_a_head_without_held_out_people_scores_by_the_mean(judged: Path) -> None:
    head = load_head(judged / "head.h5")
    save_head(replace(head, held_out=(), trained=()), judged / "head.h5")
    result = asked(judged, "\n".join(" ".join([f, m, c, "FMS", y]) for f, m, c, y in triples(20)))
    assert result["triples"]["families"] == 0
