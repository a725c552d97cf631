"""The store of interactions: what was said in each session, its speakers, and how it ages through four tiers.

An interaction that moves to an older tier is folded into its session's summary (see `contexts`) and stays in the table:
nothing is lost except what `clear` removes. Adding one reads the counters, windows and summaries of its session and at
most three rows, however much is stored.

Turns are ordered by `AT`, then by id. A context reads the rows that it considers, and of the newest 1250 the index.

Reads skip what a quarantined writer wrote: the rows, that writer's part of the summary, and its influence on the
window, which is rebuilt from the newest 1250 visible rows. The rows stay, and count in the tiers.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec

from twinhost.secure_zmq.actions import InParts
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.conversations import contexts
from twinhost.unified_memory_reasoning.conversations.context_text import PREVIOUS_CHARACTERS, Turn, Utterance
from twinhost.unified_memory_reasoning.conversations.contexts import (
    UP_TO_TIER,
    WHOLE_SESSION,
    Aged,
    Contexts,
    Move,
    Removed,
    SessionCounts,
)
from twinhost.unified_memory_reasoning.conversations.summary import SummaryEntry, SummaryPart, notes_of
from twinhost.unified_memory_reasoning.conversations.window import Window, WindowItem, window_of
from twinhost.unified_memory_reasoning.fields import PAST, Field, Fields
from twinhost.unified_memory_reasoning.language import importance_of
from twinhost.unified_memory_reasoning.provenance.quarantine import WrittenRow, create_visible_views, lists_written
from twinhost.unified_memory_reasoning.search.index_tables import define_passages
from twinhost.unified_memory_reasoning.search.upkeep import keep_for_index

Kind = Literal["code", "user_query", "system_response", "error"]


class Circumstances(msgspec.Struct, frozen=True, kw_only=True):
    """The optional fields of an interaction, each in a column of its name; times in seconds since the epoch.

    `occurred_at` is when it was said, if that is not when it was stored.
    """

    occurred_at: Annotated[float | None, Field(PAST)] = None


CIRCUMSTANCES = Fields(Circumstances)
_OPTIONAL = "".join(f", {name}" for name in CIRCUMSTANCES.names)
_MARKS = ", ?" * len(CIRCUMSTANCES.names)


@CIRCUMSTANCES.shown_by
class _WrittenInteraction(WrittenRow):
    id: int
    session_id: NotRequired[str]
    speaker: NotRequired[str]
    kind: Kind
    content: NotRequired[str]
    metadata: NotRequired[dict[str, Any]]
    importance: float
    strength: float
    created: str


class WrittenInteraction(_WrittenInteraction):
    """An interaction; `speaker` is empty if none was given, `importance` is 0 to 1."""

    tier: int
    written_by: str


@CIRCUMSTANCES.shown_by
class _StoredInteraction(TypedDict):
    id: int
    interaction_type: Kind
    speaker: str
    content: str
    metadata: dict[str, Any]
    importance: float
    created: str


class StoredInteraction(_StoredInteraction):
    """An interaction as it was stored; `speaker` is empty if none was given, times are in ISO-8601."""

    written_by: str


STORED_INTERACTION = (
    "SELECT id, type AS interaction_type, speaker, content, metadata, importance, created, written_by"  # noqa: S608
    f"{_OPTIONAL} FROM interactions WHERE id = ?"
)


@dataclass(frozen=True, slots=True)
class Added:
    """A stored interaction: its id, its importance, and how many places the session's window has."""

    id: int
    importance: float
    window_size: int


@dataclass(frozen=True, slots=True)
class Context:
    """The context of a session, or of a speaker in it, without quarantined writers."""

    summary: SummaryPart
    window: Window
    stored: int  # interactions of the session, of all speakers
    in_view: int  # of these, the speaker's; all of them if no speaker is named
    newest: list[int]  # ids of those in view, at most 256, of tiers 0 to 2, newest first
    last_updated: float | None  # of the session, seconds since the epoch


