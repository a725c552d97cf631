"""When a memory is valid: computed from the visible rows at every read, and never stored.

A memory is valid from its start until the start of the memory that follows it, or until its own `valid_until`, if that
is earlier. It is followed by the next value of its key, in the order of (start, id), or by the first memory that names
it in `supersedes`. So a value that is deleted, or whose writer is quarantined, ends no other value; and stores with the
same rows agree, in whatever order they received the rows.

From its end on, a memory is no longer valid: a search puts it back, and it contradicts nothing. One whose own
`valid_until` has passed has expired, whatever follows it: an audit lists it.

A key is shared by all writers: anybody may store the next value, nobody can change another writer's.
"""

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import structlog

from twinhost.moments import iso_time
from twinhost.secure_zmq.errors import NotFound
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.memories.model import folded_key
from twinhost.unified_memory_reasoning.provenance.quarantine import create_visible_views

_log = structlog.get_logger(__name__)
_MOST_LOGGED = 20  # keys that became one
MOST_IN_CHAIN = 1_000  # memories that supersede each other, in one history

_NEXT = """
SELECT json_array(id, starts) FROM (
    SELECT * FROM (
        SELECT id, starts FROM visible_memory_details
        WHERE folded_key = d.folded_key AND (starts, id) > (d.starts, d.id) ORDER BY starts, id LIMIT 1
    ) UNION ALL SELECT * FROM (
        SELECT v.id, v.starts FROM memory_supersedes s JOIN visible_memory_details v ON v.number = s.number
        WHERE s.superseded = m.id ORDER BY v.starts, v.id LIMIT 1
    )
) ORDER BY starts, id LIMIT 1
"""
_ENDS = (
    f"SELECT m.number, d.valid_until, ({_NEXT}) FROM json_each(?) j JOIN memories m ON m.number = j.value "  # noqa: S608
    "LEFT JOIN memory_details d ON d.number = m.number"
)
AS_OF = """
coalesce((SELECT starts FROM memory_details WHERE number = m.number), m.created) <= ?
AND NOT EXISTS (SELECT 1 FROM memory_details WHERE number = m.number AND valid_until <= ?)
AND NOT EXISTS (
    SELECT 1 FROM memory_details d
    JOIN visible_memory_details v ON v.folded_key = d.folded_key AND (v.starts, v.id) > (d.starts, d.id)
    WHERE d.number = m.number AND v.starts <= ?
) AND NOT EXISTS (
    SELECT 1 FROM memory_supersedes s JOIN visible_memory_details v ON v.number = s.number
    WHERE s.superseded = m.id AND v.starts <= ?
)
""".strip()  # of a row `m` of visible_memories; the time, four times
_NOT_YET = """
SELECT d.number, d.starts, (SELECT json_group_array(number) FROM (
    SELECT * FROM (
        SELECT number FROM visible_memory_details
        WHERE folded_key = d.folded_key AND starts <= ?2 ORDER BY starts DESC, id DESC LIMIT 1
    ) UNION ALL SELECT v.number FROM memory_supersedes s JOIN visible_memories v ON v.id = s.superseded
    WHERE s.number = d.number
)) FROM memory_details d WHERE d.number IN (SELECT value FROM json_each(?1)) AND d.starts > ?2
"""
OF_KEY = "m.number IN (SELECT number FROM memory_details WHERE folded_key = ?)"  # of a `folded_key`
OF_KEYS = OF_KEY.replace("= ?", "IN (SELECT value FROM json_each(?))")  # of several
_LATER = f"""
WITH RECURSIVE later(id) AS (
    SELECT ?1 UNION SELECT v.id FROM later JOIN memory_supersedes s ON s.superseded = later.id
    JOIN visible_memory_details v ON v.number = s.number LIMIT {MOST_IN_CHAIN}
)""".strip()  # noqa: S608 - constants
_ALL_LATER = f"{_LATER} SELECT id FROM later"  # noqa: S608 - constants
_CHAIN = f"""
{_LATER}, earlier(id) AS (
    SELECT ?1 UNION SELECT s.superseded FROM earlier JOIN visible_memory_details v ON v.id = earlier.id
    JOIN memory_supersedes s ON s.number = v.number LIMIT {MOST_IN_CHAIN}
)
SELECT id FROM later UNION SELECT id FROM earlier
"""  # noqa: S608 - constants
_IN_ORDER = """
SELECT m.number FROM visible_memories m LEFT JOIN memory_details d ON d.number = m.number
WHERE {} ORDER BY coalesce(d.starts, m.created), m.id LIMIT ? OFFSET ?
"""
_FREE_START = "SELECT max(starts) FROM memory_details WHERE folded_key = ? AND starts >= ? AND starts < ?"


