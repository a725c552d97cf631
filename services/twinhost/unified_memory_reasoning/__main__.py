"""`python -m twinhost.unified_memory_reasoning`: the agent on pc2, its features and its stores."""

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypedDict, TypeVar, cast

import msgspec
from starlette.responses import JSONResponse
from starlette.routing import Route

from twinhost.agent.assembly import Assembly, Followed, Foundation
from twinhost.agent.backups import BackupRecord, old_backup
from twinhost.agent.conditions import BACKUP
from twinhost.agent.dialects import Command, commands
from twinhost.agent.followed_files import MIGRATION as FOLLOWED_FILES
from twinhost.agent.health import (
    GetHealth,
    HealthActions,
    HealthCheck,
    HealthDocument,
    OperatorActions,
    Ping,
    used_documents,
)
from twinhost.agent.membership.audit_witness import WitnessActions
from twinhost.agent.membership.member import HEADS_FILE, Description, Membership
from twinhost.agent.membership.outbox import MIGRATION as MEMBERSHIP_MIGRATION
from twinhost.agent.membership.watch import WatchActions
from twinhost.agent.memory_figures import MOST_NAMES, HiddenWriter, MemoryFigures, NewestFigures, Use, largest
from twinhost.agent.process import run_agent
from twinhost.agent.refusals import MIGRATION as REFUSALS_MIGRATION
from twinhost.agent.refusals import Refusals
from twinhost.agent.refused_connections import conditions
from twinhost.agent.schema import SchemaActions
from twinhost.agent.telemetry import backup_metrics
from twinhost.moments import Clock, iso_time
from twinhost.secure_zmq.actions import action
from twinhost.secure_zmq.budgets import PerMinute
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import NotFound, StoreUnavailable
from twinhost.secure_zmq.wire import Answer, Request
from twinhost.store import damage
from twinhost.store.database import IN_MEMORY, Database
from twinhost.store.reply_log import MIGRATION_BY_TRANSACTION as REPLIES_BY_TRANSACTION
from twinhost.store.stored_bytes import Counted, counting
from twinhost.unified_memory_reasoning import SUCCESS, coordination
from twinhost.unified_memory_reasoning.backup.actions import BackupActions
from twinhost.unified_memory_reasoning.contents import Contents, Options
from twinhost.unified_memory_reasoning.conversations import interactions
from twinhost.unified_memory_reasoning.conversations.actions import ContextActions
from twinhost.unified_memory_reasoning.conversations.transcript import TranscriptActions
from twinhost.unified_memory_reasoning.coordination import ConflictActions, CoordinationActions
from twinhost.unified_memory_reasoning.errors import patterns, proposals
from twinhost.unified_memory_reasoning.errors.actions import ErrorPatternActions
from twinhost.unified_memory_reasoning.memories import details
from twinhost.unified_memory_reasoning.memories import rows as memories
from twinhost.unified_memory_reasoning.memories.actions import MemoryActions
from twinhost.unified_memory_reasoning.memories.messages import (
    DeleteMemory,
    MemoryStatus,
    QueryMemory,
    ReinforceMemory,
    StoreMemory,
    SyncMemories,
)
from twinhost.unified_memory_reasoning.provenance import quarantine
from twinhost.unified_memory_reasoning.provenance.actions import ProvenanceActions
from twinhost.unified_memory_reasoning.search import index_before, index_tables, vectors
from twinhost.unified_memory_reasoning.search.actions import SearchActions
from twinhost.unified_memory_reasoning.search.meaning import MeaningDocument, meaning_metrics, meaning_of
from twinhost.unified_memory_reasoning.spaces.actions import SpaceActions
from twinhost.unified_memory_reasoning.spaces.databases import Making, Spaces
from twinhost.unified_memory_reasoning.twins import twins
from twinhost.unified_memory_reasoning.twins.actions import TwinActions

# The older dialect of commands, such as STORE_MEMORY, translated into actions. The fields are under `payload`, else
# under `data`, else beside `command`: older clients use all three. The reply has the action's fields under `data`, and
# a sentence under `message`.

R = TypeVar("R", bound=Request)
_OF_THE_MESSAGE = frozenset({"request_id", "on_behalf_of"})  # and not of the memory
_ONLY_SHARED = frozenset({"space"})  # that dialect knows no other
_FILTERS = ("id", "memory_id", "ids", "source", "keywords", "min_strength", "changed_since", "key", "as_of")


class _Query(msgspec.Struct):
    query: dict[str, Any] | None


