"""Enrolment by a one-time key: what a token can do, once, and all that it can't."""

import pytest

from tests.identities import new_pair
from tests.unit.asked import refused
from tests.unit.secure_zmq.wall_clock import NOW, WallClock
from tests.unit.system_digital_twin.key_bench import LIFETIME_DAYS, KeyBench, key_bench, key_clock
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import StoreUnavailable
from twinhost.secure_zmq.key_writer import write_certificate, write_revocation
from twinhost.secure_zmq.keys import DAY_S, Certificate, PublicKey, load_certificate
from twinhost.system_digital_twin.trust.actions import ENROLMENTS_PER_MINUTE, PROOF_WITHIN_S

pytestmark = pytest.mark.sdt_security


clock, bench = key_clock, key_bench


def test_a_newcomer_enrols_proves_and_is_in(bench: KeyBench) -> None:
    """Name, host, and roles are the invitation's; the certificate that comes back is good for the configured time."""
    token, pair = bench.invite("newcomer", "agent", "auditor"), new_pair("somebody", "elsewhere", "operator")
    reply = bench.propose("enrol", token, pair)
    assert reply == {"status": "success", "name": "newcomer", "host": "pc3", "roles": ["agent", "auditor"]}
    assert bench.caller(pair).name == "candidate:newcomer"
    assert not list(bench.enrolled_folder.glob("*.key")), "nothing is authorised that was not proven"
    reply = bench.ask("confirm_key", pair)
    certificate = load_certificate(bench.enrolled_folder / "newcomer.key")
    assert (certificate.public, certificate.owner) == (pair.public, token.certificate.owner)
    assert (certificate.validity.not_before, certificate.validity.not_after) == (NOW, NOW + LIFETIME_DAYS * DAY_S)
    assert reply["certificate"] == (bench.enrolled_folder / "newcomer.key").read_text()
    assert reply["certificate"] in reply["current"]
    assert reply["revision"] == bench.actions.revision()
    assert token.public.fingerprint in reply["revoked"]
    assert bench.caller(pair) == Caller("newcomer", "pc3", frozenset({"agent", "auditor"}), pair.public.fingerprint)


def test_a_token_is_used_once(bench: KeyBench) -> None:
    """It is out at the handshake, and whoever still has a session with it gets nothing; a restart changes nothing."""
    token = bench.invite()
    session = bench.caller(token)
    bench.enrol(token)
    for _ in range(2):
        assert bench.standing(token) == "revoked"
        reply = bench.ask("enrol", session, public_key=new_pair().public.z85.decode())
        refused(reply, "not_granted", "enrol takes the one-time key of an invitation")
        bench.reopen()


def test_a_token_stays_used_when_its_key_is_revoked(bench: KeyBench) -> None:
    """Who was thrown out does not come back by the same door."""
    token = bench.invite()
    pair = bench.enrol(token)
    bench.revoke(pair)
    assert not bench.is_in(pair)
    assert bench.standing(token) == "revoked"
    fresh = bench.invite(stem="again")
    assert bench.is_in(bench.enrol(fresh))


def test_every_step_may_be_repeated(bench: KeyBench) -> None:
    """A reply that was lost is asked for again: over the same connection, over a new one, and after a restart."""
    token, pair = bench.invite(), new_pair()
    assert bench.propose("enrol", token, pair) == bench.propose("enrol", token, pair)
    session = bench.caller(pair)
    first = bench.ask("confirm_key", session)
    assert first["status"] == "success"
    text = (bench.enrolled_folder / "newcomer.key").read_text()
    assert bench.ask("confirm_key", session) == first
    assert bench.ask("confirm_key", pair) == first
    bench.reopen()
    assert bench.ask("confirm_key", pair) == first
    assert (bench.enrolled_folder / "newcomer.key").read_text() == text


def test_a_restart_forgets_a_proposal_and_it_is_made_again(bench: KeyBench) -> None:
    """The token is as good as before."""
    token, pair = bench.invite(), new_pair()
    bench.propose("enrol", token, pair)
    bench.reopen()
    assert not bench.is_in(pair)
    bench.enrol(token, pair)


