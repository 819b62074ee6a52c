"""Commands that hand results on, to people and to other programs."""

from pathlib import Path
from typing import Any

import click

from kinembed.cli import results
from kinembed.cli.options import (
    FloatRange,
    answering,
    backbones,
    common,
    json_result,
    known_backbone,
    listed,
    on_device,
)
from kinembed.cli.progress import listen
from kinembed.config import AppConfig, ExportConfig, MapConfig, ReportConfig, ServeConfig


@click.command()
@common()
@click.option(
    "--onnx",
    "out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE",
    help="Write this ONNX file; needs kinembed[export].",
)
@click.option(
    "--backbone",
    shell_complete=backbones,
    callback=known_backbone,
    help="Export this face network, without a head.  [default: the run's network]",
)
@click.option(
    "--weights",
    default="auto",
    metavar="auto|NAME|none|PATH",
    help="Weights of --backbone: published ones by name, a file, or none.",
)
@click.option(
    "--views",
    metavar="NAME,NAME…",
    callback=lambda *a: None if a[2] is None else listed(a[2]),
    help="Views (vectors of a photo) to export.  [default: those of the run's cache]",
)
@click.option(
    "--head/--no-head",
    default=ExportConfig.head,
    help="Export the projection of the run's head, too, as the output representation.",
)
@json_result("path", "model", "outputs", "scale", "centre")
def export(
    run: Path, data: Path, seed: int, quiet: bool, verbose: bool, as_json: bool, **settings: Any
) -> None:
    """Export the network and the head as one ONNX file.

    Its input photos are uint8 RGB pixels; its outputs are the views and the head's representation.
    kinembed embed --onnx FILE reads it back, and other programs do with onnxruntime: the entry
    kinembed of its metadata says how photos become pixels, and what a logit is.
    """
    progress = listen(quiet, verbose)
    from dataclasses import asdict

    from kinembed.export import export as stage

    made = stage(ExportConfig(**settings), data, run, progress=progress)
    if as_json:
        results.print_json(asdict(made))


@click.command()
@common()
@click.option("--view", help="View of the cache.  [default: the representation of the run's head]")
@click.option(
    "--method",
    type=click.Choice(["auto", "umap", "pca"]),
    default=MapConfig.method,
    help="What places the photos: UMAP, or the principal components; auto: UMAP where "
    "kinembed[map] is installed.",
)
@click.option(
    "--people",
    type=click.IntRange(1),
    metavar="N",
    help="Show about this many people, in whole families drawn by --seed.  [default: all]",
)
@click.option(
    "--families",
    metavar="NAME,NAME…",
    callback=lambda *a: () if a[2] is None else listed(a[2]),
    help="Show these families alone.  [default: all]",
)
@click.option(
    "--photos", is_flag=True, help="Show faces as thumbnails of 48 pixels, which are personal data."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Page; the coordinates go beside it.  [default: map.html in --run; map-part.html of "
    "some people or families]",
)
@json_result(
    *("path", "table", "photos", "people", "families", "method", "placed", "thumbnails"),
    *("same_person", "same_family", "bytes"),
)
def map(run: Path, data: Path, quiet: bool, verbose: bool, as_json: bool, **settings: Any) -> None:
    """Draw the photos as a map: near where they are alike, with their kin.

    Reads embeddings.h5, head.h5 and, if there are any, the relations of --data. Writes map.html,
    one file that needs no network, and the coordinates beside it, map.csv. A map of some people or
    families is map-part.html, unless --out names it, and leaves these as they are.
    """
    progress = listen(quiet, verbose)
    from dataclasses import asdict

    from kinembed.embedding_map import embedding_map as stage

    made = stage(MapConfig(**settings), data, run, progress=progress)
    if as_json:
        results.print_json(asdict(made))


@click.command()
@common()
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Page.  [default: report.html in --run]",
)
@click.option("--photos", is_flag=True, help="Show faces, which are personal data.")
@click.option(
    "--against",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="RUN",
    help="Another run whose curves are drawn, too; repeatable.",
)
@json_result("path")
def report(
    run: Path, data: Path, seed: int, quiet: bool, verbose: bool, as_json: bool, **settings: Any
) -> None:
    """Write a page about a run: data, training, figures, threshold, doubts, provenance.

    Reads what is in --run and writes report.html there, one file that needs no network; needs
    kinembed[report]. What is missing is said, with the command that makes it.
    """
    listen(quiet, verbose)
    from kinembed.run_report import run_report as stage

    path = stage(ReportConfig(**settings), data, run)
    if as_json:
        results.print_json({"path": path})


_MEGABYTES = click.option(
    "--megabytes",
    type=click.IntRange(1),
    default=ServeConfig.megabytes,
    help="Limit of a request, two photos to compare, in MiB.",
)


@click.command()
@common()
@click.option(
    "--host",
    default=ServeConfig.host,
    help="Address to listen on. Any but this one lets other machines ask, unencrypted: put a "
    "server with TLS and passwords before it.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=ServeConfig.port,
    help="Port to listen on; 0: any free one.",
)
@click.option(
    "--name",
    "names",
    multiple=True,
    help="Host name that requests may give, besides the address; repeatable.",
)
@click.option(
    "--at-once",
    type=click.IntRange(1),
    default=ServeConfig.at_once,
    help="Requests in progress at most; others get an error and may try again.",
)
@_MEGABYTES
@click.option(
    "--seconds",
    type=FloatRange(0, 86_400, min_open=True),
    default=ServeConfig.seconds,
    help="Time limit for a request to arrive, and again to be answered.",
)
@answering
@on_device
@json_result("url")
def serve(
    run: Path, data: Path, seed: int, quiet: bool, verbose: bool, as_json: bool, **settings: Any
) -> None:
    """Compare, search and represent photos over HTTP, on this machine.

    Answers POST /compare, /search and /represent with what the commands print with --json, and
    GET /health, until Ctrl-C. Describes itself at /openapi.json. Photos are neither stored nor
    logged. Needs kinembed[serve].
    """
    progress = listen(quiet, verbose)
    from kinembed.serve import serve as stage

    def began(address: str) -> None:
        if as_json:
            results.print_json({"url": address})

    stage(ServeConfig(**settings), data, run, progress=progress, began=began)


@click.command()
@common()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=AppConfig.port,
    help="Port to listen on; 0: any free one.",
)
@click.option("--browser/--no-browser", default=AppConfig.browser, help="Open the page.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Keep albums, and what is found in them, in this folder.  [default: they are deleted]",
)
@_MEGABYTES
@answering
@on_device
@json_result("url")
def app(
    run: Path, data: Path, seed: int, quiet: bool, verbose: bool, as_json: bool, **settings: Any
) -> None:
    """Open a page in the browser that compares, searches and relates photos.

    The page is on this machine alone, under an address that nobody can guess, until Ctrl-C. Nothing
    is sent anywhere, and nothing is kept. With --data, the folder of the cache's photos, a search
    shows pictures of who is found. Needs kinembed[serve].
    """
    progress = listen(quiet, verbose)
    from kinembed.app import app as stage

    def began(address: str) -> None:
        if as_json:
            results.print_json({"url": address})

    stage(AppConfig(**settings), data, run, progress=progress, began=began)
