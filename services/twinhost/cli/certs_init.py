"""certs-init: make the CURVE keys, enrol machines, rotate, revoke, and verify.

Compose runs it, without arguments, before everything else: the parser and the other commands are imported where there
are arguments.
"""

import atexit
import gc
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from twinhost.certificates.generate import make_keys, report
from twinhost.certificates.layout import only_host, plan_layout
from twinhost.certificates.tree import forget_failure, record_failure
from twinhost.network_config import load_network_config
from twinhost.secure_zmq.certificates import certificates_folder
from twinhost.secure_zmq.errors import TwinhostError

PROGRAM = "certs-init"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0 for success, 1 for a failure, 2 for a usage error."""
    if arguments is None:  # as the process that was started for it
        atexit.register(gc.freeze)  # what the last garbage collections would look for ends with the process
    words = sys.argv[1:] if arguments is None else arguments
    if words:
        from twinhost.cli.certs_commands import commands  # noqa: PLC0415 - takes longer than the keys
        from twinhost.cli.standalone import run  # noqa: PLC0415

        return run(commands, PROGRAM, words)
    try:
        make(certificates_folder())
    except TwinhostError as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return 1
    return 0


def make(root: Path, days: int | None = None) -> None:
    """Make the keys that are missing, and print what was done; record a failure in the tree, for the cli.

    Args:
        root: the tree.
        days: how long a new key is valid; None for the configuration's key_lifetime_days.

    Raises:
        TwinhostError: the configuration or the tree is invalid.
    """
    try:
        layout = plan_layout(root, load_network_config(), only_host())
        if days is not None:
            layout = replace(layout, lifetime_days=days)
        for line in report(layout, make_keys(layout)):
            sys.stdout.write(f"{line}\n")
    except TwinhostError as error:
        record_failure(root, str(error), only_host())
        raise
    forget_failure(root)


if __name__ == "__main__":
    sys.exit(main())
