"""The keys of this host: which files of the tree belong to it, read as of one moment, and checked."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from twinhost.archive.members import KEY_FILE, KEYS, RECORDS
from twinhost.certificates.layout import SERVER, Layout
from twinhost.certificates.records import JOINED_FILE, RECORD_FILE, DistributionRecord, JoinRecord
from twinhost.certificates.tree import joined_folders
from twinhost.secure_zmq.certificates import FAILURE_FILE
from twinhost.secure_zmq.errors import ConfigurationError, KeyFileMissing, KeyMismatch, TwinhostError
from twinhost.secure_zmq.key_folders import REVOKED_FOLDER, VOUCHED_FOLDER
from twinhost.secure_zmq.keys import MAX_KEY_FILE_BYTES, SECRET_SUFFIX, KeyPair, load_certificate, load_key_pair

_LOOKS = 20  # at the keys, until two in a row saw the same: the agent writes some of them and knows no lock


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """The files by the names of their members, and a sentence for each that was left out."""

    contents: dict[str, bytes]
    left_out: list[str]


def read_keys(layout: Layout) -> KeyFiles:
    """Return the keys of this host, whole; for who holds the tree.

    Raises:
        ConfigurationError: a secret can't be believed, or the keys change all the time.
    """
    DistributionRecord(layout.root)
    JoinRecord(layout.root)
    before = None
    for _ in range(_LOOKS):
        try:
            found = _read(layout)
        except FileNotFoundError:  # taken away by the agent since it was listed
            continue
        if found == before:
            check_keys(layout, found.contents)
            return found
        before = found
    raise ConfigurationError(f"the keys below {layout.root} change all the time; back up when that is over")


def check_keys(layout: Layout, names: Iterable[str]) -> KeyPair:
    """Check that files of a tree can be believed and are this host's; return SystemDigitalTwin's pair.

    Args:
        layout: the tree, or what was received of one.
        names: the files, as members.

    Raises:
        ConfigurationError: one can't be believed, is another host's secret, or SystemDigitalTwin's is missing.
    """
    place = layout.identity_of(SERVER)
    server: KeyPair | None = None
    remote = {identity.folder for identity in layout.remote}
    for name in names:
        path = layout.root / name.removeprefix(f"{KEYS}/")
        if name in RECORDS:
            continue
        if path.relative_to(layout.root).parts[0] in remote:
            raise ConfigurationError(f"{name} is of another host's folder, and nothing of {layout.server_host}")
        if path.name.endswith(SECRET_SUFFIX):
            pair = load_key_pair(path)
            if pair.certificate.owner.host != layout.server_host:
                raise ConfigurationError(f"{name} is a secret of {pair.certificate.owner.host}, which belongs there")
            if place is not None and path == layout.secret_file(place):
                server = pair
        elif path.parent.name not in (REVOKED_FOLDER, VOUCHED_FOLDER):
            load_certificate(path)
    if place is None or server is None:
        raise KeyFileMissing(f"the secret of {SERVER} is missing, without which mainpc's clients have nobody to ask")
    if server.certificate.owner != place.owner:
        raise KeyMismatch(f"{layout.secret_file(place)} is the key of {server.certificate.owner.name}, not of {SERVER}")
    DistributionRecord(layout.root)
    JoinRecord(layout.root)
    return server


def merge_records(present: Path, received: Path, folders: Iterable[str]) -> None:
    """Add to the received records what the present ones say of folders that were not received."""
    theirs = set(folders)
    for name in (RECORD_FILE, JOINED_FILE):
        kept = [line for line in _record(present / name) if _folder_of(name, line) not in theirs]
        lines = [*_record(received / name), *kept]
        if lines:
            (received / name).touch(0o600)
            (received / name).write_text("".join(f"{line}\n" for line in lines), encoding="ascii")


def _read(layout: Layout) -> KeyFiles:
    found = KeyFiles({}, [])
    folders = [folder for folder in layout.folders if folder.is_dir()] + list(_joined_here(layout, found))
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            _add(layout, path, found)
    names = {folder.name for folder in folders}
    for member, name in zip(RECORDS, (RECORD_FILE, JOINED_FILE), strict=True):
        lines = [line for line in _record(layout.root / name) if _folder_of(name, line) in names]
        if lines:
            found.contents[member] = "".join(f"{line}\n" for line in lines).encode("ascii")
    return found


def _joined_here(layout: Layout, found: KeyFiles) -> Iterator[Path]:
    """Return the folders that `join` made here for somebody of this host."""
    remote = {identity.folder for identity in layout.remote}
    for folder in joined_folders(layout):
        if folder.name in remote:
            continue
        try:
            hosts = {load_key_pair(path).certificate.owner.host for path in folder.glob(f"*{SECRET_SUFFIX}")}
        except TwinhostError as error:
            found.left_out.append(f"{folder} is left out: {error}")
            continue
        if hosts == {layout.server_host}:
            yield folder


def _add(layout: Layout, path: Path, found: KeyFiles) -> None:
    """Add a file, unless it is a draft, or nothing that this host's keys are made of."""
    name = f"{KEYS}/{path.relative_to(layout.root)}"
    if path.is_dir() and not path.is_symlink():
        return
    if path.name == FAILURE_FILE or (path.name.startswith(".") and path.name.endswith(".draft")):
        return
    if not KEY_FILE.fullmatch(name) or path.is_symlink() or not path.is_file():
        if path.exists() or path.is_symlink():
            found.left_out.append(f"{path} is left out: it is no key file")
        return
    if path.name.endswith(SECRET_SUFFIX):
        host = load_key_pair(path).certificate.owner.host
        if host != layout.server_host:
            found.left_out.append(f"{path} is left out: it is a secret of {host}, which belongs there alone")
            return
    elif path.parent.name not in (REVOKED_FOLDER, VOUCHED_FOLDER):
        try:
            load_certificate(path)
        except KeyFileMissing:
            raise FileNotFoundError(path) from None
        except TwinhostError as error:
            found.left_out.append(f"{path} is left out: {error}")
            return
    found.contents[name] = _bytes_of(path)


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
    """Return the folder that a record's line is of: `FOLDER/FILE KEY`, or `TOKEN FOLDER/STEM KEY`."""
    words = line.split(" ")
    place = words[1] if record == JOINED_FILE and len(words) > 1 else words[0]
    return place.partition("/")[0]


def received_tree(layout: Layout, root: Path) -> Layout:
    """Return the same layout of another root."""
    return replace(layout, root=root)
