"""The process that sends messages joins on pc2's machine by its page, and tells of a mainpc whose machine is off."""

import ctypes
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from tests.containers.stack import REPOSITORY
from tests.receivers import HttpReceiver
from tests.two_hosts.machine_room import ADDRESSES, Namespace
from tests.two_hosts.site import Site
from tests.waiting import wait_until

PAGE = (REPOSITORY / "docs/how-to/get-messages.md").read_text(encoding="utf-8")
TOLD_WITHIN_S = 60.0  # a TTL decides
HELD_AFTER_START_S = 25.0
QUIET_S = 30.0

pytestmark = [pytest.mark.unified_memory_agent, pytest.mark.timeout(300)]


def receiver_on(machine: Namespace) -> HttpReceiver:
    """Return a receiver in a machine's network, where its socket stays: the thread alone goes there."""

    def make() -> HttpReceiver:
        with Path(f"/run/netns/{machine.name}").open("rb") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return HttpReceiver(machine.address)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(make).result()


@pytest.fixture
def web(site: Site) -> Iterator[HttpReceiver]:
    """Somewhere to send to, which pc2's configuration names."""
    with receiver_on(site.room.machines["pc2"]) as web:
        section = {"destinations": {"phone": {"webhook": f"http://{web.address}:{web.port}/", "unencrypted": True}}}
        with (site.checkouts["pc2"].folder / "config/network_config.yaml").open("a", encoding="utf-8") as config:
            config.write(f"\n{yaml.safe_dump({'notify': section})}")
        yield web
        site.checkouts["pc2"].run("docker compose --profile notify rm -fs notify")


def test_pc2_tells_of_a_machine_that_is_off(site: Site, web: HttpReceiver) -> None:
    """Once, and once that it is back."""
    site.walk.follow(PAGE)
    wait_until(lambda: "notify" in site.fingerprints(), TOLD_WITHIN_S, "it has joined")
    assert site.checkouts["pc2"].run("./twinhost notify test").out == f"phone: HTTP 200 OK from {ADDRESSES['pc2']}\n"
    agents = "docker compose run --rm -T --no-deps cli agents"
    wait_until(lambda: "notify" in site.checkouts["mainpc"].run(agents).out, TOLD_WITHIN_S, "it has registered")
    time.sleep(HELD_AFTER_START_S)
    site.room.machines["mainpc"].stop_engine()
    wait_until(lambda: len(web.titles) > 1, TOLD_WITHIN_S, "it is told")
    site.room.machines["mainpc"].start_engine()
    site.wait_until_back()
    wait_until(lambda: len(web.titles) > 2, TOLD_WITHIN_S, "its return is told")
    time.sleep(QUIET_S)
    assert web.titles[:2] == ["twinhost: test", "mainpc does not answer pc2"]
    (end,) = web.titles[2:]
    assert end.startswith("Resolved after ")
    assert end.endswith(": mainpc does not answer pc2")
