"""mainpc, pc2 and a witness, an engine each: standbys by three commands of their page, and the end of a machine.

At last the same as a Docker Swarm, by its page.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import docker
import pytest

from tests.containers.stack import AGENTS, EVENTS_PORT, HTTP_PORTS, IMAGE, REPOSITORY, ZMQ_PORTS
from tests.containers.test_failover import CALLS, CHANGED_BY_ITSELF, DIGESTS, ROWS
from tests.containers.walk import TWO_MACHINES
from tests.ledger import check
from tests.two_hosts.machine_room import WITH_WITNESS, MachineRoom, why_no_overlay, why_not
from tests.two_hosts.site import Site
from tests.two_hosts.test_two_hosts_in_a_swarm import WITH_STANDBYS
from tests.waiting import PATIENCE_S, wait_until
from twinhost.store.replication.epochs import CLAIM_AFTER_S

PAGE = (REPOSITORY / "docs/how-to/run-with-standbys.md").read_text(encoding="utf-8")
KEYS_PAGE = (REPOSITORY / "docs/how-to/manage-keys.md").read_text(encoding="utf-8")
IMAGES = (IMAGE, f"{IMAGE}-ha", "twinhost-database:0.2.0")
SWARM, BACK_TO_COMPOSE = WITH_STANDBYS.split("To go back to Compose:\n")
BEFORE = 20  # calls that are acknowledged
GOES_ON_WITHIN_S = 60.0  # 20 s are promised on an idle machine
BACK_WITHIN_S = 120.0
STANDBYS = {"mainpc": "pc2", "pc2": "mainpc"}  # where each agent's is
PARTS = {
    **{host: {host, f"{other}-standby", f"database-{host}"} for host, other in STANDBYS.items()},
    "witness": {"witness"},
}
DATABASES = {"database-mainpc", "database-pc2", "witness"}
DATABASE_PORT = 5432

pytestmark = [pytest.mark.sdt_security, pytest.mark.unified_memory_agent, pytest.mark.timeout(900)]


def section(title: str) -> str:
    """Return what the page says under a title."""
    (text,) = re.findall(rf"## {title}\n(.*?)\n## ", PAGE, re.S)
    return str(text)


class Three(Site):
    """The machines after the steps of both pages; the images are there, so nothing is built."""

    def __init__(self, room: MachineRoom, folder: Path) -> None:
        super().__init__(room, folder)
        self.ledgers = folder
        self.before: dict[str, dict[str, Counter[str]]] = {}  # the rows of each agent's tables without standbys
        engines = []
        for host, checkout in self.checkouts.items():
            (checkout.folder / "scripts/setup/image.sh").write_text("#!/bin/sh\n")
            engines.append(f"{host}) DOCKER_HOST={room.machines[host].docker_host} ;;")
        self.ssh = (
            f"ssh() {{ host=$1; shift; (case $host in {' '.join(engines)} esac; export DOCKER_HOST; "
            f'unset COMPOSE_PROJECT_NAME; cd "{folder}/$host" && eval "$*"); }}'
        )

    def follow(self) -> None:
        """Follow the page on two machines, and then, with data of before, that on three."""
        self.begin_without_standbys()
        page = section("Set it up on three machines")
        (start, lines) = re.findall(r"(.*?)```\n(TWINHOST_HOST=.*?)```", page, re.S)[0]
        assert "```" not in start
        shown = dict(line.split("#")[0].strip().split("=") for line in lines.splitlines())
        assert {shown[f"{host.upper()}_IP"] for host in WITH_WITNESS} == set(WITH_WITNESS.values())
        for host, checkout in self.checkouts.items():
            checkout.set({**shown, "TWINHOST_HOST": host, "TWINHOST_PUBLISH_ADDRESS": WITH_WITNESS[host]})
        self.checkouts["mainpc"].run(self.ssh)
        self.walk.follow(page)

    def begin_without_standbys(self) -> None:
        """Follow the page on two machines, and store something."""
        self.walk.follow(TWO_MACHINES)
        self.wait_until_back()
        with writing(self, "mainpc") as writers:
            for writer in writers:
                writer.wait_for_more(PATIENCE_S)
        self.before = {host: self._tables(host) for host in AGENTS}

    def require_all_of_before(self) -> None:
        """Fail unless each agent has each row that it had without standbys, but for those that change by themselves."""
        for host, tables in self.before.items():
            now = self._tables(host)
            lacking = {name: rows - now.get(name, Counter()) for name, rows in tables.items()}
            assert {name for name, rows in lacking.items() if rows} <= CHANGED_BY_ITSELF, host

    def container(self, machine: str, service: str) -> str:
        """Return a service's container, of Compose or of a stack; empty where none runs."""
        name = f"name=^twinhost[-_]{service}[-.]1"
        return self.room.machines[machine].docker("ps", "--quiet", "--filter", name).stdout.strip()

    def role(self, machine: str, service: str) -> dict[str, object]:
        """Return what an agent's process says of its part; nothing while it doesn't answer."""
        port = HTTP_PORTS[service.removesuffix("-standby")]
        url = f"http://127.0.0.1:{port}/healthz"
        look = f"import urllib.request as u; print(u.urlopen('{url}', timeout=2).read().decode())"
        command = ["exec", self.container(machine, service), "python", "-c", look]
        done = self.room.machines[machine].docker(*command, check=False)
        with suppress(ValueError):
            return dict(json.loads(done.stdout).get("log", {}))
        return {}

    def calls(self, machine: str, service: str, prefix: str) -> dict[str, int]:
        """Return how often the calls of a ledger took effect, as the file of one process has it."""
        host = service.removesuffix("-standby")
        path = f"/var/lib/twinhost/{AGENTS[host]}.sqlite3"
        command = ["exec", self.container(machine, service), "python", "-c", ROWS, path, CALLS[host]]
        rows = json.loads(self.room.machines[machine].docker(*command).stdout)
        return {name: int(times) for name, times in rows if name.startswith(f"{prefix}-")}

    def _tables(self, host: str) -> dict[str, Counter[str]]:
        """Return the digest of each row of each table of an agent's file, on its own machine."""
        path = f"/var/lib/twinhost/{AGENTS[host]}.sqlite3"
        command = ["exec", self.container(host, host), "python", "-c", DIGESTS, path]
        found = json.loads(self.room.machines[host].docker(*command).stdout)
        return {name: Counter(rows) for name, rows in found.items()}

    def both_follow(self) -> bool:
        """Return whether each agent is active on one machine, and followed on the other."""
        for host, other in STANDBYS.items():
            roles = {self.role(host, host).get("role"), self.role(other, f"{host}-standby").get("role")}
            if roles != {"active", "standby"}:
                return False
        return True

    def active(self) -> dict[str, object]:
        """Return what the active process of mainpc's agent says, wherever that is."""
        roles = [self.role("mainpc", "mainpc"), self.role("pc2", "mainpc-standby")]
        return next((role for role in roles if role.get("role") == "active"), {})

    def wait_for_witness(self, name: str = "witness") -> None:
        """Wait until mainpc's agent says that the witness answers; it says nothing before it has asked it."""
        well = {"name": name, "answers": True}
        wait_until(lambda: self.active().get("witness") == well, BACK_WITHIN_S, "the witness answers")

    def takes_writes(self, host: str) -> bool:
        """Return whether a machine's database is the one that takes writes."""
        ask = ["psql", "-XqAt", "-c", "SELECT pg_is_in_recovery()", "twinhost"]
        done = self.room.machines[host].docker("exec", self.container(host, f"database-{host}"), *ask, check=False)
        return done.stdout.strip() == "f"

    def copies(self) -> object:
        """Return how many databases have each change of mainpc's agent."""
        return self.active().get("copies")

    def power_off(self, host: str) -> None:
        """End every process of a machine at once, without a word to the others."""
        machine = self.room.machines[host]
        machine.enter("ip", "link", "set", machine.interface, "down")
        machine.docker("kill", *machine.docker("ps", "--quiet").stdout.split())

    def power_on(self, host: str) -> None:
        machine = self.room.machines[host]
        machine.enter("ip", "link", "set", machine.interface, "up")
        assert self.checkouts[host].run("make up-ha").status == 0


