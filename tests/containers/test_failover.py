"""Either machine may die: `make up-ha` on a machine that has nothing, and the end of each of its parts.

Programs outside the containers write, each with a ledger of its own, and know both addresses of their agent. After a
part has died, both files of the agent have each call that was acknowledged, once.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import docker
import pytest
from docker.models.containers import Container

from tests.containers.checkout import Machine
from tests.containers.stack import AGENTS, HTTP_PORTS, IMAGE, REPOSITORY, ZMQ_PORTS
from tests.ledger import check
from tests.ports import free_ports
from tests.waiting import PATIENCE_S, wait_until
from twinhost.store.replication.epochs import HOLDS_S

UP_WITHIN_S = 120.0  # what a bare machine has for the images, too
TAKEN_OVER_WITHIN_S = 4.0 + PATIENCE_S  # 5 s are promised on an idle machine
WRITES_AGAIN_WITHIN_S = 40.0  # 20 s are promised on an idle machine
STANDBY_VARIABLES = (
    "MAINPC_STANDBY_HTTP_PORT",
    "PC2_STANDBY_HTTP_PORT",
    "MAINPC_STANDBY_ZMQ_PORT",
    "MAINPC_STANDBY_EVENTS_PORT",
    "PC2_STANDBY_ZMQ_PORT",
)
EVERY_SERVICE = (*AGENTS, "mainpc-standby", "pc2-standby", "witness", "database-mainpc", "database-pc2")
MACHINES = {
    "mainpc": ("mainpc", "pc2-standby", "database-mainpc"),
    "pc2": ("pc2", "mainpc-standby", "database-pc2"),
}
PAGE = (REPOSITORY / "docs/how-to/run-with-standbys.md").read_text(encoding="utf-8")
# Its sections, and the commands in each.
COMMANDS = {
    section.partition("\n")[0]: re.findall(r"^\$ (.*)$", section, re.M)
    for section in re.split(r"^##+ ", PAGE, flags=re.M)
}
BACKUPS, RESTORE = COMMANDS["Back up"], COMMANDS["Restore a backup"]
RESTORES = [command for command in RESTORE if " restore " in command]
NODES = "SELECT nodename, goalstate FROM pgautofailover.node"
CALLS = {
    "mainpc": "SELECT name, json_extract(CAST(record AS TEXT), '$.revision') FROM agents",
    "pc2": "SELECT user_id, revision FROM twins",
}
DIGESTS = """
import hashlib, json, sqlite3, sys
database = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
database.execute("BEGIN")
tables = database.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0").fetchall()
rows = {name: sorted(map(repr, database.execute(f'SELECT * FROM "{name}"'))) for name, in tables}
def digest(value):
    return hashlib.sha256(value.encode()).hexdigest()
