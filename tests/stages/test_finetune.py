"""Fine-tuning: what it writes, keeps, resumes and refuses."""

import json
import os
import pickle
import signal
import subprocess
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from interrupted import Stopping, digests, figures, history, interrupt
from PIL import Image

from kinembed import finetune as stage
from kinembed.backbones.weights import digest
from kinembed.config import EmbedConfig, FinetuneConfig, HeadConfig
from kinembed.data.families import read_families
from kinembed.data.photos import decode_all
from kinembed.data.samplers import PairSampler
from kinembed.data.splits import split_people
from kinembed.embed import embed
from kinembed.errors import DataError, KinembedError, RunError, WriteError
from kinembed.evaluation.metrics import roc_auc
from kinembed.finetune import TRAINERS, finetune
from kinembed.head import head as train_again
from kinembed.heads.file import load_head, read_head
from kinembed.heads.kept import kept_heads
from kinembed.recipes import FINETUNE_RECIPES, RECIPE_KINDS, RECIPES, ContrastiveRecipe, PairRecipe
from kinembed.seeds import Stream, generator
from kinembed.training.pair_trainer import PairTrainer
from kinembed.training.siamese import load_model

ARTEFACTS = [
    *("architecture.svg", "config.json", "curves.png", "head.h5"),
    *("history.csv", "model-last.pt", "model.pt"),
]
COLUMNS = [
    *("epoch", "train_loss", "train_accuracy", "train_auc"),
    *("val_loss", "val_accuracy", "val_auc", "seconds", "learning_rate"),
]


def contents(run: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}


# What it writes


def test_a_run_leaves_every_artefact_and_nothing_else(tuned: Path) -> None:
    names = [*ARTEFACTS, "embed.json", "embeddings.h5", "heads"]
    assert sorted(p.name for p in tuned.iterdir()) == sorted(names)


def test_history_has_a_row_per_epoch(tuned: Path, short: FinetuneConfig) -> None:
    header = (tuned / "history.csv").read_text().splitlines()[0]
    assert header.split(",") == COLUMNS
    rows = history(tuned)
    assert [row["epoch"] for row in rows] == [1, 2]
    for row in rows:
        assert row["train_loss"] > 0 and row["val_loss"] > 0 and row["seconds"] > 0
        for name in ("train_accuracy", "train_auc", "val_accuracy", "val_auc"):
            assert 0 <= row[name] <= 1
        pairs = short.val_steps * short.batch_size
        assert (row["val_accuracy"] * pairs) == pytest.approx(round(row["val_accuracy"] * pairs))


def test_config_json_says_what_was_trained(tuned: Path, short: FinetuneConfig) -> None:
    about = json.loads((tuned / "config.json").read_text())
    wanted = json.loads(json.dumps({**asdict(short), "recipe": RECIPES["dense"].as_record()}))
    aucs = [row["val_auc"] for row in history(tuned)]
    best = 1 + aucs.index(max(aucs))
    assert (about.pop("best_epoch"), about.pop("kept_epoch")) == (best, best)
    assert about.pop("epoch_chosen_by") == "held-out people"
    assert len(bytes.fromhex(about.pop("listing"))) == 32
    torch.manual_seed(short.seed)
    trunk = stage.load_trunk(stage.find_backbone(short.backbone), short.weights)
    assert about.pop("resolved") == {
        "weights": {"source": "facenet-pytorch", "digest": digest(trunk)},
        "precision": "fp32",
        "device": "cpu",
        "ranks": 1,
    }
    assert about == wanted


@pytest.mark.parametrize(
    ("weights", "source"), [("none", "none"), ("facenet-pytorch", "facenet-pytorch")]
)
def test_config_json_names_the_weights_that_were_asked_for(
    faces: Path, tmp_path: Path, short: FinetuneConfig, weights: str, source: str
) -> None:
    finetune(replace(short, weights=weights, epochs=1, steps=1, val_steps=1), faces, tmp_path)
    about = json.loads((tmp_path / "config.json").read_text())
    assert about["resolved"]["weights"]["source"] == source
    assert len(bytes.fromhex(about["resolved"]["weights"]["digest"])) == 32