def test_of_two_keys_of_one_invitation_the_last_one_counts(bench: KeyBench) -> None:
    """The first is out before it is proven; and afterwards it can't be proven."""
    token, first, second = bench.invite(), new_pair(), new_pair()
    bench.propose("enrol", token, first)
    session = bench.caller(first)
    bench.propose("enrol", token, second)
    assert not bench.is_in(first)
    refused(bench.ask("confirm_key", session), "not_granted", "did not connect with a listed key")
    assert bench.ask("confirm_key", second)["status"] == "success"
    refused(bench.ask("confirm_key", session), "not_granted", "did not connect with a listed key")
    assert load_certificate(bench.enrolled_folder / "newcomer.key").public == second.public


@pytest.mark.parametrize("end", ["withdrawn", "expired", "revoked"])
def test_an_invitation_that_ended_enrols_nobody(bench: KeyBench, clock: WallClock, end: str) -> None:
    """Neither before the proposal nor between it and the proof."""
    token, pair = bench.invite(not_after=NOW + 50), new_pair()
    session = bench.caller(token)
    bench.propose("enrol", token, pair)
    if end == "withdrawn":
        bench.withdraw()
    elif end == "revoked":
        bench.revoke(token)
    else:
        clock.now = NOW + 50 + 61
    assert not bench.is_in(token)
    refused(bench.ask("confirm_key", pair), "not_granted", "proposed this key was used, withdrawn, revoked, or expired")
    assert not list(bench.enrolled_folder.glob("*.key"))
    if end != "expired":  # then the session is ended with PeerNotLive before anything is asked
        refused(bench.ask("enrol", session, public_key=new_pair().public.z85.decode()), "not_granted", "takes the one")
    assert ("enrolment_refused", "newcomer") in bench.events()


@pytest.mark.parametrize("when", ["before the watch's look", "at the very moment"])
@pytest.mark.parametrize("end", ["withdrawn", "revoked"])
def test_an_invitation_that_ended_this_moment_enrols_nobody(
    bench: KeyBench, monkeypatch: pytest.MonkeyPatch, end: str, when: str
) -> None:
    """`certs-init reject` has returned, or is under way while the proof comes."""
    token, pair = bench.invite(), new_pair()
    bench.propose("enrol", token, pair)

    def end_it() -> None:
        if end == "withdrawn":
            (bench.folder / "invites/newcomer.key").unlink()
        else:
            write_revocation(token.certificate, bench.folder / "revoked")

    put = bench.enrolled.put

    def put_after_the_end(certificate: Certificate, voucher: PublicKey) -> None:
        end_it()
        put(certificate, voucher)

    if when == "at the very moment":
        monkeypatch.setattr(bench.enrolled, "put", put_after_the_end)
    else:
        end_it()
    refused(bench.ask("confirm_key", pair), "not_granted", "proposed this key was used, withdrawn, revoked, or expired")
    bench.peers.reload()
    assert not bench.is_in(pair)
    assert bench.peers.keys_of("newcomer") == []


def test_a_proof_that_comes_too_late_is_none(bench: KeyBench, clock: WallClock) -> None:
    """Two minutes and the tolerance; the token may try again."""
    token, pair = bench.invite(), new_pair()
    bench.propose("enrol", token, pair)
    clock.now = NOW + PROOF_WITHIN_S + 61
    assert not bench.is_in(pair)
    bench.enrol(token, pair)


def test_a_name_that_has_a_key_is_not_enrolled(bench: KeyBench) -> None:
    """Whoever invites under a name that is taken takes nothing over; the refusal says what to do, and is audited."""
    present = bench.list_key("newcomer")
    token = bench.invite("newcomer")
    refused(bench.propose("enrol", token, new_pair()), "not_granted", "newcomer has a key already, SHA256:")
    assert bench.is_in(present)
    (line,) = [line for line in bench.audited() if line["event"] == "enrolment_refused"]
    assert (line["cause"], line["name"], line["by"]) == ("name_taken", "newcomer", token.public.fingerprint)
    bench.revoke(present)
    bench.enrol(token)


