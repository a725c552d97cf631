"""Enrolment on the new machine, whose secret is made there and stays there; the secret is put in place last.

`join` enrols over the network, by an invitation. `JOIN` is its table, of which docs/explanation/enrolment.md has the
picture: a run that is killed anywhere is finished by the next one with the same line, since the files and `.joined` say
how far it got. `request` is for a machine with no path to mainpc: its public key goes there as a file, and
`import_answer` imports the answer.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from twinhost.certificates.admission import require_file_name, require_newcomer
from twinhost.certificates.bundle import Invitation, TrustMaterial, read_answer
from twinhost.certificates.generate import require_not_revoked
from twinhost.certificates.layout import SERVER, Identity, Layout, described
from twinhost.certificates.records import DistributionRecord, Joining, JoinRecord
from twinhost.certificates.tree import discard_next, install_secret, locked, make_host_folder
from twinhost.commands import CERTS_INIT
from twinhost.network_config import NetworkConfig
from twinhost.secure_zmq.callers import CONFIRM_KEY, ENROL
from twinhost.secure_zmq.certificates import NEXT_SECRET_SUFFIX, NEXT_SUFFIX, REVOKED_FOLDER
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import ConfigurationError, KeyFileMalformed, KeyFileMissing, KeyMismatch, NotAuthorized
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
from twinhost.secure_zmq.server_address import FollowedAddress
from twinhost.state_table import StateTable, Transition

DEADLINE_S = 10.0
_TRIES = 3  # with the client's back-off: mainpc reads a new invitation within 0.1 s
_ANOTHER = f"for another one, on mainpc: {CERTS_INIT} invite NAME --host HOST --role ROLE"


class JoinProgress(Enum):
    """How far a join is."""

    INVITED = "Invited"
    PROPOSED = "Proposed"
    AUTHORISED = "Authorised"
    JOINED = "Joined"


class JoinFinding(Enum):
    """What a run finds in the files at first, and what came of each step."""

    NO_KEY = "no key is here for the invitation"
    WRITTEN = "STEM.next.key_secret is here for it"
    IN_PLACE = "its key is in place here"
    FORGOTTEN = "mainpc does not know the key"
    CONFIRMED = "mainpc authorised the key"
    INSTALLED = "the public keys are in place and the secret"


class JoinWork(Enum):
    """What a run does next; what fails ends it."""

    PROPOSE = "enrol a new pair with the one-time key and write it"
    CONFIRM = "confirm_key on a connection with it"
    PROPOSE_AGAIN = "enrol it again, once, and confirm_key"
    INSTALL = "put mainpc's keys in place and the secret last"


JOIN: StateTable[JoinProgress, JoinFinding, JoinWork] = StateTable(
    JoinProgress.INVITED,
    Transition(JoinProgress.INVITED, JoinFinding.NO_KEY, JoinProgress.INVITED, JoinWork.PROPOSE),
    Transition(JoinProgress.INVITED, JoinFinding.WRITTEN, JoinProgress.PROPOSED, JoinWork.CONFIRM),
    Transition(JoinProgress.INVITED, JoinFinding.IN_PLACE, JoinProgress.PROPOSED, JoinWork.CONFIRM),
    Transition(JoinProgress.PROPOSED, JoinFinding.FORGOTTEN, JoinProgress.PROPOSED, JoinWork.PROPOSE_AGAIN),
    Transition(JoinProgress.PROPOSED, JoinFinding.CONFIRMED, JoinProgress.AUTHORISED, JoinWork.INSTALL),
    Transition(JoinProgress.AUTHORISED, JoinFinding.INSTALLED, JoinProgress.JOINED),
)


@dataclass(frozen=True, slots=True)
class Joined:
    """Where the enrolled pair lies, and whether it was enrolled before."""

    place: Identity
    certificate: Certificate
    server_key: PublicKey
    already: bool = False


def join(layout: Layout, invitation: Invitation, *, may_replace: bool) -> Joined:
    """Make a pair, have mainpc authorise it, and put it in place with the public keys that mainpc sends.

    Raises:
        ConfigurationError: the invitation expired, was used, or is not for this machine; the tree can't be written.
        ConnectionRefused, RequestError: mainpc can't be reached, or refuses.
    """
    with locked(layout, folders=False):
        return _Join(layout, invitation, may_replace=may_replace).run()


class _Join:
    """One run: what each step does in the files, and asks of mainpc."""

    _place: Identity
    _pair: KeyPair
    _material: TrustMaterial
    _server: Certificate

    def __init__(self, layout: Layout, invitation: Invitation, *, may_replace: bool) -> None:
        self._layout, self._invitation, self._may_replace = layout, invitation, may_replace
        self._token = invitation.token.public.fingerprint
        self._record = JoinRecord(layout.root)

    def run(self) -> Joined:
        """Do what the table says."""
        steps = {
            JoinWork.PROPOSE: self._propose,
            JoinWork.CONFIRM: self._confirm,
            JoinWork.PROPOSE_AGAIN: self._propose_again,
            JoinWork.INSTALL: self._install,
        }
        finding = self._find()
        transition = JOIN.after(JOIN.first, finding)
        while transition.effect is not None:
            transition = JOIN.after(transition.then, steps[transition.effect]())
        return Joined(self._place, self._material.own, self._server.public, finding is JoinFinding.IN_PLACE)

    def _find(self) -> JoinFinding:
        joining = self._record.find(self._token)
        if joining is None:
            return JoinFinding.NO_KEY
        folder = self._layout.root / joining.folder
        for suffix, finding in ((SECRET_SUFFIX, JoinFinding.IN_PLACE), (NEXT_SECRET_SUFFIX, JoinFinding.WRITTEN)):
            path = folder / f"{joining.stem}{suffix}"
            if os.path.lexists(path):
                self._pair = load_key_pair(path)
                if self._pair.public.fingerprint == joining.fingerprint:
                    self._place = Identity(self._pair.certificate.owner, joining.stem, joining.folder)
                    if finding is JoinFinding.WRITTEN:
                        self._require_free()
                    return finding
        raise ConfigurationError(
            f"the invitation was used here for {folder}/{joining.stem}{SECRET_SUFFIX}, and that key is missing; "
            f"{_ANOTHER}"
        )

    def _propose(self) -> JoinFinding:
        """Make the pair, propose it, and write it; until it is confirmed, another can use the invitation."""
        pair = KeyPair.generate(self._invitation.token.certificate.owner)
        owner = self._enrolled(pair)
        require_file_name(self._layout, owner)
        self._place = self._layout.place_of(owner)
        if self._place.owner != owner:
            raise ConfigurationError(
                f"the invitation is for {described(owner)}, and the configuration here says "
                f"{described(self._place.owner)}; copy network_config.yaml from one machine to the other"
            )
        self._require_free()
        make_host_folder(self._layout.root / self._place.folder, self._layout)
        discard_next(self._layout, self._place)
        self._pair = KeyPair(replace(pair.certificate, owner=owner), pair.secret_z85)
        write_key_pair(self._pair, self._layout.next_secret_file(self._place))
        self._record.add(Joining(self._token, self._place.folder, self._place.stem, pair.public.fingerprint))
        return JoinFinding.WRITTEN

    def _confirm(self) -> JoinFinding:
        """Connect with the new pair, which proves that its secret is here."""
        try:
            answer = _ask(self._invitation, self._pair, CONFIRM_KEY)
        except NotAuthorized:  # an interrupted run proposed it, and mainpc forgot it; or it was revoked since
            return JoinFinding.FORGOTTEN
        self._material = read_answer(answer)
        return JoinFinding.CONFIRMED

    def _propose_again(self) -> JoinFinding:
        owner = self._enrolled(self._pair)
        if owner != self._place.owner:
            raise ConfigurationError(
                f"the invitation was for {described(self._place.owner)}, and is now for {described(owner)}; {_ANOTHER}"
            )
        self._material = read_answer(_ask(self._invitation, self._pair, CONFIRM_KEY))
        return JoinFinding.CONFIRMED

    def _install(self) -> JoinFinding:
        pinned = self._invitation.server_key
        self._server = put_in_place(self._layout, self._place, self._pair, self._material, pinned)
        return JoinFinding.INSTALLED

    def _require_free(self) -> None:
        path = self._layout.secret_file(self._place)
        if os.path.lexists(path) and not self._may_replace:
            raise ConfigurationError(
                f"{path} exists already, and the invitation was not used; to put the new key in its place, give the "
                f"same line to: {self._layout.command('join', '--replace', '-', piped=True)}"
            )

    def _enrolled(self, pair: KeyPair) -> KeyOwner:
        """Propose a pair with the one-time key, and return the owner that the invitation is for."""
        invitation = self._invitation
        now = self._layout.clock.time()
        if Validity(not_after=invitation.not_after).has_ended(now):
            raise ConfigurationError(
                f"the invitation expired {format_moment(invitation.not_after)} and this machine's clock says "
                f"{format_moment(int(now))}; {_ANOTHER}"
            )
        try:
            reply = _ask(invitation, invitation.token, ENROL, tries=_TRIES, public_key=pair.public.z85.decode())
        except NotAuthorized:
            raise NotAuthorized(
                f"{' or '.join(invitation.endpoints)} does not accept this invitation: it was used or withdrawn, it "
                f"expired, or the line is mistyped; {_ANOTHER}"
            ) from None
        try:
            return KeyOwner(str(reply["name"]), str(reply["host"]), frozenset(map(str, reply["roles"])))
        except (KeyError, TypeError, KeyFileMalformed):
            raise ConfigurationError(
                "mainpc's answer does not name the invitation's owner; run the same version of twinhost on both "
                "machines"
            ) from None


def _ask(invitation: Invitation, pair: KeyPair, action: str, *, tries: int = 1, **fields: str) -> Mapping[str, Any]:
    address = FollowedAddress(invitation.endpoints, lambda: pair, lambda: (invitation.server_key,))
    deadline_s = DEADLINE_S if len(invitation.authorities) == 1 else None  # whose default covers a takeover
    with Client(address) as client:
        for _ in range(tries - 1):
            with suppress(NotAuthorized):
                return client.call(action, deadline_s=deadline_s, **fields)
        return client.call(action, deadline_s=deadline_s, **fields)


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
        for certificate in sorted(certificates, key=lambda certificate: certificate.owner.name != SERVER):
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
