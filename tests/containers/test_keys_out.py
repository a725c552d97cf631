"""A key goes out: revoked, within a second everywhere and for ever; or at its end, after a warning of two weeks."""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.containers.kept import ANOTHER_TREE, Kept, kept
from tests.containers.stack import EVENTS_PORT, HTTP_PORTS, Stack
from tests.waiting import PATIENCE_S, REFUSAL_S, at_most, wait_until
from twinhost.adversary.clients import PlainClient, open_session
from twinhost.adversary.zmtp import connect_to
from twinhost.certificates.bundle import parse_invitation, request_fingerprint
from twinhost.secure_zmq.client import Client, FeedEvent, Subscriber
from twinhost.secure_zmq.errors import NotAuthorized, NotGranted, PeerNotLive, TwinhostError
from twinhost.secure_zmq.key_writer import render_certificate
from twinhost.secure_zmq.keys import CLOCK_TOLERANCE_S, KeyOwner, KeyPair, Validity

REVOKED_WITHIN_S = 1.0  # the promise, from the command's return
PAUSE_S = 0.005
LAST_WORDS_S = 10  # of a key that expires while it is in use
LOGGED_WITHIN_S = 5.0
REGISTER = "register_agent"

pytestmark = pytest.mark.sdt_security


@dataclass(frozen=True)
class Site:
    """Both hosts, mainpc's tree, and a third machine."""

    stack: Stack
    tree: Kept
    third: Kept
    copies: Path

    def enrol(self, name: str, *options: str) -> str:
        """Let the third machine join under a name; return the line that it joined by."""
        invited = self.tree.run("invite", name, "--host", "pc3", "--role", "agent")
        assert invited.status == 0, invited.err
        joined = self.third.run("join", *options, given=invited.out)
        assert joined.status == 0, joined.err
        return invited.out.strip()

    def pair(self, name: str) -> KeyPair:
        """Return the pair that lies on the third machine."""
        return self.third.keys(name, self.copies).own_keys

    def client(self, host: str, pair: KeyPair) -> Client:
        return Client(self.stack.secured(host, pair))

    def let_in_for(self, name: str, days: int) -> str:
        """Accept a key of the third machine for some days; return its fingerprint."""
        asked = self.third.run("request", name, "--host", "pc3", "--role", "agent").out
        pair = self.pair(name)
        fingerprint = pair.public.fingerprint
        compared = request_fingerprint(pair.certificate)
        accepted = self.tree.run("accept", "-", "--fingerprint", compared, "--days", str(days), given=asked)
        assert accepted.status == 0, accepted.err
        self.known_everywhere(pair)
        return fingerprint

    def gets_in(self, host: str, pair: KeyPair) -> bool:
        with self.client(host, pair) as client:
            try:
                client.call("ping")
            except (NotAuthorized, PeerNotLive):
                return False
        return True

    def revoke(self, name: str) -> float:
        """Revoke somebody's key; return when the command had returned."""
        revoked = self.tree.run("revoke", name)
        returned_at = time.time()
        assert (revoked.status, revoked.err) == (0, "")
        assert f"{name} on pc3 (agent)" in revoked.out
        return returned_at

    def known_everywhere(self, pair: KeyPair) -> None:
        for host in HTTP_PORTS:
            wait_until(lambda host=host: self.gets_in(host, pair), PATIENCE_S, f"{host} lets the key in")  # type: ignore[misc]

    def refused_everywhere(self, pair: KeyPair, cause: str) -> None:
        """Check that no handshake succeeds, that the client gets an error in time, and each host's log."""
        for host in HTTP_PORTS:
            wait_until(lambda host=host: not self.gets_in(host, pair), REVOKED_WITHIN_S, f"{host} keeps the key out")  # type: ignore[misc]
            with self.client(host, pair) as client, at_most(REFUSAL_S), pytest.raises(NotAuthorized) as caught:
                client.call("ping", deadline_s=10)
            assert pair.public.fingerprint in str(caught.value)
            wait_until(lambda host=host: self.logged(host, pair, cause), PATIENCE_S, f"{host} logs {cause}")  # type: ignore[misc]
        self.stack.audited("handshake_refused", cause=cause, fingerprint=pair.public.fingerprint)

    def logged(self, host: str, pair: KeyPair, cause: str) -> bool:
        wanted = {"event": "handshake_refused", "cause": cause, "fingerprint": pair.public.fingerprint}
        return any(wanted.items() <= entry.items() for entry in self.stack.events(host))

    def feed(self, pair: KeyPair, received: "Received") -> Subscriber:
        return Subscriber(self.stack.secured("mainpc", pair, EVENTS_PORT), [b"AGENT:"], received)


