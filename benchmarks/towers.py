"""A step of the report's recipe with both towers at once, against one after the other.

    python benchmarks/towers.py --pairs 32

Both sides take as many threads in all, and give the same gradients (tests/training/test_towers.py).
"""

import argparse
from collections.abc import Callable

import torch
from keras import SamePairs
from turns import compared, in_turns

from kinembed.backbones import find_backbone
from kinembed.backbones.device import choose_precision
from kinembed.backbones.weights import load_trunk
from kinembed.config import FinetuneConfig, Precision
from kinembed.memory import reused_memory
from kinembed.progress import silent
from kinembed.recipes import find_recipe
from kinembed.training import pair_trainer
from kinembed.training.siamese import SiameseNetwork

CPU = torch.device("cpu")


def step(name: str, pairs: int, precision: Precision, at_once: bool) -> Callable[[], object]:
    """What trains one step."""
    backbone = find_backbone(name)
    torch.manual_seed(0)
    trunk = load_trunk(backbone, "none")
    network = SiameseNetwork(backbone, trunk, "max", find_recipe("regularized"))
    side = backbone.framing.side
    photos = torch.randint(0, 256, (2 * pairs, side, side, 3), dtype=torch.uint8)
    config = FinetuneConfig(weights="none", steps=1, batch_size=pairs, epochs=1)
    can_run_parallel = pair_trainer.can_run_parallel
    pair_trainer.can_run_parallel = lambda *_: at_once
    trainer = pair_trainer.PairTrainer(network, config, photos, CPU, precision)
    pair_trainer.can_run_parallel = can_run_parallel
    return lambda: trainer.train(SamePairs(), 0, [], silent)


def main() -> None:
    """Prints photos a second of each side, in turns, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    options = parser.parse_args()
    precision = choose_precision(options.precision, CPU)
    given = options.backbone, options.pairs, precision
    with reused_memory():
        sides = {"at once": step(*given, True), "one by one": step(*given, False)}
        times = in_turns(sides, options.rounds, warm=2)
    what = f"a step of regularized, {options.backbone} in {precision}, {options.pairs} pairs"
    photos = 2 * options.pairs
    print(compared(what, "one tower after the other", "photos/s", *times.values(), amount=photos))


if __name__ == "__main__":
    main()
