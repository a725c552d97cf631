"""`certs-init`, `certs-init make`: what was made, what lies where, and what is missing from whom."""

import argparse
from collections.abc import Sequence

from twinhost.certificates.commands.command import RUN, RUN_PIPED, Commands, Tree, add_command, add_days
from twinhost.certificates.generate import Outcome, make_keys
from twinhost.certificates.layout import Layout
from twinhost.certificates.record import told_removed
from twinhost.certificates.terminal import say

_TRUST = f"{RUN_PIPED} trust -"


def add(commands: Commands) -> None:
    """Put the command on the command line."""
    add_days(add_command(commands, "make", run, "make the keys that are missing, and overwrite none (the default)"))


def run(options: argparse.Namespace, tree: Tree) -> int:
    """Make the keys."""
    layout = tree.lasting(getattr(options, "days", None)).layout
    outcomes = make_keys(layout)
    for outcome in outcomes:
        owner = outcome.identity.owner
        fingerprint = outcome.certificate.public.fingerprint if outcome.certificate else "-"
        say(f"{outcome.identity.stem:<10} {owner.name:<28} {owner.host:<8} {outcome.what:<16} {fingerprint}")
    say()
    _say_what_lies_where(layout, outcomes)
    for outcome in outcomes:
        _say_what_to_do(layout, outcome)
    return 0


def _say_what_lies_where(layout: Layout, outcomes: Sequence[Outcome]) -> None:
    for folder in layout.folders:
        secret = next(identity for identity in layout.local if identity.folder == folder.name)
        files = [layout.public_file(folder, outcome.identity) for outcome in outcomes]
        public = ", ".join(path.name for path in files if path.exists())
        say(f"{folder}: {secret.stem}.key_secret (stays there, mode 0600); public: {public}")


def _say_what_to_do(layout: Layout, outcome: Outcome) -> None:
    stem, owner = outcome.identity.stem, outcome.identity.owner
    if outcome.what == "revoked":
        say(f"\nThe key of {owner.name} on {owner.host} was revoked, and stays so: nobody lets it in.")
        roles = " ".join(f"--role {role}" for role in sorted(owner.roles))
        local = outcome.identity in layout.local
        say(
            f"For a new one: {RUN} "
            + (f"replace {owner.name}" if local else f"invite {owner.name} --host {owner.host} {roles}")
        )
        return
    if outcome.removed:
        say()
    for path in outcome.removed:
        say(told_removed(path, outcome.identity))
    if outcome.removed and outcome.certificate is not None:
        say(f"To bring it back: {RUN_PIPED} public {stem} | {_TRUST}")
    if outcome.certificate is None:
        yet = "any more" if outcome.removed else "yet"
        say(f"\n{owner.name} on {owner.host} is not known here {yet}. There: {RUN_PIPED}")
        say(f"public {stem} > {stem}.key  Here: {_TRUST} < {stem}.key")
