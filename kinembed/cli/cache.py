"""`kinembed cache …`: inspect, verify, convert and merge embedding caches."""

import shlex
from pathlib import Path
from typing import Any

import click

from kinembed.cli import results
from kinembed.cli.options import cache_in, common, folders, json_result, who
from kinembed.cli.progress import listen
from kinembed.config import DTYPES
from kinembed.printable import lines


@click.group()
def cache() -> None:
    """Inspect, verify, convert and merge embedding caches."""


@cache.command()
@common()
@json_result("path", "photos", "people", "families", "bytes", "views", "provenance")
def info(run: Path, as_json: bool, quiet: bool, verbose: bool, **_: Any) -> None:
    """Print what a cache holds and what made it."""
    listen(quiet, verbose)
    from kinembed.cache.verify import as_text, describe

    about = describe(_own_cache(run))
    if as_json:
        results.print_json(about)
    else:
        results.show_table(as_text(about))


@cache.command("views")
@common()
@json_result("path", "views")
def list_views(run: Path, as_json: bool, quiet: bool, verbose: bool, **_: Any) -> None:
    """List the views with width and number format."""
    listen(quiet, verbose)
    from kinembed.cache.verify import describe

    about = describe(_own_cache(run))
    if as_json:
        results.print_json({key: about[key] for key in ("path", "views")})
        return
    for view, kind in about["views"].items():
        results.show(f"{view}  {kind['width']}  {kind['dtype']}")


@cache.command("export")
@common()
@click.option(
    "--npy", is_flag=True, help="As .npy, with the names in a .txt beside it; the default."
)
@click.option("--csv", is_flag=True, help="As .csv.")
@click.option("--parquet", is_flag=True, help="As .parquet; needs kinembed[parquet].")
@click.option(
    "--view",
    "views",
    multiple=True,
    help="View; of a .parquet repeatable, a column each.  [default: max, or the only one]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write.  [default: embeddings.npy, .csv or .parquet in --run]",
)
@json_result("path")
def export_cache(
    run: Path,
    data: Path,
    npy: bool,
    csv: bool,
    parquet: bool,
    views: tuple[str, ...],
    out: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **_: Any,
) -> None:
    """Write a view as .npy, .csv or .parquet.

    A .parquet also says who is on each photo and, where the run has them, the fold and the kin
    score of its head, which takes the relations of --data, and the coordinates of its map.
    """
    listen(quiet, verbose)
    asked = {".npy": npy, ".csv": csv, ".parquet": parquet}
    kinds = [kind for kind, is_asked in asked.items() if is_asked]
    if len(kinds) > 1:
        raise click.UsageError("--npy, --csv and --parquet: wanted one of the three")
    if len(views) > 1 and not parquet:
        raise click.UsageError("--view: several are for --parquet; join them by + for one vector")
    (kind,) = kinds or [".npy"]
    out = out if out is not None else run / f"embeddings{kind}"
    if out.suffix != kind:
        out = out.with_name(out.name + kind)
    if parquet:
        from kinembed.cache.photo_table import export_table

        path = export_table(run, out, views, data)
    else:
        from kinembed.cache.convert import export_vectors

        path = export_vectors(_own_cache(run), out, views[0] if views else None)
    if as_json:
        results.print_json({"path": path})
    else:
        results.show(path)


@cache.command("import")
@common()
@click.argument("vectors", metavar="VECTORS.npy", type=click.Path(path_type=Path))
@click.argument("names", metavar="NAMES.txt", type=click.Path(path_type=Path))
@click.option("--backbone-name", required=True, help="Name of the network behind the vectors.")
@click.option("--view", default="native", help="Name of the view.")
@click.option("--force", is_flag=True, help="Replace an existing cache.")
@who
@json_result("path", "photos", "people", "families", "bytes", "views", "provenance")
def import_cache(
    run: Path,
    data: Path,
    vectors: Path,
    names: Path,
    backbone_name: str,
    view: str,
    force: bool,
    layout: Any,
    people_table: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **_: Any,
) -> None:
    """Make a cache from vectors of another program."""
    listen(quiet, verbose)
    from kinembed.cache.convert import import_vectors

    path = import_vectors(
        vectors, names, run, backbone_name, view, force, data, layout, people_table
    )
    if as_json:
        results.print_json(results.of_cache(path))


@cache.command("join")
@common()
@click.option(
    "--photos",
    callback=lambda *a: None if a[2] is None else folders(a[2]),
    help="Folders of photos, as embed took them, if others than train, test.",
)
@click.option(
    "--people-table",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Table of people, as embed took it.",
)
@click.option(
    "--in-shards/--one-file",
    default=None,
    help="Leave the cache in shards.  [default: as that of --run, else --one-file]",
)
@json_result("path", "photos", "people", "families", "bytes", "views", "provenance")
def join_cache(
    run: Path,
    data: Path,
    photos: tuple[str, ...] | None,
    people_table: Path | None,
    in_shards: bool | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **_: Any,
) -> None:
    """Join the shards of kinembed embed --shard to one cache.

    The last part of embed --shard does so by itself. This says which shards are missing, and needs
    no network.
    """
    listen(quiet, verbose)
    from kinembed.embedding.joining import join_shards

    path = join_shards(run, data, photos, people_table, in_shards)
    if as_json:
        results.print_json(results.of_cache(path))
    else:
        results.show(path)


