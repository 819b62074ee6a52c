"""`finetune --folds`: a network for each fold of the families, resumed, embedded, averaged."""

import csv
import json
import os
import pickle
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interrupted import digests, figures, history
from small_networks import stand_in

from kinembed.cache import EmbeddingCache
from kinembed.cli import run as command
from kinembed.config import EmbedConfig, FinetuneConfig, HeadConfig, ScoreConfig
from kinembed.data.families import read_families
from kinembed.data.samplers import PairSampler
from kinembed.data.splits import describe_fold, split_as_network, split_of_fold
from kinembed.doctor import doctor
from kinembed.embed import embed
from kinembed.errors import DataError, KinembedError, RunError
from kinembed.finetune import finetune
from kinembed.fold_runs import fold_run, fold_runs, has_folds
from kinembed.head import head as train_head
from kinembed.heads.file import load_head
from kinembed.heads.fused import FusedHead
from kinembed.heads.pair import PairHead
from kinembed.recipes import FUSION
from kinembed.score import score
from kinembed.seeds import Stream, generator
from kinembed.training.siamese import load_model

FOLDS = 3


@pytest.fixture(scope="module", autouse=True)
def _small() -> Iterator[None]:
    """ResNet-50 is small, and no curves are drawn: what is tested does not depend on them."""
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch, "resnet50")
        patch.setattr("kinembed.report.curves.draw_curves", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def config(short: FinetuneConfig) -> FinetuneConfig:
    """Three networks of recipe fusion, half a second each."""
    network = {"backbone": "resnet50", "weights": "none", "recipe": "fusion"}
    return replace(short, **network, view="", split="", folds=FOLDS)


@pytest.fixture(scope="module")
def folded(
    made_once: Callable[..., Path], faces: Path, config: FinetuneConfig, on_cpu: EmbedConfig
) -> Path:
    """A run folder with three trained and embedded folds; tests leave it as it is."""

    def make(run: Path) -> None:
        finetune(config, faces, run)
        for each in fold_runs(run, "model.pt"):
            embed(on_cpu, faces, each)

    return made_once("folded", make)


def families_by_hand(people: tuple[str, ...], seed: int, count: int = FOLDS) -> list[set[str]]:
    """The people of each fold, one family at a time."""
    names = sorted({person.split("/")[0] for person in people})
    order = generator(seed, Stream.FOLDS).permutation(len(names))
    folds: list[set[str]] = [set() for _ in range(count)]
    for name, place in zip(names, order.tolist(), strict=True):
        folds[place % count] |= {each for each in people if each.split("/")[0] == name}
    return folds


def test_each_network_holds_out_another_fold_and_trains_on_all_others(
    folded: Path, faces: Path, config: FinetuneConfig
) -> None:
    families = read_families(faces)
    wanted = families_by_hand(families.people, config.seed)
    assert min(map(len, wanted)) > 3
    for number, people in enumerate(wanted, start=1):
        head = load_head(fold_run(folded, number) / "head.h5")
        assert set(head.held_out) == people
        assert set(head.trained) == set(families.people) - people
        split = load_model(fold_run(folded, number) / "model.pt").split
        assert split is not None
        assert {key: split[key] for key in ("by", "folds", "fold", "seed")} == {
            **{"by": "families", "folds": FOLDS, "fold": number},
            "seed": config.seed,
        }
        again = split_as_network(families, split)
        assert {families.people[row] for row in again.held_out} == people
    trained = [digests(each)[0] for each in fold_runs(folded, "model.pt")]
    assert len(set(trained)) == FOLDS


def test_the_folds_are_those_of_a_head(folded: Path, faces: Path, config: FinetuneConfig) -> None:
    """So that a head on a frozen network and fine-tuned ones hold out the same people."""
    run = folded.parent / "frozen"
    embedding = EmbedConfig(
        backbone="resnet50", weights="none", device="cpu", framing="loose", photos=("train",)
    )
    embed(embedding, faces, run)
    few = ("epochs=1", "steps=2", "embed_dim=4", "hidden_dim=0")
    path = train_head(HeadConfig(folds=FOLDS, seed=config.seed, overrides=few), faces, run)
    held_out = [load_head(each / "head.h5").held_out for each in fold_runs(folded, "head.h5")]
    assert load_head(path).folds == tuple(held_out)


def test_held_out_people_never_train(
    faces: Path, tmp_path: Path, config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[int, set[str]] = {}
    sample = PairSampler.sample

    def noted(self: PairSampler, steps: int, size: int, rng: np.random.Generator) -> Any:
        rows, labels = sample(self, steps, size, rng)
        names = {self.families.photos[row] for row in rows.ravel()}
        seen.setdefault(steps, set()).update("/".join(name.split("/")[1:3]) for name in names)
        return rows, labels

    monkeypatch.setattr(PairSampler, "sample", noted)
    assert config.steps != config.val_steps
    path = finetune(replace(config, fold=2, steps=8), faces, tmp_path)
    assert path == tmp_path / "folds" / "2" / "model.pt"
    fold = families_by_hand(read_families(faces).people, config.seed)[1]
    assert seen[8] and not seen[8] & fold
    assert seen[config.val_steps] and seen[config.val_steps] <= fold


def test_a_fold_alone_is_the_fold_in_turn(
    folded: Path, faces: Path, tmp_path: Path, config: FinetuneConfig
) -> None:
    finetune(replace(config, fold=3), faces, tmp_path)
    assert sorted(path.name for path in (tmp_path / "folds").iterdir()) == ["3", "config.json"]
    assert digests(fold_run(tmp_path, 3)) == digests(fold_run(folded, 3))
    assert figures(fold_run(tmp_path, 3)) == figures(fold_run(folded, 3))
    with pytest.raises(RunError, match=r"1/model\.pt: no such file, nor are 1 of other folds; run"):
        fold_runs(tmp_path, "model.pt")


def test_doctor_knows_what_folds_wait_for(folded: Path, faces: Path, tmp_path: Path) -> None:
    shutil.copytree(folded, tmp_path / "run")

    def state() -> tuple[str, str]:
        found = doctor(faces, tmp_path / "run")
        (fact,) = [each.fact for each in found.findings if "by folds" in each.fact]
        return fact.rpartition(": ")[2], found.next.removesuffix(places)

    places = f" --run {tmp_path / 'run'} --data {faces}"
    assert state() == ("3 of 3 networks by folds trained, 3 embedded", "kinembed head --fine-tuned")
    os.remove(fold_run(tmp_path / "run", 1) / "embeddings.h5")
    assert state()[1] == "kinembed embed --folds"
    os.remove(fold_run(tmp_path / "run", 2) / "model.pt")
    wanted = "2 of 3 networks by folds trained, 2 embedded"
    assert state() == (wanted, "kinembed finetune --folds 3 --resume")
    for name, words in (
        ("head.h5", "calibrate"),
        ("calibration.json", "evaluate"),
        ("evaluation.json", "score --pairs sample_submission.csv"),
        ("submission.csv", "audit"),
    ):
        (tmp_path / "run" / name).touch()
        assert doctor(faces, tmp_path / "run").next == f"kinembed {words}{places}"


# Killed and resumed

KILLED = """
import os, pickle, signal, sys
from pathlib import Path
import pytest
sys.path.insert(0, {tests!r})
from interrupted import Stopping
from small_networks import stand_in
from kinembed.finetune import finetune
patch = pytest.MonkeyPatch()
stand_in(patch, "resnet50")
patch.setattr("kinembed.report.curves.draw_curves", lambda *_: None)
config = pickle.loads(bytes.fromhex({config!r}))
seconds = []
def kill():
    seconds.append(1)
    if len(seconds) == 2:  # in the second fold
        os.kill(os.getpid(), signal.SIGKILL)
finetune(config, Path({data!r}), Path({run!r}), progress=Stopping("epoch 2/", kill, 2))
"""


def test_killed_in_a_fold_it_keeps_those_done_and_goes_on_from_the_last_epoch(
    folded: Path, faces: Path, tmp_path: Path, forked: Path, config: FinetuneConfig, caplog
) -> None:
    script = KILLED.format(
        tests=str(Path(__file__).parents[1]),
        config=pickle.dumps(config).hex(),
        data=str(faces),
        run=str(tmp_path),
    )
    killed = subprocess.run([forked, "-c", script], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    first, second, third = (fold_run(tmp_path, number) for number in (1, 2, 3))
    assert (first / "model.pt").is_file() and not third.exists()
    assert not (second / "model.pt").exists()
    assert (second / "finetune.partial" / "checkpoint.pt").is_file()
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in first.iterdir()}

    caplog.set_level("INFO")
    assert finetune(config, faces, tmp_path, resume=True) == tmp_path / "folds"
    assert "fold 1 of 3: is trained already" in caplog.text
    assert caplog.text.count("epoch 1/2: ") == 1  # that of the third fold
    after = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in first.iterdir()}
    assert after == before
    for mine, whole in zip(fold_runs(tmp_path, "model.pt"), fold_runs(folded, "model.pt")):
        assert digests(mine) == digests(whole)
        assert figures(mine) == figures(whole)
        assert not (mine / "finetune.partial").exists()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"folds": 4}, "trained with folds 3, now 4; wanted the same for all folds"),
        ({"seed": 8}, "trained with seed 3, now 8"),
        ({"steps": 4}, "trained with steps 3, now 4"),
        ({"overrides": ("dropout=0.5",)}, "trained by another recipe"),
        ({"recipe": "dense"}, "trained by another recipe"),
    ],
)
@pytest.mark.parametrize("resume", [False, True])
def test_folds_of_other_settings_are_not_mixed(
    folded: Path, faces: Path, config: FinetuneConfig, changes: dict, problem: str, resume: bool
) -> None:
    before = (folded / "folds" / "config.json").read_bytes()
    with pytest.raises(RunError, match=f"folds: has networks that were {problem}"):
        finetune(replace(config, **changes, fold=1), faces, folded, resume=resume)
    assert (folded / "folds" / "config.json").read_bytes() == before


