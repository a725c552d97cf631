"""The list of who may do what changes under a running stack: at once where it is right, not at all where it is not."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import docker
import pytest
import yaml

from tests.containers.stack import EVENTS_PORT, HTTP_PORTS, REPOSITORY, Stack
from tests.waiting import PATIENCE_S, at_most, wait_until
from twinhost.secure_zmq.client import Client, Subscriber
from twinhost.secure_zmq.errors import NotGranted

HOLDS_WITHIN_S = 2.0  # the promise, from the file's change
AGENTS_CALLS = {"mainpc": ("get_ok_agents", "get_peers"), "pc2": ("health", "get_peers")}  # granted, and not
FILE = "network_config.yaml"

pytestmark = pytest.mark.sdt_security
Write = Callable[[Path, str], None]


def put_in_place(path: Path, text: str) -> None:
    """Change a file as most editors do: a new one takes its name."""
    draft = path.with_name(".draft")
    draft.write_text(text)
    draft.chmod(0o644)
    draft.rename(path)


def overwrite(path: Path, text: str) -> None:
    """Change a file as a redirection of a shell does."""
    path.write_text(text)


class Grants:
    """A stack, and the configuration that it was started with, which a test may change."""

    def __init__(self, stack: Stack, file: Path) -> None:
        self.stack, self.file = stack, file
        self._shipped = file.read_text()

    def changed(self, role: str, *, more: tuple[str, ...] = (), less: tuple[str, ...] = ()) -> str:
        """Return the shipped file's text with other grants of a role."""
        document = yaml.safe_load(self._shipped)
        document["grants"][role] = [action for action in document["grants"][role] if action not in less] + list(more)
        return yaml.safe_dump(document)

    def restore(self) -> None:
        """Put the shipped file back, and wait until it holds."""
        put_in_place(self.file, self._shipped)
        for host in HTTP_PORTS:
            wait_until(lambda host=host: not self.warnings(host), PATIENCE_S, f"{host} has no complaint")  # type: ignore[misc]
            wait_until(lambda host=host: self.as_shipped(host), PATIENCE_S, f"{host} grants what it did")  # type: ignore[misc]

    def as_shipped(self, host: str) -> bool:
        """Return whether a host grants an agent what the shipped file says, and no more."""
        allowed, forbidden = AGENTS_CALLS[host]
        return self.may(host, allowed) and not self.may(host, forbidden)

    def may(self, host: str, action: str) -> bool:
        """Return whether an agent may ask a host for an action; a refusal must say that it is not granted."""
        with self.stack.client(host, "pc2") as client:
            return granted(client, action)

    def warnings(self, host: str) -> list[str]:
        """Return the warnings of a host's health; it must be healthy all the same."""
        status, document = self.stack.http(host, "/healthz")
        assert (status, document["status"], document["ready"]) == (200, "ok", True)
        return list(document["warnings"])

    def rejection(self, host: str) -> str | None:
        """Return why a host last rejected the file, by its log."""
        reasons = [entry["reason"] for entry in self.stack.events(host) if entry["event"] == "configuration_rejected"]
        return reasons[-1] if reasons else None

    def audited_changes(self) -> int:
        return sum(line["event"] == "grants_changed" for line in self.stack.audit())

    def started(self) -> list[str]:
        return [str(self.stack.container(host).attrs["State"]["StartedAt"]) for host in HTTP_PORTS]


@pytest.fixture(scope="module")
def running(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grants]:
    folder = tmp_path_factory.mktemp("grants")
    config = folder / "config"
    config.mkdir(mode=0o755)
    put_in_place(config / FILE, (REPOSITORY / "config" / FILE).read_text())
    stack = Stack(folder, {"SECURE_ZMQ": "1", "TWINHOST_CONFIG": str(config)})
    with ExitStack() as ends:
        ends.callback(stack.stop)
        stack.start()
        stack.wait_until_ready()
        yield Grants(stack, config / FILE)


@pytest.fixture
def grants(running: Grants) -> Iterator[Grants]:
    """The stack with the shipped grants, before and after."""
    before = running.started()
    yield running
    running.restore()
    assert running.started() == before, "nothing was restarted"


@pytest.mark.parametrize("write", [put_in_place, overwrite])
def test_a_changed_list_holds_at_once(grants: Grants, write: Write) -> None:
    """On both hosts, for what is granted more and for what is granted less, on a connection that is open already."""
    changes = grants.audited_changes()
    clients = {host: grants.stack.client(host, "pc2") for host in HTTP_PORTS}
    with clients["mainpc"], clients["pc2"]:
        for host, client in clients.items():
            client.call(AGENTS_CALLS[host][0])
        with at_most(HOLDS_WITHIN_S):
            write(grants.file, grants.changed("agent", more=("get_peers",), less=("get_ok_agents", "health")))
            for host, client in clients.items():
                allowed, forbidden = AGENTS_CALLS[host]
                wait_until(lambda call=(client, forbidden): granted(*call), HOLDS_WITHIN_S, f"{host} grants more")  # type: ignore[misc]
                assert not granted(client, allowed)
        for client in clients.values():
            client.call("ping")
    wait_until(lambda: grants.audited_changes() > changes, PATIENCE_S, "the audit log has it")


