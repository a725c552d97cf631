"""An agent with a standby: whichever process holds the epoch is the agent, and the other one follows its log.

Only an agent with a log loads this: see `store.replication.replica`.
"""

import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from twinhost.agent.assembly import Followed, StartAgain
from twinhost.agent.followed_files import FollowedFiles
from twinhost.agent.health import RoleDocument
from twinhost.agent.http import HttpServer
from twinhost.agent.self_check import INTERVAL_S, HealthyFile
from twinhost.agent.settings import Settings
from twinhost.moments import SYSTEM_CLOCK, iso_time
from twinhost.network_config.load import DATABASE_VARIABLE
from twinhost.secure_zmq.errors import ConfigurationError, SocketMisuse
from twinhost.store.backup import STAGED
from twinhost.store.damage import require_undamaged
from twinhost.store.files import part
from twinhost.store.replication.epochs import Epoch
from twinhost.store.replication.postgres import Connect, Log, OutcomeUnknown, verified
from twinhost.store.replication.replica import Active, Before, Replica, always, stand_by
from twinhost.store.replication.statements import Entry

_log = structlog.get_logger(__name__)


def become_active(
    settings: Settings, path: Path, newest: int, followed: Followed, stop: threading.Event
) -> Active | None:
    """Follow the agent's log until this process is the active one; None if `stop` was set before.

    Args:
        path: the database file.
        newest: the schema version that this program knows.
        followed: what it needs besides the log.
        stop: ends the wait.

    Raises:
        ConfigurationError: the DSN, the log, or the file can't be used.
        StartAgain: PostgreSQL does not answer, or refuses.
    """
    dsn, name = settings.database, settings.agent.name
    assert dsn is not None
    try:
        verified(dsn)
    except ConfigurationError as error:
        raise ConfigurationError(f"{DATABASE_VARIABLE} can't be used: {error}") from None
    if part(path, STAGED).exists():
        raise ConfigurationError(
            f"a restored backup waits beside {path}, which the log would not have; start once without "
            f"{DATABASE_VARIABLE}, and begin another log in an empty database"
        )
    require_undamaged(path)
    connect = partial(Log, dsn, name)
    try:
        epoch = _first_look(connect)
    except OutcomeUnknown as error:
        raise StartAgain(f"the database of {DATABASE_VARIABLE} can't be used now ({error})") from None
    _log.info("standing_by", epoch=epoch.number, active=epoch.holder)
    keys = None if settings.certificates is None else FollowedFiles(name, followed.places(settings), settings.live.load)
    replica = Replica(path, followed.functions, newest, _before(settings, followed, keys))
    try:
        if keys is not None:
            keys.begin(path)
        with _shown(settings, keys):
            may_claim = always if keys is None else keys.may_claim
            active = stand_by(replica, socket.gethostname(), connect, stop, may_claim=may_claim, on_look=_well(name))
    finally:
        replica.close()  # so that it leaves no write-ahead log, under which a copy of another file would be read
    if active is not None and keys is not None:
        try:
            keys.begin(path)
            keys.take_over(replica.log, active.tenure.number)
        except BaseException:
            active.release()
            raise
    return active


def _before(settings: Settings, followed: Followed, keys: FollowedFiles | None) -> Before:
    """Return what writes all files that a transaction changes."""
    writers = [] if followed.files is None else [followed.files(settings.state)]
    if keys is not None:
        writers.append(keys.write)

    def write(replica: sqlite3.Connection, entry: Entry) -> None:
        for writer in writers:
            writer(replica, entry)

    return write


def _well(agent_name: str) -> Callable[[], None]:
    """Return what shows the engine's health check that this process follows, as often as the active one shows it."""
    file, due = HealthyFile(agent_name), 0.0

    def on_look() -> None:
        nonlocal due
        if (now := SYSTEM_CLOCK.monotonic()) >= due:
            due = now + INTERVAL_S
            file.show(None)

    return on_look


@contextmanager
def _shown(settings: Settings, keys: FollowedFiles | None) -> Iterator[None]:
    """Answer over HTTP that this process stands by, on the port that the agent will have."""
    since = iso_time(SYSTEM_CLOCK.time())

    def document() -> dict[str, Any]:
        role: RoleDocument = {"role": "standby", "since": since}
        now = iso_time(SYSTEM_CLOCK.time())
        return {
            "status": "standby",
            "ready": False,
            "agent": settings.agent.name,
            "timestamp": now,
            "warnings": [] if keys is None else keys.warnings(),
            "log": role,
        }

    try:
        http = HttpServer(settings.agent.http_port, document, hosts=settings.http_hosts, address=settings.address)
    except SocketMisuse as error:  # as where both processes are on one machine
        _log.warning("standby_not_shown", reason=str(error))
        yield
        return
    http.start()
    try:
        yield
    finally:
        http.stop()


def _first_look(connect: Connect) -> Epoch:
    """Return the epoch; its table is made if it is missing, which a role may not that can do no more than it must."""
    with closing(connect()) as log:
        try:
            return log.look()
        except OutcomeUnknown:
            log.create()
        return log.look()
