"""The store of interactions: what was said in each session, by whom, and how it ages through four tiers.

An interaction that moves on to a tier (see `session_counts`) is folded into its session's summary (see `contexts`)
and stays in the table: nothing is lost but what `clear` removes. Adding reads the counters, the windows and the
summaries of one session and three rows at most, however much is stored.

A context reads the rows of its window and of tier 0, and of the newest 1250 no more than the index of them tells.

Reads leave out what a quarantined writer wrote: the rows, that writer's part of the summary, and its influence on
the window, which is made anew from the newest 1250 rows that are left. The rows stay, and count in the tiers.
"""

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.conversations import contexts, session_counts
from twinhost.unified_memory_reasoning.conversations.contexts import (
    WHOLE_SESSION,
    Aged,
    Contexts,
    Item,
    Window,
    in_order,
    window_of,
)
from twinhost.unified_memory_reasoning.conversations.importance import importance_of
from twinhost.unified_memory_reasoning.conversations.session_counts import (
    TIERS,
    UP_TO_TIER,
    Move,
    SessionCounts,
    Spoken,
    Writer,
)
from twinhost.unified_memory_reasoning.conversations.summary import Part, Said
from twinhost.unified_memory_reasoning.provenance.quarantine import create_visible_views

COLUMNS = "id, session_id, speaker, type, content, metadata, importance, strength, created, tier, written_by"


@dataclass(frozen=True, slots=True)
class Interaction:
    """One interaction; `created` in seconds since the epoch, `speaker` empty where none was told."""

    id: int
    session_id: str
    speaker: str
    kind: str
    content: str
    metadata: dict[str, Any]
    importance: float
    strength: float
    created: float
    tier: int
    written_by: str


@dataclass(frozen=True, slots=True)
class Added:
    """What became of an interaction: its number, its importance, and how many places the session's window has."""

    id: int
    importance: float
    window_size: int


@dataclass(frozen=True, slots=True)
class Context:
    """What a session, or a speaker in it, has in mind, of everybody who is visible."""

    summary: Part
    items: list[Interaction]  # of the window, in its order
    further: list[Interaction]  # of tier 0, in the same order
    window_size: int
    stored: int  # interactions of the session, of all speakers
    in_view: int  # of these, the speaker's; all of them where none is named
    newest: list[int]  # of those in view, 256 at most, of tiers 0 to 2, newest first
    last_updated: float | None  # of the session, seconds since the epoch