print(json.dumps({name: list(map(digest, found)) for name, found in sorted(rows.items())}))
"""
# The tables of mainpc in which rows are changed while nobody calls: of its own agents, of what it measures, of when
# each key was used last, and so on. Of all others, each row stays; more may come.
CHANGED_BY_ITSELF = {"agents", "audit_head", "followed_files", "log_position", "sqlite_sequence", "stored_bytes"}
CHANGED_BY_ITSELF |= {"metrics_hour", "metrics_minute", "troubles"}
ROWS = "import json, sqlite3, sys; print(json.dumps(sqlite3.connect(sys.argv[1]).execute(sys.argv[2]).fetchall()))"


class Pair(Machine):
    """A checkout in which `make up-ha` has run."""

    formed_s: float

    def __init__(self, folder: Path, engine: docker.DockerClient) -> None:
        ports = map(str, free_ports(len(STANDBY_VARIABLES)))
        super().__init__(folder / "checkout", dict(zip(STANDBY_VARIABLES, ports, strict=True)) | {"MINE": "kept"})
        self._engine = engine
        self.ledgers = folder

    @classmethod
    @contextmanager
    def started(cls, folder: Path, engine: docker.DockerClient) -> Iterator[Self]:
        """Start all, from no volume, and remove everything at the end."""
        pair = cls(folder, engine)
        try:
            began = time.monotonic()
            pair.up_ha()
            pair.formed_s = time.monotonic() - began
            assert pair.run(f"docker compose cp certs-init:/certificates/operator {folder}").status == 0
            yield pair
        finally:
            pair.remove()

    def mend(self) -> None:
        """Continue and start whatever a test that failed has left stopped, so that the next one doesn't fail too."""
        project = f"label=com.docker.compose.project={self.variables['COMPOSE_PROJECT_NAME']}"
        for state, command in (("paused", "unpause"), ("exited", "start")):
            listed = self.run(f"docker ps --filter {project} --filter status={state} --format '{{{{.Names}}}}'").out
            left = [name for name in listed.split() if "certs-init" not in name]
            if left:
                self.run(f"docker {command} {' '.join(left)}")

    def up_ha(self) -> None:
        """Run what `make up-ha` runs after it has built the images."""
        done = self.run("scripts/setup/up_ha.sh")
        assert done.status == 0, done.out + done.err

    @property
    def lines(self) -> list[str]:
        return (self.folder / ".env").read_text().splitlines()

    def container(self, service: str) -> Container:
        """Return a service's container, also one that has ended."""
        project = self.variables["COMPOSE_PROJECT_NAME"]
        labels = [f"com.docker.compose.project={project}", f"com.docker.compose.service={service}"]
        (container,) = self._engine.containers.list(all=True, filters={"label": labels})
        return container

    def is_well(self, service: str) -> bool:
        """Return whether the engine counts a container as healthy."""
        state = self.container(service).attrs["State"]
        return bool(state["Running"] and state["Health"]["Status"] == "healthy")

    def kill(self, services: Sequence[str]) -> None:
        """End containers at once."""
        ids = [str(self.container(service).id) for service in services]
        subprocess.run(["docker", "kill", *ids], check=True, stdout=subprocess.DEVNULL)

    def published(self, service: str, ports: dict[str, int]) -> str:
        """Return where a port of an agent or of its standby is published; empty while it does not run."""
        return self.run(f"docker compose port {service} {ports[service.removesuffix('-standby')]}").out.strip()

    def address(self, service: str) -> str:
        """Wait until an agent or its standby runs, which it does again by itself, and return where it is published."""
        return "tcp://" + wait_until(lambda: self.published(service, ZMQ_PORTS), PATIENCE_S, f"{service} runs")

    def role(self, service: str) -> dict[str, Any]:
        """Return what an agent's process says of its part; nothing while it doesn't answer."""
        with suppress(OSError, ValueError):
            url = f"http://{self.published(service, HTTP_PORTS)}/healthz"
            with urllib.request.urlopen(url, timeout=2) as answer:
                return dict(json.load(answer).get("log", {}))
        return {}

    def epochs(self) -> set[tuple[str, int]]:
        """Return which processes are active, and in which epoch of their agent."""
        roles = {service: self.role(service) for host in AGENTS for service in (host, f"{host}-standby")}
        return {(service, role["epoch"]) for service, role in roles.items() if role.get("role") == "active"}

    def calls(self, service: str, prefix: str) -> dict[str, int]:
        """Return how often the calls of a ledger took effect, as the file of an agent or of its standby has it."""
        host = service.removesuffix("-standby")
        path = f"/var/lib/twinhost/{AGENTS[host]}.sqlite3"
        command = ["docker", "exec", str(self.container(service).id), "python", "-c", ROWS, path, CALLS[host]]
        rows = json.loads(subprocess.check_output(command))
        return {name: int(times) for name, times in rows if name.startswith(prefix)}

    def tables(self, service: str) -> dict[str, Counter[str]]:
        """Return the digest of each row of each table of an agent's or a standby's file."""
        path = f"/var/lib/twinhost/{AGENTS[service.removesuffix('-standby')]}.sqlite3"
        command = ["docker", "exec", str(self.container(service).id), "python", "-c", DIGESTS, path]
        return {name: Counter(rows) for name, rows in json.loads(subprocess.check_output(command)).items()}

    def files_of_keys(self, service: str, name: str) -> set[str]:
        """Return the files about a key in the folder of an agent or of its standby; none while it does not run."""
        done = self.run(f"docker compose exec -T {service} find /certificates -name '{name}*'")
        return set(done.out.split())

    def require_equal(self, host: str) -> None:
        """Wait until an agent and its standby have the same rows in every table."""
        wait_until(lambda: self.tables(host) == self.tables(f"{host}-standby"), PATIENCE_S, "both are equal")

    def primary(self) -> str:
        """Return the node of the database that takes writes."""
        done = self.run(f'docker compose exec -T witness psql -XqAt -F " " -c "{NODES}" pg_auto_failover')
        states = dict(line.split() for line in done.out.splitlines())
        (name,) = [name for name, state in states.items() if state in ("primary", "wait_primary", "single")]
        return name

    def wait_until_formed(self) -> None:
        """Wait until each commit is on both nodes."""
        done = self.run("docker compose exec -T witness python3 /app/database/run.py formed")
        assert done.status == 0, done.err


