"""The agent on mainpc. It holds the state of the system: agents, hosts, keys, events, and memory leases."""

from typing import Any, Final, Literal, TypedDict, TypeVar, cast

ITSELF: Final = "SystemDigitalTwin"
SUCCESS: Final = "success"  # the status of every reply that is no error; this agent's clients test for it


class Success(TypedDict):
    """A reply that is no error."""

    status: Literal["success"]


R = TypeVar("R")


def reply_from(kind: type[R], record: object, **computed: Any) -> R:
    """Return a reply with the fields that its TypedDict declares: those that are computed, else the record's."""
    fields = {name: computed[name] if name in computed else getattr(record, name) for name in kind.__annotations__}
    return cast(R, fields)
