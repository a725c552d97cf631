"""Attacks by a client without an authorised key: no session, a fake agent, and bytes that are not ZMTP."""

import contextlib
import os
import secrets
import socket
import time
from contextlib import ExitStack

from twinhost.adversary.attack import (
    OPEN_LINK,
    SERVED_WITHIN_S,
    Attack,
    AttackedAgent,
    AttackOutcome,
    breached,
    defended,
    not_played,
)
from twinhost.adversary.clients import CurveClient, PlainClient, Refused, new_pair, secret_of
from twinhost.adversary.zmtp import (
    COMMAND,
    GREETING_BYTES,
    READY,
    Disconnected,
    Listener,
    NoAnswer,
    RawConnection,
    encode_frame,
    greeting,
    metadata,
)
from twinhost.secure_zmq.errors import SecurityMismatch, TwinhostError

HALF_OPEN = 200
HELD_S = 5.5  # a handshake may take 4 s, and a busy machine a little more
_NOT_ZMTP = {
    "random": os.urandom(4_096),
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "TLS": bytes.fromhex("16030100c8010000c40303") + bytes(range(189)),  # a ClientHello
    "zero": bytes(4_096),
}


def _plain(target: AttackedAgent) -> AttackOutcome:
    with PlainClient(target.connect(), target.properties) as client:
        return _try(client, "a client without a key got a session")


def _unknown_key(target: AttackedAgent) -> AttackOutcome:
    if target.pin is None:
        return not_played(OPEN_LINK)
    with CurveClient(target.connect(), new_pair(), target.pin, target.properties) as client:
        return _try(client, "a key that was generated just now got a session, so no ZAP handler is running")


def _wrong_pin(target: AttackedAgent) -> AttackOutcome:
    if target.own_keys is None:
        return not_played(OPEN_LINK)
    with CurveClient(target.connect(), target.own_keys, new_pair().public, target.properties) as client:
        try:
            client.connection.greet(client.mechanism)
            client.hello()
        except (Disconnected, NoAnswer) as end:
            return defended(f"it disconnected: {end}")
        except Refused as refusal:
            return breached(f"it continued with a client that pinned another key: {refusal}")
        return breached("a client that pinned another key got a WELCOME")


def _mismatched_halves(target: AttackedAgent) -> AttackOutcome:
    if target.own_keys is None or target.pin is None:
        return not_played(OPEN_LINK)
    wrong_secret = secret_of(new_pair())
    with CurveClient(target.connect(), target.own_keys, target.pin, target.properties, wrong_secret) as client:
        return _try(client, "an authorised public key got a session without its secret")


def _try(client: PlainClient, complaint: str) -> AttackOutcome:
    try:
        client.handshake()
    except (Disconnected, Refused) as end:
        return defended(f"no session: {end}")
    except NoAnswer:
        return defended("no session: it did not answer")
    try:
        reply = client.call("ping")
    except (Disconnected, NoAnswer, Refused) as end:
        return breached(f"{complaint}, but no answer ({end})")
    return breached(f"{complaint}, and the answer {str(reply)[:80]}")


ATTACKS = (
    Attack("plain client", "without CURVE nobody gets a session", _plain),
    Attack("unknown key", "a key that is not authorised gets no session", _unknown_key),
    Attack("wrong pin", "a client that pinned another key gets no session", _wrong_pin),
    Attack("mismatched halves", "an authorised public key is useless without its secret", _mismatched_halves),
)


def _impostor(target: AttackedAgent) -> AttackOutcome:
    """Listen as an agent without CURVE does, and record what a client of this host sends."""
    marker, received = secrets.token_hex(16), bytearray()

    def serve(connection: socket.socket) -> None:
        ready = READY + metadata({"Socket-Type": b"ROUTER", "Identity": b""})
        with contextlib.suppress(OSError), connection:
            connection.settimeout(2 * SERVED_WITHIN_S)
            connection.sendall(greeting(b"NULL") + encode_frame(ready, COMMAND))
            while part := connection.recv(65_536):
                received.extend(part)

    with Listener(serve) as impostor:
        try:
            with target.client(impostor.address) as client:
                client.call("ping", deadline_s=SERVED_WITHIN_S, note=marker)
        except TwinhostError as error:
            refusal = error
        else:
            return breached("a client sent a request to an impostor without a key, and accepted its reply")
    if marker.encode() in bytes(received):
        return breached("an impostor without a key received the whole request")
    if not isinstance(refusal, SecurityMismatch):
        return breached(f"the impostor received nothing, but the client's error does not say why: {refusal}")
    return defended("this host's client sent it nothing, and reported that it does not encrypt")


IMPOSTOR = (Attack("impostor without CURVE", "this host's client sends nothing to an agent without CURVE", _impostor),)


def _noise(target: AttackedAgent) -> AttackOutcome:
    with ExitStack() as stack:
        started = time.monotonic()
        connections = {what: stack.enter_context(target.connect()) for what in _NOT_ZMTP}
        for what, connection in connections.items():
            with contextlib.suppress(Disconnected, NoAnswer):
                connection.send(_NOT_ZMTP[what])
        received = {
            what: connection.read_to_end(max(0.1, started + HELD_S - time.monotonic()))
            for what, connection in connections.items()
        }
    kept = [what for what, (_, ended) in received.items() if not ended]
    if kept:
        return breached(f"{', '.join(kept)} bytes kept a connection for more than {HELD_S:g} s")
    answered = [what for what, (sent, _) in received.items() if len(sent) > GREETING_BYTES]
    if answered:
        return breached(f"{', '.join(answered)} bytes were answered with more than a greeting")
    return defended(f"it disconnected {', '.join(_NOT_ZMTP)} bytes and sent nothing but its greeting")


def _half_open(target: AttackedAgent) -> AttackOutcome:
    with ExitStack() as stack:
        connections: list[RawConnection] = []
        for number in range(HALF_OPEN):
            try:
                connection = stack.enter_context(target.connect())
                if number % 2:
                    connection.send(b"\xff" + bytes(8) + b"\x7f")
            except (Disconnected, NoAnswer, OSError) as error:
                return breached(f"the {number + 1}th connection was not accepted: {error}")
            connections.append(connection)
        slowest, opened_at = 0.0, time.monotonic()
        while connections and time.monotonic() < opened_at + HELD_S:
            try:
                slowest = max(slowest, target.served_after_s())
            except TwinhostError as error:
                return breached(f"with {HALF_OPEN} half-open connections a legitimate client was not served: {error}")
            time.sleep(0.25)
            connections = [connection for connection in connections if not connection.ended()]
    if connections:
        return breached(f"{len(connections)} of {HALF_OPEN} silent connections were kept for more than {HELD_S:g} s")
    return defended(
        f"{HALF_OPEN} silent connections were closed, and legitimate clients waited {slowest:.2f} s at most"
    )


NOISE = (
    Attack("random, HTTP, TLS, and zero bytes", "connections that do not speak ZeroMQ are closed", _noise),
    Attack("half-open flood", "silent connections block nobody", _half_open),
)
