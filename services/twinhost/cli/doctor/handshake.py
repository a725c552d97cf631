"""Why there is no session: the handshake by hand, step by step, which tells apart what libzmq does not.

To a client of libzmq a wrong pin and a fault of the server's ZAP handler look alike. By hand they
don't: WELCOME opens with the right pin alone, and what comes after it is about our own key.
"""

from twinhost.adversary.clients import CurveClient, NoLibsodium, Refused
from twinhost.adversary.zmtp import Disconnected, NoAnswer, RawConnection
from twinhost.cli.connect import Settings
from twinhost.network_config import Agent

_GREETING_S = 2.0  # to wait for it: whoever is mute has been waited for before
_ANOTHER_KEY = "the agent's key is not the pinned"


def explain(settings: Settings, agent: Agent) -> str | None:
    """Return a sentence that names the cause; None where the handshake is good, or nothing can be said."""
    if settings.certificates is None:
        return None
    own, pins = settings.certificates.own_keys, settings.pins(agent)
    named = " or ".join(pin.fingerprint for pin in pins)
    told = None
    try:
        for pin in pins:
            with CurveClient(RawConnection(agent.host.address, agent.zmq_port), own, pin) as client:
                told = _walk(client, own.public.fingerprint, named)
            if told is None or not told.startswith(_ANOTHER_KEY):
                return told
    except (OSError, NoLibsodium):
        return None
    return told


def _walk(client: CurveClient, own: str, pins: str) -> str | None:
    try:
        speaks_curve = client.connection.greet(client.mechanism, _GREETING_S)[12:32].startswith(client.mechanism)
    except (Disconnected, NoAnswer):
        return None
    if not speaks_curve:
        return None
    try:
        cookie = client.hello()
    except (Disconnected, NoAnswer, Refused):
        return (
            f"{_ANOTHER_KEY} {pins}: it could not read our HELLO. Its key was changed, or this is "
            "another machine: have its owner tell the fingerprint, and put its public key here"
        )
    return _introduce(client, cookie, own)


def _introduce(client: CurveClient, cookie: bytes, own: str) -> str | None:
    """Show our key to an agent that holds the pinned one; our halves were found to match before."""
    try:
        client.initiate(cookie)
    except Disconnected:
        return (
            "its ZAP handler has a fault: it holds the pinned key, and hung up when it was to look ours up. "
            "Read the agent's log, and start it again"
        )
    except NoAnswer:
        return "its ZAP handler hangs: it holds the pinned key, and does not look ours up. Start the agent again"
    except Refused:
        return (
            f"it holds the pinned key and refuses ours ({own}): not listed there, revoked, or expired by its clock. "
            "`cli audit tail` on an operator's host, or the agent's log, says which"
        )
    return None
