"""A small agent on a real socket of 127.0.0.1, served by a thread, as the two real ones are by their main thread."""

import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq

from tests.older_database import REPLY_LOG_MIGRATIONS
from tests.ports import vacant_address
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.actions import Action
from twinhost.secure_zmq.authenticator import Authenticator
from twinhost.secure_zmq.bound_socket import open_server_socket, open_unencrypted_server_socket
from twinhost.secure_zmq.callers import Caller, Grants
from twinhost.secure_zmq.connections import SESSIONS_PER_KEY, SessionLimits
from twinhost.secure_zmq.dispatch import Dispatcher, Store
from twinhost.secure_zmq.handshakes import Handshakes
from twinhost.secure_zmq.keys import KeyPair, PublicKey
from twinhost.secure_zmq.peers import AuthorizedPeers, Outcome
from twinhost.secure_zmq.server import Server
from twinhost.secure_zmq.server_address import SecuredAddress, UnencryptedAddress
from twinhost.secure_zmq.wire import Reply, Request
from twinhost.store.database import Database
from twinhost.store.reply_log import ReplyLog

PAYLOAD_LIMIT = 4 * 1024 * 1024
ANY_PORT = "tcp://127.0.0.1:*"
EVERYDAY = frozenset({"who_am_i", "echo", "add", "total", "work", "large", "hold", "ask_another"})
GRANTS = Grants({"agent": EVERYDAY, "unauthenticated": EVERYDAY, "operator": {"*"}})
TABLES = "CREATE TABLE sums (seq INTEGER PRIMARY KEY, amount INTEGER NOT NULL, written_by TEXT NOT NULL) STRICT"


class WhoAmI(Request, tag="who_am_i"):
    """Who the agent takes the sender for."""


class Echo(Request, tag="echo"):
    """The same text again."""

    text: str


class Add(Request, tag="add"):
    """Add to a durable sum."""

    amount: int


class Total(Request, tag="total"):
    """The durable sum."""


class Work(Request, tag="work"):
    """Something that keeps the agent busy for a millisecond."""


class Large(Request, tag="large"):
    """A reply of so many bytes, and some more."""

    reply_bytes: int


class Hold(Request, tag="hold"):
    """Answered only when the test opens the gate."""


class AskAnother(Request, tag="ask_another"):
    """Answered by another thread, when the test has it answer."""

    name: str


class Reset(Request, tag="reset"):
    """An operator's action."""


