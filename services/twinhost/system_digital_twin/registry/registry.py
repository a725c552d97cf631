"""The registry of agents: the sole owner of who is registered; in SQLite, and in memory for reading."""

import hashlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from twinhost.secure_zmq.errors import LimitReached, NotFound, StoreUnavailable
from twinhost.store.database import Database

MIGRATION = """
CREATE TABLE agents (
    name TEXT PRIMARY KEY NOT NULL,
    record BLOB NOT NULL,
    last_seen REAL NOT NULL
) STRICT;
"""
MAX_REGISTRATIONS = 10_000
NO_RESPONSE = "NO_RESPONSE"
HEALTHY = "HEALTHY"
AGENT_TOPIC = b"AGENT:"  # of the event that says who came or went
Publish = Callable[..., None]  # a topic, and the event's fields
_OK_STATUSES = frozenset({"HEALTHY", "ok"})


class AgentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One registration. Times are seconds since the epoch; `revision` counts the registrations under this name.

    `registration` is a digest of what the agent said of itself, so that it can see whether that still holds.
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
    registration: str = ""  # of a row that an older version wrote


class Seen(msgspec.Struct, frozen=True, gc=False):
    """The last sign of life: `wall` seconds since the epoch to show, `clock` monotonic seconds to count from."""

    wall: float
    clock: float


