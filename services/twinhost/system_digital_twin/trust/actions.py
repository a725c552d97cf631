"""How a key comes in and goes: enrolment by a one-time key, rotation, and the list of whom to trust.

A new key is proposed over a connection that proves who asks: with the one-time key of an
invitation, or with the agent's present key. Then its holder connects with the new key itself:
the CURVE handshake is the proof that the secret half is there. Only then it is authorised.
Every step may be repeated; what was confirmed is on disk before the answer.
"""

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal, NoReturn, TypedDict

import msgspec
import structlog

from twinhost.agent.trust import TrustDocument, document_of
from twinhost.secure_zmq import advice
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import CANDIDATE_ROLE, INVITATION_ROLE, Caller
from twinhost.secure_zmq.errors import KeyFileMalformed, LimitReached, MalformedRequest, NotGranted, StoreUnavailable
from twinhost.secure_zmq.grants import CONFIRM_KEY, ENROL
from twinhost.secure_zmq.key_folders import NEXT_SUFFIX, REVOKED_FOLDER, VOUCHED_FOLDER, FolderContents
from twinhost.secure_zmq.key_writer import (
    render_certificate,
    replace_certificate,
    sweep_drafts,
    write_revocation,
    write_vouching,
)
from twinhost.secure_zmq.keys import PUBLIC_SUFFIX, Certificate, KeyOwner, PublicKey
from twinhost.secure_zmq.peers import AuthorizedPeers, Standing
from twinhost.secure_zmq.validity import DAY_S, Validity
from twinhost.secure_zmq.wire import Request
from twinhost.secure_zmq.zcert import Z85_CHARACTERS, decode_z85_key


class EnrolledKeys:
    """Public keys by name; every change is on disk when its method returns, and may be repeated."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with contextlib.suppress(OSError):  # `fault` tells of a folder that can't be written
            for each in (folder, folder / REVOKED_FOLDER, folder / VOUCHED_FOLDER):
                sweep_drafts(each)

    @property
    def fault(self) -> str | None:
        """Why nobody can enrol at this moment."""
        writable = self._folder.is_dir() and os.access(self._folder, os.W_OK | os.X_OK)
        run = advice.certs_init(self._folder, "verify")
        return None if writable else f"{self._folder} can't be written, so nobody can enrol; run: {run}"

    def put(self, certificate: Certificate, voucher: PublicKey) -> None:
        """Authorise a key as the current one of its owner, and record the invitation that it came by.

        Raises:
            StoreUnavailable: the folder can't be written.
        """
        self._vouch(certificate, voucher)
        self._replace(certificate, PUBLIC_SUFFIX)

    def put_next(self, certificate: Certificate, voucher: PublicKey) -> None:
        """Authorise a key beside the current one of its owner, which vouched for it, and record that."""
        self._vouch(certificate, voucher)
        self._replace(certificate, NEXT_SUFFIX)

    def promote(self, certificate: Certificate) -> None:
        """Make the next key of an owner the current one."""
        self._replace(certificate, PUBLIC_SUFFIX)
        try:
            (self._folder / f"{certificate.owner.name}{NEXT_SUFFIX}").unlink(missing_ok=True)
        except OSError as error:
            raise self._told(error) from None

    def revoke(self, certificate: Certificate) -> None:
        """Keep a key out for ever."""
        try:
            write_revocation(certificate, self._folder / REVOKED_FOLDER)
        except OSError as error:
            raise self._told(error) from None

    def _vouch(self, certificate: Certificate, voucher: PublicKey) -> None:
        try:
            write_vouching(certificate.public.fingerprint, voucher.fingerprint, self._folder / VOUCHED_FOLDER)
        except OSError as error:
            raise self._told(error) from None

    def _replace(self, certificate: Certificate, suffix: str) -> None:
        try:
            replace_certificate(certificate, self._folder / f"{certificate.owner.name}{suffix}")
        except OSError as error:
            raise self._told(error) from None

    def _told(self, error: OSError) -> StoreUnavailable:
        return StoreUnavailable(
            f"{error.filename or self._folder} can't be written ({error.strerror}); see the folder's mode and space"
        )


class Rate:
    """At most so many times in so many seconds, for each of a small set of names."""

    def __init__(self, times: int, seconds: float) -> None:
        self._times = times
        self._seconds = seconds
        self._admitted: dict[str, deque[float]] = {}

    def admit(self, name: str) -> bool:
        """Return whether it may happen once more now; only then it is counted."""
        times = self._admitted.setdefault(name, deque(maxlen=self._times))
        now = time.monotonic()
        if len(times) == self._times and now - times[0] < self._seconds:
            return False
        times.append(now)
        return True


_EXAMPLE = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"  # the server's public key in libzmq's documentation
_Z85_KEY = Annotated[str, msgspec.Meta(min_length=Z85_CHARACTERS, max_length=Z85_CHARACTERS, examples=[_EXAMPLE])]


class Enrol(Request, tag=ENROL):
    """Propose the key that an invitation is for; `public_key` in Z85."""

    public_key: _Z85_KEY


class ProposeKey(Request, tag="propose_key"):
    """Propose the caller's own next key; `public_key` in Z85."""

    public_key: _Z85_KEY


