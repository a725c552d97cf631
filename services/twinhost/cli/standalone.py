"""What certs-init and archive have in common as programs: their options, their exit status, and their output.

Exit status: 0 fine; 1 refused; 2 usage; 130 interrupted.
"""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from twinhost.secure_zmq.errors import TwinhostError

STANDARD_STREAM = "-"  # in place of a file name
USAGE = 2


def say(line: str = "") -> None:
    """Print a line of the result, on standard output."""
    sys.stdout.write(f"{line}\n")


def note(line: str) -> None:
    """Print a line for the person at the terminal, on standard error."""
    sys.stderr.write(f"{line}\n")


def _show_version(asked: bool) -> None:
    if asked:
        from twinhost.version import version_line  # noqa: PLC0415 - it loads pyzmq

        say(version_line())
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", help="Show the versions.", is_eager=True, callback=_show_version)]


def application(help_text: str) -> typer.Typer:
    """Return a program without commands."""
    return typer.Typer(
        help=help_text,
        epilog="Exit status: 0 fine, 1 refused, 2 usage.",
        add_completion=False,
        no_args_is_help=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )


def run(app: typer.Typer, program: str, arguments: Sequence[str]) -> int:
    """Run one command and return the exit status; every error of twinhost becomes one sentence on standard error."""
    try:
        command = typer.main.get_command(app)
        return int(command.main(list(arguments), prog_name=program, standalone_mode=False) or 0)
    except typer.TyperException as error:
        note(f"usage: {program} [OPTIONS] COMMAND [ARGS]..., see {program} --help")
        note(f"{program}: {error.format_message()}")
        return USAGE
    except TwinhostError as error:
        note(f"{program}: {error}")
        return 1
