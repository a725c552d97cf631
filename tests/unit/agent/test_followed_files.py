"""What an agent's log has of the files beside its database, and what a standby makes of it."""

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.configuration import SHIPPED
from tests.new_database import open_database
from tests.unit.system_digital_twin.key_bench import KeyBench
from tests.waiting import PATIENCE_S
from twinhost.agent.followed_files import MIGRATION, FollowedFiles, LoggedFiles, Places
from twinhost.certificates.following import BEFORE_ANY, active_elsewhere, role_of, write_role
from twinhost.network_config import NetworkConfig
from twinhost.secure_zmq.errors import ConfigurationError, StoreUnavailable
from twinhost.secure_zmq.key_writer import revoked_file_name, write_certificate, write_key_pair, write_revocation
from twinhost.secure_zmq.keys import KeyOwner, KeyPair
from twinhost.store.database import Database
from twinhost.store.replication.epochs import Epoch

SDT = "SystemDigitalTwin"
OWN = KeyPair.generate(KeyOwner(SDT, "mainpc", frozenset({"agent"})))
OTHER = KeyPair.generate(KeyOwner("other", "pc3", frozenset({"agent"})))
STATE_FILE = f"{SDT}.retirements.json"
HELD_THERE = Epoch(number=3, beat=7, holder="mainpc", durable=9, log="log")
FREE = replace(HELD_THERE, holder="")


class Machine:
    """A folder of keys, a state folder, and what the log and a standby make of them."""

    def __init__(self, root: Path, own: KeyPair = OWN) -> None:
        self.keys, self.state, self.config = root / "keys", root / "state", SHIPPED
        for folder in (self.keys, self.keys / "enrolled", self.state):
            folder.mkdir(parents=True)
        write_key_pair(own, self.keys / "server.key_secret")
        self.places = Places(self.keys, "server", self.state, (STATE_FILE,))
        self.contents: object = None
        self.database = open_database(root / "twin.sqlite3", [MIGRATION])
        self.files = LoggedFiles(self.database, self.places, lambda: self.contents, lambda: self.config)

    def rows(self) -> dict[str, str]:
        return dict(self.database.execute("SELECT path, content FROM followed_files"))

    def standby(self, path: Path | None = None) -> FollowedFiles:
        """Return what follows a log that another machine's database has all of."""
        files = FollowedFiles(SDT, self.places, lambda: self.config)
        files.begin(path or self.database.path)
        return files


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path / "here")
    yield machine
    machine.database.close()


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path / "there")
    write_role(machine.keys, BEFORE_ANY)
    yield machine
    machine.database.close()


def public(rows: Mapping[str, str]) -> set[str]:
    return {path for path in rows if not path.startswith("configuration/")}


def test_the_log_has_public_files_and_what_is_kept_of_keys(here: Machine) -> None:
    write_certificate(OTHER.certificate, here.keys / "enrolled/other.key")
    write_revocation(OTHER.certificate, here.keys / "revoked")
    (here.state / STATE_FILE).write_text("{}")
    here.files.keep()
    revoked = f"keys/revoked/{revoked_file_name(OTHER.public.fingerprint)}"
    assert public(here.rows()) == {"keys/server.key", "keys/enrolled/other.key", revoked, f"state/{STATE_FILE}"}


def test_the_log_never_has_a_secret(here: Machine) -> None:
    """Nor one that lies under the name of a public key, nor a draft, nor what is no key."""
    secret = (here.keys / "server.key_secret").read_text()
    for name in ("wrong.key", ".other.key.1.draft", "server.next.key_secret", "notes.txt"):
        (here.keys / name).write_text(secret)
    (here.keys / "large.key").write_text("#" * 5_000)
    (here.keys / "binary.key").write_bytes(b"\xff")
    here.files.keep()
    assert public(here.rows()) == {"keys/server.key"}


def test_a_revocation_stays_in_the_log_and_nothing_else_does(here: Machine) -> None:
    write_certificate(OTHER.certificate, here.keys / "other.key")
    write_revocation(OTHER.certificate, here.keys / "revoked")
    here.files.keep()
    for path in (*here.keys.glob("other.key"), *here.keys.glob("revoked/*.key")):
        path.unlink()
    here.files.keep()
    (revoked,) = public(here.rows()) - {"keys/server.key"}
    assert revoked.startswith("keys/revoked/")


def test_an_equal_folder_is_not_written_again(here: Machine) -> None:
    here.files.keep()
    before = here.database.total_changes
    here.contents = object()
    here.files.keep()
    assert here.database.total_changes == before


