"""`kinembed weights …`: the published weights of the backbones."""

from pathlib import Path
from typing import Any

import click

from kinembed.cli import results
from kinembed.cli.options import backbones, common, json_result
from kinembed.cli.progress import listen


@click.group()
def weights() -> None:
    """List, fetch, convert and verify pretrained weights."""


@weights.command("list")
@common()
@json_result("weights")
def list_weights(quiet: bool, verbose: bool, as_json: bool, **_: Any) -> None:
    """List the published weights of all backbones and their place on this machine."""
    listen(quiet, verbose)
    from kinembed import weights as stage

    rows = stage.list_weights()
    if as_json:
        from dataclasses import asdict

        results.print_json({"weights": [asdict(row) for row in rows]})
    else:
        results.show_table(stage.as_table(rows))


@weights.command()
@common()
@click.argument("backbone", shell_complete=backbones)
@click.option(
    "--weights",
    "which",
    default="auto",
    metavar="auto|NAME",
    help="Published weights; kinembed weights list names them.",
)
@click.option(
    "--accept-licence",
    is_flag=True,
    help="Accept the licence of the weights; some are not downloaded without it, as "
    "kinembed weights list says.",
)
@json_result("path", "backbone", "parameters", "sha256", "digest")
def fetch(
    backbone: str,
    which: str,
    accept_licence: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **_: Any,
) -> None:
    """Download the weights of a backbone; print their file."""
    progress = listen(quiet, verbose)
    from kinembed.weights import fetch as stage

    path = stage(backbone, which, accept_licence=accept_licence, progress=progress)
    if as_json:
        results.print_json(results.of_weights(path, backbone))
    else:
        results.show(path)


@weights.command()
@common()
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.argument("target", metavar="DST.safetensors", type=click.Path(path_type=Path))
@click.option(
    "--backbone", required=True, shell_complete=backbones, help="Face network of the weights."
)
@json_result("path", "backbone", "parameters", "sha256", "digest")
def convert(
    source: Path,
    target: Path,
    backbone: str,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **_: Any,
) -> None:
    """Convert weights of any readable format to safetensors."""
    listen(quiet, verbose)
    from kinembed.weights import convert as stage

    path = stage(source, target, backbone)
    if as_json:
        results.print_json(results.of_weights(path, backbone))
    else:
        results.show(path)


@weights.command()
@common()
@click.argument("target", metavar="BACKBONE|PATH")
@click.option("--backbone", shell_complete=backbones, help="Face network of the file.")
@click.option(
    "--weights",
    "which",
    default="auto",
    metavar="auto|NAME",
    help="Published weights; kinembed weights list names them.",
)
@json_result("path", "backbone", "parameters", "sha256", "digest")
def verify(
    target: str,
    backbone: str | None,
    which: str,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **_: Any,
) -> None:
    """Verify that weights are unchanged and fit their network."""
    listen(quiet, verbose)
    from kinembed import weights as stage

    verified = stage.verify(target, backbone, which)
    if as_json:
        from dataclasses import asdict

        results.print_json(asdict(verified))
    else:
        what = f"{verified.parameters:,} parameters" if verified.parameters else "an ONNX network"
        results.show(f"{verified.path}: weights of {verified.backbone}, {what}")
        results.show(f"sha256 of the file     {verified.sha256}")
        results.show(f"digest of the tensors  {verified.digest}")
