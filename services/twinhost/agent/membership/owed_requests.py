"""Which requests this agent owes mainpc, and with which fields: no other is made from what lies in the outbox.

Its rows may have come with a restored backup. What is sent is sent with this agent's key, so a row decides neither
on an action that this agent never asks for, nor on more of a request than its own fields.
"""

from typing import Any

import msgspec

from twinhost.agent.host_metrics.sample import HostSample
from twinhost.agent.membership.owed_queue import Kind, Owed
from twinhost.secure_zmq.errors import MalformedRequest


class _Event(msgspec.Struct, forbid_unknown_fields=True):
    event: Any


class _Error(msgspec.Struct, forbid_unknown_fields=True):
    error: Any


class _Sample(HostSample, frozen=True, kw_only=True, forbid_unknown_fields=True):
    host: str


_TYPES: dict[str, type[msgspec.Struct]] = {"publish_event": _Event, "report_error": _Error, "report_metrics": _Sample}


def fields_of(owed: Owed, now: float) -> dict[str, Any]:
    """Return the fields of a request of this agent, mainpc's judgement of their content left to mainpc.

    Args:
        now: seconds since the epoch; a sample says how long before that it was measured.

    Raises:
        MalformedRequest: the agent owes no such request.
    """
    fields, expected = owed.fields, _TYPES.get(owed.action)
    if expected is None or (owed.kind is Kind.SAMPLE) != (expected is _Sample):
        raise MalformedRequest(
            f"number {owed.seq} of the outbox is a {owed.kind} with the action {owed.action[:64]!r}, which this agent "
            "never owes; see where its database came from"
        )
    try:
        told = msgspec.convert(fields, expected)
    except msgspec.ValidationError as error:
        raise MalformedRequest(
            f"number {owed.seq} of the outbox is no {owed.action} of this agent ({error}); see where its database came "
            "from"
        ) from None
    return {**fields, "late_by_s": max(0.0, now - told.wall)} if isinstance(told, _Sample) else fields
