"""Files beside an agent's database that its standby needs too: the active process keeps their contents in its log.

They are the public files in its folder of keys, and what it remembers of keys in its state folder. No secret is one of
them. The active process has no other source for them than the files, and a standby none but the log: each writes what
it has read, and nothing when both are equal. A standby never removes a revocation.
"""

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec
import structlog

from twinhost.certificates.following import FolderRole, role_of, write_role
from twinhost.folder_events import Looks
from twinhost.network_config import NetworkConfig
from twinhost.secure_zmq.certificates import (
    ENROLLED_FOLDER,
    INVITES_FOLDER,
    REQUESTS_FOLDER,
    REVOKED_FOLDER,
    TRUST_FOLDER,
    VOUCHED_FOLDER,
    folders_of_keys,
    load_certificates,
    read_folders,
)
from twinhost.secure_zmq.errors import ConfigurationError, StoreUnavailable
from twinhost.secure_zmq.key_writer import replace_file
from twinhost.secure_zmq.keys import MAX_KEY_FILE_BYTES, PUBLIC_SUFFIX, SECRET_SUFFIX
from twinhost.store.damage import connect_to_read
from twinhost.store.database import Database

if TYPE_CHECKING:  # only an agent with a log loads them
    import sqlite3

    from twinhost.store.replication.epochs import Epoch
    from twinhost.store.replication.looks import Difference
    from twinhost.store.replication.statements import Entry

_log = structlog.get_logger(__name__)

V = TypeVar("V")

MIGRATION = """
CREATE TABLE followed_files (
    path TEXT PRIMARY KEY NOT NULL,
    content TEXT NOT NULL
) STRICT;
"""
_ROWS = "SELECT path, content FROM followed_files"
_PUT = "INSERT INTO followed_files VALUES (?, ?) ON CONFLICT (path) DO UPDATE SET content = excluded.content"
_REMOVE = "DELETE FROM followed_files WHERE path = ?"
_HAS_TABLE = "SELECT 1 FROM sqlite_schema WHERE name = 'followed_files'"

SETTLES_S = 5.0  # a tick comes each second
_KEYS, _STATE, _CONFIGURATION = "keys", "state", "configuration"  # where a path begins
_SECRET = "secret-key"  # noqa: S105 - the field of a secret, whatever the file's name
# In the order in which they are read: a revocation moves a file, which is then found twice, and not nowhere.
_WITHIN_KEYS = (
    "",
    ENROLLED_FOLDER,
    TRUST_FOLDER,
    INVITES_FOLDER,
    REQUESTS_FOLDER,
    f"{ENROLLED_FOLDER}/{VOUCHED_FOLDER}",
    REVOKED_FOLDER,
    f"{ENROLLED_FOLDER}/{REVOKED_FOLDER}",
    f"{TRUST_FOLDER}/{REVOKED_FOLDER}",
)


@dataclass(frozen=True, slots=True)
class Places:
    """Where an agent's files are: its folder of keys, and some files in its state folder."""

    keys: Path
    stem: str  # of the agent's own key
    state: Path
    state_files: tuple[str, ...]

    def read(self) -> dict[str, str]:
        """Return the contents by path; of what is no text, or too large for a key, nothing.

        Raises:
            OSError: a folder or a file can't be read.
        """
        found = {}
        for place, folder in self._folders():
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                for path in sorted(folder.iterdir()):
                    if path.name.endswith(PUBLIC_SUFFIX) and not path.name.startswith("."):
                        content = _text(path, MAX_KEY_FILE_BYTES)
                        if content is not None and _SECRET not in content:
                            found[f"{place}/{path.name}"] = content
        for name in self.state_files:
            if (content := _text(self.state / name, None)) is not None:
                found[f"{_STATE}/{name}"] = content
        return found

    def times(self) -> tuple[object, ...]:
        """Return what differs once a file was added, replaced, or removed."""
        return tuple(map(_time, (*(path for _, path in self._folders()), *self._in_state())))

    def target(self, path: str) -> Path:
        """Return where a path of the log is here.

        Raises:
            ConfigurationError: it is no path that an agent writes there.
        """
        place, _, name = path.rpartition("/")
        folder = dict(self._folders()).get(place)
        if folder is not None and name.endswith(PUBLIC_SUFFIX) and not name.startswith("."):
            return folder / name
        if place == _STATE and name in self.state_files:
            return self.state / name
        raise ConfigurationError(f"the log has a file {path[:128]!r}; run the same image on both machines")

    def _folders(self) -> Iterator[tuple[str, Path]]:
        for inner in _WITHIN_KEYS:
            yield (f"{_KEYS}/{inner}" if inner else _KEYS), self.keys / inner

    def _in_state(self) -> Iterator[Path]:
        return (self.state / name for name in self.state_files)


