"""Attacks by a third party on the network path: record, replay, and damage its traffic.

About damaged sessions: libzmq 4.3.5 may treat a frame that can't be decrypted as one that has to wait, if a
monitor event in between clears the reason. Such a session is never read again, and an agent whose socket sends
heartbeats aborts at the next one after the session's end (`Assertion failed: !_io_error`). So it is not enough that a
replay gets no answer: many sessions are broken by one bad frame each and reset, while other clients are served.
"""

import contextlib
import secrets
import socket
import threading
import time

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
from twinhost.adversary.zmtp import (
    GREETING_BYTES,
    READY,
    Disconnected,
    Frame,
    Listener,
    NoAnswer,
    split_frames,
    whole_frame,
)
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import RequestError, TwinhostError

SESSIONS = 60  # about four of them don't end at once
WATCHED_S = 6.0  # more than the time between two heartbeats
_EVERY_S = 0.5
_CHUNK = 65_536
_ANSWER_BYTES = 64  # a reply is longer, heartbeats on CURVE are shorter
_WAIT_S = 3.0


class Conversation:
    """One connection through the relay, from the client (`up`) to the agent and back (`down`)."""

    def __init__(self, client: socket.socket, agent: socket.socket) -> None:
        self.up, self.down = bytearray(), bytearray()
        self.ended = threading.Event()  # by the agent
        self.flip_next = False
        self._client, self._agent = client, agent
        self._lock = threading.Lock()

    def start(self) -> None:
        threading.Thread(target=self._pump_up, name="relay-up", daemon=True).start()
        threading.Thread(target=self._pump_down, name="relay-down", daemon=True).start()

    def requests(self) -> list[bytes]:
        """Return the bytes of the frames that held requests, in order."""
        frames: list[bytes] = []
        stream = bytes(self.up[GREETING_BYTES:])
        while (size := whole_frame(stream)) is not None:
            if any(map(is_message, split_frames(stream[:size]))):
                frames.append(stream[:size])
            stream = stream[size:]
        return frames

    def answers_after(self, mark: int) -> int:
        """Return the number of replies after the first `mark` bytes from the agent."""
        return sum(map(is_message, split_frames(bytes(self.down[mark:]))))

    def inject(self, content: bytes) -> None:
        """Send something to the agent as if the client had."""
        with contextlib.suppress(OSError), self._lock:
            self._agent.sendall(content)

    def close(self) -> None:
        for end in (self._client, self._agent):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _pump_up(self) -> None:
        pending = b""
        with contextlib.suppress(OSError):
            while part := self._client.recv(_CHUNK):
                greeting_left = max(0, GREETING_BYTES - len(self.up))
                self._forward(part[:greeting_left])  # at once: each side waits for the other's
                pending += part[greeting_left:]
                while (size := whole_frame(pending)) is not None:
                    self._forward(self._tampered(pending[:size]))
                    pending = pending[size:]
        self.close()

    def _forward(self, content: bytes) -> None:
        with self._lock:
            self.up += content
            self._agent.sendall(content)

    def _tampered(self, frame: bytes) -> bytes:
        if not self.flip_next or not any(map(is_message, split_frames(frame))):
            return frame
        self.flip_next = False
        return frame[:-1] + bytes([frame[-1] ^ 1])

    def _pump_down(self) -> None:
        with contextlib.suppress(OSError):
            while part := self._agent.recv(_CHUNK):
                self.down += part
                self._client.sendall(part)
        self.ended.set()
        self.close()


class Relay(Listener):
    """Listens on loopback for clients of one agent; ends with its `with`."""

    def __init__(self, host: str, port: int) -> None:
        self.conversations: list[Conversation] = []
        self._to = host, port
        super().__init__(self._relay)

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        for conversation in self.conversations:
            conversation.close()

    def _relay(self, client: socket.socket) -> None:
        try:
            agent = socket.create_connection(self._to, timeout=5)
        except OSError:
            client.close()
            return
        agent.settimeout(None)
        conversation = Conversation(client, agent)
        self.conversations.append(conversation)
        conversation.start()


def is_message(frame: Frame) -> bool:
    """Whether a frame holds a request or a reply: no command of the handshake, no heartbeat."""
    return not frame.command and len(frame.body) > _ANSWER_BYTES


def _plaintext(target: AttackedAgent) -> AttackOutcome:
    marker = secrets.token_hex(16)
    with _relay(target) as relay, target.client(relay.address) as client:
        _ask(client, marker)
        session = _session(relay)
        seen = bytes(session.up) + bytes(session.down)
    readable = [word for word in (marker, "request_id", "pong") if word.encode() in seen]
    if readable:
        why = "" if target.secure else "; SECURE_ZMQ=0: set it to 1 on both hosts"
        return breached(f"anybody on the path can read everything: {', '.join(readable)}{why}")
    return defended(
        f"{len(seen)} bytes were recorded both ways, and nothing of the request or the reply can be read in them"
    )


