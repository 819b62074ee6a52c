"""The loss of fine-tuning in bf16 against float32, compared with its random variation.

Three trainings from the same weights on the same pairs: float32, bf16, and float32 with another
seed of its dropout. Where bf16 is as near to float32 as the third is, it costs nothing.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from kinembed.backbones import find_backbone
from kinembed.backbones.weights import load_trunk
from kinembed.config import FinetuneConfig, Precision
from kinembed.data.families import read_families
from kinembed.data.photos import decode_all
from kinembed.data.samplers import PairSampler
from kinembed.progress import silent
from kinembed.training.pair_trainer import PairTrainer
from kinembed.training.siamese import SiameseNetwork


class SameDraws:
    """A sampler of the same pairs for every seed."""

    def __init__(self, sampler: PairSampler) -> None:
        self.sampler = sampler

    def sample(
        self, steps: int, batch_size: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `PairSampler.sample`."""
        return self.sampler.sample(steps, batch_size, np.random.default_rng(0))


def losses(
    config: FinetuneConfig, photos: torch.Tensor, sampler: SameDraws, precision: Precision
) -> np.ndarray:
    """The loss of each step; an epoch of the training is one step."""
    backbone = find_backbone(config.backbone)
    torch.manual_seed(0)
    network = SiameseNetwork(
        backbone, load_trunk(backbone, config.weights), config.view, config.full_recipe()
    )
    trainer = PairTrainer(network, config, photos, torch.device("cpu"), precision)
    rows, labels = sampler.sample(config.epochs, config.batch_size, np.random.default_rng())
    kept = []
    for step in range(config.epochs):
        one = _Fixed(rows[step : step + 1], labels[step : step + 1])
        kept.append(trainer.train(one, step, [], silent)[0])
    return np.array(kept)


class _Fixed:
    def __init__(self, rows: np.ndarray, labels: np.ndarray) -> None:
        self.pairs = rows, labels

    def sample(self, *_: object) -> tuple[np.ndarray, np.ndarray]:
        """All pairs."""
        return self.pairs


def main() -> None:
    """Prints the three curves and their mean distances."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--recipe", default="regularized")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--pairs", type=int, default=8, help="of a step")
    parser.add_argument("--rate", help="another learning rate than the recipe's")
    options = parser.parse_args()
    families = read_families(options.data)
    backbone = find_backbone(options.backbone)
    names = [options.data / name for name in families.photos]
    pixels, _ = decode_all(names, backbone.framing, skip_unreadable=False)
    sampler = SameDraws(PairSampler(families, np.arange(len(families.people))))
    curves = {}
    for label, precision, seed in (
        ("float32", "fp32", 0),
        ("bf16", "bf16", 0),
        ("float32, other dropout", "fp32", 1),
    ):
        config = FinetuneConfig(
            backbone=options.backbone,
            weights=options.weights,
            recipe=options.recipe,
            steps=1,
            epochs=options.steps,
            batch_size=options.pairs,
            seed=seed,
            overrides=(f"learning_rate={options.rate}",) if options.rate else (),
        )
        curves[label] = losses(config, torch.from_numpy(pixels), sampler, precision)
        tenths = np.array_split(curves[label], min(10, options.steps))
        print(f"{label:24}" + " ".join(f"{part.mean():.4f}" for part in tenths), flush=True)
    plain, bf16, other = curves.values()
    print(f"mean distance of bf16 from float32           {np.abs(bf16 - plain).mean():.4f}")
    print(f"mean distance of float32 with other dropout  {np.abs(other - plain).mean():.4f}")


if __name__ == "__main__":
    main()
