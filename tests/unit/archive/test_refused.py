"""Whatever is wrong with an archive, or with the place for it, is one sentence, and nothing is touched."""

import hashlib
import io
import json
import re
import shutil
import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.loopback.agent_processes import SmallVolume
from tests.unit.archive.mainpcs import SERVER, Mainpc, forged, members_of, written
from tests.unit.certificates.trees import certs_init
from twinhost.archive.file_format import DATABASE_MEMBER, MANIFEST, ArchiveWriter, Manifest, Member
from twinhost.certificates.following import FolderRole, write_role
from twinhost.network_config.load import DATABASE_VARIABLE
from twinhost.secure_zmq.keys import KeyOwner, KeyPair
from twinhost.store.files import COMMIT, RESTORING, exclusive_lock

SERVER_SECRET = "keys/mainpc/server.key_secret"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Mainpc:
    return Mainpc(tmp_path_factory.mktemp("source") / "here").make()


@pytest.fixture(scope="module")
def archive(source: Mainpc) -> bytes:
    return source.backup()


@pytest.fixture
def there(tmp_path: Path) -> Mainpc:
    return Mainpc(tmp_path / "there", host="mainpc")


def assert_refused(machine: Mainpc, archive: bytes, why: str, *options: str) -> None:
    """One sentence on standard error, status 1, and every file as it was, with none beside it."""
    before = machine.files()
    ran = machine.run("restore", "-", *options, given=archive)
    assert (ran.status, ran.err.count("\n"), why in ran.err) == (1, 1, True), ran.err
    assert machine.files() == before
    assert not (machine.keys / RESTORING).exists()
    assert not (machine.state / RESTORING).exists()


