"""Commands that check: the data set, and what is installed."""

from pathlib import Path
from typing import Any

import click

from kinembed.cli import results
from kinembed.cli.options import common, json_result, reading
from kinembed.cli.progress import listen
from kinembed.config import AuditConfig


@click.command()
@common()
@reading
@json_result("path", "counts", "findings")
def audit(
    run: Path, data: Path, quiet: bool, verbose: bool, as_json: bool, **settings: Any
) -> None:
    """Find what is doubtful in the data: photos, people, relations.

    Reads embeddings.h5. Writes audit.csv into --run.
    """
    listen(quiet, verbose)
    from kinembed.audit import audit as stage

    path = stage(AuditConfig(**settings), data, run)
    if as_json:
        results.print_json(results.of_audit(path))


@click.command()
@common()
@json_result("next", "why", "wrong", "seconds", "torch_seconds", "findings")
def doctor(run: Path, data: Path, quiet: bool, verbose: bool, as_json: bool, **_: Any) -> None:
    """Say what is installed, what is in --data and --run, what is wrong, and what to run next.

    Changes nothing, and asks no network. Most of its time goes into importing torch.
    """
    listen(quiet, verbose)
    from kinembed.doctor import as_text
    from kinembed.doctor import doctor as stage

    found = stage(data, run)
    if as_json:
        from dataclasses import asdict

        results.print_json({**asdict(found), "wrong": found.wrong})
    else:
        results.show_table(as_text(found))


COMMANDS = (audit, doctor)