class ConfirmKey(Request, tag=CONFIRM_KEY):
    """Authorise the key that this connection was made with."""


class RetireKeys(Request, tag="retire_keys"):
    """Revoke every other key of the caller than the one that this connection was made with."""


class GetTrust(Request, tag="get_trust"):
    """The public keys of everybody, and which keys are revoked."""


def public_key_in(text: str) -> PublicKey:
    """Return the key that a request tells in Z85.

    Raises:
        MalformedRequest: it is none.
    """
    try:
        return PublicKey(decode_z85_key(text.encode(), "the key"))
    except (KeyFileMalformed, UnicodeEncodeError) as error:
        raise MalformedRequest(f"{error} - at `$.public_key`") from None


class Enrolled(TypedDict):
    """Whose key it will be once it is confirmed."""

    status: Literal["success"]
    name: str
    host: str
    roles: list[str]


class Proposed(TypedDict):
    """The fingerprint of the key that is to be confirmed."""

    status: Literal["success"]
    fingerprint: str


class Trust(TypedDict):
    """Whom to trust: the texts of public key files, and the fingerprints of what is revoked."""

    revision: str
    current: tuple[str, ...]
    next: tuple[str, ...]
    revoked: tuple[str, ...]


class TrustTold(Trust):
    """The list of whom to trust."""

    status: Literal["success"]


class Confirmed(Trust):
    """The key counts; `certificate` is the text of its file."""

    status: Literal["success"]
    certificate: str


class Retired(TypedDict):
    """The fingerprints of the caller's other keys, which are revoked."""

    status: Literal["success"]
    retired: list[str]


_log = structlog.get_logger(__name__)

PROOF_WITHIN_S = 120  # from the proposal of a key to the connection that is made with it
ENROLMENTS_PER_MINUTE = 10  # of one invitation
PROPOSALS_PER_DAY = 100  # of one agent: a rotation takes one

Audit = Callable[..., None]  # an event's name, and its fields


