"""Owns a rule of every command: an option that takes one value is given at most once, never is one dropped unsaid."""

from collections import Counter

import click


class StrictGroup(click.Group):
    """A group whose commands refuse an option of one value that is given twice."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click has it, once the options of the command that was found are looked at."""
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and not ctx.resilient_parsing:
            _check(click.Context(command, ctx, name, **command.context_settings), command, rest)
        return name, command, rest


def _check(ctx: click.Context, command: click.Command, args: list[str]) -> None:
    """Raise click's usage error for the first option that is given too often."""
    _, _, given = command.make_parser(ctx).parse_args(list(args))
    for parameter, times in Counter(given).items():
        if times > 1 and isinstance(parameter, click.Option) and not _may_repeat(parameter):
            name = max(parameter.opts, key=len)
            raise click.UsageError(f"{name} is given {times} times, and takes one value: give it once", ctx)


def _may_repeat(option: click.Option) -> bool:
    """Whether nothing is lost when it stands there twice: it collects, it counts, or it says yes."""
    return option.multiple or option.count or (option.is_flag and not option.secondary_opts)
