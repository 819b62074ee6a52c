"""What is answered about photos in memory: the same as `compare` and `search` say in JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kinembed.cache import Embeddings
from kinembed.cache.stacked import open_caches
from kinembed.config import Precision, SearchConfig
from kinembed.data.photos_now import photos_now
from kinembed.errors import DataError, RunError
from kinembed.evaluation.published import choose_head
from kinembed.evaluation.three_way import priors_of
from kinembed.heads.kept import caches_of, is_cache
from kinembed.inference.comparing import Asked, Comparison
from kinembed.inference.gallery import FILES, By, Gallery, Groups, open_gallery
from kinembed.inference.named_people import FaceReader, NamedPerson, take_faces
from kinembed.inference.probe import probe_of
from kinembed.inference.searching import Check, search_gallery
from kinembed.progress import Progress, silent
from kinembed.report.thumbnails import thumbnail_uri
from kinembed.serving.batching import BatchedAnswerer
from kinembed.serving.turns import Turns

if TYPE_CHECKING:
    from kinembed.data.photos import Pixels

CROP = 224  # side of a crop, pixels
SIDE, QUALITY = 96, 75  # of a picture of who is found, pixels; of its JPEG
MOST_PICTURES = 100  # of an answer


@dataclass(frozen=True)
class Photo:
    """A photo that somebody sent.

    Attributes:
        name: of the file, without folders.
        content: its bytes.
    """

    name: str
    content: bytes


@dataclass(frozen=True)
class Searched:
    """A cache that is searched.

    Attributes:
        cache: of the answerer's network.
        by: what is found: its people, or its photos where nobody is known on them.
        groups: whose its photos are.
        gallery: those who are found.
    """

    cache: Embeddings
    by: By
    groups: Groups
    gallery: Gallery


class Answers:
    """Answers about photos; threads may ask at the same time.

    Args:
        answerer: what answers.
        searched: what is searched; None: nothing.
        missing: why nothing is searched, and what to run.
        photos: the folder that the cache's photos lie below, for pictures of who is found; None: no
            pictures.
    """

    def __init__(
        self,
        answerer: BatchedAnswerer,
        searched: Searched | None,
        missing: str = "",
        photos: Path | None = None,
    ) -> None:
        self.answerer = answerer
        self.photos = photos
        self.searched = searched
        self.missing = missing
        self._readers = {whole: FaceReader(whole=whole) for whole in (False, True)}
        self._searches = Turns()  # one search at a time reads the cache

    @classmethod
    @contextmanager
    def open(
        cls,
        run: Path,
        head: Path | None = None,
        *,
        photos: Path | None = None,
        device: str = "auto",
        precision: Precision = "auto",
        progress: Progress = silent,
    ) -> Iterator[Answers]:
        """Opens what answers, and the networks, so that no request waits for them.

        Args:
            run: the run folder, whose head answers and whose cache is searched.
            head: the head that answers; None: that of the run folder, else the packaged one.
            photos: as above.
            device: of the network.
            precision: of the network.
            progress: shows the progress.

        Raises:
            KinembedError: nothing here can answer.
        """
        import torch

        answerer = BatchedAnswerer.open(
            run, head, device=device, precision=precision, progress=progress
        )
        assert isinstance(answerer, BatchedAnswerer)
        threads = torch.get_num_threads()
        caches = caches_of(run, head=choose_head(run, head))
        absent = next((path for path in caches if not is_cache(path)), None)
        with open_caches(caches) if absent is None else _nothing() as cache:
            searched, missing = None, f"{absent}: no such file to search; run kinembed embed"
            if cache is not None:
                try:
                    searched, missing = _searched(answerer, cache, run, progress), ""
                except RunError as error:  # it is of another network
                    missing = str(error)
            answers = cls(answerer, searched, missing, photos)
            black: Pixels = np.zeros((CROP, CROP, 3), np.uint8)
            answerer.vectors([black])
            for reader in answers._readers.values():
                reader.open()
            torch.set_num_threads(1)  # each request has its own thread
            answerer.start()
            try:
                yield answers
            finally:
                answerer.stop()
                torch.set_num_threads(threads)

    def read(self, photo: Photo, *, crops: bool) -> NamedPerson:
        """The person on a photo, with all faces on it.

        Args:
            photo: the photo.
            crops: it is the crop of one face; none is looked for.

        Raises:
            DataError: it is no photo, or shows no face.
        """
        return NamedPerson.of(self._readers[crops].faces(photo.content, Path(photo.name)))

    def compare(
        self, people: Sequence[NamedPerson], face: Sequence[int], prior: float | None
    ) -> dict[str, Any]:
        """What is known of two people; see `kinembed.compare`.

        Args:
            people: two.
            face: which face of photos that show several.
            prior: share of kin among those compared; None: a third.

        Raises:
            KinembedError: there is no such face, or both photos are one.
        """
        asked = Asked(self.answerer, take_faces(people, face))
        result = Comparison.of_two(asked, priors_of(prior)).as_json()
        del result["files"]
        return result

    def search(
        self, person: NamedPerson, config: SearchConfig, check: Check = lambda: None
    ) -> dict[str, Any]:
        """Who in the cache is most likely kin of a person; see `kinembed.search`.

        Args:
            person: with all faces on the photo.
            config: the settings; its photo and `by` do not matter.
            check: called between blocks of work; raises where nobody waits for the answer any more.

        Raises:
            KinembedError: there is no such face, or nothing to search.
        """
        if self.searched is None:
            raise DataError(self.missing)
        (chosen,) = take_faces([person], () if config.face is None else (config.face,))
        cache, groups, gallery = self.searched.cache, self.searched.groups, self.searched.gallery
        probe = probe_of(chosen, cache, self.answerer)
        config = replace(config, by=self.searched.by)
        with self._searches.mine(check):
            found = search_gallery(config, self.answerer, cache, groups, gallery, probe, check)
        result = found.as_json()
        del result["files"]
        if self.photos is not None:
            shown = [each.photo for each in (*found.same, *found.kin)][:MOST_PICTURES]
            result["pictures"] = self._pictures(shown, self.photos)
        return {**result, "sentences": found.lines()}

    def _pictures(self, names: Sequence[str], folder: Path) -> dict[str, str]:
        """Photos of the cache as data URIs by name; left out are those that are others now."""
        assert self.searched is not None
        cache = self.searched.cache
        inside = [n for n in names if not Path(n).is_absolute() and ".." not in Path(n).parts]
        now = photos_now(cache, folder, cache.find(inside))
        others = {cache.names[row].decode() for row in now.missing | now.changed}
        found = {}
        for name in inside:
            if name not in others:
                with suppress(DataError):  # it can no longer be read
                    found[name] = thumbnail_uri(folder / name, SIDE, QUALITY)
        return found

    def represent(self, person: NamedPerson, face: Sequence[int]) -> dict[str, Any]:
        """The vectors of a face, and what the head makes of them.

        Args:
            person: with all faces on the photo.
            face: which of them, if any.

        Raises:
            KinembedError: there is no such face.
        """
        (chosen,) = take_faces([person], face)
        vectors = self.answerer.vectors([chosen.faces[0].crop])
        photos = self.answerer.represent(vectors)
        return {
            "vectors": {view: block[0].tolist() for view, block in vectors.items()},
            "representation": photos.representations[0].tolist(),
            "source": self.answerer.source,
            "model": self.answerer.head.model,
            "head": self.answerer.head.digest,
            "people": [chosen.as_json()],
        }

    def about(self) -> dict[str, Any]:
        """What answers, and how many people are searched."""
        return {
            "source": self.answerer.source,
            "model": self.answerer.head.model,
            "head": self.answerer.head.digest,
            "searched": None if self.searched is None else len(self.searched.gallery),
            "searched_by": None if self.searched is None else self.searched.by,
            "not_searched": self.missing,
        }


@contextmanager
def _nothing() -> Iterator[None]:
    yield None


def _searched(
    answerer: BatchedAnswerer, cache: Embeddings, run: Path, progress: Progress
) -> Searched:
    """The people of a cache, or its photos.

    Raises:
        RunError: the cache is of another network.
    """
    answerer.cache_photos(cache, np.empty(0, np.intp))  # refuses that of another network
    by: By = "person" if (cache.people != b"").any() else "photo"
    groups = Groups.of(cache, by)
    with progress("Gallery", len(groups.rows)) as bar:
        gallery = open_gallery(run / FILES[by], answerer.head, cache, groups, by, bar.advance)
    return Searched(cache, by, groups, gallery)