def granted(client: Client, action: str) -> bool:
    with suppress(NotGranted):
        client.call(action)
        return True
    return False


def test_a_refusal_is_reported_and_in_the_audit_log(grants: Grants) -> None:
    """Who requested what; the reply names what to do, and the code on the wire is `not_granted`."""
    with grants.stack.client("mainpc", "pc2") as client, pytest.raises(NotGranted) as caught:
        client.call("get_peers")
    assert caught.value.code == "not_granted"
    assert "get_peers is not granted to UnifiedMemoryReasoningAgent (role agent)" in str(caught.value)
    grants.stack.audited("request_refused", code="not_granted", peer="UnifiedMemoryReasoningAgent", action="get_peers")


SLIPS: dict[str, Callable[[str], str]] = {
    "no YAML": lambda text: text + "\n  grants: [",
    "an unknown word": lambda text: text + "\nfall_back: true\n",
    "no list": lambda text: text.replace("unauthenticated:", "unauthenticated: everything\nothers:"),
    "half of it": lambda text: text[: len(text) // 2],
    "empty": lambda _: "",
}


@pytest.mark.parametrize("slip", SLIPS)
def test_an_invalid_file_changes_nothing_and_is_reported(grants: Grants, slip: str) -> None:
    """The change beside the slip does not hold either; health, status, the log, and the audit log name the file."""
    text = SLIPS[slip](grants.changed("agent", more=("get_peers",), less=("get_ok_agents", "health")))
    put_in_place(grants.file, text)
    for host in HTTP_PORTS:
        complaints = wait_until(lambda host=host: grants.warnings(host), HOLDS_WITHIN_S, f"{host} complains")  # type: ignore[misc]
        assert all(FILE in sentence for sentence in complaints)
        assert grants.as_shipped(host)
        wait_until(lambda: grants.rejection(host) == complaints[0], PATIENCE_S, f"{host} logs it")  # noqa: B023
        assert grants.stack.audited("grants_rejected", cause=complaints[0])


def test_a_missing_file_changes_nothing_and_is_reported(grants: Grants) -> None:
    grants.file.unlink()
    for host in HTTP_PORTS:
        wait_until(lambda host=host: grants.warnings(host), HOLDS_WITHIN_S, f"{host} complains")  # type: ignore[misc]
        assert grants.may(host, AGENTS_CALLS[host][0])


def test_after_a_slip_the_next_right_file_holds(grants: Grants) -> None:
    """And nobody complains any more."""
    put_in_place(grants.file, "grants: [")
    for host in HTTP_PORTS:
        wait_until(lambda host=host: grants.warnings(host), HOLDS_WITHIN_S, f"{host} complains")  # type: ignore[misc]
    put_in_place(grants.file, grants.changed("agent", more=("get_peers",)))
    for host in HTTP_PORTS:
        wait_until(lambda host=host: grants.may(host, "get_peers"), HOLDS_WITHIN_S, f"{host} grants more")  # type: ignore[misc]
        wait_until(lambda host=host: not grants.warnings(host), HOLDS_WITHIN_S, f"{host} complains no more")  # type: ignore[misc]


def test_the_command_line_names_a_file_with_a_slip(grants: Grants) -> None:
    """`cli status` reads the same file."""
    put_in_place(grants.file, "grants: [")
    shown = grants.stack.run("cli", "status")
    assert (shown.status, shown.out) == (1, "")
    assert FILE in shown.err
    assert "Traceback" not in shown.err


def test_a_slip_makes_no_container_unhealthy(grants: Grants) -> None:
    """The agents serve as before, so the engine must not see it otherwise."""
    put_in_place(grants.file, "grants: [")
    for host, agent in (("mainpc", "SystemDigitalTwin"), ("pc2", "UnifiedMemoryReasoningAgent")):
        done = grants.stack.execute(host, "python", "-m", "twinhost.agent.healthcheck", agent)
        assert done.status == 0, done.out


def test_a_feed_that_is_granted_no_more_goes_silent(grants: Grants) -> None:
    """The live subscriber's connection ends, while its key stays good for all else."""
    keys = grants.stack.keys("pc2").own_keys
    feed = Subscriber(grants.stack.secured("mainpc", keys, EVENTS_PORT), [b"AGENT:"])
    feed.start()
    with grants.stack.client("mainpc") as client:

        def received() -> bool:
            client.call("register_agent", agent_name="listed-agent", status="HEALTHY")
            return feed.get(0.05) is not None

        try:
            wait_until(received, PATIENCE_S, "an event is received")
            put_in_place(grants.file, grants.changed("agent", less=("subscribe",)))
            wait_until(lambda: refused_subscription(grants.stack), HOLDS_WITHIN_S, "the subscription is ended")
            while feed.get(0) is not None:
                pass
            assert not any(received() for _ in range(10))
            assert grants.may("mainpc", "ping")
        finally:
            feed.stop()
            client.call("unregister", agent_name="listed-agent")


def refused_subscription(stack: Stack) -> bool:
    return any(
        entry["event"] == "subscription_refused" and entry["reason"] == "its grant was withdrawn"
        for entry in stack.events("mainpc")
    )
