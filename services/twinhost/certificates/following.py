"""Whether the agent of a folder of keys is active, or follows another machine's: a file that the agent writes.

What follows has the keys that the active one's log has, so a change of them belongs to the active one's folder.
"""

from pathlib import Path

import msgspec

from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.secure_zmq.key_writer import replace_file

ROLE_FILE = ".failover"


class FolderRole(msgspec.Struct, frozen=True):
    """What a folder's agent was last in a log: the epoch, and the machine that was active in it, if it was another."""

    log: str
    epoch: int
    active: str  # empty if it was this one


BEFORE_ANY = FolderRole("", 0, "the other machine")  # of a folder that was made for a standby


def role_of(folder: Path) -> FolderRole | None:
    """Return what a folder's agent was last; None if it never had a log.

    Raises:
        ConfigurationError: that can't be read.
    """
    path = folder / ROLE_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=FolderRole)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} can't be read ({error}); it says whether these keys are the newest") from None


def write_role(folder: Path, role: FolderRole) -> None:
    """Write what a folder's agent is now; OSError if it can't be written."""
    replace_file(folder / ROLE_FILE, msgspec.json.encode(role).decode(), 0o644)


def require_active(folder: Path, agent: str, command: str) -> None:
    """Raise ConfigurationError where a folder's agent follows another machine's, whose keys are to be changed there."""
    if (active := active_elsewhere(folder)) is not None:
        raise ConfigurationError(
            f"{agent} is active on {active}, whose keys {folder} only follows; run {command} there, or once it is "
            "active here"
        )


def active_elsewhere(folder: Path) -> str | None:
    """Return the machine that a folder's agent follows; None if it follows none."""
    role = role_of(folder)
    return role.active or None if role is not None else None
