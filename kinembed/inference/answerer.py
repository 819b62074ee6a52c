"""What answers questions about faces: a network, a head and its calibration, opened together."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Rows, Vectors
from kinembed.backbones import Framing
from kinembed.cache import EmbeddingCache, Embeddings, cache_at
from kinembed.cache.own import network_settings
from kinembed.cache.stacked import joined_model
from kinembed.config import EmbedConfig, Precision
from kinembed.data.photos import Pixels
from kinembed.errors import DataError, RunError
from kinembed.evaluation.calibration import Calibration
from kinembed.evaluation.kept_calibrations import find_calibration
from kinembed.evaluation.metrics import Numbers
from kinembed.evaluation.published import (
    Origin,
    Published,
    choose_head,
    read_any_head,
    read_published,
)
from kinembed.evaluation.three_way import EQUAL, ThreeWay
from kinembed.heads.base import Head
from kinembed.heads.file import HeadRecord
from kinembed.heads.kept import CACHE, caches_of, names_of
from kinembed.heads.pooled_people import (
    PersonScores,
    PooledPeople,
    RepresentedPhotos,
    person_scores,
    person_view,
)
from kinembed.printable import counted, decimal
from kinembed.progress import Progress, silent
from kinembed.ready import NAME, READY
from kinembed.threads import processors
from kinembed.views import JOIN, TTA, without_tta

if TYPE_CHECKING:  # torch
    from kinembed.backbones.mapper import Mapper
    from kinembed.evaluation.triples import TripleScore

FEW_FAMILIES = 100  # below which a head is said to have learnt from few
FAR_LOWER = 0.05  # AUC below the packaged head's that is worth a word
ON_DEVICE = 32  # crops at a time on a GPU; on the CPU one, so that none depends on the others


@dataclass
class Answerer:
    """Answers who is kin of whom, or the same person.

    Attributes:
        head: the head.
        calibration: of the head.
        networks: settings of the networks that made the vectors it learnt on, in the order of the
            stacked caches, and the folder that the `model.pt` of each is looked for in.
        source: in words, what answers and what it learnt from.
        device: `auto`, `cpu`, `cuda` or `mps`.
        precision: `auto`, `fp32` or `bf16`.
        progress: shows a download of weights.
        triples: how a published head weighs both parents; None: it does not say, or is not one.
        origin: of a published head: the run that it comes from.
        packaged: the head is the one that comes with kinembed.
    """

    head: Head
    calibration: Calibration
    networks: Sequence[tuple[EmbedConfig, Path]]
    source: str
    device: str = "auto"
    precision: Precision = "auto"
    progress: Progress = field(default=silent, repr=False)
    triples: TripleScore | None = None
    origin: Origin | None = None
    packaged: bool = False

    @classmethod
    def open(
        cls,
        run: Path,
        head: Path | None = None,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        progress: Progress = silent,
    ) -> Answerer:
        """Opens what answers: the named head, else that of a run folder, else the packaged one.

        Args:
            run: the run folder.
            head: a published head, `packaged`, or a `head.h5` beside its cache and calibration.
            device: of the network.
            precision: of the network.
            progress: shows a download of weights.

        Raises:
            KinembedError: head, cache or calibration are missing or do not belong together.
        """
        about: dict[str, Any] = {"device": device, "precision": precision, "progress": progress}
        path = choose_head(run, head)
        if head is None and not os.path.lexists(path):
            path = READY
        folder = run if head is None else path.parent
        opened, record, published = read_any_head(path)
        if published is not None:
            what = "the packaged head" if path == READY else f"{path}"
            network = _network_of_published(run / CACHE, published, path)
            source = f"{what}: {published.describe()}"
            source += ", all of Recognizing Faces in the Wild" if path == READY else ""
            about |= {
                "triples": published.triples,
                "origin": published.origin,
                "packaged": path == READY,
            }
            return cls(opened, published.calibration, [(network, run)], source, **about)
        found = find_calibration(folder, opened)
        if found is None:
            raise RunError(f"{path}: has no calibration; run kinembed calibrate --run {folder}")
        networks = _networks_of(caches_of(folder, head=path), opened)
        made = f"{record.recipe or opened.kind} head {opened.digest[:12]} of {path}"
        made += shortcomings(opened, record)
        return cls(opened, found[0], networks, made, **about)

    def __post_init__(self) -> None:
        if self.calibration.three_way is None:
            raise RunError(
                f"{self.source}: its calibration does not tell the same person from kin, because "
                "nobody held out has several photos; run kinembed head and kinembed calibrate with "
                "people of several photos"
            )

    @property
    def three_way(self) -> ThreeWay:
        """What tells the three answers."""
        assert self.calibration.three_way is not None
        return self.calibration.three_way

    @property
    def views(self) -> tuple[str, ...]:
        """The views that the head takes, mirrored ones too."""
        return tuple(
            dict.fromkeys([*self.head.view.split(JOIN), *person_view(self.head).split(JOIN)])
        )

    def vectors(self, crops: Sequence[Pixels]) -> dict[str, Vectors]:
        """(N, D) vectors of each view of N face crops, framed as `align` crops them.

        Raises:
            KinembedError: weights are missing, or a vector is not finite.
        """
        found: dict[str, Vectors] = {}
        for number, opened in enumerate(self._opened, start=1):
            start = f"{number}." if len(self._opened) > 1 else ""
            wanted = [view.removeprefix(start) for view in self.views if view.startswith(start)]
            with self._threads(opened.mapper) as threads:
                vectors = _map(opened, threads, crops, wanted)
            found |= {start + view: block for view, block in vectors.items()}
        for view, block in found.items():
            if not np.isfinite(block).all():
                raise DataError(f"view {view} of a face is not finite; the weights are broken")
        return found

    def photos(self, crops: Sequence[Pixels]) -> RepresentedPhotos:
        """Represents N face crops (S, S, 3), uint8 RGB, framed as `align` crops them."""
        return self.represent(self.vectors(crops))

    def represent(self, vectors: Mapping[str, Vectors]) -> RepresentedPhotos:
        """Represents photos by their vectors, (N, D) of each view."""

        def joined(view: str) -> NDArray[Any]:
            return np.concatenate([vectors[name] for name in view.split(JOIN)], 1)

        return RepresentedPhotos.of(
            self.head, joined(self.head.view), joined(person_view(self.head))
        )

    def cache_photos(self, cache: Embeddings, rows: Rows) -> RepresentedPhotos:
        """Represents some photos of a cache of the same network, without opening the network.

        Raises:
            RunError: the cache is of another network.
        """
        if cache.provenance.get("model") != self.head.model:
            raise RunError(
                f"{cache.path}: is of another network than {self.source}; run kinembed embed with "
                "its network, or name a head of this cache with --head"
            )
        return RepresentedPhotos.at(self.head, cache, rows)

    def people(self, photos: RepresentedPhotos, groups: Sequence[Rows]) -> PooledPeople:
        """People, for each the numbers of their photos."""
        return PooledPeople.of(self.head, photos, groups)

    def scores(self, people: PooledPeople, pairs: Rows) -> PersonScores:
        """Scores of (K, 2) pairs of people."""
        return person_scores(self.head, people, pairs)

    def probabilities(self, scores: PersonScores, priors: tuple[float, float] = EQUAL) -> Numbers:
        """(K, 3) probabilities: the same person, kin, unrelated; see `ThreeWay.probabilities`."""
        return self.three_way.probabilities(scores, priors)

    def far(self, scores: PersonScores) -> Numbers:
        """(K,) shares of unrelated pairs with at least as much evidence of kinship."""
        return self.three_way.far(scores)

    @contextmanager
    def _threads(self, mapper: Mapper) -> Iterator[ThreadPoolExecutor]:
        """The threads that map with a network."""
        with mapper.threads(processors()) as (_, mappers):
            yield mappers

    @cached_property
    def _opened(self) -> list[_Opened]:
        """The networks, ready to map."""
        from kinembed.backbones.device import choose_device, choose_precision
        from kinembed.backbones.mapper import Mapper
        from kinembed.inference.network import open_network

        device = choose_device(self.device)
        networks = [open_network(each, run, device, self.progress) for each, run in self.networks]
        model = joined_model([network.digest for network in networks])
        if model != self.head.model:
            raise RunError(
                f"{self.source}: learnt on vectors of network {self.head.model[:12]}, found "
                f"{model[:12]}; run kinembed embed and kinembed head again, or restore the "
                "network's file"
            )
        tta = any(view.endswith(TTA) for view in self.views)
        opened = []
        for network in networks:
            precision = "fp32" if network.is_onnx else choose_precision(self.precision, device)
            mapper = Mapper(network.ready, device, precision, tta=tta)
            opened.append(_Opened(mapper, network.backbone.framing, network.backbone.views))
        return opened


class _Opened(NamedTuple):
    """A network, ready to map, the frame of crops in its input, and its views' widths."""

    mapper: Mapper
    framing: Framing
    widths: Mapping[str, int]


