"""What was received takes the place of what is there, which is set aside; past one point the only way is forward.

The point is a file, `commit`, beside the received keys. Before it nothing of the present state was touched; after it
every step is a rename that is done where it is not done yet, so that whoever finds the file finishes. mainpc's own
folder of keys goes first and comes last: without it the agent can't start. `commit` lies beside the received state too,
for an agent that needs no key.
"""

import os
import shutil
import time
from pathlib import Path

import msgspec

from twinhost.archive.places import DATABASE, Places
from twinhost.certificates.replaced import REPLACED_PREFIX
from twinhost.certificates.tree_lock import fsync_folder
from twinhost.secure_zmq.errors import ConfigurationError, StoreUnavailable
from twinhost.store.damage import REPLACED
from twinhost.store.files import COMMIT, PARTS, make_private, part
from twinhost.system_digital_twin.state_files import AUDIT_FOLDER


class Commit(msgspec.Struct, frozen=True):
    """What is to be finished: by the digest of its manifest, and the name that what gives way gets."""

    manifest_sha256: str
    stamp: str
    moment: str
    carried: tuple[str, ...] = ()  # fingerprints that were revoked here, and stay so


def unfinished(places: Places) -> Commit | None:
    """Return the exchange that was cut short, if one was.

    Raises:
        ConfigurationError: it can't be read.
    """
    path = places.received_keys / COMMIT
    try:
        return msgspec.json.decode(path.read_bytes(), type=Commit)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigurationError(f"{path} can't be read ({error}); see the volume that it lies on") from None


def free_stamp(places: Places) -> str:
    """Return the moment as UTC, such as no set-aside name has yet."""
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    stamp, number = moment, 1
    while any(os.path.lexists(path) for path in kept_as(places, stamp)):
        number += 1
        stamp = f"{moment}-{number}"
    return stamp


def kept_as(places: Places, stamp: str) -> list[Path]:
    """Return what keeps that which gave way, as far as there was any."""
    database = part(places.database, f".{REPLACED}-{stamp}")
    keys = places.layout.root / f"{REPLACED_PREFIX}{stamp}"
    return [*(part(database, suffix) for suffix in PARTS), _replaced_log(places, stamp), keys]


def exchange(places: Places, commit: Commit) -> None:
    """Pass the point of no return, and finish."""
    content = msgspec.json.encode(commit)
    _write_durably(places.received_state / COMMIT, content)
    _write_durably(places.received_keys / COMMIT, content)
    finish(places, commit)


def finish(places: Places, commit: Commit) -> None:
    """Do what is not done yet."""
    root, received = places.layout.root, places.received_keys
    server = places.layout.server_host
    aside = root / f"{REPLACED_PREFIX}{commit.stamp}"
    if (received / server).exists():
        _give_way(root / server, aside)
    _exchange_database(places, commit.stamp)
    _exchange_log(places, commit.stamp)
    fsync_folder(places.state)
    for path in sorted(received.iterdir()):
        if path.name not in (COMMIT, server):
            _give_way(root / path.name, aside)
            path.rename(root / path.name)
    fsync_folder(root)
    if (received / server).exists():
        (received / server).rename(root / server)
    fsync_folder(root)
    drop(places.received_state)
    drop(received)  # its `commit` last of all: until then the next run comes here
    fsync_folder(places.state)
    fsync_folder(root)


def drop(folder: Path) -> None:
    """Remove what was received, if it is there; what says that there is something to be finished goes last.

    A link is removed and not followed: the agent can make one in its volume, and this process sees every key.

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
            f"{error.filename or folder} can't be removed ({error.strerror or error}); see its volume, and run it again"
        ) from None


def holds_files(path: Path) -> bool:
    """Return whether something that somebody could miss lies at, or below, a path."""
    return path.is_file() or path.is_symlink() or any(each.is_file() for each in path.rglob("*"))


def _exchange_database(places: Places, stamp: str) -> None:
    received, present = places.received_state / DATABASE, places.database
    if received.exists():
        make_private(present)
        for suffix in PARTS:
            if os.path.lexists(part(present, suffix)):  # a link that leads nowhere would be in the way, too
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


def _give_way(path: Path, aside: Path) -> None:
    """Move a folder of keys, or a record, aside; folders in which there is nothing just go."""
    if not os.path.lexists(path):
        return
    if not holds_files(path):
        shutil.rmtree(path)
        return
    aside.mkdir(mode=0o700, exist_ok=True)
    path.rename(aside / path.name)
    fsync_folder(aside)


def _write_durably(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    draft.rename(path)
    fsync_folder(path.parent)
