"""`certs-init revoke` and `replace`: a key is revoked for ever, and another one takes its place."""

import argparse

from twinhost.certificates.acknowledgement import WITHIN_S, wait_until_acknowledged
from twinhost.certificates.admission import pending
from twinhost.certificates.commands.command import RUN, Commands, Tree, add_command, add_days
from twinhost.certificates.layout import described
from twinhost.certificates.revoke import Revocation, Target, replace_revoked, revoke
from twinhost.certificates.terminal import note, say


def add(commands: Commands) -> None:
    """Put the commands on the command line."""
    revoking = add_command(
        commands, "revoke", run_revoke, "on mainpc: revoke a key for ever, and wait until every host refuses it"
    )
    revoking.add_argument("whom", metavar="NAME|SHA256:...", help="whose keys, or the one of a fingerprint")
    revoking.add_argument(
        "--only", action="store_true", help="keep the keys that the one of the fingerprint vouched for by rotations"
    )
    replacing = add_command(
        commands, "replace", run_replace, "make a new key in the place of a revoked one of this tree"
    )
    replacing.add_argument("name", metavar="NAME", help="whose key")
    add_days(replacing)


def run_revoke(options: argparse.Namespace, tree: Tree) -> int:
    """Say which keys are revoked, and which hosts refuse them; return 1 where one may still accept them."""
    done = revoke(tree.layout, options.whom, only=options.only)
    for target in done.revoked:
        say(f"revoked: {_told(target)}")
    for target in done.before:
        say(f"revoked before: {_told(target)}")
    for path in done.removed:
        say(f"removed: {path}")
    for target in done.others:
        say(f"not revoked: {_told(target)}; to revoke it too: certs-init revoke {target.fingerprint}")
    proven = _say_hosts(tree, done)
    names = {t.certificate.owner.name for t in (*done.revoked, *done.before) if t.certificate is not None}
    for one in pending(tree.layout):
        if one.certificate.owner.name in names:
            note(f"certs-init: {one.certificate.owner.name} has an open {one.what}; to end it: certs-init reject NAME")
    local = [identity.owner.name for identity in tree.layout.local if identity.owner.name in names]
    for name in local:
        note(f"Its secret is in this tree; for a new key: {RUN} replace {name}")
    for sentence in done.failures:
        note(f"certs-init: {sentence}")
    return 0 if proven and not done.failures else 1


def _say_hosts(tree: Tree, done: Revocation) -> bool:
    """Print a line for each host; return whether none may accept the revoked keys any more."""
    targets = (*done.revoked, *done.before)
    if not targets:
        return False
    certificates = [target.certificate for target in targets if target.certificate is not None]
    fingerprints = [target.fingerprint for target in targets]
    answers = wait_until_acknowledged(tree.layout, tree.config, fingerprints, certificates)
    for answer in answers:
        say(f"{answer.host}: {'NOT ACKNOWLEDGED: ' if answer.missing else ''}{answer.sentence}")
    if missing := sorted({answer.host for answer in answers if answer.missing}):
        note(
            f"certs-init: {', '.join(missing)} did not acknowledge the revocation within {WITHIN_S:g} s and may still "
            "accept the key; to ask again, run the same command again"
        )
    return not missing


def run_replace(options: argparse.Namespace, tree: Tree) -> int:
    """Say which key it is now."""
    pair = replace_revoked(tree.lasting(options.days).layout, options.name)
    say(f"{described(pair.certificate.owner)} has the key {pair.public.fingerprint} now")
    note("Other machines learn of it from mainpc; an agent of this one takes it up by itself, or at its next start.")
    return 0


def _told(target: Target) -> str:
    whose = "of nobody known here" if target.certificate is None else described(target.certificate.owner)
    vouched = "" if target.voucher is None else f", which {target.voucher} vouched for"
    return f"{target.fingerprint} {whose}{vouched}"
