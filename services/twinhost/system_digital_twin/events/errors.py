"""Stored errors counted by type, agent, and severity, grouped by the shape of their message, and acknowledged."""

from collections import Counter
from typing import Any, TypedDict

import msgspec

from twinhost.agent.message_shape import message_shape
from twinhost.moments import iso_time
from twinhost.secure_zmq.errors import NotFound
from twinhost.store.database import Database
from twinhost.system_digital_twin.events.filters import ERROR_ID, Filter

MOST_NAMES = 100  # of types, and of agents, in one reply
_EXAMPLE_CHARACTERS = 1_000
_ERRORS = (
    "FROM happenings INDEXED BY happenings_by_time WHERE topic = 'ERROR:' AND (expires_ms IS NULL OR expires_ms > ?)"
)


class ErrorGroup(TypedDict):
    """Errors of one shape: how many, when, how many are acknowledged, and the fields of the newest."""

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


class ErrorLog:
    """The errors in the table of `Events`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._clock = database.clock

    def counts(self, matching: Filter, limit: int) -> ErrorCounts:
        """Return the counts of the errors that match, and their `limit` newest shapes."""
        where, values = matching.where()
        bound = (int(self._clock.time() * 1_000), *values)
        types, agents, severities = Counter[str](), Counter[str](), Counter[str]()
        for kind, agent, severity, count in self._database.execute(
            f"SELECT type, agent, severity, count(*) {_ERRORS}{where} GROUP BY type, agent, severity", bound
        ):
            types[kind] += count
            agents[agent] += count
            severities[severity] += count
        groups = self._database.execute(
            "SELECT shape_id, count(*), count(acknowledged_ms), min(time_ms), max(time_ms), max(seq), "
            f"count(*) OVER () {_ERRORS}{where} GROUP BY shape_id ORDER BY max(seq) DESC LIMIT ?",
            (*bound, limit),
        ).fetchall()
        return {
            "total": types.total(),
            "by_type": dict(types.most_common(MOST_NAMES)),
            "by_agent": dict(agents.most_common(MOST_NAMES)),
            "by_severity": dict(severities.most_common()),
            "shapes": groups[0][-1] if groups else 0,
            "groups": [self._group(*columns) for *columns, _ in groups],
        }

    def acknowledge(self, by: str, at: float, *, shape_id: str | None = None, error_id: str | None = None) -> int:
        """Acknowledge the stored errors of a shape, or with an id; return how many were not acknowledged before.

        Those of the same shape that are reported later are not acknowledged. `at` is in seconds since the epoch.

        Raises:
            NotFound: no stored error has it.
        """
        chosen, value = ("shape_id = ?", shape_id) if shape_id is not None else (f"{ERROR_ID} = ?", error_id)
        rows = f"FROM happenings WHERE topic = 'ERROR:' AND {chosen}"
        if self._database.execute(f"SELECT 1 {rows} LIMIT 1", (value,)).fetchone() is None:
            name = "shape_id" if shape_id is not None else "error_id"
            raise NotFound(f"no stored error has the {name} {str(value)[:64]!r}; list them with get_error_counts")
        update = "UPDATE happenings SET acknowledged_by = ?, acknowledged_ms = ? WHERE seq IN "
        where = f"(SELECT seq {rows} AND acknowledged_ms IS NULL)"
        return self._database.execute(update + where, (by, int(at * 1_000), value)).rowcount

    def _group(
        self, shape_id: str, count: int, acknowledged: int, first_ms: int, last_ms: int, newest: int
    ) -> ErrorGroup:
        record = self._database.value("SELECT record FROM happenings WHERE seq = ?", (newest,))
        fields: dict[str, Any] = msgspec.json.decode(record)
        message = str(fields["message"])
        return {
            "shape_id": shape_id,
            "shape": message_shape(message),
            "count": count,
            "acknowledged": acknowledged,
            "first": iso_time(first_ms / 1_000),
            "last": iso_time(last_ms / 1_000),
            "error_type": fields["error_type"],
            "agent_id": fields["agent_id"],
            "severity": fields["severity"],
            "message": message[:_EXAMPLE_CHARACTERS],
        }
