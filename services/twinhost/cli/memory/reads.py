"""`memory search`, `context`, `audit`, `history`, `by`, and `twin`: read the memory of pc2, and who wrote it."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import typer
from rich.console import RenderableType

from twinhost.cli import output
from twinhost.cli.arguments import AsJson, Space, not_nan
from twinhost.cli.memory.importing import CallersEntries, PageOfEntries
from twinhost.cli.output import parse_moment, printable, read, to_json
from twinhost.clients.memory_replies import (
    BriefMemory,
    ContextFound,
    HistoryFound,
    MemoryAuditDocument,
    MemoryDocument,
    SearchResult,
    SearchResults,
    TwinHistory,
)
from twinhost.deployment import Settings, load_settings
from twinhost.secure_zmq.client import Client
from twinhost.unified_memory_reasoning.memories.details import DETAILS

MEMORY_AGENT = "UnifiedMemoryReasoningAgent"
_MAX_VALUE_CHARACTERS = 240
# What a row of `by` shows of an entry: the first of these fields that it has, and of the third all that say something.
_IDENTITY = ("user_id", "op_id", "pattern_id", "id", "number")
_MOMENT = ("revised", "updated", "created", "last_seen")
_ABOUT = ("change", "revision", "session_id", "speaker", "kind", "error_type", "key", "source", "seen", "outcome")
_TEXT = ("content", "pattern", "example", "data")

Name = Annotated[str, typer.Argument(metavar="NAME", help="A caller's name, as in its key.")]
Speaker = Annotated[str | None, typer.Option("--speaker", metavar="NAME", help="Only what this speaker said.")]


@contextmanager
def memory_client() -> Iterator[tuple[Client, Settings]]:
    """Connect to pc2's agent."""
    settings = load_settings()
    with settings.client(settings.config.agent(MEMORY_AGENT)) as client:
        yield client, settings


def in_space(space: str | None) -> dict[str, Any]:
    """Return the field that names a space; none for the shared one, which older agents have too."""
    return {} if space is None else {"space": space}


def search(
    query: Annotated[list[str], typer.Argument(metavar="QUERY...", help="Words and dates, without any syntax.")],
    session: Annotated[str | None, typer.Option("--session", metavar="ID", help="Only in this session.")] = None,
    speaker: Speaker = None,
    kind: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", help="user_query, system_response, code, or error.")
    ] = None,
    keyword: Annotated[str | None, typer.Option("--keyword", metavar="WORD", help="Only memories with it.")] = None,
    since: Annotated[str | None, typer.Option("--since", metavar="TIME", help="From then on, ISO-8601.")] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Until then, ISO-8601.")] = None,
    as_of: Annotated[str | None, typer.Option("--as-of", metavar="TIME", help="Search as at that time.")] = None,
    least: Annotated[
        float,
        typer.Option(
            "--min-similarity",
            metavar="S",
            min=0,
            max=1,
            callback=not_nan,
            help="Leave out results below S. No value shows whether a result answers the query.",
        ),
    ] = 0.0,
    limit: Annotated[int, typer.Option("-n", "--limit", metavar="N", min=1, max=100, help="Results.")] = 10,
    space: Space = None,
    as_json: AsJson = False,
) -> int:
    """Search in interactions and memories, best first."""
    filters = {"session_id": session, "speaker": speaker, "type": kind, "keyword": keyword}
    times = {"since": since, "until": until, "as_of": as_of}
    fields: dict[str, Any] = {"query": " ".join(query), "limit": limit, "min_similarity": least, **filters, **times}
    with memory_client() as (client, _):
        reply = client.call("search_memory", **fields, **in_space(space))
    if as_json:
        output.show_value(reply, as_json=True)
        return 0
    searched = read(reply, SearchResults)
    rows = [
        (
            (
                _minute(result.timestamp),
                f"{result.similarity:.2f}",
                result.kind,
                result.speaker or "-",
                result.session_id or "-",
                result.written_by,
            ),
            f"{_details(result)}{_shown(result)}",
        )
        for result in searched.results
    ]
    columns = ("when (UTC)", "similarity", "kind", "speaker", "session", "by")
    output.show(output.records(f"Found ({len(rows)})", columns, rows))
    places = {result.id: place for place, result in enumerate(searched.results, 1)}
    for one, other in searched.contradictions or ():
        output.say("note:", output.WARN, f"results {places[one]} and {places[other]} state different values")
    if searched.words_left_out and not rows:
        output.say("words:", output.FAINT, f"nothing has {', '.join(searched.words_left_out)}")
    if searched.without_meaning:
        output.say("warning:", output.WARN, f"searched by words alone: {searched.without_meaning}")
    if searched.not_indexed:
        texts = f"up to {searched.not_indexed:,} texts are not in the index yet; they are added in the background"
        output.say("warning:", output.WARN, texts)
    if searched.more:
        output.say("more:", output.FAINT, "there are further results; raise -n")
    return 0


