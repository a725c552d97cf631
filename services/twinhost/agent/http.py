"""HTTP: `/healthz`, `/readyz`, `/metrics`, and an agent's own routes; read-only, on a thread of its own.

Only known hosts are served (DNS rebinding): a page of another site must not read this under a name that was rebound to
this machine. A browser sends the name from which its user's page was loaded as `Host`, so a name that is not configured
is refused, whatever address it resolved to. An address can't be rebound, so the one that the connection came to is
allowed too. The port is not compared: the published one may differ from the bound one.

Connections are limited in number and in time. uvicorn alone waits forever for a first request, and for the rest of an
incomplete one; its `limit_concurrency` answers 503 to everybody while unknown clients hold connections.
"""

import asyncio
import contextlib
import errno
import ipaddress
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from email.utils import formatdate
from typing import Any

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from twinhost.agent.telemetry import CONTENT_TYPE
from twinhost.network_config.model import is_address, is_loopback
from twinhost.rate_limit import LogBudget, TokenBuckets
from twinhost.secure_zmq.errors import ConfigurationError, SocketMisuse
from twinhost.worker import Worker

_log = structlog.get_logger(__name__)

HOSTS_VARIABLE = "TWINHOST_HTTP_HOSTS"
_MISDIRECTED, _FORBIDDEN = 421, 403
_SHOWN = 80  # characters of a name that a client chose


def http_hosts(configured: Iterable[str], environment: Mapping[str, str]) -> frozenset[str]:
    """Return the configured names and addresses, with those of `TWINHOST_HTTP_HOSTS`, for `HostGuard`.

    Raises:
        ConfigurationError: an entry of the variable is neither a name nor an address.
    """
    listed = environment.get(HOSTS_VARIABLE, "").replace(",", " ").split()
    for entry in listed:
        if not is_address(entry.strip("[]")):
            raise ConfigurationError(
                f"{HOSTS_VARIABLE} has {entry!r}, which is neither a host name nor an address; "
                "list names without scheme, port, or wildcard, separated by commas"
            )
    return frozenset(_normal(name.strip("[]")) for name in (*configured, *listed))


class HostGuard:
    """Middleware that answers 421 to a `Host` that is not allowed, and 403 to a cross-site request."""

    def __init__(self, application: ASGIApp, allowed: frozenset[str]) -> None:
        """Guard an application; besides the loopback names and addresses, these hosts of `http_hosts` are allowed."""
        self._application = application
        self._allowed = allowed
        self._budget = LogBudget()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._refusal(Headers(scope=scope), scope["server"][0]) or self._application
        await answer(scope, receive, send)

    def _refusal(self, headers: Headers, own_address: str) -> PlainTextResponse | None:
        host = headers.get("host", "")
        if not self._is_allowed(host, own_address):
            sentence = (
                f"HTTP is not served under the host {host[:_SHOWN]!r}; use localhost or an address in "
                f"network_config.yaml, or add the name to {HOSTS_VARIABLE} in .env and run: docker compose up -d"
            )
            return self._refused(_MISDIRECTED, host, sentence)
        if headers.get("sec-fetch-site", "").strip().casefold() == "cross-site":
            return self._refused(_FORBIDDEN, host, "this is a cross-site request; open the address directly")
        return None

    def _is_allowed(self, host: str, own_address: str) -> bool:
        name = _name_of(host)
        return name is not None and (name in self._allowed or is_loopback(name) or name == _normal(own_address))

    def _refused(self, status: int, host: str, sentence: str) -> PlainTextResponse:
        self._budget.log(_log.warning, "http_request_refused", status, status=status, host=host[:_SHOWN])
        return PlainTextResponse(f"{sentence}\n", status)


def _name_of(host: str) -> str | None:
    """Return the normalised name in a `Host` header; None if it is not `name[:port]`."""
    if host.startswith("["):
        name, closed, port = host[1:].partition("]")
        if not closed or ":" not in name or (port and not port.startswith(":")):
            return None
        port = port.removeprefix(":")
    else:
        name, _, port = host.partition(":")
    if not name or (port and not (port.isascii() and port.isdigit())):
        return None
    return _normal(name)


def _normal(name: str) -> str:
    """Return a name in lower case without its final dot, an address in its shortest form."""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name.casefold().removesuffix(".")
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