class Writer:
    """A client on one machine that writes to one agent, at both of its addresses."""

    def __init__(self, three: Three, machine: str, host: str) -> None:
        self.three, self.host, self.prefix = three, host, f"at-{machine}-{host}"
        self.path = three.ledgers / f"{self.prefix}.ledger"
        addresses = [f"tcp://{WITH_WITNESS[at]}:{ZMQ_PORTS[host]}" for at in (host, STANDBYS[host])]
        command = [sys.executable, "-m", "tests.loopback.ledger_writer", AGENTS[host], str(self.path), self.prefix]
        self._process = subprocess.Popen(
            three.room.machines[machine].command([*command, *addresses]),
            cwd=REPOSITORY,
            env={
                **os.environ,
                "PYTHONPATH": f"services{os.pathsep}.",
                "TWINHOST_CERTIFICATES": str(three.keys()),
                "NETWORK_CONFIG_PATH": str(three.checkouts["mainpc"].folder / "config/network_config.yaml"),
            },
        )

    def acknowledged(self) -> int:
        return self.path.read_text().count('"acknowledged"') if self.path.exists() else 0

    def wait_for_more(self, deadline_s: float) -> None:
        goal = self.acknowledged() + BEFORE
        wait_until(lambda: self.acknowledged() >= goal, deadline_s, f"calls of {self.host} are acknowledged")

    def end(self) -> None:
        self._process.kill()
        self._process.wait()

    def found(self, at: tuple[str, str]) -> dict[str, int]:
        machine, service = at
        return self.three.calls(machine, service, self.prefix)

    def require_whole(self) -> None:
        """Compare the ledger with both files, once the one that follows has all of it."""
        places = ((self.host, self.host), (STANDBYS[self.host], f"{self.host}-standby"))
        wait_until(lambda: len({str(self.found(at)) for at in places}) == 1, PATIENCE_S, "both have the same")
        verdict = check(self.path, self.found(places[0]))
        assert verdict.whole, verdict
        assert verdict.acknowledged > BEFORE


