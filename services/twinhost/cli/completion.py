"""`completion`: what a shell needs to complete words at a TAB, which are asked of this program each time."""

from enum import StrEnum
from textwrap import shorten
from typing import Annotated

import typer
from typer.completion import get_completion_script  # type: ignore[attr-defined]  # it says no other place

from twinhost import clients
from twinhost.cli import output
from twinhost.cli.arguments import COMPLETE_VARIABLE, AsJson
from twinhost.clients.typed import actions_of
from twinhost.network_config import load_network_config
from twinhost.secure_zmq.errors import ConfigurationError

Candidates = list[tuple[str, str]]  # with what a shell may show beside each

_MAX_CHARACTERS = 60


class Shell(StrEnum):
    """A shell with programmable completion."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh, or fish.")], as_json: AsJson = False
) -> int:
    """Print a script that completes words in a shell.

    It completes commands, options, agents, and actions of this version. In bash and zsh: source <(twinhost completion
    bash), or zsh. In fish: twinhost completion fish | source
    """
    script = get_completion_script(prog_name="twinhost", complete_var=COMPLETE_VARIABLE, shell=shell.value)
    if as_json:
        output.show_value({"status": "ok", "shell": shell.value, "script": script}, as_json=True)
    else:
        output.show_line(script)
    return 0


def agents(incomplete: str) -> Candidates:
    """Return the configured agents."""
    return _beginning(incomplete, [(agent, "agent") for agent in _configured()])


def actions(context: typer.Context, incomplete: str) -> Candidates:
    """Return the actions of the agent that `call` names."""
    return _beginning(incomplete, _actions(context.params["agent"]))


def agents_and_actions(context: typer.Context, incomplete: str) -> Candidates:
    """Return what may follow the words of `explain`: the actions of an agent, or each agent and action."""
    named = context.params["words"]
    if named:
        return _beginning(incomplete, _actions(named[0]))
    return [*agents(incomplete), *(word for agent in _configured() for word in _beginning(incomplete, _actions(agent)))]


def _configured() -> list[str]:
    try:
        return list(load_network_config().agents)
    except ConfigurationError:
        return []


def _actions(agent: str) -> Candidates:
    """Return an agent's actions; of an agent outside this project, none."""
    if agent not in clients.__all__:
        return []
    methods = actions_of(getattr(clients, agent))
    return [(action, shorten(method.__doc__ or "", _MAX_CHARACTERS)) for action, method in methods.items()]


def _beginning(incomplete: str, words: Candidates) -> Candidates:
    return [(word, about) for word, about in words if word.startswith(incomplete)]
