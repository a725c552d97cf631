"""Enrolment on the new machine, whose secret is made there and stays there; the secret is put in place last.

`join` enrols over the network, by an invitation. In this order, so that a run that is killed anywhere is finished by
the next one with the same line: the pair is proposed with the one-time key; it is written as the next one of its place;
it is recorded which invitation it is for; mainpc authorises it over a connection that is made with it; the public keys
are put in place, the secret last.

`request` is for a machine with no path to mainpc: its public key goes there as a file, and
`import_answer` imports the answer.
"""

import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from twinhost.certificates.admission import require_file_name, require_newcomer
from twinhost.certificates.bundle import Invitation, TrustMaterial, read_answer
from twinhost.certificates.generate import require_not_revoked
from twinhost.certificates.layout import SERVER, Identity, Layout, described
from twinhost.certificates.records import DistributionRecord, Joining, JoinRecord
from twinhost.certificates.tree import discard_next, install_secret, locked, make_host_folder
from twinhost.network_config import NetworkConfig
from twinhost.secure_zmq.callers import CONFIRM_KEY, ENROL
from twinhost.secure_zmq.certificates import NEXT_SECRET_SUFFIX, NEXT_SUFFIX, REVOKED_FOLDER
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import (
    CERTS_INIT,
    ConfigurationError,
    KeyFileMalformed,
    KeyFileMissing,
    KeyMismatch,
    NotAuthorized,
)
from twinhost.secure_zmq.key_writer import replace_certificate, write_key_pair, write_revoked_fingerprint
from twinhost.secure_zmq.keys import (
    PUBLIC_SUFFIX,
    SECRET_SUFFIX,
    Certificate,
    KeyOwner,
    KeyPair,
    PublicKey,
    Validity,
    format_moment,
    load_key_pair,
)
from twinhost.secure_zmq.server_address import SecuredAddress

DEADLINE_S = 10.0
_TRIES = 3  # with the client's back-off: mainpc reads a new invitation within 0.1 s
_ANOTHER = f"for another one, on mainpc: {CERTS_INIT} invite NAME --host HOST --role ROLE"


@dataclass(frozen=True, slots=True)
class Joined:
    """Where the enrolled pair lies, and whether it was enrolled before."""

    place: Identity
    certificate: Certificate
    server_key: PublicKey
    already: bool = False


def join(layout: Layout, invitation: Invitation, *, may_replace: bool) -> Joined:
    """Make a pair, have mainpc authorise it, and put it in place with the public keys that mainpc sends.

    Args:
        layout: this machine's tree.
        invitation: as it was parsed.
        may_replace: whether a secret that is in the pair's place already is replaced.

    Raises:
        ConfigurationError: the invitation expired, was used, or is not for this machine; the tree can't be written.
        ConnectionRefused, RequestError: mainpc can't be reached, or refuses.
    """
    with locked(layout, folders=False):
        record = JoinRecord(layout.root)
        joining = record.find(invitation.token.public.fingerprint)
        if joining is not None:
            place, pair, already = _resumed(layout, joining, may_replace=may_replace)
        else:
            _require_open(invitation)
            place, pair = _proposed(layout, invitation, may_replace=may_replace)
            record.add(Joining(invitation.token.public.fingerprint, place.folder, place.stem, pair.public.fingerprint))
            already = False
        material = read_answer(_confirmed(invitation, place, pair))
        server = put_in_place(layout, place, pair, material, invitation.server_key)
        return Joined(place, material.own, server.public, already)


def _resumed(layout: Layout, joining: Joining, *, may_replace: bool) -> tuple[Identity, KeyPair, bool]:
    """Return the pair of an earlier run, and whether that put it in place."""
    folder = layout.root / joining.folder
    for suffix in (SECRET_SUFFIX, NEXT_SECRET_SUFFIX):
        path = folder / f"{joining.stem}{suffix}"
        if os.path.lexists(path):
            pair = load_key_pair(path)
            if pair.public.fingerprint == joining.fingerprint:
                place = Identity(pair.certificate.owner, joining.stem, joining.folder)
                already = suffix == SECRET_SUFFIX
                if not already:
                    _require_free(layout, place, may_replace=may_replace)
                return place, pair, already
    raise ConfigurationError(
        f"the invitation was used here for {folder}/{joining.stem}{SECRET_SUFFIX}, and that key is missing; {_ANOTHER}"
    )