@pytest.fixture(scope="module")
def site(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("revocation")
    stack = Stack(folder, {"SECURE_ZMQ": "1"})
    with ExitStack() as ends:
        ends.callback(stack.stop)
        stack.start()
        stack.wait_until_ready()
        tree = ends.enter_context(kept(stack, "certs-init"))
        third = ends.enter_context(kept(stack, "certs-init", *ANOTHER_TREE))
        yield Site(stack, tree, third, folder / "copies")


class Received:
    """What a subscriber received, and when each event was published."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def __call__(self, event: FeedEvent) -> None:
        self.events.append(json.loads(event.payload))

    def published(self) -> list[float]:
        return [datetime.fromisoformat(event["timestamp"]).timestamp() for event in self.events]


class Calls(threading.Thread):
    """A client that calls again and again, until it is refused or asked to end."""

    def __init__(self, client: Client, action: str, **fields: str) -> None:
        super().__init__()
        self.done = 0
        self.last_at = 0.0
        self.failure: TwinhostError | None = None
        self.failed_at = 0.0
        self._call = client, action, fields
        self._end = threading.Event()

    def run(self) -> None:
        client, action, fields = self._call
        with client:
            while not self._end.wait(PAUSE_S):
                try:
                    client.call(action, deadline_s=PATIENCE_S, **fields)
                except TwinhostError as error:
                    self.failure, self.failed_at = error, time.time()
                    return
                self.done, self.last_at = self.done + 1, time.time()

    def end(self) -> None:
        self._end.set()
        self.join()


def started(ends: ExitStack, client: Client, action: str, **fields: str) -> Calls:
    """Return calls that succeed, until the stack of ends is unwound."""
    calls = Calls(client, action, **fields)
    calls.start()
    ends.callback(calls.end)
    wait_until(lambda: calls.done > 10, PATIENCE_S, f"{action} is answered")
    return calls


def listening(ends: ExitStack, subscriber: Subscriber, received: Received) -> Subscriber:
    """Return a subscriber that receives events, until the stack of ends is unwound."""
    subscriber.start()
    ends.callback(subscriber.stop)
    wait_until(lambda: received.events, PATIENCE_S, "an event is received")
    return subscriber


def closed_at(dealer: PlainClient) -> float:
    """Return when the server hung up."""
    assert dealer.connection.read_to_end(PATIENCE_S)[1]
    return time.time()


def idle(ends: ExitStack, site: Site, host: str, pair: KeyPair) -> PlainClient:
    """Return a connection on which one request was answered and nothing is said any more."""
    address = site.stack.secured(host, pair)
    dealer = ends.enter_context(open_session(connect_to(address.address), pair, address.server_key))
    dealer.send(b'{"action": "ping"}')
    assert dealer.receive()["status"] in ("ok", "success")
    return dealer


def test_a_revoked_key_is_refused_and_others_lose_nothing(site: Site) -> None:
    """Live sessions and a live subscription on a stack in use; measured from the moment the command returned."""
    site.enrol("third")
    pair = site.pair("third")
    site.known_everywhere(pair)
    others, received, received_by_others = "traffic", Received(), Received()
    operator = site.stack.keys("operator").own_keys
    with ExitStack() as ends:
        neighbour = started(ends, site.stack.client("mainpc"), REGISTER, agent_name=others, status="HEALTHY")
        on_pc2 = started(ends, site.stack.client("pc2", "pc2"), "ping")
        feed = listening(ends, site.feed(pair, received), received)
        listening(ends, site.feed(operator, received_by_others), received_by_others)
        first = len(received_by_others.events)
        calls = {host: started(ends, site.client(host, pair), "ping") for host in HTTP_PORTS}
        idles = {host: idle(ends, site, host, pair) for host in HTTP_PORTS}
        silent_from = site.revoke("third") + REVOKED_WITHIN_S
        for host in HTTP_PORTS:
            assert closed_at(idles[host]) < silent_from, f"{host} hangs up"
            calls[host].join(PATIENCE_S)
            assert isinstance(calls[host].failure, PeerNotLive | NotAuthorized)
            assert calls[host].last_at < calls[host].failed_at < silent_from
        site.refused_everywhere(pair, "key_revoked")
        wait_until(lambda: received_by_others.published()[-1] > silent_from, PATIENCE_S, "others hear more")
        before = neighbour.done, on_pc2.done
        wait_until(lambda: neighbour.done > before[0] + 50, PATIENCE_S, "the neighbour is served")
        wait_until(lambda: on_pc2.done > before[1] + 50, PATIENCE_S, "the neighbour is served on pc2")
        assert max(received.published()) < silent_from
        assert isinstance(feed.fault, NotAuthorized)
        assert (neighbour.failure, on_pc2.failure) == (None, None)
    site.stack.audited("key_revoked", name="third", host="pc3", fingerprint=pair.public.fingerprint)
    with site.stack.client("mainpc") as client:
        info = client.call("get_agent_info", agent_name=others)["agent_info"]
        client.call("unregister", agent_name=others)
    assert info["revision"] == neighbour.done
    moments = received_by_others.published()
    assert moments == sorted(moments)
    assert len(moments) - first > 50


def test_a_revocation_outlives_restarts_and_restored_files(site: Site) -> None:
    """Both hosts restart and refuse as before; the public file put back by hand changes nothing."""
    site.enrol("lasting")
    pair = site.pair("lasting")
    site.known_everywhere(pair)
    site.revoke("lasting")
    site.refused_everywhere(pair, "key_revoked")
    back = "for host in mainpc pc2; do cat /tmp/key > /certificates/$host/lasting.key; done"
    put_back = site.tree.shell(f"cat > /tmp/key; {back}", given=render_certificate(pair.certificate))
    assert put_back.status == 0, put_back.err
    assert site.stack.compose("restart", "mainpc", "pc2").status == 0
    site.stack.wait_until_ready()
    before = len(site.stack.audit())
    site.refused_everywhere(pair, "key_revoked")
    wait_until(
        lambda: any(line.get("fingerprint") == pair.public.fingerprint for line in site.stack.audit()[before:]),
        PATIENCE_S,
        "the audit log has the new refusal",
    )


def test_there_is_no_way_back_for_a_key_and_one_for_its_owner(site: Site) -> None:
    """No command lets it in again; a new invitation lets its owner in with another key."""
    line = site.enrol("returning")
    pair = site.pair("returning")
    site.known_everywhere(pair)
    public = render_certificate(pair.certificate)
    site.revoke("returning")
    site.refused_everywhere(pair, "key_revoked")
    assert site.third.run("join", given=line).status == 1
    for attempt in (
        ("trust", "-"),
        ("accept", "-", "--fingerprint", request_fingerprint(pair.certificate)),
        ("replace", "returning"),
        ("public", "returning"),
    ):
        tried = site.tree.run(*attempt, given=public)
        assert (tried.status, tried.out) == (1, ""), attempt
    invited = site.tree.run("invite", "returning", "--host", "pc3", "--role", "agent").out
    token = parse_invitation(invited).token
    site.stack.audited("invitation_made", fingerprint=token.public.fingerprint)
    with site.client("mainpc", token) as client, pytest.raises(NotGranted, match="revoked permanently"):
        client.call("enrol", public_key=pair.public.z85.decode())
    assert site.third.run("join", given=invited).status == 1  # the old secret is there, and nothing is overwritten
    joined = site.third.run("join", "--replace", given=invited)
    assert joined.status == 0, joined.err
    another = site.pair("returning")
    assert another.public != pair.public
    site.known_everywhere(another)
    site.refused_everywhere(pair, "key_revoked")


def test_an_expired_key_is_refused_in_session_and_handshake(site: Site) -> None:
    """Nothing changes on the disk: the clock alone ends sessions and subscription, a minute after `not_after`."""
    not_after = int(time.time()) + LAST_WORDS_S - CLOCK_TOLERANCE_S
    owner = KeyOwner("passing", "pc3", frozenset({"agent"}))
    pair = KeyPair.generate(owner, Validity(not_after=not_after))
    place = "/certificates/mainpc/enrolled/passing"
    put = site.tree.shell(f"cat > {place}.draft && mv {place}.draft {place}.key", render_certificate(pair.certificate))
    assert put.status == 0, put.err
    site.known_everywhere(pair)
    ends_at = not_after + CLOCK_TOLERANCE_S
    received = Received()
    with ExitStack() as ends:
        neighbour = started(ends, site.stack.client("mainpc"), REGISTER, agent_name="traffic", status="HEALTHY")
        listening(ends, site.feed(pair, received), received)
        calls = {host: started(ends, site.client(host, pair), "ping") for host in HTTP_PORTS}
        idles = {host: idle(ends, site, host, pair) for host in HTTP_PORTS}
        assert not_after < time.time() < ends_at, "it is used within the tolerance"
        for host in HTTP_PORTS:
            assert ends_at < closed_at(idles[host]) < ends_at + REVOKED_WITHIN_S
            calls[host].join(PATIENCE_S)
            assert isinstance(calls[host].failure, PeerNotLive | NotAuthorized)
            assert ends_at - 1 < calls[host].last_at < calls[host].failed_at < ends_at + REVOKED_WITHIN_S
        site.refused_everywhere(pair, "key_expired")
        before = neighbour.done
        wait_until(lambda: neighbour.done > before + 50, PATIENCE_S, "the neighbour is served")
        assert ends_at - 1 < max(received.published()) < ends_at + REVOKED_WITHIN_S
        assert neighbour.failure is None
    site.stack.audited("key_expired", name="passing", fingerprint=pair.public.fingerprint)


def test_a_key_near_its_end_is_warned_of(site: Site) -> None:
    """From 14 days before, wherever somebody may look, and on both hosts; a key with 15 days is not mentioned."""
    fingerprint = site.let_in_for("ending", days=13)
    site.let_in_for("staying", days=15)
    for host in HTTP_PORTS:
        (warning,) = (text for text in site.stack.http(host, "/healthz")[1]["warnings"] if fingerprint in text)
        assert warning.startswith("the key of ending")
        assert warning.endswith("certs-init verify")
        assert not any("staying" in text for text in site.stack.http(host, "/healthz")[1]["warnings"])
        assert site.stack.http(host, "/healthz")[0] == 200
    with kept(site.stack, "cli") as desk:
        shown = desk.run("status")
        assert "the key of ending" in " ".join(shown.out.split())
        listed = json.loads(desk.run("keys", "list", "--json").out)["keys"]
        left = {key["name"]: key["days_left"] for key in listed}
        assert 12.9 < left["ending"] <= 13
        assert 14.9 < left["staying"] <= 15
        (row,) = (line for line in desk.run("keys", "list").out.splitlines() if line.startswith("ending "))
        assert re.search(r"\b1[23] d\b", row), row
    assert "ending" in site.tree.run("verify").out


def test_a_key_near_its_end_is_warned_of_in_the_logs(site: Site) -> None:
    """Of both hosts, once and not again and again."""
    fingerprint = site.let_in_for("logged", days=13)
    for host in HTTP_PORTS:
        wait_until(lambda host=host: warned(site.stack, host, fingerprint), LOGGED_WITHIN_S, f"{host} logs it")  # type: ignore[misc]


def warned(stack: Stack, host: str, fingerprint: str) -> bool:
    """Return whether a host's log has a warning of a key's end."""
    wanted = {"event": "key_ends_soon", "level": "warning", "fingerprint": fingerprint}
    return any(wanted.items() <= entry.items() for entry in stack.events(host))
