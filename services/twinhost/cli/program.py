"""The commands as one program: arguments in, exit status out, and no traceback.

Exit status: 0 success; 1 refused, unhealthy, or misconfigured; 2 usage; 130 interrupted.
"""

import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.completion import completion_init  # type: ignore[attr-defined]  # it says no other place
from typer.core import TyperCommand, TyperGroup

from twinhost.cli import output
from twinhost.cli.arguments import COMPLETE_VARIABLE, JSON_FLAG, PROGRAM
from twinhost.cli.output import Failure
from twinhost.cli.standalone import USAGE
from twinhost.secure_zmq.certificates import FAILURE_FILE, PROFILE_VARIABLE, certificates_folder
from twinhost.secure_zmq.errors import TwinhostError
from twinhost.version import version_line

PROFILE_OPTION = "--profile"
COMMANDS = {  # in the order of --help: the module, and the first sentence of its help, which a test compares
    "join": ("twinhost.cli.join", "Make a key for the programs of this user, and enrol it."),
    "status": ("twinhost.cli.status", "Show what is wrong, the agents, and who is connected."),
    "attention": ("twinhost.cli.attention", "List what is wrong, or acknowledge an item."),
    "call": ("twinhost.cli.call", "Call an action and print the reply."),
    "explain": ("twinhost.cli.schemas.explain", "Show an action's fields and an example, or list the actions."),
    "client": ("twinhost.cli.schemas.client", "Write a Python module with typed clients of an agent."),
    "ping": ("twinhost.cli.call", "Measure round trips to the agents."),
    "doctor": ("twinhost.cli.doctor.command", "Examine this host and both agents."),
    "watch": ("twinhost.cli.watch", "Follow the event feed of mainpc, until Ctrl-C."),
    "errors": ("twinhost.cli.watch", "Show the errors that were reported to mainpc."),
    "lease": ("twinhost.cli.lease", "Run a program with leased memory."),
    "completion": ("twinhost.cli.completion", "Print a script that completes words in a shell."),
    "mcp": ("twinhost.cli.mcp", "Serve the memory and the system to an MCP client."),
    "inspect": ("twinhost.cli.inspect.command", "List an agent's uses of ZeroMQ, and what replaces each."),
    "agents": ("twinhost.cli.status", "List the registered agents, or unregister some."),
    "events": ("twinhost.cli.watch", "The event feed of mainpc: publish an event, or follow all."),
    "keys": ("twinhost.cli.keys", "The keys that the agents know."),
    "audit": ("twinhost.cli.audit", "The audit log of mainpc, read with the operator's key."),
    "memory": ("twinhost.cli.memory", "The memory of pc2: search, audit, backup, quarantine."),
    "switchover": ("twinhost.cli.failover", "Have the standby of an agent be active in its place."),
    "promote": ("twinhost.cli.failover", "Have the standby of an agent be active if no process is."),
    "notify": ("twinhost.cli.notify", "Messages about what is wrong: send them, or test the ways out."),
    "new": ("twinhost.cli.new.command", "Begin an agent of your own."),
}


class _Commands(TyperGroup):
    """The commands, each imported when it is used: the imports of all take half a second."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: TyperCommand(name, help=summary) for name, (_, summary) in COMMANDS.items()}

    def resolve_command(self, context: Any, arguments: list[str]) -> Any:
        name = arguments[0]
        if name in COMMANDS:
            app, command = _typer(), _command(name)
            if isinstance(command, typer.Typer):
                app.add_typer(command, name=name)
            else:
                app.command(name)(command)
            self.commands[name] = typer.main.get_group(app).commands[name]
        return super().resolve_command(context, arguments)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return the exit status; every error of twinhost becomes one sentence on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # in any locale, every answer can be shown
    if COMPLETE_VARIABLE in os.environ:  # a shell asks at a TAB
        completion_init()
    elif (failure := _certs_init_failure()) is not None:
        output.say("warning", output.WARN, f"certs-init failed: {failure}")
    try:
        exit_status = _run(list(arguments))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return exit_status


def _certs_init_failure() -> str | None:
    """Return why the last run of certs-init that makes keys failed; None if it did not."""
    try:
        return (certificates_folder() / FAILURE_FILE).read_text("utf-8", "replace").strip()
    except OSError:
        return None


def _run(arguments: list[str]) -> int:
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments  # `lease` runs what follows
    as_json = JSON_FLAG in own  # known even if the arguments can't be parsed
    arguments = _take_profile(arguments)
    first_word = arguments[0] if arguments else ""
    try:
        if not arguments or (len(arguments) == 1 and _needs_a_command(_command(first_word))):
            arguments = [*arguments, "--help"]
        # A command's own exit status, or that of --help or Ctrl-C.
        command = typer.main.get_command(program())
        return int(
            command.main(arguments, prog_name=PROGRAM, complete_var=COMPLETE_VARIABLE, standalone_mode=False) or 0
        )
    except typer.TyperException as error:
        message = " ".join(error.format_message().rstrip(".").split())  # a list of values has a line for each
        context = getattr(error, "ctx", None)
        path = PROGRAM if context is None else context.command_path
        output.show_failure(Failure("usage", f"{message}; see: {path} --help"), as_json=as_json)
        return USAGE
    except TwinhostError as error:
        output.show_failure(Failure.of(error), as_json=as_json)
        return 1


def _take_profile(arguments: list[str]) -> list[str]:
    """Take `--profile NAME`, which may come before or after the command, into the environment."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    for place, word in enumerate(arguments[:end]):
        option, equals, name = word.partition("=")
        if option == PROFILE_OPTION and (equals or place + 1 < end):
            os.environ[PROFILE_VARIABLE] = name if equals else arguments[place + 1]
            return arguments[:place] + arguments[place + (1 if equals else 2) :]
    return arguments


def program() -> typer.Typer:
    """Return the program."""
    app = _typer()
    app.callback(cls=_Commands)(_options)
    return app


def _typer() -> typer.Typer:
    return typer.Typer(
        help="Calls SystemDigitalTwin and UnifiedMemoryReasoningAgent, with the key of this user or of the operator.",
        epilog="Exit status: 0 success, 1 refused or unhealthy, 2 usage.",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )


def _command(name: str) -> Any:
    """Return a command or a group of commands; None for another name."""
    return getattr(import_module(COMMANDS[name][0]), name) if name in COMMANDS else None


def _needs_a_command(command: Any) -> bool:
    """Return whether it is a group that does nothing by itself."""
    callback = command.registered_callback if isinstance(command, typer.Typer) else None
    return isinstance(command, typer.Typer) and not (callback and callback.invoke_without_command is True)


def _show_version(asked: bool) -> None:
    if asked:
        output.show(version_line())
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the versions.", is_eager=True, callback=_show_version)
    ] = False,
    profile: Annotated[
        str | None, typer.Option(PROFILE_OPTION, metavar="NAME", help="The profile to use [TWINHOST_PROFILE].")
    ] = None,
) -> None:
    """Take the options of the program; `_take_profile` has taken the profile."""
