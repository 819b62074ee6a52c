"""Sealed files as a stranger could make them: other contents, and a seal that is right for them."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kinembed.cache.footer import _MARK, _TAIL, read_dataset, read_footer, sealed_bytes

Arrays = dict[str, np.ndarray]
Change = Callable[[Arrays, dict[str, Any]], object]


def contents(path: Path, attribute: str) -> tuple[Arrays, dict[str, Any]]:
    """The arrays of a sealed file, and its description."""
    with path.open("rb") as file:
        footer = read_footer(file, attribute)
        arrays = {name: np.array(read_dataset(file, e)) for name, e in footer.extents.items()}
    return arrays, footer.about


def resealed(path: Path, attribute: str, change: Change) -> Path:
    """Writes a sealed file again, with other arrays or another description."""
    arrays, about = contents(path, attribute)
    change(arrays, about)
    path.write_bytes(sealed_bytes(attribute, about, arrays))
    return path


def sealed_over(path: Path, seal: Any, cut: int = 0) -> Path:
    """Puts another seal, whatever it says, behind a file's HDF5 bytes less the last `cut`."""
    whole = path.read_bytes()
    length = _TAIL.unpack(whole[-_TAIL.size :])[0]
    end = len(whole) - _TAIL.size - length
    text = seal if isinstance(seal, bytes) else json.dumps(seal).encode()
    tail = _TAIL.pack(len(text), hashlib.sha256(text).digest(), _MARK)
    path.write_bytes(whole[: end - cut] + text + tail)
    return path


def seal_of(path: Path) -> dict[str, Any]:
    """What a file's seal says."""
    whole = path.read_bytes()
    length = _TAIL.unpack(whole[-_TAIL.size :])[0]
    seal: dict[str, Any] = json.loads(whole[-_TAIL.size - length : -_TAIL.size])
    return seal


def with_seal_of_its_own(path: Path, before: dict[str, Any]) -> Path:
    """Seals what stands in a file, which another program changed, as it was sealed before."""
    text = json.dumps(before).encode()
    tail = _TAIL.pack(len(text), hashlib.sha256(text).digest(), _MARK)
    with path.open("ab") as file:
        file.write(text + tail)
    return path