def test_a_key_that_came_another_way_meanwhile_is_not_replaced(bench: KeyBench) -> None:
    """An operator accepts the same name by hand between proposal and proof: what was put there stays."""
    token, pair = bench.invite("newcomer"), new_pair()
    bench.propose("enrol", token, pair)
    by_hand = new_pair("newcomer", "pc3")
    write_certificate(by_hand.certificate, bench.enrolled_folder / "newcomer.key")
    bench.peers.reload()
    refused(bench.ask("confirm_key", pair), "not_granted", "newcomer has a key already")
    assert load_certificate(bench.enrolled_folder / "newcomer.key") == by_hand.certificate


@pytest.mark.parametrize("whose", ["listed", "expired", "its own token", "another token", "revoked"])
def test_a_key_that_is_known_is_not_enrolled(bench: KeyBench, whose: str) -> None:
    """Somebody else's, good or not, a one-time key, and one that was thrown out."""
    token = bench.invite("newcomer")
    if whose == "listed":
        pair = bench.list_key("victim")
    elif whose == "expired":
        pair = bench.list_key("victim", validity=type(token.certificate.validity)(None, NOW - 1_000))
    elif whose == "its own token":
        pair = token
    elif whose == "another token":
        pair = bench.invite("third")
    else:
        pair = bench.list_key("victim")
        bench.revoke(pair)
    reply = bench.propose("enrol", token, pair)
    refused(reply, "not_granted", "is revoked permanently" if whose == "revoked" else "belongs to another owner")
    assert bench.peers.candidate(pair.public.fingerprint) is None


def test_a_key_that_another_peer_proposed_is_not_taken_over(bench: KeyBench) -> None:
    """Else its holder's proof would make it the key of whoever proposed it last."""
    first, second, pair = bench.invite("first"), bench.invite("second"), new_pair()
    bench.propose("enrol", first, pair)
    refused(bench.propose("enrol", second, pair), "not_granted", "belongs to another owner")
    agent = bench.list_key("agent")
    refused(bench.propose("propose_key", agent, pair), "not_granted", "belongs to another owner")
    assert bench.ask("confirm_key", pair)["status"] == "success"
    assert bench.caller(pair).name == "first"


