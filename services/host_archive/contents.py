"""What a state comes to, in the figures that a person can compare."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from audit_log.verify import Findings
from certificate_tree.layout import Layout
from certificate_tree.survey import enrolled_folder, is_revoked, keys_in
from durable_store.copies import count_rows
from secure_zmq.errors import MalformedRequest, StoreUnavailable
from secure_zmq.keys import KeyPair

BROKEN_LOG = "--broken-audit"  # by which a person says that a log which is not whole is to be taken as it is


@dataclass(frozen=True, slots=True)
class Contents:
    """mainpc's key, how many agents are registered, how many keys come in, and the audit log's lines."""

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
        raise StoreUnavailable(f"{database} can't be read ({error}); see its volume") from None
    return Contents(server.public.fingerprint, agents, len(keys), audit.lines, audit.starts_at, audit.head.seq)


def require_whole(audit: Findings, *, broken_log: bool) -> list[str]:
    """Return what is wrong with a log, as a remark.

    Raises:
        MalformedRequest: something is, and nobody said that it is known.
    """
    if audit.whole:
        return []
    if not broken_log:
        raise MalformedRequest(
            f"the audit log is not whole: {audit.summary()}; see `cli audit verify`; to take it as it is: {BROKEN_LOG}"
        )
    return [f"the audit log is taken as it is: {audit.summary()}"]
