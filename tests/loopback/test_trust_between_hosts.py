"""What mainpc decides holds on the other host too: keys that were enrolled, and above all those that were revoked."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.identities import new_pair
from tests.loopback.agent_processes import SDT, UMRA, Hosts
from tests.waiting import PATIENCE_S, at_most, wait_until
from twinhost.secure_zmq.certificates import read_folders
from twinhost.secure_zmq.client import Client, Subscriber
from twinhost.secure_zmq.errors import NotAuthorized, PeerNotLive, TwinhostError
from twinhost.secure_zmq.key_writer import replace_certificate, write_revocation
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.server_address import SecuredAddress

EVERYWHERE_S = 1.0  # the promise: from the revocation on mainpc to the refusal on every host
KNOWN_S = 2.0


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with Hosts(tmp_path, heartbeat_s=5) as both:  # as shipped: what arrives in time arrives by the event feed
        both.start_both()
        yield both


def address(hosts: Hosts, of: str, own: KeyPair) -> SecuredAddress:
    """Return how to reach an agent with any key."""
    server = hosts.address(of)
    assert isinstance(server, SecuredAddress)
    return SecuredAddress(server.address, own, server.server_key)


def let_in(hosts: Hosts, pair: KeyPair) -> None:
    """Authorise a key on mainpc alone, as an enrolment does."""
    replace_certificate(pair.certificate, hosts.keys / "mainpc" / "enrolled" / f"{pair.certificate.owner.name}.key")


def gets_in(hosts: Hosts, of: str, pair: KeyPair) -> bool:
    with Client(address(hosts, of, pair)) as client:
        try:
            client.call("ping")
        except TwinhostError:
            return False
    return True


def test_a_key_enrolled_on_mainpc_is_known_on_pc2(hosts: Hosts) -> None:
    """Nobody touched pc2's folder; its agent follows mainpc's list."""
    third = new_pair("third", "laptop")
    let_in(hosts, third)
    wait_until(lambda: gets_in(hosts, UMRA, third), PATIENCE_S, "pc2 knows the key")
    assert gets_in(hosts, SDT, third)


def test_a_revoked_key_is_refused_everywhere_within_a_second(hosts: Hosts) -> None:
    """Live sessions on both hosts, and the subscriber of the feed, end; a neighbour loses nothing meanwhile."""
    third = new_pair("third", "laptop")
    let_in(hosts, third)
    wait_until(lambda: gets_in(hosts, UMRA, third), PATIENCE_S, "pc2 knows the key")
    agent = hosts.config.agent(SDT)
    assert agent.events_port is not None
    pin = address(hosts, SDT, third).server_key
    feed = Subscriber(SecuredAddress(agent.host.endpoint(agent.events_port), third, pin), [b"AGENT:"])
    feed.start()
    neighbour = _Neighbour(hosts)
    with Client(address(hosts, SDT, third)) as on_mainpc, Client(address(hosts, UMRA, third)) as on_pc2:
        on_mainpc.call("ping")
        on_pc2.call("ping")
        neighbour.start()
        wait_until(lambda: feed.get(0.1) is not None, PATIENCE_S, "an event is received")
        write_revocation(third.certificate, hosts.keys / "mainpc" / "revoked")
        time.sleep(EVERYWHERE_S)  # the promise itself: after it nothing more may pass
        while feed.get(0) is not None:
            pass
        for client in (on_mainpc, on_pc2):
            with at_most(KNOWN_S), pytest.raises((PeerNotLive, NotAuthorized)):
                client.call("ping")
        answered = neighbour.answered
        wait_until(lambda: neighbour.answered > answered + 10, PATIENCE_S, "events were published meanwhile")
        assert feed.get(0.5) is None
    feed.stop()
    assert neighbour.stop() == []


class _Neighbour:
    """The operator, who registers an agent again and again: every time is an event on the feed."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._stop = threading.Event()
        self._failures: list[str] = []
        self._thread = threading.Thread(target=self._run)
        self.answered = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> list[str]:
        """End it and return the failures that it met."""
        self._stop.set()
        self._thread.join()
        return self._failures

    def _run(self) -> None:
        with self._hosts.client(SDT) as client:
            while not self._stop.wait(0.01):
                try:
                    client.call("register_agent", agent_name="somebody", status="HEALTHY")
                except TwinhostError as error:
                    self._failures.append(str(error))
                self.answered += 1


def test_a_revocation_outlives_both_agents(hosts: Hosts, tmp_path: Path) -> None:
    """After a kill and a start, and with mainpc gone, pc2 still refuses the key."""
    third = new_pair("third", "laptop")
    let_in(hosts, third)
    wait_until(lambda: gets_in(hosts, UMRA, third), PATIENCE_S, "pc2 knows the key")
    write_revocation(third.certificate, hosts.keys / "mainpc" / "revoked")
    wait_until(lambda: not gets_in(hosts, UMRA, third), PATIENCE_S, "pc2 refuses the key")
    for process in hosts.processes:
        process.kill()
    hosts.start(UMRA).wait_until_serving()
    assert not gets_in(hosts, UMRA, third)
    hosts.start(SDT).wait_until_serving()
    assert not gets_in(hosts, SDT, third)


def test_a_full_disk_on_pc2_keeps_no_revoked_key_alive(hosts: Hosts) -> None:
    """It refuses the key from memory, its health says so, and what revokes the key is written once there is space."""
    third = new_pair("third", "laptop")
    _, pc2 = hosts.processes
    replace_certificate(third.certificate, hosts.keys / "pc2" / "third.key")
    wait_until(lambda: gets_in(hosts, UMRA, third), PATIENCE_S, "pc2 knows the key")
    pc2.forbid_files_to_grow()
    write_revocation(third.certificate, hosts.keys / "mainpc" / "revoked")
    with Client(address(hosts, UMRA, third)) as client:
        wait_until(lambda: is_refused(client), PATIENCE_S, "pc2 refuses the key")
    sentence = f"no file here revokes {third.public.fingerprint} "
    wait_until(lambda: sentence in str(pc2.health()["warnings"]), PATIENCE_S, "health says so")
    pc2.allow_files_to_grow()
    wait_until(lambda: sentence not in str(pc2.health()["warnings"]), PATIENCE_S, "it is written")
    assert third.public.fingerprint in read_folders([hosts.keys / "pc2" / "trust"]).revoked
    pc2.kill()
    hosts.start(UMRA).wait_until_serving()
    assert not gets_in(hosts, UMRA, third)


def is_refused(client: Client) -> bool:
    try:
        client.call("ping")
    except (PeerNotLive, NotAuthorized):
        return True
    return False
