"""A machine comes in: by a line that is good once, or by files that somebody carries; and nobody else does."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.containers.kept import ANOTHER_TREE, Kept, kept
from tests.containers.stack import EVENTS_PORT, Stack
from tests.waiting import PATIENCE_S, REFUSAL_S, at_most, wait_until
from twinhost.certificates.bundle import Invitation, parse_invitation, request_fingerprint, token_pair
from twinhost.secure_zmq.client import Client, Subscriber
from twinhost.secure_zmq.errors import LimitReached, NotAuthorized, NotGranted
from twinhost.secure_zmq.keys import KeyOwner, KeyPair
from twinhost.secure_zmq.server_address import SecuredAddress

GUESSES = 60
ONE_BY_ONE = 20  # refusals of a kind that the audit log records in a minute; the others are counted
OVERWRITE_WITH_EXPIRED = """
import sys, time
from dataclasses import replace
from pathlib import Path
from twinhost.secure_zmq.key_writer import replace_certificate
from twinhost.secure_zmq.keys import load_certificate
from twinhost.secure_zmq.keys import Validity
path, now = Path(sys.argv[1]), int(time.time())
replace_certificate(replace(load_certificate(path), validity=Validity(now - 900, now - 61)), path)
"""

pytestmark = pytest.mark.sdt_security


@dataclass(frozen=True)
class Site:
    """mainpc, which runs; its tree, the operator's desk, and the tree of a machine that is not in yet."""

    stack: Stack
    tree: Kept
    desk: Kept
    new: Kept
    copies: Path

    def invite(self, name: str) -> str:
        """Return the line of a new invitation, once mainpc knows of it."""
        invited = self.tree.run("invite", name, "--host", "pc3", "--role", "agent")
        assert (invited.status, invited.out.count("\n")) == (0, 1), invited.err
        token = parse_invitation(invited.out).token.public.fingerprint
        self.stack.audited("invitation_made", name=name, fingerprint=token)
        return invited.out.strip()

    def join(self, line: str, tree: str = "/certificates") -> "tuple[int, str]":
        """Run `certs-init join` on the new machine; return its status and what it said."""
        joined = self.new.run("--root", tree, "join", given=f"{line}\n")
        return joined.status, joined.out + joined.err

    def is_empty(self, tree: str) -> bool:
        """Whether a tree of the new machine holds no file but the lock that a command leaves."""
        return not self.new.shell(f"find {tree} -type f ! -name .lock").out

    def client(self, name: str) -> Client:
        """Return a client from outside that holds the key which was made on the new machine."""
        return Client(self.stack.secured("mainpc", self.new.keys(name, self.copies).own_keys))

    def held_by(self, pair: KeyPair) -> Client:
        """Return a client from outside that holds any pair."""
        return Client(self.stack.secured("mainpc", pair))

    def logged(self, event: str, **fields: str) -> dict[str, Any]:
        """Wait until the audit log has an event with these fields, and return it as `cli audit tail` shows it."""
        line = self.stack.audited(event, **fields)
        shown = self.desk.run("audit", "tail", "--json", "--lines", "1000")
        assert shown.status == 0, shown.err
        assert line in [json.loads(text) for text in shown.out.splitlines()]
        return line

    def restart(self) -> None:
        """Restart mainpc, and wait until it serves."""
        assert self.stack.compose("restart", "mainpc").status == 0
        serves(self.stack)


def serves(stack: Stack) -> None:
    wait_until(lambda: stack.http("mainpc", "/healthz")[0] == 200, PATIENCE_S, "mainpc serves")