@settings(max_examples=60)
@given(st.data())
def test_an_archive_that_is_cut_off_anywhere_is_refused(
    archive: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """At the boundary of a member too, where nothing of what came is wrong in itself."""
    cuts = st.integers(0, len(archive) - 1) | st.integers(0, len(archive) // 512 - 1).map(lambda block: block * 512)
    machine = Mainpc(tmp_path_factory.mktemp("cut") / "there", host="mainpc")
    assert_refused(machine, archive[: data.draw(cuts)], "is truncated after")


@settings(max_examples=120)
@given(st.data())
@pytest.mark.thorough
def test_a_bit_that_flipped_anywhere_is_noticed(
    archive: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """In a header, the manifest, a member, the padding, or the end."""
    blocks = st.integers(0, len(archive) // 512 - 1)
    position = data.draw(st.tuples(blocks, st.integers(0, 511)).map(lambda place: place[0] * 512 + place[1]))
    changed = bytearray(archive)
    changed[position] ^= 1 << data.draw(st.integers(0, 7))
    machine = Mainpc(tmp_path_factory.mktemp("flipped") / "there", host="mainpc")
    assert_refused(machine, bytes(changed), "")


def test_a_changed_moment_is_noticed(there: Mainpc, archive: bytes) -> None:
    """Where nothing else depends on it, the digest at the end detects it."""
    assert_refused(there, archive.replace(b'"moment": "2', b'"moment": "3', 1), "digest does not match its content")


def test_what_is_no_archive_is_refused(there: Mainpc, archive: bytes) -> None:
    """Nothing at all, another tar, and one with something after its end."""
    assert_refused(there, b"", "is truncated after 0 bytes")
    other = io.BytesIO()
    with tarfile.open(fileobj=other, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("umra.sqlite3"), io.BytesIO())
    assert_refused(there, other.getvalue(), "is not an archive of mainpc")
    assert_refused(there, archive + b"\0", "continues after its end")


@pytest.mark.parametrize(
    "name",
    [
        "keys/../state/SystemDigitalTwin.port",
        "keys/mainpc/../../../etc/cron.d/x.key",
        "/etc/passwd",
        "keys/.lock",
        "keys/.restoring/commit",
        "keys/mainpc/authorized_keys",
        "keys/mainpc/enrolled/a/b.key",
        "keys/mainpc/revoked/short.key",
        "state/SystemDigitalTwin.lock",
        "state/audit/../x.jsonl",
        "state/SystemDigitalTwin.sqlite3-wal",
    ],
)
def test_a_name_that_no_backup_has_is_refused(there: Mainpc, archive: bytes, name: str) -> None:
    """No path leads out of the two folders, nor to what is neither state nor key."""
    assert_refused(there, forged(archive, {name: b"x"}), "which no backup contains")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_what_is_no_ordinary_file_is_refused(there: Mainpc, archive: bytes, kind: bytes) -> None:
    """A link or a device under a name that a backup has, with a header that is right in itself."""
    begin = archive.index(SERVER_SECRET.encode() + b"\0", 1_024 + len(members_of(archive)[MANIFEST]))
    header = tarfile.TarInfo.frombuf(archive[begin : begin + 512], "ascii", "strict")
    header.type, header.linkname = kind, "/etc/passwd"
    changed = archive[:begin] + header.tobuf(tarfile.USTAR_FORMAT) + archive[begin + 512 :]
    assert_refused(there, changed, f"another member in place of {SERVER_SECRET}")


def test_a_member_that_is_there_twice_is_refused(there: Mainpc, archive: bytes) -> None:
    """The second would take the place of the first."""
    found = members_of(archive)
    manifest = msgspec.json.decode(found[MANIFEST], type=Manifest)
    twice = msgspec.structs.replace(manifest, members=(*manifest.members, manifest.members[-1]))
    assert_refused(there, written(twice, found), "a member twice")


def test_a_secret_that_everybody_could_read_is_refused(there: Mainpc, archive: bytes) -> None:
    """The mode of a member is not for the archive to choose."""
    assert_refused(there, forged(archive, modes={SERVER_SECRET: "0644"}), "the mode 0644")
    assert_refused(there, forged(archive, modes={SERVER_SECRET: "4755"}), "manifest can't be read")


def test_a_member_that_is_not_what_the_manifest_says_is_refused(there: Mainpc, archive: bytes) -> None:
    """Each has a digest of its own, beside that of the whole."""
    found = members_of(archive)
    manifest = msgspec.json.decode(found[MANIFEST], type=Manifest)
    other = {**found, "keys/mainpc/client.key": found["keys/mainpc/client.key"].replace(b"public", b"PUBLIC")}
    assert_refused(there, written(manifest, other), "keys/mainpc/client.key does not match the manifest")


def test_another_format_or_host_is_refused(there: Mainpc, archive: bytes) -> None:
    """What a newer program made, and what is of a configuration with other hosts."""
    newer = forged(archive, change=lambda manifest: msgspec.structs.replace(manifest, version=2, program="9.0"))
    assert_refused(there, newer, "format version 2 and this program knows 1; restore it with twinhost 9.0")
    other = forged(archive, change=lambda manifest: msgspec.structs.replace(manifest, host="mainpc2"))
    assert_refused(there, other, "the archive is of mainpc2")
    kind = forged(archive, change=lambda manifest: msgspec.structs.replace(manifest, format="something"))
    assert_refused(there, kind, "this is 'something'")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("program", "\x1b[2J"),
        ("moment", "2026-11-25T04:00:00Z\nerror: fine"),
        ("host", "m" * 100_000),
        ("\x1b[2J" + "y" * 100_000, "of no archive"),
    ],
    ids=["program", "moment", "host", "unknown"],
)
def test_an_archives_text_cannot_pose_as_the_commands_output(
    there: Mainpc, archive: bytes, field: str, value: str
) -> None:
    """What its manifest says is shown in one short line, without a character that a terminal would obey."""
    found = members_of(archive)
    for version in (1, 2):
        encoded = msgspec.json.encode({**msgspec.json.decode(found[MANIFEST]), "version": version, field: value})
        out = io.BytesIO()
        ArchiveWriter(out.write, 0).add(MANIFEST, 0o600, len(encoded), [encoded])
        ran = there.run("restore", "-", given=out.getvalue())
        assert (ran.status, ran.err.count("\n"), len(ran.err) < 500, ran.err[:-1].isprintable()) == (1, 1, True, True)
        assert version == 2 or "manifest can't be read" in ran.err


def changed_database(archive: bytes, tmp_path: Path, *statements: str) -> bytes:
    """Return the archive with a database on which these were executed."""
    path = tmp_path / "changed.sqlite3"
    path.write_bytes(members_of(archive)[DATABASE_MEMBER])
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)
    return forged(archive, {DATABASE_MEMBER: path.read_bytes()})


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("PRAGMA user_version = 99", "has schema version 99 and this program knows 1 to"),
        ("CREATE TRIGGER t AFTER INSERT ON agents BEGIN DELETE FROM agents; END", "has trigger t, which this agent"),
        ("CREATE TABLE more (a)", "has table more"),
        ("DROP TABLE replies", "lacks"),
        ("UPDATE audit_head SET hash = 'ff'", "the audit log is incomplete or changed"),
        ("DELETE FROM audit_head", "has no record of its audit log"),
        ("DELETE FROM audit_files", "which the database does not know"),
        ("UPDATE audit_head SET seq = 9223372036854775807", "numbers that no line can have"),
        ("INSERT INTO audit_files VALUES (-5, '')", "numbers that no line can have"),
    ],
)
def test_a_database_that_this_program_did_not_make_is_refused(
    there: Mainpc, archive: bytes, tmp_path: Path, statement: str, why: str
) -> None:
    """Its schema is compared literally, since a trigger acts on every later write; it anchors the log."""
    assert_refused(there, changed_database(archive, tmp_path, statement), why)


