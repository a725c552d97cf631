"""A database file that repeats a log, until this process is active and writes the log itself.

    replica = Replica(path, functions, newest=len(migrations))
    active = stand_by(replica, Candidate("pc2"), connect, stop)
    database = active.open(migrations)

From then on each transaction is in the log before SQLite commits it. What can't be decided any more ends the process at
once, without a reply: the next one claims the epoch, repeats what the log has, and so finds out.
"""

import functools
import os
import sqlite3
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import msgspec
import structlog

from twinhost.moments import SYSTEM_CLOCK, Clock
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.store.database import Database
from twinhost.store.files import PARTS, make_private, part
from twinhost.store.replication.epochs import BEAT_S, Behind, Candidate, Epoch, Tenure, require_next
from twinhost.store.replication.others import POSITION, OtherDatabases, begin, path_of
from twinhost.store.replication.postgres import Connect, Log, OutcomeUnknown
from twinhost.store.replication.snapshots import Beside, Keeper, join_snapshot, nothing_beside, remove_leftovers
from twinhost.store.replication.statements import Entry, NotingConnection, OtherSqlite, Repeater, decoded, encoded
from twinhost.worker import Worker

_log = structlog.get_logger(__name__)

EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h, as of an agent that starts again
SAYS_S = 1.0
_LOOK_S = 0.1  # a part of the time that a takeover takes, twice

Functions = Mapping[str, Callable[[str], str]]  # of SQL, as `Database.define` takes them
Before = Callable[[sqlite3.Connection, Entry], None]  # called with the replica, and with what it is about to repeat


def monotonic() -> float:
    """Return seconds that grow while the machine sleeps, too: another one may have become active meanwhile."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def always(_: Epoch) -> bool:
    """Let a process claim any epoch."""
    return True


def end_process(why: str) -> NoReturn:
    """End this process at once: nothing that is left on its stack may answer, commit, or wait."""
    _log.error("ended_by_log", reason=why)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_STATUS)


class Replica:
    """The database file of a process that is not active; used by one thread."""

    def __init__(
        self,
        path: Path,
        functions: Functions,
        newest: int,
        before: Before = lambda *_: None,
        beside: Beside = nothing_beside,
    ) -> None:
        """Open or create it.

        Args:
            path: the file, whose folder must exist.
            functions: what its triggers call.
            newest: the schema version that this program knows.
            before: writes what has to be in other files before a transaction is repeated, maybe twice.
            beside: copies these files into a snapshot.

        Raises:
            ConfigurationError: it can't be used.
        """
        self.path, self._functions, self._newest, self._before, self.beside = path, functions, newest, before, beside
        self._others = OtherDatabases(path, functions, newest)
        self.on_join: Callable[[Path], None] = lambda _: None  # called with a snapshot, before the file is one
        self.lock = threading.Lock()  # held while the files are replaced
        remove_leftovers(path)
        self._open()

    def _open(self) -> None:
        path = self.path
        try:
            if not path.exists():
                path.touch(0o600)
            make_private(path)
            self._connection = sqlite3.connect(path, isolation_level=None)
            for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "recursive_triggers=ON"):
                self._connection.execute(f"PRAGMA {pragma}")
            for name, function in self._functions.items():
                self._connection.create_function(name, 1, function, deterministic=True)
            self._repeater = Repeater(self._connection)
            self._connection.execute(POSITION)
            row = self._connection.execute("SELECT log, applied FROM log_position").fetchone()
        except (OSError, sqlite3.Error) as error:
            raise ConfigurationError(f"{path} can't be used as a database ({error})") from None
        self.log: str = row[0] if row else ""  # empty if it has followed none
        self.applied: int = row[1] if row else 0

    @property
    def empty(self) -> bool:
        """Whether it has nothing of an agent."""
        return self._schema_version() == 0

    def join(self, log: str, applied: int) -> None:
        """Say that the file has a log's transactions up to one; those beside it too, if the log begins with them."""
        if applied:
            self._others.begin_with(log, applied)
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.execute("DELETE FROM log_position")
        self._connection.execute("INSERT INTO log_position VALUES (?, ?)", (log, applied))
        self._connection.execute("COMMIT")
        self.log, self.applied = log, applied

    def require_log(self, log: str) -> None:
        """Raise ConfigurationError if the file has what is not in this log; an empty file joins it."""
        if self.log != log and self.empty and self.applied == 0:
            self.join(log, 0)
        if self.log != log:
            raise ConfigurationError(f"{self.path} was not made from this log; move it away to begin with a snapshot")

    def begin_with(self, log: Log, snapshot: int, name: str) -> None:
        """Replace the file, and what is beside it, by a snapshot of a log; what is not of this log is kept aside.

        Raises:
            ConfigurationError: it can't be used.
            OutcomeUnknown: it can't be read now.
        """
        with self.lock:
            of_nobody = self.empty
            self.close()
            try:
                for suffix in PARTS if of_nobody else ():
                    part(self.path, suffix).unlink(missing_ok=True)
                join_snapshot(self.path, log, snapshot, self._newest, self.on_join, keeps=self.log != name)
            finally:
                self._open()

    def follow(self, log: Log, until: int) -> None:
        """Repeat the transactions up to one.

        Raises:
            OutcomeUnknown: the log can't be read now.
            Behind: it begins later.
            ConfigurationError: this program can't repeat them, or the log has lost some.
        """
        while self.applied < until:
            entries = log.after(self.applied, until)
            require_next(entries, self.applied)
            if not entries:
                raise Behind(f"the log has no transaction after {self.applied}")
            for entry in entries:
                self._repeat(entry.seq, decoded(entry.statements))
            _log.debug("log_followed", transactions=self.applied)

    def close(self) -> None:
        """Close the file, and those beside it."""
        self._others.close()
        self._connection.close()

    def _repeat(self, seq: int, entry: Entry) -> None:
        try:
            self._before(self._connection, entry)
            if entry.database:
                self._others.repeat(self.log, seq, entry)
                entry = Entry(entry.sqlite, {}, [])
            self._connection.execute("BEGIN IMMEDIATE")
            self._repeater.repeat(entry)
            if (version := self._schema_version()) > self._newest:
                raise ConfigurationError(
                    f"the log has schema version {version} and this program knows {self._newest}; "
                    "run the same image on both machines"
                )
            self._connection.execute("UPDATE log_position SET applied = ?", (seq,))
            self._connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            is_full = getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
            raise ConfigurationError(
                f"transaction {seq} of the log fails on {self.path} ({error})"
                + ("; free space on its volume" if is_full else "")
            ) from None
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        self.applied = seq

    def _schema_version(self) -> int:
        return int(self._connection.execute("PRAGMA user_version").fetchone()[0])


