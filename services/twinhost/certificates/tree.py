"""A tree of keys on the disk: its lock, its folders, what lies in them, and what a failed run or a restore left."""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from twinhost.certificates.layout import FINGERPRINT, OPERATOR, OPERATOR_HOST, Identity, Layout
from twinhost.commands import own_command, remove_command
from twinhost.secure_zmq.certificates import (
    ENROLLED_FOLDER,
    FAILURE_FILE,
    INVITES_FOLDER,
    NEXT_SECRET_SUFFIX,
    NEXT_SUFFIX,
    REQUESTS_FOLDER,
    REVOKED_FOLDER,
    TRUST_FOLDER,
    VOUCHED_FOLDER,
)
from twinhost.secure_zmq.errors import ConfigurationError, TwinhostError
from twinhost.secure_zmq.key_writer import (
    fsync_folder,
    replace_certificate,
    replace_file,
    revoked_file_name,
    write_key_pair,
)
from twinhost.secure_zmq.keys import (
    MAX_KEY_FILE_BYTES,
    PUBLIC_SUFFIX,
    SECRET_SUFFIX,
    Certificate,
    KeyPair,
    load_certificate,
    load_key_pair,
)
from twinhost.store.files import COMMIT, RESTORING, require_no_restore

LOCK_FILE = ".lock"
REPLACED_PREFIX = ".replaced-"  # of the folders of keys that a restore replaced; no folder of keys begins with a dot
SHA256_HEX = re.compile(r"[0-9a-f]{64}")
_INSTALLING_SUFFIX = ".installing"  # of a whole pair that waits for its name
_VOUCHING = re.compile(rf"({FINGERPRINT}) ({FINGERPRINT})\n")


@dataclass(frozen=True, slots=True)
class PublicKeyFile:
    """A public key that lies in a tree."""

    path: Path
    certificate: Certificate