def test_folds_of_other_families_are_not_mixed(
    folded: Path, faces: Path, tmp_path: Path, config: FinetuneConfig
) -> None:
    shutil.copytree(faces, tmp_path / "data")
    shutil.rmtree(next((tmp_path / "data" / "train").iterdir()))
    with pytest.raises(RunError, match="trained on other photos or relations; wanted the same"):
        finetune(config, tmp_path / "data", folded, resume=True)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"folds": None, "fold": 1}, "fold: found 1 of none; wanted with --folds N"),
        ({"folds": 1}, "folds: found 1, wanted 2 to 1000"),
        ({"fold": 4}, "fold: found 4, wanted 1 to 3"),
        ({"fold": 0}, "fold: found 0, wanted 1 to 3"),
        ({"split": "people"}, "split: found people, but each of 3 folds of the families"),
        ({"test_fraction": 0.1}, "test_fraction: found 0.1, but each of 3 folds"),
        ({"validation_fraction": 0.3}, "validation_fraction: found 0.3, but each of 3 folds"),
        ({"folds": 11}, "10 families cannot be split into 11 folds; say --folds 10 or fewer"),
        ({"view": "max+max"}, "wanted one or more different names"),
        ({"recipe": "kin", "view": "max+avg"}, r"view: found max\+avg, recipe kin compares one"),
    ],
)
def test_folds_that_cannot_be(
    faces: Path, tmp_path: Path, config: FinetuneConfig, changes: dict, problem: str
) -> None:
    with pytest.raises(KinembedError, match=problem):
        finetune(replace(config, **changes), faces, tmp_path)
    assert not (tmp_path / "model.pt").exists() and not list(tmp_path.glob("folds/*/*.pt"))