def test_the_curves_are_a_picture(tuned: Path) -> None:
    with Image.open(tuned / "curves.png") as image:
        assert image.format == "PNG" and image.width > 1000


def test_the_head_is_that_of_the_model(tuned: Path) -> None:
    network = load_model(tuned / "model.pt")
    head = load_head(tuned / "head.h5")
    wanted = network.head.to_head("max", digest(network.trunk))
    assert (head.view, head.model) == ("max", digest(network.trunk))
    for mine, theirs in zip(
        wanted.kernels + wanted.biases, head.kernels + head.biases, strict=True
    ):
        assert np.array_equal(mine, theirs)


def test_the_history_agrees_with_the_whole_network_on_the_pairs(
    tuned: Path, faces: Path, short: FinetuneConfig
) -> None:
    """Validation embeds each photo once; here both photos of every pair go through."""
    families = read_families(faces)
    split = split_people(families, "families", 0.2, np.random.default_rng(short.seed))
    sampler = PairSampler(families, split.validation, short.positive_fraction)
    rng = generator(short.seed, Stream.VALIDATION)
    rows, labels = sampler.sample(short.val_steps, short.batch_size, rng)
    network = load_model(tuned / "model.pt").eval()
    files = [faces / name for name in families.photos]
    pixels = torch.from_numpy(decode_all(files, network.backbone.framing)[0])
    with torch.inference_mode():
        logits = torch.stack([network(pixels[b[:, 0]], pixels[b[:, 1]]) for b in rows]).ravel()
    truth = torch.from_numpy(labels).ravel()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth)
    best = max(history(tuned), key=lambda row: row["val_auc"])
    assert best["val_auc"] == pytest.approx(roc_auc(truth, logits), abs=1e-3)
    assert best["val_loss"] == pytest.approx(float(loss), abs=1e-5)
    assert best["val_accuracy"] == pytest.approx(float(((logits > 0) == truth).float().mean()))


def test_all_layers_train(tuned: Path, short: FinetuneConfig) -> None:
    torch.manual_seed(short.seed)
    before = stage.load_trunk(stage.find_backbone(short.backbone), short.weights).state_dict()
    after = load_model(tuned / "model-last.pt").trunk.state_dict()
    assert before.keys() == after.keys()
    for name in before:
        assert not torch.equal(before[name], after[name]), name


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name != "dense"])
def test_every_recipe_trains_every_layer(
    faces: Path, tmp_path: Path, short: FinetuneConfig, recipe: str
) -> None:
    config = replace(short, recipe=recipe, epochs=1, steps=2, val_steps=1)
    network = load_model(finetune(config, faces, tmp_path))
    assert network.recipe == RECIPES[recipe]
    torch.manual_seed(config.seed)
    trunk = stage.load_trunk(stage.find_backbone(config.backbone), config.weights)
    assert digest(network.trunk) != digest(trunk)
    (row,) = history(tmp_path)
    if recipe == "regularized":
        assert row["val_loss"] > float(network.head.penalty().detach()) > 0.001


def test_training_learns_what_there_is_to_learn(
    faces: Path, tmp_path: Path, short: FinetuneConfig
) -> None:
    """Relatives of the drawn families look alike: some epochs must tell, on training pairs."""
    config = replace(short, recipe="base", epochs=3, steps=15, batch_size=16)
    finetune(config, faces, tmp_path)
    rows = history(tmp_path)
    assert rows[-1]["train_loss"] < 0.9 * rows[0]["train_loss"]
    assert rows[-1]["train_auc"] > 0.65


def test_the_same_seed_gives_the_same_network(
    tuned: Path, faces: Path, tmp_path: Path, short: FinetuneConfig
) -> None:
    finetune(short, faces, tmp_path / "again")
    assert digests(tmp_path / "again") == digests(tuned)
    assert figures(tmp_path / "again") == figures(tuned)
    finetune(replace(short, seed=4), faces, tmp_path / "other")
    assert digests(tmp_path / "other")[1] != digests(tuned)[1]