def _proposed(layout: Layout, invitation: Invitation, *, may_replace: bool) -> tuple[Identity, KeyPair]:
    """Make the pair, propose it, and write it to the disk; until it is confirmed, another can use the invitation."""
    pair = KeyPair.generate(invitation.token.certificate.owner)
    owner = _enrolled(invitation, pair)
    require_file_name(layout, owner)
    place = layout.place_of(owner)
    if place.owner != owner:
        raise ConfigurationError(
            f"the invitation is for {described(owner)}, and the configuration here says {described(place.owner)}; "
            "copy network_config.yaml from one machine to the other"
        )
    _require_free(layout, place, may_replace=may_replace)
    make_host_folder(layout.root / place.folder, layout)
    discard_next(layout, place)
    pair = KeyPair(replace(pair.certificate, owner=owner), pair.secret_z85)
    write_key_pair(pair, layout.next_secret_file(place))
    return place, pair


def _require_free(layout: Layout, place: Identity, *, may_replace: bool) -> None:
    path = layout.secret_file(place)
    if os.path.lexists(path) and not may_replace:
        raise ConfigurationError(
            f"{path} exists already, and the invitation was not used; to put the new key in its place, give the same "
            f"line to: {layout.command('join', '--replace', '-', piped=True)}"
        )


def _require_open(invitation: Invitation) -> None:
    if Validity(not_after=invitation.not_after).has_ended(time.time()):
        raise ConfigurationError(
            f"the invitation expired {format_moment(invitation.not_after)} and this machine's clock says "
            f"{format_moment(int(time.time()))}; {_ANOTHER}"
        )


def _enrolled(invitation: Invitation, pair: KeyPair) -> KeyOwner:
    """Propose a pair with the one-time key, and return the owner that the invitation is for."""
    try:
        reply = _ask(invitation, invitation.token, ENROL, tries=_TRIES, public_key=pair.public.z85.decode())
    except NotAuthorized:
        raise NotAuthorized(
            f"{invitation.endpoint} does not accept this invitation: it was used or withdrawn, it expired, or the line "
            f"is mistyped; {_ANOTHER}"
        ) from None
    try:
        return KeyOwner(str(reply["name"]), str(reply["host"]), frozenset(map(str, reply["roles"])))
    except (KeyError, TypeError, KeyFileMalformed):
        raise ConfigurationError(
            "mainpc's answer does not name the invitation's owner; run the same version of twinhost on both machines"
        ) from None


def _confirmed(invitation: Invitation, place: Identity, pair: KeyPair) -> Mapping[str, Any]:
    """Connect with the new pair, which proves that its secret is here, and return mainpc's answer."""
    try:
        return _ask(invitation, pair, CONFIRM_KEY)
    except NotAuthorized:  # an interrupted run proposed it, and mainpc forgot it; or it was revoked since
        _require_open(invitation)
        owner = _enrolled(invitation, pair)
        if owner != place.owner:
            raise ConfigurationError(
                f"the invitation was for {described(place.owner)}, and is now for {described(owner)}; {_ANOTHER}"
            ) from None
        return _ask(invitation, pair, CONFIRM_KEY)


def _ask(invitation: Invitation, pair: KeyPair, action: str, *, tries: int = 1, **fields: str) -> Mapping[str, Any]:
    address = SecuredAddress(invitation.endpoint, pair, invitation.server_key)
    with Client(address) as client:
        for _ in range(tries - 1):
            with suppress(NotAuthorized):
                return client.call(action, deadline_s=DEADLINE_S, **fields)
        return client.call(action, deadline_s=DEADLINE_S, **fields)


