"""A pass of MobileFaceNet forward and back as recipe `kin` does it, against torch's own way.

    python benchmarks/replicated_forward.py

Both sides are in evaluation mode, so that BatchNorm keeps its statistics, and give the same
gradients (tests/training/test_frozen_batchnorm.py). The limit is the arithmetic: three times
the .44 GFLOP of a photo.
"""

import argparse
from collections.abc import Callable, Iterator

import torch
from turns import Comparison, compared, in_turns

from kinembed.backbones import find_backbone
from kinembed.backbones.device import channels_last
from kinembed.backbones.weights import load_trunk
from kinembed.memory import reused_memory
from kinembed.recipes import find_finetune_recipe
from kinembed.threads import processors
from kinembed.training.contrastive_trainer import ViewOfTrunk
from kinembed.training.frozen_batchnorm import ReplicatedForward
from kinembed.training.siamese import SiameseNetwork


def passes(count: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """A pass of so many photos, as recipe `kin` does it, and by torch's own way."""
    backbone = find_backbone("mobilefacenet")
    torch.manual_seed(0)
    trunk = load_trunk(backbone, "none")
    network = SiameseNetwork(backbone, trunk, "native", find_finetune_recipe("kin")).eval()
    channels_last(network)
    plain, replicated = ViewOfTrunk(network), ReplicatedForward(ViewOfTrunk(network), processors())
    side = backbone.framing.side
    photos = torch.randn(count, 3, side, side).contiguous(memory_format=torch.channels_last)
    threads = torch.get_num_threads()

    def by_torch() -> None:
        torch.set_num_threads(threads)
        plain(photos).square().sum().backward()

    def by_parts() -> None:
        torch.set_num_threads(1)
        vectors = replicated.forward(photos)
        replicated.backward(2 * vectors)
        torch.set_num_threads(threads)

    return by_parts, by_torch


def compare(count: int = 96, rounds: int = 3) -> Iterator[Comparison]:
    """A pass forward and back on each side."""
    with reused_memory():  # as the command has it
        times = in_turns(dict(zip(("ours", "torch"), passes(count), strict=True)), rounds)
    what = f"a pass of recipe kin forward and back, MobileFaceNet, {count} photos"
    yield compared(what, "torch's own way", "photos/s", *times.values(), amount=count)


def main() -> None:
    """Prints photos a second of each side, in turns, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for row in compare(options.photos, options.rounds):
        print(row)


if __name__ == "__main__":
    main()