MAX_CONNECTIONS = 64
ANSWER_DEADLINE_S = 5.0  # from the connection, or from the last response, until the next response is complete
STREAM_PATH = "/api/stream"  # whose response continues for as long as its client reads it
_LOGGED_PER_S = 0.1
_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class LimitedProtocol(H11Protocol):
    """A connection that is closed if it is held for too long, or is the longest held of too many."""

    _since: float  # the loop's time of the connection or of its last response
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_waiting()
        if len(self.connections) > MAX_CONNECTIONS:
            # Never the newest: clients that send without a pause would deny service to all others.
            others = [other for other in self.connections if isinstance(other, LimitedProtocol) and other is not self]
            min(others, key=LimitedProtocol._priority).drop()

    def data_received(self, data: bytes) -> None:
        now = formatdate(usegmt=True).encode()
        self.server_state.default_headers = [(b"date", now), *self.config.encoded_headers]
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._start_waiting()
        super().on_response_complete()

    def drop(self) -> None:
        """Abort the connection: closing it would wait for a client that doesn't read."""
        self.connections.discard(self)  # it no longer counts, though `connection_lost` is called later
        self.transport.abort()

    def _start_waiting(self) -> None:
        # Incoming bytes don't renew it, so that a client that sends one byte a second gains no time.
        self._since = self.loop.time()
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(ANSWER_DEADLINE_S, self._overdue)

    def _overdue(self) -> None:
        if self._is_live_stream():
            self._deadline = self.loop.call_later(ANSWER_DEADLINE_S, self._overdue)
        else:
            self.drop()

    def _is_live_stream(self) -> bool:
        """Return whether this is a stream whose client reads what it is sent."""
        cycle = self.cycle
        answering = cycle is not None and cycle.response_started and not cycle.response_complete
        return answering and cycle.scope["path"] == STREAM_PATH and not self.flow.write_paused

    def _priority(self) -> tuple[bool, float]:
        """Return the sort key: connections that wait for their client are dropped first, longest waiting first."""
        answering = self.cycle is not None and not self.cycle.response_complete and not self.flow.write_paused
        return answering, self._since


def log_accept_failures(loop: asyncio.AbstractEventLoop) -> None:
    """Log once per 10 s that the process is out of descriptors; asyncio would log it `backlog` times a second."""
    budget = TokenBuckets(1, _LOGGED_PER_S)

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in _OUT_OF_RESOURCES:
            loop.default_exception_handler(context)
        elif budget.take("accept"):
            _log.error("http_not_accepting", reason=error.strerror)

    loop.set_exception_handler(handle)


class _QuietServer(uvicorn.Server):
    """Never wakes up when idle, rather than ten times a second, and ends at once when asked to."""

    _loop: asyncio.AbstractEventLoop | None = None

    async def main_loop(self) -> None:
        self._ending = asyncio.Event()
        self._loop = asyncio.get_running_loop()  # last: where `end` finds the loop, it finds the event too
        if not self.should_exit:
            await self._ending.wait()

    def end(self) -> None:
        """Stop serving; from any thread."""
        self.should_exit = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: it has already ended
                self._loop.call_soon_threadsafe(self._ending.set)


class HttpServer(Worker):
    """Serves an agent's health document, metrics and own routes over HTTP."""

    def __init__(
        self,
        port: int,
        health: Callable[[], Mapping[str, Any]],
        metrics: Callable[[], bytes] = bytes,
        routes: Sequence[BaseRoute] = (),
        hosts: frozenset[str] = frozenset(),
        address: str = "",
    ) -> None:
        """Bind the port, so that a taken one stops the start before anything is served.

        Args:
            port: 0 takes a free one.
            hosts: the hosts to serve besides the loopback ones, from `http_hosts`.
            address: an IPv4 address of this machine to listen on; an empty one is every address.

        Raises:
            SocketMisuse: the port is taken.
        """
        super().__init__("http", lambda: asyncio.run(self._serve()), join_timeout_s=2.0)
        self._listener = _listen(port, address)
        self._server = _QuietServer(
            uvicorn.Config(
                HostGuard(_application(health, metrics, routes), hosts),
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                headers=[("Cross-Origin-Resource-Policy", "same-origin")],  # on every response
                ws="none",
                timeout_keep_alive=5,
                timeout_graceful_shutdown=1,
                http=LimitedProtocol,
                loop="asyncio",
                backlog=MAX_CONNECTIONS,  # which asyncio accepts at once before it reports the first
                h11_max_incomplete_event_size=16_384,
            )
        )

    def stop(self) -> None:
        """End the thread and close the port."""
        super().stop()
        self._listener.close()

    def _interrupt(self) -> None:
        self._server.end()

    async def _serve(self) -> None:
        log_accept_failures(asyncio.get_running_loop())
        await self._server.serve(sockets=[self._listener])


def _application(
    health: Callable[[], Mapping[str, Any]], metrics: Callable[[], bytes], routes: Sequence[BaseRoute]
) -> Starlette:
    def healthz(_: Request) -> JSONResponse:
        document = health()
        return JSONResponse(document, status_code=503 if document["status"] == "error" else 200)

    def readyz(_: Request) -> JSONResponse:
        document = health()
        return JSONResponse(document, status_code=200 if document["ready"] else 503)

    def scrape(_: Request) -> Response:
        return Response(metrics(), headers={"Content-Type": CONTENT_TYPE})

    checks = [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", scrape)]
    return Starlette(routes=[*checks, *routes])


def _listen(port: int, address: str) -> socket.socket:
    try:
        if not address and socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)
        return socket.create_server((address, port), backlog=128)
    except OSError as error:
        raise SocketMisuse(
            f"HTTP port {port} can't be bound ({error.strerror}); stop the process that uses it, or change "
            "network_config.yaml"
        ) from None