# Which epoch is kept, and when it stops


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Validation AUCs by script; gives the list of the network's digest after each epoch."""

    def script(*aucs: float) -> list[str]:
        seen: list[str] = []

        def validate(self: PairTrainer, *_: object) -> tuple[float, float, float]:
            seen.append(digest(self.network))
            return 0.5, 0.5, aucs[len(seen) - 1]

        monkeypatch.setattr(PairTrainer, "validate", validate)
        return seen

    return script


@pytest.mark.parametrize(
    ("aucs", "best"), [((0.5, 0.9, 0.6), 2), ((0.9, 0.5, 0.9), 1), ((0.1, 0.2, 0.3), 3)]
)
def test_the_best_epoch_and_the_last_are_kept(
    faces: Path,
    tmp_path: Path,
    short: FinetuneConfig,
    scripted: Callable[..., list[str]],
    aucs: tuple[float, ...],
    best: int,
) -> None:
    seen = scripted(*aucs)
    finetune(replace(short, epochs=3), faces, tmp_path)
    assert len(set(seen)) == 3
    assert digests(tmp_path) == (seen[best - 1], seen[2])
    assert json.loads((tmp_path / "config.json").read_text())["best_epoch"] == best
    model = load_model(tmp_path / "model.pt")
    assert load_head(tmp_path / "head.h5").model == digest(model.trunk)


def test_validation_pairs_are_drawn_again_each_epoch_on_request(
    faces: Path, tmp_path: Path, short: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[bytes]] = {}
    sample = PairSampler.sample

    def noted(self: PairSampler, steps: int, size: int, rng: np.random.Generator):
        rows, labels = sample(self, steps, size, rng)
        if steps == short.val_steps:
            seen.setdefault(name, []).append(rows.tobytes())
        return rows, labels

    monkeypatch.setattr(PairSampler, "sample", noted)
    for name in ("same", "fresh", "again"):
        overrides = () if name == "same" else ("validation=fresh",)
        config = replace(short, epochs=3, overrides=overrides)
        finetune(config, faces, tmp_path / name)
    assert [len(set(pairs)) for pairs in seen.values()] == [1, 3, 3]
    assert seen["fresh"] == seen["again"]
    trained = [[row["train_loss"] for row in history(tmp_path / n)] for n in ("same", "fresh")]
    assert trained[0] == trained[1]


