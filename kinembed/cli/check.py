"""Commands that check: the data set, and what is installed."""

from pathlib import Path
from typing import Any

import click

from kinembed.cli import results
from kinembed.cli.options import FloatRange, common, json_result, listed, reading
from kinembed.cli.progress import listen
from kinembed.config import AuditConfig


@click.command()
@common()
@reading
@click.option(
    "--kinds",
    metavar="NAME,NAME…",
    callback=lambda *a: () if a[2] is None else listed(a[2]),
    help="Kinds of findings: copy, photo, double, person, relation, unlisted, family.  "
    "[default: all]",
)
@click.option(
    "--least",
    type=FloatRange(0, 1),
    default=AuditConfig.least,
    help="Lowest surety of the findings that are listed.",
)
@click.option(
    "--top",
    type=click.IntRange(1),
    default=AuditConfig.top,
    help="Findings to print, and to draw of each kind. Of fewer than 300 people: to list of each "
    "kind, without a surety.",
)
@click.option(
    "--pictures/--no-pictures",
    default=True,
    help="Draw the surest findings, audit/KIND.png, where --data holds the photos. Without, the "
    "pictures of an earlier audit stay.",
)
@click.option(
    "--write",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write what to leave out of training because of the surest findings, for kinembed head "
    "--exclude.",
)
@click.option(
    "--surest",
    type=click.IntRange(1),
    default=AuditConfig.surest,
    help="How many findings, the surest first, go into --write.",
)
@click.option(
    "--head",
    type=click.Path(path_type=Path),
    help="Head, which judges relations out of fold.  [default: head.h5 in --run, if there is one]",
)
@json_result("path", "counts", "not_judged", "missing", "changed", "findings")
def audit(
    run: Path, data: Path, quiet: bool, verbose: bool, as_json: bool, **settings: Any
) -> None:
    """Find what is doubtful in the data: photos, people, relations.

    Reads embeddings.h5 and, for relations, head.h5 and train_relationships.csv. Writes audit.csv
    and pictures into --run, and prints how many findings there are and the surest.
    """
    listen(quiet, verbose)
    from kinembed.audit import audit as stage

    path = stage(AuditConfig(**settings), data, run)
    result = results.of_audit(path)
    if as_json:
        results.print_json(result)
        return
    from kinembed.report.audit import audit_table

    results.show_table(audit_table(result["findings"], settings["top"], result["not_judged"]))


@click.command()
@common()
@json_result("next", "why", "wrong", "seconds", "torch_seconds", "findings")
def doctor(run: Path, data: Path, quiet: bool, verbose: bool, as_json: bool, **_: Any) -> None:
    """Say what is installed, what is in --data and --run, what is wrong, and what to run next.

    Changes nothing, and asks no network. Exits with 0 whatever it finds: problems are its result.
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
