"""Keep keys out for ever: first the markers, SystemDigitalTwin's first of all, then the public files go."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from certificate_tree.admission import server_folder
from certificate_tree.generate import complete
from certificate_tree.layout import SERVER, Identity, Layout
from certificate_tree.place import discard_next, install_secret, secret_path
from certificate_tree.record import DistributionRecord
from certificate_tree.survey import FoundKey, found_keys, is_revoked, keys_in, own_folders, own_pairs, revoked_folders
from certificate_tree.tree_lock import fsync_folder, locked
from secure_zmq.errors import ConfigurationError
from secure_zmq.key_folders import INVITES_FOLDER, REVOKED_FOLDER
from secure_zmq.key_writer import revoked_file_name, write_revocation, write_revoked_fingerprint
from secure_zmq.keys import Certificate, KeyPair, load_key_pair

_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}=?")


@dataclass(frozen=True, slots=True)
class Target:
    """A key that is to be kept out; nothing but the fingerprint may be known of it."""

    fingerprint: str
    certificate: Certificate | None


@dataclass(frozen=True, slots=True)
class Revocation:
    """What was done: the keys that were not kept out before, those that were, and the files that went."""

    revoked: Sequence[Target]
    before: Sequence[Target]
    removed: Sequence[Path]


def revoke(layout: Layout, whom: str) -> Revocation:
    """Keep out every key of a name, or the one of a fingerprint; run again, it finishes what a killed run began.

    Raises:
        ConfigurationError: nobody has that name, or it is SystemDigitalTwin.
    """
    server_folder(layout, "revoke")
    revoked: list[Target] = []
    before: list[Target] = []
    removed: list[Path] = []
    with locked(layout):
        targets = _targets(layout, whom)
        while targets:  # SystemDigitalTwin may have let another key of that name in meanwhile
            for target in targets:
                (before if _kept_out(layout, target) else revoked).append(target)
                _keep_out(layout, target)
            removed += _remove_public_files(layout, {target.fingerprint for target in targets})
            targets = [target for target in _named(_present(layout), whom) if target not in (*revoked, *before)]
    return Revocation(revoked, before, removed)


def replace_revoked(layout: Layout, name: str) -> KeyPair:
    """Make a new pair in the place of a revoked one whose secret is here, and distribute its public half.

    Raises:
        ConfigurationError: its secret is not made here, or is not revoked.
    """
    identity = next((one for one in layout.local if name in (one.owner.name, one.stem)), None)
    if identity is None:
        here = ", ".join(one.owner.name for one in layout.local)
        raise ConfigurationError(
            f"the secret of {name!r} is not made in this tree, which has those of: {here}; for another machine: "
            f"certs-init invite {name}, and there certs-init join --replace"
        )
    with locked(layout):
        pair = load_key_pair(secret_path(layout, identity))
        if is_revoked(layout, pair.certificate):
            _require_nobody_else(layout, identity)
            pair = KeyPair.generate(identity.owner, layout.new_validity())
            discard_next(layout, identity)
            install_secret(layout, identity, pair)
        elif _was_distributed(layout, identity, pair.certificate):
            raise ConfigurationError(
                f"the key {pair.public.fingerprint} of {name} is not revoked, and stays; "
                f"to change it: certs-init rotate client {name}"
            )
        complete(layout)
    return pair


def _require_nobody_else(layout: Layout, identity: Identity) -> None:
    """Raise ConfigurationError where the name has a key; the public half that a killed run left does not count."""
    own = layout.public_file(layout.root / identity.folder, identity)
    for key in found_keys(layout):
        certificate = key.certificate
        mine = certificate.owner.name == identity.owner.name and key.path != own
        if mine and not is_revoked(layout, certificate):
            raise ConfigurationError(
                f"{identity.owner.name} has a key already, {certificate.public.fingerprint}, made elsewhere; "
                f"revoke it first: certs-init revoke {identity.owner.name}"
            )


def _was_distributed(layout: Layout, identity: Identity, certificate: Certificate) -> bool:
    """Return whether every folder got a key; where none did, a run that made it was killed."""
    record = DistributionRecord(layout.root)
    return any(record.was_distributed(path, certificate) for path in layout.public_files(identity))


def _targets(layout: Layout, whom: str) -> list[Target]:
    present, gone = _present(layout), _revoked_by_hand(layout)
    if _FINGERPRINT.fullmatch(whom):
        whom = whom.removesuffix("=")
        revoked_file_name(whom)
        targets = [Target(whom, (gone | _invited(layout) | present).get(whom))]
    else:
        targets = _named(present, whom) or _named(gone, whom)
    if whom == SERVER or any(t.certificate is not None and t.certificate.owner.name == SERVER for t in targets):
        raise ConfigurationError(
            f"without its key {SERVER} is nobody, and no revocation could be told; use: certs-init rotate server"
        )
    if not targets:
        names = sorted({certificate.owner.name for certificate in present.values()} - {SERVER})
        raise ConfigurationError(f"nobody here is named {whom!r}; there are: {', '.join(names) or 'none'}")
    return targets


def _named(certificates: Mapping[str, Certificate], name: str) -> list[Target]:
    return [Target(key, certificate) for key, certificate in certificates.items() if certificate.owner.name == name]


def _present(layout: Layout) -> dict[str, Certificate]:
    """Return the keys that lie in the tree, in public files and beside secrets, revoked or not, by fingerprint."""
    keys = [*(pair.certificate for _, pair in own_pairs(layout)), *(key.certificate for key in found_keys(layout))]
    return {key.public.fingerprint: key for key in keys}


def _revoked_by_hand(layout: Layout) -> dict[str, Certificate]:
    """Return the keys that certs-init revoked; those that SystemDigitalTwin did are retired, or one-time keys."""
    keys = [key.certificate for folder in own_folders(layout) for key in keys_in(folder / REVOKED_FOLDER)]
    return {key.public.fingerprint: key for key in keys}


def _invited(layout: Layout) -> dict[str, Certificate]:
    """Return the one-time keys."""
    return {key.certificate.public.fingerprint: key.certificate for key in _invitations(layout)}


def _invitations(layout: Layout) -> list[FoundKey]:
    folder = layout.server_folder
    return list(keys_in(folder / INVITES_FOLDER)) if folder else []


def _kept_out(layout: Layout, target: Target) -> bool:
    """Return whether SystemDigitalTwin refuses a key already."""
    folder = layout.server_folder
    name = revoked_file_name(target.fingerprint)
    return any((place / name).exists() for place in revoked_folders(layout) if folder in place.parents)


def _keep_out(layout: Layout, target: Target) -> None:
    for folder in own_folders(layout):  # SystemDigitalTwin's first: of what it refuses, everybody is told
        if target.certificate is not None:
            write_revocation(target.certificate, folder / REVOKED_FOLDER)
        else:
            write_revoked_fingerprint(target.fingerprint, folder / REVOKED_FOLDER)


def _remove_public_files(layout: Layout, fingerprints: set[str]) -> list[Path]:
    keys = [*found_keys(layout), *_invitations(layout)]
    found = [key.path for key in keys if key.certificate.public.fingerprint in fingerprints]
    for path in found:
        path.unlink(missing_ok=True)
    for folder in {path.parent for path in found}:
        fsync_folder(folder)
    return found
