"""What was backed up is what is restored, elsewhere or over another state; what belongs to others stays out."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.identities import new_pair
from tests.other_user import not_root
from tests.unit.archive.mainpcs import DATABASE, SERVER, Mainpc, add_agent, members_of
from tests.unit.certificates.trees import certs_init, tree_layout
from tests.unit.store.broken import flip
from twinhost.agent.backups import BACKUPS_FILE, BackupRecord
from twinhost.archive.state import check_audit
from twinhost.certificates.following import FolderRole, write_role
from twinhost.certificates.revoke import revoke
from twinhost.certificates.tree import vouchers
from twinhost.network_config.load import DATABASE_VARIABLE
from twinhost.secure_zmq.key_writer import replace_certificate, revoked_file_name, write_key_pair, write_vouching
from twinhost.secure_zmq.keys import KeyOwner, KeyPair, load_certificate, load_key_pair
from twinhost.store.audit_log.chain import AuditEvent
from twinhost.store.audit_log.log import MAX_FILE_BYTES
from twinhost.store.backup import copy_database
from twinhost.store.damage import REPLACED, quarantined
from twinhost.system_digital_twin.events.events import SKIPPED, Events, Topic


@pytest.fixture
def here(tmp_path: Path) -> Mainpc:
    return Mainpc(tmp_path / "here").make()


@pytest.fixture
def there(tmp_path: Path) -> Mainpc:
    """Another machine, on which nothing is yet, and which is mainpc alone."""
    return Mainpc(tmp_path / "there", host="mainpc")


def test_restored_elsewhere_all_is_as_it_was(here: Mainpc, there: Mainpc) -> None:
    """Every agent, every key byte by byte with its mode, and every line of the log, which goes on with the restore."""
    archive = here.backup()
    ran = there.run("restore", "-", given=archive)
    assert ran.status == 0, ran.err
    assert there.registered() == here.registered()
    assert there.key_files() == here.key_files()
    assert there.fingerprint == here.fingerprint
    lines = there.audit_lines()
    assert lines[:-1] == here.audit_lines()
    assert (json.loads(lines[-1])["event"], json.loads(lines[-1])["moment"] in ran.err) == ("restored", True)
    assert there.fingerprint in ran.err
    assert f"3 agents, 3 keys, lines 1 to {len(lines)} of the audit log" in ran.err
    with there.opened() as (_, audit):
        assert audit.fault is None


def test_it_is_restored_which_key_authorised_which(here: Mainpc, there: Mainpc) -> None:
    """So that a revocation finds the descendants of a stolen key on the new machine too."""
    old, new = (KeyPair.generate(KeyOwner("Sensor", "pc3", frozenset({"agent"}))).public for _ in range(2))
    write_vouching(new.fingerprint, old.fingerprint, here.keys / "mainpc/enrolled/vouched")
    assert there.run("restore", "-", given=here.backup()).status == 0
    assert vouchers(tree_layout(there.keys, "mainpc")) == {new.fingerprint: old.fingerprint}


def test_it_is_recorded_what_was_backed_up_checked_and_restored(here: Mainpc, there: Mainpc) -> None:
    """For the list of what is wrong, which names an old backup; the new machine knows of the one that it came from."""
    archive = here.backup()
    backed_up = BackupRecord(here.state, SERVER).newest()
    assert backed_up is not None
    assert (backed_up.backed_up is not None, backed_up.checked, backed_up.restored) == (True, None, None)
    assert here.run("check", "-", given=archive[:-1]).status == 1
    assert BackupRecord(here.state, SERVER).newest() == backed_up
    assert here.run("check", "-", given=archive).status == 0
    checked = BackupRecord(here.state, SERVER).newest()
    assert checked is not None
    assert checked.checked is not None
    assert there.run("restore", "-", given=archive).status == 0
    restored = BackupRecord(there.state, SERVER).newest()
    assert restored is not None
    assert restored.backed_up == backed_up.backed_up
    assert restored.restored is not None


@pytest.mark.thorough
def test_the_restored_tree_is_one_of_certs_init(here: Mainpc, there: Mainpc) -> None:
    """It makes no new key there, remembers what was removed, verifies, and goes on to invite and revoke."""
    (here.keys / "mainpc/client.key").unlink()
    assert there.run("restore", "-", given=here.backup()).status == 0
    made = certs_init(there.keys, host="mainpc")
    assert (made.status, made.out.count("already present"), made.out.count("created")) == (0, 3, 0), made.err
    assert "client.key was removed and stays removed" in made.out
    assert certs_init(there.keys, "verify", host="mainpc").status == 0
    invited = certs_init(there.keys, "invite", "Watcher", "--host", "pc3", "--role", "agent", host="mainpc")
    assert invited.status == 0, invited.err
    revoked = certs_init(there.keys, "revoke", "operator", host="mainpc")
    assert revoked.out.startswith("revoked: ")
    assert "pc2: NOT ACKNOWLEDGED" in revoked.out  # mainpc, which would notify it, does not run


def test_a_restore_lists_who_will_be_operator(here: Mainpc, there: Mainpc) -> None:
    """And open invitations for one, and says that the file must be trusted; `check` does the same."""
    intruder = new_pair("Intruder", "pc9", "operator", "agent").certificate
    replace_certificate(intruder, here.keys / "mainpc/enrolled/Intruder.key")
    assert certs_init(here.keys, "invite", "Ops", "--host", "desk", "--role", "operator").status == 0
    own = load_certificate(here.keys / "mainpc/operator.key").public.fingerprint
    archive = here.backup()
    for command in ("check", "restore"):
        ran = there.run(command, "-", given=archive)
        assert ran.status == 0, ran.err
        assert "This archive is not signed: restore it only if you trust its source" in ran.err
        lines = [line for line in ran.err.splitlines() if line.startswith("It authorises")]
        assert [line.partition(" with ")[0] for line in lines] == [
            "It authorises Intruder on pc9 (agent operator)",
            "It authorises operator on mainpc (operator)",
            "It authorises Ops on desk (operator)",
        ]
        assert f"with {intruder.public.fingerprint}, which is not authorised here now" in lines[0]
        assert f"with {own}, which is not authorised here now" in lines[1]
        assert "with an open invitation" in lines[2]
    again = there.run("restore", "-", "--replace", given=archive)
    assert f"with {own}, which is authorised here already" in again.err


def test_who_will_be_operator_is_listed_before_anything_changes(
    here: Mainpc, there: Mainpc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the time of the first line about it, the machine has no key of the archive."""
    seen: list[list[str]] = []

    def note(line: str) -> None:
        if line.startswith("It authorises"):
            seen.append([name for name in there.files() if not name.startswith((".", "certificates/.", "state/."))])

    monkeypatch.setattr("twinhost.cli.archive.note", note)
    assert there.run("restore", "-", given=here.backup()).status == 0
    assert seen == [[]]
    assert there.secrets()


