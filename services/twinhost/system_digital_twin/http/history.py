"""`/api/history`: the course of a host's metrics over a range, as the page's charts show it."""

from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twinhost.secure_zmq.errors import NotFound
from twinhost.system_digital_twin.http.answers import BUSY, answer, refused
from twinhost.system_digital_twin.http.questions import NotAnswered, Questions
from twinhost.system_digital_twin.metrics.history import COLUMNS, DAY_S, HOUR_S, Bucket, Resolution, rounded
from twinhost.system_digital_twin.metrics.metrics import Metrics

RANGES: dict[str, tuple[Resolution, int]] = {  # by name: what its points are, and its length in seconds
    "1h": ("minute", HOUR_S),
    "6h": ("minute", 6 * HOUR_S),
    "1d": ("minute", DAY_S),
    "7d": ("hour", 7 * DAY_S),
    "30d": ("hour", 30 * DAY_S),
}


class HistoryRoute:
    """The route: rows are read on the thread of the store, and decoded on one of HTTP."""

    def __init__(self, metrics: Metrics, questions: Questions) -> None:
        self._metrics, self._questions = metrics, questions

    def routes(self) -> list[Route]:
        return [Route("/api/history", self._answer)]

    def _answer(self, request: Request) -> Response:
        host, name = request.query_params.get("host", ""), request.query_params.get("range", "")
        if name not in RANGES:
            return refused(400, f"name a range: {', '.join(RANGES)}; it is {name[:40]!r}")
        resolution, length_s = RANGES[name]
        try:
            rows = self._questions.ask(lambda: self._metrics.rows(host, resolution, length_s))
        except NotFound as error:
            return refused(404, str(error))
        except NotAnswered:
            return refused(503, BUSY)
        return answer({"host": host, "range": name, "resolution": resolution, **_course(rows)})


def _course(rows: Sequence[bytes]) -> dict[str, Any]:
    """Return the times in seconds since the epoch, and the mean and the maximum of each metric."""
    buckets = [msgspec.json.decode(row, type=Bucket) for row in rows]
    course: dict[str, Any] = {"t": [bucket.start for bucket in buckets]}
    for column in COLUMNS:
        figures = [bucket.figure(column) for bucket in buckets]
        course[column.field] = [rounded(figure.mean, column.digits) for figure in figures]
        course[f"{column.field}_max"] = [rounded(figure.greatest, column.digits) for figure in figures]
    return course
