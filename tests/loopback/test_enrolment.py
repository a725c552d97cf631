"""A new machine joins by an invitation: what the one-time token can do, what it can't, and a kill at any moment."""

import multiprocessing
import os
import signal
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.configuration import SHIPPED_GRANTS
from tests.loopback.agent_processes import SDT, UMRA, AgentProcess, Hosts
from tests.unit.certificates.trees import Ran, certs_init, files
from tests.waiting import PATIENCE_S, REFUSAL_S, at_most, wait_until
from twinhost.certificates.bundle import Invitation, parse_invitation, token_pair
from twinhost.certificates.join import join
from twinhost.certificates.layout import plan_layout
from twinhost.schema import schema_of
from twinhost.secure_zmq.certificates import load_certificates
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import LimitReached, NotAuthorized, NotGranted, PeerNotLive
from twinhost.secure_zmq.key_writer import write_certificate
from twinhost.secure_zmq.keys import DAY_S, KeyOwner, KeyPair, Validity, load_certificate
from twinhost.secure_zmq.server_address import SecuredAddress

_STEPS = frozenset({"open", "os.mkdir", "os.chmod", "os.link", "os.remove", "os.rename", "fcntl.flock"})
SOMEBODY = "somebody"
THIRDS = 3
ACTIONS = {grant.partition(":")[0] for grants in SHIPPED_GRANTS.values() for grant in grants} | {
    "get_peers",
    "get_audit",
}
ACTIONS &= schema_of(SDT)["discriminator"]["mapping"].keys()  # mainpc's: neither the feed's, nor the other agent's
A_KEY = KeyPair.generate(KeyOwner("a", "b", frozenset())).public.z85.decode()
FIELDS: dict[str, dict[str, Any]] = {
    "enrol": {"public_key": A_KEY},
    "propose_key": {"public_key": A_KEY},
    **{action: {"agent_name": UMRA} for action in ("get_agent_endpoint", "get_agent_info", "heartbeat", "unregister")},
    **{action: {"lease_id": "x"} for action in ("commit_lease", "release_lease")},
    **{action: {"amount_mb": 1, "ttl_s": 1} for action in ("reserve_ram", "reserve_vram")},
    "simulate_load": {"load_type": "cpu", "value": 1},
    "report_metrics": {"cpu_percent": 1, "ram_used_mb": 1, "ram_total_mb": 2},
    "update_vram_metrics": {
        "payload": {"agent_name": UMRA, "total_vram_mb": 1, "total_vram_used_mb": 1, "loaded_models": {}}
    },
    "publish_event": {"event": {"event_id": "e", "event_type": "t", "source_agent": UMRA}},
    "report_error": {
        "error": {"error_id": "e", "agent_id": UMRA, "severity": "info", "error_type": "t", "message": "m"}
    },
}


@dataclass(frozen=True)
class Site:
    """mainpc, which runs, and a place for the trees of new machines."""

    hosts: Hosts
    server: AgentProcess
    trees: Path

    def certs_init(self, *arguments: str, root: Path | None = None, host: str = "", stdin: str = "") -> Ran:
        """Run certs-init on mainpc's tree, or on a new machine's."""
        root, config = root or self.hosts.keys, self.hosts.config.source
        return certs_init(root, *arguments, host=host, stdin=stdin.encode(), config=config)

    def invite(self, name: str = SOMEBODY, *, host: str = "pc3", role: str = "agent") -> str:
        """Return the line of a new invitation, once mainpc knows of it."""
        ran = self.certs_init("invite", name, "--host", host, "--role", role)
        assert (ran.status, ran.out.count("\n")) == (0, 1), ran.err
        token = parse_invitation(ran.out).token.public.fingerprint
        wait_until(lambda: self.authorized(token), PATIENCE_S, "mainpc knows of the invitation")
        return ran.out.strip()

    def join(self, line: str, tree: str = "new", *options: str, host: str = "") -> Ran:
        """Run `certs-init join` on a new machine."""
        return self.certs_init("join", "-", *options, root=self.trees / tree, host=host, stdin=f"{line}\n")

    def authorized(self, fingerprint: str) -> bool:
        """Return whether mainpc's log records a key that was accepted."""
        return any(entry["fingerprint"] == fingerprint for entry in self.server.logged("peer_authorized"))

    def client(self, tree: str, folder: str) -> Client:
        """Return a client with the keys that lie in a new machine's folder."""
        keys = load_certificates(self.trees / tree / folder)
        return Client(SecuredAddress(self.hosts.config.agent(SDT).endpoint, keys.own_keys, keys.public_key()))

    def causes(self, fingerprint: str) -> set[str]:
        """Wait until mainpc's log records refused handshakes of a key, and return the causes."""

        def refusals() -> set[str]:
            entries = self.server.logged("handshake_refused")
            return {entry["cause"] for entry in entries if entry.get("fingerprint") == fingerprint}

        return wait_until(refusals, PATIENCE_S, "mainpc logs the refusal")

    def enrolled(self) -> list[str]:
        """Return the names of the keys that mainpc enrolled itself."""
        return sorted(path.stem for path in (self.hosts.keys / "mainpc/enrolled").glob("*.key"))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """SystemDigitalTwin as a real process."""
    (tmp_path / "hosts").mkdir()
    with Hosts(tmp_path / "hosts") as hosts:
        yield Site(hosts, hosts.start(SDT).wait_until_serving(), tmp_path / "trees")


