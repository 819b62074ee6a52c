"""The machine: device, precision, threads, memory, room and rights of the folders written to."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from kinembed.diagnosis.finding import Finding
from kinembed.diagnosis.installed import REINSTALL_TORCH
from kinembed.errors import KinembedError
from kinembed.io import check_writable
from kinembed.memory import free_memory, total_memory
from kinembed.threads import cpu_quota, processors

LEAST_ROOM, LEAST_MEMORY = 1 << 30, 1 << 30  # bytes: a cache of Kaggle's photos, and a network
DRIVER = Path("/proc/driver/nvidia/version")  # of NVIDIA's driver for Linux


def examine_processors() -> Iterator[Finding]:
    """Processors and memory that this process may use, and the threads that are asked for."""
    count, machine, quota = processors(), os.cpu_count() or 1, cpu_quota()
    limit = "" if quota is None else f", of which the container grants {quota:g}"
    yield Finding(
        "processors", f"{count} of {machine} in use{limit}",
        values={"processors": count, "of_machine": machine, "quota": quota},
    )  # fmt: skip
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        text = os.environ.get(name, "")
        if text and text != str(count):
            fact = f"{name} is {text}, with {count} processors"
            yield Finding("processors", fact, "note", f"unset {name}", {name.lower(): text})
    total, free = total_memory(), free_memory()
    values = {"total": total, "free": free}
    if free is None or total is None:
        yield Finding("memory", "the system does not say how much is free", values=values)
        return
    fact = f"{free / 1e9:.1f} GB free of {total / 1e9:.1f} GB"
    if free < LEAST_MEMORY:
        yield Finding("memory", fact, "wrong", "end other programs", values)
    else:
        yield Finding("memory", fact, values=values)


def examine_device() -> Iterator[Finding]:
    """The device that networks run on, its memory, and the precision that `auto` chooses."""
    start = time.perf_counter()
    try:
        import torch
    except Exception as error:  # a missing library is an OSError, a mixed install anything
        reason = " ".join(str(error).split())
        yield Finding(
            "device", f"torch cannot be imported: {type(error).__name__}: {reason}", "wrong",
            REINSTALL_TORCH, {"torch": None},
        )  # fmt: skip
        return
    seconds = time.perf_counter() - start
    from kinembed.backbones.device import choose_device, choose_precision

    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        device = choose_device("auto")
        precision = choose_precision("auto", device)
        memory = _memory_of(device.type)
    build = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    name = f": {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    yield Finding(
        "device", f"{device.type}{name}{memory} (torch {torch.__version__}, built {build})",
        values={
            "device": device.type,
            "name": name[2:],
            "torch": torch.__version__,
            "cuda_build": torch.version.cuda,
            "torch_import_seconds": round(seconds, 3),
        },
    )  # fmt: skip
    for warning in raised:
        yield Finding("device", " ".join(str(warning.message).split()), "note")
    if device.type == "cpu" and not torch.version.cuda and DRIVER.exists():
        yield Finding(
            "device", "there is an NVIDIA GPU, but torch is a build without CUDA", "wrong",
            "pip install --force-reinstall torch",
        )  # fmt: skip
    elif device.type == "cpu" and torch.version.cuda and DRIVER.exists():
        yield Finding(
            "device", "there is an NVIDIA GPU, but torch finds none", "note",
            "look whether nvidia-smi works and whether CUDA_VISIBLE_DEVICES hides it",
        )  # fmt: skip
    yield _precision(device.type, precision)
    yield Finding(
        "threads", f"torch computes in {torch.get_num_threads()}",
        values={"torch": torch.get_num_threads()},
    )  # fmt: skip


def _memory_of(device: str) -> str:
    """The memory of a device, in words."""
    import torch

    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        return f", {free / 1e9:.1f} GB free of {total / 1e9:.1f} GB"
    if device == "mps":
        return f", {torch.mps.recommended_max_memory() / 1e9:.1f} GB"
    return ""


def _precision(device: str, precision: str) -> Finding:
    """What `--precision auto` chooses, and why."""
    import torch

    features: list[str] = []
    if device == "cpu":
        able = torch.cpu.get_capabilities()
        features = [name for name in ("avx512_bf16", "amx_bf16") if able.get(name)]
        why = f"this CPU has {' and '.join(features)}" if features else "this CPU has no bf16"
    else:
        why = f"this GPU computes {'' if precision == 'bf16' else 'no '}bf16 itself"
    return Finding(
        "precision", f"auto is {precision}: {why}",
        values={"precision": precision, "bf16_features": features},
    )  # fmt: skip


def examine_room(run: Path, data: Path) -> Iterator[Finding]:
    """Room and rights of the run folder, of the weights' folder, and for temporary files."""
    from kinembed.backbones.published_weights import cache_folder

    places = {
        "run folder": (run, "name another with --run"),
        "weights": (cache_folder(), "set KINEMBED_CACHE"),
    }
    for what, (folder, cure) in places.items():
        try:
            check_writable(folder / "file")
        except KinembedError:
            fact = f"{what} {folder}: cannot be written to"
            yield Finding(
                "room", fact, "wrong", f"mend its rights, or {cure}", {"path": str(folder)}
            )
        yield _room(what, folder, cure)
    try:
        folder = Path(tempfile.gettempdir())
    except OSError as error:
        yield Finding("room", f"temporary files: {error.strerror}", "wrong", "set TMPDIR")
        return
    yield _room("temporary files", folder, "set TMPDIR")
    if data.exists() and not os.access(data, os.R_OK | os.X_OK):
        yield Finding("room", f"data folder {data}: cannot be read", "wrong", "mend its rights")


def _room(what: str, folder: Path, cure: str) -> Finding:
    """How much a folder's disk has left."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(there).free
    values = {"path": str(folder), "free": free}
    fact = f"{what} {folder}: {free / 1e9:,.1f} GB free"
    if hasattr(os, "statvfs") and (about := os.statvfs(there)).f_files and not about.f_favail:
        return Finding(
            "room", f"{fact}, but no file more", "wrong", f"delete files, or {cure}", values
        )
    if free < LEAST_ROOM:
        return Finding("room", fact, "wrong", f"make room, or {cure}", values)
    return Finding("room", fact, values=values)