@contextmanager
def writing(three: Three, machine: str) -> Iterator[list[Writer]]:
    writers = [Writer(three, machine, host) for host in AGENTS]
    try:
        yield writers
    finally:
        for writer in writers:
            writer.end()


@pytest.fixture(scope="module")
def three(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    if reason := why_not():
        pytest.skip(reason)
    with closing(MachineRoom(tmp_path_factory.mktemp("three"), WITH_WITNESS)) as room:
        room.open(*IMAGES)
        three = Three(room, tmp_path_factory.mktemp("site"))
        three.follow()
        yield three


def test_three_commands_set_it_up(three: Three) -> None:
    """Each machine has its part, both agents a standby, each change two copies; what was stored before is there."""
    wait_until(three.both_follow, BACK_WITHIN_S, "both agents have a standby")
    for host, services in PARTS.items():
        running = three.room.machines[host].docker("ps", "--format", "{{.Names}}").stdout.split()
        assert set(running) == {f"twinhost-{service}-1" for service in services}
    assert [three.role(host, host)["role"] for host in AGENTS] == ["active", "active"]
    wait_until(lambda: three.copies() == 2, PATIENCE_S, "two copies")
    three.wait_for_witness()
    three.require_all_of_before()


def test_only_secured_ports_are_published(three: Three) -> None:
    """On the machine's address: a standby has its agent's numbers there; HTTP stays on loopback."""
    of_mainpc, of_pc2 = {ZMQ_PORTS["mainpc"], EVENTS_PORT}, {ZMQ_PORTS["pc2"]}
    both = of_mainpc | of_pc2 | {DATABASE_PORT}
    for host, expected in {"mainpc": both, "pc2": both, "witness": {DATABASE_PORT}}.items():
        found = re.findall(r"LISTEN\s+\d+\s+\d+\s+(\S+):(\d+)", three.room.machines[host].enter("ss", "-tlnH"))
        assert {int(port) for address, port in found if address == WITH_WITNESS[host]} == expected
        assert {address for address, _ in found} <= {WITH_WITNESS[host], "127.0.0.1", "127.0.0.11", "[::1]"}


def test_each_machine_has_the_secrets_of_its_part(three: Three) -> None:
    """The CA's key stays on mainpc; an agent's is where it may be active, once."""
    expected = {
        "mainpc": {"ca/ca.key", "database-mainpc/node.key", "mainpc/agent.key"},
        "pc2": {"database-pc2/node.key", "pc2/agent.key"},
        "witness": {"witness/node.key"},
    }
    copies = {"database-pc2/node.key", "pc2/agent.key", "witness/node.key"}  # mainpc's, which made them
    for host, machine in three.room.machines.items():
        folder = machine.volumes / "twinhost_database-certificates/_data"
        found = {str(path.relative_to(folder)) for path in folder.rglob("*.key")}
        assert found == expected[host] | (copies if host == "mainpc" else set())
        secrets = [path.parent.name for path in machine.volumes.rglob("*.key_secret")]
        agents = [] if host == "witness" else ["mainpc", "pc2"]
        assert sorted(secrets) == sorted([*agents, "operator"] if host == "mainpc" else agents)


def test_keys_of_another_database_are_refused(three: Three) -> None:
    """What a machine has is not overwritten; the same keys again change nothing."""
    again = three.checkouts["mainpc"].run("make -s ha-keys FOR=witness | ssh witness make -C twinhost/ join-ha")
    assert again.status == 0, again.err
    given = three.checkouts["mainpc"].run("make -s ha-keys FOR=witness").out
    other = subprocess.check_output(["base64", "--decode"], input=given.split()[1].encode()).decode()
    tampered = json.loads(other)
    tampered["witness"]["node.key"] = "another"
    take = "docker compose run --rm -T --no-deps database-keys keys take"
    refused = three.checkouts["witness"].run(take, json.dumps(tampered))
    assert refused.status != 0
    assert "other keys of witness" in refused.err
    assert three.checkouts["witness"].run(take, other).out == ""


def require_that_the_other_goes_on(three: Three, host: str, off: Callable[[], None], on: Callable[[], None]) -> None:
    """Have a client at the other machine; both have all that was acknowledged, once, after the first one is back."""
    other = STANDBYS[host]
    with writing(three, other) as writers:
        for writer in writers:
            writer.wait_for_more(PATIENCE_S)
        began = time.monotonic()
        off()
        for writer in writers:
            writer.wait_for_more(GOES_ON_WITHIN_S)
            print(f"{host} off: {BEFORE} calls of {writer.host} acknowledged after {time.monotonic() - began:.1f} s")
        assert three.role(other, f"{host}-standby")["role"] == "active"
        on()
        wait_until(three.both_follow, BACK_WITHIN_S, "both agents have a standby again")
        wait_until(lambda: three.copies() == 2, BACK_WITHIN_S, "each change is on both databases again")
        for writer in writers:
            writer.wait_for_more(PATIENCE_S)
            writer.end()
            writer.require_whole()


@pytest.mark.parametrize("host", list(STANDBYS))
def test_a_client_goes_on_when_a_machine_is_off(host: str, three: Three) -> None:
    require_that_the_other_goes_on(three, host, lambda: three.power_off(host), lambda: three.power_on(host))


def test_an_operator_of_pc2_changes_keys_while_mainpc_is_off(three: Three) -> None:
    """With a key that the page has them make before; mainpc knows of it once it is back."""
    bring_home(three)
    for needed in (r"certs-init\(\) {", "operator2"):
        three.walk.follow(re.findall(rf"```console\n[^`]*{needed}[^`]*```", KEYS_PAGE)[0])
    pc2 = three.checkouts["pc2"]
    three.power_off("mainpc")
    wait_until(lambda: three.role("pc2", "mainpc-standby").get("role") == "active", BACK_WITHIN_S, "it takes over")
    for own in ("pc2", "operator2"):
        status = " ".join(pc2.run(f"TWINHOST_CLI_KEYS={own} ./twinhost status").out.split())
        assert "SystemDigitalTwin is active on mainpc-standby" in status, status
    invited = pc2.run("certs-init invite guest --host laptop --role agent")
    assert invited.status == 0, invited.err
    joined = pc2.run("certs-init --root /tmp/tree join -", given=invited.out)
    assert joined.status == 0, joined.err
    keys = "TWINHOST_CLI_KEYS=operator2 docker compose run --rm -T --no-deps cli keys list --json"
    with_guest = json.loads(pc2.run(keys).out)
    assert "guest" in {key["name"] for key in with_guest["keys"]}
    revoked = pc2.run("certs-init revoke guest")
    assert revoked.status == 0, revoked.err
    three.power_on("mainpc")
    wait_until(three.both_follow, BACK_WITHIN_S, "both agents have a standby")
    bring_home(three)
    (fingerprint,) = {key["fingerprint"] for key in with_guest["keys"] if key["name"] == "guest"}
    listed = three.ask("mainpc", "keys list")
    assert all(fingerprint in revoked for revoked in listed["revoked"].values()), listed
    assert "guest" not in {key["name"] for key in listed["keys"]}


def test_one_machine_alone_does_not_leave(three: Three) -> None:
    """The standby on the other one takes over meanwhile, and each would be the agent."""
    bring_home(three)
    before = (three.checkouts["mainpc"].folder / ".env").read_text()
    left = three.checkouts["mainpc"].run("make leave-ha")
    assert left.status != 0
    assert "docker compose stop mainpc-standby" in left.err
    assert (three.checkouts["mainpc"].folder / ".env").read_text() == before
    wait_until(three.both_follow, BACK_WITHIN_S, "both agents have a standby")
    wait_until(lambda: three.copies() == 2, BACK_WITHIN_S, "each change is on both databases")


def test_all_machines_leave_and_come_back(three: Three) -> None:
    """By the page's commands; a standby that is started again meanwhile does not become active."""
    leave_and_come_back(three)


def bring_home(three: Three) -> None:
    """Have each agent be active on its own machine."""
    for host in AGENTS:
        if three.role(host, host)["role"] != "active":
            assert three.checkouts[host].run(f"./twinhost switchover {host}").status == 0
    wait_until(three.both_follow, BACK_WITHIN_S, "both agents have a standby")


def leave_and_come_back(three: Three) -> None:
    bring_home(three)
    with writing(three, "mainpc") as writers:
        for writer in writers:
            writer.wait_for_more(PATIENCE_S)
    (leave,) = re.findall(r"## Go back\n.*?(```console\nmainpc.*?```)", PAGE, re.S)
    if "witness" not in three.room.machines:
        leave = re.sub(r"mainpc\$ ssh witness.*\n", "", leave)
    first, later = leave.split("mainpc$ make leave-ha")
    three.walk.follow(first + "```")
    assert three.checkouts["mainpc"].run("docker compose start pc2-standby").status == 0
    wait_until(lambda: three.role("mainpc", "pc2-standby").get("role"), BACK_WITHIN_S, "it runs")
    time.sleep(3 * CLAIM_AFTER_S)
    assert three.role("mainpc", "pc2-standby")["role"] == "standby"
    assert three.role("pc2", "pc2") == {}
    three.walk.follow("```console\nmainpc$ make leave-ha" + later)
    three.wait_until_back()
    for host, machine in three.room.machines.items():
        running = machine.docker("ps", "--format", "{{.Names}}").stdout.split()
        assert running == ([] if host == "witness" else [f"twinhost-{host}-1"])
    for writer in writers:
        assert check(writer.path, writer.found((writer.host, writer.host))).whole
    for host in sorted(three.checkouts, key=["witness", "mainpc", "pc2"].index):
        assert three.checkouts[host].run("make up-ha").status == 0
    wait_until(three.both_follow, BACK_WITHIN_S, "both agents have a standby")
    wait_until(lambda: three.copies() == 2, BACK_WITHIN_S, "each change is on both databases")
    for writer in writers:
        writer.require_whole()


def test_a_machine_whose_disk_was_lost_comes_back(three: Three) -> None:
    """By the page's commands, with a copy of its keys alone."""
    copy, restore = re.findall(r"```console\n.*?```", section("A lost disk"), re.S)
    three.walk.follow(copy)

    def on() -> None:
        machine = three.room.machines["pc2"]
        machine.enter("ip", "link", "set", machine.interface, "up")
        three.checkouts["pc2"].remove()
        three.walk.follow(restore)

    require_that_the_other_goes_on(three, "pc2", lambda: three.power_off("pc2"), on)


def test_a_new_witness_takes_the_place_of_a_lost_one(three: Three) -> None:
    """By the page's commands; then a client goes on when a machine is off, as before."""
    bring_home(three)
    if not three.takes_writes("mainpc"):
        assert three.checkouts["witness"].run("docker compose exec witness pg_autoctl perform switchover").status == 0
        wait_until(lambda: three.takes_writes("mainpc"), BACK_WITHIN_S, "mainpc's database takes writes")
        wait_until(lambda: three.copies() == 2, BACK_WITHIN_S, "each change is on both databases")
    three.checkouts["witness"].remove()
    three.walk.follow(section("A lost witness"))
    wait_until(lambda: three.copies() == 2, BACK_WITHIN_S, "each change is on both databases")
    three.wait_for_witness()
    require_that_the_other_goes_on(three, "mainpc", lambda: three.power_off("mainpc"), lambda: three.power_on("mainpc"))


@pytest.fixture(scope="module")
def swarm(three: Three) -> Three:
    """The same machines and what they have stored, as nodes of a swarm; it ends with their room."""
    if reason := why_no_overlay(three.room.machines["mainpc"]):
        pytest.skip(reason)
    three.walk.follow(SWARM)
    wait_until(three.both_follow, BACK_WITHIN_S, "both agents have a standby")
    wait_until(lambda: three.copies() == 2, BACK_WITHIN_S, "each change is on both databases")
    return three


def test_a_stack_has_the_standbys(swarm: Three) -> None:
    """Each node has its part, which the engine holds in as without standbys, and no port of the database."""
    for host, services in PARTS.items():
        machine = swarm.room.machines[host]
        running = machine.docker("ps", "--format", "{{.Names}}").stdout.split()
        assert {name.split(".")[0] for name in running} == {f"twinhost_{service}" for service in services}
        ports = {int(port) for port in re.findall(r"LISTEN\s+\d+\s+\d+\s+\S+:(\d+)", machine.enter("ss", "-tlnH"))}
        assert DATABASE_PORT not in ports
        agents = {ZMQ_PORTS["mainpc"], EVENTS_PORT, ZMQ_PORTS["pc2"]}
        assert ports & agents == (set() if host == "witness" else agents)
        database = swarm.container(host, next(service for service in services if service in DATABASES))
        held = machine.docker("exec", database, "sh", "-c", "ulimit -c; grep ' /run/postgresql ' /proc/mounts").stdout
        assert re.match(
            r"0\ntmpfs /run/postgresql tmpfs rw,nosuid,nodev,noexec,\S*size=1024k,mode=700,uid=10001,gid=10001 ", held
        ), held
    swarm.wait_for_witness()


@pytest.mark.parametrize("host", list(STANDBYS))
def test_a_client_goes_on_when_a_node_is_off(host: str, swarm: Three) -> None:
    """The swarm starts again by itself what runs on the node, once its engine runs."""
    machine = swarm.room.machines[host]

    def off() -> None:
        swarm.power_off(host)
        machine.stop_engine()

    def on() -> None:
        machine.enter("ip", "link", "set", machine.interface, "up")
        machine.start_engine()

    require_that_the_other_goes_on(swarm, host, off, on)


@pytest.mark.parametrize("host", list(STANDBYS))
def test_a_process_of_a_stack_hands_over(host: str, swarm: Three) -> None:
    """By the page's command, for the one that is active now."""
    places = {host: host, f"{host}-standby": STANDBYS[host]}
    roles = {service: swarm.role(machine, service)["role"] for service, machine in places.items()}
    ((active,), (other,)) = ([name for name in roles if roles[name] == role] for role in ("active", "standby"))
    (command,) = re.findall(r"docker service update --force \S+-standby", SWARM)
    done = swarm.checkouts["mainpc"].run(command.replace("mainpc-standby", active))
    assert done.status == 0, done.err
    wait_until(lambda: swarm.role(places[other], other).get("role") == "active", BACK_WITHIN_S, "it is active")
    wait_until(swarm.both_follow, BACK_WITHIN_S, "both agents have a standby")


def test_the_machines_go_back_to_compose(swarm: Three) -> None:
    """Which starts the same parts, on the same volumes."""
    swarm.walk.follow(BACK_TO_COMPOSE)
    wait_until(swarm.both_follow, BACK_WITHIN_S, "both agents have a standby")
    wait_until(lambda: swarm.copies() == 2, BACK_WITHIN_S, "each change is on both databases")
    for host, services in PARTS.items():
        running = swarm.room.machines[host].docker("ps", "--format", "{{.Names}}").stdout.split()
        assert set(running) == {f"twinhost-{service}-1" for service in services}