def with_token(invitation: Invitation) -> Client:
    """Return a client that holds nothing but the one-time key."""
    return Client(SecuredAddress(invitation.endpoints[0], invitation.token, invitation.server_key))


def newcomer(invitation: Invitation, pair: KeyPair) -> Client:
    """Return a client that holds a new pair."""
    return Client(SecuredAddress(invitation.endpoints[0], pair, invitation.server_key))


def new_pair() -> KeyPair:
    """Return a pair that nobody knows."""
    return KeyPair.generate(KeyOwner(SOMEBODY, "pc3", frozenset({"agent"})))


def test_a_machine_that_joined_is_accepted(site: Site) -> None:
    """One line in, and an authenticated call goes through; each side shows the same fingerprint."""
    ran = site.join(site.invite())
    assert (ran.status, ran.err) == (0, "")
    with site.client("new", SOMEBODY) as client:
        assert client.call("ping")["message"] == "pong"
    own, server = ran.fingerprints
    assert own == load_certificate(site.hosts.keys / f"mainpc/enrolled/{SOMEBODY}.key").public.fingerprint
    assert server == load_certificate(site.hosts.keys / "mainpc/server.key").public.fingerprint


def test_the_secret_never_leaves_and_only_public_keys_come(site: Site) -> None:
    """mainpc's whole tree and state hold no trace of it; the new machine's holds one secret, mode 0600."""
    line = site.invite()
    assert site.join(line).status == 0
    new = files(site.trees / "new")
    (secret_file,) = [name for name in new if "secret-key" in new[name].decode()]
    assert secret_file == f"{SOMEBODY}/{SOMEBODY}.key_secret"
    assert stat.S_IMODE((site.trees / "new" / secret_file).stat().st_mode) == 0o600
    secret = load_certificates(site.trees / "new" / SOMEBODY).own_keys.secret_z85
    assert all(secret not in path.read_bytes() for path in site.hosts.root.rglob("*") if path.is_file())
    token = line.split("/")[-1].partition("?")[0]
    assert token.encode() not in b"".join(new.values())
    assert {f"{SOMEBODY}/{stem}.key" for stem in ("server", "client", "operator", SOMEBODY)} <= set(new)


def test_the_key_is_good_for_as_long_as_mainpc_says(site: Site) -> None:
    """The validity comes from mainpc's configuration and is the same in every file of the key."""
    assert site.join(site.invite()).status == 0
    folder = site.trees / "new" / SOMEBODY
    own = load_certificates(folder).own_keys.certificate
    assert own == load_certificate(folder / f"{SOMEBODY}.key")
    assert own == load_certificate(site.hosts.keys / f"mainpc/enrolled/{SOMEBODY}.key")
    assert own.validity.not_before is not None
    assert own.validity.not_after == own.validity.not_before + 365 * DAY_S
    assert abs(own.validity.not_before - time.time()) < PATIENCE_S


def test_a_second_operator_may_do_what_an_operator_may(site: Site) -> None:
    """The role is part of the invitation, and only mainpc can change it."""
    assert site.join(site.invite("Ops", role="operator")).status == 0
    with site.client("new", "Ops") as client:
        names = {peer["name"] for peer in client.call("get_peers")["peers"]}
    assert {"Ops", "operator"} <= names


