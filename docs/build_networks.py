"""Writes the tables of `docs/networks.md` from the records: python docs/build_networks.py."""

import re
from collections.abc import Iterator
from pathlib import Path

from kinembed.backbones import BACKBONES, Backbone, WeightSource
from kinembed.report.tables import markdown_table

PAGE = Path(__file__).with_name("networks.md")
MARK = "<!-- table: {} -->\n\n"
# Validation AUC of `kinembed head` on the frozen network, as docs/results.md has it.
MEASURED = {
    ("sface", "opencv-zoo"): ".849",
    ("dlib-resnet", "dlib-v1"): ".843",
    ("mobilefacenet", "ms-celeb-1m"): ".856",
}
NOT_MEASURED = "not measured here"
# GFLOPs of a photo, and photos a second of a processor beside MobileFaceNet's, in float32 and in
# bf16: what `python benchmarks/networks.py --rounds 3` printed on an EPYC with AVX-512 and bf16.
COSTS: dict[str, tuple[str, str, str]] = {
    "resnet50": ("7.66", ".082", ".10"),
    "senet50": ("7.67", ".060", ".086"),
    "vgg16": ("30.7", ".023", ".030"),
    "inception-resnet-v1": ("2.84", ".18", ".26"),
    "sface": ("1.15", ".45", ".48"),
    "dlib-resnet": ("0.542", ".86", "1.1"),
    "mobilefacenet": ("0.468", "1", "1"),
    "mtcnn-onet": ("0.0252", "9.2", "8.2"),
}
# Of ONNX files: parameters where the size is not known, and twice the multiplications that
# InsightFace publishes for networks of that architecture.
ONNX_MILLIONS = {"adaface-ir18": "about 24"}
ONNX_GFLOPS = {
    "adaface-ir101": "about 24",
    "adaface-ir18": "about 5.2",
    "arcface-r50": "about 12.6",
    "lvface-t": "about 3",
}


def rows() -> Iterator[tuple[Backbone, str, WeightSource]]:
    """Each backbone with each of its published weights."""
    for backbone in BACKBONES.values():
        for name, source in backbone.sources.items():
            yield backbone, name, source


def networks() -> str:
    """The table of networks."""
    cells = []
    for backbone, name, source in rows():
        place = f"`pip install '{source.install}'`"
        if source.url:
            place = f"[{source.url.split('/')[2]}]({source.url})"
        pixels = backbone.pixels
        cells.append((
            f"`{backbone.name}`",
            f"`{name}`",
            place,
            f"{source.size:,}" if source.size else "not known",
            f"{backbone.framing.side} px, {pixels.order.upper()}",
            ", ".join(f"{view} {width:,}" for view, width in backbone.views.items()),
            "no" if backbone.is_onnx else "yes",
            MEASURED.get((backbone.name, name), NOT_MEASURED),
        ))  # fmt: skip
    head = ("backbone", "weights", "from", "bytes", "input", "views", "fine-tunes", "AUC of `head`")
    return markdown_table([head, *cells], len(head), are_markdown=True)


def costs() -> str:
    """The table of what a photo costs."""
    cells = []
    for backbone in BACKBONES.values():
        source = next(iter(backbone.sources.values()))
        if backbone.is_onnx:
            millions = ONNX_MILLIONS.get(backbone.name) or f"about {(source.size or 0) / 4e6:.0f}"
            cost = (ONNX_GFLOPS[backbone.name], NOT_MEASURED, NOT_MEASURED)
        else:
            millions, cost = f"{backbone.parameters / 1e6:.3g}", COSTS[backbone.name]
        cells.append((f"`{backbone.name}`", millions, *cost))
    head = ("backbone", "million parameters", "GFLOPs", "photos/s, float32", "photos/s, bf16")
    return markdown_table([head, *cells], len(head), are_markdown=True)


def licences() -> str:
    """The table of licences, as the records spell them out."""
    cells = [
        (f"`{backbone.name}`", f"`{name}`", source.licence, "yes" * source.accept_licence)
        for backbone, name, source in rows()
    ]
    head = ("backbone", "weights", "licence", "`--accept-licence`")
    return markdown_table([head, *cells], len(head), are_markdown=True)


def build_networks(page: str) -> str:
    """The page with its tables as the records are."""
    tables = {"networks": networks(), "costs": costs(), "licences": licences()}
    for name, table in tables.items():
        mark = MARK.format(name)
        pattern = re.escape(mark) + r"(?:\|[^\n]*\n)*"
        page, count = re.subn(pattern, lambda _, text=mark + table: text, page)  # type: ignore[misc]
        if count != 1:
            raise ValueError(f"{PAGE}: found {count} times {mark.strip()}, wanted it once")
    return page


if __name__ == "__main__":
    PAGE.write_text(build_networks(PAGE.read_text("utf-8")), "utf-8", newline="\n")
