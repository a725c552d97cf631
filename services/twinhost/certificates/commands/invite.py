"""`certs-init invite` and `join`: a machine comes in over the network, by a line that is good once."""

import argparse
import os
from collections.abc import Mapping

from twinhost.certificates.admission import invite
from twinhost.certificates.commands.command import (
    RUN,
    RUN_PIPED,
    Commands,
    Tree,
    add_command,
    add_owner,
    bounded,
    owner_of,
)
from twinhost.certificates.invitation import MAX_LINE_CHARACTERS, parse_invitation
from twinhost.certificates.join import join
from twinhost.certificates.layout import SERVER, described
from twinhost.certificates.terminal import note, read_line_of_standard_input, say
from twinhost.network_config.load import ADDRESS_VARIABLES, PUBLISH_VARIABLE
from twinhost.network_config.model import is_loopback
from twinhost.secure_zmq.validity import format_moment

DEFAULT_MINUTES = 15
MAX_MINUTES = 7 * 24 * 60


def add(commands: Commands) -> None:
    """Put the commands on the command line."""
    inviting = add_command(
        commands, "invite", run_invite, "on mainpc: print a line by which one new machine can join, once"
    )
    add_owner(inviting)
    inviting.add_argument(
        "--minutes",
        type=bounded(MAX_MINUTES),
        default=DEFAULT_MINUTES,
        metavar="N",
        help="how long the line is good (default: %(default)s)",
    )
    inviting.add_argument(
        "--again", action="store_true", help="withdraw the open invitation of that name, and print a new line for it"
    )
    joining = add_command(
        commands, "join", run_join, "on the new machine: make its key here, and enrol it with mainpc by that line"
    )
    joining.add_argument(
        "line", nargs="?", default="-", metavar="LINE", help="what invite printed; - or none reads standard input"
    )
    joining.add_argument("--replace", action="store_true", help="put the new key in the place of one that is here")


def run_invite(options: argparse.Namespace, tree: Tree) -> int:
    """Print the line alone."""
    owner = owner_of(options)
    invitation = invite(tree.layout, tree.config, owner, options.minutes, again=options.again)
    say(invitation.render())
    note(
        f"It lets one machine in as {described(owner)}, until {format_moment(invitation.not_after)}; it is shown once."
    )
    note(f"There: {RUN_PIPED} join -   with the line on standard input. To withdraw it: {RUN} reject {owner.name}")
    note(f"To see open invitations: {RUN} pending   To print a new line in place of this one: the same with --again")
    if options.again:
        note("The line before is withdrawn.")
    if owner.host != tree.layout.server_host and (variables := _to_be_set(tree)):
        note(
            f"Warning: another machine can't reach {invitation.authority}; for one that is not this, set "
            f"{' and '.join(variables)} in .env to an address of this machine that it reaches, start mainpc again, and "
            "repeat this with --again."
        )
    if owner.host not in tree.config.hosts:
        note(f"{tree.config.source} has no host {owner.host}: nobody else can call an agent there.")
    return 0


def _to_be_set(tree: Tree, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the variables without which no other machine reaches mainpc."""
    host = tree.config.agent(SERVER).host
    variable = ADDRESS_VARIABLES.get(host.name)
    by_default = variable is not None and not environment.get(variable) and not set(host.address) & set(".:")
    return [
        *([variable] if variable is not None and (by_default or is_loopback(host.address)) else []),
        *([PUBLISH_VARIABLE] if is_loopback(environment.get(PUBLISH_VARIABLE, "")) else []),
    ]


def run_join(options: argparse.Namespace, tree: Tree) -> int:
    """Enrol, and say what lies where."""
    line = options.line
    if line == "-":
        line = read_line_of_standard_input("The line that invite printed: ", MAX_LINE_CHARACTERS + 2)
    layout = tree.layout
    joined = join(layout, parse_invitation(line), may_replace=options.replace)
    certificate, owner = joined.certificate, joined.certificate.owner
    how = "had joined already" if joined.already else "has joined"
    say(f"{owner.name} on {owner.host} {how} as {certificate.public.fingerprint}")
    if certificate.validity.not_after is not None:
        say(f"The key is good until {format_moment(certificate.validity.not_after)}.")
    say(f"SystemDigitalTwin is trusted as {joined.server_key.fingerprint}")
    path = layout.secret_file(joined.place)
    say(f"{path.parent}: {path.name} (made here, stays here, mode 0600) and the public keys that mainpc knows")
    return 0