class Active:
    """An epoch that is held, and the log that it lets this process write."""

    def __init__(
        self,
        candidate: Candidate,
        log: Log,
        tenure: Tenure,
        connect: Connect,
        keeper: Keeper,
        end: Callable[[str], NoReturn],
    ) -> None:
        self.tenure = tenure
        self.successor = ""  # the process that an operator has asked to be active instead; this one is to end
        self.on_successor: Callable[[], None] = lambda: None  # called on another thread
        self._candidate = candidate
        self._log = log
        self._keeper = keeper
        self._log_name = ""
        self._appending = threading.Lock()
        self._end_process = end
        self.on_beat: Callable[[Log], None] = lambda _: None  # on the beats' thread, after each that was added
        self._beats = Worker("epoch beats", functools.partial(self._beat, connect), join_timeout_s=1.0)
        self._watch = Worker("epoch watch", self._watch_until, join_timeout_s=1.0)

    def catch_up(self, replica: Replica) -> None:
        """Repeat the rest of the log, and close the replica; the epoch is confirmed from now on.

        Raises:
            ConfigurationError: it can't be repeated here.
        """
        try:
            self._confirm(self._log, 0)  # the claim may have waited for the second database
            self._beats.start()  # before the rest is repeated, which may take longer than an epoch holds
            self._watch.start()
            last = max(self._log.last(), self.tenure.durable)
            if replica.applied > last:
                raise ConfigurationError(
                    f"{replica.path} has {replica.applied} transactions and the log {last}, which has lost some; "
                    "restore the database of the log, or move the file away"
                )
            replica.follow(self._log, last)
        except (OutcomeUnknown, Behind) as error:
            self._end(str(error))
        except ConfigurationError:
            self.release()
            raise
        self.tenure.appended(replica.applied)
        self._path = replica.path
        self._log_name = replica.log
        replica.close()
        self._keeper.active = True
        if not self._keeper.started:
            self._keeper.start()
        _log.info("active", epoch=self.tenure.number, transactions=replica.applied)

    def open(self, migrations: Sequence[str], clock: Clock = SYSTEM_CLOCK) -> Database:
        """Open the database, whose transactions are appended to the log."""
        connect = functools.partial(NotingConnection, commit=self._commit)
        database = Database(self._path, migrations, clock, connect, logged=True)
        database.execute("PRAGMA synchronous=NORMAL")  # what a power failure takes is in the log
        database.others = self
        return database

    def open_other(self, path: Path, migrations: Sequence[str], clock: Clock) -> Database:
        """Open another database of the agent, which is made if it is missing; it is in the log too.

        Raises:
            ConfigurationError: it can't be opened, or is not of this log.
        """
        name = self._name_of(path)
        try:
            begin(path, self._log_name)
        except (sqlite3.Error, OSError) as error:
            raise ConfigurationError(f"{path} can't be used as a database ({error})") from None
        commit = functools.partial(self._commit, database=name)
        return Database(path, migrations, clock, functools.partial(NotingConnection, commit=commit), logged=True)

    def remove_other(self, path: Path) -> None:
        """Say in the log that another database of the agent is removed, before it is."""
        with self._appending:
            number = self._append(Entry(sqlite3.sqlite_version, {}, [], self._name_of(path)))
            self.tenure.appended(number)
        self.require_held()

    def _name_of(self, path: Path) -> str:
        name = path.relative_to(self._path.parent).as_posix()
        path_of(self._path, name)
        return name

    def require_held(self) -> None:
        """End the process unless an answer may leave now."""
        if not self.tenure.holds(monotonic()):
            self._end("the epoch could not be confirmed in time")
        _log.debug("epoch_held", epoch=self.tenure.number)

    def release(self) -> None:
        """Give the epoch up, after the last answer, so that a standby need not wait."""
        for worker in (self._watch, self._beats, self._keeper):
            worker.stop()
        self._give_up("released")
        self._log.close()

    def _give_up(self, why: str) -> None:
        self._beats.request_stop()
        self.tenure.end(why)
        _log.debug("epoch_released", epoch=self.tenure.number)  # before another process can claim it
        try:
            self._log.release(self.tenure.number, self.tenure.durable, keeps_turn=self._candidate.manual)
        except OutcomeUnknown as error:
            _log.warning("epoch_not_released", reason=str(error))

    def _commit(self, connection: NotingConnection, entry: Entry, database: str = "") -> None:
        """Append a transaction, and let SQLite commit it."""
        with self._appending:  # several databases may commit at once, each on a thread
            number = self._append(msgspec.structs.replace(entry, database=database))
            try:
                connection.execute_unnoted("UPDATE log_position SET applied = ?", (number,))
                connection.commit_noted()
            except sqlite3.Error as error:
                why = f"transaction {number} is in the log and SQLite failed: {error}"
                self.tenure.appended(number)
                self._give_up(why)  # no answer leaves any more, and what a standby needs is in the log
                self._end(why)
            self.tenure.appended(number)
        self.require_held()

    def _append(self, entry: Entry) -> int:
        number = self.tenure.durable + 1
        content = encoded(entry)
        try:
            appended = self._log.append(self.tenure.number, number, content)
        except OutcomeUnknown as error:
            self._end(f"whether transaction {number} is in the log is not known: {error}")
        if not appended:
            self._end("another process is active")
        _log.debug("transaction_appended", epoch=self.tenure.number, seq=number)
        return number

    def _end(self, why: str) -> NoReturn:
        self.tenure.end(why)
        self._end_process(why)

    def _confirm(self, log: Log, durable: int) -> str:
        """Add a beat, and return whose turn it is."""
        asked_at = monotonic()
        turn = log.beat(self.tenure.number, durable)
        if turn is None:
            self._end("another process is active")
        self.tenure.confirmed(asked_at)
        _log.debug("epoch_confirmed", epoch=self.tenure.number, took_s=round(monotonic() - asked_at, 3))
        return turn

    def _beat(self, connect: Connect) -> None:
        log: Log | None = None
        while not self._beats.wait(BEAT_S):
            try:
                log = log or connect()
                turn = self._confirm(log, self.tenure.durable)
                if turn != self._candidate.name and not self.successor:
                    self.successor = turn
                    self.on_successor()
                self.on_beat(log)
            except OutcomeUnknown as error:
                _log.warning("epoch_not_confirmed", reason=str(error))
                if log is not None:
                    log.close()
                log = None
        if log is not None:
            log.close()

    def _watch_until(self) -> None:
        while not self._watch.wait(max(0.0, self.tenure.until - monotonic())):
            self.require_held()


