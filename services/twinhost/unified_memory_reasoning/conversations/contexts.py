"""The windows, summaries and counters of sessions; `interactions` has the rows that they are made of.

A summary is kept by writer, a window with the items of all writers. Reads skip a quarantined writer's part of the
summary and rebuild the window without that writer's rows; both are as before once the writer is released.

Interactions are counted by writer and speaker. The newest 50 interactions of a session are tier 0, the next 200 tier 1,
the next 1000 tier 2, older ones tier 3; the counters have where each begins, so that no row is counted.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.conversations.context_text import Utterance
from twinhost.unified_memory_reasoning.conversations.summary import SummaryEntry, SummaryPart, merged
from twinhost.unified_memory_reasoning.conversations.window import Window, WindowItem
from twinhost.unified_memory_reasoning.memories.model import folded_key
from twinhost.unified_memory_reasoning.provenance.quarantine import create_visible_views

MIGRATION = """
CREATE TABLE context_sessions (
    session_id TEXT PRIMARY KEY NOT NULL,
    count INTEGER NOT NULL,
    oldest_0 INTEGER NOT NULL,
    oldest_1 INTEGER NOT NULL,
    oldest_2 INTEGER NOT NULL
) STRICT;
CREATE TABLE context_writers (
    session_id TEXT NOT NULL,
    written_by TEXT NOT NULL,
    count INTEGER NOT NULL,
    updated REAL NOT NULL,
    PRIMARY KEY (session_id, written_by)
) STRICT;
CREATE TABLE context_speakers (
    session_id TEXT NOT NULL,
    speaker TEXT NOT NULL,
    written_by TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (session_id, speaker, written_by)
) STRICT;
CREATE TABLE context_windows (
    session_id TEXT NOT NULL,
    speaker TEXT NOT NULL,
    window BLOB NOT NULL,
    PRIMARY KEY (session_id, speaker)
) STRICT;
CREATE TABLE context_summaries (
    session_id TEXT NOT NULL,
    written_by TEXT NOT NULL,
    part BLOB NOT NULL,
    PRIMARY KEY (session_id, written_by)
) STRICT;
"""
_PARTS = "SELECT written_by, part FROM visible_context_summaries WHERE session_id = ?"
_REMOVE_PARTS = (
    "DELETE FROM context_summaries WHERE session_id = ?1 AND written_by IN "
    "(SELECT written_by FROM visible_context_summaries WHERE session_id = ?1)"
)

Aged = tuple[Utterance, int, str]  # an interaction, its tier, and its writer
Removed = tuple[int, str, str, float]  # the id of an interaction, its speaker, its writer, and when it was said
_NOTED_AGAIN_UP_TO_TIER = 1
WHOLE_SESSION = ""  # stands for the speaker of a session's own window


class Texts(Protocol):
    """The texts of interactions, and what is noted of one after another."""

    def whole(self, brief: Utterance) -> Utterance: ...
    def notes(self, brief: Utterance, before: Utterance | None) -> SummaryPart: ...


class Contexts:
    """Windows by session and speaker, parts of summaries by session and writer."""

    def __init__(self, database: Database) -> None:
        create_visible_views(database, "context_summaries")
        self._database = database
        self._encoder = msgspec.json.Encoder()
        self._windows = msgspec.json.Decoder(Window)
        self._parts = msgspec.json.Decoder(SummaryPart)

    def add(self, session_id: str, utterance: Utterance) -> int:
        """Add an interaction to the session's window and its speaker's; return how many places the session's has."""
        window = self._add_to_window(session_id, WHOLE_SESSION, utterance)
        if utterance.speaker:
            self._add_to_window(session_id, utterance.speaker, utterance)
        return window.size

    def fold(self, session_id: str, aged: Iterable[Aged]) -> None:
        """Add interactions of tier 0 to their writers' parts, and fold those that moved to an older tier."""
        before: dict[str, SummaryPart] = {}
        parts: dict[str, SummaryPart] = {}
        for utterance, tier, written_by in aged:
            if written_by not in parts:
                before[written_by] = parts[written_by] = self._part(session_id, written_by)
            part = parts[written_by]
            parts[written_by] = part.folded(utterance, tier) if tier else part.noted(utterance)
        for written_by, part in parts.items():
            self._replace_part(session_id, written_by, before[written_by], part)

    def window(self, session_id: str, speaker: str) -> Window:
        """Return a window; an empty one if nothing was said."""
        window = self._database.value(
            "SELECT window FROM context_windows WHERE session_id = ? AND speaker = ?", (session_id, speaker)
        )
        return self._windows.decode(window) if window else Window()

    def summary(self, session_id: str) -> SummaryPart:
        """Return the summary without quarantined writers."""
        rows = self._database.execute(_PARTS, (session_id,))
        return merged(self._parts.decode(part) for _, part in rows)

    def remove_some(
        self,
        session_id: str,
        speakers: Iterable[str],
        removed: Callable[[SummaryEntry], bool],
        windows: Mapping[str, Window],
        left: Iterable[Aged],
        texts: Texts,
    ) -> None:
        """Remove some of what was said, except what quarantined writers wrote.

        Args:
            session_id: the session.
            speakers: who said it.
            removed: returns whether an entry of the summary is of what is removed.
            windows: the session's own window, and that of each speaker with anything left.
            left: what is visible in tiers 0 to 2 after that, oldest first. What the removed entries had replaced is
                folded again from these, and noted again from tiers 0 and 1 (250 interactions).
            texts: those of what is left, which comes without them.
        """
        self._database.execute_many(
            "DELETE FROM context_windows WHERE session_id = ? AND speaker = ?",
            [(session_id, speaker) for speaker in speakers],
        )
        self._put_windows(session_id, windows)
        rows = self._database.execute(_PARTS, (session_id,)).fetchall()
        before = {written_by: self._parts.decode(part) for written_by, part in rows}
        parts = {written_by: part.without(removed) for written_by, part in before.items()}
        lines: defaultdict[tuple[str, int], list[Utterance]] = defaultdict(list)
        last: Utterance | None = None
        for utterance, tier, written_by in left:
            part = parts.setdefault(written_by, SummaryPart())
            if tier <= _NOTED_AGAIN_UP_TO_TIER:
                parts[written_by] = part.with_notes(texts.notes(utterance, last))
            lines[written_by, tier].append(utterance)
            last = utterance
        for name, part in parts.items():
            parts[name] = part.with_lines(lines[name, 1], lines[name, 2], texts.whole)
        for written_by, part in parts.items():
            self._replace_part(session_id, written_by, before.get(written_by, SummaryPart()), part)

    def remove(self, session_id: str, windows: Mapping[str, Window]) -> None:
        """Remove a session, except what quarantined writers wrote, and the windows made of that, by speaker."""
        self._database.execute("DELETE FROM context_windows WHERE session_id = ?", (session_id,))
        self._put_windows(session_id, windows)
        self._database.execute(_REMOVE_PARTS, (session_id,))

    def _put_windows(self, session_id: str, windows: Mapping[str, Window]) -> None:
        for speaker, window in windows.items():
            self._put_window(session_id, speaker, window)

    def _add_to_window(self, session_id: str, speaker: str, utterance: Utterance) -> Window:
        window = self.window(session_id, speaker).with_item(WindowItem(utterance.id, utterance.importance))
        self._put_window(session_id, speaker, window)
        return window

    def _put_window(self, session_id: str, speaker: str, window: Window) -> None:
        self._database.execute(
            "INSERT INTO context_windows VALUES (?, ?, ?) "
            "ON CONFLICT (session_id, speaker) DO UPDATE SET window = excluded.window",
            (session_id, speaker, self._encoder.encode(window)),
        )

    def _part(self, session_id: str, written_by: str) -> SummaryPart:
        part = self._database.value(
            "SELECT part FROM context_summaries WHERE session_id = ? AND written_by = ?", (session_id, written_by)
        )
        return self._parts.decode(part) if part else SummaryPart()

    def _replace_part(self, session_id: str, written_by: str, before: SummaryPart, after: SummaryPart) -> None:
        if after == before:
            return
        self._database.execute(
            "INSERT INTO context_summaries VALUES (?, ?, ?) "
            "ON CONFLICT (session_id, written_by) DO UPDATE SET part = excluded.part",
            (session_id, written_by, self._encoder.encode(after)),
        )


