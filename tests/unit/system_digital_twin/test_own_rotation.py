"""An agent's own next key: proposed with the present one, proven with itself, and then the older one retired."""

import pytest

from tests.identities import new_pair
from tests.unit.asked import refused
from tests.unit.secure_zmq.wall_clock import NOW, WallClock
from tests.unit.system_digital_twin.key_bench import LIFETIME_DAYS, KeyBench, key_bench, key_clock
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.key_writer import write_certificate, write_revocation
from twinhost.secure_zmq.keys import DAY_S, Certificate, KeyPair, PublicKey, load_certificate
from twinhost.system_digital_twin.trust.actions import PROPOSALS_PER_DAY

pytestmark = pytest.mark.sdt_security


clock, bench = key_clock, key_bench


def propose(bench: KeyBench, old: KeyPair) -> KeyPair:
    """Have a fresh key proposed by the holder of another, which agrees to be retired by it, and return it."""
    pair = new_pair("made-on-its-host")
    assert bench.propose("propose_key", old, pair, may_retire=True)["status"] == "success"
    return pair


def confirm(bench: KeyBench, old: KeyPair) -> KeyPair:
    """Have a fresh key proposed and proven, and return it."""
    pair = propose(bench, old)
    assert bench.ask("confirm_key", pair)["status"] == "success"
    return pair


def test_a_key_is_rotated_with_both_good_in_between(bench: KeyBench) -> None:
    """Candidate, next beside current, current alone; the old one is out for ever, and says so."""
    old = bench.list_key("agent", "agent", "auditor")
    new = propose(bench, old)
    assert bench.caller(new).name == "candidate:agent"
    assert bench.is_in(old)
    reply = bench.ask("confirm_key", new)
    certificate = load_certificate(bench.enrolled_folder / "agent.next.key")
    assert reply["next"] == [reply["certificate"]]
    assert (certificate.owner, certificate.public) == (old.certificate.owner, new.public)
    assert certificate.validity.not_after == NOW + LIFETIME_DAYS * DAY_S
    assert bench.peers.keys_of("agent") == [old.public, new.public]
    assert bench.ask("retire_keys", new) == {"status": "success", "retired": [old.public.fingerprint]}
    assert bench.standing(old) == "revoked"
    assert bench.peers.keys_of("agent") == [new.public]
    assert bench.peers.public_key_of("agent") == new.public.z85
    assert [path.name for path in bench.enrolled_folder.glob("*.key")] == ["agent.key"]
    assert bench.caller(new).roles == {"agent", "auditor"}


def test_a_second_rotation_follows_the_first(bench: KeyBench) -> None:
    """The key that it replaces lies in the other folder by then."""
    keys = [bench.list_key("agent")]
    for _ in range(3):
        keys.append(confirm(bench, keys[-1]))
        bench.ask("retire_keys", keys[-1])
        bench.reopen()
    assert [bench.standing(pair) for pair in keys] == ["revoked"] * 3 + ["live"]
    assert bench.peers.reload().rejected == ()


def test_every_step_may_be_repeated(bench: KeyBench) -> None:
    """Whatever reply was lost, and whatever restarted in between."""
    old = bench.list_key("agent")
    new = new_pair()
    agreed = bench.propose("propose_key", old, new, may_retire=True)
    assert agreed == bench.propose("propose_key", old, new)
    session = bench.caller(new)
    first = bench.ask("confirm_key", session)
    assert first == bench.ask("confirm_key", session) == bench.ask("confirm_key", new)
    assert bench.propose("propose_key", old, new)["status"] == "success"
    bench.reopen()
    assert bench.ask("confirm_key", new) == first
    bench.ask("retire_keys", new)
    for _ in range(2):
        assert bench.ask("retire_keys", new) == {"status": "success", "retired": []}
        bench.reopen()
    assert bench.peers.keys_of("agent") == [new.public]


