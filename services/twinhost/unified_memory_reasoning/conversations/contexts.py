"""The windows and the summaries of sessions, as the tables have them; the rows they are made of are `interactions`'.

A summary is kept by writer, a window with all writers' items. Who reads leaves a quarantined writer's part of the
summary out, and has the window made anew without that writer's rows; both are as before once the quarantine ends.
"""

from collections.abc import Iterable, Mapping

import msgspec

from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.conversations.summary import Part, Said, merged
from twinhost.unified_memory_reasoning.conversations.window import Item, Window
from twinhost.unified_memory_reasoning.keeping.quarantine import VISIBLE

MIGRATION = """
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
_VISIBLE_PARTS = f"SELECT part FROM context_summaries WHERE session_id = ? AND {VISIBLE}"  # noqa: S608 - constants alone

_VISIBLE_PARTS_BY_WRITER = f"SELECT written_by, part FROM context_summaries WHERE session_id = ? AND {VISIBLE}"  # noqa: S608
_REMOVE_VISIBLE_PARTS = f"DELETE FROM context_summaries WHERE session_id = ? AND {VISIBLE}"  # noqa: S608

Aged = tuple[Said, int, str]  # an interaction, its tier, and its writer
_NOTED_AGAIN_UP_TO_TIER = 1
WHOLE_SESSION = ""  # stands for the speaker of a session's own window


class Contexts:
    """Windows by session and speaker, parts of summaries by session and writer."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._encoder = msgspec.json.Encoder()
        self._windows = msgspec.json.Decoder(Window)
        self._parts = msgspec.json.Decoder(Part)

    def take_in(self, session_id: str, said: Said) -> int:
        """Take an interaction into the session's window and its speaker's; return the places of the session's."""
        window = self._widen(session_id, WHOLE_SESSION, said)
        if said.speaker:
            self._widen(session_id, said.speaker, said)
        return window.size

    def fold(self, session_id: str, aged: Iterable[Aged]) -> None:
        """Note interactions that are in tier 0 now, and fold those that moved on, each into its writer's part."""
        before: dict[str, Part] = {}
        parts: dict[str, Part] = {}
        for said, tier, written_by in aged:
            if written_by not in parts:
                before[written_by] = parts[written_by] = self._part(session_id, written_by)
            part = parts[written_by]
            parts[written_by] = part.folded(said, tier) if tier else part.noted(said)
        for written_by, part in parts.items():
            self._replace_part(session_id, written_by, before[written_by], part)

    def window(self, session_id: str, speaker: str) -> Window:
        """Return a window; an empty one where nothing was said."""
        row = self._database.execute(
            "SELECT window FROM context_windows WHERE session_id = ? AND speaker = ?", (session_id, speaker)
        ).fetchone()
        return self._windows.decode(row[0]) if row else Window()

    def summary(self, session_id: str) -> Part:
        """Return what the writers that are not quarantined contributed."""
        rows = self._database.execute(_VISIBLE_PARTS, (session_id,))
        return merged(self._parts.decode(part) for (part,) in rows)

    def remove_speaker(
        self, session_id: str, speaker: str, windows: Mapping[str, Window], left: Iterable[Aged]
    ) -> None:
        """Forget what a speaker said, but for what quarantined writers wrote.

        Args:
            windows: the session's own window, and the speaker's if anything of it is left.
            left: what is visible in tiers 0 to 2 without it, oldest first; what was kept back by the speaker's own
                entries is folded again from these, and noted again from tiers 0 and 1, whose number is 250.
        """
        self._database.execute(
            "DELETE FROM context_windows WHERE session_id = ? AND speaker = ?", (session_id, speaker)
        )
        self._put_windows(session_id, windows)
        rows = self._database.execute(_VISIBLE_PARTS_BY_WRITER, (session_id,)).fetchall()
        before = {written_by: self._parts.decode(part) for written_by, part in rows}
        parts = {written_by: part.without(speaker).without_lines() for written_by, part in before.items()}
        for said, tier, written_by in left:
            part = parts.get(written_by, Part())
            part = part.noted(said) if tier <= _NOTED_AGAIN_UP_TO_TIER else part
            parts[written_by] = part.folded(said, tier) if tier else part
        for written_by, part in parts.items():
            self._replace_part(session_id, written_by, before.get(written_by, Part()), part)

    def remove(self, session_id: str, windows: Mapping[str, Window]) -> None:
        """Forget a session, but for what quarantined writers wrote.

        Args:
            windows: made of their rows, by speaker; empty where there are none.
        """
        self._database.execute("DELETE FROM context_windows WHERE session_id = ?", (session_id,))
        self._put_windows(session_id, windows)
        self._database.execute(_REMOVE_VISIBLE_PARTS, (session_id,))

    def _put_windows(self, session_id: str, windows: Mapping[str, Window]) -> None:
        for speaker, window in windows.items():
            self._put_window(session_id, speaker, window)

    def _widen(self, session_id: str, speaker: str, said: Said) -> Window:
        window = self.window(session_id, speaker).with_item(Item(said.id, said.importance))
        self._put_window(session_id, speaker, window)
        return window

    def _put_window(self, session_id: str, speaker: str, window: Window) -> None:
        self._database.execute(
            "INSERT INTO context_windows VALUES (?, ?, ?) "
            "ON CONFLICT (session_id, speaker) DO UPDATE SET window = excluded.window",
            (session_id, speaker, self._encoder.encode(window)),
        )

    def _part(self, session_id: str, written_by: str) -> Part:
        row = self._database.execute(
            "SELECT part FROM context_summaries WHERE session_id = ? AND written_by = ?", (session_id, written_by)
        ).fetchone()
        return self._parts.decode(row[0]) if row else Part()

    def _replace_part(self, session_id: str, written_by: str, before: Part, after: Part) -> None:
        if after == before:
            return
        self._database.execute(
            "INSERT INTO context_summaries VALUES (?, ?, ?) "
            "ON CONFLICT (session_id, written_by) DO UPDATE SET part = excluded.part",
            (session_id, written_by, self._encoder.encode(after)),
        )
