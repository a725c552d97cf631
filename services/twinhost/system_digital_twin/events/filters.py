"""Which events and errors a request asks for, as a condition of SQL and as a search in their text."""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from twinhost.agent.message_shape import message_shape

_FIELD = "json_extract(CAST(record AS TEXT), '$.{}')"


def _column(name: str, *fields: str) -> str:
    sources = ", ".join(map(_FIELD.format, fields))
    return (
        f"ALTER TABLE happenings ADD COLUMN {name} TEXT GENERATED ALWAYS AS "
        f"(CAST(coalesce({sources}) AS TEXT)) VIRTUAL;"
    )


ERROR_ID = _FIELD.format("error_id")
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
CREATE INDEX happenings_by_error_id ON happenings ({ERROR_ID}) WHERE topic = 'ERROR:';
DROP INDEX happenings_severe;
CREATE INDEX happenings_severe ON happenings (time_ms, expires_ms)
    WHERE topic = 'ERROR:' AND severity IN ('error', 'critical') AND acknowledged_ms IS NULL;
"""
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