@pytest.mark.parametrize("content", ["", "{}", '{"folds": "3"}', '{"folds": 1}', "[3]"])
def test_what_no_folds_have_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(RunError, match="no such file; run kinembed finetune --folds N"):
        fold_runs(tmp_path, "model.pt")
    assert not has_folds(tmp_path)
    (tmp_path / "folds").mkdir()
    (tmp_path / "folds" / "config.json").write_text(content)
    with pytest.raises(RunError, match="does not say how many folds there are; run"):
        fold_runs(tmp_path, "model.pt")


# From the cache on


def test_each_folds_cache_says_whom_its_network_has_not_seen(
    folded: Path, faces: Path, config: FinetuneConfig
) -> None:
    families = read_families(faces)
    for number, run in enumerate(fold_runs(folded, "embeddings.h5"), start=1):
        with EmbeddingCache.open(run / "embeddings.h5") as cache:
            split = split_of_fold(families, FOLDS, number, config.seed)
            wanted = describe_fold(families, split, FOLDS, number, config.seed)
            assert cache.provenance["split"] == wanted
            assert cache.provenance["finetuned"]["view"] == "max+avg"
            assert set(cache.views) == {"max", "avg"}
            model = cache.provenance["model"]
        assert load_head(run / "head.h5").model == model


