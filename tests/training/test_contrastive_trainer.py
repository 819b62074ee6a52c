"""Fine-tuning by contrast: what it writes, resuming, minutes, the running mean, frozen norms."""

from dataclasses import fields, replace
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import pytest
import torch
from interrupted import Stopping, history, interrupt
from small_networks import Embedding, stand_in

from kinembed.backbones import find_backbone
from kinembed.backbones.weights import load_trunk
from kinembed.cli import run as command
from kinembed.config import _OF_PAIRS, EmbedConfig, FinetuneConfig, ScoreConfig
from kinembed.data.families import read_families
from kinembed.data.photos import decode_all
from kinembed.data.samplers import PairSampler
from kinembed.embed import embed
from kinembed.errors import KinembedError, RunError
from kinembed.finetune import ARTEFACTS, CURVES, finetune
from kinembed.heads.file import load_head
from kinembed.heads.metric import MetricHead
from kinembed.progress import silent
from kinembed.recipes import ContrastiveRecipe
from kinembed.score import score
from kinembed.training.contrastive_trainer import ContrastiveTrainer
from kinembed.training.siamese import SiameseNetwork, load_model
from kinembed.training.trainer import Epoch, Trainer

ON_CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def kin(short: FinetuneConfig) -> FinetuneConfig:
    """A training by contrast of a second."""
    batch_size = FinetuneConfig.batch_size  # of validation alone
    return replace(short, recipe="kin", overrides=("batch_pairs=4",), batch_size=batch_size)


@pytest.fixture(scope="module")
def contrasted(tmp_path_factory: pytest.TempPathFactory, faces: Path, kin: FinetuneConfig) -> Path:
    run = tmp_path_factory.mktemp("contrasted") / "run"
    finetune(kin, faces, run)
    return run


def test_the_recipe_chooses_families_and_the_networks_own_vector() -> None:
    config = FinetuneConfig(backbone="mobilefacenet", recipe="kin")
    assert (config.split, config.view) == ("families", "native")
    assert FinetuneConfig(backbone="resnet50", recipe="kin").view == "max"
    plain = FinetuneConfig()
    assert (plain.recipe, plain.split, plain.view) == ("regularized", "people", "max")
    chosen = FinetuneConfig(backbone="sface", recipe="kin", split="people", view="avg")
    assert (chosen.split, chosen.view) == ("people", "avg")


def test_the_run_holds_every_artefact_and_scores(
    contrasted: Path, faces: Path, on_cpu: EmbedConfig, tmp_path: Path
) -> None:
    names = [*ARTEFACTS, CURVES, "heads", "model-last.pt"]
    assert sorted(path.name for path in contrasted.iterdir()) == sorted(names)
    found = load_head(contrasted / "head.h5")
    network = load_model(contrasted / "model.pt")
    assert isinstance(found, MetricHead) and isinstance(network.recipe, ContrastiveRecipe)
    assert found.view == "max" and found.held_out and found.scale == pytest.approx(10)
    embed(on_cpu, faces, contrasted)
    path = score(ScoreConfig(out=tmp_path / "out.csv"), faces, contrasted)
    lines = path.read_text().splitlines()
    assert len(lines) > 1 and all(0 < float(line.split(",")[1]) < 1 for line in lines[1:])
    (contrasted / "embeddings.h5").unlink()


def test_the_head_scores_as_the_network_does(contrasted: Path, faces: Path) -> None:
    network = load_model(contrasted / "model.pt").eval()
    families = read_families(faces)
    pixels = decode_all([faces / n for n in families.photos[:6]], network.backbone.framing)[0]
    with torch.no_grad():
        vectors = network.embed(torch.from_numpy(pixels))
        wanted = network.head(vectors[:3], vectors[3:]).numpy()
    found = load_head(contrasted / "head.h5")
    assert isinstance(found, MetricHead)
    pairs = np.stack([np.arange(3), np.arange(3, 6)], 1)
    said = found.score(found.represent(vectors.numpy()), pairs)
    assert said == pytest.approx(wanted, rel=1e-4, abs=1e-4)