def test_an_agent_of_the_configuration_gets_its_own_place(site: Site) -> None:
    """After its old key was revoked; its folder and stem are the configuration's, and its tree is right."""
    assert site.certs_init("revoke", UMRA).status == 0
    ran = site.join(site.invite(UMRA, host="pc2"), "new", host="pc2")
    assert ran.status == 0, ran.err
    assert {"pc2/client.key_secret", "pc2/client.key", "pc2/server.key"} <= set(files(site.trees / "new"))
    assert site.certs_init("verify", root=site.trees / "new", host="pc2").status == 0
    assert "already present" in site.certs_init(root=site.trees / "new", host="pc2").out
    with site.client("new", "pc2") as client:
        assert client.call("ping")["message"] == "pong"


def test_a_used_token_is_refused(site: Site) -> None:
    """On another machine, at once, with a sentence; and no second key comes in."""
    line = site.invite()
    assert site.join(line).status == 0
    before = site.enrolled()
    with at_most(REFUSAL_S):
        ran = site.join(line, "thief")
    assert (ran.status, ran.out, ran.err.count("\n"), site.enrolled()) == (1, "", 1, before)
    assert "it was used or withdrawn, it expired, or the line is mistyped" in ran.err
    assert files(site.trees / "thief") == {}
    token = parse_invitation(line).token.public.fingerprint
    assert site.causes(token) == {"key_revoked"}


def test_a_thief_s_next_key_does_not_outlive_a_revocation(site: Site) -> None:
    """It was proposed with the stolen key before, and its proof comes as `certs-init revoke` returns."""
    folder, endpoint = site.hosts.folder(UMRA), site.hosts.config.agent(SDT).endpoint
    stolen, server = load_certificates(folder).own_keys, load_certificates(folder).public_key()
    thiefs = new_pair()
    with Client(SecuredAddress(endpoint, stolen, server)) as client:
        client.call("propose_key", public_key=thiefs.public.z85.decode())
    with Client(SecuredAddress(endpoint, thiefs, server)) as client:
        with pytest.raises(NotGranted):
            client.call("ping")  # connected, and ready
        assert site.certs_init("revoke", UMRA).status == 0
        with pytest.raises((NotGranted, PeerNotLive, NotAuthorized)):
            client.call("confirm_key")
    assert site.enrolled() == []
    with Client(SecuredAddress(endpoint, thiefs, server)) as client, pytest.raises(NotAuthorized):
        client.call("ping")


def test_a_guessed_token_is_refused(site: Site) -> None:
    """A line that is right in all but the token, while an invitation is open."""
    invitation = parse_invitation(site.invite())
    guessed = replace(invitation, token=token_pair(bytes(range(32))))
    with at_most(REFUSAL_S):
        ran = site.join(guessed.render())
    assert (ran.status, ran.out, site.enrolled()) == (1, "", [])
    assert "or the line is mistyped" in ran.err


def test_a_withdrawn_token_is_refused(site: Site) -> None:
    """After `reject` nobody enrols by it, nor by a key that was proposed with it before."""
    invitation, pair = parse_invitation(site.invite()), new_pair()
    with with_token(invitation) as client:
        client.call("enrol", public_key=pair.public.z85.decode())
        rejected = site.certs_init("reject", SOMEBODY)
        assert (rejected.status, "no machine can enrol by it any more" in rejected.out) == (0, True)
        wait_until(lambda: site.server.logged("peer_removed"), PATIENCE_S, "mainpc knows of it")
        with pytest.raises((PeerNotLive, NotAuthorized)):
            client.call("enrol", public_key=pair.public.z85.decode())
    with newcomer(invitation, pair) as client, pytest.raises((NotGranted, NotAuthorized)):
        client.call("confirm_key")
    ran = site.join(invitation.render())
    assert (ran.status, site.enrolled()) == (1, [])
    assert "withdrawn" in ran.err


def test_an_expired_token_is_refused_by_mainpc(site: Site) -> None:
    """Also where the new machine's clock is wrong and takes the line for good."""
    invitation = parse_invitation(site.invite())
    over = Validity(int(time.time()) - 900, int(time.time()) - 61)
    path = site.hosts.keys / f"mainpc/invites/{SOMEBODY}.key"
    certificate = replace(load_certificate(path), validity=over)
    path.unlink()
    write_certificate(certificate, path)
    expired = site.server.logged
    wait_until(lambda: len(expired("peer_authorized")) > 4, PATIENCE_S, "mainpc read it again")
    ran = site.join(invitation.render())
    assert (ran.status, site.enrolled()) == (1, [])
    assert site.causes(invitation.token.public.fingerprint) == {"key_expired"}


