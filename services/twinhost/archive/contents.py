"""What an archive holds, in figures and names that a person can compare."""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from twinhost.certificates.layout import AGENT_ROLE, Layout, described
from twinhost.certificates.tree import enrolled_folder, is_revoked, keys_in
from twinhost.secure_zmq.certificates import NOTHING, folders_of_keys, read_folders
from twinhost.secure_zmq.errors import MalformedRequest, StoreUnavailable
from twinhost.secure_zmq.keys import Certificate, KeyPair
from twinhost.store.audit_log.verify import Findings
from twinhost.store.backup import count_rows

BROKEN_LOG = "--broken-audit"  # the option that accepts an incomplete or changed log


@dataclass(frozen=True, slots=True)
class Contents:
    """mainpc's key, and the numbers of registered agents, authorised keys, and audit log lines."""

    fingerprint: str
    agents: int
    keys: int
    lines: int
    first_line: int
    last_line: int

    def __str__(self) -> str:
        lines = f"lines {self.first_line} to {self.last_line}" if self.lines else "no line"
        return f"{self.agents} agents, {self.keys} keys, {lines} of the audit log; mainpc's key is {self.fingerprint}"


def contents_of(layout: Layout, server: KeyPair, database: Path, audit: Findings) -> Contents:
    """Return what lies in a tree and a database, both of them checked."""
    folder, enrolled = layout.server_folder, enrolled_folder(layout)
    found = [key.certificate for each in (folder, enrolled) if each for key in keys_in(each)]
    keys = {key.public for key in found if not is_revoked(layout, key)}
    try:
        agents = count_rows(database)["agents"]
    except sqlite3.Error as error:
        raise StoreUnavailable(f"{database} can't be read ({error}); check its volume") from None
    return Contents(server.public.fingerprint, agents, len(keys), audit.lines, audit.starts_at, audit.head.seq)


def trust_notice(tree: Layout, here: Layout) -> list[str]:
    """Return a warning that a received tree must be trusted, and every key and invitation in it above an agent's role.

    Args:
        tree: what was received.
        here: the present tree of this machine.
    """
    folder, present = tree.server_folder, here.server_folder
    assert folder is not None  # `check_keys` found the secret in it
    received = read_folders(folders_of_keys(folder))
    known = read_folders(folders_of_keys(present)) if present else NOTHING
    authorised = {key.public for key in (*known.current.values(), *known.next.values())}
    lines = [
        "Nothing proves who wrote this archive: restore it only if you trust it, since it says who is an operator."
    ]
    for key in (*_operators(received.current.values()), *_operators(received.next.values())):
        how = "is authorised here already" if key.public in authorised else "is not authorised here now"
        how = "is revoked here and stays so" if is_revoked(here, key) else how
        lines.append(f"It authorises {described(key.owner)} with {key.public.fingerprint}, which {how}.")
    for key in _operators(received.invites):
        lines.append(f"It authorises {described(key.owner)} with an open invitation, {key.public.fingerprint}.")
    return lines


def _operators(certificates: Iterable[Certificate]) -> list[Certificate]:
    """Return the certificates with any role other than an agent's, by name."""
    more = (key for key in certificates if key.owner.roles - {AGENT_ROLE})
    return sorted(more, key=lambda key: key.owner.name)


def require_whole(audit: Findings, *, broken_log: bool) -> list[str]:
    """Return what is wrong with a log, as remarks.

    Raises:
        MalformedRequest: something is wrong, and `broken_log` does not accept it.
    """
    if audit.whole:
        return []
    if not broken_log:
        raise MalformedRequest(
            f"the audit log is not whole: {audit.summary()}; see: docker compose run --rm cli audit verify; "
            f"to accept it as it is, repeat this with {BROKEN_LOG}"
        )
    return [f"the audit log is accepted as it is: {audit.summary()}"]
