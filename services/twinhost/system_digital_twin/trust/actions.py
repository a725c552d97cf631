"""The actions on keys: enrolment with a one-time key, rotation, and the trust document.

A new key is proposed over a connection that proves who asks: with the one-time key of an invitation, or with the
agent's current key. Then its holder connects with the new key itself: the CURVE handshake proves that it has the
secret half. Only then is the key authorised. Every step may be repeated; what was confirmed is on disk before the
reply. No key takes the place of another one that is in use, but by `retirements`.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, NoReturn, NotRequired, TypedDict, cast

import msgspec
import structlog

from twinhost.agent.trust import TrustHistory
from twinhost.commands import CERTS_INIT, certs_init_command
from twinhost.moments import SYSTEM_CLOCK, Clock, iso_time
from twinhost.rate_limit import WindowLimit
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import CANDIDATE_ROLE, CONFIRM_KEY, ENROL, INVITATION_ROLE, Caller
from twinhost.secure_zmq.certificates import NEXT_SUFFIX, REVOKED_FOLDER, VOUCHED_FOLDER
from twinhost.secure_zmq.errors import KeyFileMalformed, LimitReached, MalformedRequest, NotGranted, StoreUnavailable
from twinhost.secure_zmq.key_writer import (
    render_certificate,
    replace_certificate,
    sweep_drafts,
    write_revocation,
    write_vouching,
)
from twinhost.secure_zmq.keys import (
    DAY_S,
    PUBLIC_SUFFIX,
    Z85_CHARACTERS,
    Certificate,
    KeyOwner,
    PublicKey,
    Validity,
    decode_z85_key,
)
from twinhost.secure_zmq.peers import AuthorizedPeers, Outcome
from twinhost.secure_zmq.wire import NAME, Request
from twinhost.store.audit_log.chain import AuditEvent
from twinhost.system_digital_twin import SUCCESS, Success
from twinhost.system_digital_twin.trust.retirements import Retirement, Retirements

_log = structlog.get_logger(__name__)

PROOF_WITHIN_S = 120  # from the proposal of a key to the connection that is made with it
ENROLMENTS_PER_MINUTE = 10  # per invitation
PROPOSALS_PER_DAY = 100  # per agent: a rotation takes one
_RETRY_S = 60.0  # a due retirement that can't be written
_INVITE = f"on mainpc run: {CERTS_INIT} invite NAME --host HOST --role ROLE"

_EXAMPLE = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"  # the server's public key in libzmq's documentation
_Z85_KEY = Annotated[str, msgspec.Meta(min_length=Z85_CHARACTERS, max_length=Z85_CHARACTERS, examples=[_EXAMPLE])]


class Enrol(Request, tag=ENROL):
    """Propose a key with the one-time key of an invitation; `public_key` is in Z85."""

    public_key: _Z85_KEY


class ProposeKey(Request, tag="propose_key"):
    """Propose the caller's own next key; `public_key` is in Z85.

    With `may_retire`, the present key agrees that the proposed one revokes it, once it is confirmed.
    """

    public_key: _Z85_KEY
    may_retire: bool = False


class ConfirmKey(Request, tag=CONFIRM_KEY):
    """Authorise the proposed key with which this connection was made."""


class RetireKeys(Request, tag="retire_keys"):
    """Revoke every key of the caller except the one with which this connection was made.

    A newer key revokes an older one at once if that agreed (`may_retire`) and is not in use, else in 24 hours. An older
    key that asks is not retired, and revokes a newer one that is not in use.
    """


class GetTrust(Request, tag="get_trust"):
    """Return the trust document: every public key, and the fingerprints of the revoked keys.

    With `since`, a revision that the caller has applied, it returns only what has changed since, if mainpc remembers
    that; else with `part` a part of the document, of which the first one is 0.
    """

    since: NAME | None = None
    part: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] | None = None


class Enrolled(Success):
    """The owner of the key, once it is confirmed."""

    name: str
    host: str
    roles: list[str]


class Proposed(Success):
    """The fingerprint of the key to confirm."""

    fingerprint: str


class Trust(TypedDict):
    """The trust document: the texts of public key files, and the fingerprints of revoked keys."""

    revision: str
    current: tuple[str, ...]
    next: tuple[str, ...]
    revoked: tuple[str, ...]


class TrustReply(Success, Trust):
    """The trust document, one of its `parts`, or what has changed since the revision `since`.

    Then `current` and `next` have all keys of the owners in `changed`, who have no others, and `revoked` has the
    fingerprints that were added.
    """

    since: NotRequired[str]
    changed: NotRequired[tuple[str, ...]]
    parts: NotRequired[int]


class Confirmed(Success, Trust):
    """The key is authorised; `certificate` is the text of its file."""

    certificate: str


class Waiting(TypedDict):
    """A key that stays until a moment; null: until it is not in use and this is asked again, or an operator acts."""

    fingerprint: str
    until: str | None


class Retired(Success):
    """The fingerprints of the caller's other keys, which are revoked; `waiting` has those that are not, if any."""

    retired: list[str]
    waiting: NotRequired[list[Waiting]]


