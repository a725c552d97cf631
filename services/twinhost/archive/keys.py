"""The keys of this host: which files of the tree belong to it, read at one moment, and checked."""

import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from twinhost.archive.file_format import KEY_FILE, KEYS, RECORDS
from twinhost.archive.places import Places
from twinhost.certificates.following import ROLE_FILE
from twinhost.certificates.layout import AGENT_ROLE, SERVER, Layout, described
from twinhost.certificates.records import JOINED_FILE, RECORD_FILE, DistributionRecord, JoinRecord
from twinhost.certificates.tree import is_revoked, joined_folders
from twinhost.secure_zmq.certificates import (
    ENROLLED_FOLDER,
    FAILURE_FILE,
    NOTHING,
    REVOKED_FOLDER,
    VOUCHED_FOLDER,
    folders_of_keys,
    read_folders,
)
from twinhost.secure_zmq.errors import ConfigurationError, KeyFileMissing, KeyMismatch, TwinhostError
from twinhost.secure_zmq.key_writer import revoked_file_name
from twinhost.secure_zmq.keys import (
    MAX_KEY_FILE_BYTES,
    SECRET_SUFFIX,
    Certificate,
    KeyPair,
    load_certificate,
    load_key_pair,
)

_MAX_READS = 20  # of the keys, until two in a row are the same: the agent writes some of them without the lock


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """The files by the names of their members, and a sentence for each file that was left out."""

    contents: dict[str, bytes]
    left_out: list[str]


def read_keys(layout: Layout) -> tuple[KeyFiles, KeyPair]:
    """Return the keys of this host as of one moment, and SystemDigitalTwin's, for a holder of the tree's lock.

    Raises:
        ConfigurationError: a secret is malformed, or the keys keep changing.
    """
    before = None
    for _ in range(_MAX_READS):
        try:
            keys = _read(layout)
        except FileNotFoundError:  # the agent removed it since it was listed
            continue
        if keys == before:
            return keys, check_keys(layout, keys.contents)
        before = keys
    raise ConfigurationError(f"the keys in {layout.root} keep changing; run the backup again later")


def check_keys(layout: Layout, names: Iterable[str]) -> KeyPair:
    """Check that these members of a tree are well-formed and this host's; return SystemDigitalTwin's pair.

    Raises:
        ConfigurationError: one is malformed or another host's secret, or SystemDigitalTwin's is missing.
    """
    place = layout.identity_of(SERVER)
    server: KeyPair | None = None
    remote = {identity.folder for identity in layout.remote}
    for name in names:
        path = layout.root / name.removeprefix(f"{KEYS}/")
        if name in RECORDS:
            continue
        if path.relative_to(layout.root).parts[0] in remote:
            raise ConfigurationError(
                f"{name} is in another host's folder, not in one of {layout.server_host}; use another backup"
            )
        if path.name.endswith(SECRET_SUFFIX):
            pair = load_key_pair(path)
            if pair.certificate.owner.host != layout.server_host:
                raise ConfigurationError(
                    f"{name} is a secret of {pair.certificate.owner.host}, not of {layout.server_host}; "
                    "use another backup"
                )
            if place is not None and path == layout.secret_file(place):
                server = pair
        elif path.parent.name not in (REVOKED_FOLDER, VOUCHED_FOLDER):
            load_certificate(path)
    if place is None or server is None:
        raise KeyFileMissing(
            f"the secret of {SERVER} is missing, which mainpc needs to serve; restore its file, or use another backup"
        )
    if server.certificate.owner != place.owner:
        raise KeyMismatch(
            f"{layout.secret_file(place)} is the key of {server.certificate.owner.name}, not of {SERVER}; "
            "restore the right file, or use another backup"
        )
    DistributionRecord(layout.root)
    JoinRecord(layout.root)
    return server


def merge_records(present: Path, received: Path, folders: Iterable[str]) -> None:
    """Add to the received records the lines of the present ones about folders that were not received."""
    theirs = set(folders)
    for name in (RECORD_FILE, JOINED_FILE):
        kept = [line for line in _record(present / name) if _folder_of(name, line) not in theirs]
        lines = [*_record(received / name), *kept]
        if lines:
            (received / name).touch(0o600)
            (received / name).write_text("".join(f"{line}\n" for line in lines), encoding="ascii")


def _read(layout: Layout) -> KeyFiles:
    keys = KeyFiles({}, [])
    folders = [folder for folder in layout.folders if folder.is_dir()] + list(_joined_here(layout, keys))
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            _add(layout, path, keys)
    names = {folder.name for folder in folders}
    for member, name in zip(RECORDS, (RECORD_FILE, JOINED_FILE), strict=True):
        lines = [line for line in _record(layout.root / name) if _folder_of(name, line) in names]
        if lines:
            keys.contents[member] = "".join(f"{line}\n" for line in lines).encode("ascii")
    return keys