class LoggedFiles:
    """Keeps an active agent's files in its database, and so in its log; on the thread that owns the database."""

    def __init__(
        self,
        database: Database,
        places: Places,
        keys: Callable[[], object],
        configuration: Callable[[], NetworkConfig],
    ) -> None:
        """Begin with what the database has; `keys` returns another object after each change of keys."""
        self._database, self._places, self._keys, self._configuration = database, places, keys, configuration
        self._recorded: dict[str, str] = dict(database.execute(_ROWS))
        self._looks: Looks | None = None
        self._listed: object = None  # the list of keys that was made before the files were read last
        self._turn = threading.Condition()
        self._asked = self._kept = 0  # how often another thread has asked, and up to which one the log has it

    def settle(self, request: Callable[[], None]) -> None:
        """Have the log what the files have, on another thread; `request` has this one's owner call `keep` soon.

        Raises:
            StoreUnavailable: it does not within SETTLES_S.
        """
        with self._turn:
            self._asked = asked = self._asked + 1
        request()
        with self._turn:
            if not self._turn.wait_for(lambda: self._kept >= asked, SETTLES_S):
                raise StoreUnavailable("the keys could not be written to the log; this is tried again")

    def keep_listed(self) -> None:
        """Have the log what the list of keys was made from, without a look at the files if it has; else as `keep`."""
        if self._keys() is not self._listed:
            self.keep()

    def keep(self) -> None:
        """Have the log what the files have: what was read of them before this call is in it when it returns.

        Raises:
            StoreUnavailable: it is not; the next call tries again.
        """
        asked = self._asked
        self._keep()
        with self._turn:
            self._kept = asked
            self._turn.notify_all()

    def _keep(self) -> None:
        configuration = self._configuration()
        listed = self._keys()
        seen = listed, configuration, self._places.times()
        if self._looks is not None and not self._looks.may_have_changed(seen):
            self._listed = listed  # an equal one
            return
        looks, self._looks = self._looks or Looks(seen), None
        try:
            files = {**self._places.read(), **_under(_CONFIGURATION, sections(configuration))}
        except OSError as error:
            raise StoreUnavailable(f"{error.filename} can't be read ({error.strerror}) for the log") from None
        put = [(path, content) for path, content in files.items() if self._recorded.get(path) != content]
        gone = [path for path in self._recorded if path not in files and not _is_revocation(path)]
        if put or gone:
            with self._database.transaction():
                self._database.execute_many(_PUT, put)
                self._database.execute_many(_REMOVE, [(path,) for path in gone])
            self._recorded.update(put)
            for path in gone:
                del self._recorded[path]
        self._looks, self._listed = looks, listed


