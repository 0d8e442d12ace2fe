"""The console command; says which extra to install where the command line's libraries are missing."""

import sys


def main() -> int:
    """Run the command line; returns or exits with a code of the contract."""
    try:
        from upsertq.cli.main import run_command_line  # noqa: PLC0415 - the library works without the extra
        from upsertq.cli.output import flushed, guard_output  # noqa: PLC0415 - as above
        from upsertq.cli.plain import guard_streams  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "upsertq":
            raise
        sys.stderr.write(f"upsertq: the command line needs {error.name}: run  pip install 'upsertq[cli]'\n")
        return 1
    guard_output()
    guard_streams()
    return flushed(run_command_line())


if __name__ == "__main__":
    sys.exit(main())
