"""Mapping pixels to vectors: views, mirrored photos, types, and threads."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor

from kinembed.backbones.device import choose_device
from kinembed.backbones.mapper import ON_GPU, Mapper, stacked
from kinembed.config import Precision

CPU = torch.device("cpu")
PHOTOS = list(np.random.default_rng(4).integers(256, size=(5, 6, 6, 3), dtype=np.uint8))


class Columns:
    """A network whose views can be computed by hand: colours of the first column, and their sum."""

    names = ("left", "sum")

    def __init__(self, own_threads: bool = False) -> None:
        self.own_threads = own_threads
        self.optimized: list[tuple[str, Precision]] = []
        self.seen: list[tuple[int, int]] = []  # thread, and torch's threads in it

    def __call__(self, photos: Tensor) -> Mapping[str, Tensor]:
        self.seen.append((threading.get_ident(), torch.get_num_threads()))
        left = photos[:, :, 0].float().mean(1)  # (N, 3)
        return {"sum": left.sum(1, keepdim=True), "left": left, "unasked": left}

    def optimize(self, device: torch.device, precision: Precision) -> None:
        self.optimized.append((device.type, precision))


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_each_view_is_the_networks(kind: str) -> None:
    network = Columns()
    mapper = Mapper(network, CPU, "fp32", kind)
    assert mapper.views == ("left", "sum") and network.optimized == [("cpu", "fp32")]
    vectors = mapper.map(PHOTOS)
    wanted = np.stack(PHOTOS)[:, :, 0].astype(np.float32).mean(1)
    assert tuple(vectors) == mapper.views
    assert {x.dtype for x in vectors.values()} == {np.dtype(kind)}
    assert np.allclose(vectors["left"], wanted.astype(kind), rtol=1e-3)
    assert np.allclose(vectors["sum"], wanted.sum(1, keepdims=True), rtol=1e-3)
    assert mapper.time.seconds > 0


def test_test_time_augmentation_embeds_photos_mirrored_left_right() -> None:
    mapper = Mapper(Columns(), CPU, "fp32", tta=True)
    assert mapper.views == ("left", "left-flip", "sum", "sum-flip")
    vectors = mapper.map(PHOTOS)
    plain = Mapper(Columns(), CPU, "fp32")
    mirrored = plain.map([photo[:, ::-1] for photo in PHOTOS])
    for view, x in plain.map(PHOTOS).items():
        assert vectors[view].tobytes() == x.tobytes()
        assert vectors[f"{view}-flip"].tobytes() == mirrored[view].tobytes() != x.tobytes()


def test_on_the_cpu_threads_read_and_map_with_one_torch_thread_each() -> None:
    network, before = Columns(), torch.get_num_threads()
    mapper = Mapper(network, CPU, "fp32")
    with mapper.threads(3) as (readers, mappers):
        assert readers is mappers
        for future in [mappers.submit(mapper.map, PHOTOS) for _ in range(12)]:
            future.result()
    assert not mapper.one_by_one
    assert {count for _, count in network.seen} == {1}
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("own_threads", [False, True])
def test_on_the_cpu_threads_keep_what_they_free_until_they_end(
    own_threads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[str] = []

    @contextmanager
    def reused_memory() -> Iterator[None]:
        kept.append("from here")
        yield
        kept.append(f"to here, with {threading.active_count() - before} threads")

    monkeypatch.setattr("kinembed.backbones.mapper.reused_memory", reused_memory)
    before = threading.active_count()
    mapper = Mapper(Columns(own_threads), CPU, "fp32")
    with mapper.threads(2) as (_, mappers):
        mappers.submit(mapper.map, PHOTOS).result()
        assert kept == ([] if own_threads else ["from here"])
    assert kept == ([] if own_threads else ["from here", "to here, with 0 threads"])


def test_a_network_with_threads_of_its_own_maps_one_batch_at_a_time() -> None:
    network, before = Columns(own_threads=True), torch.get_num_threads()
    mapper = Mapper(network, CPU, "fp32")
    with mapper.threads(3) as (readers, mappers):
        assert readers is not mappers
        for future in [mappers.submit(mapper.map, PHOTOS) for _ in range(6)]:
            future.result()
    assert mapper.one_by_one
    assert len({thread for thread, _ in network.seen}) == 1
    assert torch.get_num_threads() == before


def test_a_gpu_maps_batches_in_streams_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in for a GPU: the streams are numbers, and the network waits for the others."""
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: threading.get_ident())
    monkeypatch.setattr(torch.cuda, "set_stream", taken.append)
    together = threading.Barrier(ON_GPU)
    mapper = Mapper(Columns(), torch.device("cuda"), "fp32")
    with mapper.threads(3) as (_, mappers):
        for future in [mappers.submit(together.wait, 10) for _ in range(2 * ON_GPU)]:
            future.result()
    assert mapper.at_once == ON_GPU == len(set(taken)) == len(taken) > 1
    kinds = {"cpu": (None, 1), "mps": (1, 1), "cuda": (ON_GPU, 1)}
    for kind, wanted in kinds.items():
        found = (Mapper(Columns(own), torch.device(kind), "fp32").at_once for own in (False, True))
        assert tuple(found) == wanted


def test_photos_that_lie_one_after_another_are_not_copied() -> None:
    memory = np.arange(3 + 4 * 12, dtype=np.uint8)
    photos = [memory[3 + 12 * i : 15 + 12 * i].reshape(2, 2, 3) for i in range(4)]
    for some, is_one in (
        (photos, True), (photos[1:3], True), (photos[3:], True),
        (photos[::2], False), (photos[::-1], False), (PHOTOS, False),
        ([photos[0], photos[1][:, ::-1]], False), ([photos[0], photos[1].copy()], False),
        ([photos[0][:, ::-1]], False),
    ):  # fmt: skip
        found = stacked(some)
        assert np.array_equal(found, np.stack(some)) and found.dtype == np.uint8
        assert found.flags.c_contiguous and np.shares_memory(found, memory) == is_one


def test_what_is_waiting_is_dropped_when_something_fails() -> None:
    mapper = Mapper(Columns(own_threads=True), CPU, "fp32")
    hold = threading.Event()
    with pytest.raises(ZeroDivisionError), mapper.threads(1) as (readers, mappers):
        mappers.submit(hold.wait, 10)
        waiting = mappers.submit(mapper.map, PHOTOS)
        hold.set()
        readers.submit(hold.wait, 10)
        raise ZeroDivisionError
    assert waiting.done()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_a_device_maps_as_the_cpu_does() -> None:
    device = choose_device("cuda")
    mapper = Mapper(Columns(), device, "fp32", tta=True)
    assert mapper.one_by_one
    wanted = Mapper(Columns(), CPU, "fp32", tta=True).map(PHOTOS)
    for view, x in mapper.map(PHOTOS).items():
        assert np.allclose(x, wanted[view], rtol=1e-5)
