"""Revoke keys, and the keys that they vouched for: first in SystemDigitalTwin's folder, then in the others.

A public key file is renamed to the file that revokes the key, so no revoked key stays authorised on a full disk.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from twinhost.certificates.admission import server_folder
from twinhost.certificates.following import require_active
from twinhost.certificates.generate import complete
from twinhost.certificates.layout import FINGERPRINT, SERVER, Identity, Layout, described, to_rotate
from twinhost.certificates.records import DistributionRecord
from twinhost.certificates.tree import (
    discard_next,
    enrolled_folder,
    install_secret,
    is_revoked,
    keys_in,
    locked,
    own_folders,
    own_pairs,
    public_key_files,
    revoked_folders,
    vouchers,
)
from twinhost.secure_zmq.certificates import ENROLLED_FOLDER, INVITES_FOLDER, REVOKED_FOLDER
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.secure_zmq.key_writer import (
    move_to_revoked,
    revoked_file_name,
    write_revocation,
    write_revoked_fingerprint,
)
from twinhost.secure_zmq.keys import Certificate, KeyOwner, KeyPair, load_key_pair

_FINGERPRINT = re.compile(f"{FINGERPRINT}=?")


@dataclass(frozen=True, slots=True)
class RevocationTarget:
    """A key to revoke."""

    fingerprint: str
    certificate: Certificate | None  # None where no file of the key is left
    owner: KeyOwner | None  # None where no record names it either
    voucher: str | None = None  # the fingerprint of the key that vouched for it

    def __str__(self) -> str:
        owner = "of an unknown owner" if self.owner is None else described(self.owner)
        return f"{self.fingerprint} {owner}" + (f", which {self.voucher} vouched for" if self.voucher else "")


@dataclass(frozen=True, slots=True)
class Revocation:
    """What was done: the keys that were not revoked before, those that were, the removed files, and what failed."""

    revoked: Sequence[RevocationTarget]
    before: Sequence[RevocationTarget]
    removed: Sequence[Path]
    failures: Sequence[str]  # a sentence for each folder in which a revocation could not be written
    others: Sequence[RevocationTarget]  # keys of the same owner that stay


def revoke(layout: Layout, owner: str, *, only: bool = False) -> Revocation:
    """Revoke every key of a name, or the one of a fingerprint; a run after a killed one finishes it.

    With `only`, the keys stay authorised that the one of the fingerprint vouched for, directly or indirectly.

    Raises:
        ConfigurationError: nobody has that name, or it is SystemDigitalTwin.
    """
    server = server_folder(layout, "revoke")
    if only and not _FINGERPRINT.fullmatch(owner):
        raise ConfigurationError(
            f"--only revokes the one key of a fingerprint, and {owner!r} is a name; give it a fingerprint"
        )
    targets: dict[str, RevocationTarget] = {}
    before: set[str] = set()
    removed: list[Path] = []
    with locked(layout):
        wave = _targets(layout, server, owner)
        failures: list[str] = []
        while wave:  # SystemDigitalTwin may authorise another key in the meantime
            before |= {target.fingerprint for target in wave if _is_revoked_at_server(layout, target)}
            targets |= {target.fingerprint: target for target in wave}
            for folder in own_folders(layout):  # SystemDigitalTwin's first: it notifies every host
                for target in wave:
                    removed += _revoke_in(layout, folder, target, failures)
            present = _present(layout)
            more = _named(present, owner) + ([] if only else _descendants(layout, targets, present))
            wave = [target for target in more if target.fingerprint not in targets]
        owners = {target.owner.name for target in targets.values() if target.owner is not None}
        others = [
            target
            for name in sorted(owners)
            for target in _named(present, name)
            if target.certificate is not None and not is_revoked(layout, target.certificate)
        ]
        new = [t for t in targets.values() if t.fingerprint not in before and _is_revoked_at_server(layout, t)]
    old = [target for target in targets.values() if target.fingerprint in before]
    return Revocation(new, old, removed, failures, others)


def replace_revoked(layout: Layout, name: str) -> KeyPair:
    """Make a new pair in the place of a revoked one whose secret is here, and distribute its public half.

    Raises:
        ConfigurationError: its secret is not made here, or is not revoked.
    """
    identity = next((place for place in layout.local if name in (place.owner.name, place.stem)), None)
    if identity is None:
        here = ", ".join(place.owner.name for place in layout.local)
        raise ConfigurationError(
            f"the secret of {name!r} is not made in this tree, which has those of: {here}; for another machine, here: "
            f"{layout.command('invite', name, '--host', 'HOST', '--role', 'ROLE')}, and there: "
            f"{layout.command('join', '--replace', '-', piped=True)}"
        )
    require_active(layout.root / identity.folder, name, "replace")
    with locked(layout):
        pair = load_key_pair(layout.secret_file(identity))
        if is_revoked(layout, pair.certificate):
            _require_no_other_key(layout, identity)
            pair = KeyPair.generate(identity.owner, layout.new_validity())
            discard_next(layout, identity)
            install_secret(layout, identity, pair)
        elif _was_distributed(layout, identity, pair.certificate):
            raise ConfigurationError(
                f"the key {pair.public.fingerprint} of {name} is not revoked, so it is kept; "
                f"to change it: {to_rotate(identity.owner.name, layout.root)}"
            )
        complete(layout)
    return pair


def _require_no_other_key(layout: Layout, identity: Identity) -> None:
    """Raise ConfigurationError where the name has another key; a killed run's public half does not count."""
    own = layout.public_file(layout.root / identity.folder, identity)
    for key in public_key_files(layout):
        certificate = key.certificate
        mine = certificate.owner.name == identity.owner.name and key.path != own
        if mine and not is_revoked(layout, certificate):
            raise ConfigurationError(
                f"{identity.owner.name} has a key already, {certificate.public.fingerprint}, made elsewhere; "
                f"revoke it first: {layout.command('revoke', identity.owner.name)}"
            )


