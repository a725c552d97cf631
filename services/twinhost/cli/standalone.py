"""What certs-init, archive, and secure_sdt_client have in common: their options, exit status, input, and output.

Exit status: 0 success; 1 refused; 2 usage; 130 interrupted.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from twinhost.core_dumps import forbid_core_dumps
from twinhost.secure_zmq.errors import ConfigurationError, TwinhostError
from twinhost.version import version_line

STANDARD_STREAM = "-"  # in place of a file name
USAGE = 2


def say(line: str = "") -> None:
    """Print a line of the result, on standard output."""
    sys.stdout.write(f"{line}\n")


def note(line: str) -> None:
    """Print a line for the person at the terminal, on standard error."""
    sys.stderr.write(f"{line}\n")


def read_line(prompt: str, limit_bytes: int) -> str:
    """Return one line of standard input; a person at a terminal is shown the prompt."""
    if sys.stdin.isatty():
        sys.stderr.write(prompt)
        sys.stderr.flush()
    content = sys.stdin.buffer.readline(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise ConfigurationError(f"the line is longer than {limit_bytes} characters")
    return content.decode("ascii", "replace")


@contextmanager
def opened(file: str) -> Iterator[BinaryIO]:
    """Open a file that an argument names."""
    try:
        stream = Path(file).open("rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise ConfigurationError(f"{file} can't be read ({error.strerror}); check its path and its mode") from None
    with stream:
        yield stream


def ask(question: str) -> bool:
    """Ask the person at the terminal; any answer but `yes` means no."""
    sys.stderr.write(f"{question} [yes/no] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() == "yes"


def _show_version(asked: bool) -> None:
    if asked:
        say(version_line())
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", help="Show the versions.", is_eager=True, callback=_show_version)]


def application(help_text: str) -> typer.Typer:
    """Return a program without commands."""
    return typer.Typer(
        help=help_text,
        epilog="Exit status: 0 success, 1 refused, 2 usage.",
        add_completion=False,
        no_args_is_help=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )


def run(app: typer.Typer, program: str, arguments: Sequence[str]) -> int:
    """Run one command and return the exit status; every error of twinhost becomes one sentence on standard error."""
    forbid_core_dumps()
    command = typer.main.get_command(app)
    try:
        return int(command.main(list(arguments), prog_name=program, standalone_mode=False) or 0)
    except typer.TyperException as error:
        usage = command.collect_usage_pieces(typer.Context(command, info_name=program))
        note(f"usage: {' '.join([program, *usage])}, see {program} --help")
        note(f"{program}: {error.format_message()}")
        return USAGE
    except TwinhostError as error:
        note(f"{program}: {error}")
        return 1
