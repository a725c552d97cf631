"""`status` of two real agents says first what is wrong with them, once, and how it is mended."""

import re
import time
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.loopback.agent_processes import SDT, UMRA, Hosts
from tests.unit.cli.running import Ran, run_process
from tests.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.unified_memory_agent


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Two hosts, whose agents run and have nothing to complain of."""
    with Hosts(tmp_path) as hosts:
        hosts.start_both()
        until(hosts, 0, "All is well.")
        yield hosts


def twinhost(hosts: Hosts, *words: str) -> Ran:
    """Run a command with the operator's key."""
    keys = {"TWINHOST_CERTIFICATES": str(hosts.folder("operator"))} if hosts.secure else {}
    return run_process({**hosts.environment(SDT), **keys}, *words)


def until(hosts: Hosts, status: int, headline: str) -> str:
    """Return what `status` prints, once it has this exit status and first line."""

    def shown() -> str | None:
        ran = twinhost(hosts, "status")
        assert ran.err == ""
        return ran.out if (ran.status, ran.out.split("\n")[0]) == (status, headline) else None

    return str(wait_until(shown, PATIENCE_S, headline))


def items(out: str) -> list[str]:
    """Return the first line of each item."""
    return [line for line in out.splitlines() if line.startswith(("broken:", "attention:", "acknowledged:"))]


def level(hosts: Hosts) -> str:
    """Return the line of mainpc's metric."""
    with urllib.request.urlopen(f"http://127.0.0.1:{hosts.config.agent(SDT).http_port}/metrics") as answer:
        lines: list[str] = answer.read().decode().splitlines()
    return next(line for line in lines if line.startswith("twinhost_attention_level"))


def test_a_stopped_host_is_one_item_until_it_is_back(hosts: Hosts) -> None:
    """With its time and its command; it can be acknowledged, and is gone once pc2 is back."""
    wait_until(lambda: level(hosts) == "twinhost_attention_level 0.0", PATIENCE_S, "the metric")
    before = time.time()
    hosts.processes[1].terminate()
    out = until(hosts, 2, "pc2 has stopped.")
    assert items(out) == ["broken: pc2 has stopped"]
    (since,) = re.findall(r"^  since: (\S+),", out, re.M)
    assert before - 1 <= datetime.fromisoformat(since).timestamp() <= time.time()
    assert "\n  because: its agent said that it stops\n" in out
    assert f"\n  so: {UMRA} can't be asked from here\n" in out
    assert "\n  on pc2: docker compose up -d pc2  # starts its agent\n" in out
    wait_until(lambda: level(hosts) == "twinhost_attention_level 2.0", PATIENCE_S, "the metric")
    assert twinhost(hosts, "attention").status == 2
    (command,) = re.findall(r"^  to acknowledge: \./twinhost (.*)$", out, re.M)
    assert twinhost(hosts, *command.split()).status == 0
    assert items(until(hosts, 0, "Nothing new is wrong; 1 trouble acknowledged.")) == ["acknowledged: pc2 has stopped"]
    hosts.start(UMRA).wait_until_ready()
    until(hosts, 0, "All is well.")


def test_a_killed_host_is_silent_since_its_last_heartbeat(hosts: Hosts) -> None:
    """That it can't be asked is said at once, and once it counts as silent, that is the cause."""
    hosts.processes[1].kill()
    killed_at = time.time()
    assert items(until(hosts, 2, f"{UMRA} can't be asked from here.")) == [f"broken: {UMRA} can't be asked from here"]
    out = until(hosts, 2, "pc2 does not respond.")
    assert items(out) == ["broken: pc2 does not respond"]
    assert f"\n  so: {UMRA} can't be asked from here\n" in out
    (since,) = re.findall(r"^  since: (\S+),", out, re.M)
    assert killed_at - 2 <= datetime.fromisoformat(since).timestamp() <= killed_at


