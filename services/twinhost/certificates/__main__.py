"""The command of certs-init: make keys, verify them, let machines in, and keep keys out."""

import sys
from collections.abc import Sequence

from twinhost.certificates.arguments import HOST_VARIABLE, only_host, parser
from twinhost.certificates.commands import make
from twinhost.certificates.commands.command import Tree
from twinhost.certificates.failure import forget_failure, record_failure
from twinhost.certificates.layout import plan_layout
from twinhost.network_config import load_network_config
from twinhost.secure_zmq.errors import TwinhostError

__all__ = ["HOST_VARIABLE", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0 where all is well, 1 where something is wrong, 2 for a wrong usage."""
    options = parser().parse_args(arguments)
    makes_keys = options.run is make.run
    try:
        config = load_network_config()
        status: int = options.run(options, Tree(plan_layout(options.root, config, only_host()), config))
    except TwinhostError as error:
        sys.stderr.write(f"certs-init: {error}\n")
        if makes_keys:
            record_failure(options.root, str(error), only_host())
        return 1
    if makes_keys:
        forget_failure(options.root)
    return status


if __name__ == "__main__":
    sys.exit(main())