def _map(
    opened: _Opened, threads: ThreadPoolExecutor, crops: Sequence[Pixels], views: Sequence[str]
) -> dict[str, Vectors]:
    """(N, D) vectors of some views of N face crops."""
    from PIL import Image

    from kinembed.data.photos import place_photo

    mapper, framing, widths = opened
    size = 1 if mapper.device.type == "cpu" else ON_DEVICE

    def map_block(start: int) -> Mapping[str, Vectors]:
        block = crops[start : start + size]
        return mapper.map([place_photo(Image.fromarray(crop), framing) for crop in block])

    parts = list(threads.map(map_block, range(0, len(crops), size)))
    return {
        view: np.concatenate(
            [np.empty((0, widths[view.removesuffix(TTA)]), np.float32)]
            + [part[view] for part in parts]
        )
        for view in views
    }


def shortcomings(head: Head, record: HeadRecord) -> str:
    """What to know of a run folder's head: whom it learnt from, where those are few or it is poor.

    Its AUC and the packaged head's are of other people each, so small differences say nothing.
    """
    families = len({person.partition("/")[0] for person in head.trained})
    packaged = read_published(READY).record.auc
    said = []
    if 0 < families < FEW_FAMILIES:
        said.append(f"it learnt from {counted(families, 'family', 'families')} alone")
    if record.auc is not None and packaged is not None and record.auc < packaged - FAR_LOWER:
        auc, other = decimal(record.auc), decimal(packaged)
        said.append(f"its AUC on held-out people is {auc}, the packaged head's on its own {other}")
    if not said:
        return ""
    return f" ({'; '.join(said)}: --head {NAME} may answer better)"


