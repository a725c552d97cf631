"""An archive in the place of mainpc's state: received beside it, checked whole, and then exchanged for it."""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from twinhost.archive.contents import Contents, contents_of, require_whole, told_of_trust
from twinhost.archive.exchange import Commit, drop, exchange, finish, free_stamp, holds_files, unfinished
from twinhost.archive.key_files import check_keys, merge_records, received_tree
from twinhost.archive.mark import mark_restored
from twinhost.archive.members import DATABASE, KEYS, STATE, Manifest, Member, parse_manifest
from twinhost.archive.places import DATABASE as DATABASE_FILE
from twinhost.archive.places import MIGRATIONS, Places
from twinhost.archive.revocations import carry_revocations
from twinhost.archive.state import check_audit
from twinhost.archive.stream import Reader
from twinhost.certificates.layout import Layout
from twinhost.certificates.tree_lock import fsync_folder, locked, make_host_folder
from twinhost.secure_zmq.errors import ConfigurationError, MalformedRequest, StoreUnavailable
from twinhost.store.backup import check_copy, require_space
from twinhost.store.files import PARTS, part, require_no_restore
from twinhost.system_digital_twin.state_files import AUDIT_FOLDER

_BLOCK_BYTES = 4_096  # of a usual file system
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Checked:
    """An archive that was received whole and found right."""

    manifest: Manifest
    manifest_sha256: str
    contents: Contents
    remarks: list[str]
    trust: list[str]  # what a person has to know before it is put in place


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore came to; `checked` is None where it finished one that had been cut short."""

    commit: Commit
    checked: Checked | None


def restore(places: Places, stream: BinaryIO, say: Say, *, may_replace: bool, broken_log: bool = False) -> Restored:
    """Put an archive in the place of mainpc's state; run again, it finishes what a killed run began.

    Args:
        places: where the state is to be.
        stream: the archive.
        say: takes a line about what is finished first, and about the operators before anything is changed.
        may_replace: whether a state that is there gives way; it is kept beside the new one.
        broken_log: whether an audit log that is not whole is taken as it is.

    Raises:
        ConfigurationError: mainpc runs, or its state is there; nothing was touched.
        MalformedRequest: the archive is not whole, or not right; nothing was touched.
        StoreUnavailable: a volume has no space.
    """
    with ExitStack() as stack:
        stack.callback(places.hold_archives())
        stack.callback(places.hold_state())
        stack.enter_context(locked(places.layout, folders=False, restoring=True))
        begun = unfinished(places)
        if begun is not None:
            finish(places, begun)
            say(f"the restore of the state of {begun.moment}, which was interrupted, is finished")
        reader = Reader(stream)
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
            mark_restored(places.received_state / DATABASE_FILE, places.received_state / AUDIT_FOLDER, manifest)
            carried = carry_revocations(places)
            commit = Commit(checked.manifest_sha256, free_stamp(places), manifest.moment, carried)
            _sync(places)
            exchange(places, commit)
        return Restored(commit, checked)


def check(places: Places, stream: BinaryIO, *, broken_log: bool = False) -> Checked:
    """Check an archive as `restore` would, and change nothing; mainpc may run.

    Raises:
        MalformedRequest: the archive is not whole, or not right.
    """
    with ExitStack() as stack:
        stack.callback(places.hold_archives())
        require_no_restore(places.layout.root)
        stack.enter_context(_received(places))
        reader = Reader(stream)
        return _receive(places, reader, reader.manifest(), broken_log=broken_log)


@contextmanager
def _received(places: Places) -> Iterator[None]:
    """Have a folder on each volume for what comes; nothing is left of it, unless it is to be finished."""
    folders = places.received_state, places.received_keys
    try:
        for folder in folders:
            drop(folder)
            folder.mkdir(mode=0o700)
        yield
    except OSError as error:
        raise StoreUnavailable(
            f"{error.filename or places.state} can't be written ({error.strerror}); see the space of its volume, "
            "and run it again"
        ) from None
    finally:
        if unfinished(places) is None:
            for folder in folders:
                drop(folder)


def _receive(places: Places, reader: Reader, content: bytes, *, broken_log: bool) -> Checked:
    manifest = parse_manifest(content)
    if manifest.host != places.layout.server_host:
        raise MalformedRequest(
            f"the archive is of {manifest.host}, and network_config.yaml calls mainpc's host "
            f"{places.layout.server_host}; restore it with its own configuration"
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
    tree = received_tree(places.layout, places.received_keys)
    server = check_keys(tree, [member.name for member in manifest.of(KEYS)])
    database = places.received_state / DATABASE_FILE
    sha256 = next(member.sha256 for member in manifest.members if member.name == DATABASE)
    check_copy(database, MIGRATIONS, sha256)
    audit = check_audit(database, places.received_state / AUDIT_FOLDER)
    remarks = require_whole(audit, broken_log=broken_log)
    _complete(places.layout, tree)
    contents = contents_of(tree, server, database, audit)
    trust = told_of_trust(tree, places.layout)
    return Checked(manifest, hashlib.sha256(content).hexdigest(), contents, remarks, trust)


def _room_for(member: Member) -> int:
    """Return about how many bytes a file takes on a volume: one that is empty takes some, too."""
    return -(-max(member.size, 1) // _BLOCK_BYTES) * _BLOCK_BYTES


def _make_folders(root: Path, file: str) -> None:
    """Make what a file lies in, each its owner's alone: `mkdir` gives that mode to the last of several only."""
    folder = root
    for name in Path(file).parent.parts:
        folder /= name
        folder.mkdir(mode=0o700, exist_ok=True)


def _write(path: Path, member: Member, reader: Reader) -> None:
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
        raise MalformedRequest(f"{member.name} is not what its manifest says; take, or copy, the backup again")


def _complete(layout: Layout, tree: Layout) -> None:
    """Make the folders that have no file, and add what the present records say of folders that stay."""
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
                f"{path} is there already; to put the backup in the place of what is there, which is kept beside it: "
                "restore - --replace"
            )


def _sync(places: Places) -> None:
    for root in (places.received_state, places.received_keys):
        for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
            fsync_folder(folder)
