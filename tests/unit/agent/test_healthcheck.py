"""The health check: by a command, and by a file that an agent touches while it passes its own."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.loopback.agent_processes import SDT, UMRA, Hosts
from tests.waiting import PATIENCE_S, at_most, soon, suspend, wait_until
from twinhost.agent import self_check
from twinhost.agent.self_check import INTERVAL_S, SUFFIX, SelfCheck
from twinhost.secure_zmq.certificates import load_certificates
from twinhost.secure_zmq.errors import StoreUnavailable
from twinhost.secure_zmq.key_writer import write_revocation

pytestmark = pytest.mark.thorough


@dataclass(frozen=True)
class Checked:
    """What a health check ended with."""

    status: int
    out: str


def check(hosts: Hosts, name: str, **changed: str) -> Checked:
    """Run the check as the engine does in the agent's container."""
    ran = subprocess.run(
        [sys.executable, "-m", "twinhost.agent.healthcheck", name],
        env={**hosts.environment(name if name in (SDT, UMRA) else SDT), **changed},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ran.stderr == ""
    assert ran.stdout.count("\n") == 1
    return Checked(ran.returncode, ran.stdout)


def test_a_healthy_agent_passes(hosts: Hosts) -> None:
    """Both agents in touch: `ok, ready: True`."""
    hosts.start_both()
    for name in (SDT, UMRA):
        assert check(hosts, name) == Checked(0, "ok, ready: True\n")


def test_a_degraded_agent_passes(hosts: Hosts) -> None:
    """pc2 without mainpc serves, and a restart would not help it."""
    hosts.start(UMRA).wait_until_serving()
    assert check(hosts, UMRA) == Checked(0, "degraded, ready: False\n")


def test_an_agent_whose_store_fails_does_not_pass(hosts: Hosts) -> None:
    """It answers, and says that it can't serve."""
    agent = hosts.start(SDT).wait_until_serving()
    agent.forbid_files_to_grow()
    with hosts.client(SDT) as client:
        assert client.call("ping")["status"] == "ok"
        with pytest.raises(StoreUnavailable):
            client.call("register_agent", agent_name="Somebody", status="ok")
    assert check(hosts, SDT) == Checked(1, "error, ready: False\n")


def test_no_agent_does_not_pass(hosts: Hosts) -> None:
    """One sentence, before the engine's own time-out of 5 s."""
    with at_most(5):
        checked = check(hosts, SDT)
    assert checked.status == 1
    assert checked.out.startswith("no reply to health from tcp://127.0.0.1:")


def test_an_agent_that_hangs_does_not_pass(hosts: Hosts) -> None:
    """A process that is there, takes the connection, and does nothing is not healthy: a TCP probe would not see it."""
    agent = hosts.start(SDT).wait_until_serving()
    suspend(agent.pid)
    try:
        with at_most(5):
            assert check(hosts, SDT).status == 1
    finally:
        agent.send(signal.SIGCONT)


@pytest.mark.sdt_security
def test_another_key_does_not_pass(hosts: Hosts) -> None:
    """The check is authenticated: with the key of another host the agent's answer is not believed."""
    hosts.start(SDT).wait_until_serving()
    checked = check(hosts, SDT, TWINHOST_CERTIFICATES=str(hosts.folder(UMRA)))
    assert checked.status == 1
    assert "most likely its key is not the pinned SHA256:" in checked.out


@pytest.mark.sdt_security
def test_a_check_in_the_open_does_not_pass_on_a_secured_agent(hosts: Hosts) -> None:
    """Two settings for one host are a fault, whichever of them is wrong."""
    hosts.start(SDT).wait_until_serving()
    checked = check(hosts, SDT, SECURE_ZMQ="0")
    assert checked.status == 1
    assert "requires CURVE and this client is not encrypted" in checked.out


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"SECURE_ZMQ": "yes"}, "SECURE_ZMQ is 'yes'; set it to 1"),
        ({"TWINHOST_CERTIFICATES": "/nonexistent"}, "/nonexistent holds no secret key"),
        ({"NETWORK_CONFIG_PATH": "/nonexistent"}, "/nonexistent is missing; set NETWORK_CONFIG_PATH"),
    ],
)
def test_wrong_settings_do_not_pass(hosts: Hosts, changed: dict[str, str], sentence: str) -> None:
    """The reason is kept by the engine with the container's health."""
    checked = check(hosts, SDT, **changed)
    assert checked.status == 1
    assert checked.out.startswith(sentence)


def test_an_unknown_agent_does_not_pass(hosts: Hosts) -> None:
    """A slip in the Compose file is named."""
    checked = check(hosts, "Somebody")
    assert checked.status == 1
    assert "there is no agent 'Somebody'; there are: SystemDigitalTwin, UnifiedMemoryReasoningAgent" in checked.out


COMPOSE = yaml.safe_load((Path(__file__).resolve().parents[3] / "docker-compose.yml").read_text())
QUIET_S = 1.0  # in which a check that passes would have touched the file several times


def engines_check(folder: Path, host: str = "mainpc") -> int:
    """Run the engine's health check of a container whose /tmp is this folder; return its exit status."""
    first, *command = COMPOSE["services"][host]["healthcheck"]["test"]
    assert first == "CMD"
    with at_most(COMPOSE["x-healthcheck"]["timeout"] and 5):
        return subprocess.run(
            [word.replace("/tmp/", f"{folder}/") for word in command],
            capture_output=True,
            check=False,
        ).returncode


