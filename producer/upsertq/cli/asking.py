"""Owns how a command asks before it does what cannot be undone: at a terminal alone, unless `--yes` stands there."""

import sys

import click

yes = click.option("--yes", is_flag=True, help="Do not ask (for scripts).")


def _is_person() -> bool:
    """Whether a person can be asked: both ends are a terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def check_terminal(*, asks: bool, otherwise: str) -> None:
    """Raise click's usage error where it `asks`, and there is no terminal to ask at; `otherwise` says what to do."""
    if asks and not _is_person():
        raise click.UsageError(f"there is no terminal to confirm on: {otherwise}")


def typed_name(name: str, question: str) -> bool:
    """Whether the person types `name` after the question."""
    return bool(click.prompt(question, default="", show_default=False, err=True) == name)