TIERS = (50, 200, 1_000)  # how many of a session tiers 0, 1 and 2 hold; tier 3 holds the rest
UP_TO_TIER = tuple(sum(TIERS[: tier + 1]) for tier in range(len(TIERS)))  # how many each and those before it hold

_VISIBLE = (
    "SELECT coalesce(sum(count), 0) AS count, max(updated) AS updated, "
    "(SELECT count(*) FROM context_writers WHERE session_id = ?1) - count(*) AS hidden_writers "
    "FROM visible_context_writers WHERE session_id = ?1"
)
_OF_SPEAKER = "SELECT coalesce(sum(count), 0) FROM {}context_speakers WHERE session_id = ? AND speaker = ?"
_STORED_OF_SPEAKER, _VISIBLE_OF_SPEAKER = _OF_SPEAKER.format(""), _OF_SPEAKER.format("visible_")
_AT = "coalesce(occurred_at, created)"
_VISIBLE_SPEAKERS = (
    "SELECT speaker, sum(count) FROM visible_context_speakers WHERE session_id = ? GROUP BY speaker ORDER BY speaker"
)
_LESS_OF_WRITER = (
    "UPDATE context_writers SET count = count - ?3, updated = CASE WHEN count = ?3 OR updated > ?4 THEN updated "  # noqa: S608
    f"ELSE (SELECT {_AT} FROM interactions WHERE session_id = ?1 AND written_by = ?2 ORDER BY {_AT} DESC LIMIT 1) END "
    "WHERE session_id = ?1 AND written_by = ?2"
)
_LESS_OF_SPEAKER = (
    "UPDATE context_speakers SET count = count - ?4 WHERE session_id = ?1 AND speaker = ?2 AND written_by = ?3"
)
_NEWEST_IDS = "SELECT id FROM interactions WHERE session_id = ? ORDER BY id DESC LIMIT ?"


