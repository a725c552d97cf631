"""The page on standbys, followed: what is killed, and what status, the page, and the attention list say of it."""

import json
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.containers.stack import AGENTS, HTTP_PORTS
from tests.containers.test_failover import EVERY_SERVICE, TAKEN_OVER_WITHIN_S, WRITES_AGAIN_WITHIN_S, Pair
from tests.waiting import PATIENCE_S, wait_until

SOON_S = TAKEN_OVER_WITHIN_S + PATIENCE_S
_IDLE_S = 60
_MEMORY_MB, _CPU_PERCENT = 393, 30  # the sums of the page's table, "What it costs"


@pytest.fixture(scope="module")
def pair(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with Pair.started(tmp_path_factory.mktemp("shown"), engine) as pair:
        yield pair


def get(pair: Pair, service: str, path: str) -> str:
    with urllib.request.urlopen(f"http://{pair.published(service, HTTP_PORTS)}{path}", timeout=5) as answer:
        return str(answer.read().decode())


def state(pair: Pair) -> dict[str, Any]:
    """Return what mainpc's page shows, from the process that is active; nothing while none is."""
    for service in ("mainpc", "mainpc-standby"):
        with suppress(OSError, ValueError):
            return dict(json.loads(get(pair, service, "/api/state")))
    return {}


def failover(pair: Pair) -> dict[str, Any]:
    return dict(state(pair).get("failover", {"agents": [], "copies": None}))


def measured(pair: Pair) -> set[str]:
    return {host["name"] for host in state(pair).get("hosts", []) if not host["stale"]}


def row(pair: Pair, agent: str) -> dict[str, Any]:
    rows = {row["agent"]: row for row in failover(pair)["agents"]}
    return dict(rows.get(agent, {"holder": "", "standbys": []}))


def items(pair: Pair) -> set[str]:
    with suppress(ValueError, KeyError):
        return {item["id"] for item in json.loads(pair.run("./twinhost attention --json").out)["items"]}
    return {"no answer"}


def status(pair: Pair) -> str:
    return " ".join(pair.run("./twinhost status").out.split())


def shown(what: str, condition: Callable[[], object], deadline_s: float = SOON_S) -> None:
    wait_until(condition, deadline_s, what)


def test_all_of_it_is_shown(pair: Pair) -> None:
    """Either machine is asked for both agents; a standby's page names the active one."""
    for host, agent in AGENTS.items():
        shown(f"{host}'s standby is seen", lambda: row(pair, agent)["standbys"])  # noqa: B023
    shown("the witness was asked", lambda: "witness" in failover(pair))
    document = failover(pair)
    assert (document["copies"], document["witness"]) == (2, {"name": "witness", "answers": True})
    said = status(pair)
    for host, agent in AGENTS.items():
        assert f"Failover {agent} is active on {host} since " in said
        assert re.search(
            rf"\(epoch 1\); standby {host}-standby is \d+ transactions? behind; 2 copies; witness well", said
        )
        followed = get(pair, f"{host}-standby", "/")
        assert f"{agent} is active on <b>{host}</b> since " in followed
        assert " or before (epoch 1)" in followed
    assert items(pair) == set()


def test_an_idle_deployment_costs_as_little_as_the_page_says(pair: Pair) -> None:
    """For 60 s: the memory of each container's processes (`Pss`), and its processor time, as the engine counts it."""
    before = {service: (time.monotonic(), cpu_s(pair, service)) for service in EVERY_SERVICE}
    time.sleep(_IDLE_S)
    memory_mb = cpu_percent = 0.0
    for service, (began, used_s) in before.items():
        percent = 100 * (cpu_s(pair, service) - used_s) / (time.monotonic() - began)
        print(f"{service:16} {pss_mb(pair, service):6.1f} MB {percent:5.2f} % of a core")
        memory_mb, cpu_percent = memory_mb + pss_mb(pair, service), cpu_percent + percent
    assert memory_mb < 2 * _MEMORY_MB
    assert cpu_percent < 2 * _CPU_PERCENT


def pss_mb(pair: Pair, service: str) -> float:
    pids = pair.run(f"docker top {pair.container(service).id} -eo pid").out.split()[1:]
    rollups = [path.read_text() for pid in pids if (path := Path(f"/proc/{pid}/smaps_rollup")).exists()]
    return sum(int(re.findall(r"^Pss:\s+(\d+)", rollup, re.M)[0]) for rollup in rollups) / 1_000


def cpu_s(pair: Pair, service: str) -> float:
    stats: Any = pair.container(service).stats(stream=False, one_shot=True)
    return float(stats["cpu_stats"]["cpu_usage"]["total_usage"]) / 1e9


def test_a_killed_memory_moves_and_misses_its_standby(pair: Pair) -> None:
    agent = AGENTS["pc2"]
    assert pair.run("docker compose kill pc2").status == 0
    shown("it moved", lambda: row(pair, agent)["holder"] == "pc2-standby")
    shown("from where is noted", lambda: row(pair, agent)["moved_from"] == "pc2")
    shown("its standby is missed", lambda: f"standby_silent:{agent}" in items(pair))
    shown("nobody measures its host", lambda: measured(pair) == {"mainpc"})
    assert items(pair) == {f"standby_silent:{agent}"}
    assert pair.run("docker compose up -d pc2").status == 0
    shown("it is followed again", lambda: [one["name"] for one in row(pair, agent)["standbys"]] == ["pc2"])
    shown("who stands by there measures it", lambda: measured(pair) == {"mainpc", "pc2"})
    events = json.loads(pair.run("./twinhost call SystemDigitalTwin get_events type=took_over --json").out)
    moved = [(one["data"]["agent"], one["data"]["from"], one["data"]["to"]) for one in events["events"]]
    assert moved == [(agent, "pc2", "pc2-standby")]


def test_one_copy_is_shown_until_the_database_is_back(pair: Pair) -> None:
    """Commits wait until it is known to be gone, so the agents end meanwhile; either machine may be active then."""
    secondary = next(name for name in ("database-mainpc", "database-pc2") if name != pair.primary())
    assert pair.run(f"docker compose kill {secondary}").status == 0
    shown("one copy is left", lambda: failover(pair)["copies"] == 1, WRITES_AGAIN_WITHIN_S)
    shown("it is told", lambda: "one_copy" in items(pair))
    shown("it is in the status", lambda: "; 1 copy" in status(pair))
    assert pair.run(f"docker compose up -d {secondary}").status == 0
    pair.wait_until_formed()
    shown("there are two", lambda: failover(pair)["copies"] == 2)


def test_a_killed_witness_is_missed(pair: Pair) -> None:
    assert pair.run("docker compose kill witness").status == 0
    shown("it is missed", lambda: "witness_silent" in items(pair))
    assert pair.run("docker compose up -d witness").status == 0
    shown("it answers", lambda: failover(pair).get("witness") == {"name": "witness", "answers": True})
    shown("it is missed no more", lambda: "witness_silent" not in items(pair))
    logged = pair.run("docker compose exec -T witness sh -c 'cat /var/lib/postgresql/data/log/*'").out.splitlines()
    refused = [line for line in logged if "no pg_hba.conf entry" in line]
    # A node is refused while the witness is made.
    assert all('user "autoctl_node"' in line for line in refused), "nobody logs in to look whether it answers"


def test_a_killed_mainpc_is_on_the_standbys_page(pair: Pair) -> None:
    agent = AGENTS["mainpc"]
    if row(pair, agent)["holder"] != "mainpc":
        assert pair.run("docker compose restart mainpc-standby").status == 0
        shown("it is at home", lambda: row(pair, agent)["holder"] == "mainpc")
    assert pair.run("docker compose kill mainpc").status == 0
    shown("it moved", lambda: row(pair, agent)["holder"] == "mainpc-standby")
    assert row(pair, agent)["moved_from"] == "mainpc"
    shown("it is in the status", lambda: f"{agent} is active on mainpc-standby" in status(pair))
    shown("nobody measures its host", lambda: measured(pair) == {"pc2"})
    assert pair.run("docker compose up -d mainpc").status == 0
    shown("who stands by there measures it", lambda: measured(pair) == {"mainpc", "pc2"})
    shown("it stands by", lambda: "is active on <b>mainpc-standby</b> since " in standby_page(pair))
    shown("it has asked", lambda: "2 copies of each change. The witness answers." in standby_page(pair))


def standby_page(pair: Pair) -> str:
    with suppress(OSError):
        return get(pair, "mainpc", "/")
    return ""
