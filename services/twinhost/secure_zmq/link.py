"""How a client connects and reconnects: the one state machine of `Client`, `AsyncClient` and `Subscriber`.

`LINK` is its table, of which docs/explanation/link.md has the picture. What libzmq's monitor reports, what the owner
waits for, and what the address says by now are its events. The three clients own the sockets; this module decides. Its
only input and output: a server that closes connections in the handshake is asked for its greeting, on the monitor's
thread.

libzmq reports nothing to a client whose server key is wrong: the server closes the connection, and the client retries
for ever. The client only sees its handshake closed several times in a row, without a success in between. An unencrypted
server, or one that is just starting behind a port proxy, may look the same, so the greeting decides: without one there
is no verdict, and handshakes that were closed before the first greeting don't count.

A server with a standby is at one of several addresses. The client leaves one that refuses it, or where there is no
session for a while, and gives up only once it was refused and the others were tried as well.
"""

import errno
import random
import threading
from collections.abc import Callable, Sequence
from enum import Enum

from twinhost.secure_zmq.callers import UNAUTHENTICATED
from twinhost.secure_zmq.errors import (
    ConnectionRefused,
    NotAuthorized,
    PeerNotLive,
    SecurityMismatch,
    ServerUnreachable,
    WrongServerKey,
)
from twinhost.secure_zmq.monitor import EventKind, SocketEvent
from twinhost.secure_zmq.server_address import (
    FollowedAddress,
    SecuredAddress,
    ServerAddress,
    Target,
    UnencryptedAddress,
    mechanism_of,
)
from twinhost.secure_zmq.silence import Silence, reconnecting
from twinhost.secure_zmq.wire import Reply
from twinhost.state_table import StateTable, Transition

BROKEN_OFF_BEFORE_VERDICT = 3  # handshakes, 0.1 to 0.4 s apart: one may be a server that is just stopping
SILENT_AFTER_S = 2.0  # libzmq abandons some sockets without an event; the request_id makes a second copy harmless
TAKEOVER_S = 25.0  # how much longer a call waits by default where the server has a standby: 20 s are promised
_ELSEWHERE_AFTER_S = 0.5  # without a session at one of several addresses
_SLOWER = 3  # how often that doubles while TCP connections are made there: a handshake may take 4 s
_WATCHED_S = 2.0  # at an address without a handshake while the other one is stuck: who takes over answers at once then
_BACKOFF_S = 0.1
_BACKOFF_MAX_S = 2.0
_ZAP_TRY_AGAIN = 300
_ZAP_TOO_MANY_SESSIONS = 500
_NO_ANSWER = "nothing answered at that address"
_NO_HANDSHAKE = (
    "the TCP connection was made but no handshake followed "
    "(another program listens on that port, or the agent's ZAP handler has failed)"
)
_TOO_MANY_SESSIONS = (
    "this key has reached its limit of connections there (limits.sessions_per_key in the agent's network_config.yaml), "
    "or all keys together have theirs (TWINHOST_NOFILE in its .env); close some, or raise the limit that its log names"
)
_CLOSED_IN_HANDSHAKE = (
    "the other side ends every handshake and gives no reason (the agent is stopped, or starting, behind a port "
    "forward; or its ZAP handler has failed)"
)
_CLOSED_BEFORE_GREETING = (
    "the other side ends every handshake before it has sent a greeting (the agent is stopped, or starting, behind a "
    "port forward; or another program listens on that port)"
)
_CLOSED_AFTER_GREETING = (
    "the other side ends every handshake (its key is not the pinned one, or the agent's ZAP handler has failed)"
)


class LinkState(Enum):
    """Of one client's link."""

    CLOSED = "Closed"  # also while its owner has not yet replaced the connection
    CONNECTING = "Connecting"
    SUSPICIOUS = "Suspicious"  # the server has closed a handshake
    OPEN = "Open"
    FULL = "Full"  # this key has too many sessions there, and libzmq tries no more
    REFUSED = "Refused"


