"""An option that takes a number takes no `nan`, of whichever command: it passes every range and orders with nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import pytest

from upsertq.cli.exit_code import ExitCode
from upsertq.cli.main import run_command_line, upsertq

if TYPE_CHECKING:
    from collections.abc import Iterator


def numbers(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Option]]:
    """Every option whose numbers may have a fraction and are in a range, with the words that call its command."""
    ctx = click.Context(group)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        if isinstance(command, click.Group):
            yield from numbers(command, (*path, name))
        elif command is not None:
            for one in command.params:
                if isinstance(one, click.Option) and isinstance(one.type, click.FloatRange):
                    yield (*path, name), one


NUMBERS = list(numbers(upsertq))


def test_there_are_such_options() -> None:
    """The walk finds the commands of all packages, and those of groups."""
    assert {("load",), ("run",), ("chaos",), ("dead", "replay"), ("submit", "drain"), ("status",)} <= dict(
        NUMBERS
    ).keys()


@pytest.mark.parametrize(
    ("path", "option"), NUMBERS, ids=lambda part: " ".join(part) if isinstance(part, tuple) else ""
)
def test_what_is_no_number_is_a_usage_error(
    path: tuple[str, ...], option: click.Option, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused by name, and nothing is done."""
    name = max(option.opts, key=len)
    assert run_command_line([*path, name, "nan"]) == ExitCode.USAGE
    assert f"upsertq: Invalid value for '{name}': 'nan' is no number" in capsys.readouterr().err


def test_an_interval_is_one_that_can_be_slept(capsys: pytest.CaptureFixture[str]) -> None:
    """A day is enough between two looks."""
    assert run_command_line(["status", "--watch", "--interval", "inf"]) == ExitCode.USAGE
    assert "--interval" in capsys.readouterr().err