class TrustEvent(TypedDict):
    """The trust document has changed; `get_trust` returns it."""

    timestamp: str
    revision: str | None


class EnrolledKeys:
    """The folder of the keys that this agent authorises: enrolled and rotated ones.

    Every change is on disk when its method returns, and may be repeated. A method raises StoreUnavailable if the folder
    can't be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with contextlib.suppress(OSError):  # `fault` reports a folder that can't be written
            for path in (folder, folder / REVOKED_FOLDER, folder / VOUCHED_FOLDER):
                sweep_drafts(path)

    @property
    def fault(self) -> str | None:
        """Why nobody can enrol at present."""
        writable = self._folder.is_dir() and os.access(self._folder, os.W_OK | os.X_OK)
        run = certs_init_command(self._folder, "verify")
        return None if writable else f"{self._folder} can't be written, so nobody can enrol; run: {run}"

    def put(self, certificate: Certificate, voucher: PublicKey, *, beside: bool = False) -> None:
        """Authorise a key as the current one of its owner, or `beside` it, and record which key proposed it."""
        with self._writing():
            write_vouching(certificate.public.fingerprint, voucher.fingerprint, self._folder / VOUCHED_FOLDER)
            self._replace(certificate, NEXT_SUFFIX if beside else PUBLIC_SUFFIX)

    def promote(self, certificate: Certificate) -> None:
        """Make the next key of an owner the current one."""
        with self._writing():
            self._replace(certificate, PUBLIC_SUFFIX)
            (self._folder / f"{certificate.owner.name}{NEXT_SUFFIX}").unlink(missing_ok=True)

    def revoke(self, certificate: Certificate) -> None:
        """Revoke a key; it can't be authorised again."""
        with self._writing():
            write_revocation(certificate, self._folder / REVOKED_FOLDER)

    def _replace(self, certificate: Certificate, suffix: str) -> None:
        replace_certificate(certificate, self._folder / f"{certificate.owner.name}{suffix}")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreUnavailable(
                f"{error.filename or self._folder} can't be written ({error.strerror}); check the folder's mode and "
                "the free space, and repeat the request"
            ) from None


