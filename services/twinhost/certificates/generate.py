"""Make the keys that are missing, and change none that is there; a run after a crash completes the tree."""

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from twinhost.certificates.layout import SERVER, Identity, Layout, enrolment_arguments, to_replace
from twinhost.certificates.records import DistributionRecord, removal_notice
from twinhost.certificates.tree import enrolled_key, is_revoked, is_revoked_fingerprint, locked
from twinhost.commands import CERTS_INIT_PIPED, remove_command
from twinhost.secure_zmq.errors import ConfigurationError, KeyFileMissing, KeyMismatch
from twinhost.secure_zmq.key_writer import replace_certificate, write_certificate, write_key_pair
from twinhost.secure_zmq.keys import Certificate, KeyPair, load_certificate, load_key_pair


@dataclass(frozen=True, slots=True)
class KeyPresence:
    """What was done about one identity's key: `created`, `already present`, `not here yet`, `removed`, or `revoked`."""

    identity: Identity
    what: str
    certificate: Certificate | None
    removed: Collection[Path] = ()  # public files that somebody removed, and that stay removed


def make_keys(layout: Layout) -> list[KeyPresence]:
    """Complete the tree and return what was done, identity by identity.

    Raises:
        ConfigurationError: the tree can't be written, or two of its files contradict each other.
    """
    with locked(layout):
        return complete(layout)


def complete(layout: Layout) -> list[KeyPresence]:
    """Do what `make_keys` does, for a caller that holds the tree's lock."""
    record = DistributionRecord(layout.root)
    outcomes = [_own_pair(layout, identity) for identity in layout.local]
    outcomes += [KeyPresence(identity, *_known_certificate(layout, identity)) for identity in layout.remote]
    return [_completed(layout, record, outcome) for outcome in outcomes]


def report(layout: Layout, outcomes: Sequence[KeyPresence]) -> Iterator[str]:
    """Yield the lines that say what was done, what lies where, and what is to be done."""
    for outcome in outcomes:
        owner = outcome.identity.owner
        fingerprint = outcome.certificate.public.fingerprint if outcome.certificate else "-"
        yield f"{outcome.identity.stem:<10} {owner.name:<28} {owner.host:<8} {outcome.what:<16} {fingerprint}"
    yield ""
    for folder in layout.folders:
        secret = next(identity for identity in layout.local if identity.folder == folder.name)
        files = [layout.public_file(folder, outcome.identity) for outcome in outcomes]
        public = ", ".join(path.name for path in files if path.exists())
        yield f"{folder}: {secret.stem}.key_secret (stays there, mode 0600); public: {public}"
    for outcome in outcomes:
        yield from _next_steps(layout, outcome)


def _next_steps(layout: Layout, outcome: KeyPresence) -> Iterator[str]:
    identity, owner = outcome.identity, outcome.identity.owner
    if outcome.what == "revoked":
        yield f"\nThe key of {owner.name} on {owner.host} was revoked permanently: no host accepts it."
        yield f"For a new one, {to_replace(layout, owner, revoked=True)}"
        return
    public, trust = f"{CERTS_INIT_PIPED} public {identity.stem}", f"{CERTS_INIT_PIPED} trust -"
    if outcome.removed:
        yield ""
        yield from (removal_notice(path, identity) for path in outcome.removed)
        if outcome.certificate is not None:
            yield f"To restore it: {public} | {trust}"
    if outcome.certificate is None:
        yet = "any more" if outcome.removed else "yet"
        yield f"\n{owner.name} on {owner.host} is not known here {yet}."
        yield f"On {owner.host}: {public} > {identity.stem}.key  Here: {trust} < {identity.stem}.key"


def require_not_revoked(layout: Layout, certificate: Certificate, source: str) -> None:
    """Raise ConfigurationError where a key is revoked."""
    if is_revoked(layout, certificate):
        raise ConfigurationError(
            f"{source} is the key {certificate.public.fingerprint} of {certificate.owner.name}, which was revoked "
            "permanently; make a new one"
        )


def distribute(
    layout: Layout,
    record: DistributionRecord,
    identity: Identity,
    certificate: Certificate,
    but_not: Collection[Path] = (),
) -> None:
    """Put a public key into every folder that lacks it; into none where one of them has another, unrevoked key.

    A copy without an end gets the key's end.
    """
    files = [path for path in _public_files(layout, identity) if path not in but_not]
    missing = [path for path in files if not _holds_good_key(layout, path)]
    present = {path: load_certificate(path) for path in files if path not in missing}
    different = [path for path, copy in present.items() if not is_same_key(copy, certificate)]
    if different:
        raise KeyMismatch(
            f"{different[0]} holds another key than {certificate.public.fingerprint} for {identity.owner.name}; if "
            f"the file is wrong, remove it by hand: {remove_command(*different)}, then run this again"
        )
    if certificate.validity.not_after is not None:
        missing += [path for path, copy in present.items() if copy.validity.not_after is None]
    for path in missing:
        if os.path.lexists(path):
            replace_certificate(certificate, path)
        else:
            write_certificate(certificate, path)
    record.add(files, certificate)  # last: a run that is killed before it leaves files that the next one finds


