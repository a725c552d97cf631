"""What this host has seen of mainpc's audit log, for an operator to compare, and to accept what is explained."""

from typing import Literal, TypedDict

from twinhost.agent.membership.audit_witness import AuditWitness
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.wire import Request


class GetAuditHeads(Request, tag="get_audit_heads"):
    """The heads of mainpc's audit log that this host keeps; an operator's action."""


class AcceptAuditLog(Request, tag="accept_audit_log"):
    """Take mainpc's audit log as it is from now on: a restore, or an alarm, is explained; an operator's action."""


class SeenHeadDocument(TypedDict):
    """A line that was mainpc's newest; `restored` is the hash of the newest line `restored` up to it, or null."""

    seq: int
    hash: str
    restored: str | None
    seen_at: str


class GapDocument(TypedDict):
    """Lines that were seen and are gone; `restored` is null where an operator accepted that without a restore."""

    first: int
    last: int
    noticed: str
    restored: str | None
    acknowledged: str | None


class AuditHeads(TypedDict):
    """What is kept, oldest first; `fault` is the alarm, or why nothing is kept, else null."""

    status: Literal["ok", "success"]
    heads: list[SeenHeadDocument]
    gaps: list[GapDocument]
    fault: str | None


class AuditLogAccepted(TypedDict):
    """What was accepted, a phrase each; none where there was nothing to accept."""

    status: Literal["ok", "success"]
    accepted: list[str]


class WitnessActions(Feature):
    """The operator's actions on what this host has seen of mainpc's audit log."""

    def __init__(self, witness: AuditWitness, success: Literal["ok", "success"]) -> None:
        """Serve a witness; `success` is the agent's word for it."""
        self._witness = witness
        self._success: Literal["ok", "success"] = success

    @action()
    def heads(self, _: GetAuditHeads, __: Caller) -> AuditHeads:
        document = self._witness.document()
        return {
            "status": self._success,
            "heads": document["heads"],
            "gaps": document["gaps"],
            "fault": document["fault"],
        }

    @action(mutates=True)
    def accept(self, _: AcceptAuditLog, caller: Caller) -> AuditLogAccepted:
        return {"status": self._success, "accepted": self._witness.accept(caller.name)}