def test_an_expired_line_is_refused_before_mainpc_is_asked(site: Site) -> None:
    """The new machine says so itself, with both clocks' times."""
    line = site.invite().partition("?")[0] + "?expires=2026-01-01T00:00:00Z"
    ran = site.join(line)
    assert (ran.status, ran.out) == (1, "")
    assert "the invitation expired 2026-01-01T00:00:00Z and this machine's clock says" in ran.err
    assert site.server.logged("handshake_refused") == []


@pytest.mark.parametrize("action", sorted(ACTIONS))
def test_the_token_may_do_nothing_but_enrol(shared: Site, action: str) -> None:
    """Every action that anybody is granted is refused to its holder."""
    invitation = parse_invitation(shared.invite(f"for-{action}"))
    with with_token(invitation) as client, pytest.raises(NotGranted):
        client.call(action, **FIELDS.get(action, {}))


def test_a_proposed_key_may_do_nothing_but_confirm(shared: Site) -> None:
    """Before it is authorised, its holder is nobody."""
    invitation, pair = parse_invitation(shared.invite("proposes")), new_pair()
    with with_token(invitation) as client:
        client.call("enrol", public_key=pair.public.z85.decode())
    with newcomer(invitation, pair) as client:
        for action in ("ping", "get_trust", "enrol", "get_peers"):
            with pytest.raises(NotGranted):
                client.call(action, **FIELDS.get(action, {}))
    assert "proposes" not in shared.enrolled()


def test_a_key_without_its_secret_is_never_authorised(shared: Site) -> None:
    """Whoever proposes somebody else's public key can't make the connection that confirms it."""
    invitation, pair = parse_invitation(shared.invite("liar")), new_pair()
    with with_token(invitation) as client:
        client.call("enrol", public_key=pair.public.z85.decode())
        with pytest.raises(NotGranted):
            client.call("confirm_key")
    assert "liar" not in shared.enrolled()


def test_a_token_is_limited_in_rate(shared: Site) -> None:
    """Ten proposals a minute, whoever found the line."""
    with with_token(parse_invitation(shared.invite("busy"))) as client:
        for _ in range(10):
            client.call("enrol", public_key=new_pair().public.z85.decode())
        with pytest.raises(LimitReached):
            client.call("enrol", public_key=new_pair().public.z85.decode())


def test_another_servers_key_in_the_line_is_noticed(shared: Site) -> None:
    """Nothing is proposed to a server that does not hold the key of the line."""
    invitation = parse_invitation(shared.invite("pinned"))
    ran = shared.join(replace(invitation, server_key=new_pair().public).render(), "pinned")
    assert (ran.status, ran.out, "pinned" in shared.enrolled()) == (1, "", False)
    assert "most likely its key is not the pinned" in ran.err


def test_an_existing_secret_is_replaced_only_on_request(site: Site) -> None:
    """Without --replace nothing changes and the invitation stays good; with it the old secret is gone."""
    new = site.trees / "new"
    assert site.certs_init(root=new, host="pc2").status == 0
    assert site.certs_init("revoke", UMRA).status == 0
    line, before = site.invite(UMRA, host="pc2"), files(new)
    ran = site.join(line, host="pc2")
    assert (ran.status, ran.out, files(new)) == (1, "", before)
    assert "pc2/client.key_secret exists already, and the invitation was not used" in ran.err
    assert site.join(line, "new", "--replace", host="pc2").status == 0
    after = files(new)
    assert after["pc2/client.key_secret"] != before["pc2/client.key_secret"]
    assert site.certs_init("verify", root=new, host="pc2").status == 0


def test_joined_again_with_the_same_line_it_stays_joined(site: Site) -> None:
    """The same key; once that is revoked, the line is no way back."""
    line = site.invite()
    first, second = site.join(line), site.join(line)
    assert (second.status, first.fingerprints) == (0, second.fingerprints)
    assert "had joined already" in second.out
    assert site.certs_init("revoke", SOMEBODY).status == 0
    wait_until(lambda: site.server.logged("key_revoked")[1:], PATIENCE_S, "mainpc knows of it")
    assert site.join(line).status == 1


