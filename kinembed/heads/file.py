"""The file of a head: sealed HDF5 that holds its arrays, its people and what it is."""

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from kinembed.cache.footer import append_footer, extent_of, read_dataset, read_footer
from kinembed.errors import RunError
from kinembed.heads.base import Head, head_class
from kinembed.io import write_bytes

SCHEMA = 4
MOST_FOLDS = 1000
_AGAIN = "run kinembed finetune, or kinembed head, again"

# Who chose the epoch whose weights a head has: nobody (it is the last), the held-out people who
# then judge it, or a part of the people that neither trains nor judges.
Chooser = Literal["nobody", "held-out people", "validation people"]


@dataclass(frozen=True)
class HeadRecord:
    """How a head came about, as its file says it beside what the head is; no part of its digest.

    Attributes:
        stage: what trained it: `finetune` or `head`; empty where something else did.
        recipe: by name.
        settings: values of the recipe other than its own, `key=value;key=value`.
        auc: on pairs of held-out people; None where it is not known.
        epoch: that it is of, the first being 1; None where there are none.
        epoch_chosen_by: by whom; empty where it is not known.
    """

    stage: Literal["finetune", "head", ""] = ""
    recipe: str = ""
    settings: str = ""
    auc: float | None = None
    epoch: int | None = None
    epoch_chosen_by: Chooser | Literal[""] = ""

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> "HeadRecord":
        """What a file says.

        Raises:
            TypeError, ValueError: in a few words, what is wrong.
        """
        found = cls(**record)
        numbers = [found.auc, found.epoch]
        if not all(isinstance(text, str) for text in (found.stage, found.recipe, found.settings)):
            raise ValueError("its record is no text")
        if not all(isinstance(number, float | int | None) for number in numbers):
            raise ValueError("its record has no numbers")
        if found.epoch_chosen_by not in ("", *get_args(Chooser)):
            raise ValueError(f"its epoch was chosen by {found.epoch_chosen_by!r}")
        return found


def save_head(head: Head, path: Path, record: HeadRecord | None = None) -> Path:
    """Writes a head: its arrays by their names, and the JSON attribute `head`.

    People are datasets of UTF-8 names, `held_out`, `trained` and `folds/0`, …, where there are any.

    Args:
        head: what to write.
        path: of the file.
        record: how it came about, where that is known.
    """
    import h5py  # reading does without it

    about = {
        "schema": SCHEMA,
        "record": asdict(record or HeadRecord()),
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
    return read_head(path)[0]


def read_head(path: Path) -> tuple[Head, HeadRecord]:
    """Reads a head, and how it came about.

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
        record = HeadRecord.read(about["record"])
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
    return head, record