def test_family_members_are_no_strangers_on_request(
    faces: Path, tmp_path: Path, short: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[float] = []
    sample = PairSampler.sample

    def noted(self: PairSampler, steps: int, size: int, rng: np.random.Generator):
        rows, labels = sample(self, steps, size, rng)
        family = self.families.family[self.families.owner_of(rows[labels == 0])]
        shares.append(float((family[:, 0] == family[:, 1]).mean()))
        return rows, labels

    monkeypatch.setattr(PairSampler, "sample", noted)
    config = replace(short, positive_fraction=0.2, batch_size=32)
    finetune(config, faces, tmp_path / "plain")
    assert max(shares) > 0
    shares.clear()
    finetune(replace(config, exclude_family=True), faces, tmp_path / "strict")
    assert shares and max(shares) == 0


@pytest.mark.parametrize(
    ("keep", "kept", "other", "chooser"),
    [("best", 2, "last", "held-out people"), ("last", 3, "best", "nobody")],
)
def test_the_epoch_that_is_asked_for_is_kept_and_the_other_has_its_head(
    faces: Path,
    tmp_path: Path,
    short: FinetuneConfig,
    scripted: Callable[..., list[str]],
    keep: str,
    kept: int,
    other: str,
    chooser: str,
) -> None:
    seen = scripted(0.5, 0.9, 0.6)
    (tmp_path / f"model-{keep}.pt").write_bytes(b"of another training")
    finetune(replace(short, epochs=3, keep=keep), faces, tmp_path)
    model = load_model(tmp_path / "model.pt")
    assert digest(model) == seen[kept - 1]
    assert model.epoch == {"number": kept, "kept": keep, "chosen_by": chooser}
    about = json.loads((tmp_path / "config.json").read_text())
    assert (about["best_epoch"], about["kept_epoch"]) == (2, kept)
    assert about["epoch_chosen_by"] == chooser
    head, record = read_head(tmp_path / "head.h5")
    assert head.model == digest(model.trunk)
    assert (record.stage, record.recipe, record.epoch) == ("finetune", "dense", kept)
    assert record.epoch_chosen_by == chooser
    assert record.auc == history(tmp_path)[kept - 1]["val_auc"]
    beside = load_model(tmp_path / f"model-{other}.pt")
    assert beside.epoch is not None and beside.epoch["kept"] == other
    assert not (tmp_path / f"model-{keep}.pt").exists()
    heads = {each.head.model: each for each in kept_heads(tmp_path)}
    assert set(heads) == {digest(model.trunk), digest(beside.trunk)}
    assert heads[head.model].in_use and not heads[digest(beside.trunk)].in_use
    assert heads[digest(beside.trunk)].record.epoch == beside.epoch["number"]


def test_the_reports_recipes_keep_the_last_epoch_and_kin_the_best() -> None:
    for name, recipe in FINETUNE_RECIPES.items():
        wanted = "last" if name in {*RECIPES, "fusion"} else "best"
        assert (recipe.kept_epoch, FinetuneConfig(recipe=name).keep) == (wanted, wanted)
    assert FinetuneConfig(keep="best").kept_epoch == "best"


def test_stopping_early_lets_validation_choose_the_last_epoch(
    faces: Path, tmp_path: Path, short: FinetuneConfig, scripted: Callable[..., list[str]]
) -> None:
    scripted(0.9, 0.5)
    finetune(replace(short, epochs=5, keep="last", patience=1), faces, tmp_path)
    about = json.loads((tmp_path / "config.json").read_text())
    assert (about["kept_epoch"], about["epoch_chosen_by"]) == (2, "held-out people")


@pytest.mark.parametrize("by", ["people", "families"])
def test_a_third_part_neither_trains_nor_chooses_and_judges_alone(
    faces: Path, tmp_path: Path, short: FinetuneConfig, on_cpu: EmbedConfig, by: str
) -> None:
    config = replace(short, split=by, validation_fraction=0.3, test_fraction=0.3)
    finetune(config, faces, tmp_path)
    families = read_families(faces)
    rng = generator(config.seed, Stream.SPLIT)
    split = split_people(families, by, 0.3, rng, 0.3)
    head, record = read_head(tmp_path / "head.h5")
    assert head.held_out == tuple(sorted(families.people[row] for row in split.test))
    assert head.trained == tuple(sorted(families.people[row] for row in split.train))
    assert (record.epoch_chosen_by, record.auc) == ("validation people", None)
    # a head trained from the cache holds out the same people
    embed(on_cpu, faces, tmp_path)
    again = load_head(train_again(HeadConfig(kind="l1", epochs=1, steps=1), faces, tmp_path))
    assert (again.held_out, again.trained) == (head.held_out, head.trained)


@pytest.mark.parametrize(("patience", "epochs"), [(1, 3), (2, 6), (3, 7), (None, 7)])
def test_training_stops_after_so_many_epochs_without_a_better_auc(
    faces: Path,
    tmp_path: Path,
    short: FinetuneConfig,
    scripted: Callable[..., list[str]],
    patience: int | None,
    epochs: int,
) -> None:
    scripted(0.5, 0.6, 0.55, 0.7, 0.6, 0.6, 0.6)
    finetune(replace(short, epochs=7, steps=1, patience=patience), faces, tmp_path)
    assert len(history(tmp_path)) == epochs


# Interrupted, killed, resumed

KILLED = """
import os, pickle, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from interrupted import Stopping
from kinembed.finetune import finetune
config = pickle.loads(bytes.fromhex({config!r}))
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
finetune(config, Path({data!r}), Path({run!r}), progress=Stopping("epoch 3/", kill, 2))
"""


def test_a_killed_run_resumed_ends_as_one_never_killed(
    faces: Path, tmp_path: Path, forked: Path, short: FinetuneConfig
) -> None:
    config = replace(short, epochs=4)
    script = KILLED.format(
        tests=str(Path(__file__).parents[1]),
        config=pickle.dumps(config).hex(),
        data=str(faces),
        run=str(tmp_path / "killed"),
    )
    killed = subprocess.run([forked, "-c", script], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    partial = tmp_path / "killed" / "finetune.partial"
    assert (partial / "checkpoint.pt").is_file()
    assert len((partial / "history.csv").read_text().splitlines()) == 3
    assert not (tmp_path / "killed" / "model.pt").exists()

    finetune(config, faces, tmp_path / "killed", resume=True)
    finetune(config, faces, tmp_path / "whole")
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")
    assert figures(tmp_path / "killed") == figures(tmp_path / "whole")
    assert not partial.exists()
    with pytest.raises(RunError, match="nothing to resume, run kinembed finetune without it"):
        finetune(config, faces, tmp_path / "killed", resume=True)


@pytest.mark.parametrize("epochs", [2, 3])
def test_more_epochs_can_be_asked_for_when_resuming(
    faces: Path, tmp_path: Path, short: FinetuneConfig, epochs: int
) -> None:
    config = replace(short, recipe="rmsprop", epochs=epochs)
    with pytest.raises(KeyboardInterrupt):
        finetune(config, faces, tmp_path / "a", progress=Stopping(f"epoch {epochs}/", interrupt))
    config = replace(config, epochs=3)
    finetune(config, faces, tmp_path / "a", resume=True)
    finetune(config, faces, tmp_path / "b")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert figures(tmp_path / "a") == figures(tmp_path / "b")


@pytest.mark.parametrize("label", ["decoding", "epoch 1/", "epoch 2/"])
def test_an_interruption_leaves_the_artefacts_as_they_were(
    run: Path, faces: Path, short: FinetuneConfig, label: str
) -> None:
    before = contents(run)
    other = replace(short, seed=8)
    with pytest.raises(KeyboardInterrupt):
        finetune(other, faces, run, progress=Stopping(label, interrupt))
    assert contents(run) == before
    assert (run / "finetune.partial").exists() == (label == "epoch 2/")
    finetune(other, faces, run)
    assert contents(run)["model.pt"] != before["model.pt"]
    assert not (run / "finetune.partial").exists()


@pytest.mark.parametrize("artefact", ["curves.png", "head.h5", "model.pt"])
def test_a_full_disk_at_the_end_leaves_the_artefacts_as_they_were(
    run: Path,
    faces: Path,
    short: FinetuneConfig,
    monkeypatch: pytest.MonkeyPatch,
    artefact: str,
) -> None:
    before = contents(run)
    create = os.open

    def full(path: Path, *how: int) -> int:
        if artefact in Path(path).name:
            raise OSError(28, "No space left on device")
        return create(path, *how)

    monkeypatch.setattr(os, "open", full)
    config = replace(short, seed=8)
    with pytest.raises(WriteError, match="No space left on device"):
        finetune(config, faces, run)
    assert contents(run) == before
    monkeypatch.undo()
    finetune(config, faces, run, resume=True)  # nothing is trained twice
    assert contents(run)["model.pt"] != before["model.pt"]
    assert len(history(run)) == config.epochs


def test_a_run_folder_takes_one_training_at_a_time(
    run: Path, faces: Path, short: FinetuneConfig
) -> None:
    before = contents(run)
    again = "another kinembed trains in this run folder"

    def train_too() -> None:
        with pytest.raises(RunError, match=again):
            finetune(short, faces, run)
        with pytest.raises(RunError, match=again):
            finetune(replace(short, seed=8), faces, run, resume=True)
        assert contents(run) == before

    finetune(replace(short, seed=8), faces, run, progress=Stopping("epoch 2/", train_too))
    assert contents(run)["model.pt"] != before["model.pt"]
    assert not (run / "finetune.partial").exists()


def test_artefacts_that_cannot_be_written_are_found_before_training(
    tmp_path: Path, faces: Path, short: FinetuneConfig
) -> None:
    (tmp_path / "model.pt").mkdir()
    with pytest.raises(WriteError, match=r"model\.pt: cannot be written \(Is a directory\)"):
        finetune(short, faces, tmp_path, progress=Stopping("decoding", interrupt))


def test_links_in_a_run_folder_stay_links(run: Path, faces: Path, short: FinetuneConfig) -> None:
    before = (run / "model.pt").read_bytes()
    (run / "model.pt").rename(run.parent / "elsewhere.pt")
    (run / "model.pt").symlink_to("../elsewhere.pt")
    finetune(replace(short, seed=8), faces, run)
    assert (run / "model.pt").is_symlink()
    assert (run.parent / "elsewhere.pt").read_bytes() != before


def test_validation_people_who_steer_the_learning_rate_are_named(
    tmp_path: Path, faces: Path, short: FinetuneConfig
) -> None:
    for schedule, chooser in (("constant", "nobody"), ("plateau", "held-out people")):
        finetune(replace(short, keep="last", epochs=1, schedule=schedule), faces, tmp_path)
        assert read_head(tmp_path / "head.h5")[1].epoch_chosen_by == chooser


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, faces: Path, short: FinetuneConfig) -> Path:
    """A run folder with a checkpoint of one epoch."""
    run = tmp_path_factory.mktemp("stopped")
    with pytest.raises(KeyboardInterrupt):
        finetune(short, faces, run, progress=Stopping("epoch 2/", interrupt))
    return run


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"seed": 5}, "seed 3, now 5"),
        ({"batch_size": 10}, "batch_size 8, now 10"),
        ({"recipe": "base"}, "recipe 'dense', now 'base'"),
        ({"split": "people"}, "split 'families', now 'people'"),
        ({"backbone": "mobilefacenet"}, "backbone 'mtcnn-onet', now 'mobilefacenet'"),
    ],
)
def test_resuming_with_other_settings_says_what_differs(
    stopped: Path, faces: Path, short: FinetuneConfig, changes: dict, problem: str
) -> None:
    before = (stopped / "finetune.partial" / "checkpoint.pt").read_bytes()
    with pytest.raises(RunError, match=f"was trained with {problem}; resume with the same"):
        finetune(replace(short, **changes), faces, stopped, resume=True)
    assert (stopped / "finetune.partial" / "checkpoint.pt").read_bytes() == before


