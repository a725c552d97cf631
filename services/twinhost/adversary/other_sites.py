"""A page of another site, in the browser of somebody who can reach HTTP: by a name that was rebound, and directly."""

import http.client
from collections.abc import Mapping

from twinhost.adversary.attack import Attack, Outcome, broken, held, not_played
from twinhost.adversary.target import Target
from twinhost.adversary.zmtp import PATIENCE_S

_PATHS = ("/healthz", "/metrics", "/api/state", "/")
_REBOUND = "rebound.example"  # RFC 2606: nobody's


def _dns_rebinding(target: Target) -> Outcome:
    return _refused(target, 421, {"Host": f"{_REBOUND}:{target.agent.http_port}"})


def _cross_site(target: Target) -> Outcome:
    return _refused(target, 403, {"Sec-Fetch-Site": "cross-site"})


def _refused(target: Target, wanted: int, headers: Mapping[str, str]) -> Outcome:
    """Ask for every path as such a page would; a request without its headers must be answered before."""
    said = ", ".join(f"{name}: {value}" for name, value in headers.items())
    good = _status(target, "/healthz", {})
    if good is None:
        return not_played("no HTTP answer from here; run it on the agent's machine, where the port is published")
    if good not in (200, 503):
        return broken(f"HTTP answers {good} to its own address, so a refusal would prove nothing")
    for path in _PATHS:
        if (status := _status(target, path, headers)) != wanted:
            return broken(f"with {said!r} it answered {status or 'nothing'} for {path}, and not {wanted}")
    return held(f"with {said!r} it answered {wanted} for {', '.join(_PATHS)}")


def _status(target: Target, path: str, headers: Mapping[str, str]) -> int | None:
    """Return the status of the answer; None where there was none."""
    connection = http.client.HTTPConnection(target.agent.host.address, target.agent.http_port, timeout=PATIENCE_S)
    try:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


ATTACKS = (
    Attack("DNS rebinding", "HTTP answers to no name that nobody configured", _dns_rebinding),
    Attack("a page of another site", "HTTP answers to no other site's page", _cross_site),
)
