"""`status` on each trouble that an operator must be told of: the first line, since when, why, and what mends it.

The command line asks mainpc's agent in this process, without a socket, so that its clock can be moved.
"""

import shlex
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

from tests.staged_troubles import FOURTEEN, OF_THE_LOG, STAGINGS, Deployment, Staging
from tests.unit.certificates.trees import certs_init
from tests.unit.cli.running import Ran
from tests.unit.system_digital_twin.http.test_state import Twin
from tests.unit.system_digital_twin.twin import OPERATOR, SDT, UMRA, Clock
from twinhost.agent.health import Health
from twinhost.cli.app import main
from twinhost.deployment import Settings
from twinhost.network_config import Agent
from twinhost.secure_zmq.errors import NotGranted, ServerUnreachable
from twinhost.secure_zmq.framing.exchange import successful
from twinhost.secure_zmq.wire import Reply

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parents[3]
Status = Callable[..., Ran]


class InProcess:
    """A client, with the operator's key, of an agent of the deployment."""

    def __init__(self, deployment: Deployment, name: str) -> None:
        self._deployment, self._name = deployment, name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def call(self, action: str, /, *, deadline_s: float | None = None, **fields: Any) -> Reply:
        if action == "get_peers":  # of sockets, which there are none of
            raise NotGranted(f"{action} is not granted")
        if self._name == SDT.name:
            return successful(self._deployment.twin.ask(action, OPERATOR, **fields))
        if not self._deployment.pc2_answers:
            raise ServerUnreachable(f"{self._name} did not answer")
        if action != "health":
            raise NotGranted(f"{action} is not granted")
        return {**Health(UMRA.name, secure=True, clock=self._deployment.clock).document()}


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    environment, clock = Deployment.environment(tmp_path), Clock()
    for name, value in {**environment, "TWINHOST_CERTIFICATES": str(tmp_path / "certificates/operator")}.items():
        monkeypatch.setenv(name, value)
    with Twin(environment, clock) as twin:
        deployment = Deployment(twin, clock, tmp_path)

        def client(_: Settings, agent: Agent) -> InProcess:
            return InProcess(deployment, agent.name)

        monkeypatch.setattr(Settings, "client", client)
        yield deployment


@pytest.fixture
def run(deployment: Deployment, capsys: pytest.CaptureFixture[str]) -> Status:
    """Run the command line against the deployment, in this process."""

    def run(*arguments: str) -> Ran:
        capsys.readouterr()
        status = main(arguments)
        written = capsys.readouterr()
        return Ran(status, written.out, written.err)

    return run


def test_there_are_fourteen() -> None:
    assert len({staging.name for staging in FOURTEEN}) == len(FOURTEEN) == 14
    assert len(STAGINGS) == 20 + len(OF_THE_LOG) == 25


def test_a_deployment_begins_well(deployment: Deployment, run: Status) -> None:
    ran = run("status")
    assert (ran.status, ran.out.splitlines()[0]) == (0, "All is well.")


@pytest.mark.parametrize("staging", STAGINGS, ids=lambda staging: staging.name)
def test_status_says_what_since_why_and_what_to_do(deployment: Deployment, run: Status, staging: Staging) -> None:
    """In its first line and its exit status; and nothing that the trouble explains is said as another one."""
    began = staging.stage(deployment)
    ran = run("status")
    headline, _, *lines = ran.out.splitlines()
    assert (ran.status, ran.err) == (staging.status, "")
    staging.require_what(headline)
    items = [line for line in lines if line.startswith(("broken: ", "attention: "))]
    assert len(items) == 1 + len(staging.beside)
    staging.require_what(items[0].removeprefix(f"{staging.level}: "))
    said = [line.strip() for line in lines[lines.index(items[0]) :]]
    since = next(line for line in said if line.startswith("since: ")).removeprefix("since: ").partition(", ")[0]
    assert abs(datetime.fromisoformat(since).timestamp() - began) <= staging.within_s
    staging.require_cause(next(line for line in said if line.startswith("because: ")))
    assert any(line.startswith(f"on {staging.on}: {staging.command}  # ") for line in said)
    assert sum(line.startswith("so: ") for line in said) >= len(staging.hides)
    assert f"to acknowledge: ./twinhost attention acknowledge {staging.id}" in said


@pytest.mark.parametrize("staging", STAGINGS, ids=lambda staging: staging.name)
def test_what_is_said_to_mend_it_works(deployment: Deployment, run: Status, staging: Staging) -> None:
    """Of this project's programs as they run here; of Compose, that it has such a service."""
    staging.stage(deployment)
    program, *words = shlex.split(staging.command)
    if program == "./twinhost":
        ran = run(*words)
        if words == ["audit", "verify"] and staging.id.startswith("audit_"):
            assert (ran.status, "the hash of line 1 does not match" in ran.out + ran.err) == (1, True)
        else:
            assert (ran.status, bool(ran.out)) == (0, True)
        if words[:2] == ["agents", "unregister"]:
            deployment.pass_seconds(1)
            assert deployment.ids() == [], "none of them is left"
            assert UMRA.name in run("agents").out
    elif staging.command.startswith("docker compose run --rm certs-init "):
        verb, name = words[-2:]
        if staging.id.startswith("key_expired"):
            assert certs_init(deployment.home / "certificates", "revoke", name).status == 0
        assert certs_init(deployment.home / "certificates", verb, name).status == 0
        deployment.twin.keys.peers.reload()
        deployment.events, deployment.pc2_answers = lambda: None, True
        deployment.twin.handshakes.accepted(UMRA.name, deployment.fingerprint, "192.0.2.2")
        deployment.twin.handshakes.record()
        deployment.pass_seconds(30)
        assert not {staging.id, "host_silent:pc2"} & {*deployment.ids()}
    elif program == "docker" and words[0] == "compose":
        assert words[-1] in yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
    else:
        assert (program, words[:1]) in [("docker", ["system"]), ("sudo", ["timedatectl"]), ("nvidia-smi", [])]


@pytest.mark.parametrize("staging", STAGINGS, ids=lambda staging: staging.name)
def test_the_printed_command_acknowledges_it(deployment: Deployment, run: Status, staging: Staging) -> None:
    """Also while the disk of mainpc is full; then nothing new is wrong."""
    staging.stage(deployment)
    prefix = "to acknowledge: ./twinhost "
    printed = [line.strip() for line in run("status").out.splitlines() if line.strip().startswith(prefix)]
    assert len(printed) == 1 + len(staging.beside)
    for command in printed:
        assert run(*shlex.split(command.removeprefix(prefix))).status == 0
    ran = run("status")
    assert (ran.status, ran.out.partition(";")[0]) == (0, "Nothing new is wrong")


@pytest.mark.parametrize("staging", FOURTEEN, ids=lambda staging: staging.name)
def test_every_other_command_of_the_project_runs(deployment: Deployment, run: Status, staging: Staging) -> None:
    """Those that show, and those that settle what happened; `audit`, `doctor` and `keys` have tests with sockets."""
    staging.stage(deployment)
    remedies = [remedy["command"] for item in deployment.items() for remedy in item["remedies"]]
    for command in remedies:
        program, *words = shlex.split(command)
        if program == "./twinhost" and words[0] not in ("audit", "doctor", "keys"):
            ran = run(*words)
            assert (ran.status, bool(ran.out)) == (0, True), (command, ran)
