"""`twinhost lease` with a real mainpc and two cards: what the program gets, and how the lease ends."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.identities import authorize, host_folder, new_pair
from tests.loopback.agent_processes import SDT, UMRA, AgentProcess, Hosts
from tests.loopback.mcp_clients import call, in_process, refusal
from tests.unit.cli.running import COMMAND
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import LimitReached

DRIVER = Path(__file__).resolve().parents[1] / "unit" / "agent" / "host_metrics" / "driver.c"
GIB = 2**30
SHOW = (
    "import os; print(*(os.environ.get(n) for n in ('CUDA_VISIBLE_DEVICES', 'TWINHOST_LEASE_ID', 'CUDA_DEVICE_ORDER')))"
)

# The command line, which a signal reaches before it waits for signals: its program's end, or one that a process sends.
# Threads that don't block the signal get the time to take it.
BEFORE_THE_WAIT = """
import faulthandler, os, signal, sys, time
from twinhost.cli import app, lease

def enter(renewal):
    if number == signal.SIGCHLD:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
    else:
        os.kill(os.getpid(), number)
    until = time.monotonic() + 0.5
    while number in signal.sigpending() and time.monotonic() < until:
        time.sleep(0.01)

faulthandler.dump_traceback_later(15, exit=True)  # where it hangs
number = int(sys.argv[1])
lease.Renewal.__enter__ = enter
sys.exit(app.main(sys.argv[2:]))
"""


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    """Two hosts without running agents; each has one card with 6 GiB free and one with 8."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("the test builds a driver's library and needs a C compiler")
    library = tmp_path / "driver" / "libnvidia-ml.so.1"
    library.parent.mkdir()
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(DRIVER)], check=True)
    (tmp_path / "gpus").write_text(f"card|{4 * GIB}|{10 * GIB}|0\ncard|{2 * GIB}|{10 * GIB}|0\n")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library.parent))
    monkeypatch.setenv("GPUS", str(tmp_path / "gpus"))
    with Hosts(tmp_path, metrics_interval_s=2.0) as hosts:
        yield hosts


@pytest.fixture
def mainpc(hosts: Hosts) -> AgentProcess:
    return hosts.start(SDT).wait_until_serving()


@pytest.fixture
def client(hosts: Hosts, mainpc: AgentProcess) -> Iterator[Client]:
    with hosts.client(SDT) as client:
        wait_until(lambda: client.call("get_metrics")["metrics"]["gpus"], PATIENCE_S, "the cards are measured")
        yield client


