"""The command line of certs-init."""

import argparse
import os
from pathlib import Path

from twinhost.certificates.commands import export, invite, make, public, request, revoke, rotate, verify
from twinhost.secure_zmq.certificates import certificates_folder
from twinhost.version import version_line

HOST_VARIABLE = "TWINHOST_HOST"
_COMMANDS = (make, verify, invite, request, public, revoke, rotate, export)


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line; `run` of what it returns is the command."""
    whole = argparse.ArgumentParser(
        prog="certs-init",
        description=f"Make, check, and change the CURVE keys. {HOST_VARIABLE}=mainpc or =pc2 limits it to "
        "that host's secrets; unset, all of them lie in one tree, as the simulation on one machine needs.",
    )
    whole.add_argument("--version", action="version", version=version_line())
    whole.add_argument("--root", type=Path, default=certificates_folder(), help="the tree (default: %(default)s)")
    whole.set_defaults(run=make.run)
    commands = whole.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for module in _COMMANDS:
        module.add(commands)
    return whole


def only_host() -> str | None:
    """Return the host that this machine is; None stands for all of them."""
    return os.environ.get(HOST_VARIABLE) or None