class Registry:
    """Registrations by name. An agent that is silent for longer than its TTL reads as NO_RESPONSE.

    Silence is counted by the monotonic clock, so that a change of the wall clock silences nobody.
    """

    def __init__(self, database: Database, ttl_s: float, publish: Publish = lambda *_, **__: None) -> None:
        self._database = database
        self._publish = publish
        self._ttl_s = ttl_s
        self._encoder = msgspec.json.Encoder()
        self._records: dict[str, AgentRecord] = {}
        self._seen: dict[str, Seen] = {}
        self._waiting: set[str] = set()  # whose row is written at the end of the transaction under way
        self._trust: dict[str, str] = {}  # told with every heartbeat, so in memory alone
        wall, clock = time.time(), time.monotonic()
        decoder = msgspec.json.Decoder(AgentRecord)
        for name, record, last_seen in database.execute("SELECT name, record, last_seen FROM agents"):
            self._records[name] = decoder.decode(record)
            self._seen[name] = Seen(last_seen, clock - max(0.0, wall - last_seen))
        database.before_every_commit(self._write_rows)

    def put(self, record: AgentRecord) -> AgentRecord:
        """Register, or register again; return the record with its revision.

        Raises:
            LimitReached: it would be one more than MAX_REGISTRATIONS.
        """
        known = self._records.get(record.name)
        if known is None and len(self._records) >= MAX_REGISTRATIONS:
            raise LimitReached(f"{MAX_REGISTRATIONS} agents are registered and no more are taken; `unregister` some")
        revision = 1 if known is None else known.revision + 1
        record = msgspec.structs.replace(record, revision=revision, registration=self._digest(record))
        self._write(record)
        self._tell(record.name, "registered", record.registered_by)
        return record

    def heartbeat(self, name: str, status: str | None) -> Seen:
        """Note a sign of life, and a new status where there is one.

        Raises:
            NotFound: nobody registered under this name.
        """
        record = self.get(name)
        if status is not None and status != record.status:
            self._write(msgspec.structs.replace(record, status=status, last_updated=time.time()))
            return self._seen[name]
        return self._remember(name)

    def note_trust(self, name: str, revision: str | None) -> None:
        """Note which revision of the trust document a registered agent follows; None where it follows none."""
        if revision is None:
            self._trust.pop(name, None)
        else:
            self._trust[name] = revision

    def trust_revision(self, name: str) -> str | None:
        """Return the revision that a registered agent has told."""
        return self._trust.get(name)

    def keep_alive(self, name: str) -> None:
        """Note a sign of life in memory alone: the registry's own agent lives as long as this process."""
        self._seen[name] = Seen(time.time(), time.monotonic())

    def remove(self, name: str) -> None:
        """Forget a registration.

        Raises:
            NotFound: nobody registered under this name.
        """
        record, seen = self.get(name), self._seen[name]
        trust = self._trust.pop(name, None)
        self._database.execute("DELETE FROM agents WHERE name = ?", (name,))
        del self._records[name], self._seen[name]

        def undo() -> None:
            self._records[name], self._seen[name] = record, seen
            self.note_trust(name, trust)

        self._database.on_rollback(undo)
        self._tell(name, "unregistered", record.registered_by)

    def find(self, name: str) -> AgentRecord | None:
        """Return one registration, or None."""
        return self._records.get(name)

    def get(self, name: str) -> AgentRecord:
        """Return one registration.

        Raises:
            NotFound: nobody registered under this name.
        """
        record = self._records.get(name)
        if record is None:
            raise NotFound(f"no agent {name[:64]!r} is registered; `get_all_agents` lists those that are")
        return record

    def all(self) -> list[AgentRecord]:
        """Return every registration, by name."""
        return [self._records[name] for name in sorted(self._records)]

    def last_seen(self, name: str) -> float:
        """Return a registered agent's last sign of life in seconds since the epoch."""
        return self._seen[name].wall

    def status(self, record: AgentRecord) -> str:
        """Return the registered status, or NO_RESPONSE after more than the TTL of silence."""
        return NO_RESPONSE if self.silent_s(record.name) > self._ttl_s else record.status

    def silent_s(self, name: str) -> float:
        """Return the seconds since a registered agent's last sign of life."""
        return time.monotonic() - self._seen[name].clock

    def missing_dependencies(self, record: AgentRecord) -> list[str]:
        """Return what a registered agent says that it needs and nobody registered, or nobody hears of any more."""
        return [
            name
            for name in record.dependencies
            if name not in self._records or self.status(self._records[name]) == NO_RESPONSE
        ]

    def is_ok(self, record: AgentRecord) -> bool:
        return self.status(record) in _OK_STATUSES

    def _digest(self, record: AgentRecord) -> str:
        """Return the digest of what a registration says, apart from what passes: its status, and by whom and when."""
        lasting = msgspec.structs.replace(
            record, status="", registered_by="", last_updated=0.0, revision=0, registration=""
        )
        return hashlib.blake2b(self._encode(lasting), digest_size=8).hexdigest()

    def _encode(self, record: AgentRecord) -> bytes:
        try:
            return self._encoder.encode(record)
        except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise StoreUnavailable(
                f"a registration can't be written ({error}); nothing of this request was kept"
            ) from None

    def _tell(self, name: str, what: str, registered_by: str) -> None:
        publish = partial(self._publish, AGENT_TOPIC, agent_name=name, what=what, registered_by=registered_by)
        self._database.after_commit(publish)

    def _write(self, record: AgentRecord) -> None:
        name = record.name
        known = self._records.get(name)
        self._remember(name)
        self._records[name] = record

        def undo() -> None:
            if known is None:
                del self._records[name]
            else:
                self._records[name] = known

        self._database.on_rollback(undo)

    def _remember(self, name: str) -> Seen:
        known = self._seen.get(name)
        seen = self._seen[name] = Seen(time.time(), time.monotonic())
        self._waiting.add(name)

        def undo() -> None:
            if known is None:
                del self._seen[name]
            else:
                self._seen[name] = known

        self._database.on_rollback(undo)
        return seen

    def _write_rows(self) -> None:
        """Write each agent's row once, as it is at the end of the transaction, however often it was changed in it."""
        if not self._waiting:
            return
        rows = [
            (name, self._encode(self._records[name]), self._seen[name].wall)
            for name in self._waiting
            if name in self._records  # and was not removed since
        ]
        self._database.execute_many(
            "INSERT INTO agents VALUES (?, ?, ?) "
            "ON CONFLICT (name) DO UPDATE SET record = excluded.record, last_seen = excluded.last_seen",
            rows,
        )
        self._waiting.clear()
