"""`python -m twinhost.store.replication.forget AGENT…`: deletes the logs of agents, which go on alone.

`make leave-ha` runs it where the database is somebody else's. No standby becomes active without the log that it has
followed, and agents that come back begin another one.
"""

import os
import sys

import psycopg

from twinhost.secure_zmq.errors import Conflict
from twinhost.store.replication.postgres import verified

_HOLDERS = "SELECT agent, holder FROM epochs WHERE agent = ANY(%s) FOR UPDATE"  # nobody claims meanwhile
_DELETE = (
    "DELETE FROM commits WHERE agent = ANY(%s)",
    "DELETE FROM snapshots WHERE agent = ANY(%s)",
    "DELETE FROM standbys WHERE agent = ANY(%s)",
    "DELETE FROM epochs WHERE agent = ANY(%s)",
)


def forget(dsn: str, agents: list[str]) -> None:
    """Delete the logs of agents: of all, or of none.

    Raises:
        Conflict: a process of one is active.
        psycopg.Error: the database does not do it, or it is not known whether it did.
    """
    with psycopg.connect(verified(dsn)) as connection:
        for agent, holder in connection.execute(_HOLDERS, (agents,)):
            if holder:
                raise Conflict(f"{agent} is active on {holder}, so no log was deleted")
        for sql in _DELETE:
            connection.execute(sql, (agents,))


def main(agents: list[str]) -> None:
    """Delete the logs of agents in the database of TWINHOST_DATABASE, or say why not."""
    try:
        forget(os.environ["TWINHOST_DATABASE"], agents)
    except psycopg.errors.InsufficientPrivilege:
        tables = "epochs, commits, snapshots, standbys"
        sys.exit(f"error: the role of TWINHOST_DATABASE may delete no log: as the owner, grant it DELETE on {tables}.")
    except (Conflict, psycopg.Error) as error:
        sys.exit(f"error: {' '.join(str(error).split())}.")


if __name__ == "__main__":
    main(sys.argv[1:])
