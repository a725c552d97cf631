"""`certs-init rotate`: another key in the place of one that is in use, while it is in use."""

import argparse

from twinhost.certificates.commands.command import Commands, Tree, add_command, add_days
from twinhost.certificates.rotation.client import rotate_client
from twinhost.certificates.rotation.server import rotate_server
from twinhost.certificates.terminal import say


def add(commands: Commands) -> None:
    """Put the command on the command line."""
    rotating = add_command(
        commands, "rotate", run_server, "change a key without downtime; a run that was killed is run again"
    )
    kinds = rotating.add_subparsers(dest="kind", metavar="server|client", required=True)
    add_days(add_command(kinds, "server", run_server, "on mainpc: another key for SystemDigitalTwin"))
    client = add_command(kinds, "client", run_client, "where its secret is: another key for anybody else")
    client.add_argument("name", metavar="NAME", help="whose key, an agent's or operator")
    add_days(client)


def run_server(options: argparse.Namespace, tree: Tree) -> int:
    """Rotate SystemDigitalTwin's key, and tell every step."""
    lasting = tree.lasting(options.days)
    rotate_server(lasting.layout, lasting.config, say)
    return 0


def run_client(options: argparse.Namespace, tree: Tree) -> int:
    """Rotate somebody else's key, and tell every step."""
    lasting = tree.lasting(options.days)
    rotate_client(lasting.layout, lasting.config, options.name, say)
    return 0