def _translator(request: type[R]) -> Callable[[dict[str, Any]], R]:
    """Return a function that converts a command's fields to a request."""
    names = frozenset(request.__struct_encode_fields__) - _OF_THE_MESSAGE - _ONLY_SHARED

    def translate(fields: dict[str, Any]) -> R:
        return msgspec.convert({name: value for name, value in fields.items() if name in names}, request)

    return translate


def _query(fields: dict[str, Any]) -> QueryMemory:
    """Return the query; its filters are in the object `query`, or in the fields that other commands use."""
    query = msgspec.convert({"query": {}, **fields}, _Query).query or {}
    request = _translator(QueryMemory)({**fields, **query})
    if all(getattr(request, name) is None for name in _FILTERS):
        raise ValueError(f"the query is empty; set one of {', '.join(_FILTERS)} in `query` - at `$.query`")
    return request


def _found(reply: Answer) -> Answer:
    if not reply["count"]:
        raise NotFound("no memory matches the query; use fewer or other filters")
    return _render(lambda found: f"{found['count']} memories found")(reply)


def _sync(fields: dict[str, Any]) -> SyncMemories:
    request = _translator(SyncMemories)(fields)
    if not request.memories:
        raise ValueError("`memories` is empty; send at least one - at `$.memories`")
    return request


def _synced(reply: Answer) -> Answer:
    rendered = _render(_message)(reply)
    synced = reply["added"] + reply["changed"] + reply["unchanged"]
    return {**rendered, "data": {"synced_count": synced, **rendered["data"]}}


def _render(sentence: Callable[[Answer], str]) -> Callable[[Answer], Answer]:
    """Return a function that converts a reply to the older dialect."""

    def render(reply: Answer) -> Answer:
        data = {name: value for name, value in reply.items() if name not in {"status", "message"}}
        return {"message": sentence(reply), "data": data}

    return render


def _message(reply: Answer) -> str:
    return str(reply["message"])


def _health(sentence: Callable[[Answer], str]) -> Callable[[Answer], Answer]:
    """Return a function that converts the health document, which has a status of its own."""
    return lambda reply: {"message": sentence(reply), "data": reply}


COMMANDS = {
    "TEST_PING": Command(_translator(Ping), _health(lambda _: "pong"), echoes=True),
    "STORE_MEMORY": Command(_translator(StoreMemory), _render(_message)),
    "QUERY_MEMORY": Command(_query, _found),
    "REINFORCE_MEMORY": Command(_translator(ReinforceMemory), _render(_message)),
    "GET_MEMORY_STATUS": Command(
        _translator(MemoryStatus), _render(lambda reply: f"{reply['total_memories']} memories are stored")
    ),
    "SYNC_MEMORIES": Command(_sync, _synced),
    "DELETE_MEMORY": Command(_translator(DeleteMemory), _render(_message)),
    "HEALTH_CHECK": Command(_translator(HealthCheck), _health(lambda reply: f"health is {reply['status']}")),
}


class OutboxDocument(TypedDict):
    """Undelivered events for mainpc; `oldest` (ISO-8601) is null if there are none.

    `set_aside` counts those that are kept and not sent: refused by mainpc, or unknown. `let_go` counts evicted ones.
    """

    waiting: int
    oldest: str | None
    set_aside: int
    let_go: dict[str, int]


class MemoryHealth(HealthDocument):
    """The agent's health, its requests and errors since the start, and its rows.

    The totals count quarantined writers' rows and forgotten memories too. `last_request_time` (ISO-8601) is null before
    the first request. `meaning` is null if searches are by words alone, and `without_meaning` says why. `not_indexed`
    is how many texts, at most, can't be found by words yet: after an upgrade or damage, the index is filled in the
    background.
    """

    total_twins: int
    total_sessions: int
    total_interactions: int
    total_memories: int
    total_error_patterns: int
    request_count: int
    error_count: int
    last_request_time: str | None
    outbox: OutboxDocument
    meaning: MeaningDocument | None
    not_indexed: int
    without_meaning: str | None


class MemoryHealthActions(HealthActions):
    """Returns the health document; clients expect it as the reply to a ping too."""

    @action()
    def ping(self, _: Ping, __: Caller) -> MemoryHealth:  # type: ignore[override]  # as version 0.1 replied
        return cast(MemoryHealth, self.document())

    @action(forwardable=True)
    def health(self, _: GetHealth, caller: Caller) -> MemoryHealth:
        return cast(MemoryHealth, self.shown_to(caller))

    @action(forwardable=True)
    def health_check(self, _: HealthCheck, caller: Caller) -> MemoryHealth:
        return cast(MemoryHealth, self.shown_to(caller))


