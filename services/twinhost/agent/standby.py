"""An agent with a standby: whichever process holds the epoch is the agent, and the other one follows its log.

Only an agent with a log loads this: see `store.replication.replica`.
"""

import socket
import threading
from contextlib import closing
from functools import partial
from pathlib import Path

import structlog

from twinhost.agent.assembly import Followed, StartAgain
from twinhost.agent.settings import DATABASE_VARIABLE, Settings
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.store.backup import STAGED
from twinhost.store.damage import require_undamaged
from twinhost.store.files import part
from twinhost.store.replication.epochs import Epoch
from twinhost.store.replication.postgres import Connect, Log, OutcomeUnknown, verified
from twinhost.store.replication.replica import Active, Replica, stand_by

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
    beside = {} if followed.files is None else {"before": followed.files(settings.state)}
    replica = Replica(path, followed.functions, newest, **beside)
    try:
        return stand_by(replica, socket.gethostname(), connect, stop)
    finally:
        replica.close()  # so that it leaves no write-ahead log, under which a copy of another file would be read


def _first_look(connect: Connect) -> Epoch:
    """Return the epoch; its table is made if it is missing, which a role may not that can do no more than it must."""
    with closing(connect()) as log:
        try:
            return log.look()
        except OutcomeUnknown:
            log.create()
        return log.look()