class LinkEvent(Enum):
    """What changes the state of a link."""

    CONNECTION = "a connection is made for a call"
    SESSION = "the handshake succeeds"
    LOST = "the connection is lost"
    DAMAGED = "a damaged message"
    CLOSED_BY_SERVER = "the server closes the handshake"
    GREETED_AGAIN = "a greeting, the first after none"
    RULED_OUT = "closed too often, though there is a greeting"
    TOO_MANY = "too many sessions of this key"
    REFUSED = "a refusal that no retry would change"
    SILENT = "no reply for 2 s, after a session"
    WITHDRAWN = "own key, pin or address was replaced"
    BACKOFF_OVER = "the backoff is over"
    ELSEWHERE = "no session for 0.5 s, and another address"
    OTHER_TARGET = "another pin or address is untried, or this one is replaced"
    NO_OTHER = "no other pin or address"


class Step(Enum):
    """What a client does with its connection now."""

    KEEP = "keep it"
    RECONNECT = "reconnect"  # close it, and open one to `next_target()`
    GIVE_UP = "typed error"


_S, _E = LinkState, LinkEvent
_WITHOUT_SESSION = (_S.CONNECTING, _S.SUSPICIOUS)
LINK: StateTable[LinkState, LinkEvent, Step] = StateTable(
    _S.CLOSED,
    Transition(_S.CLOSED, _E.CONNECTION, _S.CONNECTING),
    *(Transition(state, _E.SESSION, _S.OPEN) for state in (*_WITHOUT_SESSION, _S.REFUSED)),
    *(Transition(state, _E.CLOSED_BY_SERVER, _S.SUSPICIOUS) for state in _WITHOUT_SESSION),
    Transition(_S.SUSPICIOUS, _E.GREETED_AGAIN, _S.CONNECTING),
    Transition(_S.SUSPICIOUS, _E.RULED_OUT, _S.REFUSED),
    *(Transition(state, _E.TOO_MANY, _S.FULL) for state in _WITHOUT_SESSION),
    *(Transition(state, _E.REFUSED, _S.REFUSED) for state in (*_WITHOUT_SESSION, _S.OPEN)),
    Transition(_S.OPEN, _E.LOST, _S.CONNECTING),
    Transition(_S.OPEN, _E.DAMAGED, _S.CONNECTING),
    *(Transition(state, _E.SILENT, _S.CLOSED, Step.RECONNECT) for state in (*_WITHOUT_SESSION, _S.OPEN)),
    *(Transition(state, _E.WITHDRAWN, _S.CLOSED, Step.RECONNECT) for state in (*_WITHOUT_SESSION, _S.OPEN, _S.FULL)),
    *(Transition(state, _E.ELSEWHERE, _S.CLOSED, Step.RECONNECT) for state in _WITHOUT_SESSION),
    Transition(_S.FULL, _E.BACKOFF_OVER, _S.CLOSED, Step.RECONNECT),
    Transition(_S.REFUSED, _E.OTHER_TARGET, _S.CLOSED, Step.RECONNECT),
    Transition(_S.REFUSED, _E.NO_OTHER, _S.CLOSED, Step.GIVE_UP),
)