NAME = "UnifiedMemoryReasoningAgent"
COUNTED = (  # a table with a writer that is missing here is found by a test
    Counted("interactions", ("session_id", "speaker", "content", "metadata")),
    Counted("context_writers", ("session_id",), names="1"),
    Counted("context_speakers", ("session_id", "speaker"), names="1"),
    Counted("context_summaries", ("session_id", "part")),
    Counted("memories", ("id", "source", "keywords", "content"), names="json_array_length(CAST({0}.keywords AS TEXT))"),
    Counted("memory_details", ("id", "details")),
    Counted("memory_tombstones", ("id",)),
    Counted("twins", ("user_id", "twin"), names="1"),
    Counted("twin_changes", ("user_id", "data")),
    Counted("error_patterns", ("error_type", "pattern", "solution")),
    Counted("solution_outcomes", ("note",)),
    Counted("unknown_error_reports", ("example",)),
    Counted("operations", ("op_id",)),
    Counted("outbox", ("fields", "request_id")),
    Counted("replies", ("requests", "digests", "replies"), writer="{0}.caller"),
)
STORED_BYTES = counting(*COUNTED)
MIGRATIONS = (  # append only: their order is the schema version
    twins.MIGRATION,
    quarantine.MIGRATION,
    twins.BY_WRITER_MIGRATION,
    interactions.MIGRATION,
    memories.MIGRATION,
    index_before.MIGRATION,
    patterns.MIGRATION,
    proposals.MIGRATION,
    coordination.MIGRATION,
    MEMBERSHIP_MIGRATION,
    index_before.FORMAT_MIGRATION,
    twins.HISTORY_MIGRATION,
    patterns.CASE_MIGRATION,
    interactions.OCCURRED_MIGRATION,
    interactions.BY_TIME_MIGRATION,
    index_before.ABOUT_MIGRATION,
    details.MIGRATION,
    index_before.OCCURRED_MIGRATION,
    vectors.MIGRATION,
    details.FOLDED_KEYS_MIGRATION,
    REPLIES_BY_TRANSACTION,
    index_before.REMOVED_MIGRATION,
    memories.GRAPH_MIGRATION,
    index_tables.PASSAGES_MIGRATION,
    vectors.PASSAGES_MIGRATION,
    STORED_BYTES,
    details.OWNERS_MIGRATION,
    coordination.MIGRATION_ENDS,
    REFUSALS_MIGRATION,
    FOLLOWED_FILES,
)
REBUILDS = {"recall_passages": (index_tables.REBUILD,), "recall_words": index_before.REBUILDS}  # damaged indexes
FEATURES = (
    MemoryHealthActions,
    OperatorActions,
    SchemaActions,
    TwinActions,
    ContextActions,
    TranscriptActions,
    SearchActions,
    MemoryActions,
    ErrorPatternActions,
    ConflictActions,
    ProvenanceActions,
    SpaceActions,
    BackupActions,
    CoordinationActions,
    WitnessActions,
    WatchActions,
)
DESCRIPTION = Description("memory", ["contexts", "search", "memories", "error_patterns", "twins", "coordination"])
SPACES_FOLDER = "spaces"  # of the state


