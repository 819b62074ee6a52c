"""The report's head protocol from a cache, against straightforward loops.

    python benchmarks/head.py

30 epochs of 100 steps of 32 pairs, 30 validation steps after each, on 18,661 x 2048 vectors, head
2048-100-25-1 with L2. The loops are a Dataset with a DataLoader, and the same on tensors; both
train the same network with torch's own Adam and autograd. Then 32 heads in one pass against one.
"""

import argparse
import random
import time
from dataclasses import replace

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

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


def product_rate(batch: int, width: int, out: int) -> float:
    """Operations a second of the layer's own product."""
    x, w = torch.rand(batch, width), torch.rand(width, out)
    best = min(_seconds(lambda: x @ w) for _ in range(200))
    return 2 * batch * width * out / best


def _seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Prints seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    known = families()
    rng = np.random.default_rng(0)
    order = rng.permutation(2316)
    train, validation = PairSampler(known, order[463:]), PairSampler(known, order[:463])
    config, recipe = HeadConfig(), RECIPES["regularized"]
    vectors = rng.standard_normal((ROWS, 2048), np.float32)
    # Families share a direction.
    family = np.array([int(name.split("/")[1][1:]) for name in known.photos])
    vectors[:, :64] += 1.5 * rng.standard_normal((464, 64), np.float32)[family]
    np.maximum(vectors, 0, out=vectors)
    times, curves = {}, {}
    for _ in range(options.rounds):
        for name, work in {
            "kinembed": lambda: [
                row.val_auc
                for row in train_pair_heads(vectors, train, validation, [(recipe, 0)], config)[
                    0
                ].history
            ],
            "other seed": lambda: [
                row.val_auc
                for row in train_pair_heads(
                    vectors, train, validation, [(recipe, 1)], replace(config, seed=0)
                )[0].history
            ],
            "tensors": lambda: plain(vectors, train, validation, config),
            "DataLoader": lambda: plain(vectors, train, validation, config, known),
        }.items():
            start = time.perf_counter()
            curves[name] = np.array(work())
            times.setdefault(name, []).append(time.perf_counter() - start)
    ours = np.array(times["kinembed"])
    print(f"18,661 x 2048, 30 x 100 x 32 pairs: kinembed {np.median(ours):.2f} s")
    for name in ("tensors", "DataLoader"):
        other = np.array(times[name])
        print(f"{name:>12} {np.median(other):6.2f} s, {np.median(other / ours):.1f} x")
    for name in ("tensors", "DataLoader", "other seed"):
        apart = np.abs(curves["kinembed"] - curves[name])
        print(f"validation AUC against {name}: {apart.mean():.4f} apart on average")
    pairs = config.pair_epochs * config.pair_steps * config.batch_size
    judged = config.pair_epochs * config.val_steps * config.batch_size
    operations = 2 * 2048 * 100 * (2 * pairs + judged)
    floor = operations / product_rate(config.batch_size, 2048, 100)
    print(
        f"arithmetic of the first layer: {operations / 1e9:.0f} G operations, {floor:.2f} s at the "
        f"rate of its own product; {np.median(ours) / floor:.1f} times that are taken"
    )
    for width, kind in ((2048, "base"), (128, WIDE), (512, WIDE), (2048, WIDE)):
        own = np.ascontiguousarray(vectors[:, :width])

        def train_some(count: int, own=own, kind=kind) -> None:
            members = [(RECIPES[kind], seed) for seed in range(count)]
            train_pair_heads(own, train, validation, members, config)

        ratios = []
        for _ in range(options.rounds if width < 2048 or kind == "base" else 1):
            one, many = _seconds(lambda: train_some(1)), _seconds(lambda: train_some(HEADS))
            ratios.append((many / one, one, many))
        ratio, one, many = np.median(ratios, 0)
        print(
            f"{HEADS} heads {kind}, {width} wide: {many:.2f} s against {one:.2f} s: {ratio:.1f} x"
        )


if __name__ == "__main__":
    main()
