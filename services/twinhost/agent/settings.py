"""The settings of an agent, read and validated before it starts, and the grants, which apply as soon as they change."""

import contextlib
import os
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import structlog

from twinhost.agent.http import http_hosts
from twinhost.agent.state_folder import state_folder
from twinhost.folder_events import FolderEvents
from twinhost.network_config import Agent, NetworkConfig, load_network_config
from twinhost.network_config.load import PUBLISH_VARIABLE
from twinhost.network_config.model import is_loopback
from twinhost.secure_zmq.callers import Grants
from twinhost.secure_zmq.certificates import Certificates, certificates_folder, load_certificates
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.secure_zmq.server_address import is_secure_zmq_enabled
from twinhost.worker import Waker, Worker

UNENCRYPTED_VARIABLE = "TWINHOST_PUBLISH_UNENCRYPTED"
MODELS_VARIABLE = "TWINHOST_MODELS"


@dataclass(frozen=True, slots=True)
class Settings:
    """One agent's settings; `certificates` is None only if SECURE_ZMQ=0."""

    config: NetworkConfig
    agent: Agent
    certificates: Certificates | None
    state: Path
    http_hosts: frozenset[str]
    models: Path | None = None  # the models' folder, whose disk is measured

    @property
    def disks(self) -> dict[str, Path]:
        """The folders whose filesystems are measured, by name."""
        return {"state": self.state, **({"models": self.models} if self.models else {})}

    @property
    def secure(self) -> bool:
        return self.certificates is not None


def load_settings(agent_name: str, environment: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings of a named agent.

    Raises:
        ConfigurationError: something is missing or wrong; the message is one sentence.
    """
    secure = is_secure_zmq_enabled(environment)
    if not secure:
        _require_private(environment)
    config = load_network_config(environment=environment)
    agent = config.agent(agent_name)
    certificates = _own_certificates(agent, environment) if secure else None
    state = state_folder(environment)
    if not (state.is_dir() and os.access(state, os.W_OK | os.X_OK)):
        raise ConfigurationError(f"{state} is not a folder that this process can write; mount a volume there")
    models = environment.get(MODELS_VARIABLE, "")
    if models and not Path(models).is_dir():
        raise ConfigurationError(
            f"{MODELS_VARIABLE} is {models!r}, which is not a folder; correct it in .env, or remove it"
        )
    named = [name for host in config.hosts.values() for name in (host.name, host.address)]
    hosts = http_hosts(named, environment)
    return Settings(config, agent, certificates, state, hosts, Path(models) if models else None)


def _require_private(environment: Mapping[str, str]) -> None:
    """Refuse to serve the open link to other machines, unless that is explicitly allowed.

    Raises:
        ConfigurationError: the ports are published on an address that is not a loopback one.
    """
    address = environment.get(PUBLISH_VARIABLE, "127.0.0.1")  # an empty one publishes on every address
    allowed = environment.get(UNENCRYPTED_VARIABLE, "")
    if allowed not in ("", "0", "1"):
        raise ConfigurationError(f"{UNENCRYPTED_VARIABLE} is {allowed!r}; set it to 1, or remove it")
    if not is_loopback(address) and allowed != "1":
        raise ConfigurationError(
            f"SECURE_ZMQ is 0 and {PUBLISH_VARIABLE} is {address or 'empty'}: everybody who reaches that address "
            f"could read and write everything; set SECURE_ZMQ=1, or {UNENCRYPTED_VARIABLE}=1 to allow it"
        )


def _own_certificates(agent: Agent, environment: Mapping[str, str]) -> Certificates:
    certificates = load_certificates(certificates_folder(environment))
    owner = certificates.own_keys.certificate.owner
    if (owner.name, owner.host) != (agent.name, agent.host.name):
        raise ConfigurationError(
            f"{certificates.folder} holds the secret key of {owner.name} on {owner.host}, "
            f"and this agent is {agent.name} on {agent.host.name}; mount its own folder"
        )
    return certificates


_log = structlog.get_logger(__name__)

_LOOK_S = 2.0  # between two looks at the file, for file systems that don't report every change

# Called with what is wrong with the file, or None and the grants that apply now.
GrantsListener = Callable[[str | None, Mapping[str, Set[str]]], None]


class GrantsWatch(Worker):
    """Applies the grants of the file, on a thread of its own; everything else in a changed file is ignored."""

    def __init__(self, source: str, grants: Grants, listener: GrantsListener = lambda *_: None) -> None:
        """Watch `source`, the file of the configuration; `listener` is called on this thread."""
        super().__init__("grants-watch", self._follow, join_timeout_s=1.0)
        self._waker = Waker()
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
        except Exception as error:  # noqa: BLE001 - boundary: an invalid file must not end the watch, and so the agent
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
        folder = _identity(self._path.parent)
        changed = False  # since the last look
        while not self.stopping:
            if changed or self._signature() != self._seen:  # so that a change without an event is seen too
                self._look_again()
            if _identity(self._path.parent) != folder:
                return
            changed = events.wait(_LOOK_S)

    def _look_again(self) -> None:
        self._seen = self._signature()  # before reading: a later change is read again
        self.look()


def _identity(folder: Path) -> tuple[int, int]:
    """Return device and inode of a folder; OSError where it is missing."""
    status = folder.stat()
    return status.st_dev, status.st_ino
