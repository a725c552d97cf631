"""docs/how-to/run-several-stacks.md: two checkouts on one machine, and programs that reach the one they joined."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.containers.checkout import Machine
from tests.containers.stack import IMAGE, REPOSITORY
from tests.unit.cli.running import Ran, run_process

PAGE = (REPOSITORY / "docs/how-to/run-several-stacks.md").read_text(encoding="utf-8")
TEMPLATE = REPOSITORY / "services/twinhost/cli/new/template"


def shown_variables() -> set[str]:
    """Return the variables of the `.env` that the page shows."""
    (block,) = re.findall(r"```shell\n(.*?)```", PAGE, re.S)
    return {line.partition("=")[0] for line in block.splitlines()}


class User:
    """Somebody who has two checkouts, each with the `.env` of the page, and one configuration folder for profiles."""

    def __init__(self, folder: Path, engine: docker.DockerClient) -> None:
        self.home, self._engine = folder / "home", engine
        self.stacks = {name: Machine(folder / name, {}) for name in ("first", "second")}
        native = f"XDG_CONFIG_HOME={self.home} PYTHONPATH=services {sys.executable} -m twinhost.cli"
        for machine in self.stacks.values():
            image = f"{machine.variables['COMPOSE_PROJECT_NAME']}:0.2.0"
            engine.images.get(IMAGE).tag(image)
            machine.set({"TWINHOST_IMAGE": image})
            # whose programs are run natively
            shutil.copytree(REPOSITORY / "services", machine.folder / "services", dirs_exist_ok=True)
            machine.run(f'twinhost() {{ {native} "$@"; }}')

    def start(self) -> None:
        for machine in self.stacks.values():
            done = machine.run("docker compose up --detach --wait mainpc pc2")
            assert done.status == 0, done.err

    def invite(self, stack: str, name: str) -> str:
        """Return the line of an invitation to one of the stacks."""
        done = self.stacks[stack].run(f"docker compose run --rm -T certs-init invite {name} --host laptop --role agent")
        assert done.status == 0, done.err
        return done.out.strip()

    def twinhost(self, *words: str) -> Ran:
        """Run `twinhost WORDS` outside the containers, and in no checkout."""
        settings = {"XDG_CONFIG_HOME": str(self.home), "TWINHOST_CERTIFICATES": "", "NETWORK_CONFIG_PATH": ""}
        return run_process(settings, *words)

    def remove(self) -> None:
        for machine in self.stacks.values():
            machine.remove()
            self._engine.images.remove(machine.variables["TWINHOST_IMAGE"])


@pytest.fixture(scope="module")
def user(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    user = User(tmp_path_factory.mktemp("user"), engine)
    try:
        user.start()
        yield user
    finally:
        user.remove()


def test_the_page_names_every_variable_that_two_stacks_share(user: User) -> None:
    """With those of the page alone, the two use no port, name, or image of each other."""
    assert shown_variables() == set(user.stacks["second"].variables)


def test_programs_reach_the_stack_that_they_joined(user: User) -> None:
    """By one line each, without another option: addresses and ports are those that each stack publishes."""
    for stack, machine in user.stacks.items():
        ran = user.twinhost("--profile", stack, "join", user.invite(stack, f"reader-of-{stack}"))
        assert ran.status == 0, ran.err
        ports = {name: machine.variables[f"{name}_ZMQ_PORT"] for name in ("MAINPC", "PC2")}
        assert f"SystemDigitalTwin answered at tcp://127.0.0.1:{ports['MAINPC']}\n" in ran.out
        assert f"UnifiedMemoryReasoningAgent answered at tcp://127.0.0.1:{ports['PC2']}\n" in ran.out
        stored = user.twinhost("--profile", stack, "call", "pc2", "store_memory", f"content=the lamp of the {stack}")
        assert stored.status == 0, stored.err
    for stack in user.stacks:
        found = user.twinhost("--profile", stack, "call", "pc2", "search_memory", "query=lamp", "--json")
        assert [result["content"] for result in json.loads(found.out)["results"]] == [f"the lamp of the {stack}"]
        status = user.twinhost("--profile", stack, "status")
        assert status.status in (0, 1), status.out  # 1: a key was refused before it was accepted
        assert status.err == ""


def test_a_line_leads_no_profile_to_the_other_stack(user: User) -> None:
    """Its address is only a hint: the other mainpc does not hold the key that the line pins."""
    port = user.stacks["second"].variables["MAINPC_ZMQ_PORT"]
    ran = user.twinhost("--profile", "x", "join", "--address", f"127.0.0.1:{port}", user.invite("first", "stray"))
    assert ran.status == 1
    assert "does not have the key that the line names" in ran.err


def test_join_local_enrols_with_the_stack_of_its_checkout(user: User) -> None:
    """A profile of the other stack, which runs, is kept; with a profile of its own the same command succeeds."""
    first, second = user.stacks.values()
    assert first.run("twinhost join --local").status == 0
    refused = second.run("twinhost join --local")
    assert (refused.status, refused.err.count("\n")) == (1, 1)
    assert "has another key; for a separate profile: twinhost join --profile NAME --local" in refused.err
    joined = second.run("twinhost --profile local-second join --local")
    assert joined.status == 0, joined.err
    assert f"SystemDigitalTwin answered at tcp://127.0.0.1:{second.variables['MAINPC_ZMQ_PORT']}\n" in joined.out
    assert first.run("twinhost status").status in (0, 1)


def test_a_build_names_the_stack_whose_image_it_replaces(user: User) -> None:
    """Somebody forgot the line with the image: the other stack would run this checkout's code after its next start."""
    first, second = user.stacks.values()
    image = first.variables["TWINHOST_IMAGE"]
    own = second.run("scripts/setup/image.sh --dry-run")
    shared = second.run(f"TWINHOST_IMAGE={image} scripts/setup/image.sh --dry-run")
    warning = f"Containers of {first.folder} run {image} too"
    assert ("Containers of" in own.err, warning in shared.err) == (False, True)


def test_each_checkout_builds_its_own_agent(user: User) -> None:
    """On its own image, under a name of its own, as the page builds it."""
    (command,) = re.findall(r"second\$ (docker build .*)", PAGE)
    image = user.stacks["second"].variables["TWINHOST_IMAGE"]
    name = f"greeter-{image.partition(':')[0]}"
    filled = command.replace("second:0.2.0", image).replace("second-greeter", name).replace("../greeter", str(TEMPLATE))
    try:
        built = user.stacks["second"].run(filled)
        assert built.status == 0, built.err
        user.stacks["second"].run(f"cp {TEMPLATE}/compose.yaml .")
        shown = user.stacks["second"].run(
            f"GREETER_IMAGE={name} docker compose -f docker-compose.yml -f compose.yaml config --images greeter"
        )
        assert name in shown.out.split()
    finally:
        user.stacks["second"].run(f"docker image rm {name}")
