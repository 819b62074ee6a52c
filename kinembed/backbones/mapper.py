"""Photos' pixels to the vectors of each view: on a device, or on the CPU in several threads."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Protocol

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from kinembed.arrays import Vectors
from kinembed.backbones.device import autocast
from kinembed.config import Precision
from kinembed.threads import Stopwatch
from kinembed.views import TTA, with_tta


class ReadyNetwork(Protocol):
    """A network made ready to embed: an `Embedder`, or an `OnnxEmbedder`."""

    @property
    def names(self) -> tuple[str, ...]:
        """The views it gives."""

    @property
    def own_threads(self) -> bool:
        """Whether it shares a batch among threads of its own."""

    def __call__(self, photos: Tensor) -> Mapping[str, Tensor]:
        """uint8 RGB photos (N, side, side, 3) to each view (N, D)."""

    def optimize(self, device: torch.device, precision: Precision) -> None:
        """Makes it as fast as the device allows."""


class Mapper:
    """Maps batches of photos to vectors.

    Args:
        network: what embeds; it is made as fast as the device allows.
        device: where it computes.
        precision: what it computes in.
        dtype: of the vectors.
        tta: test-time augmentation: each photo is embedded mirrored left-right as well.

    Attributes:
        views: names of the vectors, those of mirrored photos behind the others.
        one_by_one: batches are computed one after the other, as on a device.
        time: spent on computing.
    """

    def __init__(
        self,
        network: ReadyNetwork,
        device: torch.device,
        precision: Precision,
        dtype: DTypeLike = np.float32,
        tta: bool = False,
    ) -> None:
        self.network = network
        self.device = device
        self.precision: Precision = precision
        self.dtype = dtype
        self.tta = tta
        self.views = with_tta(network.names) if tta else network.names
        self.one_by_one = network.own_threads or device.type != "cpu"
        self.time = Stopwatch()
        network.optimize(device, precision)

    def map(self, pixels: Sequence[NDArray[np.uint8]]) -> dict[str, Vectors]:
        """Photos (side, side, 3), N of them, to each view (N, D)."""
        with self.time.running(), torch.inference_mode(), autocast(self.device, self.precision):
            photos = torch.from_numpy(np.stack(pixels)).to(self.device, non_blocking=True)
            vectors = dict(self.network(photos))
            if self.tta:
                mirrored = self.network(photos.flip(2))  # (N, side, side, 3), along the width
                vectors |= {view + TTA: x for view, x in mirrored.items()}
            return {v: vectors[v].float().cpu().numpy().astype(self.dtype) for v in self.views}

    @contextmanager
    def threads(self, count: int) -> Iterator[tuple[ThreadPoolExecutor, ThreadPoolExecutor]]:
        """Threads that read photos, and those that map them; on the CPU they are the same.

        There each computes a batch on a processor of its own: torch's own threads would wait for
        each other after each layer.
        """
        before = torch.get_num_threads()
        with ExitStack() as stack:
            if self.one_by_one:
                readers = ThreadPoolExecutor(count)
                mappers = ThreadPoolExecutor(1)
                stack.callback(mappers.shutdown, cancel_futures=True)
            else:
                # Each thread sets its own number, and that which threads begun later have.
                readers = mappers = ThreadPoolExecutor(count, "", torch.set_num_threads, (1,))
                stack.callback(torch.set_num_threads, before)
            stack.callback(readers.shutdown, cancel_futures=True)
            yield readers, mappers
