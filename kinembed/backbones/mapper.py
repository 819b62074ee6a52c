"""Maps pixels to the vectors of each view, on a device or in several CPU threads."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Protocol

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from kinembed.arrays import Vectors
from kinembed.backbones.device import autocast, explained_memory
from kinembed.config import Precision
from kinembed.printable import counted
from kinembed.threads import Stopwatch
from kinembed.views import TTA, with_tta


class ReadyNetwork(Protocol):
    """A network prepared for inference: an `Embedder` or an `OnnxEmbedder`."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of its views."""

    @property
    def own_threads(self) -> bool:
        """Whether it splits a batch among threads itself."""

    def __call__(self, photos: Tensor) -> Mapping[str, Tensor]:
        """uint8 RGB photos (N, side, side, 3) to each view (N, D)."""

    def optimize(self, device: torch.device, precision: Precision) -> None:
        """Optimises the network for a device and precision."""


class Mapper:
    """Maps batches of photos to vectors.

    Args:
        network: the network, which is optimised for the device.
        device: of the computation.
        precision: of the computation.
        dtype: of the vectors.
        tta: test-time augmentation: embed each photo mirrored left-right as well.
        less_memory: the options with which a command takes less of the device's memory.

    Attributes:
        views: names of the views, each followed by its mirrored one.
        one_by_one: compute one batch at a time, as on a GPU.
        time: the time spent on computing.
    """

    def __init__(
        self,
        network: ReadyNetwork,
        device: torch.device,
        precision: Precision,
        dtype: DTypeLike = np.float32,
        tta: bool = False,
        less_memory: str = "--device cpu",
    ) -> None:
        self.network = network
        self.device = device
        self.precision: Precision = precision
        self.dtype = dtype
        self.tta = tta
        self.less_memory = less_memory
        self.views = with_tta(network.names) if tta else network.names
        self.one_by_one = network.own_threads or device.type != "cpu"
        self.time = Stopwatch()
        network.optimize(device, precision)

    def map(self, pixels: Sequence[NDArray[np.uint8]]) -> dict[str, Vectors]:
        """N photos (side, side, 3) to each view (N, D).

        Raises:
            KinembedError: the device has no memory for them.
        """
        work = f"{counted(len(pixels), 'photo')} at a time"
        with (
            self.time.running(),
            explained_memory(self.device, work, self.less_memory),
            torch.inference_mode(),
            autocast(self.device, self.precision),
        ):
            photos = torch.from_numpy(np.stack(pixels)).to(self.device, non_blocking=True)
            vectors = dict(self.network(photos))
            if self.tta:
                mirrored = self.network(photos.flip(2))  # (N, side, side, 3), along the width
                vectors |= {view + TTA: x for view, x in mirrored.items()}
            return {v: vectors[v].float().cpu().numpy().astype(self.dtype) for v in self.views}

    @contextmanager
    def threads(self, count: int) -> Iterator[tuple[ThreadPoolExecutor, ThreadPoolExecutor]]:
        """Threads that read photos and threads that map them; on the CPU they are the same.

        On the CPU each thread computes its own batch with one processor, because torch's threads
        would wait for each other after each layer.
        """
        before = torch.get_num_threads()
        with ExitStack() as stack:
            if self.one_by_one:
                readers = ThreadPoolExecutor(count)
                mappers = ThreadPoolExecutor(1)
                stack.callback(mappers.shutdown, cancel_futures=True)
            else:
                # Each thread sets torch's threads for itself and for later threads.
                readers = mappers = ThreadPoolExecutor(count, "", torch.set_num_threads, (1,))
                stack.callback(torch.set_num_threads, before)
            stack.callback(readers.shutdown, cancel_futures=True)
            yield readers, mappers