def test_resumed_it_is_as_if_never_interrupted(
    contrasted: Path, faces: Path, kin: FinetuneConfig, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        finetune(kin, faces, run, progress=Stopping("epoch 2", interrupt))
    assert [p.name for p in run.iterdir()] == ["finetune.partial"]
    finetune(kin, faces, run, resume=True)
    one, other = (load_head(folder / "head.h5").digest for folder in (run, contrasted))
    assert one == other
    for name in ("model.pt", "model-last.pt"):
        a, b = (load_model(folder / name).state_dict() for folder in (run, contrasted))
        assert all(torch.equal(a[key], b[key]) for key in a)
    with pytest.raises(RunError, match="nothing to resume"):
        finetune(kin, faces, run, resume=True)


def test_other_settings_are_not_gone_on_with(
    faces: Path, kin: FinetuneConfig, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        finetune(kin, faces, tmp_path, progress=Stopping("epoch 2", interrupt))
    with pytest.raises(RunError, match="was trained with overrides"):
        finetune(replace(kin, overrides=("batch_pairs=5",)), faces, tmp_path, resume=True)


def test_minutes_end_the_cycle_in_time(
    faces: Path, kin: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def tick() -> float:
        now[0] += 1.0
        return now[0]

    monkeypatch.setattr("kinembed.training.contrastive_trainer.time.perf_counter", tick)
    finetune(replace(kin, minutes=1.0, epochs=1), faces, tmp_path)
    rows = history(tmp_path)
    assert len(rows) > 1  # the minutes say how many epochs, not --epochs
    rates = [row["learning_rate"] for row in rows]
    assert max(rates) > 2 * rates[-1]  # the cycle came down
    assert now[0] < 90


def trainer(faces: Path, config: FinetuneConfig) -> tuple[ContrastiveTrainer, PairSampler]:
    families = read_families(faces)
    backbone = find_backbone(config.backbone)
    torch.manual_seed(2)
    trunk = load_trunk(backbone, config.weights)
    network = SiameseNetwork(backbone, trunk, config.view, config.full_recipe())
    files = [faces / name for name in families.photos]
    pixels = torch.from_numpy(decode_all(files, backbone.framing)[0])
    sampler = PairSampler(families, np.arange(len(families.people)), 0.6)
    return ContrastiveTrainer(network, config, pixels, ON_CPU, "fp32", 0.0), sampler


@pytest.fixture
def real(kin: FinetuneConfig) -> FinetuneConfig:
    """A network with BatchNorm, for two steps of three pairs."""
    return replace(
        kin, backbone="mobilefacenet", weights="none", view="native", epochs=1, steps=2,
        overrides=("batch_pairs=3", "augment=none"),
    )  # fmt: skip


@pytest.fixture
def normed(real: FinetuneConfig, monkeypatch: pytest.MonkeyPatch) -> FinetuneConfig:
    """The same of a small one of five stages."""
    stand_in(monkeypatch, real.backbone, network=Embedding)
    return real


def test_statistics_of_batchnorm_stay_and_all_else_learns(
    faces: Path, normed: FinetuneConfig
) -> None:
    found, sampler = trainer(faces, normed)
    before = {key: value.clone() for key, value in found.learner.state_dict().items()}
    found.train(sampler, 0, [], silent)
    after = found.learner.state_dict()
    for key, value in before.items():
        kept = "running" in key or "num_batches" in key or key.startswith(("head", "normalise"))
        assert torch.equal(value, after[key]) == kept, key


def test_a_step_is_that_of_plain_autograd(faces: Path, real: FinetuneConfig) -> None:
    """The same gradients as a loop over pairs gives that knows no parts and no matrix."""
    found, _ = trainer(faces, real)
    rows = np.array([[[0], [4]], [[12], [15]], [[30], [33]]])
    families = np.array([0, 1, 2])
    plain = load_trunk(find_backbone("mobilefacenet"), "none")
    plain.load_state_dict(found.learner.trunk.state_dict())
    plain.eval()
    photos = found.photos[torch.from_numpy(rows.ravel())]
    features = plain.native(plain.feature_map(found.network.normalise(photos)))
    z = torch.nn.functional.normalize(features, dim=1)
    total = torch.zeros(())
    for i in range(6):
        mate = i + 1 if i % 2 == 0 else i - 1
        others = [z[i] @ z[j] / 0.1 for j in range(6) if j != i]
        total = total - (z[i] @ z[mate] / 0.1 - torch.stack(others).logsumexp(0)) / 6
    total.backward()
    found.optimizer.step = lambda: None  # type: ignore[method-assign]
    loss, _, same = found._step(rows, families, torch.Generator())
    assert loss == pytest.approx(total.item(), rel=1e-4) and same.sum() == 3
    for (name, one), other in zip(
        plain.named_parameters(), found.learner.trunk.parameters(), strict=True
    ):
        assert other.grad is not None and one.grad is not None
        assert torch.allclose(one.grad, other.grad, rtol=1e-2, atol=1e-4), name


def test_the_mean_of_the_weights_is_what_is_kept(faces: Path, normed: FinetuneConfig) -> None:
    found, sampler = trainer(faces, replace(normed, overrides=("batch_pairs=3", "ema_decay=0")))
    found.train(sampler, 0, [], silent)
    for own, learnt in zip(found.network.parameters(), found.learner.parameters(), strict=True):
        assert torch.allclose(own, learnt)
    slow, sampler = trainer(faces, normed)
    before = [parameter.detach().clone() for parameter in slow.network.parameters()]
    slow.train(sampler, 0, [], silent)
    between = [
        (own - first).norm() < (learnt - first).norm()
        for own, first, learnt in zip(
            slow.network.parameters(), before, slow.learner.parameters(), strict=True
        )
    ]
    assert np.mean(between) > 0.9


def test_several_views_are_compared_side_by_side(faces: Path, kin: FinetuneConfig) -> None:
    found, sampler = trainer(faces, replace(kin, view="max+avg", steps=1))
    found.train(sampler, 0, [], silent)
    rows = np.array([2, 5])
    with torch.no_grad():
        expected = found.network.embed(found.photos[torch.from_numpy(rows)])
    assert torch.allclose(found.vectors(rows), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["none", "mirror"])
def test_frozen_stages_run_once_and_it_learns_the_same(
    faces: Path, normed: FinetuneConfig, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = ("batch_pairs=3", f"augment={kind}")
    config = replace(normed, freeze_stages=3, overrides=sets)
    once, sampler = trainer(faces, config)
    always, _ = trainer(faces, config)
    monkeypatch.setattr(always, "_run_frozen_once", lambda progress: None)
    losses = [each.train(sampler, 0, [], silent)[0] for each in (once, always)]
    assert once.maps is not None and always.maps is None
    assert len(once.maps.tables) == (2 if kind == "mirror" else 1)
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    rows = np.array([3, 0, 7])
    assert torch.allclose(once.vectors(rows), always.vectors(rows), rtol=1e-2, atol=1e-3)
    maps, photos = (each._inputs(rows, torch.Generator().manual_seed(3)) for each in (once, always))
    (expected,) = once.learner_forward.maps([photos])
    assert torch.allclose(maps, expected, atol=1e-4)


def test_frozen_stages_run_in_every_step_where_memory_is_short(
    faces: Path,
    normed: FinetuneConfig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("kinembed.training.frozen_maps.free_memory", lambda: 1000)
    found, sampler = trainer(faces, replace(normed, freeze_stages=3))
    found.train(sampler, 0, [], silent)
    assert found.maps is None and "frozen stages run in every step" in caplog.text


@pytest.mark.parametrize(
    "changed",
    [{"freeze_stages": 0}, {"freeze_epochs": 1}, {"overrides": ("batch_pairs=3", "augment=light")}],
)
def test_what_is_not_the_same_in_every_step_is_not_kept(
    faces: Path, normed: FinetuneConfig, changed: dict
) -> None:
    found, sampler = trainer(faces, replace(normed, **{"freeze_stages": 3, **changed}))
    found.train(sampler, 0, [], silent)
    assert found.maps is None


def test_cycles_begin_with_the_first_weights_and_their_mean_is_kept(
    faces: Path, normed: FinetuneConfig
) -> None:
    sets = ("batch_pairs=3", "augment=none", "ema_decay=0", "cycle_steps=2")
    both, sampler = trainer(faces, replace(normed, steps=4, overrides=sets))
    first = [parameter.detach().clone() for parameter in both.learner.parameters()]
    ends: list[list[torch.Tensor]] = []
    begin = both._begin_cycle

    def begun(now: int) -> None:
        ends.append([parameter.detach().clone() for parameter in both.learner.parameters()])
        begin(now)
        assert all(map(torch.equal, both.learner.parameters(), first))

    both._begin_cycle = begun  # type: ignore[method-assign]
    both.train(sampler, 0, [], silent)
    ends.append([parameter.detach().clone() for parameter in both.learner.parameters()])
    assert both.swa_cycles == len(ends) == 2 and both.share_done == 1
    for kept, one, other in zip(both.network.parameters(), *ends, strict=True):
        assert torch.allclose(kept, (one + other) / 2, atol=1e-6)
    assert any(not torch.equal(one, other) for one, other in zip(*ends, strict=True))


def test_a_training_of_several_cycles_is_resumed(
    faces: Path, kin: FinetuneConfig, tmp_path: Path
) -> None:
    config = replace(kin, epochs=3, overrides=("batch_pairs=4", "cycle_steps=3"))
    finetune(config, faces, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        finetune(config, faces, tmp_path / "run", progress=Stopping("epoch 3", interrupt))
    finetune(config, faces, tmp_path / "run", resume=True)
    heads = [load_head(tmp_path / name / "head.h5").digest for name in ("whole", "run")]
    assert heads[0] == heads[1]


def test_stages_towards_the_photo_learn_more_slowly(faces: Path, normed: FinetuneConfig) -> None:
    found, _ = trainer(faces, replace(normed, overrides=("layer_decay=0.5",)))
    shares = [group["lr_scale"] for group in found.optimizer.param_groups]
    assert shares[-1] == 1 and shares == sorted(shares) and shares[-3] == 0.25


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("batch_pairs=1", "wanted 2 or more"),
        ("temperature=0", "wanted above 0"),
        ("augment=wild", "wanted none or mirror or light or strong"),
        ("hidden=3", "'hidden' is unknown"),
        ("warmup_fraction=1", "wanted between 0 and 1"),
    ],
)
def test_settings_no_training_can_have(
    faces: Path, kin: FinetuneConfig, tmp_path: Path, value: str, problem: str
) -> None:
    with pytest.raises(KinembedError, match=problem):
        finetune(replace(kin, overrides=(value,)), faces, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_command_lists_and_draws_it(capsys: pytest.CaptureFixture[str]) -> None:
    base = ["finetune", "--recipe", "kin", "--backbone", "mobilefacenet", "--summary"]
    assert command(base) == 0
    listing = capsys.readouterr().out
    assert "cosine" in listing and "times 10, sigmoid" in listing and "view native" in listing


# Minutes


class Clock:
    """Stands in for `time`: steps and validations take the seconds that a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, found: ContrastiveTrainer) -> None:
        self.now = 0.0
        self.steps: list[int] = []  # of each cycle
        self.pace = iter(lambda: 1.0, None)
        self.validation = 16 / 3  # as long as it is taken to be
        monkeypatch.setattr("kinembed.training.contrastive_trainer.time.perf_counter", self.tell)
        monkeypatch.setattr(found, "_step", self.step)
        monkeypatch.setattr(found, "_begin_cycle", self.begin)
        monkeypatch.setattr(Trainer, "validate", self.validate)
        self.trainer = found

    def tell(self) -> float:
        return self.now

    def step(self, *_: object) -> tuple[float, torch.Tensor, torch.Tensor]:
        self.now += next(self.pace)
        self.steps = self.steps or [0]
        self.steps[-1] += 1
        return 1.0, torch.tensor([0.9, 0.1]), torch.tensor([True, False])

    def begin(self, now: int) -> None:
        self.trainer.cycle = now
        self.steps.append(0)

    def validate(self, *_: object) -> tuple[float, float, float]:
        self.now += self.validation
        return 1.0, 0.5, 0.5

    def train(self, sampler: PairSampler) -> None:
        epoch = 0
        while self.trainer.share_done < 1:
            self.trainer.train(sampler, epoch, [], silent)
            self.trainer.validate(sampler, epoch)
            epoch += 1


@pytest.mark.parametrize(
    ("start_up", "paces", "steps", "cycles"),
    [
        (0.0, [1.0], 20, 4),
        (300.0, [1.0], 20, 4),  # photos to decode: no part of a cycle
        (300.0, [200.0, 1.0], 20, 3),  # a first step that compiles is no pace
        (0.0, [1.0], 7, 3),  # epochs shorter than what is timed
        (850.0, [1.0], 20, 1),
        (2000.0, [1.0], 20, 1),  # more than there is
    ],
)
def test_cycles_are_planned_by_the_pace_of_steps_alone(
    faces: Path,
    kin: FinetuneConfig,
    monkeypatch: pytest.MonkeyPatch,
    start_up: float,
    paces: list[float],
    steps: int,
    cycles: int,
) -> None:
    limit = (900 + min(start_up, 300)) / 60 if start_up < 800 else 15.0
    sets = ("batch_pairs=4", "cycle_steps=160")
    found, sampler = trainer(faces, replace(kin, minutes=limit, steps=steps, overrides=sets))
    clock = Clock(monkeypatch, found)
    clock.now = start_up
    clock.pace = chain(paces, repeat(paces[-1]))
    clock.train(sampler)
    assert len(clock.steps) == cycles
    if cycles > 1:  # none is an average over a handful of steps
        assert min(clock.steps) > 0.7 * 160 and max(clock.steps) < 1.3 * 160 + 11
    if start_up < 800:
        assert abs(clock.now - 60 * limit) < 8
    elif start_up > 900:
        assert sum(clock.steps) == 1


def test_a_resumed_training_goes_on_where_it_stood_whatever_its_start_up(
    faces: Path, kin: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = ("batch_pairs=4", "cycle_steps=100")
    config = replace(kin, minutes=10.0, steps=40, overrides=sets)
    found, sampler = trainer(faces, config)
    clock = Clock(monkeypatch, found)
    for epoch in range(5):
        found.train(sampler, epoch, [], silent)
        found.validate(sampler, epoch)
    row = Epoch(5, *(0.5,) * 6, seconds=42.0, learning_rate=1e-3)
    state = found.state_after(None, row, "listing")
    again, sampler = trainer(faces, config)
    later = Clock(monkeypatch, again)
    later.now = 90.0  # of decoding photos once more
    again.restore(state)
    assert (again.share_done, again.cycle) == (found.share_done, found.cycle)
    again.train(sampler, 5, [], silent)
    assert again.share_done - found.share_done < 0.1  # 90 seconds before the first step are none
    while again.share_done < 1:
        again.train(sampler, 6, [], silent)
        again.validate(sampler, 6)
    assert abs(later.now + clock.now - 600) < 10


# Options of recipes that compare pairs


@pytest.mark.parametrize(
    ("settings", "instead"),
    [
        ({"batch_size": 16}, "batch_pairs"),
        ({"schedule": "cosine"}, "cycle_steps"),
        ({"warmup": 5}, "warmup_fraction"),
        ({"accumulate": 2}, "batch_pairs"),
        ({"save_memory": True}, "batch_pairs"),
        ({"compile": True}, "leave it out"),
        ({"freeze_stages": 99}, "mtcnn-onet has"),
    ],
)
def test_options_that_it_does_not_take_are_refused(
    faces: Path, kin: FinetuneConfig, tmp_path: Path, settings: dict, instead: str
) -> None:
    (name,) = settings
    with pytest.raises(KinembedError, match=f"^{name}: .*{instead}"):
        finetune(replace(kin, **settings), faces, tmp_path)


def test_something_has_to_learn(faces: Path, kin: FinetuneConfig) -> None:
    stages = len(load_trunk(find_backbone(kin.backbone), "none").stages())
    with pytest.raises(KinembedError, match="freeze_stages: found .*, all that mtcnn-onet has"):
        trainer(faces, replace(kin, freeze_stages=stages))


def test_every_option_of_a_training_is_honoured_or_refused() -> None:
    """Whoever adds an option decides which it is for recipe kin."""
    honoured = {
        *("backbone", "weights", "recipe", "view", "epochs", "steps", "val_steps", "split"),
        *("positive_fraction", "exclude_family"),  # of validation; training has no such pairs
        *("split_seed", "validation_fraction", "test_fraction", "keep", "patience", "device"),
        *("precision", "pixels", "skip_unreadable", "seed", "overrides", "minutes"),
        "freeze_stages",
        "freeze_epochs",
        "framing",
        "layout",
        "people_table",
        "folds",
        "fold",
    }
    assert {field.name for field in fields(FinetuneConfig)} == honoured | set(_OF_PAIRS)


def test_frozen_stages_stay_as_they_were_and_learn_when_they_thaw(
    faces: Path, normed: FinetuneConfig
) -> None:
    for epochs in (None, 1):
        config = replace(normed, epochs=3, freeze_stages=2, freeze_epochs=epochs)
        found, sampler = trainer(faces, config)
        first, *_, last = found.learner.trunk.stages()
        before = [p.detach().clone() for stage in (first, last) for p in stage.parameters()]
        found.train(sampler, 0, [], silent)
        count = len(list(first.parameters()))
        frozen = [*zip(before[:count], first.parameters(), strict=True)]
        assert all(torch.equal(*pair) for pair in frozen)
        learnt = zip(before[count:], last.parameters(), strict=True)
        assert not all(torch.equal(*pair) for pair in learnt)
        found.train(sampler, 1, [], silent)
        assert all(torch.equal(*pair) for pair in frozen) == (epochs is None)
