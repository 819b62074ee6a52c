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
from kinembed.memory import reused_memory
from kinembed.printable import counted
from kinembed.threads import Stopwatch
from kinembed.views import TTA, with_tta

# Batches on a GPU at a time: while one is computed, the next is copied there and its kernels are
# started, each in a stream of its own.
ON_GPU = 2


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
        one_by_one: the threads that read do not compute, as on a GPU.
        at_once: how many batches are computed at the same time; None: as many as threads read.
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
        self.at_once: int | None = None
        if self.one_by_one:
            self.at_once = 1 if network.own_threads or device.type != "cuda" else ON_GPU
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
            photos = torch.from_numpy(stacked(pixels)).to(self.device, non_blocking=True)
            vectors = dict(self.network(photos))
            if self.tta:
                mirrored = self.network(photos.flip(2))  # (N, side, side, 3), along the width
                vectors |= {view + TTA: x for view, x in mirrored.items()}
            return {v: vectors[v].float().cpu().numpy().astype(self.dtype) for v in self.views}

    @contextmanager
    def threads(self, count: int) -> Iterator[tuple[ThreadPoolExecutor, ThreadPoolExecutor]]:
        """Threads that read photos and threads that map them; on the CPU they are the same.

        On the CPU each thread computes its own batch with one processor, because torch's threads
        would wait for each other after each layer. There, freed memory is kept for the next maps,
        which else come page by page from the system.
        """
        before = torch.get_num_threads()
        with ExitStack() as stack:
            if self.one_by_one:
                readers = ThreadPoolExecutor(count)
                mappers = ThreadPoolExecutor(self.at_once, "", self._take_stream)
                stack.callback(mappers.shutdown, cancel_futures=True)
            else:
                # Each thread sets torch's threads for itself and for later threads.
                stack.enter_context(reused_memory())
                readers = mappers = ThreadPoolExecutor(count, "", torch.set_num_threads, (1,))
                stack.callback(torch.set_num_threads, before)
            stack.callback(readers.shutdown, cancel_futures=True)
            yield readers, mappers

    def _take_stream(self) -> None:
        """Gives a thread a stream of a GPU for itself, where there are several threads."""
        if self.at_once != 1:
            torch.cuda.synchronize(self.device)  # the network is there
            torch.cuda.set_stream(torch.cuda.Stream(self.device))  # type: ignore[no-untyped-call]


def stacked(pixels: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Photos (side, side, 3) as one array (N, side, side, 3); no copy of what is one already."""
    first, whole = pixels[0], pixels[0].base
    if isinstance(whole, np.ndarray) and whole.ndim == 1 and whole.flags.c_contiguous:
        start, size = _address(first) - _address(whole), first.nbytes
        follows = (
            each.base is whole
            and each.shape == first.shape
            and each.flags.c_contiguous
            and _address(each) == _address(whole) + start + number * size
            for number, each in enumerate(pixels)
        )
        if whole.dtype == np.uint8 and all(follows):
            return whole[start : start + len(pixels) * size].reshape(-1, *first.shape)
    return np.stack(pixels)


def _address(x: NDArray[np.uint8]) -> int:
    address: int = x.__array_interface__["data"][0]
    return address
