"""Follow the configuration file: changed grants hold at once, and a slip in the file changes nothing."""

import threading
from collections.abc import Callable, Mapping, Set
from pathlib import Path

import structlog
import watchfiles

from twinhost.network_config import load_network_config
from twinhost.secure_zmq.callers import Grants
from twinhost.secure_zmq.errors import ConfigurationError

_log = structlog.get_logger(__name__)

_STEP_MS = 200  # a change is seen within two steps; each costs a waking
_IDLE_MS = 1_000

Told = Callable[[str | None, Mapping[str, Set[str]]], None]  # what is wrong with the file, or None; what holds now


class GrantsWatch:
    """Keeps the grants as the file says, on a thread of its own; only grants are taken from a changed file."""

    def __init__(self, source: str, grants: Grants, told: Told = lambda *_: None) -> None:
        """Follow `source`, the file that the configuration came from; `told` is called on the watch's thread."""
        self._path = Path(source)
        self._grants = grants
        self._told = told
        self._fault: str | None = None
        self._seen = self._signature()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="grants-watch", daemon=True)

    @property
    def fault(self) -> str | None:
        """What is wrong with the file as it is now; the grants before it hold."""
        return self._fault

    @property
    def responsive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=_IDLE_MS / 1_000 + 1)

    def look(self) -> None:
        """Read the file, and let its grants hold where it is right."""
        try:
            by_role = load_network_config(self._path).grants
            changed = self._grants.replace(by_role)
        except ConfigurationError as error:
            self._reject(str(error))
            return
        except Exception as error:  # noqa: BLE001 - boundary: no slip in the file ends the watch, and the agent with it
            self._reject(f"{self._path} can't be understood ({type(error).__name__}: {error}); mend it")
            return
        if self._fault is not None:
            _log.info("configuration_accepted", source=str(self._path))
        self._fault = None
        if changed:
            _log.info("grants_changed", source=str(self._path))
            self._told(None, by_role)

    def _reject(self, sentence: str) -> None:
        if sentence != self._fault:
            _log.error("configuration_rejected", reason=sentence, effect="the grants stay as they were")
            self._fault = sentence
            self._told(sentence, {})

    def _signature(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _follow(self) -> None:
        """Watch the folder: editors put a new file in the old one's place. A folder that is gone is waited for."""
        self.look()  # what changed since the configuration was read
        while not self._stop.is_set():
            try:
                for changes in watchfiles.watch(
                    self._path.parent,
                    stop_event=self._stop,
                    step=_STEP_MS,
                    debounce=_STEP_MS,
                    rust_timeout=_IDLE_MS,
                    yield_on_timeout=True,  # so that a change which no event told of is seen too
                    recursive=False,
                    raise_interrupt=False,
                ):
                    named = any(Path(path).name == self._path.name for _, path in changes)
                    if named or self._signature() != self._seen:
                        self._look_again()
            except (OSError, RuntimeError):  # the folder is gone, or the kernel's watches are used up
                if self._signature() != self._seen:
                    self._look_again()
                self._stop.wait(_IDLE_MS / 1_000)

    def _look_again(self) -> None:
        self._seen = self._signature()  # before the look: what comes later is looked at again
        self.look()
