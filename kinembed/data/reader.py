"""Reads photos in batches: decodes equal files once and skips unreadable ones."""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kinembed.backbones import Framing
from kinembed.data.listing import Photo
from kinembed.data.photo_processes import Found, Job, PhotoProcesses, read_photos
from kinembed.data.photos import Pixels, log_skipped
from kinembed.errors import DataError
from kinembed.threads import Stopwatch


@dataclass
class Batch:
    """A batch of photos after reading.

    Attributes:
        photos: photos to embed.
        pixels: the pixels of each of these, (side, side, 3) uint8 RGB.
        same: photos with the same bytes as one that is embedded already.
        skipped: names of unreadable photos.
    """

    photos: list[Photo] = field(default_factory=list)
    pixels: list[Pixels] = field(default_factory=list)
    same: list[Photo] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.photos) + len(self.same) + len(self.skipped)


class Reader:
    """Reads photos: `read` in any thread, then `drop_repeats` for batch after batch in order.

    Repeats are looked for among the batches since `forget`.

    Args:
        paths: the files by the photos' names.
        framings: the frame of each photo, by its name; where there are several, equal files are
            not known by their bytes, since their vectors differ.
        known: digests of files that are embedded already.
        skip_unreadable: leave out photos that cannot be decoded.
        processes: which read the photos; None: the threads themselves do.

    Attributes:
        time: the time spent on reading.
    """

    def __init__(
        self,
        paths: Mapping[str, Path],
        framings: Mapping[str, Framing],
        known: Container[bytes] = (),
        skip_unreadable: bool = False,
        processes: PhotoProcesses | None = None,
    ) -> None:
        self.paths = paths
        self.framings = framings
        self.skip_unreadable = skip_unreadable
        self.processes = processes
        self.time = Stopwatch()
        self._one_frame = len(set(framings.values())) <= 1
        self._known = known if self._one_frame else ()
        self._seen: set[bytes] = set()

    def read(self, photos: Sequence[Photo]) -> Batch:
        """Reads photos, and decodes those whose bytes are not known.

        Raises:
            DataError: names the first photo that cannot be decoded, unless these are skipped.
        """
        batch = Batch()
        jobs = [(self.paths[photo.name], self.framings[photo.name]) for photo in photos]
        with self.time.running():
            for photo, found in zip(photos, self._read(jobs), strict=True):
                if isinstance(found, DataError):
                    if not self.skip_unreadable:
                        raise found
                    log_skipped(found)
                    batch.skipped.append(photo.name)
                    continue
                digest, pixels = found
                photo = replace(photo, digest=digest)
                if pixels is None or digest in self._known:
                    batch.same.append(photo)
                else:
                    batch.photos.append(photo)
                    batch.pixels.append(pixels)
        return batch

    def _read(self, jobs: Sequence[Job]) -> Iterable[Found]:
        if self.processes is not None:
            return self.processes.read(jobs)
        return read_photos(jobs, self._known.__contains__)

    def drop_repeats(self, batch: Batch) -> None:
        """Moves photos that repeat the bytes of an earlier one, here or before, to `same`."""
        photos, pixels = batch.photos, batch.pixels
        batch.photos, batch.pixels = [], []
        for photo, image in zip(photos, pixels, strict=True):
            if self._one_frame and photo.digest in self._seen:
                batch.same.append(photo)
            else:
                self._seen.add(photo.digest)
                batch.photos.append(photo)
                batch.pixels.append(image)

    def forget(self) -> None:
        """Forgets the bytes of the photos so far: the next batch is the first of another shard."""
        self._seen.clear()
