"""`/api/audit`: lines of the audit log, newest first, by event, by who they name, and by time."""

import threading
from typing import Annotated

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twinhost.agent.request_times import ISO_TIME, seconds_of
from twinhost.secure_zmq.errors import MalformedRequest
from twinhost.store.audit_log.chain import AuditEvent
from twinhost.store.audit_log.inspection import Inspector
from twinhost.store.audit_log.log import AuditLog
from twinhost.store.audit_log.search import Wanted, newest
from twinhost.system_digital_twin.http.answers import BUSY, answer, query_of, refused
from twinhost.system_digital_twin.http.questions import MAX_WAITING

MAX_LINES = 100
_WAIT_S = 2.0  # for the search of another reader


class AuditQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What is asked for: lines with an event, that name somebody, of a time; before a position of an earlier answer."""

    event: AuditEvent | None = None
    who: Annotated[str, msgspec.Meta(min_length=1, max_length=128)] | None = None
    since: ISO_TIME | None = None
    until: ISO_TIME | None = None
    before: Annotated[str, msgspec.Meta(min_length=1, max_length=40)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LINES)] = 25

    def wanted(self) -> Wanted:
        """Return it as the search takes it.

        Raises:
            MalformedRequest: it names no time, or none that follows.
        """
        since = None if self.since is None else seconds_of(self.since, "$.since")
        until = None if self.until is None else seconds_of(self.until, "$.until")
        if since is not None and until is not None and since >= until:
            raise MalformedRequest("Expected a time after `since` - at `$.until`")
        return Wanted(self.event, self.who, since, until)


class AuditRoute:
    """The route: the files are read on a thread of HTTP, for one reader at a time, and never on the server's.

    What the answer says of the whole log is replaced there as a whole, and read here.
    """

    def __init__(self, audit: AuditLog, inspector: Inspector) -> None:
        self._audit, self._inspector = audit, inspector
        self._places, self._one = threading.BoundedSemaphore(MAX_WAITING), threading.Lock()

    def routes(self) -> list[Route]:
        return [Route("/api/audit", self._answer)]

    def _answer(self, request: Request) -> Response:
        try:
            query = query_of(request, AuditQuery)
            wanted = query.wanted()
        except MalformedRequest as error:
            return refused(400, str(error))
        if not self._places.acquire(blocking=False):
            return refused(503, BUSY)
        try:
            return self._search(query, wanted)
        finally:
            self._places.release()

    def _search(self, query: AuditQuery, wanted: Wanted) -> Response:
        if not self._one.acquire(timeout=_WAIT_S):
            return refused(503, BUSY)
        try:
            written = self._audit.written()
            result = newest(written.log, wanted, query.limit, query.before)
        except ValueError as error:
            return refused(400, f"{error} - at `$.before`")
        except OSError as error:
            return refused(503, f"the audit log can't be read: {error}")
        finally:
            self._one.release()
        return answer(
            {
                "intact": self._inspector.intact,
                "first": written.files[0].seq if written.files else None,
                "last": written.head.seq,
                "events": [*AuditEvent],
                **msgspec.to_builtins(result),
            }
        )
