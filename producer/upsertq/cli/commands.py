"""Owns the list of this package's subcommands."""

from typing import Final

import click

ALL: Final[tuple[click.Command, ...]] = ()