def test_a_head_from_a_folds_cache_holds_out_the_same_people(
    folded: Path, faces: Path, tmp_path: Path
) -> None:
    shutil.copytree(fold_run(folded, 2), tmp_path / "2")
    before = load_head(tmp_path / "2" / "head.h5")
    path = train_head(HeadConfig(epochs=1, steps=2), faces, tmp_path / "2")
    head = load_head(path)
    assert (head.held_out, head.trained) == (before.held_out, before.trained)
    assert (head.view, head.features) == ("max+avg", ("square", "diff-squares", "product"))
    with pytest.raises(RunError, match="leave out --folds"):
        train_head(HeadConfig(recipe="metric", folds=3), faces, tmp_path / "2")


def test_other_families_than_a_fold_had_are_refused(faces: Path, config: FinetuneConfig) -> None:
    families = read_families(faces)
    split = split_of_fold(families, FOLDS, 1, config.seed)
    about = describe_fold(families, split, FOLDS, 1, config.seed)
    assert np.array_equal(split_as_network(families, about).held_out, split.held_out)
    with pytest.raises(DataError, match="changed since, so nobody can be held out"):
        split_as_network(families.keep(np.arange(40)), about)


def test_the_commands(faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = ["--run", str(tmp_path), "--data", str(faces), "--json"]
    small = "--backbone resnet50 --weights none --framing loose --device cpu --precision fp32"
    short = f"{small} --epochs 1 --steps 1 --val-steps 1 --batch-size 8 --recipe fusion"
    assert command(["finetune", *there, *short.split(), "--folds", "2", "--fold", "2"]) == 0
    output = capsys.readouterr()
    assert "split by families, fold 2 of 2: " in output.err
    one = json.loads(output.out)
    assert one["path"] == str(tmp_path / "folds" / "2" / "model.pt") and one["epochs"] == 1
    assert command(["embed", *there]) == 1
    assert "say --folds to embed with the networks of" in capsys.readouterr().err
    assert command(["embed", *there, "--folds"]) == 1
    assert "folds/1/model.pt: no such file; run kinembed finetune" in capsys.readouterr().err
    assert command(["finetune", *there, *short.split(), "--folds", "2", "--resume"]) == 0
    all_ = json.loads(capsys.readouterr().out)
    assert all_["path"] == str(tmp_path / "folds")
    aucs = [history(fold_run(tmp_path, fold))[0]["val_auc"] for fold in (1, 2)]
    assert [each["val_auc"] for each in all_["folds"]] == aucs
    assert all_["val_auc"] == pytest.approx(np.mean(aucs))
    assert all_["folds"][1] == one
    usual = ["--device", "cpu", "--framing", "loose", "--photos", "train"]
    assert command(["embed", *there, *usual, "--folds"]) == 0
    output = capsys.readouterr()
    said = output.err.splitlines()
    assert sum("embeddings.h5: " in line and "photos/s" in line for line in said) == 2
    assert sum("people" in line for line in said) == 1  # who they are is the same in all folds
    caches = json.loads(output.out)["folds"]
    wanted = [str(fold_run(tmp_path, fold) / "embeddings.h5") for fold in (1, 2)]
    assert [each["path"] for each in caches] == wanted
    assert [each["provenance"]["split"]["fold"] for each in caches] == [1, 2]
    assert command(["embed", *there, "--folds", "--backbone", "sface"]) == 2
    os.remove(fold_run(tmp_path, 2) / "embeddings.h5")
    with pytest.raises(RunError, match=r"2/embeddings\.h5: no such file; run kinembed embed --fo"):
        fold_runs(tmp_path, "embeddings.h5")


# The whole path: photos, networks, caches, the mean of their heads, a submission


@pytest.fixture(scope="module")
def averaged(folded: Path, faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with the fine-tuned heads of all folds as one, and a submission of it."""
    run = tmp_path_factory.mktemp("averaged") / "run"
    shutil.copytree(folded, run)
    train_head(HeadConfig(fine_tuned=True), faces, run)
    score(ScoreConfig(pairs=Path("sample_submission.csv")), faces, run)
    return run


def logits_by_fold(run: Path, pairs: list[tuple[str, str]]) -> np.ndarray:
    """(FOLDS, K): each network's own head on its own cache, feature by feature."""
    found = []
    for folder in fold_runs(run, "head.h5"):
        head = load_head(folder / "head.h5")
        assert isinstance(head, PairHead)
        with EmbeddingCache.open(folder / "embeddings.h5") as cache:
            parts = [np.asarray(cache.vectors(view), np.float64) for view in ("max", "avg")]
            vectors = np.concatenate(parts, 1)
            rows = cache.rows([name for pair in pairs for name in pair]).reshape(-1, 2)
        a, b = vectors[rows[:, 0]], vectors[rows[:, 1]]
        x = np.concatenate([(a - b) ** 2, (a * a - b * b) ** 2, a * b], 1)
        (first, last), (bias, end) = head.kernels, head.biases
        found.append((np.maximum(x @ first + bias, 0) @ last + end)[:, 0])
    return np.stack(found)


def test_the_submission_is_the_mean_of_all_networks_with_their_own_heads(
    averaged: Path, faces: Path
) -> None:
    head = load_head(averaged / "head.h5")
    assert isinstance(head, FusedHead) and head.by_fold and len(head.parts) == FOLDS
    for part, folder in zip(head.parts, fold_runs(averaged, "head.h5"), strict=True):
        own = load_head(folder / "head.h5")
        assert isinstance(part, PairHead) and isinstance(own, PairHead)
        assert [each.tobytes() for each in (*part.kernels, *part.biases)] == [
            each.tobytes() for each in (*own.kernels, *own.biases)
        ]
    with (averaged / "submission.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (faces / "sample_submission.csv").open(newline="") as file:
        assert [row["img_pair"] for row in rows] == [r["img_pair"] for r in csv.DictReader(file)]
    pairs = [tuple(row["img_pair"].split("-")) for row in rows]
    wanted = np.array(head.gains) @ logits_by_fold(averaged, pairs)  # type: ignore[arg-type]
    found = np.array([float(row["is_related"]) for row in rows])
    assert len(found) > 5 and found.std() > 0
    assert np.array_equal(np.argsort(found), np.argsort(wanted))
    within = np.abs(wanted) < 10  # beyond, a probability is next to 0 or 1
    assert within.sum() > 3
    logits = np.log(found[within] / (1 - found[within]))
    assert np.allclose(logits, wanted[within], atol=1e-4)


def test_people_of_a_fold_are_judged_by_the_network_that_held_them_out(
    averaged: Path, faces: Path, config: FinetuneConfig
) -> None:
    head = load_head(averaged / "head.h5")
    families = read_families(faces)
    wanted = families_by_hand(families.people, config.seed)
    assert [set(fold) for fold in head.folds] == wanted
    members = head.members()
    for number, (people, member) in enumerate(zip(head.folds, members, strict=True)):
        photos = [
            photo
            for photo, owner in zip(families.photos, families.owner, strict=True)
            if families.people[owner] in people
        ]
        pairs = list(pairwise(photos))
        assert isinstance(head, FusedHead) and isinstance(member, FusedHead)
        assert member.view == head.parts[number].view
        folder = fold_run(averaged, number + 1)
        with EmbeddingCache.open(folder / "embeddings.h5") as cache:
            rows = cache.rows([name for pair in pairs for name in pair]).reshape(-1, 2)
            vectors = cache.vectors("max+avg")
            alone = member.score(np.asarray(member.represent(vectors)), rows)
        own = logits_by_fold(averaged, pairs)[number]
        assert np.allclose(alone, own * member.gains[0], rtol=1e-4, atol=1e-5)


def test_fresh_heads_of_all_folds_are_averaged_too(
    folded: Path, faces: Path, tmp_path: Path
) -> None:
    shutil.copytree(folded, tmp_path / "run")
    path = train_head(HeadConfig(epochs=1, steps=2, val_steps=2), faces, tmp_path / "run")
    head = load_head(path)
    assert isinstance(head, FusedHead) and head.by_fold and len(head.folds) == FOLDS
    assert {part.features for part in head.parts if isinstance(part, PairHead)} == {FUSION.features}
    ready = [load_head(each / "head.h5") for each in fold_runs(folded, "head.h5")]
    assert [part.digest for part in head.parts] != [each.digest for each in ready]


def test_one_networks_own_head_is_taken_as_it_is(folded: Path, faces: Path, tmp_path: Path) -> None:
    shutil.copytree(fold_run(folded, 1), tmp_path / "1")
    before = load_head(tmp_path / "1" / "head.h5")
    after = load_head(train_head(HeadConfig(fine_tuned=True), faces, tmp_path / "1"))
    assert (after.digest, after.held_out) == (before.digest, before.held_out)
    shutil.rmtree(tmp_path / "1" / "heads")
    os.remove(tmp_path / "1" / "head.h5")
    with pytest.raises(RunError, match="keeps no head that its network was fine-tuned with"):
        train_head(HeadConfig(fine_tuned=True), faces, tmp_path / "1")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"recipe": "dense"}, "recipe: found dense; with fine_tuned nothing is trained"),
        ({"overrides": ("dropout=0.5",)}, "overrides: found dropout=0.5; with fine_tuned"),
        ({"warm_start": True}, "warm_start: with fine_tuned nothing is trained"),
        ({"recipe": "metric"}, "fine_tuned: the networks were not all fine-tuned by one recipe"),
        ({"views": ("max",)}, "views: found max; with fine_tuned nothing is trained"),
    ],
)
def test_what_trains_is_refused_with_ready_heads(
    folded: Path, faces: Path, changes: dict, problem: str
) -> None:
    with pytest.raises(KinembedError, match=problem):
        train_head(HeadConfig(fine_tuned=True, **changes), faces, fold_run(folded, 1))


def test_caches_of_all_folds_are_wanted(folded: Path, faces: Path, tmp_path: Path) -> None:
    shutil.copytree(folded, tmp_path / "run")
    os.remove(fold_run(tmp_path / "run", 2) / "embeddings.h5")
    with pytest.raises(RunError, match=r"2/embeddings\.h5: no such file; run kinembed embed"):
        train_head(HeadConfig(fine_tuned=True), faces, tmp_path / "run")
