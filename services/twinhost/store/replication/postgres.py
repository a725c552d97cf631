"""The log in PostgreSQL, and the row that says whose turn it is; what is asked for each transaction is one round trip.

A transaction is appended by a statement that inserts a row only while the epoch is the caller's, and locks the epoch
until it has ended. So a claim waits for it, and sees it; what comes after the claim inserts nothing.

A commit that is cancelled while it waits for the second database succeeds, with a warning, and may be lost with the
first. So a warning is an error here, nothing has a time limit on the server, and what the client gives up is unknown.
"""

import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import psycopg
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import class_row, scalar_row

from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.store.replication.epochs import Epoch
from twinhost.store.replication.looks import AgentEpoch, Look, Standby

_CONNECT_S = 3
_HEAD_START_S = 0.2  # of the first database; then all others are asked, too
_ASK_AGAIN_S = 0.3
# How long a reply of the database may take. A frozen one refuses nothing, and its machine goes on confirming packets.
_READ_S = 3.0
_WRITE_S = 15.0  # a commit waits for the other node until that is known to be gone
_MUCH_S = 120.0  # of a snapshot, or what is trimmed
_RELEASE_S = 3.0  # nobody waits for it, and a process that ends has ten seconds
_MOST_ENTRIES = 256  # read at a time
# What a role or a server may have set, and may not here. A warning that the server keeps to itself can't be seen.
_OPTIONS = (
    "-c synchronous_commit=on -c client_min_messages=warning -c statement_timeout=0 -c lock_timeout=0 "
    "-c transaction_timeout=0 -c idle_session_timeout=0 -c default_transaction_isolation=read\\ committed"
)
# What an agent makes where it is missing; a database of the agents alone is given their role besides (database/run.py).
TABLES = Path(__file__).with_name("tables.sql").read_text().partition("-- The one role of the agents")[0]
_MISSING = "SELECT 1 WHERE to_regclass('snapshots') IS NULL"
_LOCK = "SELECT pg_advisory_xact_lock(7120);"  # the agents of a database may begin at once
_LOOK = "SELECT epoch AS number, beat, holder, durable, log, turn FROM epochs WHERE agent = %s"
# A beat that is lost with the first database, before the second one has it, must not come again: a standby that saw it
# would count from there, and claim while the active process holds.
_CLAIM = (
    "UPDATE epochs SET epoch = epoch + 1, beat = (random() * 9e15)::bigint, holder = %s, turn = %s, "
    "durable = CASE log WHEN '' THEN %s ELSE durable END, log = CASE log WHEN '' THEN %s ELSE log END "
    "WHERE agent = %s AND epoch = %s AND beat = %s RETURNING epoch AS number, beat, holder, durable, log, turn"
)
_BEAT = (
    "UPDATE epochs SET beat = (random() * 9e15)::bigint, durable = greatest(durable, %s) "
    "WHERE agent = %s AND epoch = %s RETURNING turn"
)
_RELEASE = (
    "UPDATE epochs SET holder = '', beat = (random() * 9e15)::bigint, durable = greatest(durable, %s), "
    "turn = CASE WHEN turn = holder AND NOT %s THEN '' ELSE turn END WHERE agent = %s AND epoch = %s"
)
_GIVE_TURN = "UPDATE epochs SET turn = %s WHERE agent = %s AND epoch = %s AND beat = %s"
_APPEND = (
    "INSERT INTO commits (agent, seq, epoch, statements) "
    "SELECT agent, %s, epoch, %b FROM epochs WHERE agent = %s AND epoch = %s FOR SHARE"
)
_AFTER = "SELECT seq, statements FROM commits WHERE agent = %s AND seq > %s AND seq <= %s ORDER BY seq LIMIT %s"
_LAST = "SELECT coalesce(max(seq), 0) FROM commits WHERE agent = %s"
_ALL_EPOCHS = "SELECT agent, epoch AS number, beat, holder, durable FROM epochs WHERE epoch > 0 ORDER BY agent"
_ALL_STANDBYS = "SELECT agent, name, applied, beat, fault FROM standbys ORDER BY agent, name"
# What any role may read. The witness is what database/run.py says of it; another database has no such setting.
_SETTINGS = (
    "SELECT current_setting('synchronous_standby_names') AS synchronous, "
    "current_setting('twinhost.witness', true) AS witness"
)
_PORT = 5432
_ASK_FOR_TLS = b"\0\0\0\x08\x04\xd2\x16\x2f"  # SSLRequest
_FIRST = "SELECT coalesce(min(seq), 0) FROM commits WHERE agent = %s"
_SIZE = (
    "SELECT count(*) AS transactions, coalesce(sum(octet_length(statements)), 0)::bigint AS size_bytes FROM commits "
    "WHERE agent = %s AND seq > %s"
)
# Not worth a wait for the second database, which another one says the next second.
_STAND = (
    "INSERT INTO standbys (agent, name, applied, beat, fault) "
    "SELECT %s, %s, %s, 1, %s FROM set_config('synchronous_commit', 'off', true) "
    "ON CONFLICT (agent, name) DO UPDATE SET applied = excluded.applied, beat = standbys.beat + 1, "
    "fault = excluded.fault"
)
_GIVE_UP = (
    "INSERT INTO standbys (agent, name, fault) VALUES (%s, %s, %s) "
    "ON CONFLICT (agent, name) DO UPDATE SET beat = 0, fault = excluded.fault"
)
_NEWEST_SNAPSHOT = "SELECT coalesce(max(seq), 0) FROM snapshots WHERE agent = %s AND part = 0"
_ADD_PART = "INSERT INTO snapshots (agent, seq, part, content) VALUES (%s, %s, %s, %b)"
_COMPLETE = (
    "INSERT INTO snapshots (agent, seq, part, content) "
    "SELECT agent, %s, 0, %b FROM epochs WHERE agent = %s AND log = %s"
)
_READ_PART = "SELECT content FROM snapshots WHERE agent = %s AND seq = %s AND part = %s"

