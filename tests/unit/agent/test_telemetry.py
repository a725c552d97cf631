"""`/metrics`: what an agent counts and how it is, in a form that Prometheus reads."""

import dataclasses
import platform
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import zmq
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.system_digital_twin.twin import Clock
from tests.waiting import PATIENCE_S, at_most, wait_until
from twinhost.agent.host_gauges import sample_metrics
from twinhost.agent.host_metrics import (
    ContainerSample,
    DiskSample,
    GpuSample,
    HostSample,
    MachineSample,
    Traffic,
)
from twinhost.agent.telemetry import COLLECT_EVERY_S, MAX_WAITING, UNREAD_EVERY_S, AgentState, Readers, Telemetry
from twinhost.secure_zmq.budgets import Used
from twinhost.secure_zmq.callers import Peer
from twinhost.secure_zmq.keys import Validity
from twinhost.version import VERSION

NAME, FINGERPRINT = 'a "name"\n\\', "SHA256:x"
PEER = Peer(NAME, "pc2", frozenset({"agent"}), FINGERPRINT, validity=Validity(0, 1_800_000_000))
STATE = AgentState(
    secure=True,
    uptime_s=12.5,
    store_bytes=4_096,
    loop_lag_s=0.25,
    handshakes={"accepted": 3, "key_revoked": 1},
    peers=(PEER,),
    sessions={NAME: 2},
    last_seen={FINGERPRINT: 1.0},
)

HOST = HostSample(
    wall=0,
    cpu_percent=50,
    ram_used_mb=512,
    ram_total_mb=1_024,
    gpus=(GpuSample(index=0, name="H100", uuid="GPU-1", used_mb=1_024, total_mb=2_048),),
    machine=MachineSample(
        load=(1, 0.5, 0.25),
        disks=(DiskSample(name="state", used_mb=2, free_mb=1, total_mb=3),),
        network=Traffic(received_bytes_per_s=0, sent_bytes_per_s=7.5),
    ),
    container=ContainerSample(ram_limit_mb=512),
)


def samples(telemetry: Telemetry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return every sample by its name and labels, as a scraper reads them."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(telemetry.render().decode())
        for sample in family.samples
    }


def test_requests_are_counted_by_action_and_outcome() -> None:
    """And how long they took; what is no action is one label, whatever a caller names."""
    telemetry = Telemetry("agent")
    for outcome in ("ok", "ok", "not_granted"):
        telemetry.answered("ping", outcome, 0.003)
    telemetry.answered(None, "unknown_action", 7.0)
    found = samples(telemetry)
    assert found["twinhost_requests_total", (("action", "ping"), ("outcome", "ok"))] == 2
    assert found["twinhost_requests_total", (("action", "ping"), ("outcome", "not_granted"))] == 1
    assert found["twinhost_requests_total", (("action", "unknown"), ("outcome", "unknown_action"))] == 1
    assert found["twinhost_request_duration_seconds_bucket", (("action", "ping"), ("le", "0.0025"))] == 0
    assert found["twinhost_request_duration_seconds_bucket", (("action", "ping"), ("le", "0.005"))] == 3
    assert found["twinhost_request_duration_seconds_sum", (("action", "unknown"),)] == 7


def test_the_host_is_exported_while_it_is_measured() -> None:
    """Machine, GPUs, and container, in base units; values that were not measured are left out."""
    telemetry = Telemetry("agent")
    newest: list[HostSample] = [HOST]
    telemetry.register(lambda: sample_metrics(newest[0] if newest else None))
    found = samples(telemetry)
    plain = {name: value for (name, labels), value in found.items() if not labels}
    expected = {
        "machine_cpu_ratio": 0.5,
        "machine_memory_total_bytes": 2**30,
        "machine_network_sent_bytes_per_second": 7.5,
        "container_memory_limit_bytes": 512 * 2**20,
    }
    assert {name: plain[f"twinhost_{name}"] for name in expected} == expected
    assert found["twinhost_machine_load", (("minutes", "15"),)] == 0.25
    assert found["twinhost_machine_disk_free_bytes", (("disk", "state"),)] == 2**20
    gpu = (("index", "0"), ("name", "H100"), ("uuid", "GPU-1"))
    assert found["twinhost_gpu_memory_used_bytes", gpu] == 2**30
    assert ("twinhost_gpu_temperature_celsius", gpu) not in found
    assert "twinhost_machine_temperature_celsius" not in plain
    newest.clear()
    assert not [name for name, _ in samples(telemetry) if "machine" in name]


def test_the_state_is_exported_whatever_a_peers_name_is() -> None:
    """Handshakes by outcome, sessions, the end of keys, store, lag."""
    telemetry = Telemetry("agent")
    telemetry.gather(STATE)
    found = samples(telemetry)
    peer = ("peer", NAME)
    assert found["twinhost_handshakes_total", (("outcome", "key_revoked"),)] == 1
    assert found["twinhost_sessions", (peer,)] == 2
    assert found["twinhost_key_not_after_timestamp_seconds", (("fingerprint", FINGERPRINT), peer)] == 1_800_000_000
    plain = {name: value for (name, labels), value in found.items() if not labels}
    expected = {"secure": 1, "uptime_seconds": 12.5, "store_size_bytes": 4_096, "loop_lag_seconds": 0.25, "peers": 1}
    assert {name: plain[f"twinhost_{name}"] for name in expected} == expected


