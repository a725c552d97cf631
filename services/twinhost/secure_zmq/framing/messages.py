"""Messages of a ROUTER, received and sent many at a time.

`_messages` does this compiled, where scripts/setup/native.sh has built it; else pyzmq does. The results are the same: a
frame of `_messages` has those attributes of a `zmq.Frame` that the server reads.
"""

import os
import time
from collections import deque
from collections.abc import Iterable
from itertools import islice
from weakref import WeakSet

import zmq

from twinhost.secure_zmq.framing.forms import SEPARATOR
from twinhost.secure_zmq.session import Account
from twinhost.secure_zmq.sockets import DONTWAIT, plain_send, readable

try:
    from twinhost.secure_zmq.framing import _messages as compiled
except ImportError:
    compiled = None  # type: ignore[assignment]

MESSAGES = "with pyzmq" if compiled is None else "compiled"
Received = list[tuple[bytes, zmq.Frame]]  # each as its routing-id and the frame after it

AT_ONCE = 32  # messages
AT_ONCE_BYTES = 256 * 1024  # with more, each is sent before the next one is made: it is in memory twice meanwhile
LOOK_US = 150  # how long to look for a message before sleeping, where one usually comes within that time

_SNDMORE = DONTWAIT | int(zmq.SNDMORE)
_TRACKED_FROM_BYTES = 512  # by pyzmq, which takes 20 µs for each; libzmq keeps 512 smaller ones of a connection


Outgoing = tuple[list[bytes], bytes, Account | None]  # the frames that lead to a peer, the content, who counts that


def new_account(owner: Account | None = None) -> Account:
    """Return the account of a connection, which is its owner's too; or of an owner, who has no messages."""
    if isinstance(owner, TrackedAccount) or compiled is None:
        return TrackedAccount(owner)
    return compiled.Account() if owner is None else compiled.Account(owner)


class TrackedAccount:
    """An account that pyzmq keeps."""

    def __init__(self, owner: Account | None = None) -> None:
        self._owner = owner
        self._messages: deque[tuple[zmq.MessageTracker, int]] = deque()
        self._accounts: WeakSet[TrackedAccount] = WeakSet()
        if isinstance(owner, TrackedAccount):
            owner.add(self)

    def add(self, account: "TrackedAccount") -> None:
        """Be the owner of an account, for as long as that is in use."""
        self._accounts.add(account)

    @property
    def unsent(self) -> int:
        while len(self._messages) > 1 and self._messages[1][0].done:
            self._messages.popleft()
        return sum(size for _, size in self._messages) + sum(account.unsent for account in self._accounts)

    @property
    def of_owner(self) -> int:
        return (self._owner or self).unsent

    def drained(self) -> None:
        if self.unsent and len(self._messages) == 1 and self._messages[0][0].done:
            self._messages.clear()

    def framed(self, content: bytes) -> zmq.Frame:
        """Return a frame that counts until libzmq lets go of it."""
        frame = zmq.Frame(content, track=True, copy=False)
        self._messages.append((frame.tracker, len(content)))
        return frame


class Pace:
    """How soon messages come after the replies to those before; of one loop."""

    def __init__(self) -> None:
        self._usual_us = self._pause_us = 4.0 * LOOK_US  # a moving average; what a pause of any length counts as
        self.look_us = 0  # how long to look for the next message before sleeping; 0 where it hardly comes so soon

    def note(self, waited_s: float) -> None:
        """Note how many seconds it took until messages came."""
        self._usual_us += (min(1e6 * waited_s, self._pause_us) - self._usual_us) / 4
        self.look_us = LOOK_US if self._usual_us < LOOK_US else 0


