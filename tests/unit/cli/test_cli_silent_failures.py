"""Every failure about which CURVE keeps silent is one sentence that names its cause, of any command."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.identities import new_pair
from tests.unit.cli.loopback_agents import SDT, UMRA, TwoHosts
from tests.unit.cli.running import Cli
from twinhost.secure_zmq.framing import exchange
from twinhost.secure_zmq.key_writer import replace_certificate

pytestmark = pytest.mark.thorough

Sabotage = Callable[[TwoHosts, pytest.MonkeyPatch], Any]


def _unknown_key(hosts: TwoHosts, _: pytest.MonkeyPatch) -> None:
    (hosts.folders["server"] / "operator.key").unlink()
    hosts.mainpc.reload_peers()


def _zap_fault(hosts: TwoHosts, patch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a fault")

    patch.setattr(hosts.mainpc.peers, "judge", broken)


def _wrong_pin(hosts: TwoHosts, _: pytest.MonkeyPatch) -> None:
    replace_certificate(new_pair(SDT, "mainpc").certificate, hosts.folders["operator"] / "server.key")


def _other_half(hosts: TwoHosts, _: pytest.MonkeyPatch) -> None:
    path = hosts.folders["operator"] / "operator.key_secret"
    own = hosts.pairs["operator"].public.z85.decode()
    path.write_text(path.read_text().replace(own, new_pair().public.z85.decode()))


def _plain_client(hosts: TwoHosts, _: pytest.MonkeyPatch) -> None:
    hosts.secure = False


@contextmanager
def _mute(hosts: TwoHosts) -> Iterator[None]:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        hosts.write_config(mute.getsockname()[1], hosts.pc2.port)
        yield


CAUSES: dict[str, tuple[Sabotage, str, tuple[str, ...]]] = {
    "key not authorised": (_unknown_key, "not_authorized", ("refused this key (SHA256:",)),
    "ZAP 300": (_zap_fault, "server_unreachable", ("handshake", "ZAP handler has failed")),
    "wrong server key": (_wrong_pin, "wrong_server_key", ("most likely its key is not the pinned SHA256:", "ZAP")),
    "halves that do not match": (_other_half, "key_mismatch", ("not halves of one pair",)),
    "plain to CURVE": (_plain_client, "security_mismatch", ("requires CURVE", "SECURE_ZMQ to the same value")),
}


@pytest.mark.parametrize("cause", list(CAUSES))
def test_a_silent_failure_is_one_sentence(
    hosts: TwoHosts, cli: Cli, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    """With its code for programs, and what to do for people; never a bare time-out."""
    sabotage, code, words = CAUSES[cause]
    monkeypatch.setattr(exchange, "DEFAULT_DEADLINE_S", 2.0)
    sabotage(hosts, monkeypatch)
    told_once(cli, hosts, code, *words)


def test_a_curve_client_of_a_plain_agent_is_reported(open_hosts: TwoHosts, cli: Cli) -> None:
    """The other way round."""
    open_hosts.secure = True
    told_once(cli, open_hosts, "security_mismatch", "is not encrypted", "SECURE_ZMQ to the same value")


def test_a_mute_peer_is_reported(hosts: TwoHosts, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection and says nothing."""
    monkeypatch.setattr(exchange, "DEFAULT_DEADLINE_S", 1.0)
    with _mute(hosts):
        told_once(cli, hosts, "server_unreachable", "no handshake followed", "another program listens on that port")


def test_an_unreachable_server_is_reported(hosts: TwoHosts, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even a TCP connection."""
    monkeypatch.setattr(exchange, "DEFAULT_DEADLINE_S", 1.0)
    hosts.mainpc.stop()
    told_once(cli, hosts, "server_unreachable", "nothing answered at that address", "check that the agent runs")


def test_an_agent_beside_a_broken_one_is_answered(hosts: TwoHosts, cli: Cli) -> None:
    """One cause, one sentence, and nothing hidden."""
    replace_certificate(new_pair(SDT, "mainpc").certificate, hosts.folders["operator"] / "server.key")
    ran = cli(hosts, "ping", "--json")
    assert json.loads(ran.out)["agents"][UMRA]["status"] == "ok"
    assert ran.err.count("\n") == 1


def told_once(cli: Cli, hosts: TwoHosts, code: str, *words: str) -> None:
    ran = cli(hosts, "ping", "mainpc", "--json")
    assert (ran.status, json.loads(ran.out)["code"]) == (1, code), ran.err
    (sentence,) = ran.err.splitlines()
    assert sentence.startswith(f"error [{code}]: ")
    for word in words:
        assert word in sentence
