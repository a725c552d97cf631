"""`certs-init revoke` and `replace`: a key is kept out for ever, and another one takes its place."""

import argparse

from certificate_tree.admission import pending
from certificate_tree.commands.command import RUN, Commands, Tree, add_command, add_days
from certificate_tree.layout import described
from certificate_tree.revoke import Target, replace_revoked, revoke
from certificate_tree.terminal import note, say


def add(commands: Commands) -> None:
    """Put the commands on the command line."""
    revoking = add_command(commands, "revoke", run_revoke, "on mainpc: keep a key out, at once and for ever")
    revoking.add_argument("whom", metavar="NAME|SHA256:...", help="whose keys, or the one of a fingerprint")
    replacing = add_command(
        commands, "replace", run_replace, "make a new key in the place of a revoked one of this tree"
    )
    replacing.add_argument("name", metavar="NAME", help="whose key")
    add_days(replacing)


def run_revoke(options: argparse.Namespace, tree: Tree) -> int:
    """Say which keys are kept out from now on, and which were already."""
    done = revoke(tree.layout, options.whom)
    for target in done.revoked:
        say(f"revoked: {_told(target)}")
    for target in done.before:
        say(f"revoked before: {_told(target)}")
    for path in done.removed:
        say(f"removed: {path}")
    names = {t.certificate.owner.name for t in (*done.revoked, *done.before) if t.certificate is not None}
    for one in pending(tree.layout):
        if one.certificate.owner.name in names:
            note(f"certs-init: {one.certificate.owner.name} has an open {one.what}; to end it: certs-init reject NAME")
    local = [identity.owner.name for identity in tree.layout.local if identity.owner.name in names]
    for name in local:
        note(f"Its secret is in this tree; for a new key: {RUN} replace {name}")
    return 0


def run_replace(options: argparse.Namespace, tree: Tree) -> int:
    """Say which key it is now."""
    pair = replace_revoked(tree.lasting(options.days).layout, options.name)
    say(f"{described(pair.certificate.owner)} has the key {pair.public.fingerprint} now")
    note("Other machines learn of it from mainpc; an agent of this one takes it up by itself, or at its next start.")
    return 0


def _told(target: Target) -> str:
    if target.certificate is None:
        return f"{target.fingerprint}, which nobody here is known by"
    return f"{target.fingerprint} {described(target.certificate.owner)}"
