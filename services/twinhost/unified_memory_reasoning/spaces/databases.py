"""The databases of the spaces: where they are, which of them are open, and which one answers a request.

Each has a folder of its own, which its first change makes. It is opened, and migrated, when it is first asked for, and
closed when others are used more. A space that has no database yet is read as an empty one.
"""

import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from types import GeneratorType
from typing import Any

import structlog

from twinhost.network_config import NetworkConfig
from twinhost.network_config.model import SHARED, Limits
from twinhost.secure_zmq.actions import Action, Completed, InParts
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.descriptors import most_open_files
from twinhost.secure_zmq.errors import ConfigurationError, MalformedRequest, StoreUnavailable
from twinhost.secure_zmq.key_writer import fsync_folder
from twinhost.secure_zmq.wire import Answer, Request
from twinhost.store.backup import number_of, prepare
from twinhost.store.damage import connect_to_read, damage_warning, require_undamaged
from twinhost.store.database import IN_MEMORY, Database
from twinhost.store.reply_log import ReplyLog
from twinhost.unified_memory_reasoning.contents import Contents
from twinhost.unified_memory_reasoning.spaces.access import Access, InSpace, can_be_space, owner_of, private_space
from twinhost.unified_memory_reasoning.spaces.stored import StoredInSpaces

_log = structlog.get_logger(__name__)

KEPT_OPEN = 16
MOST_OPEN = 64  # while all of them are in use
_SHARE_OF_FILES = 64  # the fewest files that the process may have open for each: it takes nine
IDLE_S = 5.0  # since the last request; a search waits for the model for 2 s at most
_RETRY_S = 1.0  # after a store that failed
_FILE = "memory.sqlite3"
_PRIVATE = "private."  # begins the folder of a private space; no declared space has a dot
_COUNTED = ("interactions", "memories", "error_patterns", "twins")
_DELETED = ".deleted"  # no space has this folder


class OpenSpace:
    """One space whose database is open."""

    def __init__(self, store: Database, contents: Contents, replies: ReplyLog) -> None:
        self.store = store
        self.replies = replies
        self.contents = contents
        self.used_at = 0.0  # monotonic
        self.follows = False  # whether it hides what the shared quarantine hides
        self._begun = 0  # requests of which some parts are left
        self._retry_at = 0.0
        self._handlers = {action.request: action.handle for action in contents.actions()}

    def handle(self, request: Request, caller: Caller, judge: Callable[[], None]) -> Any:
        """Answer a request about this space, which its caller may make; `judge` raises where it no longer may."""
        answer = self._handlers[type(request)](request, caller)
        if isinstance(answer, Completed):
            answer.extend(lambda parts: self._all_parts(parts, judge))
        return self._all_parts(answer, judge) if isinstance(answer, GeneratorType) else answer

    def _all_parts(self, parts: InParts[Answer], judge: Callable[[], None]) -> InParts[Answer]:
        """Do these parts, each as a request of its own: the space and the caller's access may have changed."""
        self._begun += 1
        try:
            while True:
                judge()
                try:
                    next(parts)
                except StopIteration as end:
                    answer: Answer = end.value
                    return answer
                yield
        finally:
            self._begun -= 1

    @property
    def in_use(self) -> bool:
        """Whether a request about it is under way."""
        return self._begun > 0 or self.store.in_transaction

    def on_tick(self, limits: Limits) -> None:
        """Do what is due.

        Raises:
            StoreUnavailable: a part of it is not done; a later call tries again.
        """
        now = self.store.clock.monotonic()
        if now < self._retry_at:
            return
        self._retry_at = now + _RETRY_S
        if self.store.fault is not None:
            with self.store.transaction():  # an empty one writes while there is a fault, and ends it
                pass
        self.contents.on_tick()
        self.replies.keep(limits.stored_replies_s, limits.stored_replies_per_caller)
        self.replies.forget_old()
        self._retry_at = 0.0

    def close(self) -> None:
        """Write what waits in memory, and close the database; its threads end soon."""
        if self.contents.meaning is not None:
            self.contents.meaning.request_stop()
        try:
            self.contents.on_stop()
        except StoreUnavailable as error:
            _log.error("space_not_written", path=str(self.store.path), reason=str(error))
        finally:
            self.store.close()


@dataclass(frozen=True, slots=True)
class Making:
    """How the database of a space is made: its tables, what repairs its indexes, and what answers requests about it."""

    migrations: Sequence[str]
    rebuilds: Mapping[str, Sequence[str]]
    contents: Callable[[Database], Contents]


