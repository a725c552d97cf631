"""Events and errors: a limited number is stored in order, and each is sent on the feed once it is on disk.

Both share one sequence: `seq` continues over restarts, and no number is used twice. A message on the feed also has
the number of the one before it under its topic, so a subscriber detects what it missed.

An agent that was disconnected sends again what it got no reply to. What the same caller sends twice, equal in every
field including the id and the timestamp, is stored once. With another content it is another event, even under the
same id; so is one without a timestamp, because it is dated when it arrives.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Literal, NotRequired, TypedDict

import msgspec

from twinhost.agent.message_shape import message_shape
from twinhost.moments import iso_time
from twinhost.secure_zmq.errors import MessageTooLarge, NotFound
from twinhost.store.database import Database
from twinhost.system_digital_twin.deduplication import Deduplication, digest_of


class Topic(StrEnum):
    """The topics of the two kinds on the feed."""

    EVENT = "EVENT:"
    ERROR = "ERROR:"


class StoredFields(TypedDict):
    """What every stored event or error has: its number, when it arrived, the caller, and its own timestamp."""

    seq: int
    time: str
    written_by: str
    timestamp: str | float


class StoredEvent(StoredFields):
    """An event, as it was published."""

    event_id: str
    event_type: str
    source_agent: str
    data: dict[str, Any] | None
    propagate: bool
    ttl: float | None


class StoredError(StoredFields):
    """An error, as it was reported; errors of one shape have one `shape_id`."""

    error_id: str
    agent_id: str
    severity: Literal["info", "warning", "error", "critical"]
    error_type: str
    message: str
    context: dict[str, Any] | None
    stack_trace: str | None
    related_task_id: str | None
    recovery_attempted: bool
    recovery_successful: bool | None
    shape_id: str
    acknowledged_by: NotRequired[str]
    acknowledged_at: NotRequired[str]


class ErrorGroup(TypedDict):
    """Errors of one shape: how many, when, how many are acknowledged; fields of the newest of the worst severity."""

    shape_id: str
    shape: str
    count: int
    acknowledged: int
    first: str
    last: str
    error_type: str
    agent_id: str
    severity: str
    message: str


class ErrorCounts(TypedDict):
    """How many errors match, by the most frequent names, and their shapes, newest first; `shapes` counts all shapes."""

    total: int
    by_type: dict[str, int]
    by_agent: dict[str, int]
    by_severity: dict[str, int]
    shapes: int
    groups: list[ErrorGroup]


class SevereErrors(msgspec.Struct, frozen=True, kw_only=True):
    """Errors of severity `error` or `critical` that nobody has acknowledged; `first` in seconds since the epoch.

    `shape_ids` are in the order of `groups`: the worst first.
    """

    count: int = 0
    first: float = 0.0
    shape_ids: tuple[str, ...] = ()
    groups: tuple[ErrorGroup, ...] = ()


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One event or error in the store; `time` is when it arrived, in seconds since the epoch."""

    seq: int
    time: float
    written_by: str
    fields: dict[str, Any]
    shape_id: str | None = None  # of an error
    acknowledged_by: str | None = None
    acknowledged_at: float | None = None

    def document(self) -> dict[str, Any]:
        """Return it as a reply or the feed has it."""
        own = {"seq": self.seq, "time": iso_time(self.time), "written_by": self.written_by}
        if self.shape_id is not None:
            own["shape_id"] = self.shape_id
        if self.acknowledged_by is not None and self.acknowledged_at is not None:
            own |= {"acknowledged_by": self.acknowledged_by, "acknowledged_at": iso_time(self.acknowledged_at)}
        return {"timestamp": own["time"], **self.fields, **own}


class EntryPage(msgspec.Struct, frozen=True, kw_only=True):
    """Entries of one topic, newest first."""

    entries: list[Entry]
    next_before: int | None  # the `before_seq` of the next page, if there are `more`
    last_seq: int  # of both topics
    let_go_to: int  # the newest of the topic that was evicted; 0: none

    @property
    def more(self) -> bool:
        """Whether older entries match, or were not searched."""
        return self.next_before is not None