def _shown(result: SearchResult) -> str:
    """Return the content of a result; of a long one, the passage that fits best."""
    if result.passage is not None:
        return f"\u2026{result.passage}\u2026"
    return f"{result.content}\u2026" if result.cut else result.content


def context(
    session: Annotated[str, typer.Argument(metavar="SESSION", help="A session's id.")],
    query: Annotated[
        list[str] | None, typer.Argument(metavar="QUERY...", help="What the turns are to fit; without it, the newest.")
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", metavar="N", min=1, max=100_000, help="The most that the text may have.")
    ] = 2_000,
    speaker: Speaker = None,
    everywhere: Annotated[
        bool, typer.Option("--all", help="With QUERY: quote other sessions and the memories too.")
    ] = False,
    space: Space = None,
    as_json: AsJson = False,
) -> int:
    """Show the context of a session, as a model would get it."""
    fields: dict[str, Any] = {"session_id": session, "max_tokens": max_tokens, "speaker": speaker}
    fields |= {"query": " ".join(query) if query else None, "scope": "all" if everywhere else "session"}
    with memory_client() as (client, _):
        reply = client.call("get_context", **fields, **in_space(space))
    if as_json:
        output.show_value(reply, as_json=True)
        return 0
    shown = read(reply, ContextFound).context
    for line in shown.text.splitlines():
        output.show_line(printable(line))
    left_out = f"{shown.dropped} of {shown.stored} turns are left out"
    output.say("context:", output.FAINT, f"{shown.tokens} of {shown.max_tokens} tokens; {left_out}")
    return 0


def audit(
    limit: Annotated[int, typer.Option("-n", "--limit", metavar="N", min=1, max=100, help="Of each list.")] = 20,
    space: Space = None,
    as_json: AsJson = False,
) -> int:
    """List memories that need attention.

    They are contradictory, duplicate, disputed between writers, never read, expired, or due for a review. Nothing is
    changed.
    """
    with memory_client() as (client, _):
        reply = client.call("memory_audit", limit=limit, **in_space(space))
    if as_json:
        output.show_value(reply, as_json=True)
        return 0
    audited = read(reply, MemoryAuditDocument)
    groups = {
        "contradictory": audited.contradictory,
        "duplicates": audited.duplicates,
        "disputed": audited.disputed or [],
    }
    lists = {"never read": audited.never_read, "expired": audited.expired, "review due": audited.review_due}
    parts = [
        _briefs(f"{kind.capitalize()} {number}", group)
        for kind in groups
        for number, group in enumerate(groups[kind], 1)
    ]
    parts += [_briefs(kind.capitalize(), briefs) for kind, briefs in lists.items() if briefs]
    if parts:
        output.show(*parts)
    else:
        output.show_line("no memory needs attention")
    if audited.more:
        output.say("more:", output.FAINT, f"{', '.join(audited.more)} have further entries; raise -n")
    return 0


def history(
    key: Annotated[str, typer.Argument(metavar="KEY", help="A key, as in store_memory; with --id, a memory's id.")],
    by_id: Annotated[bool, typer.Option("--id", help="KEY is the id of a memory.")] = False,
    space: Space = None,
    as_json: AsJson = False,
) -> int:
    """Show the values of a key in the order of their validity.

    With --id: those of a memory, and of what superseded it or was superseded by it.
    """
    named: dict[str, Any] = {"memory_id": key} if by_id else {"key": key}
    with memory_client() as (client, _):
        reply = client.call("memory_history", **named, **in_space(space))
    if as_json:
        output.show_value(reply, as_json=True)
        return 0
    values = read(reply, HistoryFound)
    rows = [_value_row(value) for value in values.memories]
    output.show(output.records(f"Values ({len(rows)})", ("id", "from (UTC)", "until", "by"), rows))
    if values.more:
        _say_more("there are later values; run", "memory_history", **named, skip=values.next_skip, **in_space(space))
    return 0


