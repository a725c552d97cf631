"""From a client's monitor events to one typed error that names the cause.

libzmq tells a client nothing of a wrong server key: the server hangs up, and the client
tries for ever. A handshake that breaks off several times in a row, and never succeeded in
between, is what that looks like from here. An open server, or one that is just starting
behind a port proxy, may look the same, so the server's greeting decides: without one there is
no verdict, and what broke off before the first one was not the server's doing.
"""

import errno
import threading
from collections.abc import Callable

from twinhost.secure_zmq.errors import (
    ConnectionRefused,
    NotAuthorized,
    SecurityMismatch,
    ServerUnreachable,
    WrongServerKey,
)
from twinhost.secure_zmq.monitor import Happening, SocketEvent

BROKEN_OFF_BEFORE_VERDICT = 3  # attempts, 0.1 to 0.4 s apart: one may be a server that stops just then
_ZAP_TRY_AGAIN = 300
_ZAP_TOO_MANY_SESSIONS = 500
_MUTE = (
    "a TCP connection was made and no handshake came about "
    "(something else listens there, or the agent's ZAP handler has a fault)"
)
_TOO_MANY_SESSIONS = (
    "this key has as many connections there as it may have; "
    "close some, or raise limits.sessions_per_key in the agent's network_config.yaml"
)
_ENDED = (
    "the other side ends every handshake (the agent's ZAP handler has a fault, its key is not the pinned one, "
    "or something else listens there)"
)


