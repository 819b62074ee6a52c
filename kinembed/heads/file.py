"""The file of a head: sealed HDF5."""

import io
import json
from pathlib import Path

import numpy as np

from kinembed.cache.footer import append_footer, extent_of, read_dataset, read_footer
from kinembed.errors import KinembedError, RunError
from kinembed.heads.metric import MetricHead, arrays_of
from kinembed.heads.metric import head_from as metric_head
from kinembed.heads.pair import ABS, AnyHead, Head
from kinembed.io import write_bytes
from kinembed.recipes import check_features

SCHEMA = 2


def save_head(head: AnyHead, path: Path) -> Path:
    """Writes a head as sealed HDF5: `kernels/0`, `biases/0`, …, and the JSON attribute `head`.

    The arrays of a metric head are `members/0/0`, …. People are datasets of UTF-8 names, where
    there are any.
    """
    import h5py  # reading does without it

    about: dict[str, object] = {"schema": SCHEMA}
    lists = {"held_out": head.held_out, "trained": head.trained}
    if isinstance(head, MetricHead):
        about |= {"kind": "metric", **head.about, "folds": len(head.folds)}
        arrays = arrays_of(head)
        lists |= {f"folds/{number}": people for number, people in enumerate(head.folds)}
    else:
        about |= {
            "view": head.view,
            "model": head.model,
            "layers": len(head.kernels),
            "features": head.features,
        }
        arrays = {f"kernels/{index}": kernel for index, kernel in enumerate(head.kernels)}
        arrays |= {f"biases/{index}": bias for index, bias in enumerate(head.biases)}
    extents = {}
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.attrs["head"] = json.dumps(about)
        for name, array in arrays.items():
            extents[name] = extent_of(file.create_dataset(name, data=array))
        for kind, people in lists.items():
            if people:
                names = np.array([name.encode() for name in people])
                extents[kind] = extent_of(file.create_dataset(kind, data=names))
    append_footer(content, extents, about)
    return write_bytes(path, content.getvalue())


def load_head(path: Path) -> AnyHead:
    """Reads a head.

    Raises:
        RunError: the file is missing or is not a head.
    """
    if not path.is_file():
        raise RunError(f"{path}: no such file; run kinembed finetune, which writes the head")
    try:
        with path.open("rb", buffering=0) as file:
            footer = read_footer(file)
            about = footer.about
            if about["schema"] != SCHEMA:
                raise RunError(f"{path}: schema {about['schema']}, this version reads {SCHEMA}")
            read = {
                name: np.array(read_dataset(file, extent))
                for name, extent in footer.extents.items()
            }
            people = {}
            folds = [f"folds/{number}" for number in range(about.get("folds", 0))]
            for kind in ("held_out", "trained", *folds):
                names = read.pop(kind, np.empty(0, np.bytes_))
                if names.ndim != 1 or names.dtype.kind != "S":
                    raise ValueError(f"{kind} are not names")
                people[kind] = tuple(name.decode() for name in names.tolist())
            if about.get("kind") == "metric":
                return metric_head(about, read, people)
            layers = range(int(about["layers"]))
            if len(read) != 2 * len(layers):
                raise ValueError(f"{len(footer.extents)} datasets for {len(layers)} layers")
            head = Head(
                view=str(about["view"]),
                model=str(about["model"]),
                kernels=tuple(read[f"kernels/{i}"] for i in layers),
                biases=tuple(read[f"biases/{i}"] for i in layers),
                features=tuple(about.get("features", ABS)),  # once there was no other
                **people,
            )
    except (OSError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise RunError(f"{path}: not a head ({error}); run kinembed finetune again") from None
    try:
        check_features(head.features)
    except KinembedError as error:
        raise RunError(f"{path}: {error}; run kinembed finetune again") from None
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
    if len(head.kernels[0]) % len(head.features):
        raise RunError(
            f"{path}: {len(head.kernels[0])} numbers in {len(head.features)} features; "
            "run kinembed finetune again"
        )
    if not all(np.isfinite(array).all() for array in arrays):
        raise RunError(f"{path}: its numbers are not all finite; run kinembed finetune again")
    return head