MIGRATION = """
CREATE TABLE happenings (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    topic TEXT NOT NULL,
    time_ms INTEGER NOT NULL,
    expires_ms INTEGER,
    propagated INTEGER NOT NULL,
    written_by TEXT NOT NULL,
    record BLOB NOT NULL
) STRICT;
CREATE INDEX happenings_by_topic ON happenings (topic, seq);
CREATE INDEX happenings_by_end ON happenings (expires_ms) WHERE expires_ms IS NOT NULL;
CREATE TABLE happenings_let_go (
    topic TEXT PRIMARY KEY NOT NULL,
    seq INTEGER NOT NULL
) STRICT;
"""
_SEVERE = "topic = 'ERROR:' AND json_extract(CAST(record AS TEXT), '$.severity') IN ('error', 'critical')"
MIGRATION_SEVERE = f"CREATE INDEX happenings_severe ON happenings (time_ms, expires_ms) WHERE {_SEVERE};"
_FIELD = "json_extract(CAST(record AS TEXT), '$.{}')"


def _column(name: str, *fields: str) -> str:
    sources = ", ".join(map(_FIELD.format, fields))
    return (
        f"ALTER TABLE happenings ADD COLUMN {name} TEXT GENERATED ALWAYS AS "
        f"(CAST(coalesce({sources}) AS TEXT)) VIRTUAL;"
    )


_ERROR_ID = _FIELD.format("error_id")
_FILTERED = "type, agent, severity, shape_id, acknowledged_ms, expires_ms"
# The indexes contain every column that is filtered by, so that a row which does not match is not read.
MIGRATION_FILTERS = f"""
{_column("type", "error_type", "event_type")}
{_column("agent", "agent_id", "source_agent")}
{_column("severity", "severity", "data.severity")}
ALTER TABLE happenings ADD COLUMN shape_id TEXT;
ALTER TABLE happenings ADD COLUMN acknowledged_by TEXT;
ALTER TABLE happenings ADD COLUMN acknowledged_ms INTEGER;
DROP INDEX happenings_by_topic;
CREATE INDEX happenings_by_topic ON happenings (topic, seq, time_ms, {_FILTERED});
CREATE INDEX happenings_by_time ON happenings (topic, time_ms, seq, {_FILTERED});
CREATE INDEX happenings_by_error_id ON happenings ({_ERROR_ID}) WHERE topic = 'ERROR:';
DROP INDEX happenings_severe;
CREATE INDEX happenings_severe ON happenings (time_ms, expires_ms)
    WHERE topic = 'ERROR:' AND severity IN ('error', 'critical') AND acknowledged_ms IS NULL;
"""
# A full topic evicts the oldest of the writer with the most.
MIGRATION_BY_WRITER = "CREATE INDEX happenings_by_writer ON happenings (topic, written_by, seq, severity)"
MOST = 10_000  # per topic
MOST_BYTES = 64 * 1024 * 1024  # per topic
MAX_BYTES = 60_000  # of one; the feed adds some fields
MAX_SEARCHED_BYTES = 16 * 1024 * 1024  # of records, in one request for a text
SKIPPED = 1_000_000_000  # numbers; more than were used between a backup and its restore
MOST_NAMES = 100  # of types, and of agents, in one reply
_EXAMPLE_CHARACTERS = 1_000
_ERRORS = (
    "FROM happenings INDEXED BY happenings_by_time WHERE topic = 'ERROR:' AND (expires_ms IS NULL OR expires_ms > ?)"
)
_WORST = (  # of a shape: the newest of its worst severity
    "coalesce("
    + ", ".join(f"max(seq) FILTER (WHERE severity = '{word}')" for word in ("critical", "error", "warning"))
    + ", max(seq))"
)
_ENTRY = "seq, time_ms, written_by, record, shape_id, acknowledged_by, acknowledged_ms"
_EXPIRY_EVERY_S = 10.0  # between deletions of expired ones; no reply has them in any case


_SEARCHED = ("message", "stack_trace", "context", "data")


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """What an event or error must have; None: anything. Times are those of arrival, in seconds since the epoch."""

    type: str | None = None
    agent: str | None = None
    severity: str | None = None
    shape_id: str | None = None
    since: float | None = None  # this time or later
    until: float | None = None  # before this time
    acknowledged: bool | None = None
    text: str | None = None  # which `contains` looks for

    def where(self) -> tuple[str, list[str | int]]:
        """Return the conditions on the columns, each with AND before it, and their values."""
        conditions = {
            "type = ?": self.type,
            "agent = ?": self.agent,
            "severity = ?": self.severity,
            "shape_id = ?": self.shape_id,
            "time_ms >= ?": None if self.since is None else round(self.since * 1_000),
            "time_ms < ?": None if self.until is None else round(self.until * 1_000),
        }
        asked = {condition: value for condition, value in conditions.items() if value is not None}
        sql = "".join(f" AND {condition}" for condition in asked)
        if self.acknowledged is not None:
            sql += f" AND acknowledged_ms IS {'NOT ' if self.acknowledged else ''}NULL"
        return sql, list(asked.values())


