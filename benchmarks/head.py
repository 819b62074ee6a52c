"""The report's head protocol from a cache, against straightforward loops.

    python benchmarks/head.py

30 epochs of 100 steps of 32 pairs, 30 validation steps after each, on 18,661 x 2048 vectors, head
2048-100-25-1 with L2. The loops are a Dataset with a DataLoader, and the same on tensors; both
train the same network with torch's own Adam and autograd. scikit-learn's `MLPClassifier` has
the same layers, pairs and steps, but no dropout. Then 32 heads in one pass against one.
"""

import argparse
import random
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from sklearn.neural_network import MLPClassifier
from torch.utils.data import DataLoader, Dataset
from turns import Comparison, compared, in_turns, seconds

from kinembed.config import HeadConfig
from kinembed.data.families import Families, group_families
from kinembed.data.samplers import PairSampler
from kinembed.evaluation.metrics import roc_auc
from kinembed.recipes import RECIPES
from kinembed.seeds import Stream, generator
from kinembed.training.head_modules import KinHead
from kinembed.training.keras_losses import loss_of
from kinembed.training.keras_optimizers import KerasAdam
from kinembed.training.pair_heads import train_pair_heads

ROWS, HEADS, WIDE = 18_661, 32, "regularized"


def families() -> Families:
    """As many people and relations as the competition has, with 18,661 photos."""
    names, relations = [], []
    for row in range(ROWS):
        person = row % 2316
        names.append(f"train/F{person // 5:03}/MID{person % 5}/P{row:05}.jpg")
    for person in range(0, 2315, 5):
        for other in range(1, 5):
            if person + other < 2316:
                relations += [(f"F{person // 5:03}/MID0", f"F{person // 5:03}/MID{other}")] * 2
    return group_families(names, relations)


class Drawn(Dataset):
    """Kin and non-kin pairs sampled one by one, as in the report."""

    def __init__(self, vectors, families, people, config) -> None:
        self.vectors, self.length = vectors, config.pair_steps * config.batch_size
        start = families.photo_start.tolist()
        self.photos = {person: range(start[person], start[person + 1]) for person in people}
        self.people = list(self.photos)
        known = set(self.people)
        self.kin = [(a, b) for a, b in families.relations.tolist() if a in known and b in known]
        self.related = {frozenset(pair) for pair in self.kin}
        self.share = config.positive_fraction

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, float]:
        kin = index % 32 < int(32 * self.share)
        if kin:
            a, b = random.choice(self.kin)
        else:
            a, b = random.sample(self.people, 2)
            while frozenset((a, b)) in self.related:
                a, b = random.sample(self.people, 2)
        left, right = random.choice(self.photos[a]), random.choice(self.photos[b])
        vectors = self.vectors
        return torch.from_numpy(vectors[left]), torch.from_numpy(vectors[right]), float(kin)


class Listed(Dataset):
    """Fixed pairs."""

    def __init__(self, vectors, rows, labels) -> None:
        self.vectors, self.rows, self.labels = vectors, rows, labels

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, float]:
        (a, b), vectors = self.rows[index], self.vectors
        return torch.from_numpy(vectors[a]), torch.from_numpy(vectors[b]), self.labels[index]


def plain(vectors, train, validation, config, known=None) -> list[float]:
    """The protocol by autograd; returns the validation AUC of each epoch.

    With families, pairs come from a Dataset by a DataLoader; without, from tensors.
    """
    recipe = RECIPES["regularized"]
    pair_loss = loss_of(recipe, config.batch_size)
    torch.manual_seed(config.seed)
    random.seed(config.seed)
    network = KinHead(vectors.shape[1], recipe)
    optimizer = KerasAdam(network.parameters(), recipe.learning_rate)
    tensors = torch.from_numpy(vectors)
    rng = generator(config.seed, Stream.VALIDATION)
    judged, truth = validation.sample(config.val_steps, config.batch_size, rng)

    def gathered(rows, labels):
        for pairs, some in zip(rows, labels, strict=True):
            a, b = torch.from_numpy(pairs).T
            yield tensors[a], tensors[b], torch.from_numpy(some)

    def batches(epoch):
        if known is not None:
            return DataLoader(drawn, config.batch_size)
        rng = np.random.default_rng([config.seed, epoch])
        return gathered(*train.sample(config.pair_steps, config.batch_size, rng))

    if known is not None:
        drawn = Drawn(vectors, known, train.people.tolist(), config)
        listed = Listed(vectors, judged.reshape(-1, 2), truth.ravel())
    aucs = []
    for epoch in range(config.pair_epochs):
        network.train()
        for a, b, labels in batches(epoch):
            loss = pair_loss(network(a, b), labels.float()) + network.penalty()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        network.eval()
        pairs = gathered(judged, truth) if known is None else DataLoader(listed, config.batch_size)
        with torch.no_grad():
            logits = torch.cat([network(a, b) for a, b, _ in pairs])
        aucs.append(roc_auc(truth.ravel(), logits.numpy()))
    return aucs