MIGRATION = f"""
CREATE TABLE interactions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id TEXT NOT NULL,
    speaker TEXT NOT NULL,
    type TEXT NOT NULL,
    content TEXT NOT NULL,
    metadata BLOB NOT NULL,
    importance REAL NOT NULL,
    strength REAL NOT NULL,
    created REAL NOT NULL,
    tier INTEGER NOT NULL,
    written_by TEXT NOT NULL
) STRICT;
CREATE INDEX interactions_by_session ON interactions (session_id, id, importance, speaker, written_by);
CREATE INDEX interactions_by_writer ON interactions (written_by, id);
{contexts.MIGRATION}"""
OCCURRED_MIGRATION = "ALTER TABLE interactions ADD COLUMN occurred_at REAL"  # null: when it was stored
AT = "coalesce(occurred_at, created)"  # the time that orders the turns of a session, in seconds since the epoch
BY_TIME_MIGRATION = f"CREATE INDEX interactions_by_time ON interactions (session_id, {AT}, id, speaker, written_by)"
REBUILT_FROM = UP_TO_TIER[-1]  # rows from which a window is rebuilt
ANY_BYTES = 2**31 - 1
_PAGE = 64  # turns that are read together
MOST_NEWEST = 256  # interactions among which a context names those that its text leaves out

_UTTERANCE = f"id, type AS kind, speaker, content, importance, {AT} AS at"
_INSERT = (
    "INSERT INTO interactions (session_id, speaker, type, content, metadata, importance, strength, created, "  # noqa: S608
    f"tier, written_by{_OPTIONAL}) VALUES (?, ?, ?, ?, ?, ?, 1.0, ?, 0, ?{_MARKS}) RETURNING id"
)
_PREVIOUS = (
    f"SELECT id, type AS kind, speaker, substr(content, -{PREVIOUS_CHARACTERS}) AS content, importance "  # noqa: S608
    "FROM visible_interactions WHERE session_id = ? AND id < ? ORDER BY id DESC LIMIT 1"
)
_NEWEST_ID = 2**63 - 1
_TURNS = (
    f"SELECT id, session_id, type AS kind, speaker, written_by, {AT} AS at, "  # noqa: S608 - of constants alone
    "substr(CAST(content AS BLOB), 1, ?1) AS content, length(CAST(content AS BLOB)) > ?1 AS longer "
    "FROM visible_interactions WHERE id IN (SELECT value FROM json_each(?2))"
)
# The first comparison is for the index: with an expression, SQLite doesn't search it by the second.
_BEFORE = (
    f"{AT} <= {{0}} AND ({AT}, id) < ({{0}}, {{1}}) AND (?2 IS NULL OR speaker = ?2) ORDER BY {AT} DESC, id DESC LIMIT"
)
_NEWEST_TURNS = f"SELECT id FROM visible_interactions WHERE session_id = ?1 AND {_BEFORE.format('?3', '?4')} ?5"  # noqa: S608
_AFTER = f"{AT} >= {{0}} AND ({AT}, id) > ({{0}}, {{1}}) AND (?2 IS NULL OR speaker = ?2) ORDER BY {AT}, id LIMIT"
_ASKS = "rtrim(content) LIKE '%?'"
_BESIDE = (
    f"WITH hits AS (SELECT id AS hit, session_id AS within, {AT} AS since, {_ASKS} AS asks FROM interactions "  # noqa: S608
    f"WHERE id IN (SELECT value FROM json_each(?1))) SELECT hit, (SELECT CASE WHEN {_ASKS} THEN id END "
    f"FROM visible_interactions WHERE session_id = within AND {_BEFORE.format('since', 'hit')} 1), "
    "CASE WHEN asks THEN (SELECT id FROM visible_interactions "
    f"WHERE session_id = within AND {_AFTER.format('since', 'hit')} 1) END FROM hits"
)
_WRITTEN = (
    "SELECT id AS number, id, session_id, speaker, type AS kind, content, metadata, importance, strength, "  # noqa: S608
    f"created, tier, written_by{_OPTIONAL} FROM interactions "
    "WHERE written_by = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3"
)
_ITEMS = (
    "SELECT id, importance FROM {} WHERE session_id = ?1 AND (?2 IS NULL OR speaker = ?2) "
    "AND id NOT IN (SELECT value FROM json_each(?4)) ORDER BY id DESC LIMIT ?3"
)
_VISIBLE_ITEMS, _STORED_ITEMS = _ITEMS.format("visible_interactions"), _ITEMS.format("interactions")
_FIRST_OF_NEWEST = "(SELECT min(id) FROM (SELECT id FROM interactions WHERE session_id = ?1 ORDER BY id DESC LIMIT ?2))"
_NEWEST = (
    "SELECT id, importance FROM visible_interactions WHERE session_id = ?1 "  # noqa: S608
    f"AND id >= {_FIRST_OF_NEWEST} AND (?3 IS NULL OR speaker = ?3) ORDER BY id DESC LIMIT {MOST_NEWEST}"
)
_ALL_ITEMS = "SELECT id, importance, speaker FROM interactions WHERE session_id = ? ORDER BY id"
_BRIEF = "id, type AS kind, speaker, '' AS content, importance"  # what is read without all of a long text
_AGED = (  # as the counters have the tiers
    f"SELECT {_BRIEF}, CASE WHEN id >= oldest_0 THEN 0 WHEN id >= oldest_1 THEN 1 ELSE 2 END AS tier, written_by "  # noqa: S608
    "FROM visible_interactions JOIN context_sessions USING (session_id) "
    f"WHERE session_id = ?1 AND id >= {_FIRST_OF_NEWEST} ORDER BY id"
)
_MOVE = f"UPDATE interactions SET tier = ? WHERE id = ? RETURNING {_UTTERANCE}, tier, written_by"  # noqa: S608
_NAMED = "SELECT value FROM json_each(?)"
_DELETE = f"DELETE FROM interactions WHERE id IN ({_NAMED}) RETURNING id, speaker, written_by, {AT}"  # noqa: S608
_OF_SESSION = (
    "SELECT id FROM visible_interactions WHERE session_id = ?1 AND (?2 IS NULL OR speaker = ?2) "
    "AND (?3 IS NULL OR written_by = ?3)"
)
_CLEARED_AT_ONCE = 500  # rows, in one part: about 3 ms
_BYTES_AT_ONCE = 400_000  # of their contents, in one part: about 10 ms
_OLDEST_OF_SESSION = f"{_OF_SESSION} ORDER BY id LIMIT ?4"
_SIZES = (
    "SELECT id, length(CAST(content AS BLOB)) FROM interactions "
    "WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id"
)
_OUTDATED_WINDOWS = (
    "SELECT DISTINCT speaker FROM context_windows, json_each(CAST(window AS TEXT), '$[1]') AS item "
    "WHERE session_id = ? AND NOT EXISTS (SELECT 1 FROM interactions WHERE id = json_extract(item.value, '$[0]'))"
)
_NONE = "[]"  # of ids
_STAMP = (
    "SELECT count, (SELECT max(id) FROM interactions WHERE session_id = ?1) FROM context_sessions WHERE session_id = ?1"
)
_SPEAKERS = "SELECT speaker, count(*) FROM interactions WHERE id IN (SELECT value FROM json_each(?)) GROUP BY speaker"
_NOTED_AGAIN = (  # and the one before these
    f"SELECT {_BRIEF} FROM visible_interactions WHERE session_id = ?1 "  # noqa: S608
    f"AND id NOT IN (SELECT value FROM json_each(?2)) ORDER BY id DESC LIMIT {UP_TO_TIER[1] + 1}"
)
_ONE = f"SELECT {_UTTERANCE} FROM interactions WHERE id = ?"  # noqa: S608


