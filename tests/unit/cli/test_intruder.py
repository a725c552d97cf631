"""`doctor --intruder`: agents as they are refuse everything; with any one defence taken out the report turns red."""

import json
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import zmq

import twinhost.secure_zmq.feed
from tests.unit.cli.bare_agents import (
    CredulousCurve,
    bare_router,
    greet_and_swallow,
    listener,
    ok,
    swallow,
    talk_and_hang_up,
    target_at,
)
from tests.unit.cli.loopback_agents import GRANTS, SDT, UMRA, StartHosts, TwoHosts
from tests.unit.cli.running import Cli, Ran
from twinhost.adversary import campaign, insiders, payloads, strangers, tampering
from twinhost.adversary.attack import SERVED_WITHIN_S, Attack, AttackedAgent, AttackOutcome, Finding, Verdict, defended
from twinhost.adversary.campaign import (
    ATTACKS,
    FEED_ATTACKS,
    LEGITIMATE_CLIENT,
    NOT_FROM_OUTSIDE,
    OTHER_SITES,
    play_against,
)
from twinhost.adversary.zmtp import RawConnection
from twinhost.agent.http import HostGuard
from twinhost.cli.doctor.command import Format, show_report, target_of
from twinhost.deployment import load_settings
from twinhost.secure_zmq import dispatch, handshake_guard, sockets
from twinhost.secure_zmq.feed import Feed

pytestmark = pytest.mark.thorough

BY_NAME = {attack.name: attack for attack in ATTACKS}
SHORT_S = 1.0  # to wait for what never comes
OPERATORS_OWN = {"another's name in the body", "an action not granted"}  # everything is granted to an operator
HANDOVER, MAXMSGSIZE = (zmq.ROUTER_HANDOVER, 1), (zmq.MAXMSGSIZE, -1)


def play(name: str, target: AttackedAgent) -> AttackOutcome:
    return BY_NAME[name].play(target)


def against(hosts: TwoHosts, agent: str = SDT) -> AttackedAgent:
    settings = load_settings(hosts.environment)
    return target_of(settings, settings.config.agent(agent))


def play_at_the_feed(name: str, target: AttackedAgent) -> AttackOutcome:
    """Play without the legitimate subscriber that follows: what the attack itself says counts."""
    (attack,) = (attack for attack in FEED_ATTACKS if attack.name == f"{name}, at the event feed")
    return attack.play(target)


def came_through(outcome: AttackOutcome, words: str) -> None:
    assert outcome.verdict is Verdict.FAILED, outcome
    assert words in outcome.sentence, outcome


def verdicts(ran: Ran) -> dict[tuple[str, str], str]:
    return {(check["where"], check["check"]): check["verdict"] for check in json.loads(ran.out)["checks"]}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[Finding]]:
    """The whole list against both agents as they are, once and at the same time, with an agent's key."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sockets, "_HANDSHAKE_TIMEOUT_MS", 1_500)
        hosts = TwoHosts(tmp_path_factory.mktemp("played") / "hosts", secure=True)
    hosts.register_umra()
    hosts.folders["operator"] = hosts.folders["client"]
    attacks = {SDT: (*ATTACKS, *FEED_ATTACKS), UMRA: ATTACKS}
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda name: tuple(play_against(against(hosts, name), attacks[name])), attacks)
        yield tuple(finding for findings in found for finding in findings)
    hosts.stop()


def test_agents_as_they_are_refuse_everything(played: Sequence[Finding]) -> None:
    """Legitimate clients are served after each; what can't be played from outside is reported as such."""
    seen = {(finding.where, finding.check): finding.verdict for finding in played}
    not_played = {attack.name for attack in NOT_FROM_OUTSIDE}
    assert set(seen) == {
        *((agent, name) for agent in (SDT, UMRA) for name in (LEGITIMATE_CLIENT, *BY_NAME)),
        *((SDT, attack.name) for attack in FEED_ATTACKS),
    }
    assert {name for (_, name), verdict in seen.items() if verdict is Verdict.NOT_PLAYED} == not_played
    assert [finding for finding in played if finding.verdict not in (Verdict.OK, Verdict.NOT_PLAYED)] == []