_T = TypeVar("_T")


class OutcomeUnknown(Exception):
    """The database may have done what it was asked, or not, or may lose it."""


@dataclass(frozen=True, slots=True)
class Logged:
    """One transaction of the log."""

    seq: int
    statements: bytes


class _Connection(psycopg.Connection[Any]):
    """One that does not wait for ever; after it has waited too long, it is of no use any more."""

    replies_within_s = _READ_S

    def wait(self, gen: PQGen[_T], *arguments: Any, **named: Any) -> _T:
        return super().wait(_within(gen, self.replies_within_s), *arguments, **named)


def _within(steps: PQGen[_T], seconds: float) -> PQGen[_T]:
    """Yield the steps of an exchange with the server, and raise an error once it takes longer."""
    until = time.monotonic() + seconds
    try:
        wanted = next(steps)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > until:
                raise psycopg.OperationalError(f"no reply within {seconds:g} s")
            wanted = steps.send(ready)
    except StopIteration as end:
        return cast(_T, end.value)


@dataclass(frozen=True, slots=True)
class Extent:
    """How much of a log there is."""

    transactions: int
    size_bytes: int


class Log:
    """One agent's log, over one connection; used by one thread."""

    def __init__(self, dsn: str, agent: str, whose: str = "read-write") -> None:
        """Connect to the database that takes writes.

        Args:
            whose: the sessions that are wanted, as PostgreSQL's target_session_attrs.

        Raises:
            OutcomeUnknown: none answers now.
            ConfigurationError: it refuses for good, or the DSN allows a link that is not verified.
        """
        self._agent = agent
        self._warnings: list[str] = []
        with _asking():
            self._connection = _Connection.connect(verified(dsn, whose), autocommit=True)
        self._connection.add_notice_handler(self._noticed)
        self.other_servers = [host for host in hosts(dsn) if host != self._connection.info.host]

    @property
    def takes_writes(self) -> bool:
        """Whether its database takes writes, as far as this one has said so."""
        said = self._connection.info.parameter_status
        return "on" not in (said("in_hot_standby"), said("default_transaction_read_only"))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def create(self) -> None:
        """Create the tables and the agent's row, where they are missing.

        A role that may create none needs no right to where they are there.
        """
        with self._clean():
            if self._connection.execute(_MISSING).fetchone():
                self._connection.execute(f"{_LOCK}{TABLES}".encode())
            self._connection.execute("INSERT INTO epochs (agent) VALUES (%s) ON CONFLICT DO NOTHING", (self._agent,))

    def look(self) -> Epoch:
        """Return the epoch as it is now.

        Raises:
            OutcomeUnknown: the database does not answer, or has no such agent.
        """
        with _asking(), self._connection.cursor(row_factory=class_row(Epoch)) as cursor:
            row = cursor.execute(_LOOK, (self._agent,)).fetchone()
        if row is None:
            raise OutcomeUnknown(f"the database has no row of {self._agent}")
        return row

    def claim(self, seen: Epoch, holder: str, log: str, applied: int = 0) -> Epoch | None:
        """Claim the epoch after the one that was seen, unless it has changed meanwhile; return it, or None.

        Args:
            log, applied: if this is the first claim, the log's name, and 1 if it begins with a file that has data.

        Raises:
            OutcomeUnknown: whoever asks must not act as if it had it.
        """
        with self._clean(), self._connection.cursor(row_factory=class_row(Epoch)) as cursor:
            values = (holder, holder, applied, log, self._agent, seen.number, seen.beat)
            return cursor.execute(_CLAIM, values).fetchone()

    def beat(self, epoch: int, durable: int) -> str | None:
        """Confirm an epoch; return whose turn it is, or None if the epoch is not the caller's any more."""
        with self._clean(), self._connection.cursor(row_factory=scalar_row) as cursor:
            turn: str | None = cursor.execute(_BEAT, (durable, self._agent, epoch)).fetchone()
            return turn

    def release(self, epoch: int, durable: int, *, keeps_turn: bool = False) -> bool:
        """Give an epoch up, so that it can be claimed at once: by any process, unless it is another one's turn.

        Args:
            keeps_turn: only this process is to claim it, unless another one is promoted.
        """
        return self._write(_RELEASE, durable, keeps_turn, self._agent, epoch, within_s=_RELEASE_S)

    def give_turn(self, seen: Epoch, name: str) -> bool:
        """Have another process be the next one, unless the epoch has changed meanwhile; return whether it is."""
        return self._write(_GIVE_TURN, name, self._agent, seen.number, seen.beat)

    def append(self, epoch: int, seq: int, statements: bytes) -> bool:
        """Append a transaction; return whether the epoch is still the caller's, else nothing was appended.

        Raises:
            OutcomeUnknown: it may be in the log, or not, or may be lost from it.
        """
        return self._write(_APPEND, seq, statements, self._agent, epoch)

    def last(self) -> int:
        """Return the number of the last transaction, 0 if there is none."""
        return self._number(_LAST, self._agent)

    def first(self) -> int:
        """Return the number of the first transaction, 0 if there is none."""
        return self._number(_FIRST, self._agent)

    def size_after(self, applied: int) -> Extent:
        """Return how much of the log comes after a transaction."""
        with _asking(), self._connection.cursor(row_factory=class_row(Extent)) as cursor:
            return cursor.execute(_SIZE, (self._agent, applied)).fetchone() or Extent(0, 0)

    def stand(self, name: str, applied: int, said: str = "") -> None:
        """Say how far a process that stands by has repeated the log, and what there is to say of it."""
        self._write(_STAND, self._agent, name, applied, said, within_s=_READ_S)  # it waits for no other node

    def give_up(self, name: str, why: str) -> None:
        """Say why a process can't stand by, until it says again how far it has come."""
        self._write(_GIVE_UP, self._agent, name, why)

    def standbys(self) -> list[Standby]:
        """Return what the agent's processes that stand by, or did, have said last."""
        with _asking():
            return [standby for standby in self._all_standbys() if standby.agent == self._agent]

    def newest_snapshot(self) -> int:
        """Return the position of the newest snapshot, 0 if there is none."""
        return self._number(_NEWEST_SNAPSHOT, self._agent)

    @contextmanager
    def new_snapshot(self, seq: int, log: str) -> Iterator["NewSnapshot"]:
        """Write a snapshot: all that the block adds, or nothing.

        Raises:
            OutcomeUnknown: it may be there, or not.
        """
        with self._clean(_MUCH_S), self._connection.transaction():
            yield NewSnapshot(self._connection, self._agent, seq, log)

    @contextmanager
    def snapshot(self, seq: int) -> Iterator[Callable[[int], bytes]]:
        """Yield a function that returns a part of a snapshot by its number, none if it does not exist."""

        def part(number: int) -> bytes:
            content: bytes | None = cursor.execute(_READ_PART, (self._agent, seq, number), binary=True).fetchone()
            return content or b""

        with _asking(), self._connection.transaction(), self._connection.cursor(row_factory=scalar_row) as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")  # it may be deleted meanwhile
            yield part

    def trim(self) -> None:
        """Delete what comes before the newest snapshot but one, and all snapshots but the newest."""
        with self._clean(_MUCH_S):
            self._connection.execute("SELECT trim_log(%s)", (self._agent,))

    def after(self, applied: int, until: int) -> list[Logged]:
        """Return the first transactions after one, up to another."""
        with _asking(), self._connection.cursor(row_factory=class_row(Logged)) as cursor:
            return cursor.execute(_AFTER, (self._agent, applied, until, _MOST_ENTRIES), binary=True).fetchall()

    def _number(self, sql: str, *parameters: object) -> int:
        with _asking(), self._connection.cursor(row_factory=scalar_row) as cursor:
            return int(cursor.execute(sql.encode(), parameters).fetchone() or 0)

    def look_around(self) -> Look:
        """Return what there is of all agents' logs, and of the databases that have it."""
        with _asking():
            with self._connection.cursor(row_factory=class_row(AgentEpoch)) as cursor:
                epochs = cursor.execute(_ALL_EPOCHS).fetchall()
            standbys = self._all_standbys()
            with self._connection.cursor() as cursor:
                row = cursor.execute(_SETTINGS).fetchone()
        synchronous, witness = row or ("", None)
        return Look(epochs, standbys, synchronous, witness or None, self.other_servers)

    def _all_standbys(self) -> list[Standby]:
        with self._connection.cursor(row_factory=class_row(Standby)) as cursor:
            return cursor.execute(_ALL_STANDBYS).fetchall()

    def _write(self, sql: str, *parameters: object, within_s: float = _WRITE_S) -> bool:
        with self._clean(within_s):
            return self._connection.execute(sql.encode(), parameters).rowcount == 1

    @contextmanager
    def _clean(self, within_s: float = _WRITE_S) -> Iterator[None]:
        """Take an error or a warning as an unknown outcome."""
        self._warnings.clear()
        self._connection.replies_within_s = within_s
        try:
            with _asking():
                yield
        finally:
            self._connection.replies_within_s = _READ_S
        if self._warnings:
            raise OutcomeUnknown(f"the database warned: {self._warnings[0]}")

    def _noticed(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        if diagnostic.severity_nonlocalized == "WARNING":
            self._warnings.append(f"{diagnostic.sqlstate} {diagnostic.message_primary}")


class NewSnapshot:
    """A snapshot that is being written, in a transaction."""

    def __init__(self, connection: "psycopg.Connection[tuple[object, ...]]", agent: str, seq: int, log: str) -> None:
        self._connection, self._agent, self._seq, self._log = connection, agent, seq, log
        self.parts = 0

    def add(self, content: bytes) -> None:
        """Add the next part; the first one has number 1."""
        self.parts += 1
        self._connection.execute(_ADD_PART.encode(), (self._agent, self._seq, self.parts, content))

    def complete(self, content: bytes) -> None:
        """Add part 0, which says that all are there.

        Raises:
            OutcomeUnknown: the database has another log meanwhile.
        """
        done = self._connection.execute(_COMPLETE.encode(), (self._seq, content, self._agent, self._log))
        if done.rowcount != 1:
            raise OutcomeUnknown("the log is another one")


def verified(dsn: str, whose: str = "read-write") -> str:
    """Return what a DSN connects with.

    Raises:
        ConfigurationError: it is none, or has a password, or its server would not be verified.
    """
    try:
        parts = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:  # whose message has the DSN in it
        raise ConfigurationError("it is no DSN of PostgreSQL: postgresql://ROLE@HOST/DATABASE?…") from None
    if parts.get("password"):
        raise ConfigurationError("it has a password in it: write that into a file, and name this one: passfile=FILE")
    hosts = [*str(parts.get("hostaddr") or "").split(","), *str(parts.get("host") or "").split(",")]
    if any(host and not host.startswith("/") for host in hosts) and parts.get("sslmode") != "verify-full":
        raise ConfigurationError("it does not verify the server: add sslmode=verify-full and sslrootcert=FILE")
    if not any(hosts):
        raise ConfigurationError("it names no host; name one, or the folder of a Unix socket: ?host=/run/postgresql")
    settings: dict[str, str | int] = {"connect_timeout": _CONNECT_S, "target_session_attrs": whose}
    settings["client_encoding"] = "UTF8"  # of a database with SQL_ASCII, psycopg would return bytes
    settings |= {"tcp_user_timeout": 3_000, "keepalives_idle": 1, "keepalives_interval": 1, "keepalives_count": 3}
    return psycopg.conninfo.make_conninfo(dsn, **settings, options=f"{parts.get('options') or ''} {_OPTIONS}".strip())


def witness_fault(witness: str, dsn: str) -> str | None:
    """Return why a witness does not answer; None if it does, with a certificate that the DSN verifies.

    Nobody logs in, which an agent may not: the connection ends after the certificate, and the witness logs nothing.
    """
    host, _, port = witness.partition(":")
    authorities = conninfo_to_dict(dsn).get("sslrootcert")
    try:
        context = ssl.create_default_context(cafile=None if authorities in (None, "system") else str(authorities))
        with socket.create_connection((host, int(port or _PORT)), _CONNECT_S) as connection:
            connection.sendall(_ASK_FOR_TLS)
            if connection.recv(1) != b"S":
                return "what answers there is no PostgreSQL with TLS"
            with context.wrap_socket(connection, server_hostname=host) as encrypted:
                encrypted.unwrap()
    except OSError as error:  # one of TLS too
        return error.strerror or str(error) or type(error).__name__
    return None


@contextmanager
def _asking() -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        raise OutcomeUnknown(" ".join(str(error).split()) or type(error).__name__) from error


Connect = Callable[[], Log]


class Databases:
    """Connects to the one of the DSN's databases that takes writes.

    One that is frozen, or whose machine is off, takes longer to give up than an epoch holds. So one is asked first, and
    soon all others too; one that takes no writes is asked again until each has answered. The one that it was the last
    time is asked last: one that is cut off may take writes that nobody confirms, until it knows so.
    """

    def __init__(self, dsn: str, agent: str, on_follower: Callable[[Log], None] = lambda _: None) -> None:
        """Take a DSN; `on_follower` is called with a connection to one that takes no writes, and may only read."""
        self._dsns, self._hosts, self._agent, self._on_follower = one_each(dsn), hosts(dsn), agent, on_follower

    def __call__(self) -> Log:
        """Connect; it raises what `Log` does."""
        if len(self._dsns) == 1:
            return Log(self._dsns[0], self._agent)
        with closing(_Attempts(self._agent)) as attempts:
            for dsn in self._dsns:
                attempts.begin(dsn, 0.0 if dsn == self._dsns[0] else _HEAD_START_S)
            silent = set(self._dsns)
            while True:
                dsn, answer = attempts.next()
                if isinstance(answer, Log):
                    if answer.takes_writes:
                        break
                    with closing(answer), suppress(OutcomeUnknown):
                        self._on_follower(answer)
                    answer = OutcomeUnknown("the databases that answer take no writes")
                silent.discard(dsn)
                if not silent:
                    raise answer
                attempts.begin(dsn, _ASK_AGAIN_S)
        self._dsns = sorted(self._dsns, key=lambda other: other == dsn)
        answer.other_servers = [host for host in self._hosts if host not in hosts(dsn)]
        return answer


class _Attempts:
    """Connections that are being made, each on a thread, since libpq waits for names and servers."""

    def __init__(self, agent: str) -> None:
        self._agent = agent
        self._answers: queue.SimpleQueue[tuple[str, Log | OutcomeUnknown | ConfigurationError]] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False

    def begin(self, dsn: str, after_s: float) -> None:
        threading.Thread(target=self._connect, args=(dsn, after_s), daemon=True).start()

    def next(self) -> "tuple[str, Log | OutcomeUnknown | ConfigurationError]":
        """Wait for the next answer, and return whose it is."""
        return self._answers.get()

    def close(self) -> None:
        """Close what nobody has taken, and what comes later."""
        with self._closing:
            self._closed = True
        while not self._answers.empty():
            _, answer = self._answers.get()
            if isinstance(answer, Log):
                answer.close()

    def _connect(self, dsn: str, after_s: float) -> None:
        time.sleep(after_s)
        if self._closed:
            return
        answer: Log | OutcomeUnknown | ConfigurationError
        try:
            answer = Log(dsn, self._agent, "any")
        except (OutcomeUnknown, ConfigurationError) as error:
            answer = error
        with self._closing:
            if not self._closed:
                self._answers.put((dsn, answer))
                return
        if isinstance(answer, Log):
            answer.close()


def hosts(dsn: str) -> list[str]:
    """Return the names of a DSN's hosts."""
    return str(conninfo_to_dict(dsn).get("host") or "").split(",")


def one_each(dsn: str) -> list[str]:
    """Return a DSN for each host of one, with what that says of the host."""
    parts = conninfo_to_dict(dsn)
    lists = {name: str(parts[name]).split(",") for name in ("host", "hostaddr", "port") if parts.get(name)}
    count = max((len(of) for of in lists.values()), default=1)
    lists = {name: of * count if len(of) == 1 else of for name, of in lists.items()}  # one port is good for all
    return [
        psycopg.conninfo.make_conninfo(dsn, **{name: of[number] for name, of in lists.items()})
        for number in range(count)
    ]
