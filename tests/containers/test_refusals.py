"""Unknown clients are refused within 2 s with the cause, and named in the log."""

from pathlib import Path

import pytest

from tests.containers.stack import KEY_STEMS, Stack
from tests.waiting import REFUSAL_S, at_most, wait_until
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import (
    ConnectionRefused,
    KeyMismatch,
    NotAuthorized,
    NotGranted,
    SecurityMismatch,
    WrongServerKey,
)
from twinhost.secure_zmq.keys import KeyOwner, KeyPair, load_key_pair
from twinhost.secure_zmq.server_address import SecuredAddress, ServerAddress, UnencryptedAddress

HOSTS = ["mainpc", "pc2"]

pytestmark = pytest.mark.sdt_security


def stranger() -> KeyPair:
    """Return a good key pair that nobody has authorised, under a name that somebody has."""
    return KeyPair.generate(KeyOwner("operator", "mainpc", frozenset({"operator"})))


def refusal(address: ServerAddress) -> ConnectionRefused:
    """Return the typed error of a call, which must come in time."""
    with Client(address) as client, at_most(REFUSAL_S), pytest.raises(ConnectionRefused) as caught:
        client.call("ping", deadline_s=10)
    return caught.value


def assert_logged(stack: Stack, host: str, *causes: str, **fields: str) -> None:
    """Wait for the log's event of a refused handshake with one of these causes, and these fields."""

    def logged() -> bool:
        return any(
            event["event"] == "handshake_refused" and event["cause"] in causes and fields.items() <= event.items()
            for event in stack.events(host)
        )

    wait_until(logged, 5, f"a log line of {host} with {causes} and {fields}")


@pytest.mark.parametrize("host", HOSTS)
def test_a_plain_client_is_refused(stack: Stack, host: str) -> None:
    """A client without CURVE is refused, and gets the error that the server is encrypted."""
    error = refusal(UnencryptedAddress(stack.zmq_address(host)))
    assert isinstance(error, SecurityMismatch)
    assert "SECURE_ZMQ" in str(error)
    assert_logged(stack, host, "broken_off_or_plain_client", "mechanism_mismatch")  # which of the two is a race


@pytest.mark.parametrize("host", HOSTS)
def test_an_unknown_key_is_refused_and_its_fingerprint_logged(stack: Stack, host: str) -> None:
    """A key that is in no authorised file gets no session, whatever name it claims."""
    own_keys = stranger()
    server_key = stack.keys("operator").public_key(KEY_STEMS[host])
    error = refusal(SecuredAddress(stack.zmq_address(host), own_keys, server_key))
    assert isinstance(error, NotAuthorized)
    assert own_keys.public.fingerprint in str(error)
    assert_logged(stack, host, "key_not_authorized", fingerprint=own_keys.public.fingerprint)


@pytest.mark.parametrize("host", HOSTS)
def test_a_wrong_server_pin_is_reported(stack: Stack, host: str) -> None:
    """A client that pinned another key sends nothing, and its error names both possible causes."""
    keys = stack.keys("operator")
    error = refusal(SecuredAddress(stack.zmq_address(host), keys.own_keys, stranger().public))
    assert isinstance(error, WrongServerKey)
    assert "most likely" in str(error)
    assert "ZAP" in str(error)
    assert_logged(stack, host, "wrong_server_key_or_mismatched_halves")


def test_mismatched_halves_are_found_by_the_client_itself(stack: Stack, tmp_path: Path) -> None:
    """A secret file whose halves are not one pair is refused before anything is connected."""
    keys = stack.keys("operator")
    text = (keys.folder / "operator.key_secret").read_text()
    path = tmp_path / "operator.key_secret"
    path.write_text(text.replace(keys.own_keys.public.z85.decode(), stranger().public.z85.decode()))
    path.chmod(0o600)
    with pytest.raises(KeyMismatch, match="halves of one pair"):
        load_key_pair(path)


@pytest.mark.parametrize("host", HOSTS)
def test_a_curve_client_never_talks_to_a_plain_server(stack: Stack, open_stack: Stack, host: str) -> None:
    """A secured client that meets an open server says so and sends nothing."""
    keys = stack.keys("operator")
    address = SecuredAddress(open_stack.zmq_address(host), keys.own_keys, keys.public_key(KEY_STEMS[host]))
    error = refusal(address)
    assert isinstance(error, SecurityMismatch)
    assert "is not encrypted" in str(error)
    assert_logged(open_stack, host, "mechanism_mismatch", "broken_off_or_plain_client")


def test_an_agent_can_not_register_another(stack: Stack) -> None:
    """UMRA's key opens mainpc, and does not speak for anybody else."""
    with stack.client("mainpc", "pc2") as client:
        with pytest.raises(NotGranted, match="may act for SystemDigitalTwin"):
            client.call("register_agent", agent_name="SystemDigitalTwin", status="HEALTHY")
        with pytest.raises(NotGranted, match="is for host pc2"):
            client.call("register_agent", agent_name="UnifiedMemoryReasoningAgent", status="HEALTHY", location="mainpc")


@pytest.mark.parametrize("host", HOSTS)
def test_an_operators_action_is_not_an_agents(stack: Stack, host: str) -> None:
    """Who is connected is for an operator to know."""
    with stack.client(host, "pc2") as client, pytest.raises(NotGranted):
        client.call("get_peers")


@pytest.mark.parametrize("host", HOSTS)
def test_a_legitimate_client_is_served_through_it_all(stack: Stack, host: str) -> None:
    """After every refusal above, the operator's key still opens the door."""
    with stack.client(host) as client:
        assert client.call("health")["status"] == "ok"
