"""The commands as one program: arguments in, exit status out, and no traceback.

Exit status: 0 fine; 1 refused, unhealthy, or not to be configured; 2 usage; 130 interrupted.
"""

import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from operator_cli import output
from operator_cli.agents import agents
from operator_cli.arguments import JSON_FLAG
from operator_cli.audit import audit
from operator_cli.call import call
from operator_cli.doctor.command import doctor
from operator_cli.failures import Failure
from operator_cli.keys import keys
from operator_cli.memory import memory
from operator_cli.ping import ping
from operator_cli.status import status
from operator_cli.watch import watch
from secure_zmq.errors import TwinhostError
from secure_zmq.version import version_line

PROGRAM = "cli"  # its name in docker-compose.yml
USAGE = 2

app = typer.Typer(
    help="Asks SystemDigitalTwin and UnifiedMemoryReasoningAgent, with the operator's key.",
    epilog="Exit status: 0 fine, 1 refused or unhealthy, 2 usage.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(asked: bool) -> None:
    if asked:
        output.show(version_line())
        raise typer.Exit


VERSION_OPTION = typer.Option("--version", help="Show the versions.", is_eager=True, callback=_show_version)


@app.callback()
def _options(version: Annotated[bool, VERSION_OPTION] = False) -> None:
    pass


for command in (status, agents, call, ping, doctor, watch):
    app.command()(command)
for name, group in (("keys", keys), ("audit", audit), ("memory", memory)):
    app.add_typer(group, name=name)


def main(arguments: Sequence[str]) -> int:
    """Run one command and return the exit status; every error of twinhost becomes one sentence on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # whatever the locale, no answer fails to be shown
    try:
        exit_status = _run(list(arguments) or ["--help"])
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return exit_status


def _run(arguments: list[str]) -> int:
    as_json = JSON_FLAG in arguments  # known even where the arguments can't be parsed
    try:
        # A command's own exit status, or that of --help or Ctrl-C.
        return int(typer.main.get_command(app).main(arguments, prog_name=PROGRAM, standalone_mode=False) or 0)
    except typer.TyperException as error:
        message = error.format_message().rstrip(".")
        output.show_failure(Failure("usage", f"{message}; see {PROGRAM} --help"), as_json=as_json)
        return USAGE
    except TwinhostError as error:
        output.show_failure(Failure.of(error), as_json=as_json)
        return 1