class End(NamedTuple):
    """When a memory ceases to be valid (None: not known yet), and the id of the one that follows it."""

    valid_until: float | None
    superseded_by: str | None


NO_END = End(None, None)


class NotYet(NamedTuple):
    """When a memory begins to be valid, and the numbers of the memories that it will follow."""

    starts: float
    follows: list[int]


class Validity:
    """The validity of the visible memories."""

    def __init__(self, database: Database) -> None:
        create_visible_views(database, "memories", "memory_details")
        self._database = database

    def fold_keys(self) -> None:
        """Fold the keys that a version before stored, in a transaction of its own, and log which are one key now."""
        rows = self._database.execute("SELECT number, key FROM memory_details WHERE folded_key ISNULL AND key NOT NULL")
        keys = dict(rows.fetchall())
        if not keys:
            return
        with self._database.transaction():
            self._database.execute_many(
                "UPDATE memory_details SET folded_key = ? WHERE number = ?",
                [(folded_key(key), number) for number, key in keys.items()],
            )
        spellings: dict[str | None, set[str]] = defaultdict(set)
        for key in keys.values():
            spellings[folded_key(key)].add(key)
        if joined := [sorted(forms) for forms in spellings.values() if len(forms) > 1]:
            _log.warning("memory_keys_joined", count=len(joined), keys=joined[:_MOST_LOGGED])

    def ends(self, numbers: Iterable[int]) -> dict[int, End]:
        """Return the ends of memories by number, without those that have none."""
        ends: dict[int, End] = {}
        for number, own, following in self._database.execute(_ENDS, (json.dumps(list(numbers)),)):
            if own is None and following is None:
                continue
            memory_id, starts = json.loads(following) if following else (None, None)
            ends[number] = End(min(moment for moment in (own, starts) if moment is not None), memory_id)
        return ends

    def ended(self, numbers: Iterable[int], moment: float) -> set[int]:
        """Return which memories, by number, are no longer valid at a time."""
        ends = self.ends(numbers).items()
        return {number for number, end in ends if end.valid_until is not None and end.valid_until <= moment}

    def not_yet(self, numbers: Iterable[int], moment: float) -> dict[int, NotYet]:
        """Return those memories by number that are not valid yet at a time."""
        rows = self._database.execute(_NOT_YET, (json.dumps(list(numbers)), moment))
        return {number: NotYet(starts, json.loads(follows)) for number, starts, follows in rows}

    def history(self, key: str | None, memory_id: str, limit: int, skip: int) -> list[int]:
        """Return the numbers of the values of a key, or of the memories that supersede each other, in their order."""
        if key is not None:
            sql, values = _IN_ORDER.format(OF_KEY), [folded_key(key)]
        else:
            chain = [each for (each,) in self._database.execute(_CHAIN, (memory_id,))]
            sql, values = _IN_ORDER.format("m.id IN (SELECT value FROM json_each(?))"), [json.dumps(chain)]
        return [number for (number,) in self._database.execute(sql, [*values, limit, skip])]

    def later(self, memory_id: str) -> set[str]:
        """Return the ids of a memory and of those that supersede it, directly or through others."""
        return {each for (each,) in self._database.execute(_ALL_LATER, (memory_id,))}

    def valid_at(self, key: str | None, memory_id: str, moment: float) -> int:
        """Return the number of the value of a key, or among those that supersede each other, that was valid then.

        Raises:
            NotFound: there was none.
        """
        numbers = self.history(key, memory_id, MOST_IN_CHAIN, 0) if key is None else None
        condition = OF_KEY if numbers is None else "m.number IN (SELECT value FROM json_each(?))"
        number = self._database.value(
            f"SELECT m.number FROM visible_memories m WHERE {condition} AND {AS_OF} "  # noqa: S608 - constants
            "ORDER BY m.number DESC LIMIT 1",
            (folded_key(key) if numbers is None else json.dumps(numbers), *[moment] * 4),
        )
        if number is None:
            name = f"of the key {key[:64]!r}" if key is not None else f"of memory {memory_id[:64]!r}"
            raise NotFound(f"no value {name} was valid at {iso_time(moment)}; `memory_history` lists its values")
        return int(number)

    def free_start(self, key: str, now: float) -> float:
        """Return the time from which a new value of a key is valid: now, or after others of the same second."""
        last = self._database.value(_FREE_START, (folded_key(key), now, now + 1.0))
        return now if last is None else round(last + 0.001, 3)