def request(layout: Layout, config: NetworkConfig, owner: KeyOwner) -> Certificate:
    """Return the public key that mainpc is to accept; the pair is made where it is missing.

    Raises:
        ConfigurationError: the configuration has another owner of that name, the secret that is there is another's,
            or is revoked.
    """
    place = require_newcomer(layout, config, owner)
    path = layout.secret_file(place)
    with locked(layout, folders=False):
        if not os.path.lexists(path):
            make_host_folder(path.parent, layout)
            write_key_pair(KeyPair.generate(owner, layout.new_validity()), path)
        certificate = load_key_pair(path).certificate
    if certificate.owner != owner:
        raise ConfigurationError(
            f"{path} is the key of {described(certificate.owner)}, not of {described(owner)}; request that owner, or "
            "choose another name"
        )
    require_not_revoked(layout, certificate, str(path))
    return certificate


def import_answer(layout: Layout, material: TrustMaterial, source: str) -> Certificate:
    """Put mainpc's answer to a request in place; return the server's key.

    Raises:
        ConfigurationError: the answer is for another key than the one that lies here.
    """
    place = layout.place_of(material.own.owner)
    path = layout.secret_file(place)
    if not os.path.lexists(path):
        raise KeyFileMissing(
            f"{source} is for {described(material.own.owner)}, whose secret is not here ({path}); "
            "import it on the machine that made the request"
        )
    with locked(layout, folders=False):
        return put_in_place(layout, place, load_key_pair(path), material)


def put_in_place(
    layout: Layout, place: Identity, pair: KeyPair, material: TrustMaterial, pinned: PublicKey | None = None
) -> Certificate:
    """Put mainpc's public keys in place, and the pair with the validity that mainpc gave it; return the server's key.

    May be repeated, and interrupted at any point. `pinned` is the server's key, where it is known from elsewhere.

    Raises:
        ConfigurationError: mainpc's answer contradicts itself or this pair; nothing was changed.
    """
    own = material.own
    if own.public != pair.public or own.owner != place.owner:
        raise KeyMismatch(
            f"mainpc authorised the key {own.public.fingerprint} of {described(own.owner)}, and the key here is "
            f"{pair.public.fingerprint} of {described(place.owner)}; start again, and first revoke it on mainpc: "
            f"{layout.command('revoke', own.public.fingerprint)}"
        )
    if own.public.fingerprint in material.revoked:
        raise ConfigurationError(f"mainpc has revoked the key {own.public.fingerprint}; {_ANOTHER}")
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


def _server_certificate(material: TrustMaterial, pinned: PublicKey | None) -> Certificate:
    mine = [key for key in (*material.current, *material.next) if key.owner.name == SERVER]
    for certificate in mine:
        if pinned in (None, certificate.public):
            return certificate
    sent = f"another key of {SERVER} than the invitation names" if mine else f"no key of {SERVER}"
    raise ConfigurationError(f"mainpc sent {sent}; on mainpc, run: {CERTS_INIT} verify")


def _files(layout: Layout, place: Identity, material: TrustMaterial) -> dict[str, Certificate]:
    """Return the public key files of the folder by name, the server's key first."""
    files: dict[str, Certificate] = {}
    for suffix, certificates in ((NEXT_SUFFIX, material.next), (PUBLIC_SUFFIX, material.current)):
        for certificate in _server_first(certificates):
            if certificate.owner.name == place.owner.name:
                continue  # its own comes with its secret
            name = f"{layout.place_of(certificate.owner).stem}{suffix}"
            if name in files:
                raise ConfigurationError(
                    f"mainpc sent two keys that would both be {name} here; on mainpc, revoke the wrong one: "
                    f"{CERTS_INIT} revoke {files[name].public.fingerprint}, or {certificate.public.fingerprint}"
                )
            files[name] = certificate
    return files


def _server_first(certificates: Iterable[Certificate]) -> list[Certificate]:
    return sorted(certificates, key=lambda certificate: certificate.owner.name != SERVER)
