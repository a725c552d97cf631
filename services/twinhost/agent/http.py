"""`/healthz`, `/readyz`, `/metrics`, and what else an agent shows: read-only, on a thread of its own."""

import asyncio
import contextlib
import errno
import ipaddress
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from twinhost.network_config.model import is_address
from twinhost.secure_zmq.errors import ConfigurationError, SocketMisuse
from twinhost.secure_zmq.rate_limit import LogBudget

_log = structlog.get_logger(__name__)

HOSTS_VARIABLE = "TWINHOST_HTTP_HOSTS"
_MISDIRECTED, _FORBIDDEN = 421, 403
_SHOWN = 80  # characters of a name that a client chose


def http_hosts(configured: Iterable[str], environment: Mapping[str, str]) -> frozenset[str]:
    """Return the names and addresses of the configuration and of `TWINHOST_HTTP_HOSTS`, as `HostGuard` takes them.

    Raises:
        ConfigurationError: an entry of the variable is no name and no address.
    """
    listed = environment.get(HOSTS_VARIABLE, "").replace(",", " ").split()
    for entry in listed:
        if not is_address(entry.strip("[]")):
            raise ConfigurationError(
                f"{HOSTS_VARIABLE} has {entry!r}, which is no host name and no address; "
                "list names without scheme, port, or wildcard, separated by commas"
            )
    return frozenset(_normal(name.strip("[]")) for name in (*configured, *listed))


class HostGuard:
    """Answers 421 to a `Host` that is not allowed, and 403 to what a page of another site asks for."""

    def __init__(self, application: ASGIApp, allowed: frozenset[str]) -> None:
        """Guard an application.

        Args:
            application: what answers the rest.
            allowed: the hosts beside the loopback names and addresses, as `http_hosts` returns them.
        """
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
                f"HTTP does not answer to the host {host[:_SHOWN]!r}; use localhost, an address of "
                f"network_config.yaml, or a name listed in {HOSTS_VARIABLE} (in .env), and start the agent again"
            )
            return self._refused(_MISDIRECTED, host, sentence)
        if headers.get("sec-fetch-site", "").strip().casefold() == "cross-site":
            return self._refused(_FORBIDDEN, host, "a page of another site asked for this; open its address directly")
        return None

    def _is_allowed(self, host: str, own_address: str) -> bool:
        name = _name_of(host)
        return name is not None and (name in self._allowed or _is_loopback(name) or name == _normal(own_address))

    def _refused(self, status: int, host: str, sentence: str) -> PlainTextResponse:
        left_out = self._budget.admit(status)
        if left_out is not None:
            _log.warning("http_request_refused", status=status, host=host[:_SHOWN], not_logged_before=left_out)
        return PlainTextResponse(f"{sentence}\n", status)


def _name_of(host: str) -> str | None:
    """Return the normal form of the name in a `Host` header; None where it is not `name[:port]`."""
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


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


MAX_CONNECTIONS = 64
ANSWER_DEADLINE_S = 5.0  # from the connection, or from the last answer, until the next answer is complete
STREAM_PATH = "/api/stream"  # whose answer goes on for as long as its client reads it
_SAY_EVERY_S = 10.0
_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class LimitedProtocol(H11Protocol):
    """A connection that ends where it holds its place for too long, or longest of too many."""

    _since: float  # the loop's time of the connection or of its last answer
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_waiting()
        if len(self.connections) > MAX_CONNECTIONS:
            # Never the newcomer: clients that ask without a pause would keep everybody else out.
            others = [other for other in self.connections if isinstance(other, LimitedProtocol) and other is not self]
            min(others, key=LimitedProtocol._worth).drop()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._start_waiting()
        super().on_response_complete()

    def drop(self) -> None:
        """End the connection at once: a close would wait for a client that does not read."""
        self.connections.discard(self)  # it no longer counts, though its end is told to `connection_lost` later
        self.transport.abort()

    def _start_waiting(self) -> None:
        # No byte that comes renews it, so that one byte a second buys no time.
        self._since = self.loop.time()
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(ANSWER_DEADLINE_S, self._overdue)

    def _overdue(self) -> None:
        if self._is_read_stream():
            self._deadline = self.loop.call_later(ANSWER_DEADLINE_S, self._overdue)
        else:
            self.drop()

    def _is_read_stream(self) -> bool:
        """Return whether a stream is being answered, and its client takes what it is sent."""
        cycle = self.cycle
        answering = cycle is not None and cycle.response_started and not cycle.response_complete
        return answering and cycle.scope["path"] == STREAM_PATH and not self.flow.write_paused

    def _worth(self) -> tuple[bool, float]:
        """Return what the least of is dropped first: those that wait for their client, the longest first."""
        answering = self.cycle is not None and not self.cycle.response_complete and not self.flow.write_paused
        return answering, self._since


def log_accept_failures(loop: asyncio.AbstractEventLoop) -> None:
    """Tell in one line that the process is out of descriptors: asyncio tells it `backlog` times a second, at length."""
    silent_until = 0.0

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal silent_until
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in _OUT_OF_RESOURCES:
            loop.default_exception_handler(context)
        elif loop.time() >= silent_until:
            silent_until = loop.time() + _SAY_EVERY_S
            _log.error("http_not_accepting", reason=error.strerror)

    loop.set_exception_handler(handle)


class _QuietServer(uvicorn.Server):
    """Wakes once a second where nobody asks, and not ten times, and ends at once where it is told to."""

    _loop: asyncio.AbstractEventLoop | None = None

    async def main_loop(self) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        tenths = 0
        while not await self.on_tick(tenths):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), 1.0)
            tenths += 10  # on_tick's unit; at every tenth it renews the date in the headers

    def end(self) -> None:
        """Serve no longer; from any thread."""
        self.should_exit = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: it has ended already
                self._loop.call_soon_threadsafe(self._ending.set)


class HttpServer:
    """Serves an agent's health document and metrics over HTTP."""

    def __init__(
        self,
        port: int,
        health: Callable[[], Mapping[str, Any]],
        metrics: Callable[[], bytes] = bytes,
        routes: Sequence[BaseRoute] = (),
        hosts: frozenset[str] = frozenset(),
    ) -> None:
        """Bind the port, so that a start that can't succeed fails before anything is served.

        Args:
            port: 0 takes a free one.
            health: the health document.
            metrics: the metrics as Prometheus reads them.
            routes: what else there is to see.
            hosts: the hosts that it answers to beside the loopback's, as `http_hosts` returns them.

        Raises:
            SocketMisuse: the port is taken.
        """
        self._listener = _listen(port)
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
                backlog=MAX_CONNECTIONS,  # asyncio accepts as many at once before it tells of the first
                h11_max_incomplete_event_size=16_384,
            )
        )
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="http", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def responsive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        self._server.end()
        if self._thread.is_alive():
            self._thread.join(timeout=2)
        self._listener.close()

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


def _listen(port: int) -> socket.socket:
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)
        return socket.create_server(("", port), backlog=128)
    except OSError as error:
        raise SocketMisuse(
            f"HTTP port {port} can't be bound ({error.strerror}); free it or change network_config.yaml"
        ) from None
