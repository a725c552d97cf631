"""What to do about key files, as commands that work for their reader.

In the containers all keys lie below /certificates, in a volume that no path of the machine leads to. An agent and the
cli mount a part of it, read-only; certs-init mounts the whole at the same place and can change it. A program outside
the containers reads its keys elsewhere, and its user can change them there.
"""

import os
from pathlib import Path

VOLUME = Path("/certificates")
CERTS_INIT = "docker compose run --rm certs-init"
CERTS_INIT_PIPED = "docker compose run --rm -T certs-init"  # -T: no terminal, so that bytes pass unchanged


def certs_init(path: Path, *arguments: str, piped: bool = False) -> str:
    """Return the command line of certs-init that works on the tree in which a path lies."""
    command = CERTS_INIT_PIPED if piped else CERTS_INIT
    return " ".join([command if _in_volume(path) else "certs-init", *arguments])


def to_protect(path: Path, mode: str = "600") -> str:
    """Return what gives a file the mode that it must have, for a reader that may see a part of the tree only."""
    return certs_init(path, "verify") if _in_volume(path) else f"chmod {mode} {path}"


def to_change_mode(path: Path, mode: str) -> str:
    """Return what gives a path of certs-init's tree a mode."""
    return _in_tree(path, "chmod", mode, str(path))


def to_remove(*paths: Path) -> str:
    """Return what removes paths of certs-init's tree."""
    return _in_tree(paths[0], "rm", "-r", *map(str, paths))


def to_own(path: Path) -> str:
    """Return what gives a path of certs-init's tree to this process's user; that takes root."""
    root = "--user 0 --cap-add CHOWN --cap-add DAC_READ_SEARCH "
    return _in_tree(path, "chown", str(os.getuid()), str(path), options=root)


def _in_tree(path: Path, program: str, *arguments: str, options: str = "") -> str:
    inside = f"docker compose run --rm {options}--entrypoint {program} certs-init"
    return " ".join([inside if _in_volume(path) else program, *arguments])


def _in_volume(path: Path) -> bool:
    return path == VOLUME or VOLUME in path.parents
