"""What each network costs: parameters, GFLOPs a photo, photos a second beside MobileFaceNet's.

    python benchmarks/networks.py

Networks have random weights, photos are noise; nothing is decoded and nothing downloaded. In a
round every network computes some photos once, in each precision, in a thread a processor as
`kinembed embed` does. Time is that of the processors, which a busy machine changes less than the
clock's. The ratio of a round is of the photos a second of a network to those of MobileFaceNet in
the same round and precision. A multiplication and an addition are two operations.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from turns import figure

from kinembed.backbones import BACKBONES, Backbone
from kinembed.backbones.device import choose_precision
from kinembed.backbones.embedder import Embedder
from kinembed.backbones.mapper import Mapper
from kinembed.backbones.weights import load_trunk
from kinembed.config import Precision
from kinembed.threads import processors

CPU = torch.device("cpu")
STANDARD = "mobilefacenet"
BATCH = 8


def view_of(backbone: Backbone) -> str:
    """The view that takes all of a network."""
    return "native" if "native" in backbone.views else "max"


def gflops(backbone: Backbone) -> float:
    """Billions of operations of a photo."""
    side = backbone.framing.side
    with torch.device("meta"):  # without numbers, so that nothing is computed
        trunk, photo = backbone.build().eval(), torch.zeros(1, 3, side, side)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        trunk.views(photo, (view_of(backbone),))
    return counter.get_total_flops() / 1e9


def turn_of(backbone: Backbone, precision: Precision, photos: int) -> Callable[[], object]:
    """What computes the vectors of so many photos, in a thread a processor."""
    torch.manual_seed(0)
    network = Embedder(backbone, load_trunk(backbone, "none"), (view_of(backbone),))
    mapper = Mapper(network, CPU, precision)
    side = backbone.framing.side
    batch = [*np.random.default_rng(0).integers(0, 256, (BATCH, side, side, 3), np.uint8)]

    def turn() -> None:
        with mapper.threads(processors()) as (_, mappers):
            for _ in mappers.map(mapper.map, [batch] * (photos // BATCH)):
                pass

    return turn


def main() -> None:
    """Prints a row for each network that is built in."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=16, help=f"of a turn; a multiple of {BATCH}")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    networks = [backbone for backbone in BACKBONES.values() if not backbone.is_onnx]
    precisions: list[Precision] = ["fp32"]
    if choose_precision("auto", CPU) == "bf16":  # this processor computes in it
        precisions.append("bf16")
    turns = {
        (each.name, precision): turn_of(each, precision, options.photos)
        for each in networks
        for precision in precisions
    }
    seconds: dict[tuple[str, Precision], list[float]] = {side: [] for side in turns}
    for number in range(1 + options.rounds):
        for side, turn in turns.items():
            start = time.process_time()
            turn()
            if number:  # the first warms up
                seconds[side].append(time.process_time() - start)
    print(f"photos a second of a processor, {STANDARD}: ", end="")
    for precision in precisions:
        rate = options.photos / np.median(seconds[STANDARD, precision])
        print(f"{precision} {figure(rate)}", end="; ")
    print(f"{processors()} processors, {options.rounds} rounds of {options.photos} photos")
    print(f"| network | M parameters | GFLOPs a photo | {' | '.join(precisions)} |")
    print("|---|---|---|" + "---|" * len(precisions))
    for each in networks:
        cells = [f"{each.parameters / 1e6:.3g}", f"{gflops(each):.3g}"]
        for precision in precisions:
            ratios = np.divide(seconds[STANDARD, precision], seconds[each.name, precision])
            spread = f"{figure(ratios.min())} to {figure(ratios.max())}"
            cells.append(f"{figure(np.median(ratios))} ({spread})")
        print(f"| {each.name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
