"""What a search is limited to, and the one statement that selects such texts.

The index, the vectors and the turns around a result ask it, so that each finds a text that another one may find. What
is hidden, and what is forgotten, fits no filter.
"""

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from twinhost.moments import Clock
from twinhost.unified_memory_reasoning.provenance.quarantine import HIDDEN as QUARANTINED
from twinhost.unified_memory_reasoning.search.index_tables import MEMORY_ROWS, interaction_moment, memory_moment

_HIDING = {  # why nobody finds a text, by table: each a condition on a row, read by an index; it may depend on `:as_of`
    "interactions": (QUARANTINED,),
    "memories": (QUARANTINED,),
}
_NUMBERS = {"interactions": ("id", 0), "memories": ("number", MEMORY_ROWS)}  # the column, and what the index adds to it
HIDDEN = " UNION ALL ".join(  # the rows in the index of hidden texts; `values` has the parameters
    f"SELECT {column} + {offset} FROM {table} WHERE {condition}"  # noqa: S608 - constants
    for table, (column, offset) in _NUMBERS.items()
    for condition in _HIDING[table]
)


@dataclass(frozen=True, slots=True)
class Filters:
    """What a result must be; with a session, a speaker or a type, only interactions; with a keyword, only memories.

    Times are in seconds since the epoch; the keyword is in folded case. `speakers` are the spellings of one name.
    `as_of` is the time that the search is made as at, or None for now; what is newer is for `until` to exclude.
    """

    session_id: str | None = None
    speakers: tuple[str, ...] | None = None
    kind: str | None = None
    since: float | None = None
    until: float | None = None
    keyword: str | None = None
    as_of: float | None = None

    def time(self, clock: Clock) -> float:
        """Return the time that the search is made as at."""
        return clock.time() if self.as_of is None else self.as_of

    @property
    def everything(self) -> bool:
        """Whether all fits that is not hidden."""
        return replace(self, as_of=None) == EVERYTHING

    @property
    def within_session(self) -> bool:
        """Whether of two turns in one session one may fit and the other not."""
        return (self.speakers, self.kind, self.since, self.until) != (None, None, None, None)

    def selecting(self, among: str = "") -> str:
        """Return the statement that selects the rows in the index of the texts that fit; `values` has its parameters.

        Args:
            among: an SQL condition that follows the number of an interaction, or of a memory, which is that of its row
                less {offset}; any text if empty.
        """
        of_turns = _where(
            (self.session_id, "session_id = :session_id"),
            (self.speakers, "speaker IN (SELECT value FROM json_each(:speakers))"),
            (self.kind, "type = :kind"),
        )
        of_memories = _where((self.keyword, "number IN (SELECT number FROM memory_keywords WHERE keyword = :keyword)"))

        def texts(table: str, moment: str, *own: str) -> str:
            number, offset = _NUMBERS[table]
            which = [f"{number} {among.format(offset=offset)}"] if among else []
            period = _where((self.since, f"{moment} >= :since"), (self.until, f"{moment} <= :until"))
            shown = [f"NOT ({condition})" for condition in _HIDING[table]]
            conditions = " AND ".join([*which, *shown, *own, *period])
            return f"SELECT {number} + {offset} FROM {table} WHERE {conditions}"  # noqa: S608 - constants

        queries = []
        if not of_memories:
            queries.append(texts("interactions", interaction_moment("interactions"), *of_turns))
        if not of_turns:
            queries.append(texts("memories", memory_moment("memories"), "forgotten = 0", *of_memories))
        return " UNION ALL ".join(queries) or "SELECT 0 WHERE FALSE"

    @property
    def values(self) -> dict[str, Any]:
        """The parameters of `selecting`, and of HIDDEN."""
        return {**asdict(self), "speakers": json.dumps(self.speakers)}


def _where(*asked: tuple[Any, str]) -> list[str]:
    """Return the conditions of those values that are given."""
    return [condition for value, condition in asked if value is not None]


EVERYTHING = Filters()