def test_resuming_on_other_photos_is_refused(
    stopped: Path, data: Path, short: FinetuneConfig
) -> None:
    sorted((data / "train").rglob("*.jpg"))[0].unlink()
    with pytest.raises(RunError, match="other photos or relations"):
        finetune(short, data, stopped, resume=True)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda saved: saved["last"],
        lambda saved: {k: v for k, v in saved.items() if k != "optimizer"},
        lambda saved: {**saved, "history": [{"epoch": 1}]},
        lambda saved: {**saved, "history": []},
        lambda saved: {**saved, "history": [{**saved["history"][0], "val_auc": "1"}]},
        lambda saved: {**saved, "config": {**saved["config"], "seed": torch.ones(2)}},
        lambda saved: {**saved, "config": {**saved["config"], "unheard_of": 1}},
        lambda saved: {**saved, "last": {}},
        lambda saved: {**saved, "optimizer": {}},
        lambda saved: {**saved, "config": 3},
    ],
)
def test_a_malformed_checkpoint_is_refused_in_one_line(
    stopped: Path,
    tmp_path: Path,
    faces: Path,
    short: FinetuneConfig,
    spoil: Callable[[dict], object],
) -> None:
    saved = torch.load(stopped / "finetune.partial" / "checkpoint.pt", weights_only=True)
    (tmp_path / "finetune.partial").mkdir()
    path = tmp_path / "finetune.partial" / "checkpoint.pt"
    torch.save(spoil(saved), path)
    with pytest.raises(KinembedError, match=r"checkpoint\.pt: ") as error:
        finetune(short, faces, tmp_path, resume=True)
    assert "\n" not in str(error.value)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(KinembedError, match=r"checkpoint\.pt: is a text; wanted a PyTorch file"):
        finetune(short, faces, tmp_path, resume=True)