ANY = Filter()


def contains(record: bytes, text: str) -> bool:
    """Return whether a text is in the message, stack trace, context, or data of a record; case is ignored."""
    wanted = text.casefold()
    escaped = msgspec.json.encode(wanted)[1:-1].decode()
    if escaped not in record.decode(errors="replace").casefold():
        return False
    fields = msgspec.json.decode(record)
    return any(wanted in value for value in _texts([fields.get(name) for name in _SEARCHED]))


def _texts(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [text for name, part in value.items() for text in (name.casefold(), *_texts(part))]
    if isinstance(value, list):
        return [text for part in value for text in _texts(part)]
    return [] if value is None else [str(value).casefold()]


def shape_id_of(message: str) -> str:
    """Return the id of a message's shape: 16 hexadecimal digits, which are easier to type than the shape."""
    return hashlib.blake2b(message_shape(message).encode(errors="replace"), digest_size=8).hexdigest()


def skip_numbers(database: Database) -> None:
    """Skip numbers, in the current transaction: after a restore, the next ones may have been used since the backup."""
    if not database.execute("UPDATE sqlite_sequence SET seq = seq + ? WHERE name = 'happenings'", (SKIPPED,)).rowcount:
        database.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('happenings', ?)", (SKIPPED,))


class _Usage(msgspec.Struct, frozen=True):
    count: int = 0
    size: int = 0


_NOTHING = _Usage()


class Events:
    """The newest events and errors.

    A full topic evicts the oldest entry of the writer that has most there, and of another than the one that adds, no
    critical error as long as there is anything else of either.
    """

    def __init__(
        self,
        database: Database,
        publish: Callable[..., None] = lambda *_, **__: None,
        *,
        most: int = MOST,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._database = database
        self.clock = database.clock
        self._publish = publish
        self._most = most
        self._most_bytes = most_bytes
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(dict[str, Any])
        self._once = Deduplication(database)
        self._expiry_due = 0.0
        self.error_changes = 0  # grows whenever errors were added, acknowledged or deleted, or may have been
        self._usage = self._count()
        self._sent = {topic.value: self._last_on_feed(topic) for topic in Topic}  # the newest number on the feed
        self._add_shapes()

    def add(
        self,
        topic: Topic,
        fields: Mapping[str, Any],
        written_by: str,
        *,
        ttl_s: float = 0.0,
        propagate: bool = True,
        most: int = MOST,
    ) -> int:
        """Store an entry, and send it on the feed after the commit; return its number. A full topic evicts others.

        If this caller has sent an entry with this `timestamp` before, equal in every field, its number is returned, and
        nothing is stored or sent.

        Args:
            ttl_s: the age in seconds at which it expires; 0: never.
            propagate: False: it is not sent on the feed.
            most: so many of this writer are kept in the topic; its oldest are evicted.

        Raises:
            MessageTooLarge: it is larger than a message of the feed may be.
        """
        record = self._encoder.encode(fields)
        if len(record) > MAX_BYTES:
            raise MessageTooLarge(
                f"the {topic.name.lower()} has {len(record)} bytes of JSON and {MAX_BYTES} are allowed; "
                "shorten its text fields"
            )
        scope, key = f"{topic.value}{written_by}", digest_of({**fields}) if "timestamp" in fields else None
        known = self._once.find(scope, key) if key else None
        if known is not None:
            return known
        now_ms = self._now_ms()
        expires_ms = now_ms + max(1, round(ttl_s * 1_000)) if ttl_s else None
        shape_id = shape_id_of(str(fields.get("message", ""))) if topic is Topic.ERROR else None
        self.error_changes += topic is Topic.ERROR
        self._make_room(topic, written_by, len(record), most)
        seq = self._database.value(
            "INSERT INTO happenings (topic, time_ms, expires_ms, propagated, written_by, record, shape_id) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING seq",
            (topic.value, now_ms, expires_ms, propagate, written_by, record, shape_id),
        )
        if key:
            self._once.record(scope, key, seq)
        if propagate:
            entry, previous = self._entry(seq, now_ms, written_by, record, shape_id), self._sent[topic.value]
            self._database.restore_on_rollback(self._sent, topic.value)
            self._sent[topic.value] = seq
            self._database.after_commit(lambda: self._send(topic, entry, previous, expires_ms))
        return int(seq)

    def newest(
        self,
        topic: Topic,
        matching: Filter = ANY,
        *,
        since_seq: int = 0,
        before_seq: int | None = None,
        limit: int,
        max_bytes: int,
        max_searched: int | None = None,
    ) -> EntryPage:
        """Return the newest entries of a topic that have not expired, newest first.

        A page has at least one if there is one, except in a text search: after `max_searched` bytes of records, by
        default MAX_SEARCHED_BYTES, it ends, and `next_before` continues it.

        Args:
            since_seq: only those after this number.
            before_seq: only those before this number.
            max_bytes: the size of their records together.
        """
        where, values = matching.where()
        rows = self._database.rows(
            dict[str, Any],
            f"SELECT {_ENTRY} FROM happenings INDEXED BY happenings_by_topic "  # noqa: S608 - of constants
            f"WHERE topic = ? AND seq > ? AND seq < ? AND (expires_ms IS NULL OR expires_ms > ?){where} "
            "ORDER BY seq DESC",
            (topic.value, since_seq, before_seq if before_seq is not None else 2**63 - 1, self._now_ms(), *values),
        )
        entries: list[Entry] = []
        size, searched, next_before = 0, 0, None
        most_searched = MAX_SEARCHED_BYTES if max_searched is None else max_searched
        for row in rows:
            if matching.text is not None and searched > most_searched:
                next_before = row["seq"] + 1
                break
            searched += len(row["record"])
            if matching.text is not None and not contains(row["record"], matching.text):
                continue
            size += len(row["record"])
            if len(entries) == limit or (entries and size > max_bytes):
                next_before = entries[-1].seq
                break
            entries.append(self._entry(**row))
        let_go_to = self._database.value("SELECT seq FROM happenings_let_go WHERE topic = ?", (topic.value,)) or 0
        return EntryPage(entries=entries, next_before=next_before, last_seq=self.last_seq, let_go_to=let_go_to)

    def severe_since(self, since_time: float, limit: int) -> list[Entry]:
        """Return the newest errors of severity `error` or `critical` since a time, in seconds since the epoch.

        Acknowledged ones are not among them.
        """
        select, values = self._severe_since(since_time)
        return self._database.select(
            self._entry, f"SELECT {_ENTRY} {select} ORDER BY time_ms DESC, seq DESC LIMIT ?", (*values, limit)
        )

    def count_severe_since(self, since_time: float) -> int:
        """Return the number of those."""
        select, values = self._severe_since(since_time)
        return int(self._database.value(f"SELECT count(*) {select}", values))

    def severe_shapes_since(self, since_time: float, shapes: int, groups: int) -> SevereErrors:
        """Return those by shape, the worst first: critical ones, then the most; at most so many shapes and groups."""
        rows = self._database.select(
            dict[str, Any],
            "SELECT shape_id, count(*) AS count, 0 AS acknowledged, min(time_ms) AS first_ms, max(time_ms) AS last_ms, "
            f"{_WORST} AS newest, "
            "sum(count(*)) OVER () AS total, min(min(time_ms)) OVER () AS since_ms "
            f"{_ERRORS} AND severity IN ('error', 'critical') AND acknowledged_ms IS NULL AND time_ms >= ? "
            "GROUP BY shape_id ORDER BY max(severity = 'critical') DESC, count(*) DESC, max(seq) DESC LIMIT ?",
            (self._now_ms(), round(since_time * 1_000), shapes),
        )
        if not rows:
            return SevereErrors()
        return SevereErrors(
            count=rows[0]["total"],
            first=rows[0]["since_ms"] / 1_000,
            shape_ids=tuple(row["shape_id"] for row in rows),
            groups=tuple(self._group(row) for row in rows[:groups]),
        )

    def error_counts(self, matching: Filter, limit: int) -> ErrorCounts:
        """Return the counts of the errors that match, and their `limit` newest shapes."""
        where, values = matching.where()
        bound = (int(self.clock.time() * 1_000), *values)
        types, agents, severities = Counter[str](), Counter[str](), Counter[str]()
        for row in self._database.rows(
            dict[str, Any],
            f"SELECT type, agent, severity, count(*) AS count {_ERRORS}{where} GROUP BY type, agent, severity",
            bound,
        ):
            types[row["type"]] += row["count"]
            agents[row["agent"]] += row["count"]
            severities[row["severity"]] += row["count"]
        groups = self._database.select(
            dict[str, Any],
            "SELECT shape_id, count(*) AS count, count(acknowledged_ms) AS acknowledged, min(time_ms) AS first_ms, "
            f"max(time_ms) AS last_ms, {_WORST} AS newest, count(*) OVER () AS shapes "
            f"{_ERRORS}{where} GROUP BY shape_id ORDER BY max(seq) DESC LIMIT ?",
            (*bound, limit),
        )
        return {
            "total": types.total(),
            "by_type": dict(types.most_common(MOST_NAMES)),
            "by_agent": dict(agents.most_common(MOST_NAMES)),
            "by_severity": dict(severities.most_common()),
            "shapes": groups[0]["shapes"] if groups else 0,
            "groups": [self._group(row) for row in groups],
        }

    def acknowledge(self, by: str, at: float, *, shape_id: str | None = None, error_id: str | None = None) -> int:
        """Acknowledge the stored errors of a shape, or with an id; return how many were not acknowledged before.

        Those of the same shape that are reported later are not acknowledged. `at` is in seconds since the epoch.

        Raises:
            NotFound: no stored error has it.
        """
        chosen, value = ("shape_id = ?", shape_id) if shape_id is not None else (f"{_ERROR_ID} = ?", error_id)
        rows = f"FROM happenings WHERE topic = 'ERROR:' AND {chosen}"
        if self._database.execute(f"SELECT 1 {rows} LIMIT 1", (value,)).fetchone() is None:
            name = "shape_id" if shape_id is not None else "error_id"
            raise NotFound(f"no stored error has the {name} {str(value)[:64]!r}; list them with get_error_counts")
        self.error_changes += 1
        update = "UPDATE happenings SET acknowledged_by = ?, acknowledged_ms = ? WHERE seq IN "
        where = f"(SELECT seq {rows} AND acknowledged_ms IS NULL)"
        return self._database.execute(update + where, (by, int(at * 1_000), value)).rowcount

    def _group(self, row: dict[str, Any]) -> ErrorGroup:
        record = self._database.value("SELECT record FROM happenings WHERE seq = ?", (row["newest"],))
        fields: dict[str, Any] = msgspec.json.decode(record)
        message = str(fields["message"])
        return {
            "shape_id": row["shape_id"],
            "shape": message_shape(message),
            "count": row["count"],
            "acknowledged": row["acknowledged"],
            "first": iso_time(row["first_ms"] / 1_000),
            "last": iso_time(row["last_ms"] / 1_000),
            "error_type": fields["error_type"],
            "agent_id": fields["agent_id"],
            "severity": fields["severity"],
            "message": message[:_EXAMPLE_CHARACTERS],
        }

    @property
    def last_seq(self) -> int:
        """The newest number; 0 before the first."""
        return int(self._database.value("SELECT seq FROM sqlite_sequence WHERE name = 'happenings'") or 0)

    def on_tick(self) -> None:
        """Delete the expired ones.

        Raises:
            StoreUnavailable: they are still on disk; no reply has them, and the deletion is retried.
        """
        clock = self.clock.monotonic()
        if clock < self._expiry_due:
            return
        self._expiry_due = clock + _EXPIRY_EVERY_S
        now_ms = self._now_ms()
        expired = "FROM happenings WHERE expires_ms IS NOT NULL AND expires_ms <= ?"
        if self._database.execute(f"SELECT 1 {expired} LIMIT 1", (now_ms,)).fetchone() is None:
            return
        with self._database.transaction():
            self._database.on_rollback(setattr, self, "_usage", self._usage)
            self._database.execute(f"DELETE {expired}", (now_ms,))
            self._usage = self._count()
            self.error_changes += 1

    def _add_shapes(self) -> None:
        """Add the shapes of the errors that a version without shapes has stored."""
        message = "json_extract(CAST(record AS TEXT), '$.message')"
        rows = self._database.execute(
            f"SELECT seq, coalesce({message}, '') FROM happenings "  # noqa: S608 - of constants
            "WHERE topic = 'ERROR:' AND shape_id IS NULL"
        )
        shapes = [(shape_id_of(str(text)), seq) for seq, text in rows]
        if shapes:
            with self._database.transaction():
                self._database.execute_many("UPDATE happenings SET shape_id = ? WHERE seq = ?", shapes)

    def _entry(
        self,
        seq: int,
        time_ms: int,
        written_by: str,
        record: bytes,
        shape_id: str | None,
        acknowledged_by: str | None = None,
        acknowledged_ms: int | None = None,
    ) -> Entry:
        return Entry(
            seq=seq,
            time=time_ms / 1_000,
            written_by=written_by,
            fields=self._decoder.decode(record),
            shape_id=shape_id,
            acknowledged_by=acknowledged_by,
            acknowledged_at=None if acknowledged_ms is None else acknowledged_ms / 1_000,
        )

    def _send(self, topic: Topic, entry: Entry, previous: int, expires_ms: int | None) -> None:
        if expires_ms is None or self._now_ms() < expires_ms:
            self._publish(topic.value.encode(), entry.written_by, **entry.document(), previous_seq=previous)

    def _last_on_feed(self, topic: Topic) -> int:
        seq: int | None = self._database.value(
            "SELECT seq FROM happenings WHERE topic = ? AND propagated ORDER BY seq DESC LIMIT 1", (topic.value,)
        )
        return seq or 0

    def kept(self, topic: Topic) -> dict[str, float]:
        """Return how many entries of a topic each writer has."""
        return {writer: usage.count for writer, usage in self._usage[topic].items()}

    def _make_room(self, topic: Topic, writer: str, size: int, most: int) -> None:
        """Count one more of a writer, and evict what exceeds a limit: the writer's own, its topic's, or its bytes."""
        usage, evicted = self._usage[topic], 0
        self._count_one(topic, writer, 1, size)
        count, total = sum(of.count for of in usage.values()), sum(of.size for of in usage.values())
        while count > 1:
            if usage[writer].count > most:
                of = writer
            elif count > self._most:
                of = max(usage, key=lambda name: (usage[name].count, name == writer))
            elif total > self._most_bytes:
                of = max(usage, key=lambda name: (usage[name].size, name == writer))
            else:
                break
            seq, of, freed = self._oldest(topic, of, writer)
            self._database.execute("DELETE FROM happenings WHERE seq = ?", (seq,))
            self._count_one(topic, of, -1, -freed)
            count, total, evicted = count - 1, total - freed, max(evicted, seq)
        if evicted:
            self._database.execute(
                "INSERT INTO happenings_let_go VALUES (?, ?) "
                "ON CONFLICT (topic) DO UPDATE SET seq = max(seq, excluded.seq)",
                (topic.value, evicted),
            )

    def _oldest(self, topic: Topic, of: str, adds: str) -> tuple[int, str, int]:
        """Return the number, writer and size of what is evicted of a writer, for one that adds."""
        candidates = ((of, "AND severity IS NOT 'critical'"), (adds, ""), (of, "")) if of != adds else ((of, ""),)
        for name, which in candidates:
            row: tuple[int, str, int] | None = self._database.execute(
                "SELECT seq, written_by, length(record) FROM happenings INDEXED BY happenings_by_writer "  # noqa: S608
                f"WHERE topic = ? AND written_by = ? {which} ORDER BY seq LIMIT 1",
                (topic.value, name),
            ).fetchone()
            if row is not None:
                return row
        raise LookupError(f"nothing of {of} is stored")

    def _count_one(self, topic: Topic, writer: str, more: int, size: int) -> None:
        usage = self._usage[topic]
        self._database.restore_on_rollback(usage, writer)
        before = usage.get(writer, _NOTHING)
        usage[writer] = _Usage(before.count + more, before.size + size)
        if not usage[writer].count:
            del usage[writer]

    def _count(self) -> dict[Topic, dict[str, _Usage]]:
        usage: dict[Topic, dict[str, _Usage]] = {topic: {} for topic in Topic}
        for topic, writer, count, size in self._database.execute(
            "SELECT topic, written_by, count(*), sum(length(record)) FROM happenings GROUP BY topic, written_by"
        ):
            usage[Topic(topic)][writer] = _Usage(count, size)
        return usage

    def _severe_since(self, since_time: float) -> tuple[str, tuple[int, int]]:
        select = (
            "FROM happenings INDEXED BY happenings_severe "  # the planner does not choose it by itself
            "WHERE topic = 'ERROR:' AND severity IN ('error', 'critical') AND acknowledged_ms IS NULL "
            "AND time_ms >= ? AND (expires_ms IS NULL OR expires_ms > ?)"
        )
        return select, (round(since_time * 1_000), self._now_ms())

    def _now_ms(self) -> int:
        return int(self.clock.time() * 1_000)