def by_sklearn(vectors, train, validation, config) -> list[float]:
    """The protocol by scikit-learn's MLP on |a - b|; returns the validation AUC of each epoch."""
    recipe = RECIPES["regularized"]
    mlp = MLPClassifier(
        (100, 25),
        alpha=2 * recipe.l2 * config.batch_size,  # it halves and divides by the batch
        batch_size=config.batch_size,
        learning_rate_init=recipe.learning_rate,
        random_state=config.seed,
    )
    rng = generator(config.seed, Stream.VALIDATION)
    judged, truth = validation.sample(config.val_steps, config.batch_size, rng)

    def distance(rows: np.ndarray) -> np.ndarray:
        a, b = rows.reshape(-1, 2).T
        return np.abs(vectors[a] - vectors[b])

    aucs = []
    for epoch in range(config.pair_epochs):
        rng = np.random.default_rng([config.seed, epoch])
        rows, labels = train.sample(config.pair_steps, config.batch_size, rng)
        mlp.partial_fit(distance(rows), labels.ravel().astype(int), classes=(0, 1))
        aucs.append(roc_auc(truth.ravel(), mlp.predict_proba(distance(judged))[:, 1]))
    return aucs


def product_rate(batch: int, width: int, out: int) -> float:
    """Operations a second of the layer's own product."""
    x, w = torch.rand(batch, width), torch.rand(width, out)
    best = min(seconds(lambda: x @ w) for _ in range(200))
    return 2 * batch * width * out / best


def made_up(width: int) -> tuple[Families, np.ndarray, PairSampler, PairSampler]:
    """People, their vectors, alike within a family, and pairs of two parts of the people."""
    known = families()
    rng = np.random.default_rng(0)
    order = rng.permutation(2316)
    train, validation = PairSampler(known, order[463:]), PairSampler(known, order[:463])
    vectors = rng.standard_normal((ROWS, width), np.float32)
    family = np.array([int(name.split("/")[1][1:]) for name in known.photos])
    vectors[:, :64] += 1.5 * rng.standard_normal((464, 64), np.float32)[family]
    np.maximum(vectors, 0, out=vectors)
    return known, vectors, train, validation


def compare(config: HeadConfig, rounds: int, width: int = 2048) -> Iterator[Comparison | str]:
    """One head: kinembed, the loops, and the arithmetic of the first layer."""
    known, vectors, train, validation = made_up(width)
    recipe = RECIPES["regularized"]
    curves = {}

    def by_kinembed(name: str, seed: int) -> None:
        own = replace(config, seed=0)
        member = train_pair_heads(vectors, train, validation, [(recipe, seed)], own)[0]
        curves[name] = np.array([row.val_auc for row in member.history])

    def by_loop(name: str, known: Families | None = None) -> None:
        curves[name] = np.array(plain(vectors, train, validation, config, known))

    def sklearn_side() -> None:
        curves["scikit-learn's MLP on abs(a - b)"] = np.array(
            by_sklearn(vectors, train, validation, config)
        )

    sides = {
        "kinembed": lambda: by_kinembed("kinembed", 0),
        "a loop over tensors": lambda: by_loop("a loop over tensors"),
        "a DataLoader": lambda: by_loop("a DataLoader", known),
        "scikit-learn's MLP on abs(a - b)": sklearn_side,
    }
    times = in_turns(sides, rounds, warm=0)
    ours = times.pop("kinembed")
    steps = f"{config.pair_epochs} x {config.pair_steps} x {config.batch_size} pairs"
    what = f"training the report's head, {len(vectors):,} x {width}, {steps}"
    for name, other in times.items():
        yield compared(what, name, "s", ours, other)
    by_kinembed("another seed", 1)
    for name in (*times, "another seed"):
        apart = np.abs(curves["kinembed"] - curves[name])
        best = f"{curves[name].max():.4f} at best, kinembed {curves['kinembed'].max():.4f}"
        yield f"validation AUC of {name}: {best}; {apart.mean():.4f} apart on average"
    pairs = config.pair_epochs * config.pair_steps * config.batch_size
    judged = config.pair_epochs * config.val_steps * config.batch_size
    operations = 2 * width * 100 * (2 * pairs + judged)
    floor = operations / product_rate(config.batch_size, width, 100)
    yield compared(what, "arithmetic of its first layer alone", "s", ours, [floor] * rounds)


def many(config: HeadConfig, rounds: int) -> Iterator[str]:
    """So many heads in one pass against one."""
    _, vectors, train, validation = made_up(2048)
    for width, kind in ((2048, "base"), (128, WIDE), (512, WIDE), (2048, WIDE)):
        own = np.ascontiguousarray(vectors[:, :width])

        def train_some(count: int, own=own, kind=kind) -> None:
            members = [(RECIPES[kind], seed) for seed in range(count)]
            train_pair_heads(own, train, validation, members, config)

        ratios = []
        for _ in range(rounds if width < 2048 or kind == "base" else 1):
            one, all_ = seconds(lambda: train_some(1)), seconds(lambda: train_some(HEADS))
            ratios.append((all_ / one, one, all_))
        ratio, one, all_ = np.median(ratios, 0)
        yield f"{HEADS} heads {kind}, {width} wide: {all_:.2f} s against {one:.2f} s: {ratio:.1f} x"


def main() -> None:
    """Prints seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for row in compare(HeadConfig(), options.rounds):
        print(row, flush=True)
    for line in many(HeadConfig(), options.rounds):
        print(line, flush=True)


if __name__ == "__main__":
    main()