class Diagnosis:
    """What the monitor of one connection reported, and what it means; fed by its thread, read by the caller's."""

    def __init__(
        self,
        address: str,
        own_fingerprint: str | None,
        server_fingerprint: str | None,
        ask_mechanism: Callable[[str], str | None],
        enough: Callable[[], int] = lambda: BROKEN_OFF_BEFORE_VERDICT,
        last_seen: str = _NO_ANSWER,
        silence: Silence | None = None,
    ) -> None:
        """Start without an event.

        Args:
            address: of the server.
            own_fingerprint: None on an unencrypted link.
            server_fingerprint: of the pinned key; None on an unencrypted link.
            ask_mechanism: returns the mechanism in the greeting of the server at an address.
            enough: returns after how many broken-off handshakes in a row the pin counts as wrong.
            last_seen: why there is no session, until an event says otherwise.
            silence: what that shows, as far as the connections before it do.
        """
        self._address = address
        self._ask_mechanism = ask_mechanism
        self._own = own_fingerprint
        self._pin = server_fingerprint
        self._enough = enough
        self._changed = threading.Condition()
        self._verdict: ConnectionRefused | None = None
        self._absent = False  # the last request for a greeting got none
        self.last_seen, self.silence = last_seen, silence
        self.unreachable = False  # no TCP connection was made yet, and an attempt has failed
        self.state = LINK.after(LINK.first, LinkEvent.CONNECTION).then
        self.broken_off = 0  # handshakes that the other side has ended since the last session
        self.generation = 0  # sessions so far

    @classmethod
    def blank(cls) -> "Diagnosis":
        """Return the diagnosis of no connection."""
        blank = cls("", None, None, lambda _: None)
        blank.state = LINK.first
        return blank

    @property
    def connected(self) -> bool:
        """Whether there is a session now, as far as the monitor has reported."""
        return self.state is LinkState.OPEN

    @property
    def answering(self) -> bool:
        """Whether something at the address has begun a handshake, which may be a slow one."""
        return self.last_seen in {_NO_HANDSHAKE, _CLOSED_AFTER_GREETING}

    def feed(self, event: SocketEvent) -> None:
        """Take one monitor event and wake the waiting threads; called by the monitor's thread only."""
        closed_again = event.kind is EventKind.BROKEN_OFF and self._verdict is None
        suspicious = closed_again and self.broken_off + 1 >= self._enough() - 1
        mechanism = self._ask_mechanism(self._address) if suspicious else None
        if event.kind is EventKind.RETRIED:
            self.unreachable = self.last_seen == _NO_ANSWER
        with self._changed:
            self._note(event)
            if suspicious:
                self._note_greeting(mechanism)
            self._changed.notify_all()

    def change(self, event: LinkEvent) -> Step:
        """Take an event; return what is to be done."""
        with self._changed:
            transition = LINK.after(self.state, event)
            self.state = transition.then
            return transition.effect or Step.KEEP

    def wait_until_settled(self, timeout_s: float) -> bool:
        """Wait for a session or a verdict; return whether there is a session."""
        with self._changed:
            self._changed.wait_for(lambda: self.connected or self._verdict is not None, timeout_s)
            return self.connected

    def verdict(self) -> ConnectionRefused | None:
        """Return the error that waiting or a retry would not change, if there is one."""
        return self._verdict

    def timed_out(
        self, action: str, deadline_s: float, addresses: Sequence[str] = (), repeat: str = ""
    ) -> ServerUnreachable:
        """Return the error for a deadline that passed without a verdict.

        Args:
            addresses: all that were tried, if there are several.
            repeat: how to repeat the request, for the end of the sentence.
        """
        last = "it received the request and did not reply" if self.connected else self.last_seen
        server = " or ".join(addresses) or self._address
        advice = (
            "; check that the agent runs (on its machine: docker compose ps) and that its address is right "
            "(network_config.yaml; of a profile: twinhost join --refresh)"
        )
        error = ServerUnreachable(
            f"no reply to {action} from {server} within {round(deadline_s, 2):g} s: {last}"
            f"{'' if last == _TOO_MANY_SESSIONS else advice}{repeat}"
        )
        error.silence = self.silence
        return error

    def _note(self, event: SocketEvent) -> None:
        match event.kind:
            case EventKind.SUCCEEDED:
                self.broken_off, self._absent, self._verdict = 0, False, None
                self.generation += 1
                self.silence = Silence.QUIET
                self.change(LinkEvent.SESSION)
            case EventKind.DISCONNECTED:
                if self.connected:
                    self.last_seen, self.silence = "the connection was lost", Silence.ENDED
                self.change(LinkEvent.LOST)
            case EventKind.CONNECTED if self.broken_off == 0 and self.last_seen != _TOO_MANY_SESSIONS:
                self.last_seen, self.silence = _NO_HANDSHAKE, Silence.FROZEN
            case EventKind.BROKEN_OFF if event.value == errno.EAGAIN:  # a peer that sends nothing is not a wrong key
                self.last_seen, self.silence = _NO_HANDSHAKE, Silence.FROZEN
            case EventKind.BROKEN_OFF:
                self.last_seen, self.silence = _CLOSED_IN_HANDSHAKE, Silence.ENDED
                self.broken_off += 1
                self.change(LinkEvent.CLOSED_BY_SERVER)
            case EventKind.REFUSED if event.value == _ZAP_TOO_MANY_SESSIONS:
                self.last_seen, self.silence = _TOO_MANY_SESSIONS, None
                self.change(LinkEvent.TOO_MANY)
            case EventKind.WRONG_KEYS if self.connected:  # a damaged message ended a session whose keys were right
                self.last_seen = "a damaged message ended the session"
                self.change(LinkEvent.DAMAGED)
            case _ if (error := self._refusal(event)) is not None:
                self._verdict = error
                self.change(LinkEvent.REFUSED)

    def _refusal(self, event: SocketEvent) -> ConnectionRefused | None:
        """Return the error for an event that alone says why there will be no session."""
        match event.kind:
            case EventKind.REFUSED if event.value != _ZAP_TRY_AGAIN:
                return NotAuthorized(
                    f"{self._address} refused this key ({self._own}): it is not authorised there, or it is revoked, "
                    "expired or not yet valid; compare it on mainpc: ./twinhost keys list"
                )
            case EventKind.MECHANISM_MISMATCH:
                return self._mismatch()
            case EventKind.WRONG_KEYS:
                return self._wrong_key() if self._own else self._mismatch()
            case EventKind.NOT_ZMTP:
                return SecurityMismatch(
                    f"{self._address} does not speak ZeroMQ: another program listens there; "
                    "check the port in network_config.yaml"
                )
            case _:
                return None

    def _note_greeting(self, mechanism: str | None) -> None:
        """Judge a server that has just broken off a handshake by its greeting; None if it sent none.

        A server without a greeting is stopping, starting, or behind a port proxy, so the client does not give up. Once
        it sends a greeting again, the handshakes broken off before don't count.
        """
        if self.last_seen == _CLOSED_IN_HANDSHAKE and mechanism is None:
            self.last_seen = _CLOSED_BEFORE_GREETING
        elif self.last_seen == _CLOSED_IN_HANDSHAKE and self._own is not None:
            self.last_seen = _CLOSED_AFTER_GREETING
        if mechanism is None:
            self._absent = True
        elif self._absent:
            self._absent, self.broken_off = False, 0
            self.change(LinkEvent.GREETED_AGAIN)
        elif (error := self._judge(mechanism)) is not None:
            self._verdict = error
            self.change(LinkEvent.RULED_OUT)

    def _judge(self, mechanism: str) -> ConnectionRefused | None:
        if self.broken_off < self._enough():  # this handshake timed out, and does not count
            return None
        if self._own is not None and mechanism == "CURVE":
            return self._wrong_key()
        encrypted_there = mechanism != "NULL"
        return self._mismatch() if encrypted_there != (self._own is not None) else None

    def _mismatch(self) -> SecurityMismatch:
        there, here = ("is not encrypted", "uses CURVE") if self._own else ("requires CURVE", "is not encrypted")
        return SecurityMismatch(
            f"{self._address} {there} and this client {here}; set SECURE_ZMQ to the same value on both hosts"
        )

    def _wrong_key(self) -> WrongServerKey:
        return wrong_server_key(self._address, self.broken_off, str(self._pin))