class FollowedFiles:
    """Writes the files of the log on a machine that is not active, and says whether it could be."""

    def __init__(self, agent: str, places: Places, configuration: Callable[[], NetworkConfig]) -> None:
        """Follow a log for an agent.

        Raises:
            ConfigurationError: what the folder was last can't be read.
        """
        self._agent, self._places, self._configuration = agent, places, configuration
        self._role = role_of(places.keys)
        self._rows: dict[str, str] = {}
        self._newest_here = False  # whether nobody has written to the log since this folder's agent did
        self._writes = 0  # of files
        self._fault: tuple[object, str | None] = (None, None)

    def begin(self, database: Path) -> None:
        """Begin with what a replica has, which nothing else writes now."""
        with contextlib.closing(connect_to_read(database)) as replica:
            has_table = replica.execute(_HAS_TABLE).fetchone() is not None  # else it is older than this
            self._rows = dict(replica.execute(_ROWS)) if has_table else {}

    def join(self, database: Path) -> None:
        """Have the files what a snapshot has, which the replica begins with.

        Raises:
            ConfigurationError: they can't be written.
        """
        self.begin(database)
        self._align()

    def write(self, _: "sqlite3.Connection", entry: "Entry") -> None:
        """Write the files that a transaction changes, before the replica repeats it.

        Raises:
            ConfigurationError: they can't be written.
        """
        for done in entry.statements:
            if done.sql == _PUT:
                for path, content in done.runs:
                    self._rows[path] = content
                    if not self._newest_here:
                        self._put(path, content)
            elif done.sql == _REMOVE:
                for (path,) in done.runs:
                    self._rows.pop(path, None)
                    if not self._newest_here and not path.startswith(_CONFIGURATION):
                        with _written(self._places.target(path)) as file:
                            file.unlink(missing_ok=True)

    def may_claim(self, epoch: "Epoch") -> bool:
        """Take an epoch as it is now; return whether this process may be the next to be active.

        Raises:
            ConfigurationError: the folder of keys can't be written.
        """
        role = self._role
        began_here = role is None or not role.active
        self._newest_here = began_here and (
            not epoch.log or (role is not None and (role.log, role.epoch) == (epoch.log, epoch.number))
        )
        if not self._newest_here and epoch.log:
            active = epoch.holder or (role.active if role is not None else "") or "the other machine"
            following = FolderRole(epoch.log, epoch.number, active)
            if role != following:
                self._align()
                self._write_role(following)
        return self._newest_here or (bool(epoch.log) and self.key_fault() is None)

    def take_over(self, log: str, epoch: int) -> None:
        """Have the folder be the active one's.

        Raises:
            ConfigurationError: it can't be written.
        """
        if not self._newest_here:
            self._align()
        self._write_role(FolderRole(log, epoch, ""))
        for sentence in self.warnings():
            _log.warning("standby_differs", reason=sentence)

    def warnings(self) -> list[str]:
        """Return why this machine would not be the agent as the other one is; on any thread."""
        return list(self.differences().values())

    def differences(self) -> "dict[Difference, str]":
        """Return the same by what differs."""
        from twinhost.store.replication.looks import Difference  # noqa: PLC0415 - only an agent with a log loads it

        faults = {Difference.SECRET: self.key_fault(), Difference.CONFIGURATION: self._configuration_fault()}
        return {difference: fault for difference, fault in faults.items() if fault}

    def key_fault(self) -> str | None:
        """Return what is wrong with this machine's secret: the agent may have another key since it was copied."""
        state = self._writes, _time(self._places.keys / f"{self._places.stem}{SECRET_SUFFIX}")
        if state != self._fault[0]:
            self._fault = state, self._key_fault()
        return self._fault[1]

    def _key_fault(self) -> str | None:
        folder = self._places.keys
        try:
            own = load_certificates(folder).own_keys.public
        except ConfigurationError as error:
            return str(error)
        listed = [key.public for key in read_folders(folders_of_keys(folder)).keys_of(self._agent)]
        if not listed or own in listed:
            return None
        return (
            f"the secret in {folder} is {own.fingerprint}, and the key of {self._agent} is {listed[0].fingerprint}, so "
            "this machine can't be it; copy the secret again"
        )

    def _configuration_fault(self) -> str | None:
        logged = {path: content for path, content in self._rows.items() if path.startswith(f"{_CONFIGURATION}/")}
        try:
            here = _under(_CONFIGURATION, sections(self._configuration()))
        except ConfigurationError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - boundary: an invalid file must not end what follows
            return f"network_config.yaml can't be read ({type(error).__name__}: {error}); correct it"
        names = [path.partition("/")[2] for path in logged if path in here and here[path] != logged[path]]
        if not names:
            return None
        return (
            f"{', '.join(sorted(names))} in network_config.yaml differs from the file where {self._agent} is active; "
            "copy that file here, or another configuration applies after a takeover"
        )

    def _align(self) -> None:
        """Have the files what the log has, and the revocations of both."""
        if not self._rows:  # a log that is older than this
            return
        try:
            here = self._places.read()
        except OSError as error:
            raise ConfigurationError(f"{error.filename} can't be read ({error.strerror})") from None
        for path, content in self._rows.items():
            if here.get(path) != content:
                self._put(path, content)
        for path in here:
            if path not in self._rows and path.startswith(_KEYS) and not _is_revocation(path):
                with _written(self._places.target(path)) as file:
                    file.unlink(missing_ok=True)

    def _put(self, path: str, content: str) -> None:
        if path.startswith(_CONFIGURATION):
            return
        self._writes += 1
        with _written(self._places.target(path)) as file:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(file, content, 0o600 if path.startswith(_STATE) else 0o644)

    def _write_role(self, role: FolderRole) -> None:
        with _written(self._places.keys):
            write_role(self._places.keys, role)
        self._role = role


def sections(config: NetworkConfig) -> dict[str, str]:
    """Return a hash of each part of the configuration that has to be equal wherever an agent is active.

    Addresses and ports are not among them: each machine may know the other one by another name.
    """
    agents = [(name, [host.name for host in agent.hosts], agent.key) for name, agent in _sorted(config.agents)]
    grants = [(role, sorted(actions)) for role, actions in _sorted(config.grants)]
    spaces = [(name, sorted(space.readers), sorted(space.writers)) for name, space in _sorted(config.spaces)]
    parts = {
        "agents": agents,
        "grants": grants,
        "spaces": spaces,
        "failover": config.failover,
        "limits": msgspec.to_builtins(config.limits),
    }
    return {name: hashlib.sha256(msgspec.json.encode(part, order="sorted")).hexdigest() for name, part in parts.items()}


def _sorted(items: Mapping[str, V]) -> Iterable[tuple[str, V]]:
    return sorted(items.items())


def _under(place: str, contents: Mapping[str, str]) -> dict[str, str]:
    return {f"{place}/{name}": content for name, content in contents.items()}


def _is_revocation(path: str) -> bool:
    return path.startswith(_KEYS) and path.split("/")[-2] == REVOKED_FOLDER


def _text(path: Path, limit: int | None) -> str | None:
    """Return what a file has; None if it is missing, no text, or larger than this."""
    with contextlib.suppress(FileNotFoundError, IsADirectoryError, UnicodeDecodeError), path.open("rb") as stream:
        content = stream.read() if limit is None else stream.read(limit + 1)
        return content.decode() if limit is None or len(content) <= limit else None
    return None


def _time(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


@contextlib.contextmanager
def _written(file: Path) -> Iterator[Path]:
    try:
        yield file
    except OSError as error:
        raise ConfigurationError(
            f"{error.filename or file} can't be written ({error.strerror}): an agent with a log (TWINHOST_DATABASE) "
            "writes its folder of keys; mount it so, and check the free space"
        ) from None