def test_a_broken_database_is_refused(there: Mainpc, archive: bytes) -> None:
    """Pages of zeros in the middle, and no database at all."""
    whole = members_of(archive)[DATABASE_MEMBER]
    broken = whole[:4_096] + bytes(8_192) + whole[12_288:]
    assert_refused(there, forged(archive, {DATABASE_MEMBER: broken}), "is not an intact database")
    assert_refused(there, forged(archive, {DATABASE_MEMBER: None}), f"has no {DATABASE_MEMBER}")


def _log(change: Callable[[bytes], bytes | None], archive: bytes) -> bytes:
    (name,) = (name for name in members_of(archive) if name.startswith("state/audit/"))
    return forged(archive, {name: change(members_of(archive)[name])})


@pytest.mark.parametrize(
    "change",
    [
        lambda log: log.replace(b"agent-1", b"agent-9"),
        lambda log: b"".join(log.splitlines(keepends=True)[:-1]),
        lambda log: b"".join(log.splitlines(keepends=True)[1:]),
        lambda log: log + log.splitlines(keepends=True)[-1],
        lambda _: None,
    ],
    ids=["changed", "end cut off", "beginning cut off", "doubled", "gone"],
)
def test_a_log_that_is_not_whole_is_refused(
    there: Mainpc, archive: bytes, change: Callable[[bytes], bytes | None]
) -> None:
    """Up to the line that the database names, whatever the digests say; whoever knows of it can take it as it is."""
    broken = _log(change, archive)
    assert_refused(there, broken, "the audit log is incomplete or changed")
    ran = there.run("restore", "-", "--broken-audit", given=broken)
    assert (ran.status, "remark: the audit log is accepted as it is: the chain is broken" in ran.err) == (0, True), (
        ran.err
    )


def test_a_log_that_is_not_whole_is_not_backed_up_unseen(there: Mainpc) -> None:
    """Such a backup could not be restored; whoever knows of it can have it."""
    there.make()
    (path,) = (there.state / "audit").iterdir()
    path.write_bytes(path.read_bytes().replace(b"agent-1", b"agent-9"))
    ran = there.run("backup", "-")
    assert (ran.status, ran.out, "the audit log is incomplete or changed" in ran.err) == (1, b"", True), ran.err
    assert there.run("backup", "-", "--broken-audit").status == 0


def test_keys_that_are_not_this_hosts_or_no_pair_are_refused(there: Mainpc, source: Mainpc, archive: bytes) -> None:
    """The server's secret is missing, its halves do not fit, it is another's, or a public file holds a secret."""
    found = members_of(archive)
    secret, operators = found[SERVER_SECRET], found["keys/operator/operator.key_secret"]
    assert_refused(there, forged(archive, {SERVER_SECRET: None}), "the secret of SystemDigitalTwin is missing")
    other = KeyPair.generate(KeyOwner(SERVER, "mainpc", frozenset({"agent"}))).secret_z85
    own = next(line for line in secret.splitlines() if b"secret-key" in line)
    mixed = secret.replace(own, b'    secret-key = "' + other + b'"')
    assert_refused(there, forged(archive, {SERVER_SECRET: mixed}), "not halves of one pair")
    assert_refused(
        there, forged(archive, {SERVER_SECRET: operators}), "is the key of operator, not of SystemDigitalTwin"
    )
    assert_refused(there, forged(archive, {"keys/mainpc/client.key": secret}), "is a public key file")
    pc2 = (source.keys / "pc2/client.key_secret").read_bytes()
    assert_refused(there, forged(archive, {"keys/mainpc/x.key_secret": pc2}), "is a secret of pc2")
    assert_refused(
        there, forged(archive, {"keys/pc2/client.key": found["keys/mainpc/client.key"]}), "in another host's folder"
    )
    assert_refused(there, forged(archive, {"keys/.distributed": b"?\n"}), "is malformed at line 1")


