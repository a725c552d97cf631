"""The audit log as an operator reads it: raw lines in pages, to be verified by the reader and not by the writer."""

from typing import Annotated

import msgspec

from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.wire import Request
from twinhost.store.audit_log.log import AuditLog
from twinhost.system_digital_twin.key_replies import AuditPage


class GetAudit(Request, tag="get_audit"):
    """A page of lines: those after `after_seq`, or from the `position` of the page before on."""

    after_seq: Annotated[int, msgspec.Meta(ge=0)] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=2_000)] = 500
    position: Annotated[str, msgspec.Meta(max_length=128)] | None = None


class AuditActions(Feature):
    """The action that reads the log."""

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit

    @action()
    def page(self, request: GetAudit, _: Caller) -> AuditPage:
        page = self._audit.read_page(request.after_seq, request.limit, request.position)
        return {
            "status": "success",
            "lines": page.lines,
            "position": page.position,
            "anchor": {"seq": page.anchor.seq, "prev": page.anchor.prev},
            "head": {"seq": page.head.seq, "hash": page.head.hash},
        }
