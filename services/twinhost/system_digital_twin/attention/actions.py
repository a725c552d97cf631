"""The actions on the attention list: read it, and acknowledge what is on it."""

from twinhost.agent.troubles import AttentionList
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.wire import NAME, Request
from twinhost.system_digital_twin import SUCCESS, Success
from twinhost.system_digital_twin.attention.attention import Attention


class GetAttention(Request, tag="get_attention"):
    """Return what is wrong, since when, why, and the command that fixes it; the worst first.

    `evidence` is for operators, and empty for others.
    """


class AcknowledgeTrouble(Request, tag="acknowledge_trouble"):
    """Acknowledge a trouble: until it gets worse or ends, it comes last and no longer counts; an operator's action."""

    id: NAME


class AttentionReply(Success, AttentionList):
    """All that is wrong; `level` is `well`, `attention`, or `broken`, of what is not acknowledged."""


class TroubleAcknowledged(Success):
    """The id of the trouble, and who acknowledged it."""

    id: str
    acknowledged_by: str


class AttentionActions(Feature):
    """The actions on the attention list."""

    def __init__(self, attention: Attention) -> None:
        self._attention = attention

    @action(forwardable=True)
    def get(self, _: GetAttention, caller: Caller) -> AttentionReply:
        self._attention.refresh()
        document = self._attention.document()
        if not caller.operator:
            document["items"] = [{**item, "evidence": []} for item in document["items"]]
        return {"status": SUCCESS, **document}

    @action(mutates=True, from_reserve=True, unowned="it is for operators")
    def acknowledge(self, request: AcknowledgeTrouble, caller: Caller) -> TroubleAcknowledged:
        self._attention.acknowledge(request.id, caller.name)
        return {"status": SUCCESS, "id": request.id, "acknowledged_by": caller.name}
