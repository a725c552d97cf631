"""`/healthz`, `/readyz`, `/metrics`, and what else an agent shows: read-only, on a thread of its own."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from twinhost.agent.http_hosts import HostGuard
from twinhost.agent.http_limits import MAX_CONNECTIONS, LimitedProtocol, log_accept_failures
from twinhost.agent.telemetry import CONTENT_TYPE
from twinhost.secure_zmq.errors import SocketMisuse


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