@pytest.mark.parametrize("form", list(Format))
def test_every_form_of_the_report_has_every_attack(
    played: Sequence[Finding], capsys: pytest.CaptureFixture[str], form: Format
) -> None:
    """Text that fits, one JSON object, and JUnit XML whose sums are those of its cases."""
    show_report("Intruder", played, form)
    out = capsys.readouterr().out
    skipped = 2 * len(NOT_FROM_OUTSIDE)
    if form is Format.TEXT:
        assert max(len(line) for line in out.splitlines()) <= 100
        assert (
            out.splitlines()[-1] == f"Intruder: {len(played) - skipped} ok, 0 warning, 0 failed, {skipped} not played"
        )
    elif form is Format.JSON:
        document = json.loads(out)
        assert (document["status"], out.count("\n")) == ("ok", 1)
        assert [(check["where"], check["check"]) for check in document["checks"]] == [
            (finding.where, finding.check) for finding in played
        ]
    else:
        root = ElementTree.fromstring(out)
        cases = root.findall("testsuite/testcase")
        assert [suite.get("name") for suite in root] == [SDT, UMRA]
        assert [suite.get("tests") for suite in root] == [str(len(suite)) for suite in root]
        assert (root.get("tests"), root.get("failures")) == (str(len(cases)), "0")
        assert root.get("skipped") == str(sum(case.find("skipped") is not None for case in cases)) == str(skipped)


