"""Commands that ask about photographs: their faces, and who is kin."""

from pathlib import Path
from typing import Any

import click

from kinembed.cli import results
from kinembed.cli.options import FloatRange, answering, common, json_result, on_device, reading
from kinembed.cli.progress import listen
from kinembed.config import AlignConfig, CompareConfig, RelateConfig, SearchConfig
from kinembed.errors import KinembedError


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


def _numbers(context: click.Context, option: click.Parameter, text: str | None) -> tuple[int, ...]:
    """Reads one number from 1 on, or several with commas."""
    parts = [] if text is None else text.split(",")
    numbers = [int(part) for part in parts if part.strip().isdecimal()]
    if len(numbers) != len(parts) or 0 in numbers:
        raise click.BadParameter(f"found {text!r}, wanted a number from 1 on, or several: 2,1")
    return tuple(numbers)


_SOMEBODY = click.Path(path_type=Path)


@click.command()
@common()
@click.argument("a", required=False, type=_SOMEBODY)
@click.argument("b", required=False, type=_SOMEBODY)
@click.option(
    "--father", type=_SOMEBODY, help="Father; with --mother and --child, in place of A and B."
)
@click.option("--mother", type=_SOMEBODY, help="Mother.")
@click.option("--child", type=_SOMEBODY, help="Child, perhaps of both.")
@click.option(
    "--face",
    callback=_numbers,
    metavar="N[,N]",
    help="Which face of a photo that shows several, or one number for each photo: 2,1.  "
    "[default: the largest]",
)
@click.option(
    "--crops", is_flag=True, help="Photos are crops of one face each: look for no faces on them."
)
@click.option(
    "--prior",
    type=FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of kin among those who are compared.  [default: a third, as of the same person and "
    "of unrelated people; with --child one half]",
)
@answering
@click.option(
    "--picture",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PNG",
    help="Draw the faces as found and the answer.",
)
@click.option(
    "--explain",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PNG",
    help="Draw which regions of the faces the answer rests on.",
)
@on_device
@json_result(
    *("sentence", "answer", "same_person", "kin", "unrelated", "far", "logit", "log_odds"),
    *("priors", "source", "notes", "model", "head", "people", "files"),
    more="; of three with child_of_both, father, mother in place of answer to log_odds",
)
def compare(
    run: Path, data: Path, seed: int, quiet: bool, verbose: bool, as_json: bool, **settings: Any
) -> None:
    """Tell whether two people are one person, kin, or unrelated.

    A and B are a photo each, the crop of a face, or a folder of photos of one person. The run
    folder's own head answers, else the packaged one. Nothing leaves this machine.
    """
    progress = listen(quiet, verbose)
    config = CompareConfig(**settings)
    try:
        config.paths()
    except KinembedError as error:
        raise click.UsageError(str(error)) from None
    from kinembed.compare import compare as stage

    result = stage(config, data, run, progress=progress)
    if as_json:
        results.print_json(result.as_json())
        return
    for line in result.lines():
        results.show(line)


@click.command()
@common()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--fdr",
    type=float,
    default=RelateConfig.fdr,
    help="Share of false links allowed among those shown: the false discovery rate.",
)
@click.option(
    "--layout",
    type=click.Choice(["auto", "kaggle", "rfiw", "fiw", "kinfacew", "people", "flat"]),
    default=RelateConfig.layout,
    help="How folders say who is on a photo: not at all (flat), PERSON/ (people), FAMILY/PERSON/ "
    "(kaggle, rfiw, fiw), or as embed finds out (auto).",
)
@click.option(
    "--people",
    "people_table",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Table photo,person,family: says who is on its photos, whatever --layout says.",
)
@click.option(
    "--confirmed",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Answers saved from relate.html.  [default: confirmed.csv in --run]",
)
@answering
@click.option(
    "--min-face",
    type=click.IntRange(12),
    default=RelateConfig.min_face,
    help="Size of the smallest faces that are searched, in pixels of the photo.",
)
@click.option(
    "--crops",
    is_flag=True,
    help="Photos are crops of one face each: look for no faces on them. Without it, crops on which "
    "a face is found are taken whole, too.",
)
@click.option(
    "--exact", is_flag=True, help="Compare all pairs of more than 50,000 faces, too: it takes long."
)
@on_device
@json_result(
    *("path", "people", "links", "photos", "faces", "persons", "pairs", "shown"),
    *("expected_false", "questions", "left_out"),
)
def relate(
    run: Path,
    data: Path,
    seed: int,
    quiet: bool,
    verbose: bool,
    folder: Path,
    as_json: bool,
    **settings: Any,
) -> None:
    """Tell who is who in an album, and who may be kin.

    DIR is a folder of ordinary photographs. Writes people.csv, relate.csv and relate.html, a page
    to look at and to answer questions on. Its answers, saved as confirmed.csv in --run, are taken
    as given by the next call, which does the new photographs alone.
    """
    progress = listen(quiet, verbose)
    from kinembed.relate import relate as stage

    album = stage(RelateConfig(folder=folder, **settings), data, run, progress=progress)
    if as_json:
        results.print_json(results.of_relate(album, run))


@click.command()
@common()
@click.argument("photo", type=click.Path(path_type=Path))
@click.option(
    "--top",
    type=click.IntRange(1),
    default=SearchConfig.top,
    help="How many of the people most likely kin.",
)
@click.option(
    "--by",
    type=click.Choice(["person", "photo"]),
    default=SearchConfig.by,
    help="Search people, each by all of their photos, or photos one by one.",
)
@click.option(
    "--prior",
    type=FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of kin in the gallery.  [default: three of its people]",
)
@click.option(
    "--face",
    type=click.IntRange(1),
    help="Which face of a photo that shows several.  [default: 1, the largest]",
)
@click.option(
    "--crops", is_flag=True, help="PHOTO is the crop of one face: look for no faces on it."
)
@answering
@reading
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="CSV",
    help="Write what is found as a table.",
)
@click.option(
    "--picture",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PNG",
    help="Draw a contact sheet of what is found, from the photos below --data.",
)
@on_device
@json_result(
    *("probe", "gallery", "same_person", "kin", "priors", "source", "notes", "files"),
)
def search(
    run: Path, data: Path, seed: int, quiet: bool, verbose: bool, as_json: bool, **settings: Any
) -> None:
    """Find who in a cache is most likely kin of one person.

    PHOTO is a photo, the crop of a face, a folder of photos of one person, or the name of a photo
    or person of the cache. Who is likely the same person is set apart. Keeps what the head makes of
    the cache in --run, gallery.h5. Nothing leaves this machine.
    """
    progress = listen(quiet, verbose)
    from kinembed.search import search as stage

    result = stage(SearchConfig(**settings), data, run, progress=progress)
    if as_json:
        results.print_json(result.as_json())
        return
    for line in result.lines():
        results.show(line)
