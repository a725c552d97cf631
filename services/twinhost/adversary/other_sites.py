"""Requests of another site's page, from a browser that reaches the agent's HTTP port: DNS rebinding and cross-site."""

import http.client
from collections.abc import Mapping

from twinhost.adversary.attack import Attack, Outcome, Target, breached, defended, not_played
from twinhost.adversary.zmtp import TIMEOUT_S

_PATHS = ("/healthz", "/metrics", "/api/state", "/")
_REBOUND = "rebound.example"  # RFC 2606: reserved


def _dns_rebinding(target: Target) -> Outcome:
    return _refused(target, 421, {"Host": f"{_REBOUND}:{target.agent.http_port}"})


def _cross_site(target: Target) -> Outcome:
    return _refused(target, 403, {"Sec-Fetch-Site": "cross-site"})


def _refused(target: Target, wanted: int, headers: Mapping[str, str]) -> Outcome:
    """Request every path as such a page would, after an ordinary request was answered."""
    said = ", ".join(f"{name}: {value}" for name, value in headers.items())
    good = _status(target, "/healthz", {})
    if good is None:
        return not_played("no HTTP answer from here; run it on the agent's machine, where the port is published")
    if good not in (200, 503):
        return breached(f"HTTP answers {good} to its own address, so a refusal would prove nothing")
    for path in _PATHS:
        if (status := _status(target, path, headers)) != wanted:
            return breached(f"with {said!r} it answered {status or 'nothing'} for {path}, and not {wanted}")
    return defended(f"with {said!r} it answered {wanted} for {', '.join(_PATHS)}")


def _status(target: Target, path: str, headers: Mapping[str, str]) -> int | None:
    """Return the status of the answer; None where there was none."""
    connection = http.client.HTTPConnection(target.agent.host.address, target.agent.http_port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


ATTACKS = (
    Attack("DNS rebinding", "HTTP answers only to configured names", _dns_rebinding),
    Attack("a page of another site", "HTTP refuses cross-site requests", _cross_site),
)
