"""A face network as a scikit-learn transformer of photo files."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

from kinembed.arrays import Float, Vectors
from kinembed.backbones import Framing, check_views, find_backbone
from kinembed.backbones.device import choose_device, choose_precision
from kinembed.backbones.framing import AUTO
from kinembed.backbones.mapper import Mapper
from kinembed.backbones.opened import open_backbone
from kinembed.config import Precision
from kinembed.data.framings import choose_framings
from kinembed.data.photos import decode_photo, read_file
from kinembed.errors import DataError
from kinembed.threads import processors


class KinEmbedder(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Embeds photos with a pretrained face network, without a cache.

    Unlike `kinembed embed`, it computes all vectors at each call. `fit` is needed for framing
    `auto` alone, and only where other photos are to be framed as the fitted ones are.

    Args:
        backbone: the face network.
        weights: `auto`, the name of published weights, `none`, or the path of a file.
        views: names of the views to concatenate; None: `native`, if the network has it, and `max`.
        tta: test-time augmentation: append the vectors of the mirrored photo.
        framing: `loose`, `aligned` or `whole`; `auto`: by where eyes and mouth lie on a sample of
            the photos of `fit`, or of `transform` without it.
        batch_size: photos per forward pass.
        device: `auto`, `cpu`, `cuda` or `mps`.
        precision: `auto`, `fp32` or `bf16`.

    Attributes:
        framing_: the frame of photos, after `fit` with photos.

    Example:
        >>> from kinembed import KinEmbedder
        >>> KinEmbedder("mtcnn-onet", views=("max",)).transform([]).shape
        (0, 128)
    """

    def __init__(
        self,
        backbone: str = "sface",
        *,
        weights: str = "auto",
        views: Sequence[str] | None = None,
        tta: bool = False,
        framing: str = AUTO,
        batch_size: int = 16,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.views = views
        self.tta = tta
        self.framing = framing
        self.batch_size = batch_size
        self.device = device
        self.precision = precision

    def fit(self, X: Any = None, y: Any = None) -> "KinEmbedder":  # noqa: N803
        """Checks the settings, and chooses the frame of photos.

        Raises:
            KinembedError: there is no such network, view, framing or device.
        """
        self._chosen_views()
        self._check_batch_size()
        choose_device(self.device)
        self.framing_ = None if X is None or not len(X) else self._chosen_framing(X)
        return self

    def transform(self, X: Sequence[str | PathLike[str]]) -> Float:  # noqa: N803
        """(photos, D) float32 vectors of photo files, in their order.

        Raises:
            KinembedError: a photo cannot be read, or the weights cannot be had.
        """
        self._check_batch_size()
        names = [str(name) for name in X]
        views = self._chosen_views()
        record = find_backbone(self.backbone)
        width = sum(record.views[view] for view in views) * (2 if self.tta else 1)
        vectors = np.empty((len(names), width), np.float32)
        if not names:
            return vectors
        device = choose_device(self.device)
        network, _ = open_backbone(record, self.weights, views, device)
        precision = "fp32" if record.is_onnx else choose_precision(self.precision, device)
        less = f"batch_size={max(1, self.batch_size // 2)} or device='cpu'"
        mapper = Mapper(network, device, precision, tta=self.tta, less_memory=less)
        order = [view for view in mapper.views if view in views]
        order += [view for view in mapper.views if view not in views]

        framing = getattr(self, "framing_", None) or self._chosen_framing(names)

        def decode(start: int) -> list[Any]:
            batch = names[start : start + self.batch_size]
            return [decode_photo(read_file(Path(name)), framing, name) for name in batch]

        def stack(by_view: dict[str, Vectors]) -> Vectors:
            return np.concatenate([by_view[view] for view in order], 1)  # (n, width)

        starts = range(0, len(names), self.batch_size)
        with mapper.threads(processors()) as (readers, mappers):
            for first in range(0, len(starts), 4 * processors()):  # so many batches in memory
                window = starts[first : first + 4 * processors()]
                pixels = [readers.submit(decode, start) for start in window]
                mapped = [mappers.submit(mapper.map, each.result()) for each in pixels]
                for start, each in zip(window, mapped, strict=True):
                    vectors[start : start + self.batch_size] = stack(each.result())
        bad = np.flatnonzero(~np.isfinite(vectors).all(1))
        if len(bad):
            raise DataError(f"{names[bad[0]]}: its vector is not finite; the weights are broken")
        return vectors

    def _check_batch_size(self) -> None:
        if self.batch_size < 1:
            raise DataError(f"batch_size: found {self.batch_size}, wanted 1 or more")

    def _chosen_framing(self, photos: Sequence[str | PathLike[str]]) -> Framing:
        files = {"photos": [Path(name) for name in photos]}
        record = find_backbone(self.backbone)
        return choose_framings(record, files, self.framing)["photos"]

    def _chosen_views(self) -> tuple[str, ...]:
        record = find_backbone(self.backbone)
        if self.views is None:
            return tuple(view for view in ("native", "max") if view in record.views)
        check_views(record, tuple(self.views))
        return tuple(self.views)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags
