"""What people type: agent names, key=value pairs, seconds; an invalid one is a usage error."""

import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from twinhost.network_config import Agent, NetworkConfig
from twinhost.secure_zmq.framing.exchange import DEFAULT_DEADLINE_S
from twinhost.secure_zmq.link import TAKEOVER_S
from twinhost.secure_zmq.wire import MAX_REQUEST_ID_CHARACTERS

# The installed script, or the one beside docker-compose.yml that starts a container.
PROGRAM = "twinhost" if Path(sys.argv[0]).name == "twinhost" else "./twinhost"
COMPLETE_VARIABLE = "_TWINHOST_COMPLETE"  # set at a TAB by the script of `completion`
JSON_FLAG = "--json"
MAX_SECONDS = 3_600.0
Typed = Callable[[str, str, Any], Any]
RESERVED = {
    "action": "it is the second argument",
    "request_id": "use --request-id",
    "deadline_s": "use --deadline",
}


def not_nan(parameter: typer.CallbackParam, value: float | None) -> float | None:
    """Refuse nan, which is within every range."""
    if value is not None and math.isnan(value):
        raise typer.BadParameter(f"nan is not a number of {parameter.metavar}")
    return value


def number(option: str, metavar: str, about: str, least: float, most: float | None = None) -> Any:
    """Return an option that takes a number within bounds."""
    return typer.Option(option, metavar=metavar, min=least, max=most, callback=not_nan, help=about)


def _request_id(value: str | None) -> str | None:
    if value is not None and not 0 < len(value) <= MAX_REQUEST_ID_CHARACTERS:
        raise typer.BadParameter(f"it must have 1 to {MAX_REQUEST_ID_CHARACTERS} characters")
    return value


AsJson = Annotated[bool, typer.Option(JSON_FLAG, help="Print one line of JSON, for programs.")]
Space = Annotated[
    str | None,
    typer.Option("--space", metavar="SPACE", help="shared (the default), private, or one of network_config.yaml."),
]
Deadline = Annotated[
    float | None,
    number(
        "--deadline",
        "SECONDS",
        f"How long to wait for a reply; by default {DEFAULT_DEADLINE_S:g}; {DEFAULT_DEADLINE_S + TAKEOVER_S:g} if the "
        "agent has a standby; and as much longer as `wait_s` says.",
        0.001,
        MAX_SECONDS,
    ),
]
Wait = Annotated[float, number("--wait", "SECONDS", "How long to retry until every agent works.", 0, MAX_SECONDS)]
RequestId = Annotated[
    str | None,
    typer.Option(
        "--request-id", metavar="ID", callback=_request_id, help="Repeat an earlier call: it is not executed twice."
    ),
]


def find_agent(config: NetworkConfig, wanted: str) -> Agent:
    """Return the agent with a name, in any case, or the one that runs on a host with that name.

    Raises:
        typer.BadParameter: there is none, or there are several on that host.
    """
    folded = wanted.casefold()
    agents = config.agents.values()
    meant = [agent for agent in agents if agent.name == wanted]
    meant = meant or [agent for agent in agents if agent.name.casefold() == folded]
    meant = meant or [agent for agent in agents if agent.host.name.casefold() == folded]
    if len(meant) == 1:
        return meant[0]
    if meant:
        names = ", ".join(agent.name for agent in meant)
        raise typer.BadParameter(f"{wanted!r} is the host of {names}; name one of them", param_hint="AGENT")
    known = ", ".join(f"{agent.name} (or {agent.host.name})" for agent in agents)
    raise typer.BadParameter(f"there is no agent {wanted!r}; the agents are: {known}", param_hint="AGENT")


def parse_fields(
    pairs: list[str], typed: Typed = lambda _, __, value: value, reserved: Mapping[str, str] = RESERVED
) -> dict[str, Any]:
    """Return the fields of `key=value` words; a value that is valid JSON is decoded, any other is a text.

    Args:
        pairs: the words.
        typed: returns what is sent, of a key, the text, and the decoded value.
        reserved: keys that are no fields of this command, and what to use instead.

    Raises:
        typer.BadParameter: a word is not such a pair, or a key is repeated or reserved.
    """
    fields: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not key or not separator:
            raise typer.BadParameter(f"{pair!r} is not key=value", param_hint="KEY=VALUE")
        if key in reserved:
            raise typer.BadParameter(f"{key!r} is not a field: {reserved[key]}", param_hint="KEY=VALUE")
        if key in fields:
            raise typer.BadParameter(f"{key!r} is given twice", param_hint="KEY=VALUE")
        fields[key] = typed(key, value, _value(value))
    return fields


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)  # strict: NaN is a text
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return text
