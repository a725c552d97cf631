"""Watch the configuration file: changed grants apply at once, and an invalid file changes nothing."""

from collections.abc import Callable, Mapping, Set
from pathlib import Path

import structlog
import watchfiles

from twinhost.network_config import load_network_config
from twinhost.secure_zmq.callers import Grants
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.worker import Worker

_log = structlog.get_logger(__name__)

_STEP_MS = 200  # a change is seen within two steps; each wakes the thread
_IDLE_MS = 1_000

# Called with what is wrong with the file, or None and the grants that apply now.
GrantsListener = Callable[[str | None, Mapping[str, Set[str]]], None]


class GrantsWatch(Worker):
    """Applies the grants of the file, on a thread of its own; everything else in a changed file is ignored."""

    def __init__(self, source: str, grants: Grants, listener: GrantsListener = lambda *_: None) -> None:
        """Watch `source`, the file of the configuration; `listener` is called on this thread."""
        super().__init__("grants-watch", self._follow, join_timeout_s=_IDLE_MS / 1_000 + 1)
        self._path = Path(source)
        self._grants = grants
        self._listener = listener
        self._fault: str | None = None
        self._seen = self._signature()

    @property
    def fault(self) -> str | None:
        """What is wrong with the file now; the grants before it still apply."""
        return self._fault

    def look(self) -> None:
        """Read the file, and apply its grants if it is valid."""
        try:
            by_role = load_network_config(self._path).grants
            changed = self._grants.replace(by_role)
        except ConfigurationError as error:
            self._reject(str(error))
            return
        except Exception as error:  # noqa: BLE001 - boundary: no content of the file ends the watch, and the agent with it
            self._reject(f"{self._path} can't be read as a configuration ({type(error).__name__}: {error}); correct it")
            return
        if self._fault is not None:
            _log.info("configuration_accepted", source=str(self._path))
        self._fault = None
        if changed:
            _log.info("grants_changed", source=str(self._path))
            self._listener(None, by_role)

    def _reject(self, sentence: str) -> None:
        if sentence != self._fault:
            _log.error("configuration_rejected", reason=sentence, effect="the grants stay as they were")
            self._fault = sentence
            self._listener(sentence, {})

    def _signature(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _follow(self) -> None:
        """Watch the folder, since editors replace the file; a folder that is gone is waited for."""
        self.look()  # a change since the configuration was read
        while not self.stopping:
            try:
                for changes in watchfiles.watch(
                    self._path.parent,
                    stop_event=self._stop_requested,
                    step=_STEP_MS,
                    debounce=_STEP_MS,
                    rust_timeout=_IDLE_MS,
                    yield_on_timeout=True,  # so that a change without an event is seen too
                    recursive=False,
                    raise_interrupt=False,
                ):
                    named = any(Path(path).name == self._path.name for _, path in changes)
                    if named or self._signature() != self._seen:
                        self._look_again()
            except (OSError, RuntimeError):  # the folder is gone, or the inotify watches are used up
                if self._signature() != self._seen:
                    self._look_again()
                self.wait(_IDLE_MS / 1_000)

    def _look_again(self) -> None:
        self._seen = self._signature()  # before reading: a later change is read again
        self.look()
