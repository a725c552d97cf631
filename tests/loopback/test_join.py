"""`twinhost join`: from an invitation to the first call, with no file of the checkout and an empty home folder."""

import asyncio
import json
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import twinhost
from tests.identities import authorize, host_folder, new_pair
from tests.loopback.agent_processes import SDT, UMRA, Hosts
from tests.loopback.test_rotation_of_pins import lives
from tests.ports import free_ports
from tests.unit.certificates.trees import certs_init, files
from tests.unit.cli.running import SERVICES, run_process
from tests.waiting import PATIENCE_S, REFUSAL_S, at_most, wait_until
from twinhost.certificates import profile as profile_module
from twinhost.certificates.bundle import parse_invitation, token_pair
from twinhost.cli.program import run
from twinhost.network_config import load_network_config
from twinhost.secure_zmq.certificates import load_certificates
from twinhost.secure_zmq.key_writer import replace_certificate, write_certificate
from twinhost.secure_zmq.wire import Reply


@dataclass(frozen=True)
class Ran:
    """A command that ended."""

    status: int
    out: str
    err: str


@dataclass
class Laptop:
    """A machine that has the wheel and nothing else: an empty configuration folder, and mainpc's people to ask."""

    hosts: Hosts
    config: Path
    capsys: pytest.CaptureFixture[str]

    @property
    def folder(self) -> Path:
        """The default profile's."""
        return self.config / "twinhost"

    def run(self, *words: str) -> Ran:
        """Run `twinhost WORDS`."""
        self.capsys.readouterr()
        status = run(words)
        return Ran(status, *self.capsys.readouterr())

    def invite(self, name: str, *roles: str, dsn: str = "") -> str:
        """Return the line of an invitation that mainpc knows of; `dsn` is that of its log, if it has a standby."""
        words = ["invite", name, "--host", "laptop", *(f"--role={role}" for role in roles or ("agent",))]
        settings = {"TWINHOST_DATABASE": dsn}
        ran = certs_init(self.hosts.keys, *words, config=self.hosts.config.source, settings=settings)
        assert ran.status == 0, ran.err
        (server,) = [process for process in self.hosts.processes if process.logged("peer_authorized")][:1]
        token = parse_invitation(ran.out).token.public.fingerprint
        known = server.logged
        wait_until(
            lambda: any(entry["fingerprint"] == token for entry in known("peer_authorized")), PATIENCE_S, "it is known"
        )
        return ran.out.strip()

    def join(self, name: str, *options: str) -> Ran:
        """Join by a new invitation, which must succeed."""
        ran = self.run(*options, "join", self.invite(name))
        assert ran.status == 0, ran.err
        return ran


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Both agents as processes."""
    with Hosts(tmp_path_factory.mktemp("hosts")) as both:
        both.start_both()
        yield both


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty configuration folder, and no checkout around the package; return the folder."""
    monkeypatch.setattr("twinhost.network_config.load.DEFAULT_PATH", tmp_path / "lib/config/network_config.yaml")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TWINHOST_PROFILE", "")  # a command that is given --profile sets it
    for name in ("TWINHOST_CERTIFICATES", "NETWORK_CONFIG_PATH", "SECURE_ZMQ", "MAINPC_IP", "PC2_IP"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


@pytest.fixture
def laptop(hosts: Hosts, nowhere: Path, capsys: pytest.CaptureFixture[str]) -> Laptop:
    return Laptop(hosts, nowhere, capsys)


def test_a_joined_program_calls_both_agents(laptop: Laptop) -> None:
    """One line in; `connect` finds key, pins and addresses, and nothing else of the line is kept."""
    ran = laptop.join("reader")
    assert ran.err == ""
    assert f"{SDT} answered at {laptop.hosts.config.agent(SDT).endpoint}" in ran.out
    assert f"{UMRA} answered at {laptop.hosts.config.agent(UMRA).endpoint}" in ran.out
    with twinhost.connect(name="reader") as deployment:
        assert deployment.system.call("ping")["message"] == "pong"
        stored = deployment.memory.call("store_memory", content="the kettle is blue")
        assert stored["status"] == "ok"
    with twinhost.connect(UMRA) as memory:
        found = memory.call("search_memory", query="kettle")["results"]
    assert [each["content"] for each in found] == ["the kettle is blue"]
    config = load_network_config()
    assert Path(config.source) == laptop.folder / "network_config.yaml"
    assert config.agent(SDT).events_port == laptop.hosts.config.agent(SDT).events_port


def test_the_secret_is_made_here_and_only_its_user_reads_it(laptop: Laptop) -> None:
    """Folder 0700, secret 0600, configuration 0600; neither the tree of mainpc nor its state has the secret."""
    line = laptop.invite("keeper")
    assert laptop.run("join", line).status == 0
    secret = load_certificates(laptop.folder).own_keys.secret_z85
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (laptop.folder, *laptop.folder.iterdir())}
    assert (modes["twinhost"], modes["keeper.key_secret"], modes["network_config.yaml"]) == (0o700, 0o600, 0o600)
    assert all(secret not in path.read_bytes() for path in laptop.hosts.root.rglob("*") if path.is_file())
    token = line.split("/")[-1].partition("?")[0].encode()
    assert all(token not in content for content in files(laptop.folder).values())


