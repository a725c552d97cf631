"""Make the keys that are missing, and never touch one that is there; run again after a crash, it ends well."""

import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from twinhost.certificates.layout import SERVER, Identity, Layout, described
from twinhost.certificates.record import DistributionRecord
from twinhost.certificates.survey import enrolled_key, found_keys, is_revoked, is_revoked_fingerprint
from twinhost.certificates.tree_lock import locked
from twinhost.secure_zmq import advice
from twinhost.secure_zmq.certificates import NEXT_SECRET_SUFFIX
from twinhost.secure_zmq.errors import ConfigurationError, KeyFileMissing, KeyMismatch
from twinhost.secure_zmq.key_writer import replace_certificate, write_certificate, write_key_pair
from twinhost.secure_zmq.keys import Certificate, KeyPair, Validity, format_moment, load_certificate, load_key_pair


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done about one identity's key: `created`, `already present`, `not here yet`, `removed`, or `revoked`."""

    identity: Identity
    what: str
    certificate: Certificate | None
    removed: Collection[Path] = ()  # public files that somebody took away, and that stay away


def make_keys(layout: Layout) -> list[Outcome]:
    """Complete the tree and return what was done, identity by identity.

    Raises:
        ConfigurationError: the tree can't be written, or something in it contradicts itself.
    """
    with locked(layout):
        return complete(layout)


def complete(layout: Layout) -> list[Outcome]:
    """Do what `make_keys` does, for who holds the tree already."""
    record = DistributionRecord(layout.root)
    outcomes = [_own_pair(layout, identity) for identity in layout.local]
    outcomes += [Outcome(identity, *_known_certificate(layout, identity)) for identity in layout.remote]
    return [_completed(layout, record, outcome) for outcome in outcomes]


def trust(layout: Layout, certificate: Certificate, source: str) -> Identity:
    """Put a public key into this tree's folders: another host's, or one that was removed from some of them.

    Another host's is valid for as long as keys are valid here, or until the sender's own end where that is earlier.

    Raises:
        ConfigurationError: it is nobody's of the configuration, it is revoked or expired, another key is trusted under
            its name, or the tree can't be written.
        KeyFileMissing: its secret belongs here, and was not made yet.
        KeyMismatch: its secret is here, and has another public half.
    """
    for identity in layout.everybody:
        if identity.owner == certificate.owner:
            if identity in layout.local:
                certificate = _check_own(layout.secret_file(identity), certificate, source)
            require_not_revoked(layout, certificate, source)
            with locked(layout):
                if identity not in layout.local:
                    certificate = _reissued(layout, certificate, source)
                distribute(layout, DistributionRecord(layout.root), identity, certificate)
            return identity
    expected = ", ".join(described(identity.owner) for identity in layout.everybody)
    raise ConfigurationError(
        f"{source} is the key of {described(certificate.owner)}; expected: {expected}; "
        "on mainpc, certs-init accept lets others in"
    )


def _reissued(layout: Layout, certificate: Certificate, source: str) -> Certificate:
    """Return a key with a validity that this machine gave it: the one that it has here already, or a new one."""
    for key in found_keys(layout):
        if _same_key(key.certificate, certificate) and key.certificate.validity.not_after is not None:
            return key.certificate
    here, end = layout.new_validity(), certificate.validity.not_after
    assert here.not_before is not None
    assert here.not_after is not None
    if end is not None and end <= here.not_before:
        raise ConfigurationError(
            f"{source} is the key {certificate.public.fingerprint} of {certificate.owner.name}, which expired "
            f"{format_moment(end)}; get a new one from {certificate.owner.host}"
        )
    end = here.not_after if end is None else min(end, here.not_after)
    return replace(certificate, validity=Validity(here.not_before, end))


def require_not_revoked(layout: Layout, certificate: Certificate, source: str) -> None:
    """Raise ConfigurationError where a key is kept out for ever."""
    if is_revoked(layout, certificate):
        raise ConfigurationError(
            f"{source} is the key {certificate.public.fingerprint} of {certificate.owner.name}, which was revoked "
            "and stays so; make a new one"
        )


def distribute(
    layout: Layout,
    record: DistributionRecord,
    identity: Identity,
    certificate: Certificate,
    but_not: Collection[Path] = (),
) -> None:
    """Put a public key into every folder that lacks it; into none, where one of them holds another that is good.

    A copy without an end, as an older version wrote it, gets the key's end.
    """
    files = [path for path in _public_files(layout, identity) if path not in but_not]
    missing = [path for path in files if not _holds_good_key(layout, path)]
    present = {path: load_certificate(path) for path in files if path not in missing}
    different = [path for path, found in present.items() if not _same_key(found, certificate)]
    if different:
        raise KeyMismatch(
            f"{different[0]} holds another key than {certificate.public.fingerprint} for {identity.owner.name}; where "
            f"that is the wrong one, remove the wrong one by hand: {advice.to_remove(*different)}, then run this again"
        )
    if certificate.validity.not_after is not None:
        missing += [path for path, found in present.items() if found.validity.not_after is None]
    for path in missing:
        if os.path.lexists(path):
            replace_certificate(certificate, path)
        else:
            write_certificate(certificate, path)
    record.add(files, certificate)  # last: a run that is killed before it leaves files that the next one finds