class Writer:
    """A program that writes to one agent, at both of its addresses."""

    def __init__(self, pair: Pair, host: str, prefix: str) -> None:
        self._pair, self.host, self._prefix = pair, host, prefix
        self.path = pair.ledgers / f"{prefix}.ledger"
        addresses = [pair.address(service) for service in (host, f"{host}-standby")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.loopback.ledger_writer", AGENTS[host], str(self.path), prefix, *addresses],
            cwd=REPOSITORY,
            env={
                **os.environ,
                "PYTHONPATH": f"services{os.pathsep}.",
                "TWINHOST_CERTIFICATES": str(pair.ledgers / "operator"),
                "NETWORK_CONFIG_PATH": str(pair.folder / "config" / "network_config.yaml"),
            },
        )
        wait_until(lambda: self.acknowledged() > 20, PATIENCE_S, "calls are acknowledged")

    def acknowledged(self) -> int:
        return self.path.read_text().count('"acknowledged"') if self.path.exists() else 0

    def seconds_without(self, deadline_s: float) -> float:
        """Return after how many seconds more calls are acknowledged than one, which may have been under way."""
        began, before = time.monotonic(), self.acknowledged()
        wait_until(lambda: self.acknowledged() > before + 2, deadline_s, "calls are acknowledged again")
        return time.monotonic() - began

    def end(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def require_whole(self) -> None:
        """Compare the ledger with both files, once the one that follows has all of it."""
        self.end()
        services = (self.host, f"{self.host}-standby")
        wait_until(
            lambda: len({str(self._counted(service)) for service in services}) == 1, PATIENCE_S, "both are equal"
        )
        verdict = check(self.path, self._counted(self.host))
        assert verdict.whole, verdict
        assert verdict.acknowledged > 20

    def _counted(self, service: str) -> dict[str, int]:
        return self._pair.calls(service, f"{self._prefix}-")


@contextmanager
def writing(pair: Pair, host: str, prefix: str) -> Iterator[Writer]:
    writer = Writer(pair, host, prefix)
    try:
        yield writer
    finally:
        writer.end()


@pytest.fixture(scope="module")
def pair(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    for image in (f"{IMAGE}-ha", "twinhost-database:0.2.0"):
        engine.images.get(image)
    with Pair.started(tmp_path_factory.mktemp("failover"), engine) as pair:
        yield pair


@pytest.fixture(autouse=True)
def mended(pair: Pair) -> Iterator[None]:
    yield
    pair.mend()


def test_one_command_starts_all_and_keeps_what_is_there(pair: Pair) -> None:
    """Both agents are active and both standbys follow; run again, nothing is changed."""
    print(f"all was healthy after {pair.formed_s:.1f} s")
    assert pair.formed_s < UP_WITHIN_S
    assert [service for service in EVERY_SERVICE if not pair.is_well(service)] == []
    for host in AGENTS:
        assert (pair.role(host)["role"], pair.role(host)["epoch"]) == ("active", 1)
        assert pair.role(f"{host}-standby")["role"] == "standby"
    lines, containers = pair.lines, [pair.container(service).id for service in EVERY_SERVICE]
    assert lines[:-3] == [f"{name}={value}" for name, value in pair.variables.items()]
    assert [line.partition("=")[0] for line in lines[-3:]] == [
        "TWINHOST_DATABASE",
        "TWINHOST_DATABASE_KEYS",
        "COMPOSE_PROFILES",
    ]
    pair.up_ha()
    assert pair.lines == lines
    assert [pair.container(service).id for service in EVERY_SERVICE] == containers


@pytest.mark.parametrize("host", list(AGENTS))
def test_the_standby_takes_over_from_an_agent_that_was_killed(host: str, pair: Pair) -> None:
    """And the agent stands by once it is started again."""
    standby = f"{host}-standby"
    with writing(pair, host, f"killed-{host}") as writer:
        pair.container(host).kill()
        print(f"{host}: a call was acknowledged {writer.seconds_without(TAKEN_OVER_WITHIN_S):.2f} s after the kill")
        assert pair.role(standby)["role"] == "active"
        done = pair.run("./twinhost ping")
        assert done.status == 0, done.err
        pair.container(host).start()
        wait_until(lambda: pair.role(host).get("role") == "standby", PATIENCE_S, f"{host} stands by")
        wait_until(lambda: pair.is_well(host), PATIENCE_S, f"{host} is healthy")
        writer.require_whole()


@pytest.mark.parametrize("host", list(AGENTS))
def test_an_agent_that_is_stopped_hands_over_at_once(host: str, pair: Pair) -> None:
    """Back to where it is at home; a takeover after a kill takes the time of the silence longer."""
    standby = f"{host}-standby"
    if pair.role(standby).get("role") != "active":  # this test alone
        host, standby = standby, host
    with writing(pair, host.removesuffix("-standby"), f"stopped-{host}") as writer:
        pair.container(standby).stop()
        print(f"{standby}: a call was acknowledged {writer.seconds_without(TAKEN_OVER_WITHIN_S):.2f} s after the stop")
        assert pair.role(host)["role"] == "active"
        pair.container(standby).start()
        wait_until(lambda: pair.role(standby).get("role") == "standby", PATIENCE_S, "it stands by")
        writer.require_whole()


@pytest.mark.parametrize("host", list(AGENTS))
def test_an_operator_switches_over_and_back(host: str, pair: Pair) -> None:
    """The engine starts the one that has handed over, which stands by; a promotion is refused while one is active."""
    with writing(pair, host, f"switched-{host}") as writer:
        for _ in range(2):
            (before,) = [service for service in (host, f"{host}-standby") if pair.role(service).get("role") == "active"]
            (after,) = {host, f"{host}-standby"} - {before}
            done = pair.run(f"./twinhost switchover {host}")
            assert done.status == 0, done.err
            print(done.out.strip())
            assert f"{AGENTS[host]} is active on {after} after" in done.out
            writer.seconds_without(TAKEN_OVER_WITHIN_S)
            wait_until(lambda: pair.role(before).get("role") == "standby", PATIENCE_S, "it stands by")  # noqa: B023
            refused = pair.run(f"./twinhost promote {host} --to {before}")
            assert refused.status == 1
            assert f"is active on {after}, which has just confirmed it" in refused.err
        writer.require_whole()


def test_files_of_keys_follow_in_both_directions(pair: Pair) -> None:
    """An invitation that mainpc wrote is good at its standby, and who joins there is known at mainpc again."""
    if wait_until(lambda: pair.role("mainpc").get("role"), PATIENCE_S, "mainpc answers") != "active":
        assert pair.run("./twinhost switchover mainpc").status == 0
        wait_until(lambda: pair.role("mainpc-standby").get("role") == "standby", PATIENCE_S, "it stands by")
    invited = pair.run("docker compose run --rm -T certs-init invite newcomer --host pc3 --role agent")
    assert invited.status == 0, invited.err
    wait_until(lambda: pair.files_of_keys("mainpc-standby", "newcomer"), PATIENCE_S, "the invitation follows")

    pair.container("mainpc").kill()
    wait_until(lambda: pair.role("mainpc-standby").get("role") == "active", TAKEN_OVER_WITHIN_S, "it takes over")
    joined = pair.run("docker compose run --rm -T --no-deps certs-init --root /tmp/tree join -", given=invited.out)
    assert joined.status == 0, joined.err
    written = pair.files_of_keys("mainpc-standby", "newcomer")
    pair.container("mainpc").start()
    wait_until(lambda: pair.files_of_keys("mainpc", "newcomer") == written, PATIENCE_S, "its key follows")
    assert "/certificates/enrolled/newcomer.key" in written


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_agents_go_on_without_the_primary_of_the_database(how: str, pair: Pair) -> None:
    """They can confirm nothing meanwhile, and end; the engine starts them again."""
    with writing(pair, "mainpc", f"primary-{how}-mainpc") as one, writing(pair, "pc2", f"primary-{how}-pc2") as two:
        primary = pair.primary()
        if how == "killed":
            pair.container(primary).kill()
        else:
            pair.container(primary).pause()
        require_that_both_go_on(f"the database's primary was {how}", one, two)
        assert pair.primary() != primary
        epochs = pair.epochs()
        time.sleep(2 * HOLDS_S)
        assert pair.epochs() == epochs  # who is active stays so, also where the first database of the DSN is frozen
        if how == "killed":
            pair.container(primary).start()
        else:
            pair.container(primary).unpause()
        pair.wait_until_formed()
        for writer in (one, two):
            writer.require_whole()


@pytest.mark.parametrize("machine", list(MACHINES))
def test_agents_go_on_without_a_machine(machine: str, pair: Pair) -> None:
    """All that is on it is gone at once: an agent, the other one's standby, and a node of the database."""
    gone = f"without-{machine}"
    with writing(pair, "mainpc", f"{gone}-mainpc") as one, writing(pair, "pc2", f"{gone}-pc2") as two:
        of_database = "primary" if pair.primary() in MACHINES[machine] else "standby"
        pair.kill(MACHINES[machine])
        require_that_both_go_on(f"{machine}, with the database's {of_database}, died", one, two)
        for service in MACHINES[machine]:
            pair.container(service).start()
        pair.wait_until_formed()
        for host in AGENTS:
            roles = [pair.role(service) for service in (host, f"{host}-standby")]
            assert sorted(role["role"] for role in roles) == ["active", "standby"]
        for writer in (one, two):
            writer.require_whole()


def require_that_both_go_on(after: str, *writers: Writer) -> None:
    """Print how long each had no reply; what happened has just happened."""
    began = time.monotonic()
    with ThreadPoolExecutor(len(writers)) as threads:
        waits = [threads.submit(writer.seconds_without, WRITES_AGAIN_WITHIN_S) for writer in writers]
        for writer, wait in zip(writers, waits, strict=True):
            print(f"{writer.host}: a call was acknowledged {wait.result():.2f} s after {after}")
    assert time.monotonic() - began < WRITES_AGAIN_WITHIN_S


def test_all_is_there_after_make_down_and_make_up(pair: Pair) -> None:
    """Every process has ended; the volumes are what is left."""
    with writing(pair, "mainpc", "down-mainpc") as one, writing(pair, "pc2", "down-pc2") as two:
        for writer in (one, two):
            writer.end()
        for command in ("docker compose --profile '*' down --remove-orphans", "scripts/setup/up.sh"):
            done = pair.run(command)
            assert done.status == 0, done.out + done.err
        for writer in (one, two):
            writer.require_whole()
        assert [pair.role(host)["role"] for host in AGENTS] == ["active", "active"]


def back_up(pair: Pair) -> None:
    """Make calls, and then the page's backups."""
    for host in AGENTS:
        with writing(pair, host, f"kept-{host}") as writer:
            writer.require_whole()
    for command in BACKUPS:
        done = pair.run(command)
        assert done.status == 0, done.out + done.err


def test_backups_are_made_with_standbys_and_not_restored(pair: Pair) -> None:
    """The log would not have them; the refusal says how they are restored."""
    back_up(pair)
    for command in (*RESTORES, "docker compose run --rm -T archive restore - --replace < before.mainpc.backup"):
        refused = pair.run(command)
        assert refused.status != 0
        assert re.search(r"make leave-ha\b.*\bmake up-ha", refused.err), (command, refused.err)


def leave(pair: Pair) -> None:
    """Make calls, and go back to one process of each agent, which has all of them."""
    with writing(pair, "mainpc", "left-mainpc") as registry, writing(pair, "pc2", "left-pc2") as memory:
        for writer in (registry, memory):
            writer.end()
        stored = {host: pair.tables(host) for host in AGENTS}
        done = pair.run("scripts/setup/leave_ha.sh")
        assert done.status == 0, done.out + done.err
        for host, writer in (("mainpc", registry), ("pc2", memory)):
            assert check(writer.path, pair.calls(host, f"left-{host}-")).whole
            assert pair.role(host) == {}
            assert pair.container(host).attrs["Config"]["Image"] == IMAGE
        left = {host: pair.tables(host) for host in AGENTS}
        changed = {name for name in stored["pc2"] if stored["pc2"][name] != left["pc2"].get(name)}
        assert changed <= {"log_position", "sqlite_sequence", "followed_files"}  # a copy of the keys
        lacking = {name: rows - left["mainpc"].get(name, Counter()) for name, rows in stored["mainpc"].items()}
        assert {name for name, rows in lacking.items() if rows} <= CHANGED_BY_ITSELF
        assert lacking["agents"].total() <= len(AGENTS)
        assert lacking["followed_files"].total() <= 1  # the file of when each key was last used


def test_agents_go_on_alone_with_all_that_was_stored(pair: Pair) -> None:
    """After `make leave-ha`, nothing of the standbys and of the database is left but the keys."""
    leave(pair)
    assert pair.lines == [f"{name}={value}" for name, value in pair.variables.items()]
    services = pair.run("docker compose ps --all --format '{{.Service}}'").out.split()
    assert sorted(services) == ["certs-init", *AGENTS]
    volumes = pair.run(f"docker volume ls --quiet --filter name={pair.variables['COMPOSE_PROJECT_NAME']}_").out.split()
    kept = {"certificates", "database-certificates", "mainpc-state", "pc2-state"}
    assert {volume.partition("_")[2] for volume in volumes} == kept