@pytest.mark.parametrize("host", ["mainpc", "pc2"])
@pytest.mark.parametrize(("age_s", "passes"), [(0, True), (24, True), (26, False), (86_400, False), (-3_600, False)])
def test_the_file_counts_for_25_s(tmp_path: Path, host: str, age_s: int, passes: bool) -> None:
    """One from the future, written before the clock was set back, does not count."""
    file = tmp_path / f"Agent{SUFFIX}"
    file.touch()
    os.utime(file, (0, time.time() - age_s))
    assert (engines_check(tmp_path, host) == 0) is passes


def test_without_the_file_the_check_fails(tmp_path: Path) -> None:
    assert engines_check(tmp_path) != 0


def test_the_check_waits_for_a_start(tmp_path: Path) -> None:
    """For 2 s, so that `up --wait` need not wait for the next check."""
    timer = threading.Timer(1.0, (tmp_path / f"Agent{SUFFIX}").touch)
    timer.start()
    assert engines_check(tmp_path) == 0
    timer.join()


def test_an_agent_touches_its_file_by_itself(hosts: Hosts) -> None:
    """At once after its start, and every 10 s."""
    hosts.start_both()
    for name in (SDT, UMRA):
        file = hosts.root / f"{name}{SUFFIX}"
        wait_until(file.exists, PATIENCE_S, "the first check")
        os.utime(file, (0, 0))
    assert engines_check(hosts.root) != 0
    with at_most(INTERVAL_S + 3):
        for name in (SDT, UMRA):
            wait_until(lambda: (hosts.root / f"{name}{SUFFIX}").stat().st_mtime, PATIENCE_S, "a later one")  # noqa: B023
    assert engines_check(hosts.root) == 0


@pytest.fixture
def checked(hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SelfCheck]:
    """A check of SystemDigitalTwin that is made ten times a second; the agent runs, and has passed it."""
    hosts.start(SDT).wait_until_serving()
    for variable, value in hosts.environment(SDT).items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "mount"))
    (tmp_path / "mount").mkdir()
    monkeypatch.setattr(self_check, "_RETRY_S", 0.1)
    check = SelfCheck("Checked", hosts.config.agent(SDT).zmq_port, interval_s=0.1)
    check.start()
    wait_until(check._file._path.exists, PATIENCE_S, "the first check")
    yield check
    check.stop()


def touched(check: SelfCheck) -> None:
    os.utime(check._file._path, (0, 0))
    wait_until(lambda: check._file._path.stat().st_mtime, PATIENCE_S, "the file is touched")


def untouched(check: SelfCheck) -> None:
    wait_until(lambda: check._file.fault is not None, PATIENCE_S, "no check that passed is under way")
    os.utime(check._file._path, (0, 0))
    time.sleep(QUIET_S)
    assert check._file._path.stat().st_mtime == 0


def test_a_stalled_agent_does_not_touch_the_file(hosts: Hosts, checked: SelfCheck) -> None:
    """And does again when it answers."""
    touched(checked)
    (agent,) = hosts.processes
    suspend(agent.pid)
    untouched(checked)
    agent.send(signal.SIGCONT)
    touched(checked)


def test_a_stop_does_not_wait_for_a_check_under_way(hosts: Hosts, checked: SelfCheck) -> None:
    """The loop that would answer has ended; a standby takes over only once the process has."""
    (agent,) = hosts.processes
    suspend(agent.pid)
    time.sleep(QUIET_S)  # a check is under way, for 2 s
    with soon(0.5):
        checked.stop()
    wait_until(lambda: not checked.alive, PATIENCE_S, "the check has ended")
    assert checked._file.fault is None, "nothing is logged of it"


def test_a_failed_store_stops_the_touching(hosts: Hosts, checked: SelfCheck) -> None:
    """The agent answers, but says that it can't serve."""
    (agent,) = hosts.processes
    agent.forbid_files_to_grow()
    with hosts.client(SDT) as client, pytest.raises(StoreUnavailable):
        client.call("register_agent", agent_name="Somebody", status="ok")
    untouched(checked)
    agent.allow_files_to_grow()
    touched(checked)


@pytest.mark.sdt_security
def test_a_refused_own_key_stops_the_touching(hosts: Hosts, checked: SelfCheck) -> None:
    """Each check is a handshake of its own: one that kept its connection would go on."""
    keys = load_certificates(hosts.folder(SDT)).own_keys
    write_revocation(keys.certificate, hosts.folder(SDT) / "revoked")
    untouched(checked)


@pytest.mark.sdt_security
def test_a_failed_handler_stops_the_touching(hosts: Hosts, checked: SelfCheck, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody gets in then: as a secured check of an agent without a handler, or without CURVE."""
    monkeypatch.setenv("SECURE_ZMQ", "0")
    untouched(checked)
    monkeypatch.setenv("SECURE_ZMQ", "1")
    touched(checked)


def test_an_earlier_file_is_removed_before_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that never gets well must not seem so."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    file = tmp_path / f"Agent{SUFFIX}"
    file.touch()
    SelfCheck("Agent", 1)
    assert not file.exists()


def test_the_file_is_not_written_through_a_link(hosts: Hosts, checked: SelfCheck, tmp_path: Path) -> None:
    """Outside a container, anybody may put one into /tmp."""
    victim = tmp_path / "victim"
    victim.touch()
    os.utime(victim, (0, 0))
    link = tmp_path / "link"
    link.symlink_to(victim)
    link.rename(checked._file._path)
    time.sleep(QUIET_S)
    assert victim.stat().st_mtime == 0