def _check_own(secret_file: Path, certificate: Certificate, source: str) -> Certificate:
    own = load_key_pair(secret_file).certificate
    if not _same_key(certificate, own):
        raise KeyMismatch(
            f"{source} holds another key than {secret_file}, {own.public.fingerprint}; "
            "give it the output of: certs-init public KEY"
        )
    return own


def _same_key(one: Certificate, other: Certificate) -> bool:
    return (one.owner, one.public) == (other.owner, other.public)


def _own_pair(layout: Layout, identity: Identity) -> Outcome:
    secret_file = layout.secret_file(identity)
    if os.path.lexists(secret_file):  # a dangling link too is for the loader to refuse, and not to write through
        pair = load_key_pair(secret_file)
        if pair.certificate.owner != identity.owner:
            raise KeyMismatch(f"{secret_file} is not the key of {identity.owner.name}; run certs-init verify")
        revoked = is_revoked(layout, pair.certificate)
        return Outcome(identity, "revoked" if revoked else "already present", pair.certificate)
    _require_free(layout, identity, secret_file)
    pair = KeyPair.generate(identity.owner, layout.new_validity())
    if not write_key_pair(pair, secret_file):
        raise KeyMismatch(f"{secret_file} was made by somebody else just now; run certs-init again")
    return Outcome(identity, "created", pair.certificate)


def _require_free(layout: Layout, identity: Identity, secret_file: Path) -> None:
    following = secret_file.with_name(f"{identity.stem}{NEXT_SECRET_SUFFIX}")
    if os.path.lexists(following):
        raise KeyFileMissing(
            f"{secret_file} is missing and {following} is of a certs-init join that was interrupted: run join again "
            f"with the same line, or remove that file: {advice.to_remove(following)}"
        )
    if any(map(os.path.lexists, layout.public_files(identity))):
        raise KeyFileMissing(told_of_lost_secret(layout, identity))
    enrolled = enrolled_key(layout, identity)
    if enrolled is not None:
        raise KeyFileMissing(
            f"{secret_file} is missing, and {identity.owner.name} enrolled with {enrolled.public.fingerprint} from "
            "another machine: set TWINHOST_HOST in .env to the host that this one is, or revoke that key: "
            f"{advice.certs_init(secret_file, 'revoke', identity.owner.name)}"
        )


def told_of_lost_secret(layout: Layout, identity: Identity) -> str:
    """Return what to do about a secret that is missing while its public half is in the tree."""
    secret_file, owner = layout.secret_file(identity), identity.owner
    public_files = [path for path in layout.public_files(identity) if os.path.lexists(path)]
    make, revoke = advice.certs_init(secret_file), advice.certs_init(secret_file, "revoke", owner.name)
    if owner.name == SERVER:
        new = f"make a new key, which every other machine then needs by hand; run: {advice.to_remove(*public_files)}, "
        new += f"then: {make}"
    elif layout.server_folder is not None:
        new = f"make a new key; run: {revoke}, then: {make}"
    else:
        invite = f"certs-init invite {owner.name} --host {owner.host} --role {' --role '.join(sorted(owner.roles))}"
        join = advice.certs_init(secret_file, "join", "-", piped=True)
        new = f"enrol a new key; on mainpc: certs-init revoke {owner.name}, and {invite}, then here: {join}"
    return f"{secret_file} is missing and {public_files[0]} is there: restore the secret from a backup, or {new}"


def _known_certificate(layout: Layout, identity: Identity) -> tuple[str, Certificate | None]:
    what = "not here yet"
    for path in layout.public_files(identity):
        if os.path.lexists(path):
            certificate = load_certificate(path)
            if certificate.owner != identity.owner:
                raise KeyMismatch(f"{path} is not the key of {identity.owner.name}; run certs-init verify")
            if not is_revoked(layout, certificate):
                return "already present", certificate
            what = "revoked"
    enrolled = enrolled_key(layout, identity)
    return ("already present", enrolled) if enrolled is not None else (what, None)


def _completed(layout: Layout, record: DistributionRecord, outcome: Outcome) -> Outcome:
    """Distribute a key to the folders that never had it, and say which ones had it and lost it.

    An identity's own folder is no exception: its public key there lets its holder in too, and whoever removes every
    copy of a key that leaked means all of them. The secret beside it is enough to bring it back.
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
    """Return where an identity's public key belongs; not twice to SystemDigitalTwin, which has a list of its own."""
    enrolled = enrolled_key(layout, identity) is not None
    return [path for path in layout.public_files(identity) if not (enrolled and path.parent == layout.server_folder)]


def _holds_good_key(layout: Layout, path: Path) -> bool:
    """Return whether a file is in its place; one with a revoked key, which lets nobody in, is in the way."""
    return os.path.lexists(path) and not is_revoked(layout, load_certificate(path))
