"""One event or error as it is kept and told, and a page of them."""

from enum import StrEnum
from typing import Any

import msgspec

from twinhost.agent.health import iso_time


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
