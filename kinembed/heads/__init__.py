"""What compares two embeddings: the numpy forward that every command uses, and its file."""

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kinembed.cache import EmbeddingCache, Vectors
from kinembed.errors import RunError
from kinembed.files import write_bytes
from kinembed.sealed import append_seal, extent_of, read_dataset, read_seal

Float = NDArray[np.float32]
Rows = NDArray[np.intp]

SCHEMA = 2
CHUNK = 256  # pairs: gathered rows of 2048 floats stay in the processor's cache


@dataclass(frozen=True)
class Head:
    """|a - b|, dense relu layers, and one output: higher means more kin.

    Attributes:
        view: the view whose vectors it compares.
        model: digest of the trunk that made those vectors.
        kernels: (in, out) of each layer; the first `in` is the view's width, the last `out` 1.
        biases: (out,) of each layer.
        held_out: the people (`F0002/MID1`, sorted) on whom neither head nor trunk was trained.
    """

    view: str
    model: str
    kernels: tuple[Float, ...]
    biases: tuple[Float, ...]
    held_out: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Numbers in each vector it compares."""
        return len(self.kernels[0])

    @property
    def digest(self) -> str:
        """The sha256 of all that it is."""
        sha = hashlib.sha256(json.dumps([self.view, self.model, self.held_out]).encode())
        for array in (*self.kernels, *self.biases):
            sha.update(f"{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return sha.hexdigest()

    def logits(self, a: Float, b: Float) -> Float:
        """Scores (N,) of vectors a and b, (N, width) each; the same to the bit for b and a."""
        difference = np.subtract(a, b, dtype=np.float32)
        return self._forward(np.abs(difference, out=difference))

    def _forward(self, x: Float) -> Float:
        """Distances (N, width) to logits (N,)."""
        for kernel, bias in zip(self.kernels[:-1], self.biases[:-1], strict=True):
            x = x @ kernel
            x += bias
            np.maximum(x, 0, out=x)
        return x @ self.kernels[-1][:, 0] + self.biases[-1]

    def scores(self, vectors: Vectors, pairs: Rows) -> NDArray[np.float64]:
        """Logits (K,) of pairs (K, 2) of rows of vectors (N, width).

        Raises:
            IndexError: a row is not one of the vectors.
        """
        if len(pairs) and not (pairs.min() >= 0 and pairs.max() < len(vectors)):
            raise IndexError(f"rows {pairs.min()} to {pairs.max()} of {len(vectors)} vectors")
        logits = np.empty(len(pairs), np.float64)
        # Buffers used again and again: fresh ones would be zeroed page by page by the kernel.
        left, right = np.empty((2, CHUNK, self.width), vectors.dtype)
        distance = np.empty((CHUNK, self.width), np.float32)
        for start in range(0, len(pairs), CHUNK):
            rows = pairs[start : start + CHUNK]
            a, b, x = left[: len(rows)], right[: len(rows)], distance[: len(rows)]
            # The rows are in range; "clip" only spares numpy a buffered copy.
            vectors.take(rows[:, 0], 0, out=a, mode="clip")
            vectors.take(rows[:, 1], 0, out=b, mode="clip")
            np.abs(np.subtract(a, b, out=x, dtype=np.float32), out=x)
            logits[start : start + len(rows)] = self._forward(x)
        return logits

    def probabilities(self, vectors: Vectors, pairs: Rows) -> NDArray[np.float64]:
        """Kinship probabilities (K,) of pairs (K, 2) of rows of vectors (N, width)."""
        return sigmoid(self.scores(vectors, pairs))


def sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logits to probabilities."""
    with np.errstate(over="ignore"):  # exp of a large number is inf, and 1 / inf is right
        return 1 / (1 + np.exp(-logits))


def save_head(head: Head, path: Path) -> Path:
    """Writes a head as sealed HDF5: `kernels/0`, `biases/0`, …, and the JSON attribute `head`.

    The people held out are a dataset of UTF-8 names, where there are any.
    """
    import h5py  # reading does without it

    about = {"schema": SCHEMA, "view": head.view, "model": head.model, "layers": len(head.kernels)}
    extents = {}
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.attrs["head"] = json.dumps(about)
        for kind, arrays in (("kernels", head.kernels), ("biases", head.biases)):
            for index, array in enumerate(arrays):
                extents[f"{kind}/{index}"] = extent_of(
                    file.create_dataset(f"{kind}/{index}", data=array)
                )
        if head.held_out:
            names = np.array([name.encode() for name in head.held_out])
            extents["held_out"] = extent_of(file.create_dataset("held_out", data=names))
    append_seal(content, extents, about)
    return write_bytes(path, content.getvalue())


def load_head(path: Path) -> Head:
    """Reads a head.

    Raises:
        RunError: the file is missing or is not a head.
    """
    if not path.is_file():
        raise RunError(f"{path}: no such file; run kinembed finetune, which writes the head")
    try:
        with path.open("rb", buffering=0) as file:
            seal = read_seal(file)
            about = seal.about
            if about["schema"] != SCHEMA:
                raise RunError(f"{path}: schema {about['schema']}, this version reads {SCHEMA}")
            layers = range(int(about["layers"]))
            read = {
                name: np.array(read_dataset(file, extent)) for name, extent in seal.extents.items()
            }
            held_out = read.pop("held_out", np.empty(0, np.bytes_))
            if len(read) != 2 * len(layers) or held_out.ndim != 1 or held_out.dtype.kind != "S":
                raise ValueError(f"{len(seal.extents)} datasets for {len(layers)} layers")
            head = Head(
                view=str(about["view"]),
                model=str(about["model"]),
                kernels=tuple(read[f"kernels/{i}"] for i in layers),
                biases=tuple(read[f"biases/{i}"] for i in layers),
                held_out=tuple(name.decode() for name in held_out.tolist()),
            )
    except (OSError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise RunError(f"{path}: not a head ({error}); run kinembed finetune again") from None
    arrays = (*head.kernels, *head.biases)
    if any(not isinstance(a, np.ndarray) or a.dtype != np.float32 for a in arrays):
        raise RunError(f"{path}: layers are not float32 arrays; run kinembed finetune again")
    width = None  # of the layer before; any will do for the first
    for kernel, bias in zip(head.kernels, head.biases, strict=True):
        fits = kernel.ndim == 2 and bias.shape == kernel.shape[1:]
        if not fits or width not in (None, len(kernel)):
            raise RunError(f"{path}: layers do not fit each other; run kinembed finetune again")
        width = len(bias)
    if width != 1:
        raise RunError(f"{path}: {width or 0} outputs, wanted 1; run kinembed finetune again")
    if not all(np.isfinite(array).all() for array in arrays):
        raise RunError(f"{path}: its numbers are not all finite; run kinembed finetune again")
    return head


def matching_vectors(cache: EmbeddingCache, head: Head) -> Vectors:
    """The vectors that a head compares.

    Raises:
        RunError: the head was trained on another network's vectors, or on another view.
    """
    model = cache.provenance["model"]
    if head.model != model:
        raise RunError(
            f"{cache.path} holds embeddings of model {model[:12]}, the head is of model "
            f"{head.model[:12]}; run kinembed embed, or kinembed finetune, so that they match"
        )
    vectors = cache.vectors(head.view)
    if vectors.shape[1] != head.width:
        raise RunError(
            f"{cache.path}: view {head.view} has {vectors.shape[1]} numbers, the head wants "
            f"{head.width}; run kinembed embed"
        )
    return vectors