@pytest.mark.parametrize("present", ["database", "keys", "log"])
def test_a_state_that_is_there_is_not_replaced_unasked(there: Mainpc, archive: bytes, present: str) -> None:
    """A database, a secret, or a log alone is enough."""
    if present == "database":
        there.database.write_bytes(b"")
    elif present == "log":
        (there.state / "audit").mkdir()
        (there.state / "audit/audit-000000000001.jsonl").write_text("")
    else:
        certs_init(there.keys, host="mainpc")
    assert_refused(there, archive, "exists already; to replace the present state")


def test_what_a_standby_follows_is_not_replaced(there: Mainpc, archive: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its log would not have it; a new machine has no log yet."""
    monkeypatch.setenv(DATABASE_VARIABLE, "postgresql:///twinhost?host=/nowhere")
    assert there.run("restore", "-", given=archive).status == 0
    assert_refused(there, archive, "make leave-ha, then restore it, then make up-ha", "--replace")
    monkeypatch.delenv(DATABASE_VARIABLE)
    assert there.run("restore", "-", "--replace", given=archive).status == 0


def test_what_follows_another_machine_is_not_backed_up(there: Mainpc) -> None:
    """It may lack what was acknowledged there; once it is active again, it has all."""
    there.make()
    write_role(there.keys / "mainpc", FolderRole("log", 2, "pc2"))
    ran = there.run("backup", "-")
    assert (ran.status, ran.out) == (1, b"")
    assert "SystemDigitalTwin is active on pc2" in ran.err
    write_role(there.keys / "mainpc", FolderRole("log", 3, ""))
    assert there.run("backup", "-").status == 0


def test_while_mainpc_runs_nothing_is_restored(there: Mainpc, archive: bytes) -> None:
    """The agent holds its state; --replace makes no difference."""
    release = exclusive_lock(there.state / f"{SERVER}.lock")
    try:
        assert_refused(there, archive, "runs on it; stop it first: docker compose stop mainpc")
        assert_refused(there, archive, "runs on it", "--replace")
    finally:
        release()
    assert there.run("restore", "-", given=archive).status == 0


def test_one_backup_or_restore_at_a_time(there: Mainpc, archive: bytes) -> None:
    """They use the same folders."""
    there.make()
    release = exclusive_lock(there.state / ".archive.lock")
    try:
        for command in ("backup", "restore", "check"):
            ran = there.run(command, "-", given=archive)
            assert (ran.status, ran.out, "another backup, check or restore" in ran.err) == (1, b"", True), ran.err
    finally:
        release()


def test_pc2_is_referred_to_its_own_backup(tmp_path: Path, archive: bytes) -> None:
    """This is for mainpc's state."""
    machine = Mainpc(tmp_path / "pc2", host="pc2")
    for command in ("backup", "restore", "check"):
        ran = machine.run(command, "-", given=archive)
        assert (ran.status, ran.out) == (1, b"")
        assert "cli memory backup" in ran.err
        assert "certs-init export-host pc2" in ran.err


def test_a_machine_without_a_state_has_nothing_to_back_up(there: Mainpc) -> None:
    """It is not an empty archive."""
    certs_init(there.keys, host="mainpc")
    ran = there.run("backup", "-")
    assert (ran.status, ran.out, "no state to be backed up" in ran.err) == (1, b"", True), ran.err


@pytest.mark.parametrize("arguments", [(), ("backup",), ("restore",), ("backup", "-", "--replace"), ("burn", "-")])
def test_a_wrong_usage_ends_with_2(there: Mainpc, arguments: tuple[str, ...]) -> None:
    assert there.run(*arguments).status == 2


def test_a_full_volume_is_reported_before_anything_is_written(there: Mainpc, archive: bytes) -> None:
    """Backup and restore say how much they need, and leave nothing."""
    with SmallVolume(there.state):
        assert_refused(there, archive, "are free; free space there")
    there.make()
    there.state.rename(there.root / "kept")
    there.state.mkdir()
    with SmallVolume(there.state):
        for path in (there.root / "kept").glob("*.sqlite3"):
            (there.state / path.name).write_bytes(path.read_bytes())
        ran = there.run("backup", "-")
        assert (ran.status, ran.out, "are free; free space there" in ran.err) == (1, b"", True), ran.err
        assert sorted(path.name for path in there.state.iterdir()) == [".archive.lock", f"{SERVER}.sqlite3"]


def test_a_restore_that_was_cut_short_stops_everybody_else(there: Mainpc, archive: bytes) -> None:
    """Neither certs-init, which would make new keys, nor a backup goes on with half a state."""
    (there.keys / RESTORING).mkdir()
    there.make()
    (there.keys / RESTORING / COMMIT).write_text(json.dumps({"manifest_sha256": "0", "stamp": "x", "moment": "y"}))
    made = certs_init(there.keys)
    assert (made.status, "run the same restore again" in made.err) == (1, True), made.err
    for command in ("backup", "check"):
        ran = there.run(command, "-", given=archive)
        assert (ran.status, ran.out, "run the same restore again" in ran.err) == (1, b"", True), ran.err
    assert "belongs to an interrupted restore" in certs_init(there.keys, "verify").out


@pytest.mark.parametrize("command", ["check", "restore"])
def test_a_link_in_the_state_leads_to_no_other_hosts_keys(there: Mainpc, archive: bytes, command: str) -> None:
    """mainpc's agent can write its volume, and this command removes what an earlier run left there."""
    there.make()
    pc2 = {name: file for name, file in there.files().items() if "/pc2/" in name}
    for place in (there.state / RESTORING, there.state / RESTORING / "audit"):
        place.parent.mkdir(exist_ok=True)
        place.symlink_to(there.keys / "pc2")
        replace = ["--replace"] if command == "restore" else []
        ran = there.run(command, "-", *replace, given=archive)
        assert ran.status == 0, ran.err
        assert {name: file for name, file in there.files().items() if "certificates/pc2/" in name} == pc2


@pytest.mark.parametrize("name", ["audit", f"{SERVER}.sqlite3-wal"])
def test_a_link_that_leads_nowhere_is_in_nobodys_way(there: Mainpc, archive: bytes, name: str) -> None:
    """Past the point of no return it would leave half a state for ever."""
    there.make()
    place = there.state / name
    shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    place.symlink_to(there.keys / "pc2/nothing")
    ran = there.run("restore", "-", "--replace", given=archive)
    assert ran.status == 0, ran.err
    assert there.registered() == ["agent-0", "agent-1", "agent-2"]
    assert not (there.keys / "pc2/nothing").exists()


@pytest.mark.parametrize("options", [(), ("--broken-audit",)])
def test_a_link_in_the_log_brings_no_secret_into_a_backup(there: Mainpc, options: tuple[str, ...]) -> None:
    """Nor is what it leads to quoted as a broken line."""
    there.make()
    (path,) = (there.state / "audit").iterdir()
    path.unlink()
    path.symlink_to(there.keys / "pc2/client.key_secret")
    ran = there.run("backup", "-", *options)
    assert (ran.status, ran.out, "is not a regular file, so not part of the audit log" in ran.err) == (1, b"", True), (
        ran.err
    )
    assert "CURVE" not in ran.err


def test_a_linked_folder_of_revocations_is_not_followed(there: Mainpc, archive: bytes) -> None:
    """It would bring another host's files among mainpc's keys."""
    there.make()
    revoked = there.keys / "mainpc/enrolled/revoked"
    shutil.rmtree(revoked)
    revoked.symlink_to(there.keys / "pc2")
    assert there.run("restore", "-", "--replace", given=archive).status == 0
    assert list(revoked.iterdir()) == []


def test_many_small_files_need_the_room_that_they_take(there: Mainpc, archive: bytes) -> None:
    """A volume has blocks: a hundred thousand files of a byte are more than a hundred thousand bytes."""
    found = members_of(archive)
    manifest = msgspec.json.decode(found[MANIFEST], type=Manifest)
    names = [f"keys/mainpc/requests/a{number}.key" for number in range(10_000)]
    more = tuple(Member(name, 0, "0644", hashlib.sha256().hexdigest()) for name in names)
    crowded = msgspec.structs.replace(manifest, members=(*manifest.members, *more))
    with SmallVolume(there.keys):
        ran = there.run("restore", "-", given=written(crowded, {**found, **dict.fromkeys(names, b"")}))
    needed = re.search(r"(\d+) bytes are needed", ran.err)
    assert needed is not None, ran.err
    assert int(needed[1]) > len(names) * 4_096
