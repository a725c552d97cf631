"""Put a pair and what mainpc told of others in place, on the machine that it belongs to; the secret comes last."""

import os
from collections.abc import Iterable

from twinhost.certificates.bundle import TrustMaterial
from twinhost.certificates.layout import SERVER, Identity, Layout, described
from twinhost.certificates.record import DistributionRecord
from twinhost.certificates.tree_lock import INSTALLING_SUFFIX, make_host_folder
from twinhost.secure_zmq.errors import ConfigurationError, KeyMismatch
from twinhost.secure_zmq.key_folders import NEXT_SUFFIX, REVOKED_FOLDER
from twinhost.secure_zmq.key_writer import fsync_folder, replace_certificate, write_key_pair, write_revoked_fingerprint
from twinhost.secure_zmq.keys import PUBLIC_SUFFIX, Certificate, KeyPair, PublicKey, load_key_pair


def put_in_place(
    layout: Layout, place: Identity, pair: KeyPair, material: TrustMaterial, pinned: PublicKey | None = None
) -> Certificate:
    """Put in place what mainpc told, and the pair with the validity that mainpc gave it; return the server's key.

    May be repeated, and be cut short at any point. `pinned` is the server's key, where it is known from elsewhere.

    Raises:
        ConfigurationError: what mainpc told contradicts itself or this pair; nothing was changed.
    """
    own = material.own
    if own.public != pair.public or own.owner != place.owner:
        raise KeyMismatch(
            f"mainpc told of the key {own.public.fingerprint} of {described(own.owner)}, and here it is "
            f"{pair.public.fingerprint} of {described(place.owner)}; revoke it on mainpc and begin anew"
        )
    if own.public.fingerprint in material.revoked:
        raise ConfigurationError(f"mainpc has revoked the key {own.public.fingerprint}; ask for another invitation")
    server = _server_certificate(material, pinned)
    files = _files(layout, place, material)
    folder = layout.root / place.folder
    make_host_folder(folder, layout)
    for fingerprint in sorted(material.revoked):
        write_revoked_fingerprint(fingerprint, folder / REVOKED_FOLDER)
    for name, certificate in files.items():
        replace_certificate(certificate, folder / name)
    record = DistributionRecord(layout.root)
    for name, certificate in files.items():
        record.add([folder / name], certificate)
    install_secret(layout, place, KeyPair(own, pair.secret_z85))
    return server


def install_secret(layout: Layout, place: Identity, pair: KeyPair) -> None:
    """Put a pair in the place of whatever pair was there, in one step; the same one is `next` no more."""
    folder = layout.root / place.folder
    installing = folder / f"{place.stem}{INSTALLING_SUFFIX}"
    installing.unlink(missing_ok=True)
    write_key_pair(pair, installing)  # its public half gets its own name at once
    replace_certificate(pair.certificate, folder / f"{place.stem}{PUBLIC_SUFFIX}")
    installing.rename(layout.secret_file(place))
    fsync_folder(folder)
    following = layout.next_secret_file(place)
    if os.path.lexists(following) and load_key_pair(following).public == pair.public:
        discard_next(layout, place)


def discard_next(layout: Layout, place: Identity) -> None:
    """Remove a next pair, its secret last: by that the next run sees what is left to do."""
    for path in (layout.root / place.folder / f"{place.stem}{NEXT_SUFFIX}", layout.next_secret_file(place)):
        path.unlink(missing_ok=True)


def _server_certificate(material: TrustMaterial, pinned: PublicKey | None) -> Certificate:
    mine = [key for key in (*material.current, *material.next) if key.owner.name == SERVER]
    for certificate in mine:
        if pinned in (None, certificate.public):
            return certificate
    told = f"of another key of {SERVER} than the invitation names" if mine else f"of no key of {SERVER}"
    raise ConfigurationError(f"mainpc told {told}; run certs-init verify there")


def _files(layout: Layout, place: Identity, material: TrustMaterial) -> dict[str, Certificate]:
    """Return what lies in the folder then, by name: the server's key first."""
    files: dict[str, Certificate] = {}
    for suffix, certificates in ((NEXT_SUFFIX, material.next), (PUBLIC_SUFFIX, material.current)):
        for certificate in _server_first(certificates):
            if certificate.owner.name == place.owner.name:
                continue  # its own comes with its secret
            name = f"{layout.place_of(certificate.owner).stem}{suffix}"
            if name in files:
                raise ConfigurationError(f"mainpc told of two keys that would both be {name} here; revoke one of them")
            files[name] = certificate
    return files


def _server_first(certificates: Iterable[Certificate]) -> list[Certificate]:
    return sorted(certificates, key=lambda certificate: certificate.owner.name != SERVER)