def test_a_list_that_is_in_the_log_costs_no_look_at_the_files(here: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a change of keys every agent asks for the list: the files are read once."""
    here.contents = object()
    here.files.keep_listed()
    with monkeypatch.context() as patch:
        patch.setattr(Places, "times", lambda _: pytest.fail("the files were looked at"))
        here.files.keep_listed()
    write_certificate(OTHER.certificate, here.keys / "other.key")
    here.contents = object()
    here.files.keep_listed()
    assert "keys/other.key" in here.rows()


def test_what_can_not_be_stored_is_tried_again(here: Machine) -> None:
    here.files.keep()
    write_certificate(OTHER.certificate, here.keys / "other.key")
    here.database.execute("PRAGMA query_only = 1")
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            here.files.keep()
    here.database.execute("PRAGMA query_only = 0")
    here.files.keep()
    assert "keys/other.key" in here.rows()


def test_another_thread_waits_until_the_log_has_it(here: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was kept before it asked does not count."""
    here.files.keep()
    write_certificate(OTHER.certificate, here.keys / "other.key")
    asked = threading.Event()
    with ThreadPoolExecutor(1) as thread:
        settled = thread.submit(here.files.settle, asked.set)
        assert asked.wait(PATIENCE_S)
        assert not settled.done()
        here.files.keep()
        settled.result(PATIENCE_S)
    assert "keys/other.key" in here.rows()
    monkeypatch.setattr("twinhost.agent.followed_files.SETTLES_S", 0.01)
    with pytest.raises(StoreUnavailable):
        here.files.settle(lambda: None)


def test_a_standby_takes_what_the_log_has_and_keeps_revocations(here: Machine, there: Machine) -> None:
    third = KeyPair.generate(KeyOwner("third", "pc3", frozenset({"agent"})))
    write_certificate(OTHER.certificate, here.keys / "enrolled/other.key")
    here.files.keep()
    write_certificate(third.certificate, there.keys / "third.key")
    write_revocation(third.certificate, there.keys / "revoked")
    standby = there.standby(here.database.path)
    assert standby.may_claim(HELD_THERE)
    assert active_elsewhere(there.keys) == "mainpc"
    assert (there.keys / "enrolled/other.key").read_text() == (here.keys / "enrolled/other.key").read_text()
    assert not (there.keys / "third.key").exists()
    assert list((there.keys / "revoked").glob("*.key"))
    assert (there.keys / "server.key_secret").exists()
    assert standby.may_claim(FREE)
    standby.take_over("log", 4)
    assert active_elsewhere(there.keys) is None


def test_a_folder_that_was_made_for_a_standby_begins_no_log(there: Machine) -> None:
    """Else the machine that has all keys would take over the few that this one has."""
    assert not there.standby().may_claim(Epoch(0, 0, "", 0))


def test_the_folder_of_the_last_active_machine_is_the_newest(here: Machine) -> None:
    """Until another one has claimed an epoch."""
    here.files.keep()
    standby = here.standby()
    assert standby.may_claim(Epoch(0, 0, "", 0))
    standby.take_over("log", 3)
    write_certificate(OTHER.certificate, here.keys / "other.key")
    again = here.standby()
    assert again.may_claim(FREE)
    again.take_over("log", 4)
    assert (here.keys / "other.key").exists()
    again = here.standby()
    assert again.may_claim(replace(FREE, number=5))
    assert not (here.keys / "other.key").exists()


def test_a_standby_with_another_secret_claims_nothing(here: Machine, tmp_path: Path) -> None:
    here.files.keep()
    other = Machine(tmp_path / "other", KeyPair.generate(OWN.certificate.owner))
    standby = other.standby(here.database.path)
    assert not standby.may_claim(HELD_THERE)
    (sentence,) = standby.warnings()
    assert OWN.public.fingerprint in sentence
    (other.keys / "server.key_secret").unlink()
    (other.keys / "server.key_secret").write_text((here.keys / "server.key_secret").read_text())
    (other.keys / "server.key_secret").chmod(0o600)
    assert standby.may_claim(HELD_THERE)
    assert standby.warnings() == []
    other.database.close()


def test_a_standby_says_what_differs_in_the_configuration(here: Machine, there: Machine) -> None:
    here.files.keep()
    standby = there.standby(here.database.path)
    assert standby.warnings() == []
    there.config = replace(SHIPPED, grants={**SHIPPED.grants, "agent": frozenset()}, failover="manual")
    assert standby.warnings()[0].startswith("failover, grants in network_config.yaml differs from the file where")


@pytest.mark.parametrize("path", ["keys/../x.key", "keys/x.key_secret", "keys/.x.key", "state/other", "other/x.key"])
def test_a_path_that_no_agent_writes_is_refused(there: Machine, path: str) -> None:
    with pytest.raises(ConfigurationError, match="run the same image"):
        there.places.target(path)


def test_a_folder_that_can_not_be_written_is_one_sentence(there: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(30, "Read-only file system", str(there.keys))

    monkeypatch.setattr("twinhost.agent.followed_files.write_role", refuse)
    with pytest.raises(ConfigurationError, match="writes its folder of keys; mount it so"):
        there.standby().may_claim(HELD_THERE)
    assert role_of(there.keys) == BEFORE_ANY


class TestKeyActions:
    """No reply says what the log does not have."""

    @pytest.fixture
    def bench(self, tmp_path: Path) -> Iterator[KeyBench]:
        with KeyBench(tmp_path) as bench:
            yield bench

    def test_the_trust_document_is_in_the_log_before_it_is_answered(self, bench: KeyBench) -> None:
        database: Database = open_database(bench.root / "files.sqlite3", [MIGRATION])
        places = Places(bench.folder, "server", bench.root, ())
        config: NetworkConfig = SHIPPED
        files = LoggedFiles(database, places, lambda: bench.peers.contents, lambda: config)
        bench.keep_listed = files.keep_listed
        agent, stolen = bench.list_key(), bench.list_key("stolen")
        bench.revoke(stolen)
        assert bench.ask("get_trust", agent)["revoked"] == [stolen.public.fingerprint]
        name = revoked_file_name(stolen.public.fingerprint)
        assert database.value("SELECT count(*) FROM followed_files WHERE path = ?", (f"keys/revoked/{name}",)) == 1
        database.close()

    def test_nothing_is_answered_that_can_not_be_in_it(self, bench: KeyBench) -> None:
        agent = bench.list_key()

        def fail() -> None:
            raise StoreUnavailable("the store failed")

        bench.keep = bench.keep_listed = fail
        for action in ("get_trust", "confirm_key", "retire_keys"):
            assert bench.ask(action, agent)["code"] == "store_unavailable", action
