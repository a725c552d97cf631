"""`/api/state` and `/api/stream`: the newest state, once or for as long as somebody looks on."""

import asyncio
import time
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from twinhost.agent.http import STREAM_PATH
from twinhost.system_digital_twin.http.state import Board

MAX_LISTENERS = 32  # of the 64 connections that the port holds, so that the page and the checks still get in
KEEP_ALIVE_S = 10.0
RETRY_MS = 1_000  # a browser comes back by itself after that
_LOOK_EVERY_S = 0.2
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Stream:
    """The two routes; counts who listens."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._listeners = 0

    def routes(self) -> list[Route]:
        return [Route("/api/state", self._state), Route(STREAM_PATH, self._stream)]

    async def _state(self, _: Request) -> Response:
        return Response(self._board.notice.body, media_type="application/json", headers=_HEADERS)

    async def _stream(self, _: Request) -> Response:
        if self._listeners >= MAX_LISTENERS:
            return PlainTextResponse(
                f"{MAX_LISTENERS} listen already; close a page\n", status_code=503, headers=_HEADERS
            )
        return StreamingResponse(self._messages(), media_type="text/event-stream", headers=_HEADERS)

    async def _messages(self) -> AsyncIterator[bytes]:
        """Send every state that is new, and a comment where there is none for long."""
        self._listeners += 1
        try:
            yield b"retry: %d\n\n" % RETRY_MS
            sent, sent_at = -1, time.monotonic()
            while True:
                notice = self._board.notice
                if notice.number != sent:
                    sent, sent_at = notice.number, time.monotonic()
                    yield b"event: state\ndata: %b\n\n" % notice.body
                elif time.monotonic() - sent_at >= KEEP_ALIVE_S:
                    sent_at = time.monotonic()
                    yield b": keep-alive\n\n"
                await asyncio.sleep(_LOOK_EVERY_S)
        finally:
            self._listeners -= 1
