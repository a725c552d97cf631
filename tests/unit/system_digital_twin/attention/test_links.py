"""A host with an open link among encrypted ones is recognised by its handshakes, and by nothing less."""

import threading
from typing import Any

import pytest

from tests.unit.system_digital_twin.twin import Clock
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.peers import Outcome
from twinhost.system_digital_twin.attention.links import (
    ENOUGH,
    LOOK_UP_EVERY_S,
    RECENT_S,
    Addresses,
    OtherKind,
)

PC2 = {"address": "192.0.2.2"}


@pytest.fixture
def seen(clock: Clock) -> OtherKind:
    return OtherKind(clock.monotonic)


def plain(seen: OtherKind, times: int = ENOUGH, outcome: Outcome = Outcome.BROKEN_OFF) -> None:
    for _ in range(times):
        seen.observe(outcome, PC2)


@pytest.mark.parametrize("outcome", [Outcome.BROKEN_OFF, Outcome.MECHANISM_MISMATCH])
def test_handshakes_of_the_other_kind_are_noticed(seen: OtherKind, clock: Clock, outcome: Outcome) -> None:
    plain(seen, 2, outcome)
    assert not seen.sends(["192.0.2.2"]), "they may be port scans"
    plain(seen, 1, outcome)
    assert seen.sends(["192.0.2.9", "192.0.2.2"])
    assert not seen.sends(["192.0.2.9", ""])
    clock.let_pass(RECENT_S + 1)
    assert not seen.sends(["192.0.2.2"])


@pytest.mark.parametrize("outcome", [Outcome.KEY_REVOKED, Outcome.WRONG_KEYS, Outcome.ACCEPTED])
def test_an_address_that_speaks_the_same_has_another_fault(seen: OtherKind, outcome: Outcome) -> None:
    """A host whose key is revoked asks for the greeting too, on connections that it breaks off."""
    plain(seen)
    seen.observe(outcome, {**PC2, "peer": "pc2"})
    assert not seen.sends(["192.0.2.2"])


def test_a_failure_without_an_address_blames_nobody(seen: OtherKind) -> None:
    for _ in range(ENOUGH):
        seen.observe(Outcome.MECHANISM_MISMATCH, {})
    assert not seen.sends([""])


def test_what_is_kept_of_addresses_is_limited(seen: OtherKind) -> None:
    for number in range(10_000):
        seen.observe(Outcome.BROKEN_OFF, {"address": f"2001:db8::{number:x}"})
        seen.observe(Outcome.ACCEPTED, {"peer": f"p{number}", "address": f"2001:db8:1::{number:x}"})
    assert len(seen._last) <= 256
    assert len(seen.address_of) <= 256
    plain(seen)
    assert seen.sends(["192.0.2.2"])


def test_a_name_is_looked_up_without_waiting(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()

    def slow(*_: object) -> list[Any]:
        answered.wait(PATIENCE_S)
        return [(0, 0, 0, "", ("192.0.2.2", 0))]

    monkeypatch.setattr("socket.getaddrinfo", slow)
    addresses = Addresses(clock.monotonic)
    assert addresses.of("pc2") == frozenset()
    answered.set()
    wait_until(lambda: addresses.of("pc2") == {"192.0.2.2"}, PATIENCE_S, "it is looked up")


def test_a_name_that_no_server_knows_is_no_fault(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is it asked for again at once."""
    asked: list[object] = []
    failed: list[object] = []

    def unknown(*names: object) -> list[Any]:
        asked.append(names)
        raise OSError("Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    monkeypatch.setattr("threading.excepthook", failed.append)
    addresses = Addresses(clock.monotonic)
    for _ in range(2):
        assert addresses.of("pc2") == frozenset()
        for thread in threading.enumerate():
            if thread.name == "address-lookup":
                thread.join(PATIENCE_S)
    assert (len(asked), failed) == (1, [])
    clock.let_pass(LOOK_UP_EVERY_S)
    addresses.of("pc2")
    wait_until(lambda: len(asked) == 2, PATIENCE_S, "it is asked for again")
