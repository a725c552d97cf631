"""The registry of agents, in SQLite and, for reading, in memory. It is the only source of registrations."""

import hashlib
from collections.abc import Callable
from typing import Any, Literal, TypedDict

import msgspec

from twinhost.deployment import NO_RESPONSE, OK_STATUSES
from twinhost.moments import iso_time
from twinhost.secure_zmq.errors import LimitReached, NotFound, StoreUnavailable
from twinhost.store.database import Database

MIGRATION = """
CREATE TABLE agents (
    name TEXT PRIMARY KEY NOT NULL,
    record BLOB NOT NULL,
    last_seen REAL NOT NULL
) STRICT;
"""
MIGRATION_STOPPED = "ALTER TABLE agents ADD COLUMN stopped INTEGER NOT NULL DEFAULT 0;"
MAX_REGISTRATIONS = 10_000
HEALTHY = "HEALTHY"
_AT_ONCE_S = 0.1  # both times of a registration are taken within a millisecond
AGENT_TOPIC = b"AGENT:"  # of AgentEvent


class AgentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One registration as it is stored. Times are seconds since the epoch; `revision` counts its registrations.

    `registration` is a digest of what the agent registered. The agent compares it to detect a change by somebody else.
    It is empty until it is computed.
    """

    name: str
    status: str
    location: str
    registered_by: str
    last_updated: float
    revision: int = 1
    host: str | None = None
    port: int | None = None
    health_check_port: int | None = None
    agent_type: str | None = None
    capabilities: tuple[str, ...] = ()
    dependencies: tuple[str, ...] = ()
    script_path: str | None = None
    metadata: dict[str, Any] = {}
    registration: str = ""


class AgentBrief(TypedDict):
    """An agent's location, status, and last heartbeat.

    The status is NO_RESPONSE without a heartbeat within the TTL, and after the agent has reported that it stops.
    """

    location: str
    status: str
    last_seen: str


class AgentInfo(AgentBrief):
    """A complete registration. A field that the agent did not give is null."""

    name: str
    last_updated: str
    host: str | None
    port: int | None
    health_check_port: int | None
    agent_type: str | None
    capabilities: tuple[str, ...]
    dependencies: tuple[str, ...]
    missing_dependencies: list[str]
    script_path: str | None
    metadata: dict[str, Any]
    registered_by: str
    trust_revision: str | None
    revision: int


class AgentEvent(TypedDict):
    """An agent registered or unregistered."""

    timestamp: str
    agent_name: str
    what: Literal["registered", "unregistered"]
    registered_by: str


class LastHeartbeat(msgspec.Struct, frozen=True, gc=False):
    """The last heartbeat: `wall` in seconds since the epoch, to show; `clock` in monotonic seconds, to count from.

    With `stopping` no further one is expected.
    """

    wall: float
    clock: float
    stopping: bool = False


class Registry:
    """Registrations by name. An agent that is silent for longer than its TTL, or has stopped, reads as NO_RESPONSE.

    Silence is counted by the monotonic clock, so a change of the wall clock has no effect on it.
    """

    def __init__(self, database: Database, ttl_s: float, publish: Callable[..., None] = lambda *_, **__: None) -> None:
        self._database = database
        self.clock = database.clock
        self._publish = publish
        self.ttl_s = ttl_s
        self.on_remove: Callable[[str], None] = lambda _: None  # called in the transaction that removes an agent
        self._encoder = msgspec.json.Encoder()
        self._records: dict[str, AgentRecord] = {}
        self._seen: dict[str, LastHeartbeat] = {}
        self._sent_heartbeat: set[str] = set()  # names, since the start
        self._waiting: set[str] = set()  # names whose rows are written at the end of the current transaction
        self._trust: dict[str, str] = {}  # sent with every heartbeat, so in memory only
        self._asking: set[str] = set()  # who sends it with `get_trust` instead
        wall, clock = self.clock.time(), self.clock.monotonic()
        decoder = msgspec.json.Decoder(AgentRecord)
        rows = database.execute("SELECT name, record, last_seen, stopped FROM agents").fetchall()
        if database.logged:  # by another host's clock, perhaps; who was heard from then has a whole TTL
            wall = max((last_seen for _, _, last_seen, _ in rows), default=wall) - ttl_s
        for name, record, last_seen, stopped in rows:
            self._records[name] = decoder.decode(record)
            self._seen[name] = LastHeartbeat(last_seen, clock - max(0.0, wall - last_seen), bool(stopped))
        database.before_every_commit(self._write_rows)

    def put(self, record: AgentRecord) -> AgentRecord:
        """Register an agent, or register it again; return the record with its revision and digest.

        Args:
            record: with the digest of the known record only if it registers the same.

        Raises:
            LimitReached: MAX_REGISTRATIONS agents are registered already.
        """
        known = self._records.get(record.name)
        if known is None and len(self._records) >= MAX_REGISTRATIONS:
            raise LimitReached(
                f"{MAX_REGISTRATIONS} agents are registered, which is the limit; to unregister one, run: "
                "./twinhost call SystemDigitalTwin unregister agent_name=NAME"
            )
        record = msgspec.structs.replace(
            record,
            revision=1 if known is None else known.revision + 1,
            registration=record.registration or self._digest(record),
        )
        self._write(record)
        self._announce(record.name, "registered", record.registered_by)
        return record

    def heartbeat(self, name: str, status: str | None, *, stopping: bool = False) -> LastHeartbeat:
        """Record a heartbeat, and a new status if one is given; NotFound where the agent is not registered."""
        record = self.get(name)
        self._sent_heartbeat.add(name)
        if status is not None and status != record.status:
            self._write(msgspec.structs.replace(record, status=status, last_updated=self.clock.time()))
        return self._remember(name, stopping=stopping)

    def note_trust(self, name: str, revision: str | None) -> None:
        """Record which revision of the trust document an agent has applied, by its heartbeat; None: it says none.

        One that the agent sends with `get_trust` stays then: the heartbeats of an agent that makes its own sockets know
        nothing of the thread that follows the list.
        """
        if revision is not None:
            self._asking.discard(name)
            self._trust[name] = revision
        elif name not in self._asking:
            self._trust.pop(name, None)

    def note_applied(self, name: str, revision: str) -> None:
        """Record the same by a request for what has changed since.

        It changes nothing else: that a thread of the agent follows the list does not show that the agent is well.
        """
        self._asking.add(name)
        self._trust[name] = revision

    def keep_alive(self, name: str) -> None:
        """Record a heartbeat in memory only: the registry's own agent runs as long as this process."""
        self._seen[name] = LastHeartbeat(self.clock.time(), self.clock.monotonic())

    def remove(self, name: str) -> None:
        """Delete a registration; NotFound where there is none."""
        record, seen = self.get(name), self._seen[name]
        trust, asking = self._trust.pop(name, None), name in self._asking
        self._asking.discard(name)
        self._database.execute("DELETE FROM agents WHERE name = ?", (name,))
        del self._records[name], self._seen[name]

        def undo() -> None:
            self._records[name], self._seen[name] = record, seen
            self.note_trust(name, trust)
            if asking:
                self._asking.add(name)

        self._database.on_rollback(undo)
        self.on_remove(name)
        self._announce(name, "unregistered", record.registered_by)

    def find(self, name: str) -> AgentRecord | None:
        """Return one registration, or None."""
        return self._records.get(name)

    def get(self, name: str) -> AgentRecord:
        """Return one registration; NotFound where there is none."""
        record = self._records.get(name)
        if record is None:
            raise NotFound(f"no agent {name[:64]!r} is registered; list them with: ./twinhost agents")
        return record

    def all(self) -> list[AgentRecord]:
        """Return every registration, by name."""
        return [self._records[name] for name in sorted(self._records)]

    def brief(self, record: AgentRecord) -> AgentBrief:
        return {
            "location": record.location,
            "status": self.status(record),
            "last_seen": iso_time(self._seen[record.name].wall),
        }

    def info(self, record: AgentRecord) -> AgentInfo:
        """Return what is asked for most often: named field by field, since a generic copy takes a microsecond more."""
        return {
            "name": record.name,
            **self.brief(record),
            "last_updated": iso_time(record.last_updated),
            "host": record.host,
            "port": record.port,
            "health_check_port": record.health_check_port,
            "agent_type": record.agent_type,
            "capabilities": record.capabilities,
            "dependencies": record.dependencies,
            "missing_dependencies": self._missing_dependencies(record),
            "script_path": record.script_path,
            "metadata": record.metadata,
            "registered_by": record.registered_by,
            "trust_revision": self._trust.get(record.name),
            "revision": record.revision,
        }

    def status(self, record: AgentRecord) -> str:
        """Return the registered status, or NO_RESPONSE if the agent has stopped or is silent for more than its TTL."""
        return NO_RESPONSE if self._seen[record.name].stopping or self._is_silent(record.name) else record.status

    def trust_revision(self, name: str) -> str | None:
        """Return which revision of the trust document an agent has applied; None if it has not said."""
        return self._trust.get(name)

    def has_died(self, name: str) -> bool:
        """Return whether an agent is silent for more than its TTL after it has sent heartbeats to this process.

        A program that only registers never sends any; and after mainpc's start, every agent needs time to reconnect.
        An agent that has stopped has the TTL to start again.
        """
        return name in self._sent_heartbeat and name in self._records and self._is_silent(name)

    def has_stopped(self, name: str) -> bool:
        """Return whether an agent's last heartbeat said that it stops."""
        return self._seen[name].stopping

    def last_seen(self, name: str) -> float:
        """Return when an agent was heard last, in seconds since the epoch."""
        return self._seen[name].wall

    def sends_heartbeats(self, record: AgentRecord) -> bool:
        """Return whether an agent was heard after it registered, and after its status changed last."""
        return self._seen[record.name].wall - record.last_updated > _AT_ONCE_S

    def silent_s(self, name: str) -> float:
        """Return the seconds since a registered agent's last heartbeat."""
        return self.clock.monotonic() - self._seen[name].clock

    def _is_silent(self, name: str) -> bool:
        return self.silent_s(name) > self.ttl_s

    def _missing_dependencies(self, record: AgentRecord) -> list[str]:
        return [
            name
            for name in record.dependencies
            if name not in self._records or self.status(self._records[name]) == NO_RESPONSE
        ]

    def is_ok(self, record: AgentRecord) -> bool:
        return self.status(record) in OK_STATUSES

    def _digest(self, record: AgentRecord) -> str:
        """Return the digest of a registration without volatile fields: the status, and who wrote it and when."""
        stable = msgspec.structs.replace(
            record, status="", registered_by="", last_updated=0.0, revision=0, registration=""
        )
        return hashlib.blake2b(self._encode(stable), digest_size=8).hexdigest()

    def _encode(self, record: AgentRecord) -> bytes:
        try:
            return self._encoder.encode(record)
        except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise StoreUnavailable(
                f"the registration can't be written ({error}), and nothing of this request was stored; "
                "correct its fields, and register again"
            ) from None

    def _announce(self, name: str, what: str, registered_by: str) -> None:
        self._database.after_commit(
            lambda: self._publish(AGENT_TOPIC, registered_by, agent_name=name, what=what, registered_by=registered_by)
        )

    def _write(self, record: AgentRecord) -> None:
        name = record.name
        self._remember(name)
        self._database.restore_on_rollback(self._records, name)
        self._records[name] = record

    def _remember(self, name: str, *, stopping: bool = False) -> LastHeartbeat:
        self._database.restore_on_rollback(self._seen, name)
        seen = self._seen[name] = LastHeartbeat(self.clock.time(), self.clock.monotonic(), stopping)
        self._waiting.add(name)
        return seen

    def _write_rows(self) -> None:
        """Write each changed row once, at the end of the transaction, however often it was changed."""
        if not self._waiting:
            return
        rows = [
            (name, self._encode(self._records[name]), self._seen[name].wall, self._seen[name].stopping)
            for name in self._waiting
            if name in self._records  # not removed since
        ]
        self._database.execute_many(
            "INSERT INTO agents (name, record, last_seen, stopped) VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE "
            "SET record = excluded.record, last_seen = excluded.last_seen, stopped = excluded.stopped",
            rows,
        )
        self._waiting.clear()
