"""Which names HTTP answers to: a page of another site must not read it under a name that was rebound to this machine.

A browser sends the name that its user's page was loaded from as `Host`, so a name that nobody configured is refused,
whatever address it resolved to. An address can't be rebound, so the one that the connection came to is allowed too. The
port is not compared: the published one may differ from the bound one.
"""

import ipaddress
from collections.abc import Iterable, Mapping

import structlog
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from twinhost.network_config.model import is_address
from twinhost.secure_zmq.errors import ConfigurationError
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