def _joined_here(layout: Layout, keys: KeyFiles) -> Iterator[Path]:
    """Return the folders that `join` made here for owners on this host."""
    remote = {identity.folder for identity in layout.remote}
    for folder in joined_folders(layout):
        if folder.name in remote:
            continue
        try:
            hosts = {load_key_pair(path).certificate.owner.host for path in folder.glob(f"*{SECRET_SUFFIX}")}
        except TwinhostError as error:
            keys.left_out.append(f"{folder} is left out: {error}")
            continue
        if hosts == {layout.server_host}:
            yield folder


def _add(layout: Layout, path: Path, keys: KeyFiles) -> None:
    """Add a file, unless it is a draft, or not one of this host's keys."""
    name = f"{KEYS}/{path.relative_to(layout.root)}"
    if path.is_dir() and not path.is_symlink():
        return
    if path.name in (FAILURE_FILE, ROLE_FILE) or (path.name.startswith(".") and path.name.endswith(".draft")):
        return
    if not KEY_FILE.fullmatch(name) or path.is_symlink() or not path.is_file():
        if path.exists() or path.is_symlink():
            keys.left_out.append(f"{path} is left out: it is not a key file")
        return
    if path.name.endswith(SECRET_SUFFIX):
        host = load_key_pair(path).certificate.owner.host
        if host != layout.server_host:
            keys.left_out.append(f"{path} is left out: it is a secret of {host}, and is backed up only there")
            return
    elif path.parent.name not in (REVOKED_FOLDER, VOUCHED_FOLDER):
        try:
            load_certificate(path)
        except KeyFileMissing:
            raise FileNotFoundError(path) from None
        except TwinhostError as error:
            keys.left_out.append(f"{path} is left out: {error}")
            return
    keys.contents[name] = _bytes_of(path)


def _bytes_of(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        return stream.read(MAX_KEY_FILE_BYTES)


def _record(path: Path) -> list[str]:
    try:
        return path.read_text("ascii", "replace").splitlines()
    except FileNotFoundError:
        return []


def _folder_of(record: str, line: str) -> str:
    """Return the folder in a record's line: `FOLDER/FILE KEY`, or `TOKEN FOLDER/STEM KEY`."""
    words = line.split(" ")
    place = words[1] if record == JOINED_FILE and len(words) > 1 else words[0]
    return place.partition("/")[0]


def carry_revocations(places: Places) -> tuple[str, ...]:
    """Revoke in the received keys what is revoked on this machine and not in the backup; return those fingerprints.

    SystemDigitalTwin's own key is excepted: if it was rotated since, mainpc has to serve with the backup's key.
    """
    received = replace(places.layout, root=places.received_keys)
    place = received.identity_of(SERVER)
    present, target = places.layout.server_folder, received.server_folder
    if place is None or present is None or target is None:
        return ()
    own = revoked_file_name(load_key_pair(received.secret_file(place)).public.fingerprint)
    folders = [target, target / ENROLLED_FOLDER]
    before = read_folders(folders).revoked
    for inner in (REVOKED_FOLDER, f"{ENROLLED_FOLDER}/{REVOKED_FOLDER}"):
        if (present / inner).is_symlink():  # the agent can write there, and this process can read every key
            continue
        for path in sorted((present / inner).glob("*.key")):
            copy = target / inner / path.name
            if path.name != own and path.is_file() and not path.is_symlink() and not copy.exists():
                shutil.copyfile(path, copy)
                copy.chmod(0o644)
    return tuple(sorted(read_folders(folders).revoked - before))


def trust_notice(tree: Layout, here: Layout) -> list[str]:
    """Return a warning that an archive is not signed, and its keys and invitations with more than an agent's role.

    `tree` is what was received, and `here` the present one of this machine.
    """
    folder, present = tree.server_folder, here.server_folder
    assert folder is not None  # `check_keys` found the secret in it
    received = read_folders(folders_of_keys(folder))
    known = read_folders(folders_of_keys(present)) if present else NOTHING
    authorised = {key.public for key in (*known.current.values(), *known.next.values())}
    lines = [
        "This archive is not signed: restore it only if you trust its source, since it decides who is an operator."
    ]
    for key in (*_operators(received.current.values()), *_operators(received.next.values())):
        how = "is authorised here already" if key.public in authorised else "is not authorised here now"
        how = "is revoked here and stays revoked" if is_revoked(here, key) else how
        lines.append(f"It authorises {described(key.owner)} with {key.public.fingerprint}, which {how}.")
    for key in _operators(received.invites):
        lines.append(f"It authorises {described(key.owner)} with an open invitation, {key.public.fingerprint}.")
    return lines


def _operators(certificates: Iterable[Certificate]) -> list[Certificate]:
    """Return the certificates with any role other than an agent's, by name."""
    more = (key for key in certificates if key.owner.roles - {AGENT_ROLE})
    return sorted(more, key=lambda key: key.owner.name)