class KeyActions(Feature):
    """The actions on keys; the folders are the only record, so a restart forgets nothing but open proposals."""

    def __init__(
        self,
        peers: AuthorizedPeers,
        enrolled: EnrolledKeys,
        audit: Audit,
        success: Literal["success"],
        lifetime_days: int,
    ) -> None:
        self._peers = peers
        self._enrolled = enrolled
        self._audit = audit
        self._success = success
        self._lifetime_s = lifetime_days * DAY_S
        self._vouchers: dict[str, Certificate] = {}  # who proposed a candidate, by the candidate's fingerprint
        self._enrolments = Rate(ENROLMENTS_PER_MINUTE, 60)  # by the fingerprint of the one-time key
        self._proposals = Rate(PROPOSALS_PER_DAY, DAY_S)  # by name
        self._held: tuple[FolderContents, TrustDocument] | None = None  # the last document, and what it is made of
        try:
            for invite in peers.contents.invites:
                self._end_if_used(invite)  # a crash came before that was noted
        except StoreUnavailable as error:  # no reason not to start: it enrols nobody while its owner has a key
            _log.error("used_invitation_not_ended", reason=str(error))
        peers.reload()

    @action(apart=True)
    def enrol(self, request: Enrol, caller: Caller) -> Enrolled:
        invite = self._invitation_of(caller)
        self._limit(invite)
        owner, key = invite.owner, public_key_in(request.public_key)
        if key not in (known := self._peers.keys_of(owner.name)):
            if known:
                self._refuse_second_key(invite, known[0])
            self._propose(owner, key, invite)
        return {"status": self._success, "name": owner.name, "host": owner.host, "roles": sorted(owner.roles)}

    @action(apart=True)
    def propose(self, request: ProposeKey, caller: Caller) -> Proposed:
        current = self._own_certificate(caller)
        key = public_key_in(request.public_key)
        if key not in self._peers.keys_of(caller.name):
            if self._peers.candidate(key.fingerprint) is None and not self._proposals.admit(caller.name):
                raise LimitReached(f"{caller.name} proposes {PROPOSALS_PER_DAY} keys a day at most; wait a day")
            self._propose(current.owner, key, current)
        return {"status": self._success, "fingerprint": key.fingerprint}

    @action(apart=True)
    def confirm(self, _: ConfirmKey, caller: Caller) -> Confirmed:
        fingerprint = caller.fingerprint or ""
        candidate = self._peers.candidate(fingerprint)
        if CANDIDATE_ROLE in caller.roles and candidate is not None:
            certificate = self._authorise(candidate)
        else:  # the answer to the first confirmation was lost
            certificate = self._certificate_of(caller.name.removeprefix(f"{CANDIDATE_ROLE}:"), caller)
            for invite in self._peers.contents.invites:
                if invite.owner.name == certificate.owner.name:
                    self._end_if_used(invite)  # the disk was full, and that could not be noted
        return {"status": self._success, "certificate": render_certificate(certificate), **self._trust()}

    @action(apart=True)
    def retire(self, _: RetireKeys, caller: Caller) -> Retired:
        own, before = self._own_certificate(caller), self._peers.contents
        others = [certificate for certificate in self._listed(caller.name) if certificate.public != own.public]
        for certificate in others:
            self._audit(
                "key_rotated",
                name=caller.name,
                fingerprint=own.public.fingerprint,
                retired=certificate.public.fingerprint,
            )
            self._enrolled.revoke(certificate)
        if promoted := before.next.get(caller.name) == own:
            self._enrolled.promote(own)
        if others or promoted:
            self._peers.reload()
        return {"status": self._success, "retired": [certificate.public.fingerprint for certificate in others]}

    @action()
    def trust(self, _: GetTrust, caller: Caller) -> TrustTold:
        return {"status": self._success, **self._trust()}

    def revision(self) -> str:
        """Return the revision of the list of whom to trust."""
        return self._document().revision

    def _trust(self) -> Trust:
        document = self._document()
        return {
            "revision": document.revision,
            "current": document.current,
            "next": document.next,
            "revoked": document.revoked,
        }

    def _document(self) -> TrustDocument:
        """Return the document; every heartbeat asks for its revision, so it is made once for each change."""
        contents, held = self._peers.contents, self._held
        if held is None or held[0] is not contents:
            held = self._held = contents, document_of(contents)
        return held[1]

    def _propose(self, owner: KeyOwner, key: PublicKey, voucher: Certificate) -> None:
        standing = self._peers.standing(key.fingerprint)
        if standing is Standing.REVOKED:
            raise NotGranted(f"{key.fingerprint} is revoked, for ever; make a new pair")
        candidate = self._peers.candidate(key.fingerprint)
        if standing is not Standing.UNKNOWN and (candidate is None or candidate.owner != owner):
            raise NotGranted(f"{key.fingerprint} is somebody else's key; make a new pair")
        now = int(time.time())
        self._peers.admit_candidate(Certificate(owner, key, Validity(now, now + PROOF_WITHIN_S)))
        self._vouchers[key.fingerprint] = voucher
        self._vouchers = {key: each for key, each in self._vouchers.items() if self._peers.candidate(key) is not None}

    def _authorise(self, candidate: Certificate) -> Certificate:
        now = int(time.time())
        certificate = Certificate(candidate.owner, candidate.public, Validity(now, now + self._lifetime_s))
        name, fingerprint = certificate.owner.name, certificate.public.fingerprint
        voucher = self._vouchers[fingerprint]
        if (fault := self._enrolled.fault) is not None:
            raise StoreUnavailable(fault)
        self._peers.reload()  # the watch may be a moment behind a revocation whose command has returned already
        invited = self._is_good(voucher, self._peers.contents.invites)
        if invited:
            if known := self._peers.keys_of(name):  # it came another way since the proposal
                self._peers.dismiss_candidate(certificate.public)
                self._refuse_second_key(voucher, known[0])
            self._enrolled.put(certificate, voucher.public)
        elif self._is_good(voucher, self._listed(name)):
            self._enrolled.put_next(certificate, voucher.public)
        else:
            self._refuse_over(voucher, certificate)
        self._peers.reload()
        contents = self._peers.contents
        if voucher.public.fingerprint in contents.revoked or (invited and voucher not in contents.invites):
            self._enrolled.revoke(
                certificate
            )  # whoever ended the voucher just then may have looked before this key lay
            self._peers.reload()  # there; who ends it from now on finds the key
            self._refuse_over(voucher, certificate)
        if invited:
            self._enrolled.revoke(voucher)
            self._peers.reload()
        if certificate.public not in self._peers.keys_of(name):
            raise StoreUnavailable(f"{fingerprint} was written and does not count; the agent's log says which file")
        self._peers.dismiss_candidate(certificate.public)
        del self._vouchers[fingerprint]
        return certificate

    def _is_good(self, voucher: Certificate, among: Sequence[Certificate]) -> bool:
        """Return whether what proposed a key is still among these as it was then, and lets its holder in."""
        return voucher in among and self._peers.find(voucher.public.raw) is not None

    def _listed(self, name: str) -> list[Certificate]:
        contents = self._peers.contents
        return [keys[name] for keys in (contents.current, contents.next) if name in keys]

    def _end_if_used(self, invite: Certificate) -> None:
        """Keep a one-time key out for ever where its owner has a key."""
        if self._peers.keys_of(invite.owner.name):
            self._enrolled.revoke(invite)

    def _own_certificate(self, caller: Caller) -> Certificate:
        return self._certificate_of(caller.name, caller)

    def _certificate_of(self, name: str, caller: Caller) -> Certificate:
        """Return the listed key of this name that the caller's connection was made with."""
        for certificate in self._listed(name):
            if certificate.public.fingerprint == caller.fingerprint:
                return certificate
        raise NotGranted(f"{caller.name} has no key here that could be proposed, confirmed, or retired; enrol one")

    def _invitation_of(self, caller: Caller) -> Certificate:
        if INVITATION_ROLE in caller.roles:
            for invite in self._peers.contents.invites:
                if invite.public.fingerprint == caller.fingerprint:
                    return invite
        raise NotGranted(f"{ENROL} takes the one-time key of an invitation; make one with: certs-init invite NAME")

    def _limit(self, invite: Certificate) -> None:
        if not self._enrolments.admit(invite.public.fingerprint):
            raise LimitReached(f"an invitation enrols {ENROLMENTS_PER_MINUTE} times a minute at most; wait a minute")

    def _refuse_second_key(self, invite: Certificate, known: PublicKey) -> NoReturn:
        sentence = f"{invite.owner.name} has a key already, {known.fingerprint}; revoke it first"
        self._refuse_enrolment(invite, "name_taken", sentence)

    def _refuse_over(self, voucher: Certificate, proposed: Certificate) -> NoReturn:
        self._peers.dismiss_candidate(proposed.public)  # else it could keep the loop at the disk by asking again
        sentence = "what proposed this key was used, withdrawn, or is over; ask for another"
        self._refuse_enrolment(voucher, "proposer_over", sentence)

    def _refuse_enrolment(self, voucher: Certificate, cause: str, sentence: str) -> NoReturn:
        self._audit(
            "enrolment_refused",
            cause=cause,
            name=voucher.owner.name,
            by=voucher.public.fingerprint,
            reason=sentence,
        )
        raise NotGranted(sentence)