def test_an_invitation_enrols_ten_times_a_minute_at_most(bench: KeyBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each invitation by itself; a minute later it may again."""
    token, other = bench.invite("newcomer"), bench.invite("other")
    now = 1_000.0
    monkeypatch.setattr(bench.actions._enrolments, "_clock", lambda: now)
    for _ in range(ENROLMENTS_PER_MINUTE):
        assert bench.propose("enrol", token, new_pair())["status"] == "success"
    refused(bench.propose("enrol", token, new_pair()), "limit_reached", "10 times a minute at most")
    assert bench.propose("enrol", other, new_pair())["status"] == "success"
    now += 59.9
    refused(bench.propose("enrol", token, new_pair()), "limit_reached", "wait a minute")
    now += 0.2
    assert bench.propose("enrol", token, new_pair())["status"] == "success"


def test_what_many_proposals_leave_in_memory_is_bounded(
    bench: KeyBench, clock: WallClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that proposes for weeks and never proves leaves one proposal."""
    token, now = bench.invite("newcomer"), 1_000.0
    monkeypatch.setattr(bench.actions._enrolments, "_clock", lambda: now)
    for _ in range(100):
        now += 60
        assert bench.propose("enrol", token, new_pair())["status"] == "success"
    assert len(bench.actions._vouchers) == 1


@pytest.mark.parametrize("key", ["", "0" * 39, "0" * 41, "~" * 40, "#" * 40, "0" * 40, "ä" * 40, 5, None])
def test_what_is_no_key_is_malformed(bench: KeyBench, key: object) -> None:
    """Too short, too long, foreign characters, over 32 bits, all zero, another type; the field is named."""
    token = bench.invite()
    refused(bench.ask("enrol", token, public_key=key), "malformed_request", "$.public_key")


def test_a_token_may_enrol_and_nothing_else(bench: KeyBench) -> None:
    """Not even where its invitation is for an operator."""
    token = bench.invite("newcomer", "operator")
    for action in ("confirm_key", "retire_keys", "get_trust", "propose_key"):
        fields = {"public_key": new_pair().public.z85.decode()} if action == "propose_key" else {}
        refused(bench.ask(action, token, **fields), "not_granted", f"{action} is not granted to invitation:newcomer")


def test_a_candidate_may_confirm_and_nothing_else(bench: KeyBench) -> None:
    """Not even read the trust document."""
    token, pair = bench.invite("newcomer", "operator"), new_pair()
    bench.propose("enrol", token, pair)
    for action in ("enrol", "retire_keys", "get_trust", "propose_key"):
        fields = {"public_key": new_pair().public.z85.decode()} if action in {"enrol", "propose_key"} else {}
        refused(bench.ask(action, pair, **fields), "not_granted", f"{action} is not granted to candidate:newcomer")


@pytest.mark.parametrize("role", ["agent", "operator", "invitation", "candidate"])
def test_nobody_else_enrols(bench: KeyBench, role: str) -> None:
    """Not an operator; and not who has a listed key with the role of an invitation."""
    pair = bench.list_key("agent", role)
    refused(bench.propose("enrol", pair, new_pair()), "not_granted", "enrol")


def test_an_unwritable_folder_uses_up_no_token(bench: KeyBench) -> None:
    """The newcomer gets the error, and enrols once it is repaired."""
    token, pair = bench.invite(), new_pair()
    bench.propose("enrol", token, pair)
    bench.enrolled_folder.rename(bench.root / "away")
    bench.enrolled_folder.touch()
    refused(bench.ask("confirm_key", pair), "store_unavailable", "can't be written")
    bench.enrolled_folder.unlink()
    (bench.root / "away").rename(bench.enrolled_folder)
    bench.peers.reload()
    bench.enrol(token, pair)


def test_a_token_whose_use_cant_be_stored_is_still_used(bench: KeyBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full between the two files: the repeated confirmation ends the token, and so does a restart."""
    for restart in (False, True):
        name = f"newcomer-{restart}"
        token, pair = bench.invite(name), new_pair()
        bench.propose("enrol", token, pair)
        with monkeypatch.context() as patch:
            patch.setattr(bench.enrolled, "revoke", full_disk)
            refused(bench.ask("confirm_key", pair), "store_unavailable", "no space")
        bench.peers.reload()  # as the watch does
        assert bench.caller(pair).name == name
        assert bench.is_in(token)
        if restart:
            bench.reopen()
        else:
            assert bench.ask("confirm_key", pair)["status"] == "success"
            bench.peers.reload()
        assert bench.standing(token) == "revoked"


def full_disk(*_: object) -> None:
    raise StoreUnavailable("no space")


def test_a_used_token_that_can_not_be_ended_stops_no_start(bench: KeyBench) -> None:
    """It enrols nobody while its owner has a key; and mainpc's agent must run."""
    bench.list_key("newcomer")
    token = bench.invite("newcomer")
    (bench.enrolled_folder / "revoked").touch()  # where the folder would be made
    bench.reopen()
    (bench.enrolled_folder / "revoked").unlink()
    bench.reopen()
    assert bench.standing(token) == "revoked"


def test_a_key_that_was_written_and_does_not_count_is_no_success(bench: KeyBench) -> None:
    """Another file gives the same name another key: the newcomer must not believe that it is in."""
    agent, following = bench.list_key("agent"), new_pair()
    write_certificate(new_pair("agent").certificate, bench.folder / "agent.next.key")
    bench.peers.reload()
    bench.propose("propose_key", agent, following)
    refused(bench.ask("confirm_key", following), "store_unavailable", "was written and is not authorised")


def test_a_batch_that_is_lost_loses_no_enrolment(bench: KeyBench) -> None:
    """Files take no part in the transaction that a mutating neighbour loses: both parts are answered as they are."""
    token, pair = bench.invite(), new_pair()
    bench.propose("enrol", token, pair)
    doomed = Caller("doomed", "pc2", frozenset({"doomed"}), "SHA256:x")
    confirmed, lost = bench.ask_together(("confirm_key", pair, {}), ("doom", doomed, {}))
    assert lost["code"] == "store_unavailable"
    assert confirmed["status"] == "success"
    assert bench.caller(pair).name == "newcomer"
    bench.look()
    assert bench.events().count(("invitation_used", "newcomer")) == 1