@contextmanager
def locked(layout: Layout, *, folders: bool = True, restoring: bool = False) -> Iterator[None]:
    """Lock the tree against a second run at the same time, and make the folders of this machine's own identities.

    Only the restore that finishes it locks a tree that is half restored.

    Raises:
        ConfigurationError: the tree can't be written, or is half restored.
    """
    try:
        layout.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(layout.root / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not restoring:
                require_no_restore(layout.root)
            if folders:
                for folder in layout.folders:
                    make_host_folder(folder, layout)
            _sweep(layout)
            yield
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConfigurationError(
            f"{error.filename or layout.root} can't be written ({error.strerror}) as uid {os.getuid()}; "
            f"make that user its owner: {own_command(layout.root)}, and check that its volume has free space"
        ) from None


def make_host_folder(folder: Path, layout: Layout) -> None:
    """Make the folder of a host's keys, and those within it that its agent watches and writes."""
    _make_key_folder(folder)
    if folder == layout.server_folder:
        _make_key_folder(folder / ENROLLED_FOLDER)
        (folder / INVITES_FOLDER).mkdir(mode=0o700, exist_ok=True)
    elif folder.name != OPERATOR:
        _make_key_folder(folder / TRUST_FOLDER)


def joined_folders(layout: Layout) -> list[Path]:
    """Return the folders that `join`, `request`, or `export-host` made: each holds its own secret."""
    if not layout.root.is_dir():
        return []
    known = {folder.name for folder in layout.folders}
    with os.scandir(layout.root) as entries:
        names = [entry.name for entry in entries if entry.name not in known and entry.is_dir(follow_symlinks=False)]
    stems = {identity.folder: identity.stem for identity in layout.everybody}
    return sorted(layout.root / name for name in names if _holds_secret(layout.root / name, stems.get(name, name)))


def own_folders(layout: Layout) -> list[Path]:
    """Return every folder in which an agent or the cli looks for its keys, SystemDigitalTwin's first."""
    folders = [folder for folder in layout.folders if folder.is_dir()]
    return sorted(folders, key=lambda folder: folder.name != layout.server_host) + joined_folders(layout)


def enrolled_folder(layout: Layout) -> Path | None:
    """Return the folder of the keys that SystemDigitalTwin authorised itself."""
    return layout.server_folder / ENROLLED_FOLDER if layout.server_folder else None


def public_key_files(layout: Layout) -> Iterator[PublicKeyFile]:
    """Return every valid public key file; `verify` reports the others."""
    enrolled = enrolled_folder(layout)
    for folder in (*own_folders(layout), *([enrolled] if enrolled else [])):
        yield from keys_in(folder)


def keys_in(folder: Path) -> Iterator[PublicKeyFile]:
    """Return the valid public key files of one folder."""
    for path in sorted(folder.glob(f"*{PUBLIC_SUFFIX}")):
        with suppress(TwinhostError):
            yield PublicKeyFile(path, load_certificate(path))


def own_pairs(layout: Layout) -> Iterator[tuple[Path, KeyPair]]:
    """Return every valid secret of the tree."""
    for folder in own_folders(layout):
        for path in sorted(folder.glob(f"*{SECRET_SUFFIX}")):
            with suppress(TwinhostError):
                yield path, load_key_pair(path)


def is_revoked(layout: Layout, certificate: Certificate) -> bool:
    """Return whether a key is revoked, as far as this tree knows."""
    return is_revoked_fingerprint(layout, certificate.public.fingerprint)


def is_revoked_fingerprint(layout: Layout, fingerprint: str) -> bool:
    """Return the same of a key of which only the fingerprint is known."""
    name = revoked_file_name(fingerprint)
    return any((folder / name).exists() for folder in revoked_folders(layout))


def revoked_folders(layout: Layout) -> list[Path]:
    """Return the folders of revocations; last those that the agents write, and certs-init does not."""
    own = own_folders(layout)
    written = [folder / name for folder in own for name in (ENROLLED_FOLDER, TRUST_FOLDER)]
    return [folder / REVOKED_FOLDER for folder in (*own, *(folder for folder in written if folder.is_dir()))]


def vouchers(layout: Layout) -> dict[str, str]:
    """Return which key or invitation each key was authorised by; both by fingerprint.

    Keys that a person authorised, or that were authorised before this was recorded, have none.
    """
    enrolled = enrolled_folder(layout)
    records = [read_vouching(path) for path in sorted((enrolled / VOUCHED_FOLDER).glob("*.key"))] if enrolled else []
    return dict(record for record in records if record is not None)


def read_vouching(path: Path) -> tuple[str, str] | None:
    """Return a key and what vouched for it, as a file in `vouched/` records it; None where it is malformed."""
    try:
        match = _VOUCHING.fullmatch(path.read_bytes()[:MAX_KEY_FILE_BYTES].decode("ascii", "replace"))
        return (match[1], match[2]) if match and path.name == revoked_file_name(match[1]) else None
    except (OSError, TwinhostError):
        return None


def live_keys(layout: Layout, name: str) -> list[Certificate]:
    """Return the keys of a name that are not revoked, expired ones too, each once."""
    certificates = [key.certificate for key in public_key_files(layout)]
    certificates += [pair.certificate for _, pair in own_pairs(layout)]
    mine = {key.public: key for key in reversed(certificates) if key.owner.name == name}
    return [key for key in mine.values() if not is_revoked(layout, key)]


def enrolled_key(layout: Layout, identity: Identity) -> Certificate | None:
    """Return the key of an identity that SystemDigitalTwin authorised itself, unless it is revoked."""
    folder = enrolled_folder(layout)
    path = folder / f"{identity.owner.name}{PUBLIC_SUFFIX}" if folder else None
    if path is None or not path.exists():
        return None
    certificate = load_certificate(path)
    return None if is_revoked(layout, certificate) else certificate


def install_secret(layout: Layout, place: Identity, pair: KeyPair) -> None:
    """Put a pair in the place of whatever pair was there, in one step; it is no longer the next one."""
    folder = layout.root / place.folder
    installing = folder / f"{place.stem}{_INSTALLING_SUFFIX}"
    installing.unlink(missing_ok=True)
    write_key_pair(pair, installing)  # its public half gets its own name at once
    replace_certificate(pair.certificate, folder / f"{place.stem}{PUBLIC_SUFFIX}")
    installing.rename(layout.secret_file(place))
    fsync_folder(folder)
    following = layout.next_secret_file(place)
    if os.path.lexists(following) and load_key_pair(following).public == pair.public:
        discard_next(layout, place)


def discard_next(layout: Layout, place: Identity) -> None:
    """Remove a next pair, its secret last: the next run sees by it what is left to do."""
    for path in (layout.root / place.folder / f"{place.stem}{NEXT_SUFFIX}", layout.next_secret_file(place)):
        path.unlink(missing_ok=True)


def replaced_folders(root: Path) -> list[Path]:
    """Return the folders of keys that restores replaced, the oldest first."""
    folders = root.glob(f"{REPLACED_PREFIX}*") if root.is_dir() else ()
    return sorted(path for path in folders if path.is_dir() and not path.is_symlink())


def unfinished_restores(root: Path) -> list[str]:
    """Return a sentence if a restore was interrupted."""
    path = root / RESTORING
    if not path.is_dir() or not any(path.iterdir()):
        return []
    drop = "" if (path / COMMIT).exists() else f", or remove what it received: {remove_command(path)}"
    return [f"{path} belongs to an interrupted restore; run the restore again with the same file{drop}"]


def record_failure(root: Path, sentence: str, host: str | None) -> None:
    """Write why the last run that makes keys failed into every folder, where the cli finds it.

    Compose starts certs-init before everything else and shows its exit status alone; its containers keep no log.
    A missing or half restored tree stays as it is: a restore continues according to the folders that there are.
    `host` is None where this machine is all hosts.
    """
    own = root / (OPERATOR if host in (None, OPERATOR_HOST) else host)
    try:
        if not root.is_dir() or (root / RESTORING).exists():
            return
        own.mkdir(mode=0o700, exist_ok=True)  # so that the cli, which mounts it, can start and say why
        for folder in _folders(root):
            replace_file(folder / FAILURE_FILE, f"{sentence}\n")
    except OSError:
        return  # a full or read-only volume


def forget_failure(root: Path) -> None:
    """Remove what `record_failure` wrote."""
    for folder in _folders(root):
        (folder / FAILURE_FILE).unlink(missing_ok=True)


def _make_key_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / REVOKED_FOLDER).mkdir(mode=0o700, exist_ok=True)


def _sweep(layout: Layout) -> None:
    """Remove drafts of a run that was killed; while the lock is held, no other run writes any.

    Those in `enrolled/` and `trust/` are the agents', which do not use the lock.
    """
    folders = [folder for folder in layout.root.iterdir() if folder.is_dir() and not folder.is_symlink()]
    for folder in (layout.root, *folders):  # also those of a join that was killed before its first file
        for inner in ("", REVOKED_FOLDER, INVITES_FOLDER, REQUESTS_FOLDER):
            for pattern in (".*.draft", f"*{_INSTALLING_SUFFIX}"):
                for draft in (folder / inner).glob(pattern):
                    draft.unlink()


def _holds_secret(folder: Path, stem: str) -> bool:
    return any((folder / f"{stem}{suffix}").is_file() for suffix in (SECRET_SUFFIX, NEXT_SECRET_SUFFIX))


def _folders(root: Path) -> list[Path]:
    present = root.iterdir() if root.is_dir() else ()
    return [path for path in present if path.is_dir() and not path.is_symlink() and not path.name.startswith(".")]
