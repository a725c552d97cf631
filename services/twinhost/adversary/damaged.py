"""Sessions that are broken by one bad frame, and ended with a reset: many of them must cost nobody but themselves.

libzmq 4.3.5 may take a frame that can't be opened for one that has to wait: a monitor's event between the two
clears the reason. Such a session is never read again, and with heartbeats of its own an agent aborts at
the next one after its end (`Assertion failed: !_io_error`). So it is not enough that a replay is not answered.
"""

import contextlib
import time

from twinhost.adversary.attack import OPEN_LINK, Attack, Outcome, broken, held, not_played
from twinhost.adversary.target import Target
from twinhost.adversary.zmtp import HungUp, Silent
from twinhost.secure_zmq.errors import TwinhostError

SESSIONS = 60  # of which about four are not ended at once
WATCHED_S = 6.0  # more than the time between two heartbeats
_EVERY_S = 0.5


def _damaged(target: Target) -> Outcome:
    if not target.secure:
        return not_played(OPEN_LINK)
    for _ in range(SESSIONS):
        with target.insider() as client:
            frame = client.encode(b'{"action":"ping"}')
            client.line.send(frame)
            client.receive()
            with contextlib.suppress(HungUp, Silent):
                client.line.send(frame)
                client.line.read_to_end(0.02)
            client.line.reset()
    watched_until, slowest = time.monotonic() + WATCHED_S, 0.0
    while time.monotonic() < watched_until:
        time.sleep(_EVERY_S)
        try:
            slowest = max(slowest, target.good_call_s())
        except TwinhostError as error:
            return broken(
                f"after {SESSIONS} sessions with one repeated frame each a good client was not served: {error}"
            )
    return held(f"{SESSIONS} sessions ended for a repeated frame, and a good client waited {slowest:.2f} s at most")


ATTACKS = (Attack("damaged sessions", "one bad frame ends its own session and nothing else", _damaged),)