def receive(socket: "zmq.Socket[bytes]", most: int, max_bytes: int, flags: int, look_us: int = 0) -> Received:
    """Return messages that have arrived: `most` at most, and no further one once they have `max_bytes`.

    A message that may hold several requests is the last one: a text sequence, or one with `more` frames, of which the
    rest is to be received first.

    Args:
        socket: a ROUTER, of the caller's thread.
        most: at least 1.
        max_bytes: at least 1.
        flags: DONTWAIT, or 0 to wait for the first message as long as the socket's `rcvtimeo` says.
        look_us: how long to look for the first message before sleeping, in µs; others run on this core meanwhile.
    """
    if compiled is not None:
        return compiled.receive(socket.underlying, most, max_bytes, flags, look_us)
    return receive_with_pyzmq(socket, most, max_bytes, flags, look_us)


def receive_with_pyzmq(
    socket: "zmq.Socket[bytes]", most: int, max_bytes: int, flags: int, look_us: int = 0
) -> Received:
    """Return what `receive` does."""
    received: Received = []
    until = time.perf_counter() + (0.0 if flags & DONTWAIT else look_us / 1e6)
    try:
        while time.perf_counter() < until and not readable(socket):
            os.sched_yield()
        while len(received) < most and max_bytes > 0:
            routing_id = socket.recv(flags)
            frame = socket.recv(copy=False)
            received.append((routing_id, frame))
            if frame.more or (len(frame) and frame.buffer[0] == SEPARATOR[0]):
                break
            max_bytes -= len(frame)
            flags = DONTWAIT
            if most == 2 and not readable(socket):  # as after single requests; a failing receive costs more
                break
    except zmq.Again:
        pass
    return received


def discard_rest(socket: "zmq.Socket[bytes]") -> tuple[int, int]:
    """Receive the further frames of a message, and keep none of them; return how many they were, and their bytes.

    libzmq holds them already. All others wait meanwhile: for as long as this takes, nothing else can be received.

    Args:
        socket: a ROUTER, of the caller's thread, whose last frame was followed by `more`.
    """
    if compiled is not None:
        return compiled.discard(socket.underlying)
    more, frames, size = True, 0, 0
    while more:  # the frame's flag takes half as long as the socket's option, which delays all other requests
        frame = socket.recv(copy=False)
        more = frame.more
        frames += 1
        size += len(frame)
    return frames, size


def send(socket: "zmq.Socket[bytes]", messages: Iterable[Outgoing], *, at_once: bool) -> list[int]:
    """Send messages without waiting; return the error number of each that was not sent.

    Such as EHOSTUNREACH, where there is no such peer, or EAGAIN, where its queue is full. No message is taken long
    before it is sent: one at a time, or as many as are sent in one compiled call, in which no other thread is waited
    for.

    Args:
        socket: a ROUTER with `router_mandatory`, of the caller's thread.
        messages: each has 1 to 3 frames before its content.
        at_once: send up to AT_ONCE in one compiled call, else each in one of its own; for AT_ONCE_BYTES at most.

    Raises:
        zmq.ZMQError: a message was sent in part; the socket can only be closed.
    """
    if compiled is None:
        return send_with_pyzmq(socket, messages)
    handle, failed = socket.underlying, list[int]()
    if not at_once:
        for message in messages:
            failed += compiled.send(handle, [message])
        return failed
    rest = iter(messages)
    while some := list(islice(rest, AT_ONCE)):
        failed += compiled.send(handle, some)
    return failed


def send_with_pyzmq(socket: "zmq.Socket[bytes]", messages: Iterable[Outgoing]) -> list[int]:
    """Do what `send` does."""
    send_frame = plain_send(socket)
    failed: list[int] = []
    for route, content, account in messages:
        try:
            send_frame(route[0], _SNDMORE)
        except zmq.ZMQError as error:
            failed.append(error.errno or 0)
            continue
        for part in route[1:]:
            send_frame(part, _SNDMORE)
        if isinstance(account, TrackedAccount) and len(content) >= _TRACKED_FROM_BYTES:
            socket.send(account.framed(content), DONTWAIT, copy=False, track=True)
        else:
            send_frame(content, DONTWAIT)
    return failed