class KeyActions(Feature):
    """The actions on keys. The folders are the only record: a restart loses nothing but open proposals."""

    def __init__(
        self,
        peers: AuthorizedPeers,
        enrolled: EnrolledKeys,
        retirements: Retirements,
        audit: Callable[..., None],
        lifetime_days: int,
        applied: Callable[[str, str], None] = lambda *_: None,
        clock: Clock = SYSTEM_CLOCK,
        keep: Callable[[], None] = lambda: None,
        keep_listed: Callable[[], None] = lambda: None,
    ) -> None:
        """Serve the keys.

        Args:
            audit: records an audit event with its fields.
            lifetime_days: of a new key.
            retirements: the older keys that newer ones may revoke.
            applied: called with a caller's name and the revision of the trust document that it has applied.
            keep: has a standby have what the files have; called before a reply says what they have.
            keep_listed: the same of the files that the list of keys was read from.
        """
        self._peers = peers
        self._applied = applied
        self._keep, self._keep_listed = keep, keep_listed
        self._enrolled = enrolled
        self._audit = audit
        self._retirements = retirements
        self.lifetime_days = lifetime_days
        self._retire_again_at = 0.0  # by the monotonic clock, after a failure
        self.quiet_s = 0.0  # a key that has sent nothing for so long is not in use
        self._vouchers: dict[str, Certificate] = {}  # the key that proposed a candidate, by the candidate's fingerprint
        self._clock = clock
        self._enrolments = WindowLimit(
            ENROLMENTS_PER_MINUTE, 60, clock.monotonic
        )  # by the fingerprint of the one-time key
        self._proposals = WindowLimit(PROPOSALS_PER_DAY, DAY_S, clock.monotonic)  # by name
        try:
            for invite in peers.contents.invites:
                self._end_if_used(invite)  # a crash came before that was recorded
        except StoreUnavailable as error:  # not fatal: it enrols nobody while its owner has a key
            _log.error("used_invitation_not_ended", reason=str(error))
        peers.reload()
        self._history = TrustHistory(lambda: peers.contents)

    @action(apart=True)
    def enrol(self, request: Enrol, caller: Caller) -> Enrolled:
        invite = self._invitation_of(caller)
        if not self._enrolments.take(invite.public.fingerprint):
            raise LimitReached(f"an invitation enrols {ENROLMENTS_PER_MINUTE} times a minute at most; wait a minute")
        owner, key = invite.owner, public_key_in(request.public_key)
        if key not in (known := self._peers.keys_of(owner.name)):
            if known:
                self._refuse_second_key(invite, known[0])
            self._propose(owner, key, invite)
        return {"status": SUCCESS, "name": owner.name, "host": owner.host, "roles": sorted(owner.roles)}

    @action(apart=True)
    def propose(self, request: ProposeKey, caller: Caller) -> Proposed:
        current = self._certificate_of(caller.name, caller)
        key = public_key_in(request.public_key)
        if key not in self._peers.keys_of(caller.name):
            if self._peers.candidate(key.fingerprint) is None and not self._proposals.take(caller.name):
                raise LimitReached(f"{caller.name} proposes {PROPOSALS_PER_DAY} keys a day at most; wait a day")
            self._propose(current.owner, key, current)
        if request.may_retire and key != current.public and self._peers.contents.current.get(caller.name) == current:
            self._retirements.agree(current.public.fingerprint, key.fingerprint)
            self._keep()
        return {"status": SUCCESS, "fingerprint": key.fingerprint}

    @action(apart=True)
    def confirm(self, _: ConfirmKey, caller: Caller) -> Confirmed:
        candidate = self._peers.candidate(caller.fingerprint or "")
        if CANDIDATE_ROLE in caller.roles and candidate is not None:
            certificate = self._authorise(candidate)
        else:  # the reply to the first confirmation was lost
            certificate = self._certificate_of(caller.name.removeprefix(f"{CANDIDATE_ROLE}:"), caller)
            for invite in self._peers.contents.invites:
                if invite.owner.name == certificate.owner.name:
                    self._end_if_used(invite)  # the disk was full, and that could not be recorded
        document = msgspec.structs.asdict(self._history.document())
        self._keep()
        return cast(Confirmed, {"status": SUCCESS, "certificate": render_certificate(certificate), **document})

    @action(apart=True)
    def retire(self, _: RetireKeys, caller: Caller) -> Retired:
        own, contents = self._certificate_of(caller.name, caller), self._peers.contents
        if self._retirements.withdraw(own.public.fingerprint):
            self._audit(AuditEvent.RETIREMENT_WITHDRAWN, name=caller.name, fingerprint=own.public.fingerprint)
        newer = contents.next.get(caller.name) == own
        retired: list[str] = []
        waiting: list[Waiting] = []
        for other in self._listed(caller.name):
            if other.public == own.public:
                continue
            fingerprint = other.public.fingerprint
            if not self._in_use(other) and (not newer or self._agreed(other, own)):
                self._revoke(own, other)
                retired.append(fingerprint)
            else:
                waiting.append({"fingerprint": fingerprint, "until": self._ask(own, other) if newer else None})
        if newer and not waiting:
            self._enrolled.promote(own)
        if retired or (newer and not waiting):
            self._peers.reload()
        self._keep()
        reply: Retired = {"status": SUCCESS, "retired": retired}
        return {**reply, "waiting": waiting} if waiting else reply

    @action(apart=True)  # where there is a standby, it has what is answered before that leaves
    def trust(self, request: GetTrust, caller: Caller) -> TrustReply:
        if request.since is not None:
            self._applied(caller.name, request.since)
        answer = msgspec.structs.asdict(self._history.answer(request.since, request.part))
        self._keep_listed()
        return cast(TrustReply, {"status": SUCCESS, **answer})

    def revision(self) -> str:
        """Return the revision of the trust document."""
        return self._history.document().revision

    def contested(self) -> Iterator[tuple[str, Retirement]]:
        """Yield the older keys that newer ones are going to revoke without their consent."""
        return self._retirements.contested()

    def on_tick(self) -> None:
        """Revoke the older keys whose time is over; forget those whose newer key was taken back or revoked."""
        if self._clock.monotonic() < self._retire_again_at:
            return
        try:
            for older, retirement in self._retirements.asked():
                self._retire_if_due(older, retirement)
        except StoreUnavailable as error:
            _log.error("key_not_retired", reason=str(error))
            self._retire_again_at = self._clock.monotonic() + _RETRY_S

    def _retire_if_due(self, fingerprint: str, retirement: Retirement) -> None:
        contents = self._peers.contents
        newer = next((key for key in contents.next.values() if key.public.fingerprint == retirement.newer), None)
        older = None if newer is None else contents.current.get(newer.owner.name)
        if newer is None or (older is not None and older.public.fingerprint != fingerprint):
            self._retirements.withdraw(fingerprint)
        elif older is None or self._clock.time() >= retirement.due:
            if older is not None:
                self._revoke(newer, older)
            self._enrolled.promote(newer)
            self._peers.reload()

    def _revoke(self, by: Certificate, key: Certificate) -> None:
        fingerprint, retired = by.public.fingerprint, key.public.fingerprint
        self._audit(AuditEvent.KEY_ROTATED, name=by.owner.name, fingerprint=fingerprint, retired=retired)
        self._enrolled.revoke(key)
        self._retirements.withdraw(retired)

    def _ask(self, newer: Certificate, older: Certificate) -> str:
        """Have an older key retired in due time, and return when that is."""
        fingerprint, retires = newer.public.fingerprint, older.public.fingerprint
        if retires not in dict(self._retirements.asked()):
            self._audit(AuditEvent.RETIREMENT_ASKED, name=newer.owner.name, fingerprint=fingerprint, retires=retires)
        return iso_time(self._retirements.ask(retires, fingerprint).due)

    def _agreed(self, older: Certificate, newer: Certificate) -> bool:
        """Return whether an older key agreed to be retired, or is over in any case."""
        is_over = self._peers.find(older.public.raw) is None
        return is_over or self._retirements.agreed(older.public.fingerprint, newer.public.fingerprint)

    def _in_use(self, key: Certificate) -> bool:
        """Return whether a key has sent something lately: whoever agrees in its name may not be all who have it."""
        seen = self._peers.last_seen(key.public.fingerprint)
        return seen is not None and self._clock.time() - seen < self.quiet_s

    def _propose(self, owner: KeyOwner, key: PublicKey, voucher: Certificate) -> None:
        verdict = self._peers.judge(key.raw)
        if verdict is Outcome.KEY_REVOKED:
            raise NotGranted(f"{key.fingerprint} is revoked permanently; generate a new key pair")
        candidate = self._peers.candidate(key.fingerprint)
        if verdict is not Outcome.KEY_NOT_AUTHORIZED and (candidate is None or candidate.owner != owner):
            raise NotGranted(f"{key.fingerprint} belongs to another owner; generate a new key pair")
        now = int(self._clock.time())
        self._peers.admit_candidate(Certificate(owner, key, Validity(now, now + PROOF_WITHIN_S)))
        self._vouchers[key.fingerprint] = voucher
        self._vouchers = {of: by for of, by in self._vouchers.items() if self._peers.candidate(of) is not None}

    def _authorise(self, candidate: Certificate) -> Certificate:
        now = int(self._clock.time())
        certificate = Certificate(candidate.owner, candidate.public, Validity(now, now + self.lifetime_days * DAY_S))
        name, fingerprint = certificate.owner.name, certificate.public.fingerprint
        voucher = self._vouchers[fingerprint]
        if (fault := self._enrolled.fault) is not None:
            raise StoreUnavailable(fault)
        self._peers.reload()  # the folder watch may lag behind a revocation whose command has returned already
        invited = self._is_good(voucher, self._peers.contents.invites)
        if invited:
            if known := self._peers.keys_of(name):  # the owner got another key since the proposal
                self._peers.dismiss_candidate(certificate.public)
                self._refuse_second_key(voucher, known[0])
            self._enrolled.put(certificate, voucher.public)
        elif self._is_good(voucher, self._listed(name)):
            self._require_replaceable(voucher, name)
            self._enrolled.put(certificate, voucher.public, beside=True)
        else:
            self._refuse_ended(voucher, certificate)
        self._peers.reload()
        contents = self._peers.contents
        if voucher.public.fingerprint in contents.revoked or (invited and voucher not in contents.invites):
            # Whoever revoked the voucher at this moment may have looked for its keys before this one was written.
            # Whoever revokes it from now on finds this key.
            self._enrolled.revoke(certificate)
            self._peers.reload()
            self._refuse_ended(voucher, certificate)
        if invited:
            self._enrolled.revoke(voucher)
            self._peers.reload()
        if certificate.public not in self._peers.keys_of(name):
            raise StoreUnavailable(f"{fingerprint} was written and is not authorised; this agent's log names the file")
        self._peers.dismiss_candidate(certificate.public)
        del self._vouchers[fingerprint]
        return certificate

    def _require_replaceable(self, voucher: Certificate, name: str) -> None:
        """Raise NotGranted if another next key is in use, which the one that is proposed would replace."""
        following = self._peers.contents.next.get(name)
        if following is not None and following != voucher and self._in_use(following):
            raise NotGranted(
                f"{name} uses its next key {following.public.fingerprint}, so no other one takes its place; finish "
                f"that rotation, or on mainpc run: {CERTS_INIT} revoke {following.public.fingerprint}"
            )

    def _is_good(self, voucher: Certificate, among: Sequence[Certificate]) -> bool:
        """Return whether the key that proposed another is unchanged among these, and still authorised."""
        return voucher in among and self._peers.find(voucher.public.raw) is not None

    def _listed(self, name: str) -> list[Certificate]:
        contents = self._peers.contents
        return [keys[name] for keys in (contents.current, contents.next) if name in keys]

    def _end_if_used(self, invite: Certificate) -> None:
        """Revoke a one-time key whose owner has a key."""
        if self._peers.keys_of(invite.owner.name):
            self._enrolled.revoke(invite)

    def _certificate_of(self, name: str, caller: Caller) -> Certificate:
        """Return the listed key of this name with which the caller's connection was made."""
        for certificate in self._listed(name):
            if certificate.public.fingerprint == caller.fingerprint:
                return certificate
        raise NotGranted(f"{caller.name} did not connect with a listed key of its own; to enrol one, {_INVITE}")

    def _invitation_of(self, caller: Caller) -> Certificate:
        if INVITATION_ROLE in caller.roles:
            for invite in self._peers.contents.invites:
                if invite.public.fingerprint == caller.fingerprint:
                    return invite
        raise NotGranted(f"{ENROL} takes the one-time key of an invitation; to make one, {_INVITE}")

    def _refuse_second_key(self, invite: Certificate, known: PublicKey) -> NoReturn:
        sentence = f"{invite.owner.name} has a key already, {known.fingerprint}; revoke it first, on mainpc: "
        sentence += f"{CERTS_INIT} revoke {known.fingerprint}"
        self._refuse_enrolment(invite, "name_taken", sentence)

    def _refuse_ended(self, voucher: Certificate, proposed: Certificate) -> NoReturn:
        self._peers.dismiss_candidate(proposed.public)  # else retries would keep the loop busy with disk reads
        sentence = "the key or invitation that proposed this key was used, withdrawn, revoked, or expired; to enrol "
        sentence += f"again, {_INVITE}"
        self._refuse_enrolment(voucher, "proposer_over", sentence)

    def _refuse_enrolment(self, voucher: Certificate, cause: str, sentence: str) -> NoReturn:
        name, fingerprint = voucher.owner.name, voucher.public.fingerprint
        self._audit(AuditEvent.ENROLMENT_REFUSED, cause=cause, name=name, by=fingerprint, reason=sentence)
        raise NotGranted(sentence)


def public_key_in(text: str) -> PublicKey:
    """Return the key that a request has in Z85; MalformedRequest if it is not a key."""
    try:
        return PublicKey(decode_z85_key(text.encode(), "the key"))
    except (KeyFileMalformed, UnicodeEncodeError) as error:
        raise MalformedRequest(f"{error} - at `$.public_key`") from None