def is_same_key(one: Certificate, other: Certificate) -> bool:
    return (one.owner, one.public) == (other.owner, other.public)


def _own_pair(layout: Layout, identity: Identity) -> KeyPresence:
    secret_file = layout.secret_file(identity)
    if os.path.lexists(secret_file):  # the loader refuses a dangling link; nothing is written through it
        pair = load_key_pair(secret_file)
        if pair.certificate.owner != identity.owner:
            raise KeyMismatch(f"{secret_file} is not the key of {identity.owner.name}; run: {layout.command('verify')}")
        revoked = is_revoked(layout, pair.certificate)
        return KeyPresence(identity, "revoked" if revoked else "already present", pair.certificate)
    if identity.owner.name in layout.standbys:  # it comes from the agent's machine: a second one would be another agent
        return KeyPresence(identity, *_known_certificate(layout, identity))
    _require_free(layout, identity, secret_file)
    pair = KeyPair.generate(identity.owner, layout.new_validity())
    if not write_key_pair(pair, secret_file):
        raise KeyMismatch(f"another process made {secret_file} at the same time; run again: {layout.command()}")
    return KeyPresence(identity, "created", pair.certificate)


def _require_free(layout: Layout, identity: Identity, secret_file: Path) -> None:
    following = layout.next_secret_file(identity)
    if os.path.lexists(following):
        raise KeyFileMissing(
            f"{secret_file} is missing and {following} belongs to an interrupted join: run join again with the same "
            f"line, or remove that file: {remove_command(following)}"
        )
    if any(map(os.path.lexists, layout.public_files(identity))):
        raise KeyFileMissing(how_to_recover_secret(layout, identity))
    if (enrolled := enrolled_key(layout, identity)) is not None:
        raise KeyFileMissing(
            f"{secret_file} is missing, and {identity.owner.name} enrolled with {enrolled.public.fingerprint} from "
            "another machine: set TWINHOST_HOST in .env to the host that this one is, or revoke that key: "
            f"{layout.command('revoke', identity.owner.name)}"
        )


def how_to_recover_secret(layout: Layout, identity: Identity) -> str:
    """Return what to do about a secret that is missing, while its public half is in the tree."""
    secret_file, owner = layout.secret_file(identity), identity.owner
    public_files = [path for path in layout.public_files(identity) if os.path.lexists(path)]
    make, revoke = layout.command(), layout.command("revoke", owner.name)
    if owner.name == SERVER:
        new = f"make a new key, which every other machine then needs by hand; run: {remove_command(*public_files)}, "
        new += f"then: {make}"
    elif layout.server_folder is not None:
        new = f"make a new key; run: {revoke}, then: {make}"
    else:
        invite = layout.command("invite", *enrolment_arguments(owner))
        join = layout.command("join", "-", piped=True)
        new = f"enrol a new key; on mainpc: {revoke}, and {invite}, then here: {join}"
    return f"{secret_file} is missing and {public_files[0]} is there: restore the secret from a backup, or {new}"


def _known_certificate(layout: Layout, identity: Identity) -> tuple[str, Certificate | None]:
    what = "not here yet"
    for path in layout.public_files(identity):
        if os.path.lexists(path):
            certificate = load_certificate(path)
            if certificate.owner != identity.owner:
                raise KeyMismatch(f"{path} is not the key of {identity.owner.name}; run: {layout.command('verify')}")
            if not is_revoked(layout, certificate):
                return "already present", certificate
            what = "revoked"
    enrolled = enrolled_key(layout, identity)
    return ("already present", enrolled) if enrolled is not None else (what, None)


def _completed(layout: Layout, record: DistributionRecord, outcome: KeyPresence) -> KeyPresence:
    """Distribute a key to the folders that never had it, and say from which ones it was removed.

    An identity's own folder is no exception: its public key there authorises its holder too, and whoever removes every
    copy of a key that leaked means all of them. The secret beside it is enough to restore it.
    """
    if outcome.what == "revoked":
        return outcome
    gone = [path for path in _public_files(layout, outcome.identity) if not os.path.lexists(path)]
    removed = [path for path in gone if record.was_distributed(path, outcome.certificate)]
    if outcome.certificate is not None:
        distribute(layout, record, outcome.identity, outcome.certificate, but_not=removed)
    elif removed:
        known = [fingerprint for path in removed for fingerprint in record.fingerprints(path)]
        if all(is_revoked_fingerprint(layout, fingerprint) for fingerprint in known):
            return replace(outcome, what="revoked")
        return replace(outcome, what="removed", removed=removed)
    return replace(outcome, removed=removed)


def _public_files(layout: Layout, identity: Identity) -> list[Path]:
    """Return where an identity's public key belongs; not into SystemDigitalTwin's folder where it has enrolled."""
    enrolled = enrolled_key(layout, identity) is not None
    return [path for path in layout.public_files(identity) if not (enrolled and path.parent == layout.server_folder)]


def _holds_good_key(layout: Layout, path: Path) -> bool:
    """Return whether a file is in place and holds a key that is not revoked; a revoked one is overwritten."""
    return os.path.lexists(path) and not is_revoked(layout, load_certificate(path))