def stand_by(
    replica: Replica,
    candidate: Candidate,
    connect: Connect,
    stop: threading.Event,
    end: Callable[[str], NoReturn] = end_process,
    may_claim: Callable[[Epoch], bool] = always,
    on_look: Callable[[Log], object] = lambda _: None,
    on_connect: Callable[[Log], object] = lambda _: None,
    said: Callable[[], str] = str,
) -> Active | None:
    """Follow the log until the epoch is this process's, and all of the log is repeated; None if `stop` was set.

    Args:
        replica: the file, which is closed then.
        candidate: says when this process may claim the epoch.
        connect: connects to the log.
        stop: ends the wait.
        end: ends the process, once it is active.
        may_claim: takes an epoch before the log is followed, and returns whether it may be claimed.
        on_look: is called with the connection after each look at the epoch, and with it at the log.
        on_connect: is called with each connection, before it is used.
        said: returns what this process says of itself while it follows, as its row has it.

    Raises:
        ConfigurationError: this program, or this file, can't follow.
    """
    keeper = Keeper(replica.path, replica.beside, connect, replica.lock)
    standing = _Standing(candidate.name, said)
    log, failed, active = None, "", None
    try:
        while not stop.is_set():
            try:
                if log is None:
                    log = connect()
                    on_connect(log)
                if (tenure := _claimed(replica, candidate, log, may_claim)) is not None:
                    active = Active(candidate, log, tenure, connect, keeper, end)
                    active.catch_up(replica)
                    return active
                standing.say(log, replica.applied)
                failed = ""
                on_look(log)
            except OutcomeUnknown as error:
                if str(error) != failed:
                    _log.warning("log_not_reached", reason=str(error))
                failed = str(error)
                if log is not None:
                    log.close()
                log = None
            if replica.log and not keeper.started:
                keeper.start()
            time.sleep(_LOOK_S)  # a signal that sets `stop` while this thread waits for it may lock both for ever
    finally:
        if active is None:
            keeper.request_stop()
    if log is not None:
        log.close()
    return None


