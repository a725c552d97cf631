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


def to_run(path: Path, program: str, *arguments: str, paths: tuple[Path, ...] = ()) -> str:
    """Return the command line of a program that changes a path as certs-init sees it, or more of them."""
    command = f"docker compose run --rm --entrypoint {program} certs-init" if _in_volume(path) else program
    return " ".join([command, *arguments, str(path), *map(str, paths)])


def to_own(path: Path) -> str:
    """Return the command line that gives a path as certs-init sees it to this process's user; it takes root."""
    change = f"chown -R {os.getuid()} {path}"
    if not _in_volume(path):
        return change
    capabilities = "--cap-add CHOWN --cap-add DAC_READ_SEARCH"
    return change.replace("chown", f"docker compose run --rm --user 0 {capabilities} --entrypoint chown certs-init", 1)


def to_protect(path: Path) -> str:
    """Return what makes a secret its owner's alone, for whoever reads it there."""
    return certs_init(path, "verify") if _in_volume(path) else f"chmod 600 {path}"


def _in_volume(path: Path) -> bool:
    return path == VOLUME or VOLUME in path.parents
