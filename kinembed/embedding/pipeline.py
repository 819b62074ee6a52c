"""The way of a batch: a reader decodes photos, a mapper computes vectors, a writer keeps them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import TYPE_CHECKING

from kinembed.arrays import Vectors
from kinembed.data.listing import Photo
from kinembed.data.reader import Batch, Reader
from kinembed.embedding.shards import ShardWriter
from kinembed.progress import Bar
from kinembed.threads import processors

if TYPE_CHECKING:
    from kinembed.backbones.mapper import Mapper  # torch

# Beside a GPU, photos are read by processes, not by threads, where that many processors read that
# many photos: on fewer processors threads are as fast, and of few photos they are read already.
PROCESSORS, MANY = 4, 1000


def in_processes(mapper: Mapper, photos: int) -> bool:
    """Whether processes read the photos, in place of threads."""
    return mapper.device.type != "cpu" and processors() >= PROCESSORS and photos >= MANY


def compute_batches(
    batches: Iterable[tuple[int, Sequence[Photo]]],
    reader: Reader,
    mapper: Mapper,
    writer: ShardWriter,
    bar: Bar,
) -> None:
    """Reads, maps and writes batches of shards in order, several at a time.

    The contents of a batch, and hence its vectors, do not depend on the number of threads.
    """
    count, waiting = processors(), iter(batches)
    read: deque[tuple[int, Future[Batch]]] = deque()
    mapped: deque[tuple[int, Batch, Future[dict[str, Vectors]] | None]] = deque()
    shard = None
    with mapper.threads(count) as (readers, mappers):
        while True:
            for number, photos in islice(waiting, 2 * count + 1 - len(read)):
                read.append((number, readers.submit(reader.read, photos)))
            if read and len(mapped) <= count:
                number, reading = read.popleft()
                batch = reading.result()
                if number != shard:
                    reader.forget()
                    shard = number
                reader.drop_repeats(batch)
                future = mappers.submit(mapper.map, batch.pixels) if batch.photos else None
                mapped.append((number, batch, future))
            elif mapped:
                number, batch, future = mapped.popleft()
                vectors = future.result() if future is not None else {}
                batch.pixels = []
                bar.advance(len(batch))
                writer.write(number, batch, vectors)
            else:
                return