class Diagnosis:
    """What a client knows of its connection; fed by the monitor's thread, read by the caller's."""

    def __init__(
        self,
        address: str,
        own_fingerprint: str | None,
        server_fingerprint: str | None,
        ask_mechanism: Callable[[str], str | None],
        enough: Callable[[], int] = lambda: BROKEN_OFF_BEFORE_VERDICT,
    ) -> None:
        """Know nothing yet.

        Args:
            address: where the server is.
            own_fingerprint: of our key; None on an open link.
            server_fingerprint: of the pinned key; None on an open link.
            ask_mechanism: returns what the server at an address greets with.
            enough: returns how many handshakes break off in a row before the pin is held to be wrong.
        """
        self._address = address
        self._ask_mechanism = ask_mechanism
        self._own = own_fingerprint
        self._pin = server_fingerprint
        self._enough = enough
        self._changed = threading.Condition()
        self._verdict: ConnectionRefused | None = None
        self._broken_off = 0
        self._absent = False  # when it was asked last, nobody greeted
        self._connected = False
        self._last_seen = "nothing answered at that address"
        self.generation = 0  # sessions that came about so far

    @classmethod
    def blank(cls) -> "Diagnosis":
        """Return the diagnosis of no connection at all."""
        return cls("", None, None, lambda _: None)

    def feed(self, event: SocketEvent) -> None:
        """Take one monitor event in, and wake who waits; called by the monitor's thread alone."""
        broken_off = self._broken_off + 1 if event.happening is Happening.BROKEN_OFF else 0
        suspicious = broken_off > 0 and broken_off >= self._enough() - 1 and self._verdict is None
        mechanism = self._ask_mechanism(self._address) if suspicious else None
        with self._changed:
            self._feed(event)
            if suspicious:
                self._hear(mechanism)
            self._changed.notify_all()

    @property
    def connected(self) -> bool:
        """Whether there is a session at this moment, as far as the monitor has told."""
        return self._connected

    @property
    def broken_off(self) -> int:
        """How many handshakes the other side has ended since the last session."""
        return self._broken_off

    def wait_until_settled(self, timeout_s: float) -> bool:
        """Wait for a session or a verdict; return whether there is a session."""
        with self._changed:
            self._changed.wait_for(lambda: self._connected or self._verdict is not None, timeout_s)
            return self._connected

    def verdict(self) -> ConnectionRefused | None:
        """Return the error that further waiting would not change, if there is one."""
        return self._verdict

    def timed_out(self, action: str, deadline_s: float) -> ServerUnreachable:
        """Return the error for a deadline that passed without a verdict."""
        last = "it took the request and did not reply" if self._connected else self._last_seen
        return ServerUnreachable(
            f"no reply to {action} from {self._address} within {deadline_s:g} s: {last}; "
            "check that the agent runs and that the address in network_config.yaml is right"
        )

    def _feed(self, event: SocketEvent) -> None:
        match event.happening:
            case Happening.SUCCEEDED:
                self._connected, self._broken_off, self._absent, self._verdict = True, 0, False, None
                self.generation += 1
            case Happening.DISCONNECTED:
                if self._connected:
                    self._last_seen = "the connection was lost"
                self._connected = False
            case Happening.CONNECTED if self._broken_off == 0:
                self._last_seen = _MUTE
            case Happening.BROKEN_OFF:
                self._last_seen = _ENDED
                if event.value != errno.EAGAIN:  # a mute peer is not a wrong key
                    self._broken_off += 1
            case Happening.REFUSED if event.value == _ZAP_TOO_MANY_SESSIONS:
                self._last_seen = _TOO_MANY_SESSIONS
            case Happening.WRONG_KEYS if self._connected:  # a damaged message ended a session that was good
                self._connected, self._last_seen = False, "the session was broken by a damaged message"
            case _:
                self._verdict = self._refusal(event) or self._verdict

    def _refusal(self, event: SocketEvent) -> ConnectionRefused | None:
        """Return the error for an event that says by itself why there will be no session."""
        match event.happening:
            case Happening.REFUSED if event.value != _ZAP_TRY_AGAIN:
                return NotAuthorized(
                    f"{self._address} does not authorise this key ({self._own}); "
                    "have its owner add the public key, or check that it was not removed"
                )
            case Happening.MECHANISM_MISMATCH:
                return self._mismatch()
            case Happening.WRONG_KEYS:
                return self._wrong_key() if self._own else self._mismatch()
            case Happening.NOT_ZMTP:
                return SecurityMismatch(f"{self._address} does not speak ZeroMQ; check the port")
            case _:
                return None

    def _hear(self, mechanism: str | None) -> None:
        """Take in how the server greets that just broke a handshake off; None is not at all.

        One that does not greet is stopping, starting, or behind a port proxy: no reason to give up. When it
        greets again, what broke off meanwhile is held against it no more.
        """
        if mechanism is None:
            self._absent = True
        elif self._absent:
            self._absent, self._broken_off = False, 0
        else:
            self._verdict = self._judge(mechanism)

    def _judge(self, mechanism: str) -> ConnectionRefused | None:
        """Return the error for a server that breaks handshakes off and greets with this mechanism."""
        if self._broken_off < self._enough():  # this one was a mute peer's
            return None
        if self._own is not None and mechanism == "CURVE":
            return self._wrong_key()
        encrypted_there = mechanism != "NULL"
        return self._mismatch() if encrypted_there != (self._own is not None) else None

    def _mismatch(self) -> SecurityMismatch:
        here, there = ("CURVE", "is not encrypted") if self._own else ("not encrypted", "wants CURVE")
        return SecurityMismatch(
            f"{self._address} {there} and this client is {here}; set SECURE_ZMQ to the same value on both hosts"
        )

    def _wrong_key(self) -> WrongServerKey:
        return wrong_server_key(self._address, self._broken_off, str(self._pin))


def wrong_server_key(address: str, broken_off: int, *pins: str) -> WrongServerKey:
    """Return the error for a server that ended so many handshakes, with every one of these pins."""
    times = f"{broken_off} handshakes" if broken_off > 1 else "the handshake"
    return WrongServerKey(
        f"{address} ended {times} without a word: most likely its key is not the "
        f"pinned {' or '.join(pins)}; a fault of its ZAP handler looks the same from here, so read its log"
    )
