"""docs/tutorial/your-first-agent.md, its last two steps: a third host joins, and nothing restarts."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.containers.checkout import Machine, commands_of
from tests.containers.stack import REPOSITORY
from tests.ports import free_ports
from tests.waiting import PATIENCE_S, wait_until

PAGE = (REPOSITORY / "docs/tutorial/your-first-agent.md").read_text(encoding="utf-8")
AGENTS = ("mainpc", "pc2")


class Author:
    """A checkout whose stack runs, with the tutorial's agent in a folder beside it."""

    def __init__(self, folder: Path) -> None:
        self.port = free_ports(1)[0]
        self.machine = Machine(folder / "twinhost", {"GREETER_ZMQ_PORT": str(self.port)})
        shutil.copytree(REPOSITORY / "services", self.machine.folder / "services", dirs_exist_ok=True)  # run natively
        own = f"XDG_CONFIG_HOME={folder}/home PYTHONPATH=services {sys.executable}"
        self.machine.run(f'twinhost() {{ {own} -m twinhost.cli "$@"; }}')
        self.machine.run(f'python() {{ {own} "$@"; }}')
        self.agent = folder / "greeter"
        new = [sys.executable, "-m", "twinhost.cli", "new", "agent", "Greeter", "--folder", str(self.agent)]
        subprocess.run(new, check=True, cwd=REPOSITORY / "services")
        (difference,) = re.findall(r"```diff\n(.*?)```", PAGE, re.S)
        subprocess.run(["patch", "-p1"], input=difference, text=True, check=True, cwd=self.agent)

    def add_to_the_configuration(self) -> None:
        """Do what an editor does with the agent's lines, in place."""
        path = self.machine.folder / "config/network_config.yaml"
        document = yaml.safe_load(path.read_text())
        added = yaml.safe_load((self.agent / "network_config.yaml").read_text())
        document["hosts"] |= added["hosts"]
        document["agents"] |= added["agents"]
        document["grants"]["agent"] += [*added["grants"]["agent"], "count_greetings"]
        path.write_text(yaml.safe_dump(document))

    def run(self, command: str) -> str:
        """Run a line in the checkout; return what it printed."""
        done = self.machine.run(command)
        assert done.status == 0, f"{command}: {done.err}"
        assert "orphan" not in done.err, f"{command}: Compose's advice would delete the agent: {done.err}"
        return done.out

    def started_at(self) -> list[str]:
        """Return when the containers of both agents were started."""
        inspect = "docker inspect --format '{{.State.StartedAt}}' $(docker compose ps --quiet %s)"
        return [self.run(inspect % service) for service in AGENTS]


@pytest.fixture(scope="module")
def author(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Author]:
    """The tutorial was followed to its end."""
    author = Author(tmp_path_factory.mktemp("author"))
    with_agent = "docker compose -f docker-compose.yml -f ../greeter/compose.yaml"
    try:
        author.run("docker compose up --detach --wait mainpc pc2")
        before = author.started_at()
        author.add_to_the_configuration()
        for place, command in commands_of(PAGE.replace("checkout$", "mainpc$")):
            assert place == "mainpc"
            printed = author.run(command)
            if " join " in command:
                assert f"Greeter answered at tcp://127.0.0.1:{author.port}\n" in printed
            if command.startswith("python"):
                assert printed == "Hello, Ana!\n"
            if " up " in command:
                wait_until(lambda: "Greeter" in author.run("./twinhost agents"), PATIENCE_S, "it is registered")
        assert author.started_at() == before
        yield author
    finally:
        author.machine.run(f"{with_agent} --profile tools down --volumes --remove-orphans")
        author.machine.remove()
        author.machine.run("docker image rm greeter")
        shutil.rmtree(author.agent)


def test_it_is_an_agent_as_the_others_are(author: Author) -> None:
    """Registered with its own key, measured, and granted; its events arrive."""
    info = author.run("./twinhost call SystemDigitalTwin get_agent_info agent_name=Greeter --json")
    assert '"location":"greeter"' in info.replace(" ", "")
    assert '"registered_by":"Greeter"' in info.replace(" ", "")
    author.run("./twinhost call Greeter greet name=Ben")
    wait_until(
        lambda: '"name":"Ben"' in author.run("./twinhost call SystemDigitalTwin get_events --json").replace(" ", ""),
        PATIENCE_S,
        "the event is on mainpc",
    )
    wait_until(
        lambda: '"greeter":' in author.run("./twinhost call SystemDigitalTwin get_metrics --json"),
        PATIENCE_S,
        "its host is measured",
    )


def test_it_asks_another_in_its_callers_name(author: Author) -> None:
    """pc2's answer comes back through it."""
    author.run('./twinhost call UnifiedMemoryReasoningAgent update_twin user_id=Ana \'twin_data={"language": "fil"}\'')
    answer = author.run("./twinhost call Greeter who_is name=Ana --json")
    assert '"language":"fil"' in answer.replace(" ", "")


def test_it_has_only_its_own_secret(author: Author) -> None:
    """As every host has."""
    found = author.run(
        "docker compose -f docker-compose.yml -f ../greeter/compose.yaml exec -T greeter "
        "find /certificates -name '*.key_secret'"
    )
    assert found.split() == ["/certificates/greeter.key_secret"]