def test_a_rotation_survives_a_restart_before_its_proof(site: Site) -> None:
    """What was proposed is forgotten; the next run proposes the same pair again, which lies on the disk."""
    line, tree = site.invite(), site.trees / "new"
    assert killed_at(site, line, tree, 1, after=".joined")
    before = files(tree)
    site.server.terminate()
    site.hosts.start(SDT).wait_until_serving()
    assert site.join(line).status == 0
    joined = load_certificates(tree / SOMEBODY).own_keys
    assert joined.secret_z85 in before[f"{SOMEBODY}/{SOMEBODY}.next.key_secret"]


@pytest.mark.parametrize("first", range(1, THIRDS + 1))  # in thirds, which may run side by side
def test_killed_at_any_moment_the_next_run_joins(site: Site, first: int) -> None:
    """A kill before every system call that changes the new machine's disk, the lost answer to the proof among them."""
    step, alive, used_before = first, False, 0
    while not alive:
        line, tree = site.invite(), site.trees / str(step)
        alive = not killed_at(site, line, tree, step)
        used_before += not alive and site.enrolled() == [SOMEBODY]
        pending = (
            {path.read_bytes() for path in tree.rglob("*.next.key_secret")} if (tree / ".joined").exists() else set()
        )
        ran = site.join(line, str(step))
        assert ran.status == 0, (step, ran.err)
        assert_joined(site, tree, pending)
        site = clean(site)
        step += THIRDS
    assert used_before > 1, "kills came after the token was used, too"


def assert_joined(site: Site, tree: Path, pending: set[bytes]) -> None:
    """The machine is enrolled with one secret, the one that was made first; nothing is left half-way."""
    assert site.certs_init("verify", root=tree).lines == [f"{tree}: 1 folders are correct"]
    secrets = [name for name in files(tree) if "secret" in name or "next" in name or "installing" in name]
    assert secrets == [f"{SOMEBODY}/{SOMEBODY}.key_secret"]
    keys = load_certificates(tree / SOMEBODY).own_keys
    assert all(keys.secret_z85 in content for content in pending)
    assert keys.certificate == load_certificate(site.hosts.keys / f"mainpc/enrolled/{SOMEBODY}.key")
    assert keys.certificate.validity.not_after is not None
    with Client(
        SecuredAddress(
            site.hosts.config.agent(SDT).endpoint, keys, load_certificate(tree / SOMEBODY / "server.key").public
        )
    ) as client:
        client.call("ping")


def clean(site: Site) -> Site:
    """Let mainpc forget who joined, so that the next one finds the same; of what is revoked its memory is long."""
    site.server.kill()
    for folder in ("mainpc/enrolled", "mainpc/enrolled/revoked", "mainpc/invites"):
        for path in (site.hosts.keys / folder).glob("*.key"):
            path.unlink()
    return replace(site, server=site.hosts.start(SDT).wait_until_ready())


def killed_at(site: Site, line: str, tree: Path, step: int, after: str = "") -> bool:
    """Join in a child that dies before a step; return False where it lived to the end."""
    child = multiprocessing.get_context("fork").Process(target=join_and_die, args=(site, line, tree, step, after))
    child.start()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode != 0


def join_and_die(site: Site, line: str, tree: Path, at_step: int, after: str) -> None:
    """Join, killed before a step that changes the tree; meant for a process of its own.

    Steps are counted once a file that is named `after` came into being.
    """
    steps, counting = 0, not after

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal steps, counting
        if event in _STEPS and str(tree) in str(arguments[0]):
            steps += counting
            if steps == at_step:
                os.kill(os.getpid(), signal.SIGKILL)
            counting = counting or (event == "os.rename" and str(arguments[1]).endswith(after))

    sys.addaudithook(hook)
    join(plan_layout(tree, site.hosts.config, None), parse_invitation(line), may_replace=False)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One SystemDigitalTwin for the tests that leave nothing behind that another one sees."""
    root = tmp_path_factory.mktemp("shared")
    (root / "hosts").mkdir()
    with Hosts(root / "hosts") as hosts:
        yield Site(hosts, hosts.start(SDT).wait_until_serving(), root / "trees")