def test_asyncio_programs_connect_alike(laptop: Laptop) -> None:
    laptop.join("loops")

    async def ask() -> tuple[str, str]:
        async with twinhost.connect_async() as deployment, twinhost.connect_async(SDT) as system:
            ping = await deployment.memory.call("ping")
            return str(ping["status"]), str((await system.call("ping"))["message"])

    assert asyncio.run(ask()) == ("ok", "pong")


def test_status_works_for_a_program_and_is_quick(laptop: Laptop) -> None:
    """Exit status 0 with the role agent; the questions take a small part of 0.3 s, where the machine is not busy."""
    laptop.join("looker")

    def took_s() -> float:
        began = time.monotonic()
        ran = laptop.run("status")
        assert (ran.status, ran.err) == (0, "")
        assert f"{UMRA}" in ran.out
        return time.monotonic() - began

    assert any(took_s() < 0.3 for _ in range(10))


def test_joining_again_finishes_what_was_interrupted(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Enrolled, and killed before the addresses were written; the same line then gives the same key."""
    line = laptop.invite("again")
    with monkeypatch.context() as patched:
        patched.setattr(profile_module, "write_agents", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            profile_module.join_profile(laptop.folder, parse_invitation(line), may_replace=False)
    key = (laptop.folder / "again.key_secret").read_bytes()
    assert not (laptop.folder / "network_config.yaml").exists()
    ran = laptop.run("join", line)
    assert (ran.status, "again on laptop (agent) had joined already" in ran.out) == (0, True)
    assert (laptop.folder / "again.key_secret").read_bytes() == key
    with twinhost.connect() as deployment:
        deployment.memory.call("ping")


def test_profiles_are_separate_deployments(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the option before or after the command, by the argument, and by the variable; the default one has no key."""
    laptop.join("worker", "--profile", "work")
    assert (laptop.folder / "profiles/work/worker.key_secret").is_file()
    monkeypatch.setenv("TWINHOST_PROFILE", "")
    assert "asked as worker" in laptop.run("--profile=work", "status").out
    monkeypatch.setenv("TWINHOST_PROFILE", "")
    assert "asked as worker" in laptop.run("status", "--profile", "work").out
    monkeypatch.setenv("TWINHOST_PROFILE", "")
    with twinhost.connect(SDT, profile="work", name="worker") as system:
        assert system.call("ping")["message"] == "pong"
    with pytest.raises(twinhost.ConfigurationError, match="twinhost join LINE"):
        twinhost.connect(SDT)
    monkeypatch.setenv("TWINHOST_PROFILE", "work")
    with twinhost.connect(SDT) as system:
        assert system.call("ping")["message"] == "pong"


def test_a_missing_profile_names_the_command_that_makes_it(laptop: Laptop) -> None:
    laptop.join("default")  # which a mistyped profile must not lead to
    ran = laptop.run("--profile", "wrok", "status")
    assert (ran.status, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert "there is no profile 'wrok'; to make it, run: twinhost join --profile wrok --local" in ran.err
    with pytest.raises(twinhost.ConfigurationError, match="there is no profile 'wrok'"):
        twinhost.connect(profile="wrok")
    with pytest.raises(twinhost.ConfigurationError, match=r"the profile name '\.\./default' must have"):
        twinhost.connect(profile="../default")


def test_a_profile_holds_one_key(laptop: Laptop) -> None:
    """Another invitation is refused, and not used up; with --replace its key takes the place, whatever its name."""
    laptop.join("first")
    before = files(laptop.folder)
    line = laptop.invite("second")
    ran = laptop.run("join", line)
    assert (ran.status, ran.err.count("\n"), files(laptop.folder)) == (1, 1, before)
    assert "first.key_secret exists already, and a profile holds one key" in ran.err
    assert "twinhost join --profile NAME LINE; to replace it: twinhost join --replace LINE" in ran.err
    assert laptop.run("join", "--replace", line).status == 0
    assert load_certificates(laptop.folder).own_keys.certificate.owner.name == "second"


def mistyped(line: str) -> str:
    return replace(parse_invitation(line), token=token_pair(bytes(range(32)))).render()


def cut_off(line: str) -> str:
    return line.partition("?")[0]


def expired(line: str) -> str:
    return line.partition("?")[0] + "?expires=2026-01-01T00:00:00Z"


def of_another_server(line: str) -> str:
    return replace(parse_invitation(line), server_key=new_pair("other").public).render()


def on_a_closed_port(line: str) -> str:
    return replace(parse_invitation(line), authorities=(f"127.0.0.1:{free_ports(1)[0]}",)).render()


def at_an_unknown_name(line: str) -> str:
    return replace(parse_invitation(line), authorities=("mainpc.invalid:7120",)).render()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (mistyped, "it was used or withdrawn, it expired, or the line is mistyped"),
        (cut_off, "the invitation is cut off or mistyped at its end"),
        (expired, "the invitation expired 2026-01-01T00:00:00Z and this machine's clock says"),
        (of_another_server, "does not have the key that the line names, or broke the connection off; copy the whole"),
        (on_a_closed_port, "nothing answered at that address); check that it runs, or give the address at which this"),
        (at_an_unknown_name, "mainpc can't be reached (this machine knows no address of mainpc.invalid: "),
    ],
)
def test_a_line_that_is_no_good_is_one_sentence(
    laptop: Laptop, monkeypatch: pytest.MonkeyPatch, change: Callable[[str], str], complaint: str
) -> None:
    """At once, but for a port that nobody listens at; neither a key nor a folder is left."""
    monkeypatch.setattr("twinhost.certificates.join.DEADLINE_S", REFUSAL_S / 2)
    line = change(laptop.invite(change.__name__.replace("_", "-")))
    with at_most(REFUSAL_S):
        ran = laptop.run("join", line)
    assert (ran.status, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert complaint in ran.err
    assert not laptop.config.exists()


def test_without_the_extra_the_agents_are_asked_for_their_schema(laptop: Laptop, tmp_path: Path) -> None:
    """A laptop has the package alone: `call` and `explain` know the fields of the two agents there as well."""
    laptop.join("asker")
    folder = tmp_path / "missing"
    folder.mkdir()
    (folder / "psutil.py").write_text("raise ModuleNotFoundError(name='psutil')\n")
    settings = {"PYTHONPATH": f"{folder}:{SERVICES}"}
    explained = run_process(settings, "explain", UMRA, "store_memory", "--json")
    assert (explained.status, explained.err) == (0, "")
    assert "content" in explained.out
    called = run_process(settings, "call", UMRA, "search_memory", "query=kettle", "limit=1", "--json")
    assert (called.status, called.err) == (0, "")
    asked = {"_TWINHOST_COMPLETE": "complete_bash", "COMP_WORDS": f"twinhost call {UMRA} search_mem", "COMP_CWORD": "3"}
    assert run_process({**settings, **asked}).out == "search_memory\n"


def test_a_used_line_joins_no_second_profile(laptop: Laptop) -> None:
    line = laptop.invite("once")
    assert laptop.run("join", line).status == 0
    ran = laptop.run("--profile", "thief", "join", line)
    assert (ran.status, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert "it was used or withdrawn" in ran.err
    assert not (laptop.folder / "profiles").exists()


def test_a_folder_that_others_can_read_is_refused(laptop: Laptop) -> None:
    """The sentence has the command that protects it, after which the same line works."""
    laptop.folder.mkdir(parents=True)
    laptop.folder.chmod(0o755)
    line = laptop.invite("exposed")
    ran = laptop.run("join", line)
    assert (ran.status, ran.err.count("\n"), list(laptop.folder.iterdir())) == (1, 1, [])
    assert f"{laptop.folder} has mode 0755" in ran.err
    assert ran.err.endswith(f"run: chmod 700 {laptop.folder}\n")
    laptop.folder.chmod(0o700)
    assert laptop.run("join", line).status == 0


def test_another_address_of_mainpc_reaches_it(laptop: Laptop) -> None:
    """The line has a name that only containers resolve; the port stays that of the line unless it is given."""
    invitation = parse_invitation(laptop.invite("elsewhere"))
    port = invitation.authorities[0].rpartition(":")[2]
    line = replace(invitation, authorities=(f"mainpc.invalid:{port}",)).render()
    assert laptop.run("join", "--address", "127.0.0.1:0", line).status == 2
    assert laptop.run("join", "--address", "127.0.0.1", line).status == 0
    with twinhost.connect(SDT) as system:
        assert system.call("ping")["message"] == "pong"


def test_an_agent_at_mainpcs_address_is_found(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where both containers run on one machine: the registered name is one that only containers resolve."""
    ask = profile_module._ask

    def of_containers(*question: Any) -> Reply:
        reply = ask(*question)
        for agent in reply.get("agents", ()):
            agent["host"] = f"{agent['location']}.invalid"
        return reply

    monkeypatch.setattr(profile_module, "_ask", of_containers)
    ran = laptop.join("behind-mainpc")
    assert f"{UMRA} answered at {laptop.hosts.config.agent(UMRA).endpoint}" in ran.out
    with twinhost.connect() as deployment:
        assert deployment.memory.call("ping")["status"] == "ok"


def test_agents_are_found_at_the_ports_that_are_published(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a second stack on a machine: the line and the registrations have the ports within the containers."""
    ask = profile_module._ask

    def of_containers(*question: Any) -> Reply:
        reply = ask(*question)
        for agent in reply.get("agents", ()):
            events = agent["metadata"].get("events_port")
            moved = {"zmq": agent["port"], **({"events": events} if events else {})}
            inner: dict[str, Any] = {"events_port": 7150} if events else {}
            agent |= {
                "host": f"{agent['location']}.invalid",
                "port": 7120,
                "metadata": {**inner, "published_ports": moved},
            }
        return reply

    monkeypatch.setattr(profile_module, "_ask", of_containers)
    mainpc = laptop.hosts.config.agent(SDT)
    line = replace(parse_invitation(laptop.invite("outside")), authorities=("mainpc.invalid:7120",)).render()
    ran = laptop.run("join", "--address", f"127.0.0.1:{mainpc.zmq_port}", line)
    assert ran.status == 0, ran.err
    assert f"{UMRA} answered at {laptop.hosts.config.agent(UMRA).endpoint}" in ran.out
    assert load_network_config().agent(SDT).events_port == mainpc.events_port
    with twinhost.connect() as deployment:
        assert deployment.memory.call("ping")["status"] == "ok"


def test_an_agent_is_found_by_its_key_alone(laptop: Laptop) -> None:
    """Another agent that answers at the registered address does not pass for it; the join succeeds, and says so."""
    place = laptop.hosts.config.agent(UMRA)
    data = {"agent_id": "Greeter", "agent_type": "agent", "host": "127.0.0.1", "port": place.zmq_port}
    with laptop.hosts.client(SDT) as operator:
        operator.call("register_agent", registration_data={**data, "metadata": {"location": "pc3"}})
        ran = laptop.join("finder")
        operator.call("unregister", agent_name="Greeter")
    assert f"Greeter did not answer at {place.endpoint}; start it, or write the address" in ran.out
    assert f"{UMRA} answered at {place.endpoint}" in ran.out


@pytest.mark.parametrize(
    ("name", "host", "metadata"),
    [
        ("Aaa", "192.0.2.66", {"events_port": 70_000}),
        ("Aaa", "192.0.2.66", {"events_port": True}),
        ("Aaa", "192.0.2.66", {"published_ports": {"zmq": "7230", "events": 70_000}}),
        ("Aaa", "192.0.2.66", {"published_ports": [7230]}),
        ("Aaa", "a..", {}),
        ("my robot", "192.0.2.66", {}),
        ("Aaa", "192.0.2.66", {"location": "pc2"}),
        ("Aaa", "192.0.2.66", {"location": "mainpc"}),
        ("pc2", "192.0.2.66", {"location": "mainpc"}),
    ],
    ids=[
        "no-port",
        "no-number",
        "no-published-port",
        "no-published-ports",
        "no-address",
        "no-file-name",
        "at-pc2",
        "at-mainpc",
        "named-pc2",
    ],
)
def test_what_an_agent_registers_harms_no_profile(
    laptop: Laptop, request: pytest.FixtureRequest, name: str, host: str, metadata: dict[str, Any]
) -> None:
    """The profile can be read and refreshed, and the name of a host is that of its own agent."""
    data = {"agent_id": name, "agent_type": "agent", "host": host, "port": 7999, "metadata": metadata}
    with laptop.hosts.client(SDT) as operator:
        operator.call("register_agent", registration_data=data)
        try:
            laptop.join(f"beside-{request.node.callspec.id}")
            refreshed = laptop.run("join", "--refresh")
        finally:
            operator.call("unregister", agent_name=name)
    assert (refreshed.status, refreshed.err) == (0, "")
    config = load_network_config()
    on = {
        host: [agent.name for agent in config.agents.values() if agent.host.name == host] for host in ("mainpc", "pc2")
    }
    assert on == {"mainpc": [SDT], "pc2": [UMRA]}
    assert config.agent(UMRA).endpoint == laptop.hosts.config.agent(UMRA).endpoint


def test_refresh_finds_a_moved_agent_and_new_keys(laptop: Laptop) -> None:
    """The key stays; what was removed or is wrong here is fetched again."""
    laptop.join("mover")
    secret = (laptop.folder / "mover.key_secret").read_bytes()
    endpoints = laptop.folder / "endpoints.yaml"
    right, port = endpoints.read_text(), laptop.hosts.config.agent(UMRA).zmq_port
    endpoints.write_text(right.replace(str(port), str(free_ports(1)[0])))
    (laptop.folder / f"{UMRA}.key").unlink()
    ran = laptop.run("join", "--refresh", "--json")
    assert (ran.status, endpoints.read_text()) == (0, right)
    report = json.loads(ran.out)
    assert (report["name"], report["folder"]) == ("mover", str(laptop.folder))
    assert {agent["name"]: agent["answered"] for agent in report["agents"]} == {SDT: True, UMRA: True}
    assert (laptop.folder / f"{UMRA}.key").is_file()
    assert (laptop.folder / "mover.key_secret").read_bytes() == secret


def test_another_key_of_mainpc_is_trusted_from_a_file_alone(laptop: Laptop) -> None:
    """After a rotation no answer of the network replaces the pin; the printed public key does."""
    laptop.join("pinned")
    pin, right = laptop.folder / "server.key", (laptop.folder / "server.key").read_text()
    replace_certificate(new_pair(SDT, "mainpc").certificate, pin)
    before = pin.read_bytes()
    ran = laptop.run("join", "--refresh")
    assert (ran.status, ran.err.count("\n"), pin.read_bytes()) == (1, 1, before)
    assert f"does not have the key in {pin}; " in ran.err
    assert "docker compose run --rm -T certs-init public server" in ran.err
    printed = certs_init(laptop.hosts.keys, "public", "server", config=laptop.hosts.config.source).out
    assert printed == right
    pin.write_text(printed)
    assert laptop.run("join", "--refresh").status == 0


def test_a_long_lived_client_survives_the_agents_rotation(nowhere: Path, tmp_path: Path) -> None:
    """The next key is put into the profile, the agent changes to it, and the client that was open before calls on."""
    own, first, following = new_pair("program", "laptop"), new_pair(SDT, "mainpc"), new_pair(SDT, "mainpc")
    home = tmp_path / "mainpc"
    home.mkdir()
    authorize(home, own)
    nowhere.mkdir()
    folder = host_folder(nowhere / "twinhost", "program", own, server=first)
    with lives(home, first) as life:
        host, _, port = life(None).address.removeprefix("tcp://").rpartition(":")
        agents = {SDT: {"host": "mainpc", "key": "server", "ports": {"zmq": int(port), "http": 1}}}
        document = {"hosts": {"mainpc": {"address": host.strip("[]")}}, "agents": agents}
        (folder / "network_config.yaml").write_text(profile_module._yaml(document) + profile_module._UNUSED)
        with twinhost.connect(SDT) as client:
            assert client.call("who_am_i")["name"] == "program"
            write_certificate(following.certificate, folder / "server.next.key")
            life(following)
            assert client.call("who_am_i", deadline_s=PATIENCE_S)["name"] == "program"
            (folder / "server.next.key").unlink()
            replace_certificate(following.certificate, folder / "server.key")
            life(new_pair(SDT, "mainpc"))  # a key that no file names is not the agent's
            with pytest.raises(twinhost.WrongServerKey):
                client.call("who_am_i", deadline_s=PATIENCE_S)
