"""The file of a head: sealed HDF5 that holds its arrays, its people and what it is."""

import io
import json
from pathlib import Path

import numpy as np

from kinembed.cache.footer import append_footer, extent_of, read_dataset, read_footer
from kinembed.errors import RunError
from kinembed.heads.base import Head, head_class
from kinembed.io import write_bytes

SCHEMA = 3
MOST_FOLDS = 1000
_AGAIN = "run kinembed finetune, or kinembed head, again"


def save_head(head: Head, path: Path) -> Path:
    """Writes a head: its arrays by their names, and the JSON attribute `head`.

    People are datasets of UTF-8 names, `held_out`, `trained` and `folds/0`, …, where there are any.
    """
    import h5py  # reading does without it

    about = {
        "schema": SCHEMA,
        "kind": head.kind,
        "model": head.model,
        "folds": len(head.folds),
        "settings": head.settings(),
    }
    lists = {"held_out": head.held_out, "trained": head.trained}
    lists |= {f"folds/{number}": people for number, people in enumerate(head.folds)}
    extents = {}
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.attrs["head"] = json.dumps(about)
        for name, array in head.arrays().items():
            extents[name] = extent_of(file.create_dataset(name, data=array))
        for kind, people in lists.items():
            if people:
                names = np.array([name.encode() for name in people])
                extents[kind] = extent_of(file.create_dataset(kind, data=names))
    append_footer(content, extents, about)
    return write_bytes(path, content.getvalue())


def load_head(path: Path) -> Head:
    """Reads a head.

    Raises:
        RunError: the file is missing or is not a head.
    """
    if not path.is_file():
        raise RunError(f"{path}: no such file; run kinembed head, or kinembed finetune")
    try:
        with path.open("rb", buffering=0) as file:
            footer = read_footer(file)
            about = footer.about
            if about["schema"] != SCHEMA:
                raise ValueError(f"schema {about['schema']}, this version reads {SCHEMA}")
            extents = footer.extents.items()
            read = {name: np.array(read_dataset(file, extent)) for name, extent in extents}
        count = int(about["folds"])
        if not 0 <= count <= MOST_FOLDS:
            raise ValueError(f"{count} folds, wanted at most {MOST_FOLDS}")
        folds = [f"folds/{number}" for number in range(count)]
        people = {}
        for kind in ("held_out", "trained", *folds):
            names = read.pop(kind, np.empty(0, np.bytes_))
            if names.ndim != 1 or names.dtype.kind != "S":
                raise ValueError(f"{kind} are not names")
            people[kind] = tuple(name.decode() for name in names.tolist())
        if any(array.dtype != np.float32 for array in read.values()):
            raise ValueError("its layers are not float32 arrays")
        if not all(np.isfinite(array).all() for array in read.values()):
            raise ValueError("its numbers are not all finite")
        head = head_class(about["kind"]).from_arrays(
            about["settings"],
            read,
            model=str(about["model"]),
            held_out=people["held_out"],
            trained=people["trained"],
            folds=tuple(people[fold] for fold in folds),
        )
        if len(folds) not in (0, len(head.members())):
            raise ValueError(f"{len(folds)} folds for {len(head.members())} members")
    except (OSError, KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise RunError(f"{path}: not a head ({error}); {_AGAIN}") from None
    return head