def _network_of_published(cache: Path, published: Published, path: Path) -> EmbedConfig:
    """Settings of the network of a published head.

    Args:
        cache: of the run folder, which may name the network if it is of the same.
        published: the head.
        path: of its file.

    Raises:
        RunError: it is none with published weights, and the run folder has not got it either.
    """
    network, head = published.network, published.head
    if network.made == "published weights":
        return EmbedConfig(
            backbone=network.backbone,
            weights=network.weights,
            pixels=network.pixels,
            views=_plain_views(head),
        )
    if cache_at(cache).is_file():
        with EmbeddingCache.open(cache) as opened:
            is_its = opened.provenance.get("model") == head.model
        if is_its:
            ((settings, _),) = _networks_of([cache], head)
            return settings
    raise RunError(
        f"{path}: is of the {network.backbone} of digest {network.model[:12]} ({network.made}), "
        "which does not come with it; name a run folder of that network with --run"
    )


def _plain_views(head: Head, start: str = "") -> tuple[str, ...]:
    """The views of a network that a head takes, without mirrored ones and the network's number."""
    names = [*head.view.split(JOIN), *person_view(head).split(JOIN)]
    own = [name.removeprefix(start) for name in names if name.startswith(start)]
    return without_tta(tuple(dict.fromkeys(own)))


def _networks_of(caches: Sequence[Path], head: Head) -> list[tuple[EmbedConfig, Path]]:
    """Settings of the networks of caches, which have to be the head's, with the head's views.

    Raises:
        RunError: a cache is missing, or of another network, or that cannot be opened.
    """
    networks, models = [], []
    for number, cache in enumerate(caches, start=1):
        start = f"{number}." if len(caches) > 1 else ""
        settings, found = network_settings(cache, _plain_views(head, start))
        networks.append((settings, cache.parent))
        models.append(found.model)
    if joined_model(models) != head.model:
        verb = "is" if len(caches) == 1 else "are"
        raise RunError(
            f"{names_of(caches)}: {verb} of network {joined_model(models)[:12]}, and the head of "
            f"{head.model[:12]}; run kinembed head again"
        )
    return networks
