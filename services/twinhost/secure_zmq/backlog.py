"""What callers leave unread: bounded in bytes for each identity, all its connections together.

libzmq's high-water marks count messages, of any size, for each connection. So the bytes that libzmq holds are counted
(`framing.messages.Account`). Where a caller's replies would not fit into its budget `unsent_bytes`, a request is
refused before it is executed; where a reply exceeds the budget nevertheless, the connections that leave most unread are
closed, the worst first. Whoever was executed gets the stored reply with a retry.
"""

from collections.abc import Mapping

from twinhost.secure_zmq.budgets import Budgets, over_budget
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.descriptors import unsent
from twinhost.secure_zmq.errors import OverBudget
from twinhost.secure_zmq.session import Session
from twinhost.secure_zmq.sessions import CallerSource

UNCOUNTED_BYTES = 256  # of a reply: counting costs as much as sending it, and libzmq keeps 512 of a connection
LOOK_FROM_BYTES = 64 * 1024  # of an owner: with less, nothing is looked up; a budget is at least as large
_LIMIT = "unsent_bytes"
_REMEDY = "read the replies that wait for you, and repeat this request, which was not executed"
_REASON = "it leaves more unread than its budget unsent_bytes allows; read the replies"


class Backlog:
    """The unread replies of a socket's callers; on the thread that owns the socket."""

    def __init__(self, sessions: CallerSource, budgets: Budgets, largest: int) -> None:
        """Take the socket's sessions, the budgets, and how many bytes a reply has at most."""
        self._sessions = sessions
        self._budgets = budgets
        self._largest = largest
        self.crowded: set[str] = set()  # owners that may have more than LOOK_FROM_BYTES unread

    def refusal(self, caller: Caller, session: Session) -> OverBudget | None:
        """Return why a request is not executed, if a reply may not fit beside what its caller has not read."""
        if session.account.of_owner <= LOOK_FROM_BYTES:
            self.crowded.discard(session.name)
            return None
        most = self._most(caller)
        room = most - min(self._largest, most // 2)
        if session.account.of_owner <= room or (used := self._settle(session)) <= room:
            return None
        return over_budget(caller.name, _LIMIT, used, most, _REMEDY)

    def fits(self, session: Session, size: int) -> bool:
        """Return whether a reply is to be sent; where it is not, its connection is closed.

        The connections of its caller that leave most unread are closed first.
        """
        self.crowded.add(session.name)
        caller = self._sessions.caller_named(session.name)
        if caller is None:  # nothing is sent to it, as soon as that is noticed
            return True
        excess = session.account.of_owner + size - self._most(caller)
        if excess <= 0:
            return True
        used = self._settle(session)
        excess = used + size - self._most(caller) if used else 0  # one reply may be larger than the budget
        stays = True
        for worst in sorted(self._sessions.of_owner(session.name), key=lambda other: -other.account.unsent):
            if excess <= 0:
                break
            excess -= worst.account.unsent + (size if worst is session else 0)
            stays = stays and worst is not session
            self._sessions.connections.close_now(worst.fd, worst.remote, _REASON)
        return stays

    def used(self) -> Mapping[str, float]:
        """Return how much each owner has not read."""
        return self._sessions.unsent()

    def _most(self, caller: Caller) -> int:
        return max(LOOK_FROM_BYTES, self._budgets.of(caller).unsent_bytes)

    def _settle(self, session: Session) -> int:
        """Leave out what is sent, where the kernel has nothing left to send; return what the owner has unread."""
        for other in self._sessions.of_owner(session.name):
            if not unsent(other.fd):
                other.account.drained()
        return session.account.of_owner
