"""Enrol this machine with mainpc by an invitation; the secret is made here and stays here.

In this order, so that a run that is killed anywhere is finished by the next one with the same line: the pair is
proposed with the one-time key; it is put on the disk as the next one of its place; it is recorded which invitation it
is for; mainpc authorises it over a connection that is made with it; the public keys are put in place, the secret last.
"""

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from twinhost.certificates.bundle import read_answer
from twinhost.certificates.invitation import Invitation
from twinhost.certificates.joined import Joining, JoinRecord
from twinhost.certificates.layout import Identity, Layout, described
from twinhost.certificates.names import require_file_name
from twinhost.certificates.place import discard_next, next_secret_path, put_in_place, secret_path
from twinhost.certificates.tree_lock import locked, make_host_folder
from twinhost.secure_zmq.callers import CONFIRM_KEY, ENROL
from twinhost.secure_zmq.certificates import NEXT_SECRET_SUFFIX
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import ConfigurationError, KeyFileMalformed, NotAuthorized
from twinhost.secure_zmq.key_writer import write_key_pair
from twinhost.secure_zmq.keys import SECRET_SUFFIX, Certificate, KeyOwner, KeyPair, PublicKey, load_key_pair
from twinhost.secure_zmq.server_address import SecuredAddress
from twinhost.secure_zmq.validity import Validity, format_moment

DEADLINE_S = 10.0
_TRIES = 3  # with the client's back-off: an invitation that was made this moment is seen within 0.1 s
_ANOTHER = "ask for another: certs-init invite NAME"


@dataclass(frozen=True, slots=True)
class Joined:
    """What came of it: where the pair lies, and whether it was there before."""

    place: Identity
    certificate: Certificate
    server_key: PublicKey
    already: bool = False


def join(layout: Layout, invitation: Invitation, *, may_replace: bool) -> Joined:
    """Make a pair, let mainpc authorise it, and put it in place with what mainpc tells of others.

    Args:
        layout: this machine's tree.
        invitation: as it was read.
        may_replace: whether a secret that lies in the pair's place already gives way.

    Raises:
        ConfigurationError: the invitation is over, was used, or is not for this machine; the tree can't be written.
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
        f"the invitation was used here, for {joining.folder}/{joining.stem}{SECRET_SUFFIX}, and that key is not here "
        f"any more; {_ANOTHER}"
    )


def _proposed(layout: Layout, invitation: Invitation, *, may_replace: bool) -> tuple[Identity, KeyPair]:
    """Make the pair, propose it, and put it on the disk; the invitation can still be used by another."""
    pair = KeyPair.generate(invitation.token.certificate.owner)
    owner = _enrolled(invitation, pair)
    require_file_name(layout, owner)
    place = layout.place_of(owner)
    if place.owner != owner:
        raise ConfigurationError(
            f"the invitation is for {described(owner)}, and the configuration here says {described(place.owner)}; "
            "give both machines the same network_config.yaml"
        )
    _require_free(layout, place, may_replace=may_replace)
    make_host_folder(layout.root / place.folder, layout)
    discard_next(layout, place)
    pair = KeyPair(replace(pair.certificate, owner=owner), pair.secret_z85)
    write_key_pair(pair, next_secret_path(layout, place))
    return place, pair


def _require_free(layout: Layout, place: Identity, *, may_replace: bool) -> None:
    path = secret_path(layout, place)
    if os.path.lexists(path) and not may_replace:
        raise ConfigurationError(
            f"{path} is there already, and the invitation was not used; to put the new key in its place: "
            "certs-init join --replace with the same line"
        )


def _require_open(invitation: Invitation) -> None:
    if Validity(not_after=invitation.not_after).has_ended(time.time()):
        raise ConfigurationError(
            f"the invitation ended {format_moment(invitation.not_after)} and this machine's clock says "
            f"{format_moment(int(time.time()))}; {_ANOTHER}"
        )


def _enrolled(invitation: Invitation, pair: KeyPair) -> KeyOwner:
    """Propose a pair with the one-time key, and return for whom the invitation is."""
    try:
        reply = _ask(invitation, invitation.token, ENROL, tries=_TRIES, public_key=pair.public.z85.decode())
    except NotAuthorized:
        raise NotAuthorized(
            f"{invitation.endpoint} does not accept this invitation: it was used, withdrawn, is over, or was never "
            f"made (or the line is mistyped); {_ANOTHER}"
        ) from None
    try:
        return KeyOwner(str(reply["name"]), str(reply["host"]), frozenset(map(str, reply["roles"])))
    except (KeyError, TypeError, KeyFileMalformed):
        raise ConfigurationError("mainpc's answer does not say for whom the invitation is; check its version") from None


def _confirmed(invitation: Invitation, place: Identity, pair: KeyPair) -> Mapping[str, Any]:
    """Connect with the new pair, which proves that its secret is here, and return what mainpc tells then."""
    try:
        return _ask(invitation, pair, CONFIRM_KEY)
    except NotAuthorized:  # proposed by a run that was interrupted, and forgotten; or revoked since
        _require_open(invitation)
        owner = _enrolled(invitation, pair)
        if owner != place.owner:
            raise ConfigurationError(
                f"the invitation was for {described(place.owner)} and is for {described(owner)} now; {_ANOTHER}"
            ) from None
        return _ask(invitation, pair, CONFIRM_KEY)


def _ask(invitation: Invitation, pair: KeyPair, action: str, *, tries: int = 1, **fields: str) -> Mapping[str, Any]:
    address = SecuredAddress(invitation.endpoint, pair, invitation.server_key)
    with Client(address) as client:
        for _ in range(tries - 1):
            with suppress(NotAuthorized):
                return client.call(action, deadline_s=DEADLINE_S, **fields)
        return client.call(action, deadline_s=DEADLINE_S, **fields)