def test_without_mainpc_the_rest_is_its_consequence(hosts: Hosts) -> None:
    """pc2 says that it can't reach mainpc, which is no second item."""
    with hosts.client(UMRA) as client:  # pc2's copy of mainpc's list, which may still lack its first report
        wait_until(lambda: client.call("get_attention")["level"] == "well", PATIENCE_S, "pc2 knows that all is well")
    hosts.processes[0].terminate()
    wait_until(lambda: not hosts.processes[1].health()["ready"], PATIENCE_S, "pc2 misses mainpc")
    ran = twinhost(hosts, "status")
    assert (ran.status, ran.err) == (2, "")
    if not ran.out.startswith("mainpc does not answer pc2.\n"):  # on a busy machine pc2 lists it already, see below
        assert items(ran.out) == [f"broken: {SDT} can't be asked from here"]
        assert "\n  because: no reply to health from tcp://" in ran.out
        assert "\n  so: pc2: " in ran.out
    ran = twinhost(hosts, "attention")  # from pc2, before it has missed mainpc for long enough to list it, or later
    assert (ran.status, ran.err) == (2, "")
    assert len(items(ran.out)) == 1
    assert f"{SDT} can't be asked from here" in ran.out

    def missed() -> str | None:
        out = twinhost(hosts, "attention").out
        return out if out.startswith("mainpc does not answer pc2.\n") else None

    listed = str(wait_until(missed, PATIENCE_S, "pc2 lists it"))
    assert items(listed) == ["broken: mainpc does not answer pc2"]
    assert f"\n  so: {SDT} can't be asked from here\n" in listed
    assert listed.count("connections were closed") == 1, "nothing is said twice"
    assert "attention acknowledge" not in listed, "nobody is there to do it"
    hosts.processes[1].terminate()
    ran = twinhost(hosts, "attention")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("error [server_unreachable]: no reply to get_attention from tcp://")


def test_a_mainpc_that_cannot_store_says_so(hosts: Hosts) -> None:
    """Its own check is on its list, and is not added from its health document."""
    hosts.processes[0].forbid_files_to_grow()
    with hosts.client(SDT) as client, pytest.raises(Exception, match="nothing of this request was stored"):
        client.call("register_agent", agent_name="Lamp", status="HEALTHY")

    def said() -> str | None:
        ran = twinhost(hosts, "status")
        return ran.out if ran.status == 2 and "\nbroken: mainpc: disk I/O error\n" in ran.out else None

    out = str(wait_until(said, PATIENCE_S, "the check fails"))
    assert items(out).count("broken: mainpc: disk I/O error") == 1
    assert "\n  on mainpc: docker compose logs mainpc  # shows since when\n" in out


def test_an_agent_that_is_not_well_is_named(hosts: Hosts) -> None:
    with hosts.client(SDT) as client:
        client.call("register_agent", agent_name="Lamp", status="DIM")
        out = until(hosts, 1, "not healthy: Lamp (DIM).")
        assert "\n  on mainpc: ./twinhost status  # shows what each of them reports\n" in out
        client.call("heartbeat", agent_name="Lamp", status="HEALTHY")
    until(hosts, 0, "All is well.")


def test_an_open_link_is_attention_and_no_hindrance(tmp_path: Path) -> None:
    with Hosts(tmp_path, secure=False) as hosts:
        hosts.start_both()
        headline = "the link is open on mainpc and pc2: nobody is authenticated and nothing is encrypted."
        until(hosts, 1, headline)
        ran = twinhost(hosts, "status", "--wait", "10", "--wait-for", SDT, "--wait-for", UMRA)
        assert (ran.status, ran.out.split("\n")[0]) == (0, headline)


def test_wait_ends_once_pc2_has_come(tmp_path: Path) -> None:
    """As `make up` uses it: exit status 2 without pc2, 0 as soon as it is registered."""
    with Hosts(tmp_path) as hosts:
        hosts.start(SDT).wait_until_serving()
        awaited = ("--wait-for", SDT, "--wait-for", UMRA)
        assert twinhost(hosts, "status", "--wait", "0.5", *awaited).status == 2
        hosts.start(UMRA)
        assert twinhost(hosts, "status", "--wait", str(PATIENCE_S), *awaited).status == 0


def test_pc2_says_since_when_mainpc_is_silent(hosts: Hosts) -> None:
    """mainpc can't; that it can't be asked from here is the consequence."""
    hosts.processes[0].kill()
    killed_at = time.time()
    wait_until(lambda: hosts.processes[1].http("/api/attention")[1]["level"] == "broken", PATIENCE_S, "pc2 misses it")
    out = until(hosts, 2, "mainpc does not answer pc2.")
    assert items(out) == ["broken: mainpc does not answer pc2"]
    assert f"\n  so: {SDT} can't be asked from here\n" in out
    assert "\n  on mainpc: docker compose up -d mainpc  # starts its agent\n" in out
    assert "to acknowledge" not in out
    (since,) = re.findall(r"^  since: (\S+),", out, re.M)
    assert killed_at - 2 <= datetime.fromisoformat(since).timestamp() <= killed_at + 1
