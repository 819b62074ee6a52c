"""`kinembed cache …`: what is in an embedding cache, and its conversion."""

from pathlib import Path
from typing import Any

import click

from kinembed.cli.options import common
from kinembed.cli.progress import listen


@click.group()
def cache() -> None:
    """The embedding cache: what is in it, and whether it is sound."""


@cache.command()
@common()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def info(run: Path, as_json: bool, quiet: bool, verbose: bool, **_: Any) -> None:
    """Say what a cache holds and what made it."""
    listen(quiet, verbose)
    from kinembed.cache.verify import describe

    click.echo(describe(run / "embeddings.h5", as_json))


@cache.command("views")
@common()
def list_views(run: Path, quiet: bool, verbose: bool, **_: Any) -> None:
    """List the views: name, width and type."""
    listen(quiet, verbose)
    from kinembed.cache import EmbeddingCache

    with EmbeddingCache.open(run / "embeddings.h5") as opened:
        for view in opened.views:
            vectors = opened.vectors(view)
            click.echo(f"{view}  {vectors.shape[1]}  {vectors.dtype}")


@cache.command("export")
@common()
@click.option("--npy", "kind", flag_value=".npy", default=".npy", help="And the names as .txt.")
@click.option("--csv", "kind", flag_value=".csv")
@click.option("--parquet", "kind", flag_value=".parquet", help="Needs kinembed[parquet].")
@click.option("--view", help="[default: max, or the only one]")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="[default: embeddings.npy, .csv or .parquet in --run]",
)
def export_cache(
    run: Path, kind: str, view: str | None, out: Path | None, quiet: bool, verbose: bool, **_: Any
) -> None:
    """Write a view for other programs; print the file."""
    listen(quiet, verbose)
    from kinembed.cache.convert import export_vectors

    out = out if out is not None else run / f"embeddings{kind}"
    if out.suffix != kind:
        out = out.with_name(out.name + kind)
    click.echo(export_vectors(run / "embeddings.h5", out, view))


@cache.command("import")
@common()
@click.argument("vectors", metavar="VECTORS.npy", type=click.Path(path_type=Path))
@click.argument("names", metavar="NAMES.txt", type=click.Path(path_type=Path))
@click.option("--backbone-name", required=True, help="What made the vectors.")
@click.option("--view", default="native", help="What to call them.")
@click.option("--force", is_flag=True, help="Replace the cache that is there.")
def import_cache(
    run: Path,
    vectors: Path,
    names: Path,
    backbone_name: str,
    view: str,
    force: bool,
    quiet: bool,
    verbose: bool,
    **_: Any,
) -> None:
    """Make a cache of vectors that were made elsewhere."""
    listen(quiet, verbose)
    from kinembed.cache.convert import import_vectors

    import_vectors(vectors, names, run, backbone_name, view, force)


@cache.command("merge")
@common()
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="[default: embeddings.h5 in --run]",
)
@click.option("--force", is_flag=True, help="Replace the cache that is there.")
def merge_caches(
    run: Path,
    first: Path,
    second: Path,
    out: Path | None,
    force: bool,
    quiet: bool,
    verbose: bool,
    **_: Any,
) -> None:
    """Make one cache of two: of other photos, or of other views of the same."""
    listen(quiet, verbose)
    from kinembed.cache.convert import merge

    click.echo(merge(first, second, out if out is not None else run / "embeddings.h5", force))


@cache.command("verify")
@common()
@click.option("--repair", is_flag=True, help="Compute damaged rows anew from the photos.")
def verify_cache(run: Path, data: Path, repair: bool, quiet: bool, verbose: bool, **_: Any) -> int:
    """Read all of a cache and name what is damaged."""
    progress = listen(quiet, verbose)
    from kinembed.cache.verify import verify as check

    path = run / "embeddings.h5"
    found = check(path)
    if repair and not found.is_sound:
        click.echo(found.as_text())
        from kinembed.embed import repair as stage

        stage(run, data, progress=progress)
        found = check(path)
    click.echo(found.as_text())
    return 0 if found.is_sound else 1