def wrong_server_key(address: str, broken_off: int, *pins: str) -> WrongServerKey:
    """Return the error for a server that ended this many handshakes, tried with each of these pins."""
    times = f"{broken_off} handshakes" if broken_off > 1 else "the handshake"
    return WrongServerKey(
        f"{address} ended {times} and gave no reason: most likely its key is not the pinned {' or '.join(pins)} "
        "(a failed ZAP handler there looks the same); read that host's log, and compare the key on mainpc: ./twinhost "
        "keys list; after a rotation, a profile gets the new key by: twinhost join --refresh"
    )


class Link:
    """Decides for one client, over all its connections; `feed` is for the monitor's thread, the rest for the owner's.

    While a server rotates its key, two of its keys are valid: they are tried in turn, each on its own socket,
    since libzmq ignores a second connect to the same endpoint. So are its addresses, if it has several.
    """

    def __init__(self, server: ServerAddress, ask_mechanism: Callable[[str], str | None] = mechanism_of) -> None:
        self._server = server
        self._ask_mechanism = ask_mechanism
        self._in_use: Target | None = None
        self._broken_off: dict[Target, int] = {}  # handshakes, since the last reply
        self._address = server.address  # in use, or to be used next
        self._left: dict[str, int] = {}  # how often each address was left, since the last reply
        self._replied = ""  # the address that replied last
        self._stuck = False  # whether that one was left last, and made TCP connections, and no handshake
        self._without_session: tuple[int, float] | None = None  # after how many sessions, and since when
        self._failures = 0  # errors since the last reply
        self._earlier_sessions = 0  # of the connections before this one
        self.retry_at: float | None = None  # when `step` will replace a connection that can't have a session any more
        self.leave_at: float | None = None  # when it will go on to another address, if there is no session by then
        self.diagnosis = Diagnosis.blank()  # of the connection in use

    @property
    def address(self) -> str:
        """Where the server is, such as `tcp://192.0.2.17:7230`; of several addresses, the one in use."""
        return self._address if len(self._server.addresses) > 1 else self._server.address

    @property
    def takeover_s(self) -> float:
        """How long a takeover by its standby may take; 0 where it has none."""
        return TAKEOVER_S if len(self._server.addresses) > 1 else 0.0

    @property
    def agent(self) -> str:
        """The name of the server's agent, where the address has it."""
        return self._server.agent if isinstance(self._server, FollowedAddress) else ""

    @property
    def identity(self) -> str:
        """The name in the own key; without one, that of every caller on an open link."""
        if isinstance(self._server, FollowedAddress | SecuredAddress):
            return self._server.own_keys.certificate.owner.name
        return UNAUTHENTICATED.name

    @property
    def secured(self) -> bool:
        """Whether it is used over CURVE only."""
        return not isinstance(self._server, UnencryptedAddress)

    def backoff_s(self) -> float:
        """Return how long to wait before the next connection, with jitter against simultaneous reconnects."""
        if self._failures == 0:
            return 0.0
        return min(_BACKOFF_MAX_S, _BACKOFF_S * 2.0**self._failures) * random.uniform(0.5, 1.0)  # noqa: S311

    def next_target(self) -> Target:
        """Return what to connect to now; every event of that connection's monitor goes to `feed`.

        If there are several pins, the first broken-off handshake of one leads to the next, so that a key rotation
        causes no delay. No pin is given up after fewer attempts than a single one gets.

        Raises:
            WrongServerKey: no key of this server is valid now.
        """
        targets = self._server.targets()
        self._earlier_sessions += self.diagnosis.generation
        last_seen = _TOO_MANY_SESSIONS if self.retry_at is not None else _NO_ANSWER
        silence = reconnecting(self.diagnosis.silence)
        self.diagnosis, self.retry_at = Diagnosis.blank(), None
        self.leave_at = self._without_session = None
        if not targets:
            self._failures += 1
            raise WrongServerKey(
                f"no key of {self._server.address} is valid here: every pinned key is expired or revoked; "
                "to see what to do, run: docker compose run --rm certs-init verify"
            )
        self._broken_off = {target: self._broken_off.get(target, 0) for target in targets}
        if self._address not in {target.address for target in targets}:
            self._address = targets[0].address
        here = [target for target in targets if target.address == self._address]
        target = min(here, key=lambda target: (self._broken_off[target], target != self._in_use))
        self._in_use = target
        own = target.own_keys.public.fingerprint if isinstance(target, SecuredAddress) else None
        pin = target.server_key.fingerprint if isinstance(target, SecuredAddress) else None
        self.diagnosis = Diagnosis(
            target.address, own, pin, self._ask_mechanism, lambda: self._enough(target), last_seen, silence
        )
        return target

    def feed(self, event: SocketEvent) -> None:
        """Take one monitor event of the connection in use."""
        self.diagnosis.feed(event)

    @property
    def session(self) -> int:
        """The unique number of the session in which a request may be sent now; 0 for none."""
        if not self.diagnosis.connected or self.withdrawn():
            return 0
        return self.sessions

    @property
    def sessions(self) -> int:
        """How many there have been over all connections."""
        return self._earlier_sessions + self.diagnosis.generation

    def wait_for_session(self, timeout_s: float) -> int:
        """Wait for a session or a verdict; return the `session` then."""
        return self.session if self.diagnosis.wait_until_settled(timeout_s) else 0

    @property
    def had_session(self) -> bool:
        """Whether the connection in use has had a session."""
        return self.diagnosis.generation > 0

    @property
    def hopeless(self) -> bool:
        """Whether the connection in use can have no session any more; on any thread."""
        diagnosis = self.diagnosis
        return not diagnosis.connected and (diagnosis.verdict() is not None or self.withdrawn())

    def withdrawn(self) -> bool:
        """Whether the target in use is no longer valid: our key changed, its pin was retired, or its address moved."""
        return self._in_use not in self._server.targets()

    def timed_out(self, action: str, deadline_s: float, request_id: str | None = None) -> ServerUnreachable:
        """Return the error for a deadline that passed; where a standby may take over, it says what to repeat."""
        addresses = self._server.addresses
        repeat = f"; to have it executed once, repeat it with request_id={request_id!r}" if request_id else ""
        return self.diagnosis.timed_out(action, deadline_s, addresses, repeat if len(addresses) > 1 else "")

    def step(self, now: float, waiting_since: float | None = None) -> Step:
        """Return what to do with the connection in use.

        Args:
            now: by the owner's monotonic clock, in seconds.
            waiting_since: since when a reply is due and nothing was received; None if none is due.

        Raises:
            ConnectionRefused: a retry would fail in the same way; the owner closes the connection.
        """
        diagnosis, error = self.diagnosis, None
        if diagnosis.state is LinkState.CLOSED:
            return Step.RECONNECT
        if diagnosis.state is LinkState.REFUSED:
            error = self._final_error()
            event = LinkEvent.NO_OTHER if error else LinkEvent.OTHER_TARGET
        elif diagnosis.state is LinkState.FULL and now >= self._retry_at(now):
            event = LinkEvent.BACKOFF_OVER
        elif self.withdrawn():
            event = LinkEvent.WITHDRAWN
        elif waiting_since is not None and now - waiting_since >= SILENT_AFTER_S and self.had_session:
            event = LinkEvent.SILENT
        elif self._may_leave(now):
            self._leave()
            event = LinkEvent.ELSEWHERE
        else:
            return Step.KEEP
        step = diagnosis.change(event)
        if step is Step.GIVE_UP and error is not None:
            self._failures += 1
            raise error
        return step

    def _may_leave(self, now: float) -> bool:
        """Return whether to try another address; the time without a session begins where this is asked for first."""
        diagnosis, sessions = self.diagnosis, self.sessions
        if diagnosis.state not in _WITHOUT_SESSION or len(self._server.addresses) == 1:
            self.leave_at = None
            return False
        if self._without_session is None or self._without_session[0] != sessions:
            self._without_session = sessions, now
        times, patience_s = self._left.get(self._address, 0), _ELSEWHERE_AFTER_S
        if diagnosis.answering:
            takes_over = self._replied not in {"", self._address}
            patience_s *= 2 ** (_SLOWER if takes_over else min(times, _SLOWER))
        elif diagnosis.unreachable and not times:
            patience_s = 0.0
        elif self._stuck and times:
            patience_s = _WATCHED_S
        self.leave_at = self._without_session[1] + patience_s
        return now >= self.leave_at

    def _leave(self) -> None:
        """Have the next address tried next."""
        addresses = list(self._server.addresses)
        self._left[self._address] = self._left.get(self._address, 0) + 1
        self._stuck = self.diagnosis.answering and self._address == self._replied
        self._address = addresses[(addresses.index(self._address) + 1) % len(addresses)]

    def _here(self) -> Sequence[Target]:
        """Return the targets at the address in use."""
        return [target for target in self._server.targets() if target.address == self._address]

    def _retry_at(self, now: float) -> float:
        """Return when the backoff is over, which begins where it is asked for first."""
        if self.retry_at is None:
            self._failures += 1
            self.retry_at = now + self.backoff_s()
        return self.retry_at

    def worked(self) -> None:
        """Note that the target in use replies."""
        self._failures = 0
        self._replied = self._address
        self._broken_off.clear()
        self._left.clear()

    def accepts(self, reply: Reply) -> bool:
        """Note a reply; return False if it refuses our previous key: reconnect and repeat the request."""
        if reply.get("code") == PeerNotLive.code and self.withdrawn():
            return False
        self.worked()
        return True

    def _final_error(self) -> ConnectionRefused | None:
        """Take the verdict on the target in use; return the error to give up with, or None to try another target."""
        verdict = self.diagnosis.verdict()
        if verdict is None or self._in_use is None or self.withdrawn():
            return None
        if isinstance(verdict, WrongServerKey):
            verdict = self._wrong_key(verdict, self._in_use)
        if verdict is None:
            return None
        if not {*self._server.addresses} <= {self._address, *self._left}:
            self._leave()
            return None
        self._left.clear()
        if isinstance(verdict, WrongServerKey):
            self._broken_off.clear()
        return verdict

    def _wrong_key(self, verdict: WrongServerKey, target: Target) -> WrongServerKey | None:
        """Count broken-off handshakes; return the error once each pin at this address had its attempts."""
        self._broken_off[target] = self._broken_off.get(target, 0) + max(1, self.diagnosis.broken_off)
        self._in_use, targets = None, self._here()
        counts = [self._broken_off.get(target, 0) for target in targets]
        if min(counts) < BROKEN_OFF_BEFORE_VERDICT:
            return None
        if len(targets) == 1:
            return verdict
        pins = [target.server_key.fingerprint for target in targets if isinstance(target, SecuredAddress)]
        return wrong_server_key(self._address, sum(counts), *pins)

    def _enough(self, target: Target) -> int:
        """Return after how many further broken-off handshakes the next target is tried."""
        before = self._broken_off.get(target, 0)
        if len(self._here()) > 1 and not before:
            return 1
        return max(1, BROKEN_OFF_BEFORE_VERDICT - before)


def described(client: object, agent: str, link: Link) -> str:
    """Return what `repr` shows of a client: never a key."""
    agent = agent or link.agent
    shown = f"agent={agent!r} " if agent else ""
    return f"<{type(client).__name__} {shown}address={link.address!r} secured={link.secured}>"
