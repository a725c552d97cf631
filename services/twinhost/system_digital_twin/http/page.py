"""The dashboard: its files, `/api/state`, and `/api/stream`.

The files are a fixed list that is read at the start, so no request names a path.
"""

import asyncio
import gzip
import hashlib
import re
import zlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from twinhost.agent.http import STREAM_PATH
from twinhost.agent.telemetry import Readers
from twinhost.moments import SYSTEM_CLOCK, Clock
from twinhost.system_digital_twin.http.answers import UNSTORED_HEADERS
from twinhost.system_digital_twin.http.changes import difference
from twinhost.system_digital_twin.http.state import Snapshot, without_ages

STATIC = Path(__file__).parent / "static"
VIEWS = "views"  # the folder in it that has a script for each page

# Only what this server sends: no inline script or style, no other site, no frame around it, no form.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/schema+json",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    packed: bytes
    media_type: str
    tag: str


def page_routes(assets: Path) -> list[Route]:
    """Return a route for every file: `/`, `/assets/NAME`, and the schemas, which `/api/schema` lists."""
    schemas = _known_in(assets / "schema")
    listed = JSONResponse({path.stem: f"/api/schema/{path.name}" for path in schemas}, headers=_HEADERS)
    routes = [Route("/", _serve(_read(STATIC / "index.html"))), Route("/api/schema", lambda _: listed)]
    for folder in (STATIC, STATIC / VIEWS, assets):
        prefix = f"{VIEWS}/" if folder.name == VIEWS else ""
        routes += [Route(f"/assets/{prefix}{path.name}", _serve(_read(path))) for path in _known_in(folder)]
    return routes + [Route(f"/api/schema/{path.name}", _serve(_read(path))) for path in schemas]


def _known_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.*") if path.suffix in _TYPES and path.is_file())


# What a browser need not be sent of a script: comments, on lines of their own or after code, and what lines begin with.
_SPARE = re.compile(rb"^\s*(?://[^\n]*|/\*\*.*?\*/)\n|^\s+|(?<=[;,{(\[]) // [^\n]*$", re.MULTILINE | re.DOTALL)


def _read(path: Path) -> _File:
    body = path.read_bytes()
    if path.suffix == ".js" and STATIC in path.parents:
        body = _SPARE.sub(b"", body)
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    return _File(body, gzip.compress(body, mtime=0), _TYPES[path.suffix], tag)


def _serve(file: _File) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        headers = {**_HEADERS, "ETag": file.tag}
        if request.headers.get("if-none-match") == file.tag:
            return Response(status_code=304, headers=headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(file.packed, headers={**headers, "Content-Encoding": "gzip"}, media_type=file.media_type)
        return Response(file.body, headers=headers, media_type=file.media_type)

    return answer


MAX_LISTENERS = 32  # of 64 connections, so that the page and health checks can still connect
KEEP_ALIVE_S = 10.0
RETRY_MS = 1_000  # after which a browser reconnects
_POLL_EVERY_S = 0.2


class Stream:
    """The routes of the state and its stream; counts the clients of the stream."""

    def __init__(self, newest: Callable[[], Snapshot], readers: Readers, clock: Clock = SYSTEM_CLOCK) -> None:
        self._newest = newest
        self._clock = clock
        self._readers = readers
        self._listeners = 0
        self._changes = Changes()

    def routes(self) -> list[Route]:
        return [Route("/api/state", self._state), Route(STREAM_PATH, self._stream)]

    def _state(self, _: Request) -> Response:
        self._readers.wait()
        return Response(self._newest().body, media_type="application/json", headers=UNSTORED_HEADERS)

    async def _stream(self, request: Request) -> Response:
        if self._listeners >= MAX_LISTENERS:
            return PlainTextResponse(
                f"{MAX_LISTENERS} clients read the stream, which is the limit; close a page, or poll /api/state\n",
                status_code=503,
                headers=UNSTORED_HEADERS,
            )
        messages, headers = self._messages("changes" in request.query_params), UNSTORED_HEADERS
        if "gzip" in request.headers.get("accept-encoding", ""):
            messages, headers = _packed(messages), {**headers, "Content-Encoding": "gzip"}
        return StreamingResponse(messages, media_type="text/event-stream", headers=headers)

    async def _messages(self, changes: bool) -> AsyncGenerator[bytes, None]:
        """Send every new state, and a comment as keep-alive if there is none for KEEP_ALIVE_S.

        With `changes`, what follows the first is what differs from the one before.
        """
        self._listeners += 1
        try:
            yield b"retry: %d\n\n" % RETRY_MS
            await run_in_threadpool(self._readers.wait)
            sent, sent_at, document = -1, self._clock.monotonic(), None
            while True:
                self._readers.note()
                snapshot = self._newest()
                if snapshot.number != sent:
                    sent, sent_at = snapshot.number, self._clock.monotonic()
                    if changes:
                        document, message = self._changes.since(document, snapshot)
                        yield message
                    else:
                        yield b"event: state\ndata: %b\n\n" % snapshot.body
                elif self._clock.monotonic() - sent_at >= KEEP_ALIVE_S:
                    sent_at = self._clock.monotonic()
                    yield b": keep-alive\n\n"
                await asyncio.sleep(_POLL_EVERY_S)
        finally:
            self._listeners -= 1


class Changes:
    """What differs between states, made once for all who were sent the same before."""

    def __init__(self) -> None:
        self._number = -1
        self._newest: Any = None
        self._before: Any = None
        self._message = b""

    def since(self, before: Any, snapshot: Snapshot) -> tuple[Any, bytes]:
        """Return the newest document and the message that turns `before`, which is one of these or None, into it."""
        if snapshot.number != self._number:
            newest = without_ages(msgspec.json.decode(snapshot.body))
            self._number, self._newest, self._before = snapshot.number, newest, None
        if before is None:
            return self._newest, b"event: state\ndata: %b\n\n" % msgspec.json.encode(self._newest)
        if before is not self._before:
            change = difference(before, self._newest)
            self._before = before
            self._message = b"event: change\ndata: %b\n\n" % msgspec.json.encode({} if change is None else change)
        return self._newest, self._message


async def _packed(messages: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Compress a stream; each message can be read as soon as it has arrived."""
    packer = zlib.compressobj(wbits=31)  # gzip
    async with aclosing(messages):
        async for message in messages:
            yield packer.compress(message) + packer.flush(zlib.Z_SYNC_FLUSH)
