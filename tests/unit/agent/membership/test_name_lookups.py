"""Names that agents registered as their address are looked up within a deadline, one at a time for each agent."""

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.waiting import wait_until
from twinhost.agent.membership.coordination import MAX_LOOKUPS, NameLookups

pytestmark = pytest.mark.unified_memory_agent


class Resolver:
    """Resolves a host that is called slow once `release` is set, and any other at once."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.asked: list[str] = []

    def __call__(self, host: str, *_: object, **__: object) -> list[tuple[Any, ...]]:
        self.asked.append(host)
        if host.startswith("slow"):
            self.release.wait()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", 0))]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    resolver = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    yield resolver
    resolver.release.set()


def test_a_slow_name_holds_its_thread_until_the_deadline(resolver: Resolver) -> None:
    """Another agent's name is looked up meanwhile."""
    lookups = NameLookups()
    started = time.monotonic()
    assert lookups.address_of("slow", "slow.example", 0.05) is None
    assert time.monotonic() - started < 2
    assert lookups.address_of("quick", "quick.example", 5) == "192.0.2.7"


def test_a_slow_agent_has_one_lookup_under_way(resolver: Resolver) -> None:
    """Whatever it registers next: it can't take all of them."""
    lookups = NameLookups()
    for number in range(3):
        assert lookups.address_of("slow", f"slow{number}.example", 0.01) is None
    assert resolver.asked == ["slow0.example"]
    resolver.release.set()
    wait_until(lambda: lookups.address_of("slow", "quick.example", 1) == "192.0.2.7", 5, "the lookup has ended")


def test_there_are_never_more_lookups_than_that(resolver: Resolver) -> None:
    lookups = NameLookups()
    for number in range(MAX_LOOKUPS + 3):
        lookups.address_of(f"agent{number}", f"slow{number}.example", 0.001)
    assert len(resolver.asked) <= MAX_LOOKUPS


def test_a_name_that_is_unknown_has_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> list[tuple[Any, ...]]:
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    lookups = NameLookups()
    assert [lookups.address_of("agent", "nobody.example", 1) for _ in range(2)] == [None, None]