def test_the_longest_delay_between_two_scrapes_is_exported() -> None:
    """The state is also collected when nobody scrapes it."""
    telemetry, shown = Telemetry("agent"), list[float]()
    for lags in ((0.25, 2.0, 0.5), (0.5,)):
        for lag in lags:
            telemetry.gather(dataclasses.replace(STATE, loop_lag_s=lag))
        shown.append(samples(telemetry)["twinhost_loop_lag_seconds", ()])
    assert shown == [2.0, 0.5]


def test_it_is_collected_after_a_block_that_raises() -> None:
    """As housekeeping does while the store fails, which the page shows."""
    telemetry, then = Telemetry("agent"), list[str]()
    with pytest.raises(ZeroDivisionError), telemetry.collecting(lambda: STATE, lambda: then.append("then")):
        print(1 / 0)
    assert (telemetry.state, then) == (STATE, ["then"])


@pytest.mark.parametrize(("reads", "every_s"), [(True, COLLECT_EVERY_S), (False, UNREAD_EVERY_S)])
def test_it_is_collected_while_somebody_reads(reads: bool, every_s: float) -> None:
    """Once a second, though ticks come more often; else once a minute."""
    clock, collected = Clock(), list[float]()
    clock.stand_still()
    readers, began = Readers(clock), clock.monotonic()
    while clock.monotonic() < began + 2.5 * every_s:
        if reads:
            readers.note()
        readers.collect(lambda: collected.append(clock.monotonic() - began))
        clock.let_pass(COLLECT_EVERY_S / 4)
    assert collected == [0, every_s, 2 * every_s]


def test_a_reader_waits_for_what_is_old_already() -> None:
    """Until the server's thread has collected it, which the reader asks for; the next reader waits for nothing."""
    readers, asked, collected = Readers(), threading.Event(), list[str]()
    readers.request_tick = asked.set

    def serve() -> None:
        assert asked.wait(PATIENCE_S)
        time.sleep(0.1)
        readers.collect(lambda: collected.append("once"))

    with ThreadPoolExecutor(1) as server:
        served = server.submit(serve)
        readers.wait()
        assert collected == ["once"]
        served.result()
    with at_most(0.5):
        readers.wait()


def test_what_cannot_be_collected_is_not_tried_at_once_again() -> None:
    """The tick that tries has more to do, and a reader waits for nothing that does not come."""
    readers = Readers()
    readers.request_tick = lambda: None
    with pytest.raises(ZeroDivisionError):
        readers.collect(lambda: print(1 / 0))
    readers.collect(lambda: pytest.fail("within a second"))
    with at_most(0.5):
        readers.wait()


def test_a_reader_may_come_while_it_is_collected() -> None:
    """What had begun before is new enough."""
    readers, began = Readers(), threading.Event()
    readers.request_tick = lambda: None

    def take_long() -> None:
        began.set()
        time.sleep(0.2)

    with ThreadPoolExecutor(1) as server:
        collected = server.submit(readers.collect, take_long)
        assert began.wait(PATIENCE_S)
        with at_most(0.7):
            readers.wait()
        collected.result()


def test_a_reader_does_not_wait_long_for_a_blocked_server() -> None:
    """It gets what there is; so many wait, and who comes then does not, since a health check needs a thread too."""
    readers = Readers()
    readers.request_tick = lambda: None
    began = time.monotonic()
    with ThreadPoolExecutor(MAX_WAITING) as threads:
        waiting = [threads.submit(readers.wait) for _ in range(MAX_WAITING)]
        wait_until(lambda: readers._waiting == MAX_WAITING, PATIENCE_S, "all of them wait")
        with at_most(0.5):
            readers.wait()
        for each in waiting:
            each.result()
    assert 0.9 < time.monotonic() - began < 2.0


def test_before_the_first_state_there_are_the_versions_alone() -> None:
    """A scrape in the first moment is answered, and claims nothing."""
    names = {name for name, _ in samples(Telemetry("agent"))}
    assert {name for name in names if name.startswith("twinhost_")} == {"twinhost_info", "twinhost_build_info"}


def test_the_largest_budgets_are_exported() -> None:
    """So many, however many identities there are: what others choose must not multiply the labels."""
    telemetry = Telemetry("agent")
    used = [Used(f"a{number}", "events", 200 - number, 200) for number in range(50)]
    telemetry.gather(dataclasses.replace(STATE, usage=used))
    for metric, second in (("_used", 199), ("_limit", 200), ("_used_ratio", 0.995)):
        found = {of: value for (name, of), value in samples(telemetry).items() if name == f"twinhost_budget{metric}"}
        assert (len(found), found[("limit", "events"), ("name", "a1")]) == (20, second)


def test_process_and_garbage_collector_metrics_are_exported() -> None:
    """By the client library's own collectors, under the names that every dashboard knows."""
    found = samples(Telemetry("agent"))
    started = found["process_start_time_seconds", ()]
    assert abs(started - psutil.Process().create_time()) < 1
    assert found["process_open_fds", ()] > 0
    assert found["process_resident_memory_bytes", ()] > 1_000_000
    assert found["python_gc_collections_total", (("generation", "0"),)] > 0


def test_the_build_is_exported() -> None:
    """Version and libraries as labels of a gauge of 1."""
    (labels,) = [dict(labels) for name, labels in samples(Telemetry("agent")) if name == "twinhost_build_info"]
    libraries = {"pyzmq": zmq.pyzmq_version(), "libzmq": zmq.zmq_version(), "python": platform.python_version()}
    assert labels == {"version": VERSION, **libraries}