def _was_distributed(layout: Layout, identity: Identity, certificate: Certificate) -> bool:
    """Return whether any folder got a key; where none did, the run that made it was killed."""
    record = DistributionRecord(layout.root)
    return any(record.was_distributed(path, certificate) for path in layout.public_files(identity))


def _targets(layout: Layout, server: Path, owner: str) -> list[RevocationTarget]:
    present, revoked = _present(layout), _revoked_by_hand(layout)
    if _FINGERPRINT.fullmatch(owner):
        owner = owner.removesuffix("=")
        revoked_file_name(owner)
        invited = _keys_by_fingerprint(server / INVITES_FOLDER)
        known = _retired(layout) | revoked | invited | present
        targets = [RevocationTarget(owner, known.get(owner), _owner_of(layout, owner, known))]
    else:
        targets = _named(present, owner) or _named(revoked, owner)
    if owner == SERVER or any(t.certificate is not None and t.certificate.owner.name == SERVER for t in targets):
        raise ConfigurationError(
            f"{SERVER} needs its key to notify the hosts of revocations; rotate it: {to_rotate(SERVER, layout.root)}"
        )
    if not targets:
        names = sorted({certificate.owner.name for certificate in present.values()} - {SERVER})
        raise ConfigurationError(
            f"there is no key of {owner!r} here; there are keys of: {', '.join(names) or 'no owner'}"
        )
    return targets


def _named(certificates: Mapping[str, Certificate], name: str) -> list[RevocationTarget]:
    keys = ((key, certificate) for key, certificate in certificates.items() if certificate.owner.name == name)
    return [RevocationTarget(key, certificate, certificate.owner) for key, certificate in keys]


def _owner_of(layout: Layout, fingerprint: str, known: Mapping[str, Certificate]) -> KeyOwner | None:
    """Return whose key it is: of a superseded one, the owner of what vouched for it, or of the file that it lay in."""
    voucher_of, key = vouchers(layout), fingerprint
    while key not in known and key in voucher_of:
        key = voucher_of.pop(key)
    if key in known:
        return known[key].owner
    with suppress(ConfigurationError):  # a damaged record stops no revocation
        record = DistributionRecord(layout.root)
        for identity in layout.everybody:
            if any(fingerprint in record.fingerprints(path) for path in layout.public_files(identity)):
                return identity.owner
    return None


