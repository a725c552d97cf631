"""Both hosts run, know each other by their keys, and have no more than they need."""

import json
import re

import pytest

from tests.containers.stack import AGENTS, HTTP_PORTS, ZMQ_PORTS, Stack
from tests.waiting import wait_until

PUBLIC = {"server.key", "client.key", "operator.key"}
FOLLOWED = {f"trust/{name}.key" for name in (*AGENTS.values(), "operator")}  # received from mainpc
INNER = {
    "mainpc": {"enrolled", "enrolled/revoked", "invites"},
    "pc2": {"trust", "trust/revoked", *FOLLOWED},
}
OTHER_TESTS = re.compile(r".*revoked/.+|enrolled/vouched.*|(enrolled|trust|invites)/(my-program|insider-).*\.key")
WRITTEN = {"mainpc": "enrolled", "pc2": "trust"}  # by the agent
FOLDERS = {"mainpc": "server.key_secret", "pc2": "client.key_secret"}

pytestmark = pytest.mark.sdt_security


@pytest.mark.unified_memory_agent
def test_umra_is_registered_under_its_keys_identity(stack: Stack) -> None:
    """pc2's agent is registered on mainpc by the key that its host alone holds."""
    with stack.client("mainpc") as client:
        info = client.call("get_agent_info", agent_name="UnifiedMemoryReasoningAgent")["agent_info"]
        peers = client.call("get_peers")["peers"]
    own = stack.keys("pc2").own_keys.public
    assert (info["status"], info["location"]) == ("HEALTHY", "pc2")
    assert info["registered_by"] == "UnifiedMemoryReasoningAgent"
    (umra,) = [peer for peer in peers if peer["name"] == "UnifiedMemoryReasoningAgent"]
    assert umra["fingerprint"] == own.fingerprint
    assert umra["sessions"] >= 1


def test_mainpc_returns_the_public_key_of_umra(stack: Stack) -> None:
    """`get_agent_endpoint` gives the key to pin."""
    with stack.client("mainpc") as client:
        endpoint = client.call("get_agent_endpoint", agent_name="UnifiedMemoryReasoningAgent")
    assert endpoint["public_key"] == stack.keys("pc2").own_keys.public.z85.decode()
    assert (endpoint["host"], endpoint["port"]) == ("pc2", 7230)


@pytest.mark.parametrize("host", FOLDERS)
def test_a_host_holds_its_own_secret_and_no_other(stack: Stack, host: str) -> None:
    """A listing of what a host sees under /certificates, but for what other tests revoked or enrolled."""
    listing = stack.execute(host, "find", "/certificates", "-mindepth", "1").out.split()
    found = {path.removeprefix("/certificates/") for path in listing}
    assert {path for path in found if not OTHER_TESTS.match(path)} == PUBLIC | {"revoked", FOLDERS[host]} | INNER[host]


@pytest.mark.parametrize("host", FOLDERS)
def test_no_public_file_holds_a_secret(stack: Stack, host: str) -> None:
    """Only the file that is named for it holds a secret half."""
    holders = stack.execute(host, "grep", "-rl", "secret-key", "/certificates").out.split()
    assert holders == [f"/certificates/{FOLDERS[host]}"]


@pytest.mark.parametrize("host", FOLDERS)
@pytest.mark.parametrize("target", ["/certificates/new", "/app/new", "/new", "/opt/venv/new"])
def test_keys_and_program_can_not_be_written(stack: Stack, host: str, target: str) -> None:
    """The keys that certs-init made and the root file system are read-only in a host."""
    done = stack.execute(host, "python", "-c", f"open({target!r}, 'w')")
    assert done.status != 0
    assert "Read-only file system" in done.err


@pytest.mark.parametrize("host", FOLDERS)
def test_a_host_may_write_one_folder_of_public_keys(stack: Stack, host: str) -> None:
    """mainpc lists the keys it enrolled, pc2 those received; neither reaches its own secret, nor certs-init's files."""
    mounts = stack.container(host).attrs["Mounts"]
    writable = {mount["Destination"] for mount in mounts if mount["RW"]}
    assert writable == {"/var/lib/twinhost", f"/certificates/{WRITTEN[host]}"}


@pytest.mark.parametrize("host", FOLDERS)
def test_a_host_has_no_privileges(stack: Stack, host: str) -> None:
    """It runs as an ordinary user, without capabilities, and can't gain any."""
    status = stack.execute(host, "cat", "/proc/self/status").out
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == ["10001"] * 4
    assert int(fields["CapBnd"], 16) == int(fields["CapEff"], 16) == 0
    assert fields["NoNewPrivs"] == "1"


@pytest.mark.parametrize("host", FOLDERS)
def test_ports_are_published_on_loopback_alone(stack: Stack, host: str) -> None:
    """Nothing listens on an address that another machine could reach."""
    for port in (HTTP_PORTS[host], ZMQ_PORTS[host]):
        assert stack.published(host, port).startswith("127.0.0.1:")


def test_the_link_is_an_internal_network(stack: Stack) -> None:
    """The hosts share one network, which leads nowhere else."""
    networks = {host: set(stack.container(host).attrs["NetworkSettings"]["Networks"]) for host in FOLDERS}
    shared = networks["mainpc"] & networks["pc2"]
    assert shared == {f"{stack.project}_link"}
    (network,) = stack.networks(shared)
    assert network.attrs["Internal"] is True


@pytest.mark.parametrize("host", FOLDERS)
def test_health_says_what_was_checked(stack: Stack, host: str) -> None:
    """/healthz and /readyz answer 200 with the health document."""
    for path in ("/healthz", "/readyz"):
        status, document = stack.http(host, path)
        assert status == 200
        assert (document["status"], document["ready"], document["secure"]) == ("ok", True, True)
        assert document["agent"] == AGENTS[host]
        assert {"socket_loop", "zap_handler", "store"} <= set(document["checks"])


@pytest.mark.parametrize("host", FOLDERS)
def test_logs_are_events_and_never_show_a_secret(stack: Stack, host: str) -> None:
    """Every line is a JSON event, and none has a secret key."""
    log = stack.logs(host)
    assert log.strip()
    for line in log.splitlines():
        assert {"event", "level", "timestamp", "agent"} <= set(json.loads(line))
    for folder in ("mainpc", "pc2", "operator"):
        assert stack.keys(folder).own_keys.secret_z85.decode() not in log


@pytest.mark.parametrize("host", FOLDERS)
def test_the_engine_sees_it_healthy(stack: Stack, host: str) -> None:
    """The container's health check, an authenticated call, passes."""

    def healthy() -> bool:
        return bool(stack.container(host).attrs["State"]["Health"]["Status"] == "healthy")

    wait_until(healthy, 20, f"the engine sees {host} healthy")
