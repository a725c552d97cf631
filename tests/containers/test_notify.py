"""The container that sends messages: it alone has a way out and the secrets, and it tells of a killed host."""

import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
import yaml

from tests.containers.stack import REPOSITORY, Stack
from tests.receivers import HttpReceiver
from tests.waiting import PATIENCE_S, wait_until
from twinhost.network_config.load import CONFIG_FILE, DEFAULT_PATH

MAINPC_SILENT = ("mainpc does not answer pc2", "mainpc can't be asked what is wrong")  # the second: pc2 does not say
TOLD_WITHIN_S = 60.0  # where a TTL decides
TOKEN = "s3cret-token"


@pytest.fixture(scope="module")
def web(engine: docker.DockerClient) -> Iterator[HttpReceiver]:
    """A receiver on this machine, as a container reaches it."""
    with HttpReceiver(engine.networks.get("bridge").attrs["IPAM"]["Config"][0]["Gateway"]) as receiver:
        yield receiver


@pytest.fixture(scope="module")
def notifying(engine: docker.DockerClient, web: HttpReceiver) -> Iterator[Stack]:
    """Both hosts, whose configuration has a destination."""
    address = f"{web.address}:{web.port}"
    with tempfile.TemporaryDirectory(prefix="twinhost-notify-") as name:
        folder, secrets = Path(name) / "config", Path(name) / "secrets"
        for made in (Path(name), folder, secrets):
            made.mkdir(exist_ok=True)
            made.chmod(0o755)
        document = yaml.safe_load(DEFAULT_PATH.read_text(encoding="utf-8"))
        phone = {"webhook": f"http://{address}/", "token_file": "/secrets/token", "unencrypted": True}
        document["notify"] = {"destinations": {"phone": phone}}
        (folder / CONFIG_FILE).write_text(yaml.safe_dump(document))
        (secrets / "token").write_text(TOKEN)
        for path in (folder / CONFIG_FILE, secrets / "token"):
            path.chmod(0o644)
        stack = Stack(Path(name), {"TWINHOST_CONFIG": str(folder), "TWINHOST_NOTIFY_SECRETS": str(secrets)})
        try:
            stack.start()
            stack.wait_until_ready()
            yield stack
        finally:
            stack.compose("--profile", "notify", "rm", "--stop", "--force", "notify")
            stack.stop()


def test_it_is_the_only_service_with_an_egress_of_its_own() -> None:
    """And it starts only if it is asked for."""

    def services(*arguments: str) -> dict[str, dict[str, object]]:
        command = ["docker", "compose", *arguments, "config", "--format", "json"]
        found: dict[str, dict[str, object]] = json.loads(subprocess.check_output(command, cwd=REPOSITORY))["services"]
        return found

    assert "notify" not in services()
    everything = services("--profile", "*")
    assert [name for name, service in everything.items() if "notify-egress" in json.dumps(service)] == ["notify"]
    assert [name for name, service in everything.items() if "/secrets" in json.dumps(service)] == ["notify"]
    assert "ports" not in everything["notify"]


def test_the_wrapper_tests_the_ways_out(notifying: Stack, web: HttpReceiver) -> None:
    ran = notifying.twinhost("notify", "test")
    assert (ran.status, ran.out.strip()) == (0, f"phone: HTTP 200 OK from {web.address}"), ran.err
    assert web.titles == ["twinhost: test"]
    assert web.headers[0]["Authorization"] == f"Bearer {TOKEN}"


def test_without_the_section_the_wrapper_says_so(notifying: Stack) -> None:
    ran = notifying.twinhost("notify", "test", TWINHOST_CONFIG=str(REPOSITORY / "config"))
    assert ran.status == 1
    assert ran.err.strip().endswith("has no section `notify`; add one: docs/how-to/get-messages.md has examples")


def delivered(stack: Stack) -> int:
    return len([event for event in stack.events("notify") if event["event"] == "message_delivered"])


@pytest.mark.parametrize(
    ("host", "began"), [("pc2", "pc2 does not respond"), ("mainpc", MAINPC_SILENT)], ids=["pc2", "mainpc"]
)
def test_a_killed_host_is_one_message_and_its_return_another(
    notifying: Stack, web: HttpReceiver, host: str, began: str | tuple[str, ...]
) -> None:
    """In time; also if the process was killed in between. A busy machine may have other troubles."""

    def events() -> list[str]:
        news = [news for body in web.bodies for news in body["news"]]
        return [each["event"] for each in news if each["what"].startswith(began)]

    notifying.start_service("notify")
    wait_until(lambda: "notify" in notifying.twinhost("agents").out, TOLD_WITHIN_S, "it has registered")
    before = delivered(notifying)
    web.bodies.clear()
    notifying.compose("kill", host)
    wait_until(events, TOLD_WITHIN_S, "it is told")
    wait_until(lambda: delivered(notifying) - before >= len(web.bodies), PATIENCE_S, "it is kept as delivered")
    notifying.compose("kill", "notify")
    notifying.compose("start", host, "notify")
    wait_until(lambda: len(events()) > 1, TOLD_WITHIN_S, "its return is told")
    notifying.wait_until_ready()
    assert events() == ["began", "ended"]
    assert TOKEN not in notifying.logs("notify")
