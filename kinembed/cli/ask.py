"""Commands that ask about photographs: their faces, and who is kin."""

from pathlib import Path
from typing import Any

import click

from kinembed.cli import results
from kinembed.cli.options import common, json_result
from kinembed.cli.progress import listen
from kinembed.config import AlignConfig


@click.command()
@common()
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.argument("target", metavar="DST", type=click.Path(path_type=Path))
@click.option(
    "--device", default="auto", metavar="auto|cpu|cuda|mps", help="Device of the networks."
)
@click.option(
    "--min-face",
    type=click.IntRange(12),
    default=AlignConfig.min_face,
    help="Size of the smallest faces that are searched, in pixels of the photo; larger is faster.",
)
@click.option("--largest", is_flag=True, help="Crop the largest face of each photo alone.")
@click.option(
    "--rehash",
    is_flag=True,
    help="Read every photo again, even with the same size and modification time.",
)
@json_result("path", "photos", "faces", "without_face", "unreadable", "computed", "seconds")
def align(
    run: Path,
    data: Path,
    seed: int,
    quiet: bool,
    verbose: bool,
    source: Path,
    target: Path,
    as_json: bool,
    **settings: Any,
) -> None:
    """Find the faces on photos and crop them, for embed --photos DST.

    SRC is a photo or a folder of photos. Writes a crop of each face into DST, in the same folders
    as the photos, and faces.csv, which says where each comes from. The same command goes on after
    an interruption, and does just new and changed photos.
    """
    progress = listen(quiet, verbose)
    from kinembed.align import align as stage

    result = stage(AlignConfig(**settings), source, target, progress=progress)
    if as_json:
        results.print_json(results.of_align(result))


COMMANDS = (align,)