def _rank_again(up_to_tier: Sequence[int]) -> str:
    """Return the SQL that moves a session's rows to other tiers after some were deleted.

    A row has the place that it had or a newer one, nearer by at most as many as were deleted: few change their tier,
    and others are not read. The rows after these stay in the last tier.
    """
    tier = " ".join(f"WHEN place <= {most} THEN {tier}" for tier, most in enumerate(up_to_tier))
    near = " OR ".join(f"place BETWEEN {most + 1} - ?2 AND {most}" for most in up_to_tier)
    return (
        f"UPDATE interactions SET tier = belongs_in FROM (SELECT id AS ranked, CASE {tier} END AS belongs_in FROM "  # noqa: S608
        "(SELECT id, row_number() OVER (ORDER BY id DESC) AS place FROM "
        f"(SELECT id FROM interactions WHERE session_id = ?1 ORDER BY id DESC LIMIT {up_to_tier[-1]})) WHERE {near}) "
        "WHERE id = ranked AND tier <> belongs_in"
    )


_RANK_AGAIN = _rank_again(UP_TO_TIER)


def _aged(tier: int, written_by: str, **utterance: Any) -> Aged:
    return Utterance(**utterance), tier, written_by


class Interactions:
    """Interactions by session, their windows and their summaries."""

    def __init__(self, database: Database) -> None:
        define_passages(database)
        create_visible_views(database, "interactions")
        self.clock = database.clock
        self._database = database
        self._contexts = Contexts(database)
        self._counts = SessionCounts(database)
        self._encoder = msgspec.json.Encoder()

    def add(
        self,
        session_id: str,
        kind: str,
        content: str,
        written_by: str,
        *,
        speaker: str = "",
        metadata: dict[str, Any] | None = None,
        importance: float | None = None,
        created: float | None = None,
        **circumstances: Any,
    ) -> Added:
        """Store an interaction, inside a transaction.

        Args:
            session_id: its session.
            kind: code, user_query, system_response or error.
            content: the text.
            written_by: the caller.
            speaker: empty if there is none.
            metadata: any JSON object.
            importance: 0 to 1; computed from the content, and what was said before it, if omitted.
            created: when it is stored, in seconds since the epoch; now if omitted.
            circumstances: fields of `Circumstances`.
        """
        now = self._database.clock.time() if created is None else created
        further = Circumstances(**circumstances)
        at = now if further.occurred_at is None else further.occurred_at
        said = Utterance(0, kind, speaker, content, 0.0, at=at).after(self._previous(session_id, _NEWEST_ID))
        weight = importance_of(content, said.previous) if importance is None else importance
        number = self._database.value(
            _INSERT,
            (
                *(session_id, speaker, kind, content, self._encoder.encode(metadata or {}), weight),
                *(now, written_by, *msgspec.structs.astuple(further)),
            ),
        )
        utterance = msgspec.structs.replace(said, id=number, importance=weight)
        places = self._contexts.add(session_id, utterance)
        moves = self._counts.add(
            session_id, number, speaker, written_by, at, lambda known: self._next_after(session_id, known)
        )
        self._contexts.fold(session_id, [(utterance, 0, written_by), *(self._move(move) for move in moves)])
        return Added(number, weight, places)

    def context(self, session_id: str, speaker: str | None = None) -> Context:
        """Return the context of a session, or of one speaker in it; empty if nothing was said."""
        counted = self._counts.visible(session_id)
        if counted.hidden_writers:
            window = self._rebuilt_window(_VISIBLE_ITEMS, session_id, speaker)
        else:
            window = self._contexts.window(session_id, speaker or WHOLE_SESSION)
        summary = self._contexts.summary(session_id)
        return Context(
            summary=summary if speaker is None else summary.only(speaker),
            window=window,
            stored=counted.count,
            in_view=counted.count if speaker is None else self._counts.visible_of(session_id, speaker),
            newest=[item.id for item in self._newest(session_id, speaker, REBUILT_FROM)],
            last_updated=counted.updated,
        )

    def speaker(self, session_id: str, name: str | None) -> str | None:
        """Return a speaker's name as a session has it, if it does in another case; None if there is no name."""
        return self._counts.speaker(session_id, name) if name else None

    def turns(self, ids: Iterable[int], max_bytes: int = ANY_BYTES) -> list[Turn]:
        """Return turns in the order of the given ids, without those of quarantined writers.

        Args:
            ids: those of interactions.
            max_bytes: a longer content is cut.
        """

        def turn(content: bytes, longer: int, **columns: Any) -> Turn:
            return Turn(content=content.decode(errors="ignore"), longer=bool(longer), **columns)

        wanted = list(ids)
        rows = self._database.select(turn, _TURNS, (max_bytes, self._encoder.encode(wanted).decode()))
        turns = {row.id: row for row in rows}
        return [turns[number] for number in wanted if number in turns]

    def newest(self, session_id: str, speaker: str | None, max_bytes: int) -> Iterator[Turn]:
        """Yield the turns of a session, or of one speaker in it, newest first."""
        at, number = math.inf, 0
        while numbers := self._database.execute(_NEWEST_TURNS, (session_id, speaker, at, number, _PAGE)).fetchall():
            turns = self.turns((number for (number,) in numbers), max_bytes)
            yield from turns
            at, number = turns[-1].at, turns[-1].id

    def beside(self, ids: list[int], speaker: str | None) -> dict[int, tuple[int | None, int | None]]:
        """Return the question before each interaction in its session, and what follows it if it is a question itself.

        With a speaker, only what this one said is looked at.
        """
        rows = self._database.execute(_BESIDE, (self._encoder.encode(ids).decode(), speaker))
        return {hit: (before, after) for hit, before, after in rows}

    written_by = lists_written(WrittenInteraction, _WRITTEN)

    def clear(self, session_id: str, speaker: str | None = None, written_by: str | None = None) -> InParts[int]:
        """Remove a session, or what one speaker said in it, or one caller wrote, and return how many rows.

        Rows of quarantined writers stay. Each part removes some of the oldest rows, inside a transaction; the windows
        and the summary are without them once the last part is done, and without what an earlier request had removed
        that was cut short. If the newer decisions, errors and code of what is removed had replaced others in the
        summary, these come back from the newest 250 rows that are left.
        """
        values = (session_id, speaker, written_by, _CLEARED_AT_ONCE + 1)

        def oldest() -> list[int]:
            return [number for (number,) in self._database.execute(_OLDEST_OF_SESSION, values)]

        return len((yield from self.remove(session_id, oldest, whole=speaker is written_by is None)))

    def remove(
        self, session_id: str, chosen: Callable[[], Sequence[int]], *, whole: bool = False
    ) -> InParts[Sequence[int]]:
        """Remove some interactions that there are in a session, as `clear` does.

        Before the last part, the windows and the notes of what is left are computed. If others change the session
        meanwhile, the last part takes as long as that.

        Args:
            session_id: the session.
            chosen: returns the ids of those that are left of them; asked in each part.
            whole: whether nothing is left but what quarantined writers wrote.

        Returns:
            The ids of those that were removed.
        """
        removed: list[int] = []
        while (part := self._first(ids := chosen())) and len(part) < len(ids):
            self._counts.remove(session_id, self._deleted(session_id, part))
            removed += part
            yield
        prepared = _Prepared((), self._whole)
        if not whole:
            prepared = yield from self._prepared(session_id, ids)
            part = self._first(chosen())
        if part and whole:
            left = self._counts.remove(session_id, self._deleted(session_id, part))
            self._contexts.remove(session_id, self._windows_of_hidden(session_id) if left else {})
        elif part:
            if prepared.stamp != self._stamp(session_id, part):
                prepared = _Prepared((), self._whole)
            self._forget(session_id, self._deleted(session_id, part), prepared)
        return [*removed, *part]

    def _first(self, ids: Sequence[int]) -> list[int]:
        """Return those of some interactions that are removed in one part."""
        first, left = list[int](), _BYTES_AT_ONCE
        for number, size in self._database.execute(_SIZES, (self._list(ids),)):
            if left <= 0 or len(first) == _CLEARED_AT_ONCE:
                break
            first.append(number)
            left -= size
        return first

    def _stamp(self, session_id: str, ids: Sequence[int]) -> Hashable:
        """Return what is the same as long as neither the session nor the choice of what is removed changes."""
        return self._database.execute(_STAMP, (session_id,)).fetchone(), tuple(ids)

    def _prepared(self, session_id: str, ids: Sequence[int]) -> "InParts[_Prepared]":
        """Compute the windows and the notes of a session without some interactions, which are still there."""
        prepared = _Prepared(self._stamp(session_id, ids), self._whole)
        if not ids:
            return prepared
        without = self._list(ids)
        removed = Counter(dict(self._database.execute(_SPEAKERS, (without,)).fetchall()))
        outdated = (speaker for (speaker,) in self._database.execute(_OUTDATED_WINDOWS, (session_id,)).fetchall())
        for speaker in dict.fromkeys((WHOLE_SESSION, *removed, *outdated)):
            left = self._counts.stored_of(session_id, speaker) - removed[speaker] if speaker else REBUILT_FROM
            window = Window()
            for item in self._items(_STORED_ITEMS, session_id, speaker or None, left, without):
                window = window.with_item(item)
                yield
            if window.items:
                prepared.windows[speaker] = window
        last: Utterance | None = None
        for brief in reversed(self._database.select(Utterance, _NOTED_AGAIN, (session_id, without))):
            prepared.notes(brief, last)
            last = brief
            yield
        return prepared

    def _whole(self, brief: Utterance) -> Utterance:
        """Return an interaction with its text; without it, if it was removed meanwhile."""
        return self._database.select_one(Utterance, _ONE, (brief.id,)) or brief

    def _list(self, ids: Sequence[int]) -> str:
        return self._encoder.encode(ids).decode()

    def _deleted(self, session_id: str, ids: Sequence[int]) -> list[Removed]:
        values = (self._list(ids),)
        keep_for_index(self._database, _NAMED, values)
        removed = self._database.execute(_DELETE, values).fetchall()
        self._database.execute(_RANK_AGAIN, (session_id, len(removed)))
        return removed

    def _forget(self, session_id: str, removed: list[Removed], prepared: "_Prepared") -> None:
        """Rebuild the counters, windows and summary of a session without some rows that were deleted."""
        if not self._counts.remove(session_id, removed):
            self._contexts.remove(session_id, {})
            return
        speakers = {speaker for _, speaker, *_ in removed}
        speakers |= {speaker for (speaker,) in self._database.execute(_OUTDATED_WINDOWS, (session_id,))}
        windows = dict(prepared.windows)
        for speaker in {WHOLE_SESSION, *speakers} - set(windows):
            if left := self._counts.stored_of(session_id, speaker) if speaker else REBUILT_FROM:
                windows[speaker] = self._rebuilt_window(_STORED_ITEMS, session_id, speaker or None, left)
        aged = self._database.select(_aged, _AGED, (session_id, REBUILT_FROM))
        self._contexts.remove_some(session_id, speakers, self._is_gone, windows, aged, prepared)

    def _is_gone(self, entry: SummaryEntry) -> bool:
        return self._database.value("SELECT 1 FROM interactions WHERE id = ?", (entry.id,)) is None

    @property
    def count(self) -> int:
        """The number of interactions; kept in memory, for any thread to read."""
        return self._counts.interactions

    @property
    def session_count(self) -> int:
        """The number of sessions; kept in memory, for any thread to read."""
        return self._counts.sessions

    def _previous(self, session_id: str, number: int) -> Utterance | None:
        """Return the visible interaction before one, the end of its content alone."""
        return self._database.select_one(Utterance, _PREVIOUS, (session_id, number))

    def _next_after(self, session_id: str, number: int) -> int:
        after: int = self._database.value(
            "SELECT id FROM interactions WHERE session_id = ? AND id > ? ORDER BY id LIMIT 1", (session_id, number)
        )
        return after

    def _move(self, move: Move) -> Aged:
        return self._database.select(_aged, _MOVE, (move.tier, move.id))[0]

    def _windows_of_hidden(self, session_id: str) -> dict[str, Window]:
        """Return the windows of a session in which only quarantined writers' rows are left."""
        whole: deque[WindowItem] = deque(maxlen=REBUILT_FROM)
        items: dict[str, deque[WindowItem]] = {WHOLE_SESSION: whole}
        for number, importance, speaker in self._database.execute(_ALL_ITEMS, (session_id,)):
            item = WindowItem(number, importance)
            whole.append(item)
            if speaker:
                items.setdefault(speaker, deque(maxlen=REBUILT_FROM)).append(item)
        return {speaker: window_of(newest) for speaker, newest in items.items()}

    def _newest(self, session_id: str, speaker: str | None, among: int) -> list[WindowItem]:
        """Return the visible ones among a session's newest rows, or a speaker's part of them, newest first."""
        return [WindowItem(*row) for row in self._database.execute(_NEWEST, (session_id, among, speaker))]

    def _rebuilt_window(self, items: str, session_id: str, speaker: str | None, left: int = REBUILT_FROM) -> Window:
        return window_of(self._items(items, session_id, speaker, left))

    def _items(
        self, items: str, session_id: str, speaker: str | None, left: int, without: str = _NONE
    ) -> list[WindowItem]:
        """Return the newest items of a session, or of a speaker in it who has so many, oldest first."""
        values = (session_id, speaker, min(left, REBUILT_FROM), without)
        return [WindowItem(*row) for row in reversed(self._database.execute(items, values).fetchall())]


class _Prepared:
    """Windows by speaker, and notes, of a session without what will be removed, while it is as at `stamp`."""

    def __init__(self, stamp: Hashable, whole: Callable[[Utterance], Utterance]) -> None:
        self.stamp = stamp
        self.windows: dict[str, Window] = {}
        self.whole = whole
        self._notes: dict[tuple[int, int], SummaryPart] = {}  # by the interaction, and the one before it that matters

    def notes(self, brief: Utterance, before: Utterance | None) -> SummaryPart:
        """Return what is noted of an interaction after another one."""
        key = brief.id, brief.after(before).previous_id
        if (notes := self._notes.get(key)) is None:
            said = self.whole(brief).after(before and self.whole(before))
            notes = self._notes[key] = notes_of(said)
        return notes
