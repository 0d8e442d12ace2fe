"""Owns the options of `upsertq chaos`; what they mean is decided elsewhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from upsertq.cli import options

_options = options.several(
    click.option(
        "--seconds",
        default=60.0,
        show_default=True,
        type=options.Number(min=5),
        metavar="S",
        help="How long to work and to kill; draining and checking come on top.",
    ),
    click.option("--seed", type=click.IntRange(min=0), help="Seed of kills and faults.  [default: drawn, and told]"),
    click.option("--workers", default=4, show_default=True, type=click.IntRange(min=1), help="Number of workers."),
    click.option("--producers", default=2, show_default=True, type=click.IntRange(min=1), help="Number of producers."),
    click.option("--records", default=20_000, show_default=True, type=click.IntRange(min=0), help="Ids put once."),
    click.option(
        "--hot",
        default=200,
        show_default=True,
        type=click.IntRange(min=0),
        help="Ids updated once a second, throughout.",
    ),
    click.option(
        "--kill-probability",
        default=0.3,
        show_default=True,
        type=options.Number(0, 1),
        help="Probability that a process is killed in a round.",
    ),
    click.option(
        "--kill-every",
        default=5.0,
        show_default=True,
        type=options.Number(min=0.5),
        metavar="S",
        help="Length of a round.",
    ),
    click.option(
        "--freeze-probability",
        default=0.0,
        show_default=True,
        type=options.Number(0, 1),
        help="Probability that a worker is stopped (SIGSTOP) in a round, mostly for longer than its lease.",
    ),
    click.option(
        "--leave-probability",
        default=0.1,
        show_default=True,
        type=options.Number(0, 1),
        help="Probability that a worker ends in good order (SIGTERM) in a round, and another one joins later.",
    ),
    click.option("--faults", metavar="SPEC", help="As of `upsertq emulate`.  [default: something of everything]"),
    click.option(
        "--keep",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        help="Keep logs, notes and figures in this directory, which must be new or empty.",
    ),
    options.redis_url,
    options.as_json,
)


def chaos_command(function: Callable[..., Any]) -> click.Command:
    """Make a command of the function."""
    command = click.command("chaos", short_help="Kill, starve and confuse everything, then check the promises.")
    return command(_options(function))


def say(text: str, *, err: bool = False) -> None:
    """Print a line."""
    click.echo(text, err=err)
