"""`memory audit`, `history`, `by`, and `twin`: read the memory of pc2, and who wrote it."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from twinhost.cli import output
from twinhost.cli.arguments import DEADLINE_S, AsJson
from twinhost.cli.connect import Settings, load_settings
from twinhost.cli.memory_import import Written
from twinhost.cli.output import parse_moment, printable, read, to_json
from twinhost.secure_zmq.client import Client
from twinhost.unified_memory_reasoning.memories.messages import HistoryFound, MemoryAuditDocument
from twinhost.unified_memory_reasoning.twins.actions import TwinHistory

MEMORY_AGENT = "UnifiedMemoryReasoningAgent"
_NOT_SHOWN = frozenset({"number", "written_by"})
_MAX_VALUE_CHARACTERS = 120

Name = Annotated[str, typer.Argument(metavar="NAME", help="A caller's name, as in its key.")]


@contextmanager
def memory_client() -> Iterator[tuple[Client, Settings]]:
    """Connect to pc2's agent."""
    settings = load_settings()
    with settings.client(settings.config.agent(MEMORY_AGENT)) as client:
        yield client, settings


def audit(
    limit: Annotated[int, typer.Option("-n", "--limit", metavar="N", min=1, max=100, help="Of each list.")] = 20,
    as_json: AsJson = False,
) -> int:
    """List memories that need attention: contradictory, duplicate, never read, expired, due for a review.

    Nothing is changed.
    """
    with memory_client() as (client, _):
        found = read(client.call("memory_audit", deadline_s=DEADLINE_S, limit=limit), MemoryAuditDocument)
    if as_json:
        output.show_value({**found}, as_json=True)
        return 0
    groups = {"contradictory": found["contradictory"], "duplicates": found["duplicates"]}
    lists = {"never read": found["never_read"], "expired": found["expired"], "review due": found["review_due"]}
    lines = [(kind, brief) for kind, pairs in groups.items() for group in pairs for brief in group]
    lines += [(kind, brief) for kind, briefs in lists.items() for brief in briefs]
    for kind, brief in lines:
        output.show_line(printable(f"{kind}: {brief['memory_id']}  {brief['since']}  {_value(brief['content'])}"))
    if not lines:
        output.show_line("no memory needs attention")
    if found["more"]:
        output.say("more:", output.FAINT, f"{', '.join(found['more'])} have further entries; raise -n")
    return 0


def history(
    key: Annotated[str, typer.Argument(metavar="KEY", help="A key, as in store_memory; with --id, a memory's id.")],
    by_id: Annotated[bool, typer.Option("--id", help="KEY is the id of a memory.")] = False,
    as_json: AsJson = False,
) -> int:
    """Show the values of a key, or what superseded a memory, in the order of their validity."""
    named = {"memory_id": key} if by_id else {"key": key}
    with memory_client() as (client, _):
        reply = client.call("memory_history", deadline_s=DEADLINE_S, **named)
    if as_json:
        output.show_value(reply, as_json=True)
        return 0
    found = read(reply, HistoryFound)
    for value in found["memories"]:
        starts, ends = value.get("valid_from", value["created"]), value.get("valid_until")
        if ends is None and (begins := parse_moment(starts)) and begins > datetime.now(UTC):
            validity = f"from {starts}"
        else:
            validity = f"{starts} to {ends or 'now'}"
        sentence = f"{value['id']}  {validity}  by {value['written_by']}  {_value(value['content'])}"
        output.show_line(printable(sentence))
    if found["more"]:
        _say_more("there are later values; run", "memory_history", **named, skip=found["next_skip"])
    return 0


def by(
    name: Name,
    limit: Annotated[int, typer.Option("-n", "--limit", metavar="N", min=1, max=1_000, help="Of each kind.")] = 20,
    as_json: AsJson = False,
) -> int:
    """Show what a caller wrote, newest first, in quarantine or not."""
    with memory_client() as (client, _):
        reply = client.call("memory_by", deadline_s=DEADLINE_S, name=name, limit=limit)
    if as_json:
        output.show_value(reply, as_json=True)
        return 0
    written = read(reply, Written)
    for kind, page in written.written.items():
        for entry in page.entries:
            output.show_line(_line(kind, entry))
        if page.more:
            older = f"there are older {kind}; raise -n, or run"
            _say_more(older, "memory_by", name=name, kind=kind, before=page.next_before)
    if written.quarantined:
        output.say(
            "quarantined:",
            output.WARN,
            f"what {name} wrote is hidden; to show it again: ./twinhost memory release {name}",
        )
    return 0


def twin(
    user: Annotated[str, typer.Argument(metavar="USER", help="The twin's user_id.")],
    limit: Annotated[int, typer.Option("-n", "--limit", metavar="N", min=1, max=128, help="Changes.")] = 20,
    as_json: AsJson = False,
) -> int:
    """Show who changed a user's twin, newest first."""
    with memory_client() as (client, _):
        reply = client.call("get_twin_history", deadline_s=DEADLINE_S, user_id=user, limit=limit)
    if as_json:
        output.show_value(reply, as_json=True)
        return 0
    history = read(reply, TwinHistory)
    for change in history["changes"]:
        data = f" {_value(change['data'])}" if "data" in change else ""
        line = f"{change['revision']}  {change['updated']}  {change['written_by']} {change['change']}{data}"
        output.show_line(printable(line))
    if history["more"]:
        older = "there are older changes; raise -n, or run"
        _say_more(older, "get_twin_history", user_id=user, before=history["next_before"])
    return 0


def _say_more(sentence: str, action: str, **fields: object) -> None:
    pairs = shlex.join(f"{name}={value}" for name, value in fields.items())
    output.say("more:", output.FAINT, printable(f"{sentence}: ./twinhost call {MEMORY_AGENT} {action} {pairs}"))


def _line(kind: str, entry: dict[str, Any]) -> str:
    fields = " ".join(f"{name}={_value(value)}" for name, value in entry.items() if name not in _NOT_SHOWN)
    return printable(f"{kind} {entry.get('number')}  {fields}")


def _value(value: Any) -> str:
    text = value if isinstance(value, str) and " " not in value and value else to_json(value)
    return text if len(text) <= _MAX_VALUE_CHARACTERS else f"{text[: _MAX_VALUE_CHARACTERS - 1]}\u2026"