def test_every_restored_folder_is_its_owners_alone(here: Mainpc, there: Mainpc) -> None:
    """Also that of mainpc where its first file lies deeper, as where each host has a machine of its own."""
    (here.keys / "mainpc/client.key").rename(here.keys / "mainpc/enrolled/UnifiedMemoryReasoningAgent.key")
    assert there.run("restore", "-", given=here.backup()).status == 0
    modes = {str(path): path.stat().st_mode & 0o777 for path in there.root.rglob("*") if path.is_dir()}
    assert set(modes.values()) == {0o700}, modes


def test_no_other_hosts_secret_is_in_it(here: Mainpc) -> None:
    """One volume has the folders of both hosts, an exported one, and one that slipped into mainpc's."""
    foreign = load_key_pair(here.keys / "pc2/client.key_secret")
    write_key_pair(foreign, here.keys / "mainpc/stray.key_secret")
    other = KeyPair.generate(KeyOwner("greeter", "pc3", frozenset({"agent"})))
    (here.keys / "greeter").mkdir(mode=0o700)
    write_key_pair(other, here.keys / "greeter/greeter.key_secret")
    ran = here.run("backup", "-")
    assert ran.status == 0, ran.err
    secrets = [name for name in members_of(ran.out) if name.endswith(".key_secret")]
    assert secrets == ["keys/mainpc/server.key_secret", "keys/operator/operator.key_secret"]
    assert [name for name in members_of(ran.out) if name.startswith(("keys/pc2/", "keys/greeter/"))] == []
    for pair in (foreign, other):
        assert pair.secret_z85 not in ran.out
    assert "stray.key_secret is left out: it is a secret of pc2" in ran.err


