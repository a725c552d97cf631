"""What people type: agent names, key=value pairs, seconds; whatever is no good is a usage error."""

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import typer

from twinhost.network_config import Agent, NetworkConfig
from twinhost.secure_zmq.client import DEFAULT_DEADLINE_S
from twinhost.secure_zmq.wire import MAX_REQUEST_ID_CHARACTERS

JSON_FLAG = "--json"
MAX_SECONDS = 3_600.0
Typed = Callable[[str, str, Any], Any]
_RESERVED = {
    "action": "it is the second argument",
    "request_id": "use --request-id",
    "deadline_s": "use --deadline",
}


def _seconds(*, zero: bool) -> Callable[[float], float]:
    def check(value: float) -> float:
        if not (0 < value <= MAX_SECONDS or (zero and value == 0)):  # nan is neither
            least = "at least" if zero else "more than"
            raise typer.BadParameter(f"it must be {least} 0 and at most {MAX_SECONDS:g} seconds")
        return value

    return check


def _request_id(value: str | None) -> str | None:
    if value is not None and not 0 < len(value) <= MAX_REQUEST_ID_CHARACTERS:
        raise typer.BadParameter(f"it must have 1 to {MAX_REQUEST_ID_CHARACTERS} characters")
    return value


AsJson = Annotated[bool, typer.Option(JSON_FLAG, help="Print one line of JSON, for programs.")]
Deadline = Annotated[
    float,
    typer.Option("--deadline", metavar="SECONDS", callback=_seconds(zero=False), help="How long to wait for a reply."),
]
Wait = Annotated[
    float,
    typer.Option(
        "--wait", metavar="SECONDS", callback=_seconds(zero=True), help="How long to retry until all is well."
    ),
]
RequestId = Annotated[
    str | None,
    typer.Option(
        "--request-id", metavar="ID", callback=_request_id, help="Repeat an earlier call: it is never executed twice."
    ),
]
DEADLINE_S = DEFAULT_DEADLINE_S


def find_agent(config: NetworkConfig, wanted: str) -> Agent:
    """Return the agent of a name, in whatever case, or the one that runs on a host of that name.

    Raises:
        typer.BadParameter: there is none, or there are several on that host.
    """
    folded = wanted.casefold()
    found = [agent for agent in config.agents.values() if agent.name == wanted]
    found = found or [agent for agent in config.agents.values() if agent.name.casefold() == folded]
    found = found or [agent for agent in config.agents.values() if agent.host.name.casefold() == folded]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(agent.name for agent in found)
        raise typer.BadParameter(f"{wanted!r} stands for {names}; name one of them", param_hint="AGENT")
    known = ", ".join(f"{agent.name} (or {agent.host.name})" for agent in config.agents.values())
    raise typer.BadParameter(f"there is no agent {wanted!r}; there are: {known}", param_hint="AGENT")


def parse_fields(pairs: list[str], typed: Typed = lambda _, __, value: value) -> dict[str, Any]:
    """Return the fields of `key=value` words; a value that is JSON is taken as such, any other as text.

    Args:
        pairs: the words.
        typed: given a key, the text, and the value that it is as JSON, returns what is sent.

    Raises:
        typer.BadParameter: a word is no such pair, a key is there twice, or is not a field's.
    """
    fields: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not key or not separator:
            raise typer.BadParameter(f"{pair!r} is not key=value", param_hint="KEY=VALUE")
        if key in _RESERVED:
            raise typer.BadParameter(f"{key!r} is not a field: {_RESERVED[key]}", param_hint="KEY=VALUE")
        if key in fields:
            raise typer.BadParameter(f"{key!r} is there twice", param_hint="KEY=VALUE")
        fields[key] = typed(key, value, _value(value))
    return fields


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)  # the strict one: NaN is a text
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return text
