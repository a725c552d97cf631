"""`keys invite`, `accept`, `pending`, `reject`, `revoke`, and `rotate`: certs-init, run by this machine's engine.

Only certs-init can change mainpc's tree of keys. So these commands run it, in the project of the mainpc that runs here,
and are no further way to change a key: whoever may use the engine may run certs-init. Their arguments are those that
certs-init declares.
"""

import inspect
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import IO, Any, NamedTuple

import typer

from twinhost.cli import output
from twinhost.cli.arguments import AsJson
from twinhost.cli.certs_init import (
    run_accept,
    run_invite,
    run_pending,
    run_reject,
    run_revoke,
    run_rotate_client,
    run_rotate_server,
)
from twinhost.cli.output import Failure
from twinhost.cli.standalone import STANDARD_STREAM, opened
from twinhost.commands import CERTS_INIT
from twinhost.secure_zmq.errors import ConfigurationError

_DOCKER = "docker"
_OF_MAINPC = ("label=com.docker.compose.service=mainpc", "label=com.docker.compose.oneoff=False")
_LABELS = ("com.docker.compose.project", "com.docker.compose.project.working_dir")
_FILE = "file"  # the parameter of `accept`, whose file the container can't see

Command = Callable[..., Any]


class Project(NamedTuple):
    """A project of Compose in which mainpc runs, and the folder of its docker-compose.yml."""

    name: str
    folder: Path


def add_changes(keys: typer.Typer) -> None:
    """Add the commands that change keys to the group."""
    for command in (run_invite, run_accept, run_pending, run_reject, run_revoke):
        name = command.__name__.removeprefix("run_")
        keys.command(name)(_by_certs_init(command, name))
    rotate = typer.Typer(help="Replace a key without downtime.")
    for command in (run_rotate_server, run_rotate_client):
        name = command.__name__.removeprefix("run_rotate_")
        rotate.command(name)(_by_certs_init(command, "rotate", name))
    keys.add_typer(rotate, name="rotate")


def _by_certs_init(command: Command, *names: str) -> Command:
    """Return a command with the same parameters, and --json, which has certs-init run by the engine."""

    @wraps(command)
    def run(context: typer.Context, *, as_json: bool, **_: object) -> int:
        with _named_file(context) as (file, stream):
            return _run_certs_init([*names, *_words(context, file)], stream, as_json=as_json)

    declared = inspect.signature(command)
    as_json = inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=AsJson)
    run.__signature__ = declared.replace(parameters=[*declared.parameters.values(), as_json])  # type: ignore[attr-defined]
    run.__annotations__ = {**command.__annotations__, "as_json": AsJson}
    return run


@contextmanager
def _named_file(context: typer.Context) -> Iterator[tuple[str | None, IO[bytes] | None]]:
    """Open the file that is named, for certs-init to read from standard input; return what names it there."""
    file = context.params.get(_FILE)
    if file is None or file == STANDARD_STREAM or not Path(file).exists():
        yield file, None
        return
    with opened(file) as stream:
        yield STANDARD_STREAM, stream


def _words(context: typer.Context, file: str | None) -> list[str]:
    """Return the arguments as words again."""
    words: list[str] = []
    arguments: list[str] = []
    for parameter in context.command.params:
        value = file if parameter.name == _FILE else context.params.get(str(parameter.name))
        if parameter.name == "as_json" or value in (None, False):
            continue
        values = value if isinstance(value, list | tuple) else [value]
        if parameter.param_type_name == "argument":
            arguments += map(str, values)
        else:
            words += [word for item in values for word in (parameter.opts[0], *([] if item is True else [str(item)]))]
    return [*words, *arguments]


def _run_certs_init(words: Sequence[str], stream: IO[bytes] | None, *, as_json: bool) -> int:
    """Run certs-init where mainpc runs, and return its exit status."""
    project = _project(words)
    terminal = stream is None and not as_json and sys.stdin.isatty() and sys.stdout.isatty()
    compose = [_DOCKER, "compose", "--progress", "quiet", "--project-name", project.name]
    command = [*compose, "run", "--rm", "--no-deps", *([] if terminal else ["-T"]), "certs-init", *words]
    quiet = {**os.environ, "COMPOSE_IGNORE_ORPHANS": "1"}  # its advice would delete an agent of a second Compose file
    # The words are this command's arguments, and no shell reads them.
    if not as_json:
        return subprocess.run(command, cwd=project.folder, env=quiet, stdin=stream, check=False).returncode  # noqa: S603
    done = subprocess.run(  # noqa: S603
        command, cwd=project.folder, env=quiet, stdin=stream, capture_output=True, text=True, check=False
    )
    sys.stderr.write(done.stderr)
    lines = done.stdout.splitlines()
    if done.returncode == 0:
        output.show_value({"status": "ok", "lines": lines}, as_json=True)
    else:
        sentence = (done.stderr.strip().splitlines() or [f"certs-init ended with {done.returncode}"])[-1]
        output.show_value({**Failure("certs_init", sentence).as_reply(), "lines": lines}, as_json=True)
    return done.returncode


def _project(words: Sequence[str]) -> Project:
    """Return the project of the mainpc that runs here; of several, that of COMPOSE_PROJECT_NAME, or of this folder.

    Raises:
        ConfigurationError: none runs here, or several do; the sentence has the command to run instead.
    """
    listing = "\t".join(f'{{{{.Label "{label}"}}}}' for label in _LABELS)
    filters = [word for label in _OF_MAINPC for word in ("--filter", label)]
    try:
        listed = subprocess.run(  # noqa: S603
            [_DOCKER, "ps", *filters, "--format", listing], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise _elsewhere("there is no docker here", words) from None
    if listed.returncode:
        raise _elsewhere(f"docker can't be used here ({listed.stderr.strip()})", words)
    rows = (line.split("\t") for line in listed.stdout.splitlines())
    projects = sorted({Project(name, Path(folder)) for name, folder in rows})
    if wanted := os.environ.get("COMPOSE_PROJECT_NAME"):
        projects = [project for project in projects if project.name == wanted]
    if len(projects) > 1:
        projects = [project for project in projects if project.folder == Path.cwd()] or projects
    if len(projects) != 1:
        names = ", ".join(f"{project.name} in {project.folder}" for project in projects)
        raise _elsewhere(f"several run here ({names})" if projects else "mainpc does not run on this machine", words)
    if not os.access(projects[0].folder, os.X_OK):
        raise _elsewhere(f"{projects[0].folder}, where it was started, can't be entered", words)
    return projects[0]


def _elsewhere(why: str, words: Sequence[str]) -> ConfigurationError:
    return ConfigurationError(
        f"certs-init changes keys on the machine where mainpc runs, and {why}; run in the checkout there: "
        f"{CERTS_INIT} {shlex.join(words)}"
    )
