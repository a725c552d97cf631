"""SystemDigitalTwin's key actions on real folders, without a socket: the live list decides who connects."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.configuration import SHIPPED
from tests.identities import new_pair
from tests.new_database import open_database
from tests.older_database import REPLY_LOG_MIGRATIONS
from tests.unit.asked import DEBTS, Asked
from tests.unit.secure_zmq.wall_clock import WallClock
from twinhost.moments import SYSTEM_CLOCK, Clock
from twinhost.secure_zmq.callers import Caller, Grants
from twinhost.secure_zmq.key_writer import write_certificate, write_revocation
from twinhost.secure_zmq.keys import KeyOwner, KeyPair, Validity
from twinhost.secure_zmq.peers import AuthorizedPeers
from twinhost.store.audit_log.files import MIGRATION as LEDGER_MIGRATION
from twinhost.store.audit_log.files import MIGRATION_RESTORES
from twinhost.store.audit_log.log import AuditLog
from twinhost.system_digital_twin.trust.actions import EnrolledKeys, KeyActions
from twinhost.system_digital_twin.trust.audit import MIGRATION as KEY_AUDIT_MIGRATION
from twinhost.system_digital_twin.trust.audit import KeyAudit
from twinhost.system_digital_twin.trust.retirements import RETIREMENTS_FILE, Retirements

LIFETIME_DAYS = 365
QUIET_S = 10.0


class KeyBench(Asked):
    """mainpc's folder of keys, its `enrolled` folder, and an agent on them that can be started again."""

    def __init__(self, root: Path, clock: Clock = SYSTEM_CLOCK) -> None:
        self.root = root
        self.clock = clock
        self.keep: Callable[[], None] = lambda: None
        self.keep_listed: Callable[[], None] = lambda: None
        self.folder = root / "mainpc"
        self.enrolled_folder = self.folder / "enrolled"
        for folder in (self.folder, self.enrolled_folder, self.folder / "invites"):
            folder.mkdir()
        self.open()

    def open(self) -> None:
        """Begin as a process does."""
        migrations = [*REPLY_LOG_MIGRATIONS, LEDGER_MIGRATION, MIGRATION_RESTORES, KEY_AUDIT_MIGRATION, DEBTS]
        self.database = open_database(self.root / "twin.sqlite3", migrations, self.clock)
        self.audit = AuditLog(self.database, self.root / "audit")
        self.peers = AuthorizedPeers([self.folder, self.enrolled_folder], self.clock)
        self.key_audit = KeyAudit(self.database, self.audit, self.peers)
        self.enrolled = EnrolledKeys(self.enrolled_folder)
        self.actions = KeyActions(
            self.peers,
            self.enrolled,
            Retirements(self.root / RETIREMENTS_FILE, self.clock),
            self.audit.record,
            LIFETIME_DAYS,
            clock=self.clock,
            keep=self._keep,
            keep_listed=self._keep_listed,
        )
        self.actions.quiet_s = QUIET_S
        self.answer_to(
            [*self.actions.actions(), self.doom()],
            Grants({**SHIPPED.grants, "doomed": {"doom"}}),
            65_536,
        )

    def _keep(self) -> None:
        self.keep()

    def _keep_listed(self) -> None:
        self.keep_listed()

    def list_key(self, name: str = "agent", *roles: str, validity: Validity | None = None) -> KeyPair:
        """Authorise a fresh key, as certs-init does, and have it seen."""
        owner = KeyOwner(name, "pc2", frozenset(roles or ("agent",)))
        pair = KeyPair.generate(owner, validity or Validity())
        write_certificate(pair.certificate, self.folder / f"{name}.key")
        self.peers.reload()
        return pair

    def invite(self, name: str = "newcomer", *roles: str, not_after: int | None = None, stem: str = "") -> KeyPair:
        """Make an invitation, as certs-init does, and have it seen; the pair is the token."""
        owner = KeyOwner(name, "pc3", frozenset(roles or ("agent",)))
        token = KeyPair.generate(owner, Validity(None, not_after))
        write_certificate(token.certificate, self.folder / "invites" / f"{stem or name}.key")
        self.peers.reload()
        return token

    def withdraw(self, name: str = "newcomer") -> None:
        (self.folder / "invites" / f"{name}.key").unlink()
        self.peers.reload()

    def revoke(self, *pairs: KeyPair) -> None:
        """Revoke keys, as certs-init does."""
        for pair in pairs:
            write_revocation(pair.certificate, self.folder / "revoked")
        self.peers.reload()

    def caller(self, pair: KeyPair) -> Caller:
        """Return who a connection made with this pair is at this moment; fail where it is refused."""
        peer = self.peers.find(pair.public.raw)
        assert peer is not None, f"{pair.certificate.owner.name} is not let in"
        return Caller(peer.name, peer.host, peer.roles, peer.fingerprint)

    def is_in(self, pair: KeyPair) -> bool:
        return self.peers.find(pair.public.raw) is not None

    def standing(self, pair: KeyPair) -> str:
        return self.peers.standing(pair.public.fingerprint)

    def ask(self, action: str, caller: KeyPair | Caller | None = None, **fields: Any) -> dict[str, Any]:
        """Return the reply to one request, of whoever connects with a pair."""
        (reply,) = self.ask_together((action, caller or self.CALLER, fields))
        return reply

    def ask_together(self, *requests: tuple[str, KeyPair | Caller, dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the replies to requests that were drained together."""
        by_callers = ((action, self._caller(by), fields) for action, by, fields in requests)
        return super().ask_together(*by_callers)

    def _caller(self, by: KeyPair | Caller) -> Caller:
        return self.caller(by) if isinstance(by, KeyPair) else by

    def propose(self, action: str, by: KeyPair, pair: KeyPair, **fields: Any) -> dict[str, Any]:
        return self.ask(action, by, public_key=pair.public.z85.decode(), **fields)

    def tick(self) -> None:
        self.actions.on_tick()

    def enrol(self, token: KeyPair, pair: KeyPair | None = None) -> KeyPair:
        """Propose a key with a token and prove it; return the pair."""
        pair = pair or new_pair("made-on-its-host")
        assert self.propose("enrol", token, pair)["status"] == "success"
        assert self.ask("confirm_key", pair)["status"] == "success"
        return pair

    def look(self) -> None:
        """Do what the loop's tick does."""
        self.key_audit.look()
        self.audit.flush()

    def audited(self) -> list[dict[str, Any]]:
        """Return every line of the log so far."""
        self.audit.flush()
        return [json.loads(line) for line in self.audit.read_page(0, 2_000).lines]

    def events(self) -> list[tuple[str, str]]:
        """Return event and name of every line."""
        return [(line["event"], line.get("name", "")) for line in self.audited()]


@pytest.fixture
def key_clock() -> WallClock:
    return WallClock()


@pytest.fixture
def key_bench(tmp_path: Path, clock: WallClock) -> Iterator[KeyBench]:
    with KeyBench(tmp_path, clock) as bench:
        yield bench
