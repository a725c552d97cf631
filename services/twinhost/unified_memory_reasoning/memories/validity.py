"""When a memory is valid: computed from the visible rows at every read, and never stored.

A memory is valid from its start until the start of the memory that follows it, or until its own `valid_until`, if that
is earlier. It is followed by the next value of its key, in the order of (start, id), or by the first memory that names
it in `supersedes`. So a value that is deleted, or whose writer is quarantined, ends no other value; and stores with the
same rows agree, in whatever order they received the rows.

From its end on, a memory is no longer valid: a search puts it back, and it contradicts nothing. One whose own
`valid_until` has passed has expired, whatever follows it: an audit lists it.

A key is shared by all writers: anybody may store the next value, nobody can change another writer's. What only another
writer has ended stays its writer's value: it is marked with that writer, a search does not put it back, and the key is
disputed while several writers have such values. Whoever may change a memory may end it for good: its writer, and an
operator. Once its writer has restored it, nobody else ends it at all.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, NotRequired, TypedDict

import structlog

from twinhost.moments import iso_time
from twinhost.secure_zmq.errors import NotFound
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.memories.details import ENDS_ALL
from twinhost.unified_memory_reasoning.memories.model import folded_key, now_ms
from twinhost.unified_memory_reasoning.provenance.quarantine import create_visible_views

_log = structlog.get_logger(__name__)
_MOST_LOGGED = 20  # keys that became one
_MOST_WRITERS = 64  # of a key that are looked at
_MOST_NAMED = 8  # of these
MOST_IN_CHAIN = 1_000  # memories that supersede each other, in one history

_NEXT = """
SELECT json_array(id, starts, written_by, ends) FROM (
    SELECT * FROM (
        SELECT id, starts, written_by, ends FROM visible_memory_details
        WHERE folded_key = d.folded_key AND (starts, id) > (d.starts, d.id) ORDER BY starts, id LIMIT 1
    ) UNION ALL SELECT * FROM (
        SELECT v.id, v.starts, v.written_by, v.ends
        FROM memory_supersedes s JOIN visible_memory_details v ON v.number = s.number
        WHERE s.superseded = m.id ORDER BY v.starts, v.id LIMIT 1
    )
) ORDER BY starts, id LIMIT 1
"""
_OTHER = "EXISTS (SELECT 1 FROM memory_details o WHERE o.folded_key = d.folded_key AND o.written_by {} d.written_by)"
_OF_NUMBERS = (
    "FROM json_each(?) j JOIN memories m ON m.number = j.value LEFT JOIN memory_details d ON d.number = m.number"
)
_ENDS = (
    f"SELECT m.number, d.valid_until, m.written_by, ({_NEXT}), "
    f"iif({_OTHER.format('<')} OR {_OTHER.format('>')}, d.folded_key, NULL) {_OF_NUMBERS}"
)
_RESTORED = "(SELECT count(*) FROM memory_restored r WHERE r.number = m.number)"
_NEXT_FOR_GOOD = f"""
SELECT json_array(id, starts, written_by, ends) FROM (
    SELECT * FROM (
        SELECT id, starts, written_by, ends FROM visible_memory_details
        WHERE folded_key = d.folded_key AND written_by = d.written_by AND (starts, id) > (d.starts, d.id)
        ORDER BY starts, id LIMIT 1
    ) UNION ALL SELECT * FROM (
        SELECT id, starts, written_by, ends FROM visible_memory_details
        WHERE folded_key = d.folded_key AND ends > 0 AND ends > {_RESTORED} AND (starts, id) > (d.starts, d.id)
        ORDER BY starts, id LIMIT 1
    ) UNION ALL SELECT * FROM (
        SELECT v.id, v.starts, v.written_by, v.ends
        FROM memory_supersedes s JOIN visible_memory_details v ON v.number = s.number
        WHERE s.superseded = m.id AND (v.written_by = m.written_by OR v.ends > {_RESTORED})
        ORDER BY v.starts, v.id LIMIT 1
    )
) ORDER BY starts, id LIMIT 1
"""  # noqa: S608 - constants
_ENDS_FOR_GOOD = f"SELECT m.number, m.written_by, ({_NEXT_FOR_GOOD}), {_RESTORED} {_OF_NUMBERS}"
_PRESENT_OF = """
SELECT number FROM visible_memory_details
WHERE folded_key = {} AND written_by = {} AND starts <= {} ORDER BY starts DESC, id DESC LIMIT 1
"""
_WRITERS = f"""
WITH RECURSIVE writers(name) AS (
    SELECT min(written_by) FROM memory_details WHERE folded_key = ?1
    UNION ALL SELECT (
        SELECT min(written_by) FROM memory_details WHERE folded_key = ?1 AND written_by > writers.name
    ) FROM writers WHERE name NOT NULL LIMIT ?3
)
SELECT name, ({_PRESENT_OF.format("?1", "writers.name", "?2")}) FROM writers WHERE name NOT NULL
"""  # noqa: S608 - constants
_IN_EFFECT = f"(v.written_by = m.written_by OR v.ends = {ENDS_ALL} OR NOT {_RESTORED})"
_DISPUTED_KEYS = """
SELECT folded_key FROM memory_details WHERE folded_key NOT NULL
GROUP BY folded_key HAVING min(written_by) < max(written_by) ORDER BY folded_key LIMIT ?
"""
_SUPERSEDED_BY_OTHERS = """
SELECT m.number, v.number FROM memory_supersedes s JOIN visible_memories m ON m.id = s.superseded
JOIN visible_memory_details v ON v.number = s.number WHERE v.written_by <> m.written_by AND v.starts <= ?
ORDER BY m.number DESC LIMIT ?
"""
AS_OF = f"""
coalesce((SELECT starts FROM memory_details WHERE number = m.number), m.created) <= ?
AND NOT EXISTS (SELECT 1 FROM memory_details WHERE number = m.number AND valid_until <= ?)
AND NOT EXISTS (
    SELECT 1 FROM memory_details d
    JOIN visible_memory_details v ON v.folded_key = d.folded_key AND (v.starts, v.id) > (d.starts, d.id)
    WHERE d.number = m.number AND v.starts <= ? AND {_IN_EFFECT}
) AND NOT EXISTS (
    SELECT 1 FROM memory_supersedes s JOIN visible_memory_details v ON v.number = s.number
    WHERE s.superseded = m.id AND v.starts <= ? AND {_IN_EFFECT}
)
""".strip()  # noqa: S608 - constants; of a row `m` of visible_memories; the time, four times
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
_OF_CHAIN_AT = (
    "SELECT m.number FROM visible_memories m WHERE m.number IN (SELECT value FROM json_each(?)) "  # noqa: S608
    f"AND {AS_OF} ORDER BY m.number DESC LIMIT 1"
)
_OF_KEY_AT = (  # the reader's own value, and the one that is valid
    f"SELECT ({_PRESENT_OF.format('?', '?', '?')}), ("  # noqa: S608 - constants
    f"SELECT m.number FROM visible_memories m WHERE {OF_KEY} AND {AS_OF} "
    "ORDER BY (SELECT starts FROM memory_details WHERE number = m.number) DESC, m.id DESC LIMIT 1)"
)
_NOTHING = (None, None, None, None)
_FREE_START = "SELECT max(starts) FROM memory_details WHERE folded_key = ? AND starts >= ? AND starts < ?"


class End(NamedTuple):
    """When a memory ceases to be valid (None: not known yet), and the id of the one that follows it.

    `superseding_writer` is the writer of that one, if it is another's. `ends_for_good` is when the memory ceases to be
    its writer's value. `disputed_by` are other writers that have another value of its key now, if this one is its
    writer's; at most 8.
    """

    valid_until: float | None
    superseded_by: str | None
    superseding_writer: str | None = None
    ends_for_good: float | None = None
    disputed_by: tuple[str, ...] = ()

    def is_over(self, moment: float) -> bool:
        """Return whether the memory is no longer its writer's value at a time."""
        return self.ends_for_good is not None and self.ends_for_good <= moment