@pytest.fixture(scope="module")
def site(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """mainpc alone, on its own keys, and a machine that shares a network with it and nothing else."""
    folder = tmp_path_factory.mktemp("enrolment")
    stack = Stack(folder, {"SECURE_ZMQ": "1"}, services=["mainpc"])
    with ExitStack() as ends:
        ends.callback(stack.stop)
        stack.start()
        serves(stack)
        tree, desk, new = (
            ends.enter_context(kept(stack, *options))
            for options in (("certs-init",), ("cli",), ("certs-init", *ANOTHER_TREE))
        )
        yield Site(stack, tree, desk, new, folder / "copies")


def refused(client: Client) -> NotAuthorized:
    """Return the error of a key that gets no session, which must come in time."""
    with client, at_most(REFUSAL_S), pytest.raises(NotAuthorized) as caught:
        client.call("ping", deadline_s=10)
    return caught.value


def fresh_pair(name: str = "somebody") -> KeyPair:
    return KeyPair.generate(KeyOwner(name, "pc3", frozenset({"agent"})))


def test_a_joined_machine_is_accepted_under_its_invited_name(site: Site) -> None:
    """Exactly as the page on keys has it; its name and place are those of the invitation."""
    invited = site.stack.run_alone("certs-init", "invite", "newcomer", "--host", "pc3", "--role", "agent")
    assert invited.status == 0, invited.err
    status, said = site.join(invited.out.strip())
    assert status == 0, said
    own = site.new.keys("newcomer", site.copies).own_keys.public
    assert f"newcomer on pc3 has joined as {own.fingerprint}" in said
    with site.client("newcomer") as client:
        client.call("register_agent", agent_name="newcomer", status="HEALTHY")
        info = client.call("get_agent_info", agent_name="newcomer")["agent_info"]
        assert (info["location"], info["registered_by"]) == ("pc3", "newcomer")
        with pytest.raises(NotGranted, match="may not act for"):
            client.call("register_agent", agent_name="another", status="HEALTHY")
    for event in ("invitation_made", "invitation_used"):
        site.stack.audited(event, name="newcomer", host="pc3", roles="agent")
    site.logged("key_authorized", name="newcomer", host="pc3", roles="agent", fingerprint=own.fingerprint)


def test_the_secrets_are_where_they_were_made_and_nowhere_else(site: Site) -> None:
    """The new machine's is in one file there; mainpc's tree, state, and log have neither it nor the token's."""
    line = site.invite("keeper")
    assert site.join(line)[0] == 0
    secret = site.new.keys("keeper", site.copies).own_keys.secret_z85.decode()
    token = parse_invitation(line).token.secret_z85.decode()
    looked_for = f"{secret}\n{token}\n{line.split('/')[-1].partition('?')[0]}\n"
    find = "grep -rlF -f - /certificates"
    assert site.new.shell(find, given=looked_for).out.split() == ["/certificates/keeper/keeper.key_secret"]
    mode = site.new.shell("stat -c %a /certificates/keeper/keeper.key_secret").out.strip()
    assert mode == "600"
    assert site.tree.shell(find, given=looked_for).out == ""
    state = site.stack.compose("exec", "-T", "mainpc", "sh", "-c", f"{find} /var/lib/twinhost", given=looked_for)
    assert (state.status, state.out) == (1, ""), state.err  # 1: grep has read all of it and found none
    assert not any(word in site.stack.logs("mainpc") for word in looked_for.split())


def test_a_used_line_is_refused_also_after_a_restart(site: Site) -> None:
    """On any machine, and to a bare client of the token; no second key is enrolled, and the audit log records it."""
    line = site.invite("once")
    assert site.join(line)[0] == 0
    invitation = parse_invitation(line)
    with site.client("once") as client:
        client.call("ping")
    assert invitation.token.public.fingerprint in str(refused(site.held_by(invitation.token)))
    site.restart()
    status, said = site.join(line, "/tmp/thief")
    assert (status, site.is_empty("/tmp/thief")) == (1, True)
    assert "it was used or withdrawn, it expired, or the line is mistyped" in said
    site.logged("handshake_refused", cause="key_revoked", fingerprint=invitation.token.public.fingerprint)
    enrolled = site.tree.shell("ls /certificates/mainpc/enrolled/*.key").out
    assert enrolled.count("once") == 1


def test_an_expired_invitation_is_refused_by_mainpc(site: Site) -> None:
    """Also where the new machine takes it for good; the audit log says that the key is expired."""
    line = site.invite("late")
    token = parse_invitation(line).token
    ran = site.tree.shell("python - /certificates/mainpc/invites/late.key", given=OVERWRITE_WITH_EXPIRED)
    assert ran.status == 0, ran.err
    site.stack.audited("invitation_expired", name="late", fingerprint=token.public.fingerprint)
    status, said = site.join(line, "/tmp/late")
    assert (status, site.is_empty("/tmp/late")) == (1, True)
    assert "it expired" in said
    refused(site.held_by(token))
    site.logged("handshake_refused", cause="key_expired", fingerprint=token.public.fingerprint)
    assert "late" not in site.tree.shell("ls /certificates/mainpc/enrolled").out


def test_a_line_that_ended_is_refused_where_it_is_read(site: Site) -> None:
    """Without a message to mainpc."""
    line = site.invite("slow").partition("?")[0] + "?expires=2026-01-01T00:00:00Z"
    status, said = site.join(line, "/tmp/slow")
    assert (status, site.is_empty("/tmp/slow")) == (1, True)
    assert "the invitation expired 2026-01-01T00:00:00Z" in said


def test_a_guessed_line_is_refused(site: Site) -> None:
    """Right in all but the token, while an invitation is open."""
    invitation = parse_invitation(site.invite("guessed"))
    guess = replace(invitation, token=token_pair(os.urandom(32)))
    status, said = site.join(guess.render(), "/tmp/guesser")
    assert (status, site.is_empty("/tmp/guesser")) == (1, True)
    assert "it was used or withdrawn" in said
    site.logged("handshake_refused", cause="key_not_authorized", fingerprint=guess.token.public.fingerprint)


def test_a_withdrawn_line_is_refused(site: Site) -> None:
    """`pending` shows it, `reject` ends it."""
    line = site.invite("unwanted")
    token = parse_invitation(line).token
    assert "unwanted" in site.tree.run("pending").out
    rejected = site.tree.run("reject", "unwanted")
    assert (rejected.status, "no machine can enrol by it any more" in rejected.out) == (0, True)
    assert "unwanted" not in site.tree.run("pending").out
    site.stack.audited("invitation_withdrawn", name="unwanted", fingerprint=token.public.fingerprint)
    assert site.join(line, "/tmp/unwanted")[0] == 1
    refused(site.held_by(token))


def test_the_token_may_do_nothing_but_enrol(site: Site) -> None:
    """Neither call nor listen; the audit log records who tried what. Ten proposals a minute are enough."""
    token = parse_invitation(site.invite("curious")).token
    with site.held_by(token) as client:
        for action in ("ping", "health", "get_trust", "get_peers", "get_audit", "confirm_key", "get_all_agents"):
            with pytest.raises(NotGranted):
                client.call(action)
        site.logged("request_refused", code="not_granted", peer="invitation:curious", action="get_all_agents")
        with pytest.raises(NotGranted):
            client.call("register_agent", agent_name="curious", status="HEALTHY")
        for _ in range(10):
            client.call("enrol", public_key=fresh_pair("curious").public.z85.decode())
        with pytest.raises(LimitReached):
            client.call("enrol", public_key=fresh_pair("curious").public.z85.decode())
    subscriber = Subscriber(site.stack.secured("mainpc", token, EVENTS_PORT), [b""])
    subscriber.start()
    try:
        wait_until(
            lambda: any(
                entry["event"] == "subscription_refused" and entry["peer"] == "invitation:curious"
                for entry in site.stack.events("mainpc")
            ),
            PATIENCE_S,
            "the subscription is refused",
        )
        assert subscriber.get(0) is None
    finally:
        subscriber.stop()


def test_a_proposed_key_whose_secret_is_not_there_never_comes_in(site: Site) -> None:
    """Whoever proposes another's public key can't make the connection that confirms it."""
    invitation = parse_invitation(site.invite("liar"))
    with site.held_by(invitation.token) as client:
        client.call("enrol", public_key=fresh_pair().public.z85.decode())
        with pytest.raises(NotGranted):
            client.call("confirm_key")
    assert "liar" not in site.tree.shell("ls /certificates/mainpc/enrolled").out


def test_a_machine_without_a_path_comes_in_by_two_files(site: Site) -> None:
    """A wrong fingerprint, or none, only keeps the request; the right one lets the key in, and the answer is public."""
    asked = site.new.run("request", "carried", "--host", "pc3", "--role", "agent")
    assert asked.status == 0, asked.err
    own = site.new.keys("carried", site.copies / "before").own_keys
    assert own.secret_z85.decode() not in asked.out + asked.err
    for options in ([], ["--fingerprint", fresh_pair().public.fingerprint]):
        not_yet = site.tree.run("accept", "-", *options, given=asked.out)
        assert (not_yet.status, not_yet.out) == (1, "")
    fingerprint = request_fingerprint(own.certificate)
    assert f"--fingerprint {fingerprint}" in asked.err
    pending = site.tree.run("pending").out
    assert "request" in pending
    assert fingerprint in pending
    refused(site.held_by(own))
    site.logged("handshake_refused", cause="key_not_authorized", fingerprint=own.public.fingerprint)
    raised = asked.out.replace('roles = "agent"', 'roles = "operator"')
    assert site.tree.run("accept", "-", "--fingerprint", fingerprint, given=raised).status == 1
    assert site.tree.run("accept", "-", given=asked.out).status == 1  # keeps the unedited one again
    accepted = site.tree.run("accept", "carried", "--fingerprint", fingerprint)
    assert accepted.status == 0, accepted.err
    assert "secret-key" not in accepted.out
    assert fingerprint not in site.tree.run("pending").out
    trusted = site.new.run("trust", "-", given=accepted.out)
    assert trusted.status == 0, trusted.err
    site.stack.audited("key_authorized", name="carried", fingerprint=own.public.fingerprint)
    with site.client("carried") as client:
        client.call("ping")
    assert site.tree.shell("grep -rlF -f - /certificates", given=own.secret_z85.decode()).out == ""


def test_a_dropped_request_is_gone(site: Site) -> None:
    """`reject` drops it, and its name can be accepted no more."""
    asked = site.new.run("request", "dropped", "--host", "pc3", "--role", "agent")
    own = site.new.keys("dropped", site.copies).own_keys.certificate
    assert site.tree.run("accept", "-", given=asked.out).status == 1
    assert site.tree.run("reject", "dropped").status == 0
    assert "dropped" not in site.tree.run("pending").out
    again = site.tree.run("accept", "dropped", "--fingerprint", request_fingerprint(own))
    assert (again.status, again.out) == (1, "")
    assert "dropped" not in site.tree.shell("ls /certificates/mainpc /certificates/mainpc/enrolled").out


def test_guesses_are_counted_and_do_not_fill_the_audit_log(site: Site) -> None:
    """A stranger's handshakes beyond the first twenty in a minute become one line, and none of them is left out."""
    invitation = parse_invitation(site.invite("aimed-at"))
    for _ in range(GUESSES):
        refused(guesser(site, invitation))
    with site.stack.client("mainpc") as client:
        count = client.call("get_peers")["handshakes"]["key_not_authorized"]
    assert count >= GUESSES
    started = max(line["seq"] for line in site.stack.audit() if line["event"] == "started")
    site.restart()  # what was counted is written at a stop
    site.stack.audited("repeated", of="handshake_refused", cause="key_not_authorized")
    strangers = [
        line
        for line in site.stack.audit()
        if line["seq"] > started and line.get("cause") == "key_not_authorized" and "handshake_refused" in line.values()
    ]
    one_by_one = [line for line in strangers if line["event"] == "handshake_refused"]
    assert len(one_by_one) <= 2 * ONE_BY_ONE  # a new minute may have begun
    assert len(one_by_one) + sum(line["count"] for line in strangers if line["event"] == "repeated") == count
    assert site.desk.run("audit", "verify").status == 0


def guesser(site: Site, invitation: Invitation) -> Client:
    """Return a client that holds a token which nobody made."""
    address = site.stack.secured("mainpc", token_pair(os.urandom(32)))
    return Client(SecuredAddress(address.address, address.own_keys, invitation.server_key))
