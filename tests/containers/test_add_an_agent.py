"""docs/how-to/add-an-agent.md, followed on one machine: a third host and its agent, beside the two."""

import re
import shlex
from collections.abc import Iterator

import docker
import pytest
import yaml

from tests.containers.stack import REPOSITORY, Stack
from tests.waiting import PATIENCE_S, wait_until

PAGE = (REPOSITORY / "docs/how-to/add-an-agent.md").read_text(encoding="utf-8")
CONFIG = REPOSITORY / "config/network_config.yaml"
EXAMPLE = "tests/example/compose.yaml"
MOST_LINES = 45  # of the example


@pytest.fixture(scope="module")
def three(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack with the page's lines in its configuration, and the example's Compose file."""
    folder = tmp_path_factory.mktemp("three")
    config = folder / "config"
    config.mkdir(mode=0o755)
    (lines,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    document, added = yaml.safe_load(CONFIG.read_text()), yaml.safe_load(lines)
    document["hosts"] |= added["hosts"]
    document["agents"] |= added["agents"]
    document["grants"]["agent"] += added["grants"]["agent"]
    path = config / CONFIG.name
    path.write_text(yaml.safe_dump(document))
    path.chmod(0o644)
    config.chmod(0o755)
    stack = Stack(folder, {"SECURE_ZMQ": "1", "TWINHOST_CONFIG": str(config)}, files=["docker-compose.yml", EXAMPLE])
    try:
        stack.start()
        stack.wait_until_ready()
        wait_until(lambda: "Greeter" in stack.run("cli", "agents").out, PATIENCE_S, "the third agent is registered")
        yield stack
    finally:
        stack.stop()


def test_the_pages_commands_work(three: Stack) -> None:
    """Each of them, in their order, after the stack was started as the page says."""
    commands = re.findall(r"^\$ docker compose (.*)$", PAGE, re.M)
    assert any(EXAMPLE in command for command in commands)
    for command in commands:
        if EXAMPLE not in command:
            done = three.compose("run", "--rm", "-T", *shlex.split(command)[2:])
            assert done.status == 0, f"{command}: {done.err}"


def test_it_is_an_agent_as_the_others_are(three: Stack) -> None:
    """Registered with its own key, measured, and granted; its heartbeats and events arrive."""
    with three.client("mainpc") as mainpc:
        info = mainpc.call("get_agent_info", agent_name="Greeter")["agent_info"]
        assert (info["location"], info["registered_by"], info["agent_type"]) == ("pc3", "Greeter", "greeter")
        three.run("cli", "call", "Greeter", "greet", "whom=Ben")

        def greeted() -> list[dict[str, object]]:
            return [
                each
                for each in mainpc.call("get_events")["events"]
                if each["data"] == {"whom": "Ben", "by": "operator"}
            ]

        (event,) = wait_until(greeted, PATIENCE_S, "the event is on mainpc")
        assert (event["event_type"], event["written_by"]) == ("greeted", "Greeter")
        wait_until(
            lambda: mainpc.call("get_metrics")["metrics"]["hosts"]["pc3"]["ram_usage_mb"], PATIENCE_S, "pc3 is measured"
        )


def test_it_asks_another_in_its_callers_name(three: Stack) -> None:
    """pc2's answer comes back through it."""
    three.run(
        "cli", "call", "UnifiedMemoryReasoningAgent", "update_twin", "user_id=Ana", 'twin_data={"language": "fil"}'
    )
    done = three.run("cli", "call", "Greeter", "who_is", "whom=Ana", "--json")
    assert '"language": "fil"' in done.out or '"language":"fil"' in done.out


def test_it_has_only_its_own_secret(three: Stack) -> None:
    """As every host has."""
    found = three.execute("pc3", "find", "/certificates", "-name", "*.key_secret")
    assert found.out.split() == ["/certificates/greeter.key_secret"]


def test_the_example_is_as_short_as_the_readme_says() -> None:
    code = (REPOSITORY / "tests/example/greeter.py").read_text().splitlines()
    assert len(code) <= MOST_LINES
    assert f"has one in {MOST_LINES} lines" in (REPOSITORY / "README.md").read_text()
