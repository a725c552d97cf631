"""`certs-init export-host`: a machine that is provisioned by hand gets its folder."""

import argparse
import sys
from pathlib import Path

from twinhost.certificates.commands.command import RUN, Commands, Tree, add_command
from twinhost.certificates.export import as_tar, copy_to, make_host_folder
from twinhost.certificates.terminal import note
from twinhost.secure_zmq.errors import ConfigurationError


def add(commands: Commands) -> None:
    """Put the command on the command line."""
    exporting = add_command(
        commands, "export-host", run, "make a host's keys here, and write its folder as a tar to standard output"
    )
    exporting.add_argument("host", metavar="HOST", help="as in network_config.yaml")
    exporting.add_argument("--to", type=Path, metavar="DIR", help="lay the folder out below DIR in its place")


def run(options: argparse.Namespace, tree: Tree) -> int:
    """Write the folder; warn that a secret travels."""
    if options.to is None and sys.stdout.isatty():
        raise ConfigurationError("a tar on a terminal is of no use; redirect it into a file, or give --to DIR")
    folder = make_host_folder(tree.layout, tree.config, options.host)
    if options.to is not None:
        note(f"{copy_to(folder, options.to)} is written")
    else:
        sys.stdout.buffer.write(as_tar(folder))
        sys.stdout.buffer.flush()
    note(f"Warning: the secret of {options.host} was made here and travels; whoever reads it can be that host.")
    note(f"With invite here and join there it would never leave: {RUN} invite NAME --host {options.host} --role ROLE")
    if folder not in tree.layout.folders:
        note(f"Once it is there, remove {folder} here.")
    return 0
