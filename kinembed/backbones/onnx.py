"""Any face network from an ONNX file, run by onnxruntime."""

import os
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from kinembed.backbones import Backbone, Framing, PixelRecipe, Triple
from kinembed.backbones.embedder import Normalise
from kinembed.config import Precision
from kinembed.errors import KinembedError, WeightsError
from kinembed.io import sha256_file


class OnnxEmbedder:
    """Embeds photos with an ONNX file: one input of photos, one output of vectors, view `native`.

    Args:
        path: the file.
        side: of its square input, in pixels.
        mean: subtracted from each pixel value, per channel in the network's order.
        scale: divisor of the difference, per channel.
        order: of the channels.
        device: cpu, or cuda if onnxruntime supports it.

    Attributes:
        backbone: its record, like those of the built-in networks.
        digest: sha256 of the file.
        names: its one view, `native`.
        own_threads: True; onnxruntime splits a batch among its threads.

    Raises:
        KinembedError: onnxruntime is missing, or the file is not such a network.
    """

    names = ("native",)
    own_threads = True

    def __init__(
        self,
        path: Path,
        side: int,
        mean: Triple,
        scale: Triple,
        order: Literal["rgb", "bgr"],
        device: torch.device,
    ) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError:
            raise KinembedError(
                "--onnx needs onnxruntime; run pip install 'kinembed[onnx]'"
            ) from None
        if not path.is_file():
            raise WeightsError(f"{path}: no such file; wanted an ONNX network")
        if not all(scale):
            raise KinembedError("--scale: found 0, wanted a divisor of pixel values")
        self.path = path
        self.digest = sha256_file(path)
        wanted = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
        if wanted not in onnxruntime.get_available_providers():
            raise KinembedError(f"device {device.type!r}: this onnxruntime has no {wanted}")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # its warnings concern authors of such files
        # No external weights: the digest would not cover them, and strangers could name any file.
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", os.devnull
        )
        try:
            self._session = onnxruntime.InferenceSession(
                path.read_bytes(),  # exactly the bytes of the digest
                options,
                providers=[wanted],
            )
        except Exception as error:  # onnxruntime's exceptions have no common base
            if "External data" in str(error):
                raise WeightsError(
                    f"{path}: keeps weights in another file; wanted one file, as "
                    "onnx.save(onnx.load(PATH), ONE_FILE) writes it"
                ) from None
            raise WeightsError(f"{path}: not an ONNX network ({_line(error)})") from None
        photos = self._session.get_inputs()
        if len(photos) != 1 or len(photos[0].shape) != 4:
            inputs = ", ".join(f"{one.name} {one.shape}" for one in photos)
            raise WeightsError(
                f"{path}: found inputs {inputs}; wanted one of photos, with four axes"
            )
        self._input = photos[0].name
        self._one_by_one = isinstance(photos[0].shape[0], int) and photos[0].shape[0] == 1
        self._channels_last = photos[0].shape[3] == 3 and photos[0].shape[1] != 3
        self._normalise = Normalise(PixelRecipe(order, mean, scale))
        width = self._run(torch.zeros(1, side, side, 3, dtype=torch.uint8)).shape[1]
        self.backbone = Backbone(
            name=path.stem,
            network="",
            parameters=0,
            framing=Framing(side, side),
            pixels=PixelRecipe(order, mean, scale),
            views={"native": width},
            sources={},
        )

    def __call__(self, photos: Tensor) -> dict[str, Tensor]:
        """uint8 RGB photos (N, side, side, 3) to the view `native` (N, D)."""
        return {"native": self._run(photos.cpu())}

    def optimize(self, device: torch.device, precision: Precision) -> None:
        """Does nothing: onnxruntime optimises when it opens the file."""

    def _run(self, photos: Tensor) -> Tensor:
        x = self._normalise(photos)
        x = (x.permute(0, 2, 3, 1) if self._channels_last else x).contiguous().numpy()
        batches = [x[i : i + 1] for i in range(len(x))] if self._one_by_one else [x]
        try:
            outputs: list[Any] = [self._session.run(None, {self._input: b})[0] for b in batches]
        except Exception as error:  # as above
            raise WeightsError(
                f"{self.path}: does not take photos of {photos.shape[1]} x {photos.shape[2]} px "
                f"({_line(error)}); see --side"
            ) from None
        vectors = torch.cat([torch.from_numpy(output).float() for output in outputs]).flatten(1)
        if len(vectors) != len(photos):
            raise WeightsError(
                f"{self.path}: gives {len(vectors)} vectors for {len(photos)} photos"
            )
        return vectors


def _line(error: Exception) -> str:
    from textwrap import shorten  # only errors need it

    return shorten(str(error), 200, placeholder=" …")
