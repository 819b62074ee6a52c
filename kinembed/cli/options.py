"""The options that several commands share, and how their values are read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from kinembed.config import FinetuneConfig

Command = TypeVar("Command", bound=Callable[..., Any])


def common(run: str = "runs/default") -> Callable[[Command], Command]:
    """The options that every command takes; `run` is the run folder's default."""
    options = (
        click.option(
            "--run",
            type=click.Path(path_type=Path, file_okay=False),
            default=run,
            help="Folder of the run's artefacts.",
        ),
        click.option(
            "--data",
            type=click.Path(path_type=Path),
            default="data",
            help="Folder of the Kaggle files.",
        ),
        click.option(
            "--seed",
            type=click.IntRange(0, 2**63 - 1),
            default=0,
            help="Seed of all that is random.",
        ),
        click.option("--quiet", is_flag=True, help="Say nothing but errors."),
        click.option("-v", "--verbose", is_flag=True, help="Say more."),
    )

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def computing(command: Command) -> Command:
    """The options of commands that run a network on photos."""
    options = (
        click.option(
            "--weights", default="auto", metavar="auto|NAME|none|PATH", help="Pretrained weights."
        ),
        click.option(
            "--device", default="auto", metavar="auto|cpu|cuda|mps", help="Where to compute."
        ),
        click.option(
            "--precision",
            type=click.Choice(["auto", "fp32", "bf16"]),
            default="auto",
            help="auto: bf16 where the device computes in it natively.",
        ),
        click.option(
            "--skip-unreadable", is_flag=True, help="Leave out photos that cannot be read."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def json_result(*keys: str, more: str = "") -> Callable[[Command], Command]:
    """The option of commands with a result; `keys` are those of its JSON object."""
    return click.option(
        "--json",
        "as_json",
        is_flag=True,
        help=f"Print the result on standard output, a JSON object of {', '.join(keys)}{more}.",
    )


def reading(command: Command) -> Command:
    """The option of commands that work from the cache."""
    return click.option(
        "--cache",
        "caches",
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="PATH",
        help="Given several times, caches of the same photos are taken as one, with views 1.max, "
        "2.max….  [default: embeddings.h5 in --run]",
    )(command)


def training(command: Command) -> Command:
    """The options of commands that train the siamese network."""
    options = (
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="KEY=VALUE",
            help="Overrides one value of the recipe, as in dropout=0.2 or hidden=100,25.",
        ),
        click.option(
            "--view",
            help="Which vector of a photo is compared.  [default: max; recipe kin: native]",
        ),
        click.option("--epochs", type=click.IntRange(1), default=FinetuneConfig.epochs),
        click.option(
            "--steps", type=click.IntRange(1), default=FinetuneConfig.steps, help="Per epoch."
        ),
        click.option("--val-steps", type=click.IntRange(1), default=FinetuneConfig.val_steps),
        click.option(
            "--batch-size", type=click.IntRange(2), default=FinetuneConfig.batch_size, help="Pairs."
        ),
        click.option(
            "--positive-fraction",
            type=click.FloatRange(0, 1, min_open=True, max_open=True),
            default=FinetuneConfig.positive_fraction,
            help="Share of kin pairs in a batch.",
        ),
        click.option(
            "--patience",
            type=click.IntRange(1),
            help="Stop after so many epochs without a better AUC.",
        ),
        click.option(
            "--minutes",
            type=click.FloatRange(0, min_open=True),
            help="Begin no epoch once the epochs took so long; recipe kin ends in that time.",
        ),
        click.option(
            "--schedule",
            type=click.Choice(["constant", "cosine", "plateau"]),
            default=FinetuneConfig.schedule,
            help="Of the learning rate; plateau halves it where the validation loss stands still.",
        ),
        click.option(
            "--warmup",
            type=click.IntRange(0),
            default=FinetuneConfig.warmup,
            help="Steps over which the learning rate rises.",
        ),
        click.option(
            "--freeze-stages",
            type=click.IntRange(0),
            default=FinetuneConfig.freeze_stages,
            help="First stages of the face network that do not learn.",
        ),
        click.option(
            "--freeze-epochs",
            type=click.IntRange(1),
            help="For so many epochs.  [default: all]",
        ),
        click.option(
            "--accumulate",
            type=click.IntRange(1),
            default=FinetuneConfig.accumulate,
            help="Parts in which a batch goes through: less memory, the same gradient.",
        ),
        click.option(
            "--save-memory",
            is_flag=True,
            help="Compute activations anew in the backward pass: less memory, more time.",
        ),
        click.option("--compile", is_flag=True, help="torch.compile the network."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def three_numbers(option: click.Parameter, text: str) -> tuple[float, float, float]:
    """Reads one number for all three channels, or three numbers."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3 or not all(abs(number) < 1e6 for number in numbers):
        raise click.BadParameter(f"found {text!r}, wanted one number or three", param=option)
    return numbers[0], numbers[1], numbers[2]


def given(settings: dict[str, Any]) -> dict[str, Any]:
    """Options that were given; those that depend on others are left to the config."""
    return {name: value for name, value in settings.items() if value is not None}


def listed(text: str) -> tuple[str, ...]:
    """Reads names with commas between them."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
