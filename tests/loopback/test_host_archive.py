"""mainpc as a real process: backed up while it is changed, restored elsewhere, and asked there by its old clients."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import fork_server
from tests.loopback.agent_processes import SDT, UMRA, Hosts
from tests.waiting import PATIENCE_S, wait_until
from twinhost.archive.state import check_audit
from twinhost.certificates.layout import plan_layout
from twinhost.certificates.revoke import revoke
from twinhost.secure_zmq.certificates import load_certificates
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import NotAuthorized
from twinhost.secure_zmq.server_address import SecuredAddress
from twinhost.store.audit_log.verify import ChainFindings
from twinhost.store.files import COMMIT, RESTORING

pytestmark = pytest.mark.sdt_security


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Hosts]:
    (tmp_path / "here").mkdir()
    with Hosts(tmp_path / "here") as hosts:
        yield hosts


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Hosts]:
    """Another machine, with other ports, on which neither key nor state is yet."""
    (tmp_path / "there").mkdir()
    with Hosts(tmp_path / "there") as hosts:
        for path in sorted(hosts.keys.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        yield hosts


def archive(hosts: Hosts, *arguments: str, given: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    """Run the command on a machine; it is mainpc alone where only mainpc's keys are."""
    environment = {
        **hosts.environment(SDT),
        "TWINHOST_CERTIFICATES": str(hosts.keys),
        "TWINHOST_HOST": "mainpc",
    }
    command = ["twinhost.cli.archive", *arguments]
    return fork_server.run(command, env=environment, input=given)


def cli(hosts: Hosts, *arguments: str) -> str:
    """Run the command line with the operator's key; it must succeed."""
    environment = {**hosts.environment(SDT), "TWINHOST_CERTIFICATES": str(hosts.folder("operator"))}
    command = ["twinhost.cli", *arguments]
    done = fork_server.run(command, env=environment, text=True)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


class Writer(threading.Thread):
    """Registers one agent after the other, with a line of the audit log for every second one, until it is stopped."""

    def __init__(self, hosts: Hosts) -> None:
        super().__init__(daemon=True)
        self._hosts = hosts
        self._over = threading.Event()
        self.acknowledged: list[str] = []

    def run(self) -> None:
        with self._hosts.client(SDT) as client:
            for number in range(100_000):
                if self._over.is_set():
                    return
                name = f"agent-{number}"
                client.call("register_agent", agent_name="operator", status="HEALTHY")
                event = {"event_id": name, "event_type": "counted", "source_agent": "operator"}
                client.call("publish_event", event=event)
                self.acknowledged.append(name)
                if number % 20 == 0:  # a new session is a line of the log
                    with self._hosts.client(SDT) as another:
                        another.call("ping")

    def stop(self) -> None:
        self._over.set()
        self.join(PATIENCE_S)


def events(hosts: Hosts) -> list[str]:
    """Return every event that mainpc keeps, oldest first."""
    found: list[str] = []
    with hosts.client(SDT) as client:
        page = client.call("get_events", limit=500)
        while page["events"]:
            found += [event["event_id"] for event in page["events"]]
            page = client.call("get_events", limit=500, before=page["events"][-1]["seq"])
    return found[::-1]


def test_backed_up_amid_traffic_and_restored_elsewhere(here: Hosts, there: Hosts, tmp_path: Path) -> None:
    """What was acknowledged before the backup began is there, up to one moment; old pins hold, and the log verifies."""
    old = here.start(SDT).wait_until_serving()
    writer = Writer(here)
    writer.start()
    wait_until(lambda: len(writer.acknowledged) > 50, PATIENCE_S, "mainpc is written to")
    before = list(writer.acknowledged)
    done = archive(here, "backup", "-")
    assert done.returncode == 0, done.stderr.decode()
    wait_until(lambda: len(writer.acknowledged) > len(before) + 20, PATIENCE_S, "it is written to all the while")
    writer.stop()
    old.terminate()

    restored = archive(there, "restore", "-", given=done.stdout)
    assert restored.returncode == 0, restored.stderr.decode()
    there.start(SDT).wait_until_serving()
    keys = load_certificates(here.folder("operator"))  # the client's folder is what it was before the move
    server = here.config.agent(SDT)
    moved = SecuredAddress(there.config.agent(SDT).endpoint, keys.own_keys, keys.public_key(server.key))
    with Client(moved) as client:
        registered = client.call("get_agent_info", agent_name="operator")["agent_info"]
    kept = events(there)
    assert kept[: len(before)] == before
    assert kept == writer.acknowledged[: len(kept)]
    assert registered["revision"] in (len(kept), len(kept) + 1)  # each registration comes before an event
    assert "are intact and end with the head in the database" in cli(there, "audit", "verify")
    assert findings(there).whole


def findings(hosts: Hosts) -> ChainFindings:
    """Verify the log as it lies, once the agent that writes it has stopped."""
    for process in hosts.processes:
        if process.running:
            process.terminate()
    return check_audit(hosts.database(SDT), hosts.root / SDT / "audit")


def test_while_the_agent_runs_nothing_takes_its_place(here: Hosts) -> None:
    """A restore is refused, with and without --replace, and the agent goes on."""
    agent = here.start(SDT).wait_until_serving()
    backup = archive(here, "backup", "-").stdout
    for options in ((), ("--replace",)):
        done = archive(here, "restore", "-", *options, given=backup)
        assert (done.returncode, b"stop it first: docker compose stop mainpc" in done.stderr) == (1, True), done.stderr
    assert archive(here, "check", "-", given=backup).returncode == 0
    assert agent.health()["status"] == "ok"


def test_a_key_revoked_before_the_backup_stays_revoked(here: Hosts, there: Hosts) -> None:
    """The list of revocations is part of the keys; pc2's own file of its key does not help it."""
    here.start(SDT).wait_until_serving()
    pc2 = load_certificates(here.folder(UMRA))
    revoke(plan_layout(here.keys, here.config, None), UMRA)
    done = archive(there, "restore", "-", given=archive(here, "backup", "-").stdout)
    assert done.returncode == 0, done.stderr
    there.start(SDT).wait_until_serving()
    own = load_certificates(here.folder("operator"))
    address = SecuredAddress(there.config.agent(SDT).endpoint, pc2.own_keys, own.public_key("server"))
    with Client(address) as client, pytest.raises(NotAuthorized):
        client.call("ping")


@pytest.mark.parametrize("secure", [True, False])
def test_an_agent_does_not_start_on_half_a_state(tmp_path: Path, *, secure: bool) -> None:
    """A restore that was cut short is to be finished first, also where no key is needed to start."""
    with Hosts(tmp_path, secure=secure) as hosts:
        (tmp_path / SDT / RESTORING).mkdir()
        (tmp_path / SDT / RESTORING / COMMIT).touch()
        agent = hosts.start(SDT)
        assert agent.wait() == 78
        assert "run the same restore again with the same archive" in agent.lines[-1]
        assert not hosts.database(SDT).exists()


def test_a_backup_takes_one_sentence_where_its_reader_goes_away(here: Hosts) -> None:
    """A pipe that breaks is no traceback, and nothing stays beside the database."""
    here.start(SDT).wait_until_serving()
    environment = {**here.environment(SDT), "TWINHOST_CERTIFICATES": str(here.keys)}
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "twinhost.cli.archive", "backup", "-"]
    done = subprocess.run(command, env=environment, stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(writer)
    last = done.stderr.decode().splitlines()
    assert (done.returncode, len(last), "Broken pipe" in last[-1]) == (1, 1, True), last
    assert not (here.root / SDT / ".archiving").exists()
