"""The commands that sentences advise, mostly about keys, as they work where the reader is.

In the containers all keys are in /certificates, a volume that has no path on the host. An agent and the cli mount a
part of it, read-only; certs-init mounts the whole at the same path and can change it. A program outside the containers
has its keys elsewhere, and its user can change them there.
"""

import os
from pathlib import Path

CERTIFICATES_VOLUME = Path("/certificates")
CERTS_INIT = "docker compose run --rm certs-init"
CERTS_INIT_PIPED = "docker compose run --rm -T certs-init"  # -T: no terminal, so that bytes pass unchanged
RESTORE_WITH_STANDBYS = "make leave-ha, then restore it, then make up-ha"


def certs_init_command(path: Path, *arguments: str, piped: bool = False) -> str:
    """Return a command line of certs-init for the key tree that a path belongs to."""
    command = CERTS_INIT_PIPED if piped else CERTS_INIT
    return " ".join([command if _in_volume(path) else "certs-init", *arguments])


def protect_command(path: Path, mode: str = "600") -> str:
    """Return the command that gives a file its mode; in the containers `verify`, whose output has the command."""
    return certs_init_command(path, "verify") if _in_volume(path) else f"chmod {mode} {path}"


def change_mode_command(path: Path, mode: str) -> str:
    """Return the command that changes the mode of a path in the tree of certs-init."""
    return _in_tree(path, "chmod", mode, str(path))


def remove_command(*paths: Path) -> str:
    """Return the command that removes paths in the tree of certs-init."""
    return _in_tree(paths[0], "rm", "-r", *map(str, paths))


def own_command(path: Path) -> str:
    """Return the command, which needs root, that makes this process's user the owner of a path in that tree."""
    root = "--user 0 --cap-add CHOWN --cap-add DAC_READ_SEARCH "
    return _in_tree(path, "chown", str(os.getuid()), str(path), options=root)


def _in_tree(path: Path, program: str, *arguments: str, options: str = "") -> str:
    inside = f"docker compose run --rm {options}--entrypoint {program} certs-init"
    return " ".join([inside if _in_volume(path) else program, *arguments])


def _in_volume(path: Path) -> bool:
    return path == CERTIFICATES_VOLUME or CERTIFICATES_VOLUME in path.parents