def test_the_command_ends_with_0_where_everything_is_refused(
    hosts: TwoHosts, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a build server runs it."""
    monkeypatch.setattr(campaign, "ATTACKS", strangers.ATTACKS)
    monkeypatch.setattr(campaign, "FEED_ATTACKS", FEED_ATTACKS[:1])
    ran = cli(hosts, "doctor", "--intruder", "--json")
    assert (ran.status, ran.err) == (0, ""), ran.out
    assert set(verdicts(ran).values()) == {"ok"}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("revoked key", "it needs the secret of an expired or revoked key"),
        ("a key revoked in mid-frame", "it would revoke one of your keys, which can't be undone"),
        ("malformed key files", "it needs the agent's files"),
    ],
    ids=["revoked", "in mid-frame", "files"],
)
def test_what_would_do_harm_is_listed_and_not_played(hosts: TwoHosts, name: str, reason: str) -> None:
    """With its reason, so that the report names every kind of attack."""
    outcome = play(name, against(hosts))
    assert (outcome.verdict, reason in outcome.sentence) == (Verdict.NOT_PLAYED, True)


def test_with_an_operators_key_it_says_what_is_not_played(hosts: TwoHosts) -> None:
    """With the reason; the two are no success, and no failure."""
    target = against(hosts)
    for name in OPERATORS_OWN:
        outcome = play(name, target)
        assert outcome.verdict is Verdict.NOT_PLAYED
        assert "TWINHOST_CLI_KEYS=pc2" in outcome.sentence
    assert play("forged metadata", target).verdict is Verdict.OK


def test_an_open_link_fails_loudly(open_hosts: TwoHosts, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain clients get in, the capture is read, what was recorded is good again: exit status 1."""
    monkeypatch.setattr(campaign, "ATTACKS", [*strangers.ATTACKS, *strangers.IMPOSTOR, *tampering.ATTACKS])
    monkeypatch.setattr(campaign, "FEED_ATTACKS", FEED_ATTACKS[:1])
    monkeypatch.setattr(strangers, "SERVED_WITHIN_S", SHORT_S)
    ran = cli(open_hosts, "doctor", "--intruder", "--format", "junit")
    assert ran.status == 1
    root = ElementTree.fromstring(ran.out)
    red = {case.get("name") for case in root.iter("testcase") if case.find("failure") is not None}
    assert red == {
        "plain client",
        "plain client, at the event feed",
        "impostor without CURVE",
        "capture on the wire",
        "replay, same connection",
        "replay, new connection",
        "flipped bit",
    }
    skipped = {case.get("name") for case in root.iter("testcase") if case.find("skipped") is not None}
    assert skipped == {"unknown key", "wrong pin", "mismatched halves"}
    assert "SECURE_ZMQ=0" in ran.out


def test_people_see_a_table_and_meanwhile_what_is_played(
    hosts: TwoHosts, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The progress on stderr, the report on stdout."""
    monkeypatch.setattr(campaign, "ATTACKS", [*strangers.ATTACKS, *insiders.ATTACKS])
    monkeypatch.setattr(campaign, "FEED_ATTACKS", ())
    ran = cli(hosts, "doctor", "--intruder")
    assert ran.status == 0
    assert f"ok: plain client on {SDT}\n" in ran.err
    assert ran.out.splitlines()[-1] == "Intruder: 19 ok, 0 warning, 0 failed, 4 not played"
    assert max(len(line) for line in ran.out.splitlines()) <= 100


def test_without_a_legitimate_client_nothing_is_proven(hosts: TwoHosts) -> None:
    """One failure, and all else not played."""
    (hosts.folders["server"] / "operator.key").unlink()
    hosts.mainpc.reload_peers()
    first, *rest = play_against(against(hosts), ATTACKS)
    assert (first.check, first.verdict) == (LEGITIMATE_CLIENT, Verdict.FAILED)
    assert {finding.verdict for finding in rest} == {Verdict.NOT_PLAYED}
    assert len(rest) == len(ATTACKS)


def test_an_attack_after_which_nobody_is_served_came_through(hosts: TwoHosts) -> None:
    """Whatever it says of itself."""

    def stop_it(_: AttackedAgent) -> AttackOutcome:
        hosts.mainpc.stop()
        return defended("refused")

    _, finding = play_against(against(hosts), [Attack("stop", "nothing", stop_it)])
    assert finding.verdict is Verdict.FAILED
    assert "a legitimate client was not served within 2 s" in finding.sentence


def test_an_attack_can_be_played_again_and_again(hosts: TwoHosts) -> None:
    """An agent counts a session for a moment after its end; what then refuses another one is no defence."""
    target = against(hosts)
    for _ in range(2 * target.config.limits.sessions_per_key):
        outcome = play("one huge frame, after the handshake", target)
        assert outcome.verdict is Verdict.OK, outcome


def test_an_attack_that_ends_early_is_no_success(hosts: TwoHosts) -> None:
    """A fault of the network is reported as one."""

    def fail(_: AttackedAgent) -> AttackOutcome:
        raise ConnectionRefusedError("nobody")

    _, finding = play_against(against(hosts), [Attack("fail", "nothing", fail)])
    assert finding.verdict is Verdict.FAILED
    assert "nobody" in finding.sentence


def test_red_where_a_plain_client_is_served(tmp_path: Path) -> None:
    with bare_router(ok) as port:
        came_through(play("plain client", target_at(port, tmp_path)), "got a session")


def test_red_where_no_zap_handler_runs(tmp_path: Path) -> None:
    """CURVE alone lets anybody in."""
    with bare_router(ok, curve=True) as port:
        target = target_at(port, tmp_path)
        came_through(play("unknown key", target), "no ZAP handler is running")
        assert play("mismatched halves", target).verdict is Verdict.OK  # which CURVE itself refuses


def test_red_where_the_zap_handler_lets_everybody_in(hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch) -> None:
    somebody = hosts.mainpc.peers.all()[0]
    monkeypatch.setattr(hosts.mainpc.peers, "judge", lambda *_: somebody)
    monkeypatch.setattr(hosts.mainpc.peers, "live", lambda _: somebody)
    came_through(play("unknown key", against(hosts)), "got a session")


def test_red_where_nothing_of_the_handshake_is_verified(tmp_path: Path) -> None:
    """A server that welcomes whatever HELLO says, and asks for no proof of a key."""
    with listener(CredulousCurve(ok).serve) as port:
        target = target_at(port, tmp_path)
        came_through(play("wrong pin", target), "pinned another key")
        came_through(play("mismatched halves", target), "without its secret")


def test_red_where_an_agent_may_do_what_is_an_operators(hosts: TwoHosts) -> None:
    hosts.folders["operator"] = hosts.folders["client"]
    hosts.mainpc.grants.replace({**GRANTS, "agent": {"*"}})
    target = against(hosts)
    came_through(play("an action not granted", target), "was granted")
    came_through(play("another's name in the body", target), "as to an operator")


def _heartbeat_for_anybody(request: dict[str, Any]) -> dict[str, Any]:
    if request.get("action") == "heartbeat":
        return {"status": "ok"}
    return {"status": "error", "code": "not_granted", "error": "no"}


def test_red_where_one_agent_speaks_for_another(tmp_path: Path) -> None:
    with listener(CredulousCurve(_heartbeat_for_anybody).serve) as port:
        came_through(play("another's name in the body", target_at(port, tmp_path)), "from somebody else")


@pytest.mark.parametrize(
    ("role", "answer"), [("agent", ok), ("operator", lambda _: {"status": "error", "code": "not_granted"})]
)
def test_red_where_metadata_is_believed(
    tmp_path: Path, role: str, answer: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    """Whoever claims to be an operator is one, or whoever is one is no more."""
    with listener(CredulousCurve(answer).serve) as port:
        came_through(play("forged metadata", target_at(port, tmp_path, role)), "was accepted as")


def test_red_where_a_damaged_session_ends_the_agent(hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is seen by whoever is not served afterwards, whatever became of the session itself."""
    monkeypatch.setattr(tampering, "SESSIONS", 1)
    monkeypatch.setattr(RawConnection, "reset", lambda _: hosts.mainpc.stop())
    came_through(play("damaged sessions", against(hosts)), "a legitimate client was not served")


def test_red_where_a_routing_id_passes_to_another_peer(tmp_path: Path) -> None:
    with bare_router(ok, HANDOVER) as port:
        came_through(play("stolen routing-id", target_at(port, tmp_path, secure=False)), "routing-id")
    with bare_router(ok) as port:
        assert play("stolen routing-id", target_at(port, tmp_path, secure=False)).verdict is Verdict.OK


def test_red_where_the_second_of_a_routing_id_is_served_too(tmp_path: Path) -> None:
    with listener(CredulousCurve(ok).serve) as port:
        came_through(play("stolen routing-id", target_at(port, tmp_path)), "took over a routing-id")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("capture on the wire", "can read everything"),
        ("replay, same connection", "answered twice"),
        ("replay, new connection", "opened a session"),
        ("flipped bit", "flipped bit was read"),
        ("impostor without CURVE", "impostor without a key"),
    ],
)
def test_red_on_an_open_link(open_hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch, name: str, words: str) -> None:
    """The recordings work, as they must for the green ones to mean anything."""
    monkeypatch.setattr(strangers, "SERVED_WITHIN_S", SHORT_S)
    came_through(play(name, against(open_hosts)), words)