def _present(layout: Layout) -> dict[str, Certificate]:
    """Return the keys that lie in the tree, in public files and beside secrets, revoked or not, by fingerprint."""
    keys = [
        *(pair.certificate for _, pair in own_pairs(layout)),
        *(key.certificate for key in public_key_files(layout)),
    ]
    return {key.public.fingerprint: key for key in keys}


def _revoked_by_hand(layout: Layout) -> dict[str, Certificate]:
    """Return the keys that certs-init revoked; SystemDigitalTwin revokes retired and one-time keys."""
    return _keys_by_fingerprint(*(folder / REVOKED_FOLDER for folder in own_folders(layout)))


def _retired(layout: Layout) -> dict[str, Certificate]:
    """Return the keys that SystemDigitalTwin revoked itself."""
    folder = enrolled_folder(layout)
    return _keys_by_fingerprint(folder / REVOKED_FOLDER) if folder else {}


def _keys_by_fingerprint(*folders: Path) -> dict[str, Certificate]:
    return {key.certificate.public.fingerprint: key.certificate for folder in folders for key in keys_in(folder)}


def _descendants(
    layout: Layout, targets: Mapping[str, RevocationTarget], present: Mapping[str, Certificate]
) -> list[RevocationTarget]:
    """Return the keys that the targets vouched for, those of these, and so on, each after its voucher."""
    by_voucher: dict[str, list[str]] = {}
    for fingerprint, voucher in sorted(vouchers(layout).items()):
        by_voucher.setdefault(voucher, []).append(fingerprint)
    if by_voucher.keys().isdisjoint(targets):
        return []
    certificates = {**_retired(layout), **_revoked_by_hand(layout), **present}
    descendants: dict[str, RevocationTarget] = {}

    def child(fingerprint: str, voucher: RevocationTarget) -> RevocationTarget:
        certificate = certificates.get(fingerprint)
        owner = certificate.owner if certificate is not None else voucher.owner
        return RevocationTarget(fingerprint, certificate, owner, voucher.fingerprint)

    wave = list(targets)
    while wave:
        children = [
            child(fingerprint, descendants.get(voucher) or targets[voucher])
            for voucher in wave
            for fingerprint in by_voucher.get(voucher, [])
            if fingerprint not in targets and fingerprint not in descendants
        ]
        descendants |= {target.fingerprint: target for target in children}
        wave = [target.fingerprint for target in children]
    return list(descendants.values())


def _is_revoked_at_server(layout: Layout, target: RevocationTarget) -> bool:
    """Return whether a key is revoked in SystemDigitalTwin's folder."""
    folder = layout.server_folder
    name = revoked_file_name(target.fingerprint)
    return any((place / name).exists() for place in revoked_folders(layout) if folder in place.parents)


def _revoke_in(layout: Layout, folder: Path, target: RevocationTarget, failures: list[str]) -> list[Path]:
    """Revoke a key in one folder; return the removed public files, and note where the volume is full."""
    revoked = folder / REVOKED_FOLDER
    inner = (ENROLLED_FOLDER, INVITES_FOLDER) if folder == layout.server_folder else ()
    keys = [key for place in (folder, *(folder / name for name in inner)) for key in keys_in(place)]
    paths = [key.path for key in keys if key.certificate.public.fingerprint == target.fingerprint]
    for path in paths:
        with suppress(OSError):  # the file is removed anyway, and the revocation is tried again below
            move_to_revoked(path, target.fingerprint, revoked)
    try:
        if target.certificate is not None:
            write_revocation(target.certificate, revoked)
        else:
            write_revoked_fingerprint(target.fingerprint, revoked)
    except OSError as error:
        failures.append(
            f"{revoked} can't be written ({error.strerror}), so {target.fingerprint} is not revoked there; free space "
            f"on the volume, and run: {layout.command('revoke', target.fingerprint)}"
        )
    return [path for path in paths if not path.exists()]
