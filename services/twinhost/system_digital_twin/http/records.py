"""`/api/events`, `/api/errors`, and `/api/error_counts`: stored events and errors.

The parameters are the fields of `get_events`, `get_errors`, and `get_error_counts`. Each is answered on the thread of
the store, in one of its turns, so it takes little of that: few records, and a text search that ends early, and goes on
with the `next_before` of the answer.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twinhost.secure_zmq.errors import MalformedRequest
from twinhost.system_digital_twin.events.actions import GetErrorCounts, GetErrors, GetEvents, counts_of, page_of
from twinhost.system_digital_twin.events.events import EntryPage, Events, Topic
from twinhost.system_digital_twin.http.answers import BUSY, answer, query_of, refused
from twinhost.system_digital_twin.http.questions import NotAnswered, Questions

MAX_RECORDS = 100
MAX_BYTES = 256 * 1024  # of records, in an answer
MAX_SEARCHED_BYTES = 512 * 1024  # of records, for an answer: about 2 ms
Query = TypeVar("Query", bound=GetEvents | GetErrors | GetErrorCounts)


class RecordRoutes:
    """The routes."""

    def __init__(self, events: Events, questions: Questions) -> None:
        self._events, self._questions = events, questions

    def routes(self) -> list[Route]:
        return [
            self._route("/api/events", GetEvents, lambda query: self._page(Topic.EVENT, query)),
            self._route("/api/errors", GetErrors, lambda query: self._page(Topic.ERROR, query)),
            self._route("/api/error_counts", GetErrorCounts, lambda query: counts_of(self._events, query)),
        ]

    def _page(self, topic: Topic, query: GetEvents | GetErrors) -> EntryPage:
        return page_of(self._events, topic, query, MAX_BYTES, MAX_SEARCHED_BYTES)

    def _route(self, path: str, kind: type[Query], ask: Callable[[Query], Any]) -> Route:
        def answered(request: Request) -> Response:
            try:
                query = query_of(request, kind)
                if query.limit > MAX_RECORDS:
                    raise MalformedRequest(f"Expected `int` <= {MAX_RECORDS} - at `$.limit`")
                found = self._questions.ask(lambda: ask(query))
            except MalformedRequest as error:
                return refused(400, str(error))
            except NotAnswered:
                return refused(503, BUSY)
            if not isinstance(found, EntryPage):
                return answer(found)
            records = [entry.document() for entry in found.entries]
            return answer({path.removeprefix("/api/"): records, "next_before": found.next_before})

        return Route(path, answered)