class ServedAgent:
    """The agent, and what a test may look at from outside its thread."""

    def __init__(
        self,
        home: Path,
        own_keys: KeyPair | None,
        *,
        peers: AuthorizedPeers | None = None,
        address: str | None = None,
        wrap_store: Callable[[Database], Store] = lambda database: database,
        sessions_per_key: int = SESSIONS_PER_KEY,
        require_held: Callable[[], None] | None = None,
    ) -> None:
        """Bind and serve; without `own_keys`, an open link. Authorised keys lie in `home`, as does the database.

        The address is one that stays vacant after the agent's end, for the next life of it.
        """
        address = address or vacant_address()
        self.own_keys = own_keys
        self.executions: list[int] = []
        self.worked = 0  # how often
        self.entered, self.gate = threading.Event(), threading.Event()
        self.asked: dict[str, Future[Reply]] = {}
        self.before_hold_returns: Callable[[], None] = lambda: None
        self.database = Database(home / "agent.sqlite3", [*REPLY_LOG_MIGRATIONS, TABLES])
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.peers = peers or AuthorizedPeers([home])
        limits = SessionLimits(sessions_per_key)
        self.authenticator = Authenticator(self.context, self.peers, limits=limits) if own_keys else None
        if self.authenticator is not None and own_keys is not None:
            self.server_socket = open_server_socket(self.authenticator, own_keys, address, PAYLOAD_LIMIT)
        else:
            self.server_socket = open_unencrypted_server_socket(self.context, address, PAYLOAD_LIMIT, Handshakes())
        self.address = self.server_socket.address
        dispatcher = self._dispatcher(wrap_store(self.database))
        self.counters = dispatcher.counters
        self.server = Server(self.server_socket, dispatcher, lambda: None, require_held=require_held)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name="served-agent")
        self._thread.start()

    @property
    def public_key(self) -> PublicKey:
        """The key that clients pin."""
        assert self.own_keys is not None
        return self.own_keys.public

    def secured(self, keys: KeyPair) -> SecuredAddress:
        """Return how a holder of `keys` reaches this agent."""
        return SecuredAddress(self.address, keys, self.public_key)

    def unencrypted(self) -> UnencryptedAddress:
        """Return how somebody without keys reaches this agent."""
        return UnencryptedAddress(self.address)

    def counted(self, outcome: Outcome, at_least: int = 1) -> int:
        """Wait until so many handshakes ended like this, and return how many."""
        counts = self.server_socket.handshakes.counts
        wait_until(lambda: counts()[outcome.value] >= at_least, PATIENCE_S, f"the server counts {outcome}")
        return counts()[outcome.value]

    def total(self) -> int:
        """Return the sum as the file has it; only where the agent is not writing."""
        (amount,) = self.database.execute("SELECT coalesce(sum(amount), 0) FROM sums").fetchone()
        return int(amount)

    def join(self) -> BaseException | None:
        """Wait for the end of the loop, let everything go, and return what ended the loop, if not `stop()`."""
        self.gate.set()
        self._thread.join(timeout=PATIENCE_S)
        if self._thread.is_alive() and self._thread.ident is not None:
            where = traceback.format_stack(sys._current_frames()[self._thread.ident])
            raise AssertionError("the server's loop did not end:\n" + "".join(where))
        self.context.term()  # ends the handler at once; stop() alone waits for its next turn
        if self.authenticator is not None:
            self.authenticator.stop()
        self.peers.close()
        self.database.close()
        return self._failure

    def stop(self) -> None:
        """End the loop as SIGTERM does, and let everything go."""
        self.server.stop()
        failure = self.join()
        if failure is not None:
            raise failure

    def _serve(self) -> None:
        try:
            self.server.serve_forever()
        except BaseException as error:  # noqa: BLE001 - handed to the test by join()
            self._failure = error

    def _dispatcher(self, store: Store) -> Dispatcher:
        return Dispatcher(
            [
                Action(WhoAmI, who_am_i),
                Action(Echo, lambda request, _: {"status": "ok", "text": request.text}),
                Action(Add, self._add, mutates=True),
                Action(Total, lambda _, __: {"status": "ok", "total": self.total()}),
                Action(Work, self._work),
                Action(Large, lambda request, _: {"status": "ok", "text": "x" * request.reply_bytes}),
                Action(Hold, self._hold),
                Action(AskAnother, lambda request, _: self.asked.setdefault(request.name, Future())),
                Action(Reset, lambda _, __: {"status": "ok"}),
            ],
            GRANTS,
            store,
            ReplyLog(self.database, 600, 10_000),
            PAYLOAD_LIMIT,
        )

    def _add(self, request: Add, caller: Caller) -> Reply:
        self.executions.append(request.amount)
        self.database.execute("INSERT INTO sums (amount, written_by) VALUES (?, ?)", (request.amount, caller.name))
        return {"status": "ok", "total": self.total()}

    def _work(self, _: Work, __: Caller) -> Reply:
        """Take a millisecond, as a handler that computes does."""
        time.sleep(0.001)
        self.worked += 1
        return {"status": "ok"}

    def _hold(self, _: Hold, __: Caller) -> Reply:
        self.entered.set()
        self.gate.wait(PATIENCE_S)
        self.before_hold_returns()
        return {"status": "ok"}


def who_am_i(_: WhoAmI, caller: Caller) -> Reply:
    """Return the caller as handlers see it."""
    return {
        "status": "ok",
        "name": caller.name,
        "host": caller.host,
        "roles": sorted(caller.roles),
        "authenticated": caller.authenticated,
        "fingerprint": caller.fingerprint,
    }


@contextmanager
def serving(home: Path, own_keys: KeyPair | None, **options: Any) -> Iterator[ServedAgent]:
    """Serve for the length of the block."""
    agent = ServedAgent(home, own_keys, **options)
    try:
        yield agent
    finally:
        agent.stop()
