"""ResNet-50 fine-tuned and run by kinembed, and by keras-vggface's network in Keras, in turns.

    python -m venv keras && keras/bin/pip install tensorflow-cpu tf_keras
    python benchmarks/keras.py --keras keras/bin/python

Both sides take photos that are decoded already, use the same threads, and wait while the other
works. Training is a whole step of the report's recipe: two towers, all layers, Adam. Photos are
embedded as `kinembed embed` does, a batch in each thread.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from turns import Comparison, compared

from kinembed.backbones import find_backbone
from kinembed.backbones.device import choose_precision
from kinembed.backbones.embedder import Embedder
from kinembed.backbones.mapper import Mapper
from kinembed.backbones.weights import load_trunk
from kinembed.config import FinetuneConfig, Precision
from kinembed.memory import reused_memory
from kinembed.progress import silent
from kinembed.recipes import find_recipe
from kinembed.training.pair_trainer import PairTrainer
from kinembed.training.siamese import SiameseNetwork

CPU = torch.device("cpu")
BATCH = 16  # photos, as of `kinembed embed`


class SamePairs:
    """In place of a `PairSampler`: the photos in their order, three of five pairs kin."""

    def sample(
        self, steps: int, batch_size: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows (steps, batch, 2) and labels (steps, batch)."""
        rows = np.arange(2 * batch_size).reshape(2, batch_size).T
        labels = (np.arange(batch_size) % 5 < 3).astype(np.float32)
        return np.tile(rows, (steps, 1, 1)), np.tile(labels, (steps, 1))


class Keras:
    """The other side, a process of its own; it waits for its turns."""

    def __init__(self, python: Path, mode: str, photos: int, threads: int) -> None:
        side = Path(__file__).with_name("keras_side.py")
        command = [python, side, mode, str(photos), str(threads)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if self.process.stdout.readline().strip() != "ready":
            sys.exit(f"{python}: could not run {side}; does it have tensorflow-cpu and tf_keras?")

    def turn(self, steps: int) -> float:
        """Seconds of so many steps."""
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()


def training(photos: int, precision: Precision, steps: int) -> Callable[[], float]:
    """What trains so many steps and returns the seconds."""
    backbone = find_backbone("resnet50")
    network = SiameseNetwork(
        backbone, load_trunk(backbone, "none"), "max", find_recipe("regularized")
    )
    pixels = torch.randint(0, 256, (photos, 224, 224, 3), dtype=torch.uint8)
    config = FinetuneConfig(weights="none", steps=steps, batch_size=photos // 2, epochs=1)
    trainer = PairTrainer(network, config, pixels, CPU, precision)

    def turn() -> float:
        start = time.perf_counter()
        trainer.train(SamePairs(), 0, [], silent)
        return time.perf_counter() - start

    return turn


def embedding(photos: int, precision: Precision, steps: int) -> Callable[[], float]:
    """What embeds the photos so many times and returns the seconds."""
    backbone = find_backbone("resnet50")
    embedder = Embedder(backbone, load_trunk(backbone, "none").eval(), ("max",))
    mapper, threads = Mapper(embedder, CPU, precision), torch.get_num_threads()
    pixels = np.random.default_rng(0).integers(256, size=(photos, 224, 224, 3), dtype=np.uint8)
    size = min(BATCH, -(-photos // threads))
    batches = [list(pixels[at : at + size]) for at in range(0, photos, size)] * steps

    def turn() -> float:
        start = time.perf_counter()
        with mapper.threads(threads) as (_, mappers):
            list(mappers.map(mapper.map, batches))
        return time.perf_counter() - start

    return turn


def compare(
    python: Path, pairs: int, rounds: int, steps: int, precision: Precision, threads: int
) -> Iterator[Comparison]:
    """Training, then inference, with so many pairs of photos a step."""
    torch.set_num_threads(threads)
    photos = 2 * pairs
    for what, mode, prepare in (
        ("fine-tuning ResNet-50", "train", training),
        ("ResNet-50, inference", "infer", embedding),
    ):
        keras = Keras(python, mode, photos, threads)
        with reused_memory() if mode == "train" else nullcontext():  # as the commands have it
            ours = prepare(photos, precision, steps)
            ours(), ours()  # as often as the other side warms up
            turns = [(ours(), keras.turn(steps)) for _ in range(rounds)]
        keras.close()
        done = photos * steps
        what = f"{what}, kinembed in {precision}, {photos} photos a step"
        yield compared(what, "Keras", "photos/s", *zip(*turns, strict=True), amount=done)


def main() -> None:
    """Prints photos a second of both sides and the median ratio of their turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keras", type=Path, required=True, help="a python with TensorFlow")
    parser.add_argument("--pairs", type=int, default=32, help="of a training step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="of a turn")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    precision = choose_precision(options.precision, CPU)
    print(f"{options.threads} threads")
    for row in compare(
        options.keras, options.pairs, options.rounds, options.steps, precision, options.threads
    ):
        print(row, flush=True)


if __name__ == "__main__":
    main()
