"""Owns the `upsertq` command: finds the subcommands, and turns every error into one line and an exit code.

They are entry points, those of this package too: only the one that is run is imported.
"""

import os
import sys
import traceback
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

import click

from upsertq import __version__
from upsertq.cli.exit_code import ExitCode, code_of
from upsertq.cli.output import OutputFailed, complain
from upsertq.cli.strict import StrictGroup
from upsertq.contract.errors import UpsertqError, shown

__all__ = ["ExitCode", "run_command_line", "upsertq"]

COMMANDS: Final = "upsertq.commands"
"""The entry-point group of the subcommands."""
TRACEBACK: Final = "UPSERTQ_TRACEBACK"
"""Environment variable: where it is set, an unexpected error shows its traceback."""
_EXTRA_OF: Final = {"upsertq": "cli", "upsertq_worker": "worker", "upsertq_emulator": "emulator"}


class _Commands(StrictGroup):
    """The group of all subcommands."""

    def list_commands(self, _: click.Context) -> list[str]:
        return sorted(entry_points(group=COMMANDS).names)

    def get_command(self, _: click.Context, cmd_name: str) -> click.Command | None:
        for point in entry_points(group=COMMANDS, name=cmd_name):
            return _loaded(point)
        return None


def _loaded(point: EntryPoint) -> click.Command:
    try:
        command = point.load()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in _EXTRA_OF:
            raise
        return _stand_in(point, error)
    assert isinstance(command, click.Command)  # noqa: S101 - our own entry points
    return command


def _stand_in(point: EntryPoint, error: ModuleNotFoundError) -> click.Command:
    """A command that says which extra to install, so that `--help` still lists it."""
    extra = _EXTRA_OF.get(point.value.split(".")[0], "all")
    cure = f"`upsertq {point.name}` needs {error.name}: run  pip install 'upsertq[{extra}]'"

    def complain(**_: Any) -> None:
        raise click.ClickException(cure)

    return click.Command(
        point.name,
        callback=complain,
        help=cure,
        short_help=f"(not installed: pip install 'upsertq[{extra}]')",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        add_help_option=False,
    )


@click.group(
    cls=_Commands,
    # color: escape sequences are not for click to strip, `upsertq.cli.plain` shows them
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110, "color": True},
    epilog="Exit codes: 0 done · 1 failed · 2 usage · 3 done, but records were rejected or are dead · "
    "4 timed out waiting · 5 paused: by the service or by hand.",
)
@click.version_option(__version__, prog_name="upsertq")
def upsertq() -> None:
    """The durable queue between ETL jobs and a vector index.

    Load records into the queue, run workers that land them in the index, and read the books:

    \b
      upsertq load vectors.parquet --run nightly
      upsertq work --index-host https://my-index-abc123.svc.pinecone.io
      upsertq status
    """  # noqa: D301 - click wants a real backspace before lines that it shall not wrap


def run_command_line(arguments: list[str] | None = None) -> int:  # noqa: PLR0911 - a way out for each kind of error
    """Run one command; every expected error becomes one line on stderr and a code of the contract."""
    try:
        code = upsertq.main(arguments, prog_name="upsertq", standalone_mode=False)
    except click.exceptions.Abort:
        sys.stderr.write("upsertq: interrupted\n")
        return ExitCode.INTERRUPTED
    except click.UsageError as error:
        where = f"; see `{error.ctx.command_path} --help`" if error.ctx else ""
        return _complain(error.format_message().rstrip(".") + where, ExitCode.USAGE)
    except click.ClickException as error:
        return _complain(error.format_message(), ExitCode.FAILED)
    except OutputFailed as error:
        return complain(error)
    except UpsertqError as error:
        return _complain(str(error), code_of(error))
    except Exception as error:  # noqa: BLE001 - the last resort: a person gets one line, not a page of ours
        return _admit(error)
    return int(code) if isinstance(code, int) else ExitCode.DONE


def _admit(error: Exception) -> int:
    """Say in one line that this is a fault of ours; the page behind it is shown on demand."""
    if os.environ.get(TRACEBACK):
        traceback.print_exception(error)
    said = shown(str(error), 200) if str(error) else "no message"
    return _complain(
        f"this is a bug of upsertq: {type(error).__name__}: {said}; run it again with {TRACEBACK}=1 to see where, and "
        "report that",
        ExitCode.FAILED,
    )


def _complain(message: str, code: ExitCode) -> int:
    sys.stderr.write(f"upsertq: {' '.join(message.split())}\n")
    return code
