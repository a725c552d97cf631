"""Streamable HTTP on the loopback: a bearer token, and only requests that no page of a browser can forge.

Another user of the machine can connect to the port, and so can a page whose name is rebound to 127.0.0.1. The first has
no token; the second is refused by its `Host` or `Origin` already.
"""

import hmac
import ipaddress
import os
import secrets
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from twinhost.mcp.agents import Agents
from twinhost.mcp.server import mcp_server
from twinhost.secure_zmq.certificates import profile_folder
from twinhost.secure_zmq.errors import ConfigurationError

TOKEN_VARIABLE = "TWINHOST_MCP_TOKEN"  # noqa: S105 - the name of a variable
TOKEN_FILE = "mcp-token"  # noqa: S105 - the name of a file
LEAST_TOKEN_CHARACTERS = 32
PATH = "/mcp"


def listener(address: str) -> socket.socket:
    """Return a listening socket on an address of the loopback.

    Args:
        address: ADDRESS:PORT, such as 127.0.0.1:8765 or [::1]:8765; port 0 is any free one.

    Raises:
        ConfigurationError: it is no address of the loopback, or it is in use.
    """
    host, _, port = address.rpartition(":")
    try:
        listening = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        number = int(port)
    except ValueError:
        raise ConfigurationError(f"{address!r} is no ADDRESS:PORT; write --http 127.0.0.1:8765") from None
    if not listening.is_loopback:
        raise ConfigurationError(
            f"{listening} can be reached from other machines, and MCP over HTTP is not encrypted; "
            "write --http 127.0.0.1:8765"
        )
    family = socket.AF_INET6 if listening.version == 6 else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio sets TCP_NODELAY by the protocol
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((str(listening), number))
        bound.listen()
    except (OSError, OverflowError) as error:
        bound.close()
        raise ConfigurationError(f"{address} can't be listened on ({error}); choose another port") from None
    return bound


def token(file: Path | None, environment: Mapping[str, str] = os.environ) -> tuple[str, str]:
    """Return the bearer token, and where it is from: TWINHOST_MCP_TOKEN, or a file that is made if it is missing.

    Raises:
        ConfigurationError: it is too short, or others than its owner can read the file.
    """
    if given := environment.get(TOKEN_VARIABLE):
        return _checked(given, TOKEN_VARIABLE), TOKEN_VARIABLE
    file = file or profile_folder(environment) / TOKEN_FILE
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as stream:
            stream.write(f"{secrets.token_urlsafe(32)}\n")
    except FileExistsError:
        pass
    except OSError as error:
        raise ConfigurationError(f"{file} can't be made ({error.strerror}); name another with --token-file") from None
    try:
        with file.open(encoding="ascii") as stream:
            mode = os.fstat(stream.fileno())
            if mode.st_mode & 0o077 or mode.st_uid != os.geteuid():
                raise ConfigurationError(f"{file} is not yours alone; delete it, and a new one is made: rm {file}")
            return _checked(stream.read().strip(), str(file)), str(file)
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(
            f"{file} can't be read ({error}); delete it, and a new one is made: rm {file}"
        ) from None


def _checked(secret: str, source: str) -> str:
    if len(secret) < LEAST_TOKEN_CHARACTERS or not secret.isascii() or not secret.isprintable() or " " in secret:
        raise ConfigurationError(
            f"the token in {source} must have at least {LEAST_TOKEN_CHARACTERS} visible ASCII characters; "
            "make one: openssl rand -hex 32"
        )
    return secret


async def serve_http(agents: Agents, bound: socket.socket, secret: str, ready: Callable[[str], None]) -> None:
    """Serve clients over HTTP until SIGINT or SIGTERM.

    Args:
        agents: the agents to call; closed at the end.
        bound: where to listen; of the loopback.
        secret: the bearer token.
        ready: called with the URL once clients are served.
    """
    host, port = bound.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    app = mcp_server(agents).streamable_http_app(
        streamable_http_path=PATH, json_response=True, stateless_http=True, host=host
    )
    guarded = Guard(app, secret, {f"{name}:{port}" for name in (shown, "localhost")})
    server = uvicorn.Server(
        uvicorn.Config(guarded, log_level="warning", access_log=False, server_header=False, lifespan="on")
    )
    ready(f"http://{shown}:{port}{PATH}")
    try:
        await server.serve([bound])
    finally:
        agents.close()


class Guard:
    """Lets through what has the token, is sent to this address by its own name, and comes from no other site."""

    def __init__(self, app: ASGIApp, secret: str, hosts: set[str]) -> None:
        """Guard `app`; `hosts` are the names with the port under which it may be addressed."""
        self._app = app
        self._authorization = f"Bearer {secret}".encode("ascii")
        self._hosts = {host.encode("ascii") for host in hosts}
        self._origins = {b"http://" + host for host in self._hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refusal := self._refusal(scope["headers"])) is not None:
            status, sentence = refusal
            headers = [(b"content-type", b"application/json")]
            if status == 401:
                headers.append((b"www-authenticate", b"Bearer"))
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": msgspec.json.encode({"error": sentence})})
        elif scope["type"] in ("http", "lifespan"):
            await self._app(scope, receive, send)

    def _refusal(self, headers: list[tuple[bytes, bytes]]) -> tuple[int, str] | None:
        """Return the status and the reason if a request is refused; a header that occurs twice is refused too."""
        hosts, origins, authorizations = (
            [value for name, value in headers if name == wanted] for wanted in (b"host", b"origin", b"authorization")
        )
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return 421, "this server answers only under the address that it printed at its start"
        if any(origin not in self._origins for origin in origins):
            return 403, "a page of another site may not use this server"
        if len(authorizations) != 1 or not hmac.compare_digest(authorizations[0], self._authorization):
            return 401, "the token is missing or wrong; send the header Authorization: Bearer TOKEN"
        return None