@dataclass(frozen=True, slots=True)
class Visible:
    """What the writers of a session who are not quarantined wrote, and how many writers are quarantined."""

    count: int
    updated: float | None
    hidden_writers: int


@dataclass(frozen=True, slots=True)
class Move:
    """An interaction that moves to a tier."""

    id: int
    tier: int


class SessionCounts:
    """The counters of each session, and of all together."""

    def __init__(self, database: Database) -> None:
        create_visible_views(database, "context_writers", "context_speakers")
        self._database = database
        count, sessions = database.execute("SELECT coalesce(sum(count), 0), count(*) FROM context_sessions").fetchone()
        self.interactions, self.sessions = int(count), int(sessions)  # for any thread to read

    def add(
        self,
        session_id: str,
        number: int,
        speaker: str,
        written_by: str,
        created: float,
        next_after: Callable[[int], int],
    ) -> list[Move]:
        """Count an interaction that was just stored, and return which others change tier: at most one of each tier.

        Args:
            session_id: its session.
            number: its id.
            speaker: empty if none was given; then it counts for the session only.
            written_by: the caller.
            created: when it was said, in seconds since the epoch.
            next_after: returns the id of the session's next interaction after an id.
        """
        self._database.execute(
            "INSERT INTO context_writers VALUES (?, ?, 1, ?) ON CONFLICT (session_id, written_by) DO UPDATE SET "
            "count = count + 1, updated = max(updated, excluded.updated)",
            (session_id, written_by, created),
        )
        if speaker:
            self._database.execute(
                "INSERT INTO context_speakers VALUES (?, ?, ?, 1) "
                "ON CONFLICT (session_id, speaker, written_by) DO UPDATE SET count = count + 1",
                (session_id, speaker, written_by),
            )
        row = self._database.execute(
            "SELECT count, oldest_0, oldest_1, oldest_2 FROM context_sessions WHERE session_id = ?", (session_id,)
        ).fetchone()
        self._add_to_totals(1, 0 if row else 1)
        before, *oldest = row or (0, number, 0, 0)
        moves = []
        for tier, held in enumerate(UP_TO_TIER):
            if before < held:
                break
            moving = oldest[tier]
            moves.append(Move(moving, tier + 1))
            oldest[tier] = next_after(moving)
            if tier + 1 < len(oldest) and oldest[tier + 1] == 0:
                oldest[tier + 1] = moving
        self._database.execute(
            "INSERT INTO context_sessions VALUES (?, ?, ?, ?, ?) ON CONFLICT (session_id) DO UPDATE SET count = "
            "excluded.count, oldest_0 = excluded.oldest_0, oldest_1 = excluded.oldest_1, oldest_2 = excluded.oldest_2",
            (session_id, before + 1, *oldest),
        )
        return moves

    def visible(self, session_id: str) -> Visible:
        """Return the counters of the writers who are not quarantined."""
        return self._database.select(Visible, _VISIBLE, (session_id,))[0]

    def visible_of(self, session_id: str, speaker: str) -> int:
        """Return how many of a speaker's interactions are visible."""
        return int(self._database.value(_VISIBLE_OF_SPEAKER, (session_id, speaker)))

    def speaker(self, session_id: str, name: str) -> str:
        """Return a speaker's name as the session has it: as given, else the most frequent one that differs in case."""
        counts = dict(self._database.execute(_VISIBLE_SPEAKERS, (session_id,)).fetchall())
        others = [spelling for spelling in counts if folded_key(spelling) == folded_key(name)]
        return name if name in counts else max(others, key=counts.__getitem__, default=name)

    def stored_of(self, session_id: str, speaker: str) -> int:
        """Return how many of a speaker's interactions there are, of quarantined writers too."""
        return int(self._database.value(_STORED_OF_SPEAKER, (session_id, speaker)))

    def remove(self, session_id: str, removed: Sequence[Removed]) -> int:
        """Subtract rows that were deleted from a session's counters, and return how many are left."""
        writers, speakers, newest = Counter[str](), Counter[tuple[str, str]](), dict[str, float]()
        for _, speaker, written_by, at in removed:
            writers[written_by] += 1
            newest[written_by] = max(at, newest.get(written_by, at))
            if speaker:
                speakers[speaker, written_by] += 1
        of_writers = [(session_id, name, count, newest[name]) for name, count in writers.items()]
        of_speakers = [(session_id, *names, count) for names, count in speakers.items()]
        self._database.execute_many(_LESS_OF_WRITER, of_writers)
        self._database.execute_many(_LESS_OF_SPEAKER, of_speakers)
        for table in ("context_writers", "context_speakers"):
            self._database.execute(f"DELETE FROM {table} WHERE session_id = ? AND count = 0", (session_id,))  # noqa: S608
        ids = [number for (number,) in self._database.execute(_NEWEST_IDS, (session_id, UP_TO_TIER[-1]))]
        before = int(self._database.value("SELECT count FROM context_sessions WHERE session_id = ?", (session_id,)))
        left = before - len(removed)
        self._database.execute("DELETE FROM context_sessions WHERE session_id = ?", (session_id,))
        if left:
            oldest = (
                ids[min(up_to, len(ids)) - 1] if len(ids) > up_to - held else 0
                for held, up_to in zip(TIERS, UP_TO_TIER, strict=True)
            )
            self._database.execute("INSERT INTO context_sessions VALUES (?, ?, ?, ?, ?)", (session_id, left, *oldest))
        self._add_to_totals(-len(removed), 0 if left else -1)
        return left

    def _add_to_totals(self, interactions: int, sessions: int) -> None:
        before = self.interactions, self.sessions
        self.interactions += interactions
        self.sessions += sessions

        def undo() -> None:
            self.interactions, self.sessions = before

        self._database.on_rollback(undo)