@cache.command("convert")
@common()
@click.argument(
    "source",
    metavar="FROM",
    type=click.Path(path_type=Path),
    callback=lambda *a: cache_in(a[2]),
)
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    help="Number format; int8 is a byte a number, and a scale a photo.  [default: as it is]",
)
@click.option("--in-shards/--one-file", default=False, help="Write shards, or one file.")
@click.option("--shard-photos", type=click.IntRange(1), default=65_536, help="Photos per shard.")
@click.option("--force", is_flag=True, help="Replace an existing cache.")
@json_result("path", "photos", "people", "families", "bytes", "views", "provenance")
def convert_cache(
    run: Path,
    source: Path,
    dtype: str | None,
    in_shards: bool,
    shard_photos: int,
    force: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **_: Any,
) -> None:
    """Make the cache of --run from another: in shards or in one file, in another number format.

    Says the least cosine of a vector with what it was.
    """
    listen(quiet, verbose)
    from kinembed.cache.convert import convert

    path = convert(source, run, dtype, shard_photos if in_shards else None, force)
    if as_json:
        results.print_json(results.of_cache(path))
    else:
        results.show(path)


@cache.command("merge")
@common()
@click.argument("first", type=click.Path(path_type=Path), callback=lambda *a: cache_in(a[2]))
@click.argument("second", type=click.Path(path_type=Path), callback=lambda *a: cache_in(a[2]))
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Cache to write.  [default: embeddings.h5 in --run]",
)
@click.option("--force", is_flag=True, help="Replace an existing cache.")
@json_result("path", "photos", "people", "families", "bytes", "views", "provenance")
def merge_caches(
    run: Path,
    first: Path,
    second: Path,
    out: Path | None,
    force: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **_: Any,
) -> None:
    """Merge two caches: of different photos, or of different views of the same photos."""
    listen(quiet, verbose)
    from kinembed.cache.convert import merge

    path = merge(first, second, out if out is not None else run / "embeddings.h5", force)
    if as_json:
        results.print_json(results.of_cache(path))
    else:
        results.show(path)


@cache.command("verify")
@common()
@click.option("--repair", is_flag=True, help="Compute damaged rows again from the photos.")
@click.option("--photos", help="Folders of photos, as embed took them, if others than train, test.")
@click.option("--weights", help="File of weights that embed used.")
@click.option("--model", type=click.Path(path_type=Path), help="Model that embed used.")
@click.option("--onnx", type=click.Path(path_type=Path), help="ONNX file that embed used.")
@json_result("path", "photos", "sound", "damaged", "problems")
def verify_cache(
    run: Path,
    data: Path,
    repair: bool,
    photos: str | None,
    weights: str | None,
    model: Path | None,
    onnx: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **_: Any,
) -> int:
    """Read a whole cache and name every damaged row, in blocks of 64.

    --repair is for a cache that embed wrote into --run. It reads photos below --data and the run's
    model; other places that the cache names have to be named again.
    """
    progress = listen(quiet, verbose)
    from kinembed.cache.verify import verify as check

    path = _own_cache(run)
    verification = check(path)
    if repair and not verification.is_sound:
        if as_json:
            click.echo(lines(verification.as_text()), err=True)
        else:
            results.show_table(verification.as_text())
        from kinembed.embedding.repair import repair as stage

        stage(
            run, data, photos=tuple(photos.split(",")) if photos else None, weights=weights,
            model=model, onnx=onnx, progress=progress,
        )  # fmt: skip
        verification = check(path)
    if as_json:
        results.print_json(
            {
                "path": path,
                "photos": verification.rows,
                "sound": verification.is_sound,
                "damaged": verification.damaged,
                "problems": verification.problems,
            }
        )
    else:
        results.show_table("\n".join(filter(None, [verification.as_text(), verification.cure])))
    return 0 if verification.is_sound else 1


def _own_cache(run: Path) -> Path:
    """The cache of a run folder.

    Raises:
        RunError: it has none, and its head learnt from others.
    """
    from kinembed.errors import RunError
    from kinembed.heads.kept import CACHE, IN_USE, is_cache, learnt_from

    others = [] if is_cache(run / CACHE) else learnt_from(run / IN_USE)
    if others:
        places = " or ".join(shlex.join(["--run", str(other.parent)]) for other in others)
        raise RunError(
            f"{run / CACHE}: no such file; the head of this folder learnt from other caches: name "
            f"{places}"
        )
    return run / CACHE