class Spaces:
    """All spaces but the shared one, whose contents are those of the agent's own database."""

    def __init__(self, folder: Path, shared: Contents, making: Making, config: Callable[[], NetworkConfig]) -> None:
        """Finish what an earlier process has begun in `folder`, which may not exist.

        Args:
            folder: of the spaces' folders.
            shared: the contents of the shared space, whose quarantine applies in every space.
            making: how the database of a space is made.
            config: returns the configuration in effect now.

        Raises:
            ConfigurationError, StoreUnavailable: a database can't be repaired, or a backup not be put in its place.
        """
        self.access = Access(lambda: config().spaces, self.exists)
        self._folder = folder
        self._shared = shared
        self._clock = shared.database.clock
        self._making = making
        self._config = config
        self._open: dict[str, OpenSpace] = {}  # the one that was used last is the last one
        self._most_open = min(MOST_OPEN, most_open_files() // _SHARE_OF_FILES)
        self._empty: OpenSpace | None = None
        shared.quarantine.on_change = self._quarantine_changed
        shared.backups.others = self
        shutil.rmtree(folder / _DELETED, ignore_errors=True)
        for name in self.names():
            if shared.database.logged:  # a change past the log would be this machine's alone
                require_undamaged(self.path(name))
            else:
                prepare(self.path(name), making.rebuilds, len(making.migrations))
        self.stored = StoredInSpaces({name: self.path(name) for name in self.names()})
        self._damaged = [name for name in self.names() if self._is_damaged(name)]  # which only a start finds

    def routed(self, action: Action[Any]) -> Action[Any]:
        """Return an action of the shared space as one of all spaces: a request says which, and the judge whether."""
        kind, shared = action.request, action.handle
        if not issubclass(kind, InSpace):
            return action
        writes = action.mutates or kind.changes_space

        @wraps(shared)  # whose annotations are the schema of the replies
        def handle(request: InSpace, caller: Caller) -> Any:
            if request.space is None:
                return shared(request, caller)
            space = self._asked(request.space, caller, writes=writes)
            if space is None:
                return shared(request, caller)
            return space.handle(request, caller, lambda: self._judge(space, request, caller, writes=writes))

        return replace(action, handle=handle)

    def _judge(self, space: OpenSpace, request: InSpace, caller: Caller, *, writes: bool) -> None:
        """Raise NotGranted or StoreUnavailable unless a request may go on, in the space in which it has begun."""
        assert request.space is not None
        if self._asked(request.space, caller, writes=writes) is not space is not self._empty:
            raise StoreUnavailable("the space was deleted, or closed, before the request was done; repeat it")

    def elsewhere(self, request: Request, caller: Caller) -> OpenSpace | None:
        """Return the space that a request changes, with its database; None for the shared one.

        Raises:
            NotGranted: the caller may not change it.
            StoreUnavailable: it can't be opened.
        """
        asked = getattr(request, "space", None)
        return None if asked is None else self._asked(asked, caller, writes=True)

    def names(self) -> list[str]:
        """Return the names of the spaces that are stored, or will be once a backup of them is in place."""
        return sorted(self._stored())

    def path(self, name: str) -> Path:
        """Return where the database of a space is, or will be."""
        owner = owner_of(name)
        return self._folder / (name if owner is None else f"{_PRIVATE}{owner}") / _FILE

    def place_for(self, name: str) -> Path:
        """Return where the database of a space will be, in a folder that exists then; on any thread.

        Raises:
            MalformedRequest: no space has such a name.
            OSError: the folder can't be made.
        """
        if not can_be_space(name):
            raise MalformedRequest(f"{name[:64]!r} can't be the name of a space; use another backup")
        path = self.path(name)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        fsync_folder(self._folder)
        return path

    def exists(self, name: str) -> bool:
        """Return whether a space is stored."""
        return name in self._stored()

    def size_bytes(self, name: str) -> int:
        """Return how many bytes a space takes on disk, with what a restore has kept; 0 if it is not stored."""
        if name == SHARED:
            return self._shared.database.size_bytes
        total = 0
        with suppress(FileNotFoundError):
            for path in self.path(name).parent.iterdir():
                with suppress(FileNotFoundError):
                    total += path.stat().st_size
        return total

    def rows(self, name: str) -> dict[str, int] | None:
        """Return how many rows of each kind a space has; None if they can't be counted."""
        opened = self._open.get(name)
        contents = self._shared if name == SHARED else opened.contents if opened else None
        if contents is not None:
            return dict(zip(_COUNTED, contents.counts(), strict=True))
        if not self.path(name).exists():
            return dict.fromkeys(_COUNTED, 0)
        try:
            with closing(connect_to_read(self.path(name))) as connection:
                return {table: number_of(connection, f"SELECT count(*) FROM {table}") for table in _COUNTED}  # noqa: S608
        except sqlite3.Error:
            return None

    def delete(self, name: str) -> bool:
        """Delete a space with all that is stored in it; return whether there was one.

        Raises:
            StoreUnavailable: its folder can't be moved.
        """
        if name in self._open:
            self._close(name)
        folder, deleted = self.path(name).parent, self._folder / _DELETED
        if self._shared.database.others is not None and folder.exists():
            self._shared.database.others.remove_other(self.path(name))
        try:
            shutil.rmtree(deleted, ignore_errors=True)
            folder.rename(deleted)  # at once: a crash leaves all of it, or nothing of it under its name
            fsync_folder(self._folder)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StoreUnavailable(f"the space can't be deleted ({error.strerror}); check the agent's volume") from None
        self.stored.deleted(name)
        shutil.rmtree(deleted, ignore_errors=True)
        return True

    def _quarantine_changed(self) -> None:
        """Have every space hide what the quarantined callers wrote, before its next request, or refuse that."""
        for space in self._open.values():
            space.follows = False

    def on_tick(self) -> None:
        """Do what is due in the open spaces, and close those that were not used for longest.

        Raises:
            StartAgain: the agent must restart with a staged backup.
        """
        for name, space in list(self._open.items()):
            try:
                space.on_tick(self._config().limits)
            except StoreUnavailable as error:
                _log.error("housekeeping_not_stored", space=name, reason=str(error))
        idle_since = self._clock.monotonic() - IDLE_S
        surplus = list(self._open)[: max(0, len(self._open) - KEPT_OPEN)]
        for name in surplus:
            if self._open[name].used_at < idle_since and not self._open[name].in_use:
                self._close(name)

    def on_stop(self) -> None:
        """Close all."""
        for name in list(self._open):
            self._close(name)
        if self._empty is not None:
            self._empty.store.close()

    def warnings(self) -> list[str]:
        """Return what an operator should know, on any thread; without naming a space, since everybody reads it."""
        faults = sum(space.store.fault is not None for space in tuple(self._open.values()))
        damaged = sum(map(self._is_damaged, self._damaged))
        sentences = [f"spaces that can't be written: {faults}; the agent's log says why"] if faults else []
        if damaged:
            sentences.append(
                f"spaces whose database was damaged and is quarantined: {damaged}; the agent's log names them: restore "
                "a backup, or acknowledge the loss: "
                "./twinhost call UnifiedMemoryReasoningAgent acknowledge_damage space=NAME"
            )
        return sentences

    def _is_damaged(self, name: str) -> bool:
        """Return whether a damaged database of a space is kept that nobody has acknowledged."""
        try:
            return damage_warning(self.path(name)) is not None
        except FileNotFoundError:  # the space was deleted
            return False

    def _stored(self) -> Iterator[str]:
        with suppress(FileNotFoundError):
            for folder in self._folder.iterdir():
                if folder.name != _DELETED and folder.is_dir():
                    private = folder.name.startswith(_PRIVATE)
                    yield private_space(folder.name.removeprefix(_PRIVATE)) if private else folder.name

    def _asked(self, asked: str, caller: Caller, *, writes: bool) -> OpenSpace | None:
        name = self.access.require(asked, caller, writes=writes)
        if name == SHARED:
            return None
        space = self._open.get(name)
        if space is None:
            if not writes and not self.path(name).exists():
                return self._read_as_empty()
            space = self._opened(name)
            self.stored.opened(name, space.store)
        else:
            del self._open[name]
        self._open[name] = space  # as the last one
        space.used_at = self._clock.monotonic()
        if not space.follows:
            self._follow(space)
        return space

    def _follow(self, space: OpenSpace) -> None:
        if (rows := self._shared.quarantine.rows()) != space.contents.quarantine.rows():
            with space.store.transaction():
                space.contents.quarantine.replace(rows)
        space.follows = True

    def _read_as_empty(self) -> OpenSpace:
        if self._empty is None:
            self._empty = self._made(IN_MEMORY)
        return self._empty

    def _opened(self, name: str) -> OpenSpace:
        """Open a space, which is made if it is not stored.

        Raises:
            StoreUnavailable: it can't be opened.
        """
        if len(self._open) >= self._most_open:
            ended = (other for other, space in self._open.items() if not space.in_use)
            if (other := next(ended, None)) is not None:
                self._close(other)
        path = self.path(name)
        try:
            if not path.parent.exists():
                self.place_for(name)
            space = self._made(path)
        except (OSError, ConfigurationError) as error:
            raise StoreUnavailable(f"the space can't be opened ({error})") from None
        if space.contents.meaning is not None:
            space.contents.meaning.start()
        return space

    def _close(self, name: str) -> None:
        self.stored.closing(name)
        self._open.pop(name).close()

    def _made(self, path: Path) -> OpenSpace:
        limits = self._config().limits
        others = self._shared.database.others if path != IN_MEMORY else None
        open_it = Database if others is None else others.open_other
        store = open_it(path, self._making.migrations, self._clock)
        try:
            replies = ReplyLog(store, limits.stored_replies_s, limits.stored_replies_per_caller)
            return OpenSpace(store, self._making.contents(store), replies)
        except BaseException:
            store.close()
            raise
