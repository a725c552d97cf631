"""`mcp`: the memory and the system as tools of an MCP client, on stdin and stdout or over HTTP on the loopback."""

import asyncio
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from twinhost import connect_async
from twinhost.cli import output
from twinhost.cli.arguments import Space
from twinhost.cli.output import OPEN_LINK
from twinhost.deployment import load_settings
from twinhost.secure_zmq.errors import ConfigurationError


def mcp(
    http: Annotated[
        str | None,
        typer.Option("--http", metavar="ADDRESS:PORT", help="Serve over HTTP on this address of the loopback."),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", metavar="FILE", help="With --http: the bearer token; made if it is missing."),
    ] = None,
    space: Space = None,
) -> int:
    """Serve the memory and the system to an MCP client.

    The client starts this command. With --http, clients send the header Authorization: Bearer TOKEN. The token is
    TWINHOST_MCP_TOKEN, or in the file.
    """
    try:
        from twinhost.mcp.agents import Agents  # noqa: PLC0415 - an extra, and a second of imports
        from twinhost.mcp.http import listener, serve_http, token  # noqa: PLC0415
        from twinhost.mcp.server import serve_stdio  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"`twinhost mcp` needs the package {error.name}; install it: pip install 'twinhost[mcp]'"
        ) from None
    settings = load_settings()
    owner = None
    if settings.certificates is None:
        output.say("warning", output.WARN, OPEN_LINK)
    else:
        known = settings.certificates.own_keys.certificate.owner
        owner = None if "operator" in known.roles else known.name

    agents = Agents(connect_async, settings.registry_agent, owner, space)
    if http is None:
        if sys.stdin.isatty():
            output.say(
                "waiting:", output.FAINT, "an MCP client starts this command and writes to its stdin; Ctrl-C ends it"
            )
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a read of stdin can't be cancelled
        asyncio.run(serve_stdio(agents))
        return 0
    secret, source = token(token_file)

    def ready(url: str) -> None:
        output.say("serving:", output.FAINT, f"{url} with the token in {source}")

    asyncio.run(serve_http(agents, listener(http), secret, ready))
    return 0