def test_there_is_nothing_to_resume_in_a_new_folder(
    faces: Path, tmp_path: Path, short: FinetuneConfig
) -> None:
    with pytest.raises(RunError, match=r"checkpoint\.pt: no such file; nothing to resume"):
        finetune(short, faces, tmp_path / "new", resume=True)
    assert not (tmp_path / "new").exists()


# Whom it trains on


@pytest.mark.parametrize("by", ["people", "families"])
def test_people_who_validate_are_in_no_training_pair(
    faces: Path, tmp_path: Path, short: FinetuneConfig, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    drawn: list[tuple[list[int], set[int]]] = []

    class Recording(PairSampler):
        def sample(self, *settings: object) -> tuple:
            rows, labels = super().sample(*settings)
            drawn.append((self.people.tolist(), set(rows.ravel().tolist())))
            return rows, labels

    monkeypatch.setattr(stage, "PairSampler", Recording)
    finetune(replace(short, split=by, epochs=3), faces, tmp_path)
    families = read_families(faces)
    sides: dict[tuple[int, ...], set[str]] = {}
    for people, rows in drawn:
        shown = {families.photos[row].split("/", 1)[1].rsplit("/", 1)[0] for row in rows}
        assert shown <= {families.people[person] for person in people}
        sides.setdefault(tuple(people), set()).update(shown)
    training, validation = sorted(sides.values(), key=len, reverse=True)
    assert len(drawn) == 6 and len(sides) == 2
    assert len(validation) >= 5
    assert not training & validation
    if by == "families":
        assert not {p.split("/")[0] for p in training} & {p.split("/")[0] for p in validation}


def test_validation_pairs_are_the_same_after_every_epoch(
    faces: Path, tmp_path: Path, short: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[bytes] = []

    class Recording(PairSampler):
        def sample(self, *settings: object) -> tuple:
            rows, labels = super().sample(*settings)
            drawn.append(rows.tobytes())
            return rows, labels

    monkeypatch.setattr(stage, "PairSampler", Recording)
    finetune(replace(short, epochs=3), faces, tmp_path)
    training, validation = drawn[::2], drawn[1::2]
    assert len(set(training)) == 3 and len(set(validation)) == 1


# What it refuses


def test_a_broken_photo_is_named_or_left_out(
    data: Path, run: Path, short: FinetuneConfig, caplog: pytest.LogCaptureFixture
) -> None:
    before = contents(run)
    broken = sorted((data / "train" / "F0002").rglob("*.jpg"))
    broken[0].write_bytes(broken[0].read_bytes()[:300])
    broken[1].write_text("not a photo")
    with pytest.raises(DataError, match=rf"{broken[0].name}: cannot be decoded"):
        finetune(short, data, run)
    assert contents(run) == before
    with caplog.at_level("INFO", logger="kinembed"):
        finetune(replace(short, skip_unreadable=True), data, run)
    left_out = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    names = [photo.relative_to(data).as_posix() for photo in broken[:2]]
    assert left_out == [f"left out: {name}" for name in names]
    # the others are trained on as if the broken had never been there
    for photo in broken[:2]:
        photo.unlink()
    finetune(short, data, run.parent / "without")
    assert digests(run) == digests(run.parent / "without")


def test_photos_of_which_none_can_be_read_are_refused(
    data: Path, tmp_path: Path, short: FinetuneConfig
) -> None:
    for photo in (data / "train").rglob("*.jpg"):
        photo.write_text("not a photo")
    with pytest.raises(DataError, match="no people"):
        finetune(replace(short, skip_unreadable=True), data, tmp_path / "run")


def test_a_split_without_usable_relations_is_refused(
    data: Path, tmp_path: Path, short: FinetuneConfig
) -> None:
    (data / "train_relationships.csv").write_text("p1,p2\nF0001/MID1,F0001/MID3\n")
    with pytest.raises(DataError, match="no usable relation among the .* people of this split"):
        finetune(short, data, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"backbone": "resnet51"}, "backbone 'resnet51' is unknown"),
        ({"recipe": "magic"}, "recipe 'magic' is unknown; known are base, adam-lr, dense"),
        ({"view": "native"}, "view 'native': backbone mtcnn-onet has max, avg"),
        ({"device": "tpu"}, "device 'tpu' is not on this machine"),
        ({"weights": "absent.pt"}, r"absent\.pt: no such file"),
        ({"epochs": 0}, "epochs: found 0, wanted 1 or more"),
        ({"steps": 0}, "steps: found 0, wanted 1 or more"),
        ({"validation_fraction": 1.0}, "validation_fraction: found 1.0"),
        ({"positive_fraction": 0.1}, "0.1 of 8 pairs are kin"),
        ({"positive_fraction": 1.0}, "1 of 8 pairs are kin"),
        ({"batch_size": 1}, "0.6 of 1 pairs are kin"),
    ],
)
def test_settings_that_cannot_be_trained_with_are_named(
    faces: Path, run: Path, short: FinetuneConfig, changes: dict, problem: str
) -> None:
    before = contents(run)
    with pytest.raises(KinembedError, match=problem):
        finetune(replace(short, **changes), faces, run)
    assert contents(run) == before
    assert not (run / "finetune.partial").exists()