def test_a_retirement_that_was_cut_short_is_finished(bench: KeyBench) -> None:
    """The old key is revoked and the new one not yet in its place."""
    old = bench.list_key("agent")
    new = confirm(bench, old)
    bench.enrolled.revoke(old.certificate)
    bench.reopen()
    assert bench.ask("retire_keys", new)["status"] == "success"
    assert [path.name for path in bench.enrolled_folder.glob("*.key")] == ["agent.key"]
    assert bench.peers.public_key_of("agent") == new.public.z85


def test_the_older_key_may_take_the_next_one_back(bench: KeyBench) -> None:
    """A rotation that went wrong ends with the key that works; the other one is revoked."""
    old = bench.list_key("agent")
    new = confirm(bench, old)
    assert bench.ask("retire_keys", old) == {"status": "success", "retired": [new.public.fingerprint]}
    assert (bench.standing(old), bench.standing(new)) == ("live", "revoked")


def test_nothing_to_retire_reads_no_folder(bench: KeyBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent can't keep the loop at the disk by asking again and again."""
    old = bench.list_key("agent")
    monkeypatch.setattr(bench.peers, "reload", lambda: pytest.fail("the folders were read"))
    assert bench.ask("retire_keys", old)["retired"] == []


def test_a_key_proposed_by_a_revoked_key_is_not_confirmed(bench: KeyBench) -> None:
    """Who has a stolen key proposes another one with it; the theft is found; the proof comes after the revocation."""
    stolen = bench.list_key("agent")
    thiefs = propose(bench, stolen)
    bench.revoke(stolen)
    refused(
        bench.ask("confirm_key", thiefs), "not_granted", "proposed this key was used, withdrawn, revoked, or expired"
    )
    assert not list(bench.enrolled_folder.glob("*.key"))
    assert ("enrolment_refused", "agent") in bench.events()


def test_a_revocation_that_the_watch_has_not_seen_yet_counts(bench: KeyBench) -> None:
    """`certs-init revoke` has returned: a proof that comes before the watch's next look must not slip in."""
    stolen = bench.list_key("agent")
    thiefs = propose(bench, stolen)
    write_revocation(stolen.certificate, bench.folder / "revoked")
    session = bench.caller(thiefs)
    refused(
        bench.ask("confirm_key", session), "not_granted", "proposed this key was used, withdrawn, revoked, or expired"
    )
    refused(bench.ask("confirm_key", session), "not_granted", "did not connect with a listed key")
    assert not bench.is_in(thiefs)
    assert not list(bench.enrolled_folder.glob("*.key"))


def test_a_revocation_at_the_very_moment_of_the_proof_counts(bench: KeyBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looked for other keys of the name just before this one lay there: SystemDigitalTwin keeps it out itself."""
    stolen = bench.list_key("agent")
    thiefs = propose(bench, stolen)
    put = bench.enrolled.put

    def revoked_just_then(certificate: Certificate, voucher: PublicKey, *, beside: bool) -> None:
        write_revocation(stolen.certificate, bench.folder / "revoked")
        put(certificate, voucher, beside=beside)

    monkeypatch.setattr(bench.enrolled, "put", revoked_just_then)
    refused(
        bench.ask("confirm_key", thiefs), "not_granted", "proposed this key was used, withdrawn, revoked, or expired"
    )
    assert bench.standing(thiefs) == "revoked"
    bench.reopen()
    assert bench.standing(thiefs) == "revoked"


def test_an_agent_proposes_a_hundred_keys_a_day_at_most(bench: KeyBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each that is retired stays on everybody's list for ever: one agent must not make that list too long to send."""
    agent, other, kept = bench.list_key("agent"), bench.list_key("other"), new_pair()
    now = 1_000.0
    monkeypatch.setattr(bench.actions._proposals, "_clock", lambda: now)
    for _ in range(PROPOSALS_PER_DAY - 1):
        propose(bench, agent)
    for _ in range(3):  # a repeated request is no other proposal
        assert bench.propose("propose_key", agent, kept)["status"] == "success"
    refused(bench.propose("propose_key", agent, new_pair()), "limit_reached", "100 keys a day at most")
    propose(bench, other)
    now += DAY_S
    propose(bench, agent)


def test_the_trust_document_is_made_once_for_each_change(bench: KeyBench) -> None:
    """Every heartbeat of every agent asks for its revision, and with many keys it takes long to make."""
    bench.list_key("agent")
    first = bench.actions._history.document()
    assert bench.actions._history.document() is first
    bench.list_key("other")
    assert bench.actions._history.document().revision == bench.actions.revision() != first.revision


@pytest.mark.parametrize("change", ["removed", "expired", "demoted"])
def test_a_proposal_ends_with_what_proposed_it(bench: KeyBench, clock: WallClock, change: str) -> None:
    """A key that was removed, that has expired, or whose owner has other roles by now."""
    limits = type(new_pair().certificate.validity)(None, NOW + 10)
    old = bench.list_key("agent", "operator", validity=limits if change == "expired" else None)
    new = propose(bench, old)
    path = bench.folder / "agent.key"
    if change == "expired":
        clock.now = NOW + 71
    else:
        path.unlink()
    if change == "demoted":
        write_certificate(type(old.certificate)(new_pair("agent").certificate.owner, old.public), path)
    bench.peers.reload()
    refused(bench.ask("confirm_key", new), "not_granted", "proposed this key was used, withdrawn, revoked, or expired")
    assert not list(bench.enrolled_folder.glob("*.key"))


@pytest.mark.parametrize("whose", ["another agent's", "its own revoked", "another's revoked", "a token", "expired"])
def test_a_key_that_is_known_is_not_proposed(bench: KeyBench, whose: str) -> None:
    """Whoever it belongs to, or belonged to."""
    agent, victim = bench.list_key("agent"), bench.list_key("victim")
    if whose == "its own revoked":
        pair = confirm(bench, agent)
        bench.ask("retire_keys", agent)
    elif whose == "a token":
        pair = bench.invite()
    elif whose == "expired":
        pair = bench.list_key("over", validity=type(victim.certificate.validity)(None, NOW - 1_000))
    else:
        pair = victim
        if whose == "another's revoked":
            bench.revoke(victim)
    reply = bench.propose("propose_key", agent, pair)
    refused(reply, "not_granted", "is revoked permanently" if "revoked" in whose else "belongs to another owner")
    assert bench.peers.candidate(pair.public.fingerprint) is None


def test_an_agent_proposes_for_itself_alone(bench: KeyBench) -> None:
    """There is no name in the request, and one in it is ignored: also an operator proposes its own key."""
    operator, victim = bench.list_key("operator", "operator"), bench.list_key("victim")
    pair = new_pair()
    fields = {"public_key": pair.public.z85.decode(), "name": "victim", "agent_name": "victim"}
    assert bench.ask("propose_key", operator, **fields)["status"] == "success"
    bench.ask("confirm_key", pair)
    assert bench.caller(pair).name == "operator"
    assert bench.peers.keys_of("victim") == [victim.public]


def test_a_pending_key_is_not_taken_over_by_another_agent(bench: KeyBench) -> None:
    """Else the proof of the one would make its key the other's."""
    first, second = bench.list_key("first"), bench.list_key("second")
    pair = propose(bench, first)
    refused(bench.propose("propose_key", second, pair), "not_granted", "belongs to another owner")
    bench.ask("confirm_key", pair)
    assert bench.caller(pair).name == "first"


def test_the_present_key_is_no_next_one(bench: KeyBench) -> None:
    """Proposing it again changes nothing."""
    old = bench.list_key("agent")
    assert bench.propose("propose_key", old, old) == {"status": "success", "fingerprint": old.public.fingerprint}
    assert bench.peers.candidate(old.public.fingerprint) is None
    assert bench.ask("confirm_key", old)["certificate"] == (bench.folder / "agent.key").read_text()


def test_another_proposal_replaces_a_confirmed_one(bench: KeyBench) -> None:
    """A host that lost its new secret begins again: one next key, the last."""
    old = bench.list_key("agent")
    lost, kept = confirm(bench, old), confirm(bench, old)
    assert bench.peers.keys_of("agent") == [old.public, kept.public]
    assert not bench.is_in(lost)
    bench.ask("retire_keys", kept)
    assert bench.peers.keys_of("agent") == [kept.public]


@pytest.mark.parametrize("action", ["propose_key", "confirm_key", "retire_keys"])
@pytest.mark.parametrize("name", ["agent", "stranger", "candidate:agent", "invitation:agent"])
def test_a_key_that_is_not_listed_has_nothing_to_change(bench: KeyBench, action: str, name: str) -> None:
    """Whatever the session's name: the fingerprint is what counts. The loop ends such a session before that."""
    bench.list_key("agent")
    ghost = Caller(name, "pc2", frozenset({"agent"}), "SHA256:ghost")
    fields = {"public_key": new_pair().public.z85.decode()} if action == "propose_key" else {}
    refused(bench.ask(action, ghost, **fields), "not_granted", "did not connect with a listed key")


def test_the_trust_document_lists_everybodys_keys(bench: KeyBench) -> None:
    """Current, next, revoked; no token, and nobody's secret."""
    old, other = bench.list_key("agent"), bench.list_key("other")
    bench.invite()
    new = confirm(bench, old)
    gone = bench.list_key("gone")
    bench.revoke(gone)
    reply = bench.ask("get_trust", other)
    texts = {
        kind: [text.split('public-key = "')[1][:40].encode() for text in reply[kind]] for kind in ("current", "next")
    }
    assert sorted(texts["current"]) == sorted([old.public.z85, other.public.z85])
    assert texts["next"] == [new.public.z85]
    assert reply["revoked"] == [gone.public.fingerprint]
    assert reply["revision"] == bench.actions.revision()
    assert "secret" not in str(reply).lower()


def test_get_trust_has_what_changed_since_a_revision(bench: KeyBench) -> None:
    """Of a revision that is not remembered, as after a restart, it has the whole document."""
    old, other = bench.list_key("agent"), bench.list_key("other")
    before = bench.ask("get_trust", other)
    assert "since" not in before
    new = confirm(bench, old)
    reply = bench.ask("get_trust", other, since=before["revision"])
    assert (reply["since"], reply["changed"], reply["revoked"]) == (before["revision"], ["agent"], [])
    assert (len(reply["current"]), len(reply["next"])) == (1, 1)
    assert new.public.z85.decode() in reply["next"][0]
    bench.ask("retire_keys", new)
    retired = bench.ask("get_trust", other, since=reply["revision"])
    assert (retired["changed"], retired["next"], retired["revoked"]) == (["agent"], [], [old.public.fingerprint])
    bench.reopen()
    assert "since" not in bench.ask("get_trust", other, since=before["revision"])
    assert bench.ask("get_trust", other, since=retired["revision"])["changed"] == []


def test_a_life_is_as_long_as_configured(bench: KeyBench, clock: WallClock) -> None:
    """And after it the agent is out, like everybody."""
    old = bench.list_key("agent")
    new = confirm(bench, old)
    clock.now = NOW + LIFETIME_DAYS * DAY_S + 60
    assert bench.is_in(new)
    clock.now += 1
    assert bench.standing(new) == "expired"


def test_it_is_recorded_which_key_authorised_which(bench: KeyBench) -> None:
    """Of a rotation the key before it, of an enrolment the invitation; before the key is good, and for ever."""
    old, token = bench.list_key("agent"), bench.invite("newcomer")
    new = confirm(bench, old)
    bench.ask("retire_keys", new)
    newcomer = bench.enrol(token)
    records = {path.read_text() for path in (bench.enrolled_folder / "vouched").iterdir()}
    assert records == {
        f"{key.public.fingerprint} {by.public.fingerprint}\n" for key, by in ((new, old), (newcomer, token))
    }


def test_a_key_is_not_authorised_where_that_cannot_be_recorded(bench: KeyBench) -> None:
    """A file is in the folder's place; the proposal stays open, and is authorised once the record can be made."""
    old = bench.list_key("agent")
    new = propose(bench, old)
    (bench.enrolled_folder / "vouched").touch()
    refused(bench.ask("confirm_key", new), "store_unavailable", "can't be written")
    assert bench.peers.keys_of("agent") == [old.public]
    (bench.enrolled_folder / "vouched").unlink()
    assert bench.ask("confirm_key", new)["status"] == "success"