@pytest.mark.parametrize("name", [attack.name for attack in tampering.ATTACKS])
def test_red_where_nothing_was_recorded(hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A relay that is passed by proves nothing."""
    target = against(hosts)
    monkeypatch.setattr(AttackedAgent, "client", lambda self, _=None: real_client(self))
    _, finding = play_against(target, [BY_NAME[name]])
    assert finding.verdict is Verdict.FAILED
    assert "nothing is proven" in finding.sentence


real_client = AttackedAgent.client


def test_red_where_strangers_are_put_up_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something that takes whatever comes, and never hangs up."""
    monkeypatch.setattr(strangers, "HELD_S", SHORT_S)
    monkeypatch.setattr(payloads, "CUT_WITHIN_S", SHORT_S)
    with listener(greet_and_swallow) as port:
        target = target_at(port, tmp_path)
        came_through(play("random, HTTP, TLS, and zero bytes", target), "kept a connection")
        came_through(play("one huge frame, before the handshake", target), "accepted")
        came_through(play("100,000 frames, before the handshake", target), "accepted")


def test_red_where_strangers_are_answered(tmp_path: Path) -> None:
    with listener(talk_and_hang_up) as port:
        target = target_at(port, tmp_path)
        came_through(play("random, HTTP, TLS, and zero bytes", target), "more than a greeting")


def test_red_where_the_guard_is_off(start_hosts: StartHosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """libzmq by itself takes a handshake of any size, for 4 s."""
    monkeypatch.setattr(handshake_guard, "MAX_HANDSHAKE_BYTES", 1 << 40)
    monkeypatch.setattr(payloads, "CUT_WITHIN_S", SHORT_S)
    came_through(play("one huge frame, before the handshake", against(start_hosts())), "accepted")


def test_red_where_silent_connections_are_kept(start_hosts: StartHosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "HALF_OPEN", 20)
    monkeypatch.setattr(strangers, "HELD_S", 2 * SHORT_S)
    monkeypatch.setattr(sockets, "_HANDSHAKE_TIMEOUT_MS", 30_000)
    outcome = play("half-open flood", against(start_hosts()))
    came_through(outcome, "20 of 20 silent connections were kept")


def test_red_where_silent_connections_keep_others_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "HALF_OPEN", 20)
    with listener(swallow) as port:
        came_through(play("half-open flood", target_at(port, tmp_path)), "a legitimate client was not served")


def test_red_where_messages_have_no_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame of any size, and a message of any number of frames, is taken."""
    monkeypatch.setattr(payloads, "CUT_WITHIN_S", SHORT_S)
    with bare_router(ok, MAXMSGSIZE) as port:
        target = target_at(port, tmp_path, secure=False)
        came_through(play("one huge frame, after the handshake", target), "was read for")
        came_through(play("100,000 frames in one message", target), "was accepted")


def test_red_where_a_message_of_many_frames_is_never_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with listener(CredulousCurve(ok).serve) as port:
        target = target_at(port, tmp_path)
        monkeypatch.setattr("twinhost.adversary.payloads.TIMEOUT_S", 0.5)
        outcome = play("100,000 frames in one message", target)
    assert outcome.verdict is Verdict.FAILED


def test_red_where_an_open_feed_serves_anybody(open_hosts: TwoHosts) -> None:
    came_through(play_at_the_feed("plain client", against(open_hosts)), "got a session")


def test_red_where_the_feed_lets_every_key_in(hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch) -> None:
    somebody = hosts.mainpc.peers.all()[0]
    monkeypatch.setattr(hosts.mainpc.peers, "judge", lambda *_: somebody)
    came_through(play_at_the_feed("unknown key", against(hosts)), "got a session")


@pytest.mark.parametrize(
    ("limit", "words"), [("MAX_TOPIC_BYTES", "a topic of"), ("MAX_TOPICS", "topics"), ("MAX_COMMANDS", "changes")]
)
def test_red_where_subscriptions_have_no_bound(
    hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch, limit: str, words: str
) -> None:
    """Each of the three by itself."""
    monkeypatch.setattr(twinhost.secure_zmq.feed, limit, 1 << 40)
    monkeypatch.setattr(campaign, "_CLOSED_WITHIN_S", SHORT_S)
    outcome = play_at_the_feed("too many subscriptions", against(hosts))
    came_through(outcome, "accepted")
    assert words in outcome.sentence


def test_red_where_the_feed_keeps_whoever_talks_to_it(hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Feed, "_refuse", lambda *_: None)
    monkeypatch.setattr(campaign, "_CLOSED_WITHIN_S", SHORT_S)
    came_through(play_at_the_feed("malformed subscriptions", against(hosts)), "accepted")


def test_red_where_a_good_subscriber_is_not_served(hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever refuses everybody has refused the attack too, and that is no success."""
    monkeypatch.setattr(campaign, "_JUDGED_AFTER_S", SHORT_S)
    (attack,) = (attack for attack in FEED_ATTACKS if attack.name.startswith("unknown key"))
    with monkeypatch.context() as closing:
        closing.setattr(Feed, "_over_limit", lambda *_: "it is full")
        _, finding = play_against(against(hosts), [attack])
        assert finding.verdict is Verdict.FAILED
        assert "closed an authorised session" in finding.sentence
    hosts.mainpc.grants.replace({**GRANTS, "operator": {"ping"}})
    _, finding = play_against(against(hosts), [attack])
    assert finding.verdict is Verdict.FAILED
    assert "subscribe to EVENT: is not granted to operator" in finding.sentence


def test_a_subscriber_that_is_ended_while_connecting_tries_again(
    hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The feed may have closed the descriptor that its connection has now; real clients reconnect."""
    connect, ends = socket.create_connection, [BrokenPipeError(), ConnectionResetError()]

    def create_connection(*place: Any, **options: Any) -> socket.socket:
        if ends:
            raise ends.pop()
        return connect(*place, **options)

    monkeypatch.setattr(socket, "create_connection", create_connection)
    target = against(hosts)
    feed = campaign.AttackedFeed(target.agent, target.config, target.own_keys, target.find_pins)
    assert feed.served_after_s() < SERVED_WITHIN_S
    assert not ends


@pytest.mark.parametrize("name", ["deeply nested JSON", "malformed JSON"])
def test_red_where_nonsense_is_answered_as_if_it_were_good(tmp_path: Path, name: str) -> None:
    with bare_router(ok) as port:
        came_through(play(name, target_at(port, tmp_path, secure=False)), "as if it were valid")


def test_red_where_a_frame_is_answered_as_if_it_were_one_request(tmp_path: Path) -> None:
    with bare_router(ok) as port:
        came_through(play("malformed frames", target_at(port, tmp_path, secure=False)), "the replies are [None]")


def test_an_agent_may_answer_a_frame_in_several_messages(hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does where other callers wait, between the turns of this one."""
    monkeypatch.setattr(dispatch, "SLICE_S", 0.0)
    outcome = play("malformed frames", against(hosts))
    assert outcome.verdict is Verdict.OK, outcome


def test_red_where_a_request_of_a_frame_gets_no_reply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the replies that did come."""
    monkeypatch.setattr(payloads, "TIMEOUT_S", SHORT_S / 2)
    with bare_router(lambda _: {"status": "error", "code": "malformed_request"}) as port:
        outcome = play("malformed frames", target_at(port, tmp_path, secure=False))
    came_through(outcome, "a malformed request among good ones: the replies are ['malformed_request'], and")


def test_red_where_nonsense_ends_the_agent(tmp_path: Path) -> None:
    """No error reply, but the end of it."""

    def fall(connection: socket.socket) -> None:
        def answer(_: dict[str, Any]) -> dict[str, Any]:
            connection.shutdown(socket.SHUT_RDWR)
            return {}

        CredulousCurve(answer).serve(connection)

    with listener(fall) as port:
        came_through(play("deeply nested JSON", target_at(port, tmp_path)), "it got no error reply")


@pytest.mark.parametrize("attack", OTHER_SITES, ids=lambda attack: attack.name)
def test_red_where_http_answers_to_other_sites(
    hosts: TwoHosts, attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HostGuard, "_refusal", lambda *_: None)
    came_through(attack.play(against(hosts)), "it answered 200 for /healthz")


@pytest.mark.parametrize("attack", OTHER_SITES, ids=lambda attack: attack.name)
def test_http_that_is_not_reached_is_not_attacked(tmp_path: Path, attack: Attack) -> None:
    """Its port is published on the agent's machine alone."""
    with listener(swallow) as port:
        outcome = attack.play(target_at(port, tmp_path, secure=False))
    assert (outcome.verdict, "where the port is published" in outcome.sentence) == (Verdict.NOT_PLAYED, True)
