"""The deadline of a call: a number above 0, and by default long enough for what the request lets the agent wait."""

import asyncio
import math
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.loopback.agent_processes import SDT, Hosts
from tests.unit.cli.running import COMMAND
from twinhost.clients import AsyncSystemDigitalTwin, SystemDigitalTwin
from twinhost.secure_zmq.aio import AsyncClient
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import LimitReached, ServerUnreachable
from twinhost.secure_zmq.framing import exchange
from twinhost.secure_zmq.framing.exchange import deadline_of
from twinhost.secure_zmq.server_address import UnencryptedAddress

NOWHERE = UnencryptedAddress("tcp://127.0.0.1:9")
WAIT_S = 1.5
TOO_MUCH: dict[str, Any] = {"amount_mb": 1e9, "wait_s": WAIT_S}


@pytest.mark.parametrize("deadline_s", [0, 0.0, -1, -0.5, math.nan, -math.inf, True, False, "5", [5], 5j])
def test_a_deadline_is_a_number_above_zero(deadline_s: Any) -> None:
    """One sentence that names the argument, before anything is sent."""
    sentence = rf"deadline_s is {deadline_s!r}; give it in seconds".replace("[", r"\[")
    with Client(NOWHERE) as client:
        with pytest.raises(ValueError, match=sentence):
            client.call("ping", deadline_s=deadline_s)
        with pytest.raises(ValueError, match=sentence):
            client.map([], deadline_s=deadline_s)

    async def ask() -> None:
        async with AsyncClient(NOWHERE) as client:
            with pytest.raises(ValueError, match=sentence):
                await client.call("ping", deadline_s=deadline_s)

    asyncio.run(ask())


def test_the_default_covers_what_the_request_waits_for() -> None:
    """Of any action; a deadline that is given holds as it is, and what is no time is the agent's to refuse."""
    assert deadline_of(None) == 5
    assert [deadline_of(None, {"wait_s": wait_s}) for wait_s in (0, 30, 0.5, None)] == [5, 35, 5.5, 5]
    no_times: list[object] = [-3, math.nan, math.inf, True, "30", []]
    assert [deadline_of(None, {"wait_s": wait_s}) for wait_s in no_times] == [5] * 6
    assert [deadline_of(given, {"wait_s": 30}) for given in (0.1, 5, 40, math.inf)] == [0.1, 5, 40, math.inf]


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with Hosts(tmp_path) as hosts:
        hosts.start(SDT).wait_until_serving()
        yield hosts


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A default that is shorter than the wait of the request."""
    monkeypatch.setattr(exchange, "DEFAULT_DEADLINE_S", WAIT_S / 2)


@pytest.mark.usefixtures("short")
def test_every_client_waits_as_long_as_the_agent(hosts: Hosts) -> None:
    """The reply comes once the agent has waited, and not an error of the client before that."""
    address = hosts.address(SDT)
    with SystemDigitalTwin(address) as system:
        with pytest.raises(LimitReached):
            system.call("reserve_ram", **TOO_MUCH)
        with pytest.raises(LimitReached):
            system.reserve_ram(1e9, wait_s=WAIT_S)
        (reply,) = system.map([("reserve_ram", TOO_MUCH)], return_exceptions=True)
        assert isinstance(reply, LimitReached)
        with pytest.raises(ServerUnreachable):
            system.call("reserve_ram", **TOO_MUCH, deadline_s=0.2)

    async def ask() -> None:
        async with AsyncSystemDigitalTwin(address) as system:
            asked = system.call("reserve_ram", **TOO_MUCH), system.reserve_ram(1e9, wait_s=WAIT_S)
            for error in await asyncio.gather(*asked, return_exceptions=True):
                assert isinstance(error, LimitReached)

    asyncio.run(ask())


def test_the_command_line_waits_as_long_as_the_agent(hosts: Hosts) -> None:
    """Longer than a call without `wait_s` would."""
    wait_s = exchange.DEFAULT_DEADLINE_S + 1
    words = [*COMMAND, "call", SDT, "reserve_ram", "amount_mb=1e9", f"wait_s={wait_s}"]
    ran = subprocess.run(words, env=hosts.environment(SDT), capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 1
    # On a busy machine the agent may answer while the client, as every 2 s, connects again. The request that comes then
    # waits again, and the client to its own deadline.
    ends = ("error [limit_reached]: ", f"within {exchange.DEFAULT_DEADLINE_S + wait_s:g} s: it received the request")
    assert any(end in ran.stderr for end in ends), ran.stderr