def by(
    name: Name,
    limit: Annotated[int, typer.Option("-n", "--limit", metavar="N", min=1, max=1_000, help="Of each kind.")] = 20,
    space: Space = None,
    as_json: AsJson = False,
) -> int:
    """Show what a caller wrote, newest first.

    It is shown in quarantine too.
    """
    with memory_client() as (client, _):
        reply = client.call("memory_by", name=name, limit=limit, **in_space(space))
    if as_json:
        output.show_value(reply, as_json=True)
        return 0
    written = read(reply, CallersEntries)
    pages = {kind: page for kind, page in written.written.items() if page.entries}
    if pages:
        output.show(*(_page_table(kind, page) for kind, page in pages.items()))
    else:
        output.show_line(printable(f"{name} wrote nothing that is stored"))
    for kind, page in written.written.items():
        if page.more:
            older = f"there are older {kind}; raise -n, or run"
            _say_more(older, "memory_by", name=name, kind=kind, before=page.next_before, **in_space(space))
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
    space: Space = None,
    as_json: AsJson = False,
) -> int:
    """Show who changed a user's twin, newest first."""
    with memory_client() as (client, _):
        reply = client.call("get_twin_history", user_id=user, limit=limit, **in_space(space))
    if as_json:
        output.show_value(reply, as_json=True)
        return 0
    changes = read(reply, TwinHistory)
    rows = [
        (
            (f"{change.revision}", _minute(change.updated), change.change, change.written_by),
            _text(change.data),
        )
        for change in changes.changes
    ]
    output.show(output.records(f"Changes ({len(rows)})", ("revision", "when (UTC)", "change", "by"), rows))
    if changes.more:
        older = "there are older changes; raise -n, or run"
        _say_more(older, "get_twin_history", user_id=user, before=changes.next_before, **in_space(space))
    return 0


def _say_more(sentence: str, action: str, **fields: object) -> None:
    pairs = shlex.join(f"{name}={value}" for name, value in fields.items())
    output.say("more:", output.FAINT, printable(f"{sentence}: ./twinhost call {MEMORY_AGENT} {action} {pairs}"))


def _page_table(kind: str, page: PageOfEntries) -> RenderableType:
    number = f", newest {len(page.entries)}" if page.more else f" ({len(page.entries)})"
    title = f"{kind.replace('_', ' ').capitalize()}{number}"
    return output.records(title, ("id", "when (UTC)", "about"), map(_row, page.entries))


def _row(entry: dict[str, Any]) -> tuple[list[output.Cell], output.Cell]:
    """Return the cells, and the line below them: what was written."""
    about = [(name, entry[name]) for name in _ABOUT if entry.get(name) not in (None, "")]
    words = ", ".join(value if isinstance(value, str) else f"{name} {value}" for name, value in about)
    identity, moment = str(_first(entry, _IDENTITY)), _minute(str(_first(entry, _MOMENT) or "-"))
    return [identity, moment, words or "-"], _text(_first(entry, _TEXT))


def _briefs(title: str, briefs: Sequence[BriefMemory]) -> RenderableType:
    rows = [((brief.memory_id, _minute(brief.since), brief.written_by), brief.content) for brief in briefs]
    return output.records(title, ("id", "since (UTC)", "by"), rows)


def _value_row(value: MemoryDocument) -> tuple[list[output.Cell], output.Cell]:
    starts, begins = value.valid_from or value.created, parse_moment(value.valid_from or value.created)
    until = "-" if value.valid_until is None and begins and begins > datetime.now(UTC) else value.valid_until or "now"
    details = _details(msgspec.structs.replace(value, valid_from=None, valid_until=None))  # they have columns
    return [value.id, _minute(starts), _minute(until), value.written_by], f"{details}{_text(value.content)}"


def _first(entry: dict[str, Any], names: Sequence[str]) -> Any:
    return next((entry[name] for name in names if entry.get(name) is not None), None)


def _minute(moment: str) -> str:
    """Return a time of an agent, which is in UTC, without seconds."""
    return moment[:16].replace("T", " ")


def _details(memory: SearchResult | MemoryDocument) -> str:
    words = DETAILS.described(msgspec.to_builtins(memory), _minute)
    words += [f"superseded by {memory.superseding_writer}"] if memory.superseding_writer else []
    words += [f"disputed by {name}" for name in memory.disputed_by or ()]
    return f"[{', '.join(words)}] " if words else ""


def _text(value: Any) -> str:
    """Return a text, or a value as JSON, in at most _MAX_VALUE_CHARACTERS; `-` for none."""
    text = "-" if value is None else value if isinstance(value, str) else to_json(value)
    return text if len(text) <= _MAX_VALUE_CHARACTERS else f"{text[: _MAX_VALUE_CHARACTERS - 1]}\u2026"
