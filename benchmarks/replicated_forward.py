"""A pass of MobileFaceNet forward and back as recipe `kin` does it, against torch's own way.

    python benchmarks/replicated_forward.py

Both sides are in evaluation mode, so that BatchNorm keeps its statistics, and give the same
gradients (tests/training/test_frozen_batchnorm.py). The limit is the arithmetic: three times
the .44 GFLOP of a photo.
"""

import argparse
import time

import numpy as np
import torch

from kinembed.backbones import find_backbone
from kinembed.backbones.device import channels_last
from kinembed.backbones.weights import load_trunk
from kinembed.recipes import find_finetune_recipe
from kinembed.threads import processors
from kinembed.training.contrastive_trainer import ViewOfTrunk
from kinembed.training.frozen_batchnorm import ReplicatedForward
from kinembed.training.siamese import SiameseNetwork


def main() -> None:
    """Prints seconds of each side, in turns, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    backbone = find_backbone("mobilefacenet")
    torch.manual_seed(0)
    trunk = load_trunk(backbone, "none")
    network = SiameseNetwork(backbone, trunk, "native", find_finetune_recipe("kin")).eval()
    channels_last(network)
    plain, replicated = ViewOfTrunk(network), ReplicatedForward(ViewOfTrunk(network), processors())
    side = backbone.framing.side
    photos = torch.randn(options.photos, 3, side, side).contiguous(
        memory_format=torch.channels_last
    )
    threads = torch.get_num_threads()

    def by_torch() -> None:
        torch.set_num_threads(threads)
        plain(photos).square().sum().backward()

    def by_parts() -> None:
        torch.set_num_threads(1)
        vectors = replicated.forward(photos)
        replicated.backward(2 * vectors)

    seconds: dict[str, list[float]] = {"torch": [], "in parts": []}
    for turn in range(options.rounds + 1):
        for name, work in (("torch", by_torch), ("in parts", by_parts)):
            start = time.perf_counter()
            work()
            if turn:  # the first warms up
                seconds[name].append(time.perf_counter() - start)
    one, other = (float(np.median(each)) for each in seconds.values())
    print(
        f"{options.photos} photos: torch {one:.2f} s, in parts {other:.2f} s: {one / other:.2f} x"
    )


if __name__ == "__main__":
    main()
