"""Events and errors as agents tell them: kept in their order, bounded, and sent on the feed once they are on disk.

Both share one numbering: `seq` goes on over restarts, and no number is given twice. What is sent on
the feed also names the number sent before it under its topic, so that a subscriber sees what it missed.

An agent that was cut off tells again what it got no answer to. What the same caller tells twice, alike in every field,
its id and its moment among them, is kept once. An id that is used for something else is another event, as ever; and so
is one that names no moment, since its moment is that of its coming in.
"""

import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

import msgspec

from twinhost.agent.health import iso_time
from twinhost.secure_zmq.errors import MessageTooLarge
from twinhost.store.database import Database
from twinhost.system_digital_twin.deduplication import TakenOnce, digest_of


class Topic(StrEnum):
    """What the feed calls the two kinds."""

    EVENT = "EVENT:"
    ERROR = "ERROR:"


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """One event or error; `time` is when it came in, in seconds since the epoch."""

    seq: int
    time: float
    written_by: str
    propagated: bool
    fields: dict[str, Any]

    def document(self) -> dict[str, Any]:
        """Return it as it is answered and sent."""
        told = {"seq": self.seq, "time": iso_time(self.time), "written_by": self.written_by}
        return {"timestamp": told["time"], **self.fields, **told}


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Some of a topic, newest first; `more` older ones were asked for and not returned."""

    entries: list[Stored]
    more: bool
    last_seq: int  # of all that ever came in
    let_go_to: int  # the newest of the topic that gave way to newer ones; 0 where none did


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
MOST = 10_000  # of a topic
MOST_BYTES = 64 * 1024 * 1024  # of a topic
MAX_BYTES = 60_000  # of one; what the feed adds to it must fit as well
SKIPPED = 1_000_000_000  # numbers, for what was told since an older state that is restored
_LOOK_EVERY_S = 10.0  # for those whose time is over; they are not told any more in any case

Publish = Callable[..., None]  # a topic, and the fields


def skip_numbers(database: Database) -> None:
    """Leave out numbers, in the transaction under way: after an older state is restored, its next were given before."""
    if not database.execute("UPDATE sqlite_sequence SET seq = seq + ? WHERE name = 'happenings'", (SKIPPED,)).rowcount:
        database.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('happenings', ?)", (SKIPPED,))


class _Held(msgspec.Struct, frozen=True):
    count: int = 0
    size: int = 0


class Events:
    """The newest events and errors."""

    def __init__(
        self,
        database: Database,
        publish: Publish = lambda *_, **__: None,
        *,
        most: int = MOST,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._database = database
        self._publish = publish
        self._most = most
        self._most_bytes = most_bytes
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(dict[str, Any])
        self._once = TakenOnce(database)
        self._look_at = 0.0
        self._held = self._count()

    def add(
        self, topic: Topic, fields: Mapping[str, Any], written_by: str, *, ttl_s: float = 0.0, propagate: bool = True
    ) -> int:
        """Keep one, and send it on the feed once it is on disk; return its number. The oldest gives way.

        One with a `timestamp` that this caller has told before, alike in every field, has its number already, and is
        not sent again.

        Args:
            fields: what its sender says of it.
            ttl_s: it is neither told nor sent once it is older; 0: for ever.
            propagate: False keeps it off the feed.

        Raises:
            MessageTooLarge: it is larger than what the feed carries.
        """
        record = self._encoder.encode(fields)
        if len(record) > MAX_BYTES:
            raise MessageTooLarge(
                f"it has {len(record)} bytes of JSON and {MAX_BYTES} are allowed; leave out what can be looked up"
            )
        scope, key = f"{topic.value}{written_by}", digest_of({**fields}) if "timestamp" in fields else None
        known = self._once.find(scope, key) if key else None
        if known is not None:
            return known
        now_ms = _now_ms()
        expires_ms = now_ms + max(1, round(ttl_s * 1_000)) if ttl_s else None
        previous = self._last_on_feed(topic)
        self._make_room(topic, len(record))
        seq = self._database.execute(
            "INSERT INTO happenings (topic, time_ms, expires_ms, propagated, written_by, record) "
            "VALUES (?, ?, ?, ?, ?, ?) RETURNING seq",
            (topic.value, now_ms, expires_ms, propagate, written_by, record),
        ).fetchone()[0]
        if key:
            self._once.note(scope, key, seq)
        if propagate:
            stored = Stored(
                seq=seq,
                time=now_ms / 1_000,
                written_by=written_by,
                propagated=True,
                fields=self._decoder.decode(record),
            )
            self._database.after_commit(lambda: self._send(topic, stored, previous, expires_ms))
        return int(seq)

    def newest(
        self,
        topic: Topic,
        *,
        since_seq: int = 0,
        since_time: float | None = None,
        before_seq: int | None = None,
        limit: int,
        max_bytes: int,
    ) -> Page:
        """Return the newest of a topic whose time is not over, newest first: at least one, and no more than fit.

        Args:
            since_seq: those after this number.
            since_time: those that came in at this moment, in seconds since the epoch, or later.
            before_seq: those before this number.
            limit: at most so many.
            max_bytes: of their records together.
        """
        rows = self._database.execute(
            "SELECT seq, time_ms, written_by, propagated, record FROM happenings "
            "WHERE topic = ? AND seq > ? AND seq < ? AND time_ms >= ? AND (expires_ms IS NULL OR expires_ms > ?) "
            "ORDER BY seq DESC LIMIT ?",
            (
                topic.value,
                since_seq,
                before_seq if before_seq is not None else 2**63 - 1,
                round(since_time * 1_000) if since_time is not None else -(2**63),
                _now_ms(),
                limit + 1,
            ),
        )
        entries: list[Stored] = []
        size, more = 0, False
        for seq, time_ms, written_by, propagated, record in rows:
            size += len(record)
            if len(entries) == limit or (entries and size > max_bytes):
                more = True
                break
            entries.append(self._stored(seq, time_ms, written_by, propagated, record))
        rows.close()
        return Page(entries=entries, more=more, last_seq=self.last_seq, let_go_to=self._let_go_to(topic))

    def severe_since(self, since_time: float, limit: int) -> list[Stored]:
        """Return the newest errors of severity `error` or `critical` whose time is not over, newest first.

        Args:
            since_time: those that came in at this moment, in seconds since the epoch, or later.
            limit: at most so many.
        """
        select, values = _severe_since(since_time)
        rows = self._database.execute(
            f"SELECT seq, time_ms, written_by, propagated, record {select} ORDER BY time_ms DESC, seq DESC LIMIT ?",
            (*values, limit),
        )
        return [self._stored(*row) for row in rows]

    def count_severe_since(self, since_time: float) -> int:
        """Return how many of those there are."""
        select, values = _severe_since(since_time)
        return int(self._database.execute(f"SELECT count(*) {select}", values).fetchone()[0])

    @property
    def last_seq(self) -> int:
        """The newest number that was given; 0 before the first."""
        row = self._database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'happenings'").fetchone()
        return int(row[0]) if row else 0

    def on_tick(self) -> None:
        """Delete those whose time is over; on the thread that owns the database.

        Raises:
            StoreUnavailable: they stay on disk, untold, until it works.
        """
        clock = time.monotonic()
        if clock < self._look_at:
            return
        self._look_at = clock + _LOOK_EVERY_S
        now_ms = _now_ms()
        over = "FROM happenings WHERE expires_ms IS NOT NULL AND expires_ms <= ?"
        if self._database.execute(f"SELECT 1 {over} LIMIT 1", (now_ms,)).fetchone() is None:
            return
        with self._database.transaction():
            self._undo_to_here()
            self._database.execute(f"DELETE {over}", (now_ms,))
            self._held = self._count()

    def _stored(self, seq: int, time_ms: int, written_by: str, propagated: int, record: bytes) -> Stored:
        return Stored(
            seq=seq,
            time=time_ms / 1_000,
            written_by=written_by,
            propagated=bool(propagated),
            fields=self._decoder.decode(record),
        )

    def _send(self, topic: Topic, stored: Stored, previous: int, expires_ms: int | None) -> None:
        if expires_ms is None or _now_ms() < expires_ms:
            self._publish(topic.value.encode(), **stored.document(), previous_seq=previous)

    def _last_on_feed(self, topic: Topic) -> int:
        row = self._database.execute(
            "SELECT seq FROM happenings WHERE topic = ? AND propagated ORDER BY seq DESC LIMIT 1", (topic.value,)
        ).fetchone()
        return int(row[0]) if row else 0

    def _make_room(self, topic: Topic, size: int) -> None:
        self._undo_to_here()
        held = self._held.get(topic, _Held())
        count, total, let_go = held.count + 1, held.size + size, 0
        while count > 1 and (count > self._most or total > self._most_bytes):
            let_go, freed = self._database.execute(
                "SELECT seq, length(record) FROM happenings WHERE topic = ? ORDER BY seq LIMIT 1", (topic.value,)
            ).fetchone()
            self._database.execute("DELETE FROM happenings WHERE seq = ?", (let_go,))
            count, total = count - 1, total - freed
        if let_go:
            self._database.execute(
                "INSERT INTO happenings_let_go VALUES (?, ?) ON CONFLICT (topic) DO UPDATE SET seq = excluded.seq",
                (topic.value, let_go),
            )
        self._held[topic] = _Held(count, total)

    def _let_go_to(self, topic: Topic) -> int:
        row = self._database.execute("SELECT seq FROM happenings_let_go WHERE topic = ?", (topic.value,)).fetchone()
        return int(row[0]) if row else 0

    def _count(self) -> dict[Topic, _Held]:
        rows = self._database.execute("SELECT topic, count(*), sum(length(record)) FROM happenings GROUP BY topic")
        return {Topic(topic): _Held(count, size) for topic, count, size in rows}

    def _undo_to_here(self) -> None:
        before = dict(self._held)

        def undo() -> None:
            self._held = before

        self._database.on_rollback(undo)


def _severe_since(since_time: float) -> tuple[str, tuple[int, int]]:
    select = (
        f"FROM happenings INDEXED BY happenings_severe WHERE {_SEVERE} "  # which the planner does not take by itself
        "AND time_ms >= ? AND (expires_ms IS NULL OR expires_ms > ?)"
    )
    return select, (round(since_time * 1_000), _now_ms())


def _now_ms() -> int:
    return int(time.time() * 1_000)
