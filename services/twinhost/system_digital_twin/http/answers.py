"""What the routes with parameters have in common: a query as a type, an answer that nobody keeps, and a refusal."""

from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from twinhost.secure_zmq.errors import MalformedRequest

UNSTORED_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
BUSY = "the agent is busy; ask again"
Query = TypeVar("Query")


def query_of(request: Request, kind: type[Query]) -> Query:
    """Return the parameters of a request.

    Raises:
        MalformedRequest: one is unknown, is there twice, or has a value that it can't have.
    """
    given = request.query_params.multi_items()
    parameters = dict(given)
    try:
        if len(parameters) < len(given):
            raise MalformedRequest("Expected each parameter once")
        return msgspec.convert(parameters, kind, strict=False)
    except msgspec.ValidationError as error:
        raise MalformedRequest(str(error)) from None


def answer(document: Any) -> Response:
    return Response(msgspec.json.encode(document), media_type="application/json", headers=UNSTORED_HEADERS)


def refused(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"error": sentence}, status_code=status, headers=UNSTORED_HEADERS)
