"""The configuration of a running agent, which follows the file: hosts, agents, grants, and most limits.

A changed file is validated as a whole, and then put into effect in one step; an invalid one changes nothing. What an
agent can't change while it runs (its sockets, its search) keeps its value, and the agent's warnings name it.
"""

import contextlib
import os
from collections.abc import Callable, Mapping, Set
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import structlog

from twinhost.folder_events import FolderEvents
from twinhost.moments import SYSTEM_CLOCK, Clock
from twinhost.network_config import Agent, NetworkConfig, load_network_config
from twinhost.secure_zmq.callers import Grants
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.worker import Waker, Worker

_log = structlog.get_logger(__name__)

MAINPC_AGENT = "SystemDigitalTwin"  # every agent keeps a connection to it
_LOOK_S = 2.0  # between two looks at the file, for file systems that don't report every change
_WRITTEN_WITHIN_S = 1.0  # a last line without an end
_FIXED_LIMITS = ("max_payload_bytes", "metrics_interval_s")  # of open sockets, and of a thread that measures

# Called with what is wrong with the file, or None and the grants that apply now.
GrantsListener = Callable[[str | None, Mapping[str, Set[str]]], None]


class LiveConfig:
    """The configuration in effect; `apply()` replaces it in one step, and any thread may ask for it."""

    def __init__(self, started_with: NetworkConfig, agent: Agent, environment: Mapping[str, str] = os.environ) -> None:
        """Begin with what the agent was started with; `environment` is that of the start."""
        self.current = started_with
        self.pending: tuple[str, ...] = ()
        self._started_with = started_with
        self._agent = agent
        self._environment = environment

    def load(self) -> NetworkConfig:
        """Return what the file has, without any effect.

        Raises:
            ConfigurationError: it is invalid.
        """
        return load_network_config(Path(self._started_with.source), self._environment)

    def apply(self, loaded: NetworkConfig) -> bool:
        """Put a configuration into effect; return whether anything differs."""
        if self.follows(loaded):
            return False
        self.current, self.pending = _without_fixed(loaded, self._started_with, self._agent.name)
        return True

    def follows(self, loaded: NetworkConfig) -> bool:
        """Return whether a configuration is in effect, but for what waits for the next start."""
        return _without_fixed(loaded, self._started_with, self._agent.name) == (self.current, self.pending)

    def warnings(self) -> list[str]:
        """Return what the file has that takes effect only when this agent is started again."""
        if not self.pending:
            return []
        return [
            f"{self.current.source}: {', '.join(self.pending)} changed, which {self._agent.name} applies only when it "
            "starts"
        ]


def _without_fixed(loaded: NetworkConfig, started: NetworkConfig, own: str) -> tuple[NetworkConfig, tuple[str, ...]]:
    """Return a configuration with what a running agent can't change as it was at its start, and the paths of that."""
    hosts, agents, pending = dict(loaded.hosts), dict(loaded.agents), []
    for agent in (started.agents.get(name) for name in dict.fromkeys((own, MAINPC_AGENT))):
        if agent is not None and loaded.agents.get(agent.name) != agent:
            moved = hosts.get(agent.host.name, agent.host) != agent.host
            pending += [f"hosts.{agent.host.name}"] if moved else [f"agents.{agent.name}"]
            hosts[agent.host.name], agents[agent.name] = agent.host, agent
    limits = {name: getattr(started.limits, name) for name in _FIXED_LIMITS}
    current = replace(
        loaded,
        hosts=hosts,
        agents=agents,
        limits=replace(loaded.limits, **limits),
        recall=started.recall,
        memory=started.memory,
    )
    for section in ("limits", "recall", "memory"):
        pending += _differing(section, getattr(loaded, section), getattr(current, section))
    return current, tuple(dict.fromkeys(pending))


def _differing(section: str, one: Any, other: Any) -> list[str]:
    """Return the paths of the fields in which two sections differ."""
    names = (field.name for field in fields(one))
    return [f"{section}.{name}" for name in names if getattr(one, name) != getattr(other, name)]