NO_END = End(None, None)


class Marks(TypedDict):
    """What follows a memory, and which writers dispute it."""

    superseded_by: NotRequired[str]
    superseding_writer: NotRequired[str]
    disputed_by: NotRequired[list[str]]


def marks_of(end: End) -> Marks:
    """Return the fields of a reply that say what follows a memory, and who disputes it."""
    marks: Marks = {}
    if end.superseded_by is not None:
        marks["superseded_by"] = end.superseded_by
    if end.superseding_writer is not None:
        marks["superseding_writer"] = end.superseding_writer
    if end.disputed_by:
        marks["disputed_by"] = list(end.disputed_by)
    return marks


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
        """Return the ends of memories by number, and who disputes them, without those that have neither."""
        ends, shared = self._ends(numbers)
        if shared:
            now = now_ms(self._database.clock)
            values = {key: self._values_of(key, now) for key, _ in shared.values()}
            for number, (key, writer) in shared.items():
                if writer in values[key] and not ends[number].is_over(now):
                    others = [name for name in values[key] if name != writer]
                    ends[number] = ends[number]._replace(disputed_by=tuple(others[:_MOST_NAMED]))
        return ends

    def ended(self, numbers: Iterable[int], moment: float) -> set[int]:
        """Return which memories, by number, are no longer valid at a time."""
        ends = self._ends(numbers)[0].items()
        return {number for number, end in ends if end.valid_until is not None and end.valid_until <= moment}

    def over(self, numbers: Iterable[int], moment: float) -> set[int]:
        """Return which memories, by number, are no longer even their writers' values at a time."""
        return {number for number, end in self._ends(numbers)[0].items() if end.is_over(moment)}

    def restore(self, number: int) -> None:
        """Let nobody end a memory any more but its writer and operators, in the transaction under way."""
        self._database.execute("INSERT OR IGNORE INTO memory_restored VALUES (?)", (number,))

    def is_restored(self, number: int) -> bool:
        """Return whether a memory was restored."""
        return bool(self._database.value("SELECT count(*) FROM memory_restored WHERE number = ?", (number,)))

    def disputed(self, most: int, moment: float) -> Iterator[list[int]]:
        """Yield the numbers of values that several writers have of one key, and of what another's memory supersedes."""
        for (key,) in self._database.execute(_DISPUTED_KEYS, (most,)).fetchall():
            if len(values := self._values_of(key, moment)) > 1:
                yield sorted(values.values())
        for pair in self._database.execute(_SUPERSEDED_BY_OTHERS, (moment, most)).fetchall():
            if not self.over(pair[:1], moment):
                yield list(pair)

    def _ends(self, numbers: Iterable[int]) -> tuple[dict[int, End], dict[int, tuple[str, str]]]:
        """Return ends of memories, and the key and the writer of those whose key has several writers."""
        ends, shared, unsure = dict[int, End](), dict[int, tuple[str, str]](), dict[int, float | None]()
        for number, own, writer, following, key in self._database.execute(_ENDS, (json.dumps(list(numbers)),)):
            if key is not None:
                shared[number] = key, writer
            elif own is None and following is None:
                continue
            memory_id, starts, by, ending = json.loads(following) if following else _NOTHING
            if by == writer:
                by = None
            elif by is not None and ending != ENDS_ALL:
                unsure[number] = own
            end = _first(own, starts)
            ends[number] = End(end, memory_id, by, end)
        if unsure:
            self._look_closer(ends, unsure)
        return ends, shared

    def _look_closer(self, ends: dict[int, End], unsure: Mapping[int, float | None]) -> None:
        """Correct the ends of what another writer has ended, which may not end it for good, or not at all."""
        now = now_ms(self._database.clock)
        rows = self._database.execute(_ENDS_FOR_GOOD, (json.dumps(list(unsure)),))
        for number, writer, following, restored in rows:
            memory_id, starts, by, _ = json.loads(following) if following else _NOTHING
            end = ends[number]._replace(ends_for_good=_first(unsure[number], starts))
            if restored:
                disputed_by = (end.superseding_writer,) if end.superseding_writer and not end.is_over(now) else ()
                end = End(end.ends_for_good, memory_id, None if by == writer else by, end.ends_for_good, disputed_by)
            ends[number] = end

    def _values_of(self, key: str, moment: float) -> dict[str, int]:
        """Return the numbers of the values of a folded key that are their writers' at a time, by writer."""
        rows = self._database.execute(_WRITERS, (key, moment, _MOST_WRITERS))
        last = {name: number for name, number in rows if number is not None}
        over = self.over(last.values(), moment)
        return {name: number for name, number in last.items() if number not in over}

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

    def valid_at(self, key: str | None, memory_id: str, moment: float, reader: str | None = None) -> int:
        """Return the number of the value of a key, or among those that supersede each other, that was valid then.

        Args:
            key: whose value; None: that of the memory's history.
            memory_id: the id of any memory of the history.
            moment: the time.
            reader: a writer whose own value of the key, if it is that still, goes before those of others.

        Raises:
            NotFound: there was none.
        """
        if key is None:
            chain = json.dumps(self.history(key, memory_id, MOST_IN_CHAIN, 0))
            found = self._database.execute(_OF_CHAIN_AT, (chain, *[moment] * 4)).fetchone()
        else:
            folded = folded_key(key)
            values = (folded, reader, moment, folded, *[moment] * 4)
            own, found = self._database.execute(_OF_KEY_AT, values).fetchone()
            if own not in (None, found) and not self.over([own], moment):
                return int(own)
            found = None if found is None else (found,)
        if found is None:
            name = f"of the key {key[:64]!r}" if key is not None else f"of memory {memory_id[:64]!r}"
            raise NotFound(f"no value {name} was valid at {iso_time(moment)}; `memory_history` lists its values")
        return int(found[0])

    def free_start(self, key: str, now: float) -> float:
        """Return the time from which a new value of a key is valid: now, or after others of the same second."""
        last = self._database.value(_FREE_START, (folded_key(key), now, now + 1.0))
        return now if last is None else round(last + 0.001, 3)


def _first(*moments: float | None) -> float | None:
    return min((moment for moment in moments if moment is not None), default=None)