def started(
    hosts: Hosts, *words: str, options: tuple[str, ...] = ("--vram", "5000"), **environment: str
) -> "subprocess.Popen[str]":
    """Start a program with a lease, with the key of mainpc's agent."""
    return subprocess.Popen(
        [*COMMAND, "lease", *options, "--", *words],
        env=hosts.environment(SDT) | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def leases(client: Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.call("list_leases")["leases"]
    return found


def waits(process: "subprocess.Popen[str]") -> None:
    """Wait for the first line of the program, which shows that it runs."""
    assert process.stdout is not None
    assert process.stdout.readline(), process.communicate()[1]


def test_the_program_gets_its_card(hosts: Hosts, client: Client) -> None:
    """The card with the most free memory; the lease is committed while the program runs, and then released."""
    process = started(hosts, sys.executable, "-c", f"{SHOW}; import sys; sys.stdout.flush(); input()")
    assert process.stdout is not None
    (lease,) = wait_until(
        lambda: [lease for lease in leases(client) if lease["state"] == "committed"], PATIENCE_S, "a lease"
    )
    card, lease_id, order = process.stdout.readline().split()
    assert (lease["gpu"]["index"], lease_id, lease["host"]) == (1, lease["lease_id"], "mainpc")
    uuid = lease["gpu"]["uuid"]
    assert (card, order) == (("1", "PCI_BUS_ID") if uuid is None else (uuid, "None"))
    assert lease["expires_in_s"] <= 60
    out, err = process.communicate("\n", PATIENCE_S)
    assert (process.returncode, out, leases(client)) == (0, "", [])
    assert "5000 MB of VRAM on mainpc, GPU 1" in err


@pytest.fixture
def own_folder(hosts: Hosts, tmp_path: Path) -> Path:
    """The keys of a program whose host is the machine's own name, as `enrol_program` makes them."""
    pair = new_pair("my-program", "my-machine")
    authorize(hosts.keys / "mainpc", pair)
    folder = host_folder(tmp_path / "own", "my-program", pair)
    shutil.copy(hosts.keys / "mainpc" / "server.key", folder)
    return folder


REPORT = """
import twinhost
with twinhost.connect("SystemDigitalTwin") as sdt:
    used = {"total_vram_mb": 10240, "total_vram_used_mb": 5000, "loaded_models": {}}
    print(sdt.call("update_vram_metrics", payload={"agent_name": "my-program", **used})["host"])
"""


def test_a_key_for_this_machines_name_needs_no_host(own_folder: Path, hosts: Hosts, client: Client) -> None:
    """The lease is on the host that is the same machine, and so is what the program reports."""
    for options in (("--ram", "1"), ("--vram", "5000")):
        process = started(hosts, sys.executable, "-c", REPORT, options=options, TWINHOST_CERTIFICATES=str(own_folder))
        out, err = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, out, "on mainpc" in err) == (0, "mainpc\n", True), err
    (report,) = client.call("get_metrics")["metrics"]["vram_reports"]
    assert (report["agent_name"], report["host"]) == ("my-program", "mainpc")


def test_on_a_machine_that_is_no_host_the_host_is_asked_for(own_folder: Path, hosts: Hosts, client: Client) -> None:
    """Nothing is leased elsewhere instead."""
    elsewhere = "import sys; from twinhost.cli import app, machines; machines.boot_id = str; sys.exit(app.main())"
    words = [sys.executable, "-c", elsewhere, "lease", "--ram", "1", "--", "true"]
    environment = hosts.environment(SDT) | {"TWINHOST_CERTIFICATES": str(own_folder)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (done.returncode, leases(client)) == (2, [])
    sentence = "SystemDigitalTwin measures no host my-machine; name the host that the program runs on (mainpc, pc2)"
    assert sentence in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ((sys.executable, "-c", "raise SystemExit(7)"), 7),
        ((sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"), 128 + 9),
        (("no-such-program",), 127),
        (("/etc/passwd",), 126),
    ],
)
def test_the_exit_status_is_the_programs(hosts: Hosts, client: Client, words: tuple[str, ...], status: int) -> None:
    process = started(hosts, *words, options=("--ram", "1"))
    process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, leases(client)) == (status, [])


@pytest.mark.parametrize(
    ("number", "program", "status"),
    [(signal.SIGCHLD, "exit 7", 7), (signal.SIGTERM, "exec sleep 10", 128 + signal.SIGTERM)],
)
def test_a_signal_that_comes_early_is_not_lost(
    hosts: Hosts, client: Client, number: signal.Signals, program: str, status: int
) -> None:
    """While the command does not wait for signals yet, no other thread of its process may take one."""
    words = [sys.executable, "-c", BEFORE_THE_WAIT, str(int(number)), "lease", "--ram", "1", "--", "sh", "-c", program]
    done = subprocess.run(
        words, env=hosts.environment(SDT), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert (done.returncode, leases(client)) == (status, []), done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_are_passed_on(hosts: Hosts, client: Client, number: signal.Signals) -> None:
    """The program handles them; the command itself does not end it."""
    handler = f"import signal, sys, time; signal.signal({int(number)}, lambda *_: (print('got it'), sys.exit(3)))"
    # Short sleeps: one that is begun right after the signal has come is not interrupted.
    program = f"{handler}; print('ready', flush=True)\nwhile True: time.sleep(0.05)"
    process = started(hosts, sys.executable, "-c", program)
    waits(process)
    process.send_signal(number)
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out, leases(client)) == (3, "got it\n", [])


def test_without_memory_the_program_does_not_run(hosts: Hosts, client: Client) -> None:
    process = started(hosts, sys.executable, "-c", "print('ran')", options=("--vram", "9000"))
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out) == (1, "")
    assert "no card of mainpc has more" in err


