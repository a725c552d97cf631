"""The folder of keys of an agent's standby: a copy of the agent's, its secret too, since the standby is that agent."""

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from twinhost.certificates.following import BEFORE_ANY, ROLE_FILE, write_role
from twinhost.certificates.layout import Layout
from twinhost.certificates.tree import locked
from twinhost.network_config import Agent
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.secure_zmq.key_writer import fsync_folder

STANDBYS_VOLUME = Path("/standby-certificates")  # where docker-compose.yml mounts it
_NOT_COPIED = ("*.draft", "*.installing", ROLE_FILE)


def make_standby_folders(layout: Layout, agents: Iterable[Agent], standbys: Path = STANDBYS_VOLUME) -> Iterator[Path]:
    """Make the folders that are missing, of the agents of this tree that have a standby, and yield them.

    One that is there stays as it is: its standby may have become active, and changed it.

    Raises:
        ConfigurationError: the volume can't be written.
    """
    if not standbys.is_dir():  # outside a container, both processes use one folder, or another machine has its own
        return
    for agent in agents:
        source, target = layout.root / agent.host.name, standbys / agent.host.name
        if agent.standby is None or target.exists() or source not in layout.folders:
            continue
        try:
            with locked(layout), tempfile.TemporaryDirectory(dir=standbys, prefix=".making-") as draft:
                copy = Path(draft, agent.host.name)
                shutil.copytree(source, copy, ignore=shutil.ignore_patterns(*_NOT_COPIED))
                write_role(copy, BEFORE_ANY)
                copy.rename(target)
            fsync_folder(standbys)
        except (OSError, shutil.Error) as error:
            raise ConfigurationError(f"{target} can't be made ({error}); run this again") from None
        yield target