class _Standing:
    """Says every SAYS_S how far this process has repeated the log, and what there is to say of it."""

    def __init__(self, name: str, said: Callable[[], str]) -> None:
        self._name, self._said, self._due = name, said, 0.0

    def say(self, log: Log, applied: int) -> None:
        if (now := monotonic()) >= self._due:
            self._due = now + SAYS_S
            log.stand(self._name, applied, self._said())


def _claimed(
    replica: Replica, candidate: Candidate, log: Log, may_claim: Callable[[Epoch], bool] = always
) -> Tenure | None:
    """Repeat what is durable; claim the epoch if that is due, and return it if it is this process's now."""
    epoch = log.look()
    candidate.saw(epoch, monotonic())
    may = may_claim(epoch)
    if epoch.log and not _followed(replica, log, epoch):
        return None
    if not (may and candidate.may_claim(monotonic())):
        return None
    if not replica.log:  # a file that has data begins with a snapshot, for which the first transaction stands
        replica.join(uuid.uuid4().hex, 0 if replica.empty else 1)
    asked_at = monotonic()
    claimed = log.claim(epoch, candidate.name, replica.log, replica.applied)
    if claimed is None:
        return None
    _log.debug("epoch_claimed", epoch=claimed.number)
    return Tenure(claimed.number, asked_at, claimed.durable)


def _followed(replica: Replica, log: Log, epoch: Epoch) -> bool:
    """Repeat what is durable, beginning with a snapshot if need be; return whether this process has it all."""
    if replica.log != epoch.log:
        goes_back = epoch.durable == 0 or log.first() == 1
        if (replica.empty and goes_back) or not (replica.empty or replica.log):
            replica.require_log(epoch.log)  # it joins, or has run without a log
        elif newest := log.newest_snapshot():
            replica.begin_with(log, newest, epoch.log)
        elif goes_back:
            replica.require_log(epoch.log)
        else:
            return False
    try:
        replica.follow(log, epoch.durable)
    except (Behind, OtherSqlite) as reason:
        newest = log.newest_snapshot()
        if newest <= replica.applied:
            if isinstance(reason, OtherSqlite):
                raise
            raise ConfigurationError(f"{reason}: it has lost some; restore its database") from None
        replica.begin_with(log, newest, epoch.log)
        return False
    return True