def test_it_waits_for_memory(hosts: Hosts, client: Client) -> None:
    """In mainpc's queue, for longer than the heartbeat interval of a connection."""
    with hosts.client(SDT, by=UMRA) as other:
        held = [other.call("reserve_vram", amount_mb=5_000, ttl_s=600, host="mainpc")["lease_id"] for _ in range(2)]
        process = started(hosts, sys.executable, "-c", SHOW, options=("--vram", "5000", "--wait", "60"))
        wait_until(lambda: wanted(client) == set(held), PATIENCE_S, "both leases are wanted")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(4)
        other.call("release_lease", lease_id=held[0])
        out, _ = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, out.split()[0]) == (0, "1")


def test_a_disconnected_client_leaves_the_queue(hosts: Hosts, mainpc: AgentProcess, client: Client) -> None:
    """Its request leaves the queue, so one behind it is served."""
    with hosts.client(SDT, by=UMRA) as other:
        held = [other.call("reserve_vram", amount_mb=3_000, ttl_s=600, host="mainpc")["lease_id"] for _ in range(2)]
        process = started(hosts, "true", options=("--vram", "7000", "--wait", "60"))
        wait_until(lambda: waiting(mainpc) == 1, PATIENCE_S, "it waits")
        process.kill()
        process.wait()
        wait_until(lambda: waiting(mainpc) == 0, PATIENCE_S, "it waits no more")  # else it may get what is released
        for lease_id in held:
            other.call("release_lease", lease_id=lease_id)
        wait_until(lambda: can_reserve(other), PATIENCE_S, "it has left the queue")
        process.communicate()


def wanted(client: Client) -> set[str]:
    """Return the leases that are wanted by somebody who waits."""
    events = client.call("get_events")["events"]
    return {event["data"]["lease_id"] for event in events if event["event_type"] == "lease_wanted"}


def waiting(mainpc: AgentProcess) -> int:
    """Return how many requests are in mainpc's queue."""
    return int(mainpc.http("/api/state")[1]["counts"]["waiting"])


def can_reserve(client: Client) -> bool:
    try:
        client.call("release_lease", lease_id=client.call("reserve_vram", amount_mb=7_000, host="mainpc")["lease_id"])
    except LimitReached:
        return False
    return True


def test_after_kill_9_the_lease_ends_by_its_ttl(hosts: Hosts, client: Client) -> None:
    """Before that, it is renewed for longer than its TTL."""
    program = "import os; print(os.getpid(), flush=True); input()"
    process = started(hosts, sys.executable, "-c", program, options=("--vram", "5000", "--ttl", "5"))
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(6)
    assert len(leases(client)) == 1
    process.kill()
    process.wait()
    wait_until(lambda: not leases(client), PATIENCE_S, "the lease has ended")
    os.kill(pid, signal.SIGKILL)
    process.communicate()


def test_the_program_continues_without_mainpc(hosts: Hosts, mainpc: AgentProcess, client: Client) -> None:
    """Renewals are retried; a lease that ended meanwhile is reported."""
    program = "import sys; print('ready', flush=True); sys.exit(int(input()))"
    process = started(hosts, sys.executable, "-c", program, options=("--vram", "5000", "--ttl", "5"))
    waits(process)
    assert process.stderr is not None
    process.stderr.readline()
    mainpc.kill()
    assert "the lease can't be renewed now; retrying" in process.stderr.readline()
    hosts.start(SDT).wait_until_serving()
    assert "has ended, and its memory may be leased to others" in process.stderr.readline()
    _, err = process.communicate("5\n", PATIENCE_S)
    assert (process.returncode, err) == (5, "")


def test_an_mcp_client_waits_for_vram_and_releases_it(hosts: Hosts, client: Client) -> None:
    """The tools `reserve_vram` and `release_vram`, with the key of mainpc's agent."""

    async def scene() -> None:
        async with in_process(hosts, SDT) as mcp:
            first = await call(mcp, "reserve_vram", amount_mb=7_000)
            assert (first["host"], first["gpu"]["index"]) == ("mainpc", 1)
            assert "no card of" in await refusal(mcp, "reserve_vram", amount_mb=7_000)
            waiting = asyncio.create_task(call(mcp, "reserve_vram", amount_mb=7_000, wait_s=PATIENCE_S))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(waiting), 0.5)
            await call(mcp, "release_vram", lease_id=first["lease_id"])
            await call(mcp, "release_vram", lease_id=(await waiting)["lease_id"])

    asyncio.run(scene())
    assert leases(client) == []