def test_of_another_agents_standby_nothing_is_in_it(
    here: Mainpc, there: Mainpc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that it can be restored where none is."""
    write_role(here.keys / "pc2", FolderRole("log", 1, "pc2"))
    monkeypatch.setenv(DATABASE_VARIABLE, "postgresql:///twinhost?host=/nowhere")
    archive = here.backup()
    monkeypatch.delenv(DATABASE_VARIABLE)
    assert [name for name in members_of(archive) if name.startswith("keys/pc2")] == []
    ran = there.run("restore", "-", given=archive)
    assert ran.status == 0, ran.err


def test_who_joined_on_this_host_is_in_it(here: Mainpc, there: Mainpc) -> None:
    """A second operator's folder comes along, with its line of certs-init's record."""
    ana = KeyPair.generate(KeyOwner("ana", "mainpc", frozenset({"operator"})))
    (here.keys / "ana").mkdir(mode=0o700)
    write_key_pair(ana, here.keys / "ana/ana.key_secret")
    assert there.run("restore", "-", given=here.backup()).status == 0
    assert load_key_pair(there.keys / "ana/ana.key_secret") == ana
    assert certs_init(there.keys, "verify", host="mainpc").status == 0


@pytest.mark.parametrize("max_file_bytes", [600, MAX_FILE_BYTES])
def test_what_comes_after_the_copy_of_the_database_is_left_out(
    here: Mainpc, there: Mainpc, monkeypatch: pytest.MonkeyPatch, max_file_bytes: int
) -> None:
    """Its newest file goes on, others are begun and the oldest are dropped: the log ends where the database ends."""
    log = here.state / "audit"
    with here.opened(max_file_bytes, keep_files=4) as (database, audit):

        def add(name: str) -> None:
            add_agent(database, audit, name)
            audit.flush()

        for number in range(8):
            add(f"before-{number}")
        before = {path.name for path in log.iterdir()}
        head = audit.head

        def meanwhile() -> None:
            for number in range(8):
                add(f"after-{number}")

        monkeypatch.setattr("twinhost.archive.state.copy_database", then(copy_database, meanwhile))
        archive = here.backup()
        rotated = max_file_bytes != MAX_FILE_BYTES
        assert bool(before - {path.name for path in log.iterdir()}) is rotated
    assert there.run("restore", "-", given=archive).status == 0
    assert [name for name in there.registered() if name.startswith("after")] == []
    assert [name for name in there.registered() if name.startswith("before")] == [f"before-{n}" for n in range(8)]
    numbers = [json.loads(line)["seq"] for line in there.audit_lines()]
    assert numbers == list(range(numbers[0], head.seq + 2))  # and the line of the restore


def test_lines_that_no_file_has_yet_are_made_up_for(here: Mainpc, there: Mainpc) -> None:
    """A line is in the database first; a backup at that moment has it all the same."""
    with here.opened() as (database, audit):
        add_agent(database, audit, "late")
        assert "late" not in "".join(here.audit_lines())
        archive = here.backup()
    assert there.run("restore", "-", given=archive).status == 0
    assert '"name":"late"' in there.audit_lines()[-2]


def test_a_key_revoked_meanwhile_is_revoked_in_the_backup(
    here: Mainpc, there: Mainpc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys are read last."""
    pair = load_key_pair(here.keys / "pc2/client.key_secret")
    meanwhile = lambda: revoke(tree_layout(here.keys), "UnifiedMemoryReasoningAgent")  # noqa: E731
    monkeypatch.setattr("twinhost.archive.backup.check_audit", then(check_audit, meanwhile))
    assert there.run("restore", "-", given=here.backup()).status == 0
    assert (there.keys / "mainpc/revoked" / revoked_file_name(pair.public.fingerprint)).exists()


def test_a_restore_keeps_the_state_it_replaces(here: Mainpc, there: Mainpc) -> None:
    """Database, log and keys that were there lie beside the new ones, their owner's alone, and nobody uses them."""
    there.make(agents=1)
    before, old = there.files(), there.fingerprint
    archive = here.backup()
    ran = there.run("restore", "-", "--replace", given=archive)
    assert ran.status == 0, ran.err
    assert (there.fingerprint, there.registered()) == (here.fingerprint, here.registered())
    after = there.files()
    (aside,) = there.keys.glob(".replaced-*")
    for folder in ("mainpc", "operator"):
        for name, file in before.items():
            if name.startswith(f"certificates/{folder}/"):
                assert after[name.replace("certificates/", f"certificates/{aside.name}/")] == file
    assert load_key_pair(aside / "mainpc/server.key_secret").public.fingerprint == old
    assert aside.stat().st_mode & 0o777 == 0o700
    (database,) = quarantined(there.database, REPLACED)
    assert (there.state / database.name).stat().st_mode & 0o777 == 0o600
    assert str(aside) in ran.err
    verified = certs_init(there.keys, "verify")
    assert f"remark: {aside} holds the keys that a restore replaced" in verified.out
    assert f"{aside} does not belong" not in verified.out


def test_in_one_tree_the_other_hosts_folder_stays(here: Mainpc) -> None:
    """The simulation has both hosts in one volume: pc2's keys, and what certs-init knows of them, are as they were."""
    archive = here.backup()
    pc2 = {name: file for name, file in here.files().items() if "/pc2/" in name}
    record = (here.keys / ".distributed").read_text()
    ran = here.run("restore", "-", "--replace", given=archive)
    assert ran.status == 0, ran.err
    assert {name: file for name, file in here.files().items() if "/pc2/" in name} == pc2
    assert sorted((here.keys / ".distributed").read_text().splitlines()) == record.splitlines()
    assert certs_init(here.keys, "verify").status == 0


def test_what_was_revoked_here_since_stays_revoked(here: Mainpc) -> None:
    """An older list readmits no key that this machine knows to be revoked; it says how many, and whose."""
    archive = here.backup()
    keys = [load_key_pair(here.keys / name) for name in ("pc2/client.key_secret", "operator/operator.key_secret")]
    for name in ("UnifiedMemoryReasoningAgent", "operator"):
        revoke(tree_layout(here.keys), name)
    ran = here.run("restore", "-", "--replace", given=archive)
    assert ran.status == 0, ran.err
    for pair in keys:
        marker = here.keys / "mainpc/revoked" / revoked_file_name(pair.public.fingerprint)
        assert marker.stat().st_mode & 0o777 == 0o644
    assert "2 keys that were revoked or retired on this machine since stay revoked" in ran.err
    assert "certs-init replace operator" in ran.err
    assert certs_init(here.keys, "replace", "operator").status == 0


def test_revocations_elsewhere_are_dated_in_the_report(here: Mainpc, there: Mainpc) -> None:
    """Another machine can't know; it says since when, and what to look at."""
    archive = here.backup()
    revoke(tree_layout(here.keys), "UnifiedMemoryReasoningAgent")
    ran = there.run("restore", "-", given=archive)
    moment = json.loads(members_of(archive)["manifest.json"])["moment"]
    assert f"Keys that were revoked after {moment} are authorised again" in ran.err
    assert "cli audit tail" in ran.err


def test_no_event_gets_a_number_that_another_had(here: Mainpc, there: Mainpc) -> None:
    """What was published after the backup had numbers too, and a client that reads on from there misses nothing."""

    def publish(machine: Mainpc, count: int) -> int:
        with machine.opened() as (database, _):
            events = Events(database)
            for number in range(count):
                with database.transaction():
                    events.add(Topic.EVENT, {"number": number}, "agent-0")
            return events.last_seq

    last_seq = publish(here, 3)
    archive = here.backup()
    assert publish(here, 5) == last_seq + 5
    assert there.run("restore", "-", given=archive).status == 0
    assert publish(there, 1) == last_seq + SKIPPED + 1


def test_without_the_other_hosts_secret_it_names_this_host(here: Mainpc, tmp_path: Path) -> None:
    """certs-init would stop at a secret that lies elsewhere."""
    alone = Mainpc(tmp_path / "alone")
    assert "set TWINHOST_HOST=mainpc in .env" in alone.run("restore", "-", given=here.backup()).err


def test_a_file_is_its_owners_alone_and_never_another(here: Mainpc, there: Mainpc, tmp_path: Path) -> None:
    """It has its name once it is whole; one that is there stays as it is."""
    file = tmp_path / "mainpc.backup"
    assert here.run("backup", str(file)).status == 0
    assert file.stat().st_mode & 0o777 == 0o600
    content = file.read_bytes()
    again = here.run("backup", str(file))
    assert (again.status, "exists already" in again.err, file.read_bytes()) == (2, True, content)
    checked = here.run("check", str(file))
    assert (checked.status, "the archive is whole" in checked.err) == (0, True)
    assert there.run("restore", str(file)).status == 0


def test_after_a_failure_there_is_no_file(here: Mainpc, tmp_path: Path) -> None:
    """Neither under its name nor under another, and nothing of it beside the database."""
    (here.keys / "mainpc/server.key_secret").unlink()
    before, places = here.files(), set(tmp_path.iterdir())
    ran = here.run("backup", str(tmp_path / "mainpc.backup"))
    assert (ran.status, "the secret of SystemDigitalTwin is missing" in ran.err) == (1, True), ran.err
    assert (set(tmp_path.iterdir()), here.files()) == (places, before)


def test_what_a_killed_backup_left_is_swept_away(here: Mainpc) -> None:
    """A copy of the database takes space."""
    (here.state / ".archiving").mkdir()
    shutil.copy(here.database, here.state / ".archiving" / DATABASE)
    here.backup()
    assert not (here.state / ".archiving").exists()


def test_a_check_changes_nothing(here: Mainpc) -> None:
    """Nor does it need mainpc to be stopped."""
    archive, before = here.backup(), here.files()
    ran = here.run("check", "-", given=archive)
    assert (ran.status, here.fingerprint in ran.err) == (0, True)
    record = f"state/{SERVER}.{BACKUPS_FILE}"  # which says that a check was made
    assert {**here.files(), record: b""} == {**before, record: b""}


def test_a_file_that_cannot_be_written_is_one_sentence(here: Mainpc, tmp_path: Path) -> None:
    """The command is no program of root's."""
    here.root.chmod(0o755)
    ran = here.run("backup", str(tmp_path / "nowhere/mainpc.backup"))
    assert (ran.status, ran.err.count("\n"), "can't be written" in ran.err) == (1, 1, True), ran.err
    with not_root():
        ran = here.run("backup", "-")
    assert (ran.status, ran.out, "this process can write" in ran.err) == (1, b"", True), ran.err


def test_lines_are_recorded_of_the_restore_alone(here: Mainpc, there: Mainpc) -> None:
    """The log records every restore, one after the other."""
    archive = here.backup()
    for _ in range(2):
        assert there.run("restore", "-", "--replace", given=archive).status == 0
        archive = there.backup()
    events = [json.loads(line)["event"] for line in there.audit_lines()]
    assert events.count(AuditEvent.RESTORED.value) == 2


def then(function: Callable[..., Any], meanwhile: Callable[[], object]) -> Callable[..., Any]:
    """Return a function that does the same, and lets something happen after it."""

    def both(*arguments: Any) -> Any:
        result = function(*arguments)
        meanwhile()
        return result

    return both


def test_what_a_restore_loses_is_reported_by_count(here: Mainpc) -> None:
    """What was registered after the backup; and where a table can't be read any more, that."""
    archive = here.backup()
    with here.opened() as (database, audit):
        for number in range(2):
            add_agent(database, audit, f"later-{number}")
        with database.transaction():
            Events(database).add(Topic.EVENT, {}, "somebody")
    output = here.run("restore", "-", "--replace", given=archive).err
    assert "fewer than before the restore: 2 registrations, 1 events and errors, 0 leases\n" in output
    flip(here.database, page_of(here.database, "happenings_by_writer"))
    output = here.run("restore", "-", "--replace", given=archive).err
    assert (
        "fewer than before the restore: 0 registrations, ? events and errors, 0 leases (?: can't be counted" in output
    )


def page_of(database: Path, name: str) -> int:
    """Return where in the file a table or an index begins; nothing is left in the log."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()
        (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    return int(page - 1) * int(page_bytes)
