"""Restore mainpc's state from an archive: received beside the present state, checked as a whole, then exchanged for it.

The exchange has a point of no return: a file, `commit`, beside the received keys. Before it, nothing of the present
state is changed; after it, every step is an idempotent rename, so that a later run that finds the file completes the
exchange. mainpc's own folder of keys is moved away first and put in place last: without it the agent can't start.
`commit` is also beside the received state, for an agent that needs no key.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import msgspec

from twinhost.archive.file_format import DATABASE_MEMBER, KEYS, STATE, ArchiveReader, Manifest, Member, parse_manifest
from twinhost.archive.keys import carry_revocations, check_keys, merge_records, trust_notice
from twinhost.archive.places import DATABASE, MIGRATIONS, Places
from twinhost.archive.state import Contents, check_audit, contents_of, mark_restored, require_whole
from twinhost.certificates.layout import Layout, Say
from twinhost.certificates.tree import REPLACED_PREFIX, locked, make_host_folder
from twinhost.secure_zmq.errors import ConfigurationError, MalformedRequest, StoreUnavailable
from twinhost.secure_zmq.key_writer import fsync_folder, replace_file
from twinhost.store.backup import check_copy, require_space
from twinhost.store.damage import REPLACED
from twinhost.store.files import COMMIT, PARTS, make_private, part, require_no_restore
from twinhost.system_digital_twin.state_files import AUDIT_FOLDER

_BLOCK_BYTES = 4_096  # of common file systems


class Commit(msgspec.Struct, frozen=True):
    """The exchange to finish: the digest of its manifest, and the suffix of what it replaces."""

    manifest_sha256: str
    stamp: str
    moment: str
    carried: tuple[str, ...] = ()  # fingerprints that were revoked here, and stay revoked


@dataclass(frozen=True, slots=True)
class Checked:
    """An archive that was received and checked."""

    manifest: Manifest
    manifest_sha256: str
    contents: Contents
    remarks: list[str]
    trust: list[str]  # what a person must know before it is put in place


@dataclass(frozen=True, slots=True)
class Restored:
    """The result of a restore; `checked` is None if it completed an interrupted one."""

    commit: Commit
    checked: Checked | None


def restore(places: Places, stream: BinaryIO, say: Say, *, may_replace: bool, broken_log: bool = False) -> Restored:
    """Replace mainpc's state by an archive; run again, it completes an interrupted restore.

    A present state is replaced only where that is allowed, and is kept beside the new one.

    Raises:
        ConfigurationError: mainpc runs, or has a state already; nothing was changed.
        MalformedRequest: the archive is incomplete or malformed; nothing was changed.
        StoreUnavailable: a volume has no space.
    """
    with ExitStack() as stack:
        stack.callback(places.hold_archives())
        stack.callback(places.hold_state())
        stack.enter_context(locked(places.layout, folders=False, restoring=True))
        begun = unfinished(places)
        if begun is not None:
            finish(places, begun)
            say(f"the interrupted restore of the state of {begun.moment} is complete")
        reader = ArchiveReader(stream)
        content = reader.manifest()
        if begun is not None and begun.manifest_sha256 == hashlib.sha256(content).hexdigest():
            return Restored(begun, None)
        manifest = parse_manifest(content)
        if not may_replace:
            _require_free(places, manifest)
        with _received(places):
            checked = _receive(places, reader, content, broken_log=broken_log)
            for line in checked.trust:
                say(line)
            mark_restored(places.received_state / DATABASE, places.received_state / AUDIT_FOLDER, manifest)
            carried = carry_revocations(places)
            commit = Commit(checked.manifest_sha256, free_stamp(places), manifest.moment, carried)
            _sync(places)
            exchange(places, commit)
        return Restored(commit, checked)


def check(places: Places, stream: BinaryIO, *, broken_log: bool = False) -> Checked:
    """Check an archive as `restore` would, and change nothing; mainpc may run.

    Raises:
        MalformedRequest: the archive is incomplete or malformed.
    """
    with ExitStack() as stack:
        stack.callback(places.hold_archives())
        require_no_restore(places.layout.root)
        stack.enter_context(_received(places))
        reader = ArchiveReader(stream)
        return _receive(places, reader, reader.manifest(), broken_log=broken_log)


@contextmanager
def _received(places: Places) -> Iterator[None]:
    """Make a folder on each volume for what is received; remove it at the end, unless the exchange has begun."""
    folders = places.received_state, places.received_keys
    try:
        for folder in folders:
            drop(folder)
            folder.mkdir(mode=0o700)
        yield
    except OSError as error:
        raise StoreUnavailable(
            f"{error.filename or places.state} can't be written ({error.strerror}); check the space on its volume, "
            "and run it again"
        ) from None
    finally:
        if unfinished(places) is None:
            for folder in folders:
                drop(folder)


def _receive(places: Places, reader: ArchiveReader, content: bytes, *, broken_log: bool) -> Checked:
    manifest = parse_manifest(content)
    if manifest.host != places.layout.server_host:
        raise MalformedRequest(
            f"the archive is of {manifest.host}, and network_config.yaml calls mainpc's host "
            f"{places.layout.server_host}; restore it with the configuration of {manifest.host}"
        )
    areas = {STATE: places.received_state, KEYS: places.received_keys}
    for area, folder in areas.items():
        require_space(folder, sum(_room_for(member) for member in manifest.of(area)))
    for member in manifest.members:
        area, _, rest = member.name.partition("/")
        _make_folders(areas[area], rest)
        _write(areas[area] / rest, member, reader)
    reader.finish()
    (places.received_state / AUDIT_FOLDER).mkdir(mode=0o700, exist_ok=True)
    tree = replace(places.layout, root=places.received_keys)
    server = check_keys(tree, [member.name for member in manifest.of(KEYS)])
    database = places.received_state / DATABASE
    sha256 = next(member.sha256 for member in manifest.members if member.name == DATABASE_MEMBER)
    check_copy(database, MIGRATIONS, sha256)
    audit = check_audit(database, places.received_state / AUDIT_FOLDER)
    remarks = require_whole(audit, broken_log=broken_log)
    _complete(places.layout, tree)
    contents = contents_of(tree, server, database, audit)
    trust = trust_notice(tree, places.layout)
    return Checked(manifest, hashlib.sha256(content).hexdigest(), contents, remarks, trust)


def _room_for(member: Member) -> int:
    """Return about how many bytes a file takes on a volume; an empty one takes some, too."""
    return -(-max(member.size, 1) // _BLOCK_BYTES) * _BLOCK_BYTES


def _make_folders(root: Path, file: str) -> None:
    """Make the folders of a file, each with mode 0700: `mkdir` gives the mode to the last of several only."""
    folder = root
    for name in Path(file).parent.parts:
        folder /= name
        folder.mkdir(mode=0o700, exist_ok=True)


def _write(path: Path, member: Member, reader: ArchiveReader) -> None:
    mode = int(member.mode, 8)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    digest = hashlib.sha256()
    with os.fdopen(os.open(path, flags, mode), "wb") as stream:
        os.fchmod(stream.fileno(), mode)
        for piece in reader.member(member.name, mode, member.size):
            digest.update(piece)
            stream.write(piece)
        stream.flush()
        os.fsync(stream.fileno())
    if digest.hexdigest() != member.sha256:
        raise MalformedRequest(
            f"{member.name} does not match the manifest; copy the archive again, or use another backup"
        )


def _complete(layout: Layout, tree: Layout) -> None:
    """Make the folders that have no file, and keep the records of folders that stay."""
    folders = [path for path in tree.root.iterdir() if path.is_dir()]
    merge_records(layout.root, tree.root, [folder.name for folder in folders])
    for folder in folders:
        make_host_folder(folder, tree)


def _require_free(places: Places, manifest: Manifest) -> None:
    folders = {member.name.split("/")[1] for member in manifest.of(KEYS) if member.name.count("/") > 1}
    present = [part(places.database, suffix) for suffix in PARTS]
    present += [places.audit, *(places.layout.root / name for name in sorted(folders))]
    for path in present:
        if holds_files(path):
            raise ConfigurationError(
                f"{path} exists already; to replace the present state and keep it next to the new one, repeat this "
                "with --replace (with make: ARGS=--replace)"
            )


def _sync(places: Places) -> None:
    for root in (places.received_state, places.received_keys):
        for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
            fsync_folder(folder)


def unfinished(places: Places) -> Commit | None:
    """Return the exchange that was interrupted, if one was.

    Raises:
        ConfigurationError: it can't be read.
    """
    path = places.received_keys / COMMIT
    try:
        return msgspec.json.decode(path.read_bytes(), type=Commit)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigurationError(f"{path} can't be read ({error}); check its volume") from None


def free_stamp(places: Places) -> str:
    """Return the present moment as UTC, made unique among the names of replaced states."""
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(places.layout.clock.time()))
    stamp, number = moment, 1
    while any(os.path.lexists(path) for path in kept_as(places, stamp)):
        number += 1
        stamp = f"{moment}-{number}"
    return stamp


def kept_as(places: Places, stamp: str) -> list[Path]:
    """Return the names under which the replaced state is kept, as far as there was any."""
    database = part(places.database, f".{REPLACED}-{stamp}")
    keys = places.layout.root / f"{REPLACED_PREFIX}{stamp}"
    return [*(part(database, suffix) for suffix in PARTS), _replaced_log(places, stamp), keys]


def exchange(places: Places, commit: Commit) -> None:
    """Pass the point of no return, and finish the exchange."""
    content = msgspec.json.encode(commit).decode()
    replace_file(places.received_state / COMMIT, content)
    replace_file(places.received_keys / COMMIT, content)
    finish(places, commit)


def finish(places: Places, commit: Commit) -> None:
    """Do every step of the exchange that is not done yet."""
    root, received = places.layout.root, places.received_keys
    server = places.layout.server_host
    replaced = root / f"{REPLACED_PREFIX}{commit.stamp}"
    if (received / server).exists():
        _keep(root / server, replaced)
    _exchange_database(places, commit.stamp)
    _exchange_log(places, commit.stamp)
    fsync_folder(places.state)
    for path in sorted(received.iterdir()):
        if path.name not in (COMMIT, server):
            _keep(root / path.name, replaced)
            path.rename(root / path.name)
    fsync_folder(root)
    if (received / server).exists():
        (received / server).rename(root / server)
    fsync_folder(root)
    drop(places.received_state)
    drop(received)  # its `commit` last: until then the next run continues here
    fsync_folder(places.state)
    fsync_folder(root)


def drop(folder: Path) -> None:
    """Remove what was received, if it is there; `commit` last.

    A link is removed and not followed: the agent can make one in its volume, and this process can read every key.

    Raises:
        StoreUnavailable: it can't be removed.
    """
    try:
        if folder.is_symlink() or folder.is_file():
            folder.unlink()
        elif folder.is_dir():
            for path in folder.iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                elif path.name != COMMIT:
                    path.unlink()
            (folder / COMMIT).unlink(missing_ok=True)
            folder.rmdir()
    except OSError as error:
        raise StoreUnavailable(
            f"{error.filename or folder} can't be removed ({error.strerror or error}); check its volume, then retry"
        ) from None


def holds_files(path: Path) -> bool:
    """Return whether there is any file at, or below, a path."""
    return path.is_file() or path.is_symlink() or any(inner.is_file() for inner in path.rglob("*"))


def _exchange_database(places: Places, stamp: str) -> None:
    received, present = places.received_state / DATABASE, places.database
    if received.exists():
        make_private(present)
        for suffix in PARTS:
            if os.path.lexists(part(present, suffix)):  # a dangling link is removed too
                part(present, suffix).rename(part(part(present, f".{REPLACED}-{stamp}"), suffix))
        fsync_folder(places.state)
        received.rename(present)


def _exchange_log(places: Places, stamp: str) -> None:
    received = places.received_state / AUDIT_FOLDER
    if received.exists():
        if os.path.lexists(places.audit):
            places.audit.rename(_replaced_log(places, stamp))
        received.rename(places.audit)


def _replaced_log(places: Places, stamp: str) -> Path:
    return part(places.audit, f".{REPLACED}-{stamp}")


def _keep(path: Path, replaced: Path) -> None:
    """Move a folder of keys, or a record, into the folder of the replaced ones; remove a folder without files."""
    if not os.path.lexists(path):
        return
    if not holds_files(path):
        shutil.rmtree(path)
        return
    replaced.mkdir(mode=0o700, exist_ok=True)
    path.rename(replaced / path.name)
    fsync_folder(replaced)
