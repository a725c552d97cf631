"""Both agents as processes: what they measure reaches mainpc, and what mainpc promised survives it."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.loopback.agent_processes import SDT, UMRA, Hosts
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import LimitReached, NotGranted, RequestError

INTERVAL_S = 0.3
CLIENTS = 8
SHARES = 20  # that the memory which may be promised is asked for in


@pytest.fixture(params=[True, False], ids=["secured", "open"])
def both_kinds(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hosts]:
    """Two hosts of which nothing runs yet, with SECURE_ZMQ=1 and 0."""
    with Hosts(tmp_path, secure=request.param, metrics_interval_s=INTERVAL_S) as hosts:
        yield hosts


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with Hosts(tmp_path, metrics_interval_s=INTERVAL_S) as hosts:
        yield hosts


def of_host(client: Client, host: str) -> dict[str, Any]:
    found: dict[str, Any] = client.call("get_metrics")["metrics"]["hosts"][host]
    return found


def measured(client: Client, host: str) -> dict[str, Any]:
    """Wait until a host is measured, its CPU and the link too, and return its figures."""

    def figures() -> dict[str, Any] | None:
        found = of_host(client, host)
        whole = found["cpu_usage"] is not None and found["network_latency_ms"] is not None
        return found if whole else None

    return wait_until(figures, PATIENCE_S, f"{host} is measured") or {}


@pytest.mark.unified_memory_agent
def test_each_host_is_measured_and_the_way_between_them(both_kinds: Hosts) -> None:
    """Real figures on both, whether or not the link is secured; and they move on."""
    both_kinds.start_both()
    with both_kinds.client(SDT) as client:
        for host in ("mainpc", "pc2"):
            found = measured(client, host)
            assert 0 <= found["cpu_usage"] <= 100
            assert 0 < found["ram_usage_mb"] < found["ram_total_mb"]
            assert 0 < found["network_latency_ms"] < 1_000 * PATIENCE_S
            assert not found["stale"]
            wait_until(lambda: of_host(client, host)["timestamp"] > found["timestamp"], PATIENCE_S, "the next")  # noqa: B023
        assert len(client.call("get_history", host="pc2")["history"]["cpu_usage"]) >= 2


@pytest.mark.unified_memory_agent
def test_a_host_that_is_gone_is_unknown_and_comes_back(hosts: Hosts) -> None:
    """Null after three intervals, mainpc's latency too, and real figures when it is there again."""
    _, pc2 = hosts.start_both()
    with hosts.client(SDT) as client:
        measured(client, "pc2")
        pc2.kill()
        wait_until(lambda: of_host(client, "pc2")["stale"], PATIENCE_S, "pc2 is unknown")
        assert of_host(client, "pc2")["ram_usage_mb"] is None
        wait_until(lambda: of_host(client, "mainpc")["network_latency_ms"] is None, PATIENCE_S, "the link is unknown")
        assert of_host(client, "mainpc")["ram_usage_mb"] is not None
        hosts.start(UMRA)
        measured(client, "pc2")


@pytest.mark.sdt_security
def test_nobody_reports_for_pc2_but_pc2(hosts: Hosts) -> None:
    """Not with an operator's key, nor with mainpc's own."""
    hosts.start(SDT).wait_until_ready()
    for folder in ("operator", SDT):
        with hosts.client(SDT, by=folder) as client, pytest.raises(NotGranted):
            client.call("report_metrics", cpu_percent=1, ram_used_mb=1, ram_total_mb=2, host="pc2")


@pytest.mark.unified_memory_agent
def test_a_mainpc_that_takes_no_metrics_is_still_in_touch(hosts: Hosts) -> None:
    """Logged once; registration and heartbeats continue."""
    path = Path(hosts.config.source)
    path.write_text(path.read_text().replace('"report_metrics", ', ""))
    _, pc2 = hosts.start_both()
    entry = wait_until(lambda: pc2.logged("metrics_not_taken"), PATIENCE_S, "the log says so")[0]
    assert entry["code"] == "not_granted"
    with hosts.client(SDT) as client:
        seen = client.call("get_all_agents")["agents"][UMRA]["last_seen"]
        wait_until(lambda: client.call("get_all_agents")["agents"][UMRA]["last_seen"] > seen, PATIENCE_S, "a heartbeat")
    assert pc2.health()["ready"]
    assert len(pc2.logged("metrics_not_taken")) == 1


def test_leases_survive_kill_9_of_mainpc(hosts: Hosts) -> None:
    """Every one that was acknowledged, and no other; one that lapsed meanwhile is gone."""
    mainpc = hosts.start(SDT).wait_until_ready()
    with hosts.client(SDT) as client:
        measured_ram(client)
        kept = client.call("reserve_ram", amount_mb=1, ttl_s=600)["lease_id"]
        committed = client.call("reserve_ram", amount_mb=1, ttl_s=600)["lease_id"]
        client.call("commit_lease", lease_id=committed)
        client.call("reserve_ram", amount_mb=1, ttl_s=0.001)
        mainpc.kill()
        hosts.start(SDT).wait_until_serving()
        leases = {lease["lease_id"]: lease["state"] for lease in client.call("list_leases")["leases"]}
        assert leases == {kept: "reserved", committed: "committed"}
        client.call("release_lease", lease_id=kept)


def measured_ram(client: Client) -> dict[str, Any]:
    return wait_until(lambda: present(of_host(client, "mainpc")), PATIENCE_S, "mainpc is measured") or {}


def present(found: dict[str, Any]) -> dict[str, Any] | None:
    return found if found["ram_usage_mb"] is not None else None


def test_clients_at_once_never_get_the_same_memory(hosts: Hosts) -> None:
    """As many ask at once for a share of what is free: all that they got together is no more than there is."""
    hosts.start(SDT).wait_until_ready()
    with hosts.client(SDT) as client:
        found = measured_ram(client)
        free_mb = 0.9 * found["ram_total_mb"] - found["ram_usage_mb"]
        start = threading.Barrier(CLIENTS)

        def reserve_until_refused(_: int) -> int:
            granted = 0
            with hosts.client(SDT) as own:
                own.call("ping")
                start.wait(PATIENCE_S)
                for _ in range(SHARES):
                    try:
                        own.call("reserve_ram", amount_mb=free_mb / SHARES, host="mainpc", ttl_s=600)
                        granted += 1
                    except LimitReached:
                        pass
            return granted

        with ThreadPoolExecutor(CLIENTS) as pool:
            granted = sum(pool.map(reserve_until_refused, range(CLIENTS)))
        leases = client.call("list_leases")["leases"]
        assert len(leases) == granted
        assert sum(lease["amount_mb"] for lease in leases) <= 0.9 * found["ram_total_mb"]
        assert SHARES - 10 <= granted <= SHARES + 2, "what the machine uses meanwhile moves it a little"
        with pytest.raises(RequestError, match="can't be reserved"):
            client.call("reserve_ram", amount_mb=free_mb, host="mainpc")
