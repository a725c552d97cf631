"""Where mainpc's state and keys are stored on this machine."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from twinhost.agent.state_folder import state_folder
from twinhost.certificates.layout import HOST_VARIABLE, SERVER, Layout, only_host, plan_layout
from twinhost.commands import CERTS_INIT_PIPED
from twinhost.network_config import NetworkConfig
from twinhost.secure_zmq.certificates import certificates_folder
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.store.files import RESTORING, exclusive_lock
from twinhost.store.reply_log import SCHEMA as REPLY_LOG_SCHEMA
from twinhost.system_digital_twin.state_files import AUDIT_FOLDER
from twinhost.system_digital_twin.state_files import MIGRATIONS as TWIN_MIGRATIONS

DATABASE = f"{SERVER}.sqlite3"
MIGRATIONS = (REPLY_LOG_SCHEMA, *TWIN_MIGRATIONS)
_ARCHIVE_LOCK = ".archive.lock"


@dataclass(frozen=True, slots=True)
class Places:
    """mainpc's part of the tree of keys, and the folder of its agent's state."""

    layout: Layout
    state: Path

    @property
    def database(self) -> Path:
        return self.state / DATABASE

    @property
    def audit(self) -> Path:
        return self.state / AUDIT_FOLDER

    @property
    def received_state(self) -> Path:
        """Where a restore puts what it received until it is checked; on the same volume, so that it can be renamed."""
        return self.state / RESTORING

    @property
    def received_keys(self) -> Path:
        """The same for the keys."""
        return self.layout.root / RESTORING

    def hold_archives(self) -> Callable[[], None]:
        """Lock out other backups and restores until the returned function is called.

        Raises:
            ConfigurationError: one is running.
        """
        return _hold(
            self.state / _ARCHIVE_LOCK, "another backup, check or restore of it is running; wait until it ends"
        )

    def hold_state(self) -> Callable[[], None]:
        """Lock out the agent from its state until the returned function is called.

        Raises:
            ConfigurationError: the agent runs.
        """
        return _hold(self.state / f"{SERVER}.lock", f"{SERVER} runs on it; stop it first: docker compose stop mainpc")


def find_places(config: NetworkConfig) -> Places:
    """Return where everything is stored on this machine.

    Raises:
        ConfigurationError: this machine is another host, or a folder is missing.
    """
    server = config.agent(SERVER).host.name
    here = only_host() or server
    if here != server:
        raise ConfigurationError(
            f"this machine is {here} ({HOST_VARIABLE}), and archive is for the state of {server}; for {here}, back up "
            f"its memory: docker compose run --rm -T cli memory backup - > {here}.backup; and its keys: "
            f"{CERTS_INIT_PIPED} export-host {here} > {here}.tar"
        )
    state = state_folder()
    root = certificates_folder()
    for folder in (state, root):
        if not (os.access(folder, os.R_OK | os.W_OK | os.X_OK) and folder.is_dir()):
            raise ConfigurationError(
                f"{folder} is not a folder that this process can write; mount a volume owned by uid {os.getuid()}"
            )
    return Places(_without_standbys(plan_layout(root, config, server)), state)


def _without_standbys(layout: Layout) -> Layout:
    """Return a tree without the folders of agents that this machine is only the standby's of: they are others'."""
    own = [place for place in layout.local if place.owner.name not in layout.standbys]
    others = [place for place in layout.local if place.owner.name in layout.standbys]
    return replace(layout, local=own, remote=[*layout.remote, *others], standbys=frozenset())


def _hold(path: Path, who: str) -> Callable[[], None]:
    try:
        return exclusive_lock(path)
    except ConfigurationError as error:
        if not os.access(path, os.R_OK | os.W_OK):  # the lock file can't be made
            raise
        raise ConfigurationError(f"{path.parent} is in use: {who}") from error