@pytest.mark.parametrize("missing", ["train", "train_relationships.csv"])
def test_data_is_looked_for_before_weights_are_downloaded(
    data: Path,
    tmp_path: Path,
    short: FinetuneConfig,
    monkeypatch: pytest.MonkeyPatch,
    missing: str,
) -> None:
    def download(*_: object) -> None:
        raise AssertionError("weights were fetched first")

    monkeypatch.setattr(stage, "load_trunk", download)
    (data / missing).rename(data / "elsewhere")
    with pytest.raises(DataError, match=missing):
        finetune(short, data, tmp_path / "run")
    with pytest.raises(KinembedError, match="recipe 'magic' is unknown"):
        finetune(replace(short, recipe="magic"), data, tmp_path / "run")


def test_a_network_that_runs_away_is_stopped(
    faces: Path, run: Path, short: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(run)
    runaway = replace(RECIPES["base"], name="runaway", learning_rate=1e30)
    monkeypatch.setitem(FINETUNE_RECIPES, "runaway", runaway)
    with pytest.raises(KinembedError, match="output is not finite: the learning rate is too high"):
        finetune(replace(short, recipe="runaway"), faces, run)
    assert contents(run) == before


# Precision and memory


def test_bfloat16_training_stays_close_to_float32(
    tuned: Path, faces: Path, tmp_path: Path, short: FinetuneConfig
) -> None:
    finetune(replace(short, precision="bf16"), faces, tmp_path)
    one, other = history(tuned), history(tmp_path)
    for row, coarse in zip(one, other, strict=True):
        assert coarse["train_loss"] == pytest.approx(row["train_loss"], abs=0.1)
    assert load_head(tmp_path / "head.h5").kernels[0].dtype == np.float32


def test_photos_beyond_memory_train_the_same_network(
    tuned: Path,
    faces: Path,
    tmp_path: Path,
    short: FinetuneConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kinembed.data.photos.free_memory", lambda: 0)
    finetune(short, faces, tmp_path)
    assert digests(tmp_path) == digests(tuned)


def test_each_kind_of_recipe_has_a_trainer() -> None:
    assert set(TRAINERS) == {recipe.kind for recipe in FINETUNE_RECIPES.values()}
    assert {RECIPE_KINDS[kind] for kind in TRAINERS} == {PairRecipe, ContrastiveRecipe}