def interaction_of(row: tuple[Any, ...]) -> Interaction:
    """Return the interaction that a row of COLUMNS tells of."""
    fields: list[Any] = list(row)
    fields[5] = msgspec.json.decode(fields[5])
    return Interaction(*fields)


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
{session_counts.MIGRATION}
{contexts.MIGRATION}"""
MADE_ANEW_FROM = UP_TO_TIER[-1]  # rows
MOST_NEWEST = 256  # of which a context names those that it does not tell

# Of constants alone; what a caller gave is bound.
_VISIBLE_ROWS = f"SELECT {COLUMNS} FROM visible_interactions WHERE id IN (SELECT value FROM json_each(?))"  # noqa: S608
_WRITTEN_BY = f"SELECT {COLUMNS} FROM interactions WHERE written_by = ? AND id < ? ORDER BY id DESC LIMIT ?"  # noqa: S608
_ITEMS = (
    "SELECT id, importance FROM {} WHERE session_id = ?1 AND (?2 IS NULL OR speaker = ?2) "  # noqa: S608
    f"ORDER BY id DESC LIMIT {MADE_ANEW_FROM}"
)
_VISIBLE_ITEMS, _STORED_ITEMS = _ITEMS.format("visible_interactions"), _ITEMS.format("interactions")
_FIRST_OF_NEWEST = "(SELECT min(id) FROM (SELECT id FROM interactions WHERE session_id = ?1 ORDER BY id DESC LIMIT ?2))"
_NEWEST = (
    "SELECT id, importance FROM visible_interactions WHERE session_id = ?1 "  # noqa: S608
    f"AND id >= {_FIRST_OF_NEWEST} AND (?3 IS NULL OR speaker = ?3) ORDER BY id DESC LIMIT {MOST_NEWEST}"
)
_ALL_ITEMS = "SELECT id, importance, speaker FROM interactions WHERE session_id = ? ORDER BY id"
_AGED = (
    "SELECT id, type, speaker, content, importance, tier, written_by FROM visible_interactions "  # noqa: S608
    f"WHERE session_id = ?1 AND id >= {_FIRST_OF_NEWEST} ORDER BY id"
)
_CLEAR = (
    "DELETE FROM interactions WHERE id IN "
    "(SELECT id FROM visible_interactions WHERE session_id = ?1 AND (?2 IS NULL OR speaker = ?2))"
)
_TIER_OF_PLACE = " ".join(f"WHEN place <= {most} THEN {tier}" for tier, most in enumerate(UP_TO_TIER))
_RANK_AGAIN = (
    f"UPDATE interactions SET tier = belongs_in FROM (SELECT id AS ranked, CASE {_TIER_OF_PLACE} "  # noqa: S608
    f"ELSE {len(UP_TO_TIER)} END AS belongs_in FROM "
    "(SELECT id, row_number() OVER (ORDER BY id DESC) AS place FROM interactions WHERE session_id = ?)) "
    "WHERE id = ranked AND tier <> belongs_in"
)


class Interactions:
    """Interactions by session, their windows and their summaries."""

    def __init__(self, database: Database) -> None:
        create_visible_views(database, "interactions")
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
    ) -> Added:
        """Store an interaction; inside a transaction.

        Args:
            kind: code, user_query, system_response or error.
            importance: 0 to 1; that of the content's words where it is left out.
            created: seconds since the epoch; now where it is left out.
        """
        weight = importance_of(content) if importance is None else importance
        moment = time.time() if created is None else created
        (number,) = self._database.execute(
            "INSERT INTO interactions (session_id, speaker, type, content, metadata, importance, strength, created, "
            "tier, written_by) VALUES (?, ?, ?, ?, ?, ?, 1.0, ?, 0, ?) RETURNING id",
            (session_id, speaker, kind, content, self._encoder.encode(metadata or {}), weight, moment, written_by),
        ).fetchone()
        said = Said(number, kind, speaker, content, weight)
        places = self._contexts.take_in(session_id, said)
        moves = self._counts.add(
            session_id, number, speaker, written_by, moment, lambda known: self._next_after(session_id, known)
        )
        self._contexts.fold(session_id, [(said, 0, written_by), *(self._moved(move) for move in moves)])
        return Added(number, weight, places)

    def context(self, session_id: str, speaker: str | None = None) -> Context:
        """Return what a session has in mind, or one speaker in it; empty where nothing was said."""
        counted = self._counts.visible(session_id)
        if counted.hidden_writers:
            window = self._window_anew(session_id, speaker, hidden_too=False)
        else:
            window = self._contexts.window(session_id, speaker or WHOLE_SESSION)
        summary = self._contexts.summary(session_id)
        in_window = [item.id for item in window.items]
        recent = in_order(self._newest(session_id, speaker, TIERS[0]))
        return Context(
            summary=summary if speaker is None else summary.only(speaker),
            items=self.visible(in_window),
            further=self.visible([item.id for item in recent if item.id not in in_window]),
            window_size=window.size,
            stored=counted.count,
            in_view=counted.count if speaker is None else self._counts.visible_of(session_id, speaker),
            newest=[item.id for item in self._newest(session_id, speaker, MADE_ANEW_FROM)],
            last_updated=counted.updated,
        )

    def visible(self, ids: list[int]) -> list[Interaction]:
        """Return interactions in the order of the given numbers, without those of quarantined writers."""
        rows = self._database.execute(_VISIBLE_ROWS, (self._encoder.encode(ids).decode(),))
        found = {row[0]: interaction_of(row) for row in rows}
        return [found[number] for number in ids if number in found]

    def written_by(self, name: str, before: int | None, limit: int) -> list[Interaction]:
        """Return what a caller wrote, quarantined or not, newest first.

        Args:
            before: those with lower numbers alone.
            limit: at most so many.
        """
        rows = self._database.execute(_WRITTEN_BY, (name, 2**63 - 1 if before is None else before, limit))
        return [interaction_of(row) for row in rows]

    def clear(self, session_id: str, speaker: str | None = None) -> int:
        """Remove a session, or what one speaker said in it, and return how many rows; quarantined writers' stay.

        It takes time in proportion to the session; inside a transaction. Decisions, errors and code that the newer
        ones of a cleared speaker had crowded out of the summary come back from the newest 250 rows that are left.
        """
        removed = self._database.execute(_CLEAR, (session_id, speaker)).rowcount
        if removed == 0:
            return 0
        self._database.execute(_RANK_AGAIN, (session_id,))
        oldest = dict(
            self._database.execute(
                "SELECT tier, min(id) FROM interactions WHERE session_id = ? GROUP BY tier", (session_id,)
            ).fetchall()
        )
        writers = self._database.execute(
            "SELECT written_by, count(*), max(created) FROM interactions WHERE session_id = ? GROUP BY written_by",
            (session_id,),
        )
        speakers = self._database.execute(
            "SELECT speaker, written_by, count(*) FROM interactions WHERE session_id = ? AND speaker <> '' "
            "GROUP BY speaker, written_by",
            (session_id,),
        )
        spoken = [Spoken(*row) for row in speakers]
        self._counts.replace(session_id, [Writer(*row) for row in writers], spoken, oldest)
        if speaker is None or not oldest:
            self._contexts.remove(session_id, self._windows_of_hidden(session_id) if oldest else {})
        else:
            windows = {WHOLE_SESSION: self._window_anew(session_id, None, hidden_too=True)}
            if (own := self._window_anew(session_id, speaker, hidden_too=True)).items:
                windows[speaker] = own
            self._contexts.remove_speaker(session_id, speaker, windows, self._aged(session_id))
        return removed

    @property
    def count(self) -> int:
        """The number of interactions; kept in memory, for any thread to read."""
        return self._counts.interactions

    @property
    def session_count(self) -> int:
        """The number of sessions; kept in memory, for any thread to read."""
        return self._counts.sessions

    def _next_after(self, session_id: str, number: int) -> int:
        row = self._database.execute(
            "SELECT id FROM interactions WHERE session_id = ? AND id > ? ORDER BY id LIMIT 1", (session_id, number)
        ).fetchone()
        return int(row[0])

    def _moved(self, move: Move) -> Aged:
        kind, speaker, content, importance, written_by = self._database.execute(
            "UPDATE interactions SET tier = ? WHERE id = ? RETURNING type, speaker, content, importance, written_by",
            (move.tier, move.id),
        ).fetchone()
        return Said(move.id, kind, speaker, content, importance), move.tier, written_by

    def _aged(self, session_id: str) -> Iterator[Aged]:
        """Yield what is visible in tiers 0 to 2 of a session, oldest first."""
        rows = self._database.execute(_AGED, (session_id, MADE_ANEW_FROM))
        for number, kind, speaker, content, importance, tier, written_by in rows:
            yield Said(number, kind, speaker, content, importance), tier, written_by

    def _windows_of_hidden(self, session_id: str) -> dict[str, Window]:
        """Return the windows of a session in which only quarantined writers' rows are left."""
        whole: deque[Item] = deque(maxlen=MADE_ANEW_FROM)
        items: dict[str, deque[Item]] = {WHOLE_SESSION: whole}
        for number, importance, speaker in self._database.execute(_ALL_ITEMS, (session_id,)):
            item = Item(number, importance)
            whole.append(item)
            if speaker:
                items.setdefault(speaker, deque(maxlen=MADE_ANEW_FROM)).append(item)
        return {speaker: window_of(newest) for speaker, newest in items.items()}

    def _newest(self, session_id: str, speaker: str | None, among: int) -> list[Item]:
        """Return what is visible among a session's newest rows, or a speaker's part of that, newest first."""
        return [Item(*row) for row in self._database.execute(_NEWEST, (session_id, among, speaker))]

    def _window_anew(self, session_id: str, speaker: str | None, *, hidden_too: bool) -> Window:
        rows = self._database.execute(_STORED_ITEMS if hidden_too else _VISIBLE_ITEMS, (session_id, speaker)).fetchall()
        return window_of(Item(*row) for row in reversed(rows))