class ConfigWatch(Worker):
    """Puts each valid version of the file into effect, on a thread of its own."""

    def __init__(
        self,
        live: LiveConfig,
        grants: Grants,
        listener: GrantsListener = lambda *_: None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Watch the file of the configuration; `listener` is called on this thread."""
        super().__init__("config-watch", self._follow, join_timeout_s=1.0)
        self._waker = Waker()
        self._live = live
        self._clock = clock
        self._path = Path(live.current.source)
        self._grants = grants
        self._listener = listener
        self.fault: str | None = None  # what is wrong with the file now; the configuration before it still applies
        self._seen = self._signature()
        self._inode = self._seen[0] if self._seen else None  # of the file that was read last
        self.on_change: Callable[[], None] = lambda: None  # called on this thread once another configuration applies

    def warnings(self) -> list[str]:
        """Return what is wrong with the file."""
        return [self.fault] if self.fault else []

    def look(self) -> None:
        """Read the file, and apply it if it is valid."""
        try:
            loaded = self._live.load()
        except ConfigurationError as error:
            self._reject(str(error))
            return
        except Exception as error:  # noqa: BLE001 - boundary: an invalid file must not end the watch, and so the agent
            self._reject(f"{self._path} can't be read as a configuration ({type(error).__name__}: {error}); correct it")
            return
        if self._grants.replace(loaded.grants):  # first: a grant that was removed must not wait for anything
            _log.info("grants_changed", source=str(self._path))
            self._listener(None, loaded.grants)
        if self.fault is not None:
            _log.info("configuration_accepted", source=str(self._path))
        self.fault = None
        if self._live.apply(loaded):
            _log.info("configuration_changed", source=str(self._path), pending=list(self._live.pending))
            self.on_change()

    def _reject(self, sentence: str) -> None:
        if sentence != self.fault:
            _log.error("configuration_rejected", reason=sentence, effect="everything stays as it was")
            self.fault = sentence
            self._listener(sentence, {})

    def _signature(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _interrupt(self) -> None:
        self._waker.wake()

    def _follow(self) -> None:
        """Watch the folder, since editors replace the file; a missing folder is waited for."""
        self.look()  # a change since the configuration was read
        while not self.stopping:
            try:
                with contextlib.closing(FolderEvents([self._path.parent], self._waker)) as events:
                    self._watch_while_same(events)
            except OSError:  # the folder is missing, or no inotify watch is left
                if self._signature() != self._seen:
                    self._look_again()
                self.wait(_LOOK_S)

    def _watch_while_same(self, events: FolderEvents) -> None:
        """Follow the folder until it is moved or replaced."""
        folder, own = _identity(self._path.parent), (self._path.name, "")
        changed = False  # since the last look, whatever else did in the folder
        while not self.stopping:
            if changed or self._signature() != self._seen:  # so that a change without an event is seen too
                self._look_again()
            if _identity(self._path.parent) != folder:
                return
            changed = not events.wait(_LOOK_S).isdisjoint(own)

    def _look_again(self) -> None:
        self._seen = self._signature()  # before reading: a later change is read again
        if self._is_being_written():
            self._seen = None  # looked at again after _LOOK_S
            return
        self._inode = self._seen[0] if self._seen else None
        self.look()

    def _is_being_written(self) -> bool:
        """Return whether the last line may be half of one, such as `- update_twin` of `- update_twin: own`.

        A file that was put in the place of the one before is whole.
        """
        try:
            with self._path.open("rb") as stream:
                status = os.fstat(stream.fileno())
                stream.seek(-1, os.SEEK_END)
                in_place, age = status.st_ino == self._inode, self._clock.time() - status.st_mtime
                return in_place and stream.read(1) != b"\n" and 0 <= age < _WRITTEN_WITHIN_S
        except OSError:  # missing, or empty: look() says so
            return False


def _identity(folder: Path) -> tuple[int, int]:
    """Return device and inode of a folder; OSError where it is missing."""
    status = folder.stat()
    return status.st_dev, status.st_ino
