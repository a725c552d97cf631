"""What this host has seen of mainpc's audit log, for an operator to compare, and to accept what is explained."""

from typing import Any, Literal, TypedDict

from twinhost.agent.membership.audit_witness import AuditWitness
from twinhost.secure_zmq.actions import Action
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


def witness_actions(witness: AuditWitness, success: Literal["ok", "success"]) -> list[Action[Any]]:
    """Return the operator's actions on what this host has seen; `success` is the agent's word for it."""

    def heads(_: GetAuditHeads, __: Caller) -> AuditHeads:
        document = witness.document()
        return {
            "status": success,
            "heads": document["heads"],
            "gaps": document["gaps"],
            "fault": document["fault"],
        }

    def accept(_: AcceptAuditLog, caller: Caller) -> AuditLogAccepted:
        return {"status": success, "accepted": witness.accept(caller.name)}

    return [Action(GetAuditHeads, heads), Action(AcceptAuditLog, accept, mutates=True)]
