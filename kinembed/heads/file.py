"""The file of a head: sealed HDF5 that holds its arrays, its people and what it is."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from kinembed.cache.footer import read_footer, read_sealed, sealed_bytes
from kinembed.checked import Bounds, Values
from kinembed.errors import RunError
from kinembed.heads.base import Head, head_class
from kinembed.io import write_bytes

SCHEMA = 6
ATTRIBUTE = "head"  # of the HDF5 root
MOST_FOLDS = 1000
MOST_FRAMINGS = 1000
MOST_CACHES = 1000
_AGAIN = "run kinembed finetune, or kinembed head, again"

# The people whose pairs chose a head's epoch: nobody (it is the last), the held-out people who also
# judge it, or validation people who neither train nor judge it.
Chooser = Literal["nobody", "held-out people", "validation people"]


@dataclass(frozen=True)
class HeadRecord:
    """The origin of a head: stored in its file, but not part of its digest.

    Attributes:
        stage: the stage that trained it, `finetune` or `head`; empty for anything else.
        recipe: by name.
        settings: settings that differ from the recipe's, `key=value;key=value`.
        auc: on pairs of held-out people; None if unknown.
        epoch: its epoch, from 1; None if there are none.
        epoch_chosen_by: the people who chose the epoch, of the head or of a fine-tuned network
            whose vectors it takes; empty if unknown.
        framings: the frames of the photos it learnt on, as `cache.provenance.frames` tells; empty
            if unknown.
        caches: those it learnt from, as paths from the folder of the file; empty: the
            `embeddings.h5` in that folder. A file holds them only if there are any.
    """

    stage: Literal["finetune", "head", ""] = ""
    recipe: str = ""
    settings: str = ""
    auc: float | None = None
    epoch: int | None = None
    epoch_chosen_by: Chooser | Literal[""] = ""
    framings: tuple[str, ...] = ()
    caches: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """What stands in the file."""
        content = asdict(self)
        if not self.caches:
            del content["caches"]
        return content

    @classmethod
    def read(cls, record: Values) -> "HeadRecord":
        """Reads the record from a file's JSON.

        Raises:
            ValueError: in a few words, what is wrong.
        """
        record.only([field.name for field in fields(cls)])
        has_auc, has_epoch = (record.get(key) is not None for key in ("auc", "epoch"))
        stage, by = ("", "finetune", "head"), ("", *get_args(Chooser))
        return cls(
            stage=cast(Any, record.choice("stage", stage)),
            recipe=record.text("recipe"),
            settings=record.text("settings"),
            auc=record.number("auc", Bounds(least=0, most=1)) if has_auc else None,
            epoch=record.whole("epoch", Bounds(least=1)) if has_epoch else None,
            epoch_chosen_by=cast(Any, record.choice("epoch_chosen_by", by)),
            framings=record.texts("framings", MOST_FRAMINGS),
            caches=record.texts("caches", MOST_CACHES) if "caches" in record.content else (),
        )


def save_head(head: Head, path: Path, record: HeadRecord | None = None) -> Path:
    """Writes a head: its arrays by name, and the JSON attribute `head`.

    Non-empty lists of people are datasets of UTF-8 names: `held_out`, `trained`, `folds/0`, ….

    Args:
        head: what to write.
        path: of the file.
        record: how it came about, where that is known.
    """
    about = {
        "schema": SCHEMA,
        "record": (record or HeadRecord()).as_json(),
        "kind": head.kind,
        "model": head.model,
        "folds": len(head.folds),
        "settings": head.settings(),
    }
    lists = {"held_out": head.held_out, "trained": head.trained}
    lists |= {f"folds/{number}": people for number, people in enumerate(head.folds)}
    names = {
        kind: np.array([name.encode() for name in people])
        for kind, people in lists.items()
        if people
    }
    return write_bytes(path, sealed_bytes(ATTRIBUTE, about, {**head.arrays(), **names}))


def load_head(path: Path) -> Head:
    """Reads a head.

    Raises:
        RunError: the file is missing or is not a head.
    """
    return read_head(path)[0]


def caches_named(path: Path) -> tuple[str, ...]:
    """The caches that a head's file names, without reading its arrays; none if it is no head."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return ()
        with path.open("rb", buffering=0) as file:
            about = read_footer(file, ATTRIBUTE).about
        return HeadRecord.read(Values(about).object("record")).caches
    except (OSError, KeyError, TypeError, ValueError):
        return ()  # whoever reads the head says why


def read_head(path: Path) -> tuple[Head, HeadRecord]:
    """Reads a head and its record.

    Raises:
        RunError: the file is missing or is not a head.
    """
    if not path.is_file():
        raise RunError(f"{path}: no such file; run kinembed head, or kinembed finetune")
    try:
        with path.open("rb", buffering=0) as file:
            content, read = read_sealed(file, ATTRIBUTE)
        about = Values(content)
        if type(schema := about.get("schema")) is not int or schema != SCHEMA:
            raise ValueError(f"schema {ascii(schema)[:20]}, this version reads {SCHEMA}")
        record = HeadRecord.read(about.object("record"))
        count = about.whole("folds", Bounds(least=0, most=MOST_FOLDS))
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
        head = head_class(about.text("kind")).from_arrays(
            about.object("settings").content,
            read,
            model=about.text("model"),
            held_out=people["held_out"],
            trained=people["trained"],
            folds=tuple(people[fold] for fold in folds),
        )
        if len(folds) not in (0, len(head.members())):
            raise ValueError(f"{len(folds)} folds for {len(head.members())} members")
    except (OSError, KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise RunError(f"{path}: not a head ({error}); {_AGAIN}") from None
    return head, record
