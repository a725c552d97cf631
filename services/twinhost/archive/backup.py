"""Back up mainpc's whole state to one archive, while it runs: the database first, then the log, and the keys last.

So a key that is revoked meanwhile is revoked in the backup, and everything acknowledged before it began is included.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from twinhost.archive.file_format import (
    DATABASE_MEMBER,
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    PIECE_BYTES,
    STATE,
    ArchiveWriter,
    Manifest,
    Member,
    mode_of,
    render_manifest,
)
from twinhost.archive.keys import KeyFiles, read_keys
from twinhost.archive.places import DATABASE, Places
from twinhost.archive.state import StateCopy, check_audit, contents_of, copy_state, require_whole
from twinhost.certificates.following import active_elsewhere
from twinhost.certificates.layout import SERVER, Say
from twinhost.certificates.tree import locked
from twinhost.secure_zmq.errors import ConfigurationError, StoreUnavailable
from twinhost.secure_zmq.keys import format_moment
from twinhost.store.backup import digest_of
from twinhost.system_digital_twin.state_files import AUDIT_FOLDER
from twinhost.version import VERSION

_STAGED = ".archiving"


def back_up(places: Places, write: Callable[[bytes], object], say: Say, *, broken_log: bool = False) -> float:
    """Write an archive, and return the moment that it is of; what `write` raises is passed on.

    Raises:
        ConfigurationError: there is no state, it follows another machine's, or its keys are malformed.
        MalformedRequest: the audit log is incomplete or changed.
        StoreUnavailable: the volume has no space, or the database can't be copied.
    """
    release = places.hold_archives()
    folder = places.state / _STAGED
    try:
        _require_active(places)
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
        folder.mkdir(mode=0o700)
        state = copy_state(places, folder)
        audit = check_audit(folder / DATABASE, folder / AUDIT_FOLDER)
        remarks = require_whole(audit, broken_log=broken_log)
        with locked(places.layout, folders=False):
            keys, server = read_keys(places.layout)
            contents = contents_of(places.layout, server, folder / DATABASE, audit)
        for remark in (*remarks, *keys.left_out):
            say(f"remark: {remark}")
        _write(places, state, keys, write)
        say(f"backed up as of {format_moment(state.moment_s)}: {contents}")
        say("Anyone who has this file can act as mainpc: keep it secret.")
        return state.moment_s
    except OSError as error:
        raise StoreUnavailable(
            f"{error.filename or 'the archive'} can't be read or written ({error.strerror}); check its volume"
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        release()


def _require_active(places: Places) -> None:
    """Raise ConfigurationError where this machine's state follows another's, which may have more."""
    if (active := active_elsewhere(places.layout.root / places.layout.server_host)) is not None:
        raise ConfigurationError(
            f"{SERVER} is active on {active}, and this machine may lack what it has acknowledged since; once it is "
            f"active here (./twinhost switchover {SERVER}), back it up"
        )


def _write(places: Places, state: StateCopy, keys: KeyFiles, write: Callable[[bytes], object]) -> None:
    files = {
        f"{STATE}/{path.relative_to(state.folder)}": path for path in sorted((state.folder / AUDIT_FOLDER).iterdir())
    }
    copied = Member(DATABASE_MEMBER, state.database.size_bytes, mode_of(DATABASE_MEMBER), state.database.sha256)
    members = [
        copied,
        *(Member(name, path.stat().st_size, mode_of(name), digest_of(path)) for name, path in files.items()),
        *(
            Member(name, len(content), mode_of(name), hashlib.sha256(content).hexdigest())
            for name, content in sorted(keys.contents.items())
        ),
    ]
    moment, host = format_moment(state.moment_s), places.layout.server_host
    manifest = render_manifest(Manifest(FORMAT, FORMAT_VERSION, VERSION, moment, host, tuple(members)))
    writer = ArchiveWriter(write, state.moment_s)
    writer.add(MANIFEST, 0o600, len(manifest), [manifest])
    files[DATABASE_MEMBER] = state.folder / DATABASE
    for member in members:
        path = files.get(member.name)
        pieces = [keys.contents[member.name]] if path is None else _pieces(path)
        writer.add(member.name, int(member.mode, 8), member.size, pieces)
    writer.finish()


def _pieces(path: Path) -> Iterator[bytes]:
    with closing(path.open("rb")) as stream:
        while piece := stream.read(PIECE_BYTES):
            yield piece