def assemble(foundation: Foundation) -> Assembly:
    """Open the stores, and build the agent's actions and its membership."""
    settings, counters, database = foundation.settings, foundation.counters, foundation.database
    config = settings.config
    member = Membership(foundation, DESCRIPTION)
    if (warning := damage.damage_warning(database.path)) is not None:
        with database.transaction():
            member.outbox.report_error("store_damage", warning, severity="critical")
    meaning, without_meaning = meaning_of(config.recall.embeddings, database)
    if meaning is not None:
        foundation.health.warn("meaning", meaning.warnings)
        foundation.usage.register("vector_bytes", meaning.memory.held)
        foundation.telemetry.register(lambda: meaning_metrics(meaning.document()))
    at_once = PerMinute(foundation.budgets, "at_once_bytes", foundation.clock)
    foundation.usage.register("at_once_bytes", at_once.used)
    options = Options.of(config, foundation.is_live, lambda: foundation.disk.fault() is None, at_once)
    contents = Contents(database, options, meaning, member.publish)

    def contents_of(space: Database) -> Contents:
        return Contents(space, options, meaning.beside(space) if meaning and space.path != IN_MEMORY else None)

    spaces = Spaces(
        settings.state / SPACES_FOLDER,
        contents,
        Making(database.migrations, REBUILDS, contents_of),
        lambda: settings.config,
    )
    foundation.disk.count_also(spaces.stored)
    here = settings.agent.host.name
    record = contents.backups.record = BackupRecord(settings.state, NAME, foundation.clock)
    record.begin()
    foundation.health.warn(BACKUP, lambda: _backup_warnings(here, record, foundation.clock), _BACK_UP)
    foundation.telemetry.register(lambda: backup_metrics(record.newest_backup()))
    foundation.health.warn("spaces", spaces.warnings)
    refusals = Refusals(database, foundation.keys.owner_of)
    foundation.handshakes.listen(refusals.note)
    foundation.health.report(lambda: conditions(here, refusals.recent(), foundation.is_live))

    def document() -> MemoryHealth:
        last = counters.last_request_time
        return {
            **foundation.health.document(),
            "request_count": counters.requests,
            "error_count": counters.errors,
            "last_request_time": iso_time(last) if last is not None else None,
            "total_twins": contents.twins.count,
            "total_sessions": contents.interactions.session_count,
            "total_interactions": contents.interactions.count,
            "total_memories": contents.memories.count,
            "total_error_patterns": contents.patterns.count,
            "outbox": cast(OutboxDocument, member.outbox.queue.document()),
            "meaning": None if meaning is None else meaning.document(),
            "not_indexed": contents.index.not_indexed,
            "without_meaning": without_meaning,
        }

    def counted() -> MemoryFigures:
        stored, hidden = foundation.disk.stored_bytes(), contents.quarantine.all()
        return MemoryFigures(
            memories=contents.memories.count,
            interactions=contents.interactions.count,
            sessions=contents.interactions.session_count,
            twins=contents.twins.count,
            error_patterns=contents.patterns.count,
            writers=largest(stored),
            all_writers=len(stored),
            quarantined=[
                HiddenWriter(name=row["name"], since=row["since"], by=row["quarantined_by"])
                for row in hidden[:MOST_NAMES]
            ],
            all_quarantined=len(hidden),
            usage=[Use(**row) for row in used_documents(foundation.usage.rows())],
        )

    figures = NewestFigures(counted, foundation.clock.monotonic)
    member.tell(lambda: figures.newest)

    def on_tick() -> None:
        if meaning is not None:
            meaning.memory.full = foundation.usage.exhausted("vector_bytes")
        member.on_tick()
        figures.on_tick()
        spaces.on_tick()
        with suppress(StoreUnavailable):  # the store's check reports it, and they stay in memory
            refusals.on_tick()
        contents.on_tick()  # last: it may restart the agent with a restored backup

    def on_stop() -> None:
        with suppress(StoreUnavailable):
            refusals.save()
        spaces.on_stop()
        contents.on_stop()

    return Assembly(
        actions=[
            *map(spaces.routed, contents.actions()),
            *SpaceActions(spaces).actions(),
            *ConflictActions(contents.conflicts, foundation.budgets).actions(),
            *CoordinationActions(member, NAME, foundation.budgets).actions(),
            *member.actions(SUCCESS),
        ],
        success=SUCCESS,
        sentence_fields=("error", "reason"),
        translate=commands(COMMANDS, max_bytes=options.max_bytes, anywhere=True, not_found="ERROR"),
        health=MemoryHealthActions(document, foundation.clock, foundation.usage),
        on_tick=on_tick,
        on_refusal=member.on_refusal,
        elsewhere=spaces.elsewhere,
        on_stop=on_stop,
        routes=[
            Route("/api/attention", lambda _: JSONResponse(member.watch.list(), headers={"Cache-Control": "no-store"}))
        ],
        companions=[*member.companions, *([meaning] if meaning else [])],
    )


_BACK_UP = "./twinhost memory backup - > memory.backup"


def _backup_warnings(host: str, record: BackupRecord, clock: Clock) -> list[str]:
    return [trouble.what for trouble in old_backup(host, record.newest(), clock.time(), _BACK_UP)]


if __name__ == "__main__":
    followed = Followed(index_tables.FUNCTIONS, state_files=[HEADS_FILE])
    sys.exit(run_agent(NAME, MIGRATIONS, assemble, quarantine_damage=True, rebuilds=REBUILDS, followed=followed))