def _replay_same_connection(target: AttackedAgent) -> AttackOutcome:
    with _relay(target) as relay, target.client(relay.address) as client:
        _ask(client)
        conversation = _session(relay)
        mark = len(conversation.down)
        conversation.inject(conversation.requests()[-1])
        return _judge(conversation, mark, "a repeated request was answered twice")


def _replay_new_connection(target: AttackedAgent) -> AttackOutcome:
    with _relay(target) as relay, target.client(relay.address) as client:
        _ask(client)
        recorded = bytes(_session(relay).up)
    with target.connect() as connection:
        try:
            connection.send(recorded[:GREETING_BYTES])
            connection.read(GREETING_BYTES)
            connection.send(recorded[GREETING_BYTES:])
            while True:
                frame = connection.read_frame(_WAIT_S)
                if frame.body.startswith(READY) or is_message(frame):
                    return breached("a recorded handshake opened a session for a client without a key")
        except Disconnected as end:
            return defended(f"it disconnected the recorded handshake: {end}")
        except NoAnswer:
            return defended("the recorded handshake got no answer")


def _flipped_bit(target: AttackedAgent) -> AttackOutcome:
    with _relay(target) as relay, target.client(relay.address) as client:
        _ask(client)
        conversation = _session(relay)
        mark = len(conversation.down)
        conversation.flip_next = True
        try:
            _ask(client)
        except RequestError as error:
            return breached(f"a request with a flipped bit was read and answered: {error}")
        except TwinhostError as error:
            return breached(f"after a flipped bit the client got no more answers: {error}")
        if conversation.flip_next:
            return breached("the relay found no request to damage, so nothing is proven")
        return _judge(conversation, mark, "a request with a flipped bit was answered")


def _session(relay: Relay) -> Conversation:
    """Return the newest recorded session with a request and its reply.

    Raises:
        NoAnswer: there is none, so the attack would prove nothing.
    """
    for conversation in reversed(relay.conversations):
        if conversation.requests() and conversation.answers_after(GREETING_BYTES):
            return conversation
    raise NoAnswer("the relay recorded no request and no answer, so nothing is proven")


def _judge(conversation: Conversation, mark: int, complaint: str) -> AttackOutcome:
    """Wait for an answer that must not come, or the end that must."""
    deadline = time.monotonic() + _WAIT_S
    while not (conversation.ended.is_set() or conversation.answers_after(mark)) and time.monotonic() < deadline:
        time.sleep(0.01)
    if conversation.answers_after(mark):
        return breached(complaint)
    ended = conversation.ended.is_set()
    return defended("it closed the connection and did not answer" if ended else "it did not answer")


def _relay(target: AttackedAgent) -> Relay:
    return Relay(target.agent.host.address, target.agent.zmq_port)


def _ask(client: Client, marker: str = "") -> None:
    """Make one request that is longer than a heartbeat and changes nothing."""
    client.call("ping", deadline_s=3 * SERVED_WITHIN_S, note=marker or secrets.token_hex(32))  # an unknown field


ATTACKS = (
    Attack("capture on the wire", "nobody on the path can read what is sent", _plaintext),
    Attack("replay, same connection", "a recorded request works once", _replay_same_connection),
    Attack("replay, new connection", "a recorded session can't be reopened", _replay_new_connection),
    Attack("flipped bit", "a request that was changed on the path is not answered", _flipped_bit),
)


def _damaged(target: AttackedAgent) -> AttackOutcome:
    if not target.secure:
        return not_played(OPEN_LINK)
    for _ in range(SESSIONS):
        with target.insider() as client:
            frame = client.encode(b'{"action":"ping"}')
            client.connection.send(frame)
            client.receive()
            with contextlib.suppress(Disconnected, NoAnswer):
                client.connection.send(frame)
                client.connection.read_to_end(0.02)
            client.connection.reset()
    watched_until, slowest = time.monotonic() + WATCHED_S, 0.0
    while time.monotonic() < watched_until:
        time.sleep(_EVERY_S)
        try:
            slowest = max(slowest, target.served_after_s())
        except TwinhostError as error:
            return breached(
                f"after {SESSIONS} sessions with one repeated frame each a legitimate client was not served: {error}"
            )
    waited = f"legitimate clients waited {slowest:.2f} s at most"
    return defended(f"{SESSIONS} sessions ended for a repeated frame, and {waited}")


DAMAGED = (Attack("damaged sessions", "one bad frame ends its own session and nothing else", _damaged),)
