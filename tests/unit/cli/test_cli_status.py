"""`status`: what a person wants to see next, and an exit status that shows a program whether all is well."""

import json
import threading
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from tests.identities import new_pair
from tests.ports import free_ports
from tests.unit.cli.loopback_agents import SDT, UMRA, TwoHosts
from tests.unit.cli.running import Cli, run_on_terminal
from tests.waiting import PATIENCE_S, at_most, wait_until
from twinhost.agent.health import Health
from twinhost.agent.host_metrics import GpuSample, HostSample
from twinhost.agent.troubles import AttentionList, Kind, list_of
from twinhost.cli import status
from twinhost.cli.output import read
from twinhost.clients.system_replies import (
    HealthDocument,
    RoleDocument,
    StandbyDocument,
    UseDocument,
    WitnessDocument,
)
from twinhost.deployment import load_settings
from twinhost.moments import iso_time
from twinhost.secure_zmq.certificates import load_certificates
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import NotAuthorized
from twinhost.secure_zmq.key_writer import write_certificate
from twinhost.secure_zmq.server_address import SecuredAddress

pytestmark = pytest.mark.thorough

QUESTIONS = 3  # that mainpc is asked in one look


def rows_of(out: str, title: str) -> list[str]:
    """Return the lines of the table with a title, without its header."""
    lines = out.split("\n")
    start = next(number for number, line in enumerate(lines) if line.startswith(title))
    end = lines.index("", start)
    return lines[start + 2 : end]


def test_status_of_a_well_system_exits_0_and_names_everything(hosts: TwoHosts, cli: Cli) -> None:
    """Both agents with health, the link, who authenticated under which name, and the registered agents."""
    ran = cli(hosts, "status")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith("All is well.\n\nLink encrypted and authenticated with CURVE, asked as operator\n")
    assert [row.split()[:4] for row in rows_of(ran.out, "Agents")] == [
        [SDT, "mainpc", f"127.0.0.1:{hosts.mainpc.port}", "ok"],
        [UMRA, "pc2", f"127.0.0.1:{hosts.pc2.port}", "ok"],
    ]
    (registered,) = rows_of(ran.out, "Registered agents (1)")
    assert registered.split()[:3] == [UMRA, "pc2", "HEALTHY"]
    assert registered.split()[-1] == f"127.0.0.1:{hosts.pc2.port}"
    assert "refused" not in ran.out


def test_status_shows_the_machines_and_the_containers(hosts: TwoHosts, cli: Cli) -> None:
    """The figures of `free` and `top`, and below them the container's; a host without figures has dashes."""
    hosts.mainpc.metrics.ingest(
        "pc3", HostSample(wall=0, cpu_percent=None, ram_used_mb=80, ram_total_mb=512, limited=True)
    )
    rows = rows_of(cli(hosts, "status").out, "Machines")
    figures = ["20", "%", "of", "16", "1.50", "12.1", "of", "31.2", "GB", "0.0", "of", "8.0", "GB", "-", "77.1", "GB"]
    own = "  its container: CPU 1.2 %, RAM 80 of 512 MB; the same machine as "
    assert rows[0].split() == ["mainpc", *figures]
    assert (rows[1], rows[3]) == (own + "pc2", own + "mainpc")
    assert rows[4].split() == ["pc3", "-", "-", "0.1", "of", "0.5", "GB", "-", "-", "-"]
    assert rows[5] == "  its version measures only its container; update it"


def test_status_shows_the_vram_of_each_card(hosts: TwoHosts, cli: Cli) -> None:
    """No sum, which no lease can have; the VRAM of one card stands in the table, and --json has every card."""
    for host, cards in (("pc3", [(1_024, 2_048)]), ("pc4", [(1_024, 24_576), (8_192, 8_192)])):
        gpus = [GpuSample(index=i, name="GPU", used_mb=used, total_mb=total) for i, (used, total) in enumerate(cards)]
        used_mb, total_mb = (sum(column) for column in zip(*cards, strict=True))
        measured = HostSample(wall=0, cpu_percent=None, ram_used_mb=80, ram_total_mb=512, gpus=tuple(gpus))
        hosts.mainpc.metrics.ingest(
            host, msgspec.structs.replace(measured, vram_used_mb=used_mb, vram_total_mb=total_mb)
        )
    rows = [" ".join(row.split()) for row in rows_of(cli(hosts, "status").out, "Machines")]
    assert rows[-3:] == [
        "pc3 - - 0.1 of 0.5 GB - 1.0 of 2.0 GB -",
        "pc4 - - 0.1 of 0.5 GB - 2 cards -",
        "VRAM: GPU 0 1.0 of 24.0 GB, GPU 1 8.0 of 8.0 GB",
    ]
    reported = json.loads(cli(hosts, "status", "--json").out)["hosts"]["pc4"]
    assert (reported["vram_total_mb"], [gpu["total_mb"] for gpu in reported["gpus"]]) == (32_768, [24_576, 8_192])


def test_status_shows_each_identity_with_its_whole_fingerprint(hosts: TwoHosts, cli: Cli) -> None:
    """A fingerprint can be compared with what certs-init printed, character by character."""
    rows = rows_of(cli(hosts, "status").out, "Authenticated peers")
    starts = [number for number, row in enumerate(rows) if not row.startswith(" ")]
    ends = [*starts[1:], len(rows)]
    by_name = {rows[start].split()[0]: rows[start:end] for start, end in zip(starts, ends, strict=True)}
    assert {name: lines[-1].strip() for name, lines in by_name.items()} == hosts.fingerprints
    operator = [" ".join(line.split()) for line in by_name["operator"]]
    assert operator[0].startswith("operator mainpc operator 1 on mainpc ")
    assert operator[1].startswith("1 on pc2 ")
    assert by_name[SDT][0].split()[1:] == ["mainpc", "agent", "none", "never"]


@pytest.mark.parametrize("command", ["status", "agents", "ping", "keys list"])
def test_a_table_breaks_no_word_in_80_columns(hosts: TwoHosts, cli: Cli, command: str) -> None:
    """The width of most terminals: every name, host, and endpoint of a well system stays whole."""
    out = cli(hosts, *command.split()).out
    assert max(map(len, out.split("\n"))) <= 80
    names = {line.split()[0] for line in out.split("\n") if line and not line.startswith(" ")}
    machines = {"Machines", "host", "mainpc", "pc2"}
    headings = {*machines, "All", "Link", "Agents", "agent", "Who", "identity", "Registered", "name", "Keys", "Revoked"}
    assert names <= {SDT, UMRA, "operator", "Authenticated", "Round", *headings}


def test_status_fits_in_100_columns(hosts: TwoHosts, cli: Cli) -> None:
    """Nothing is wider, neither in a pipe nor on a terminal of that width, whatever an agent registers with."""
    with pytest.raises(NotAuthorized):
        call_as_a_stranger(hosts)
    with hosts.client("operator") as client:
        client.call("register_agent", agent_name="x" * 40, status="y" * 40, location="z" * 40)
    assert max(len(line) for line in cli(hosts, "status").out.split("\n")) <= 100
    terminal = run_on_terminal(hosts.environment, "status", columns=100)
    assert terminal.status == 0
    for fingerprint in hosts.fingerprints.values():
        assert fingerprint in terminal.out  # so nothing had to be broken to fit


def sessions_of(document: Any, name: str) -> int:
    (peer,) = [peer for peer in document["agents"][SDT]["peers"] if peer["name"] == name]
    return int(peer["sessions"])


def test_status_as_json_holds_the_whole_health_documents(hosts: TwoHosts, cli: Cli) -> None:
    """A program gets on one line what the agents said, fields that are not shown to people too."""
    hosts.pc2.document = {"total_twins": 7}

    def asked() -> Any:
        ran = cli(hosts, "status", "--json")
        assert (ran.status, ran.err, ran.out.count("\n")) == (0, "", 1)
        return json.loads(ran.out)

    document = asked()
    assert (document["status"], document["link"]) == ("ok", "encrypted")
    assert document["agents"][UMRA]["health"]["total_twins"] == 7
    assert document["agents"][SDT]["health"]["secure"] is True
    peers = {peer["name"]: peer for peer in document["agents"][SDT]["peers"]}
    assert {name: peer["fingerprint"] for name, peer in peers.items()} == hosts.fingerprints
    wait_until(lambda: sessions_of(asked(), "operator") == 1, PATIENCE_S, "a connection that was replaced has ended")
    assert [agent["name"] for agent in document["registered_agents"]] == [UMRA]
    assert document["hosts"]["pc2"]["container"]["ram_limit_mb"] == 512


def test_an_agent_that_does_not_answer_is_named(hosts: TwoHosts, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one is shown all the same, and the exit status is 2; mainpc hears it still, and does not know."""
    monkeypatch.setattr(status, "QUESTION_DEADLINE_S", 1.0)
    hosts.pc2.stop()
    ran = cli(hosts, "status")
    assert (ran.status, ran.err) == (2, "")
    assert ran.out.startswith(f"{UMRA} can't be asked from here.\n\nbroken: {UMRA} can't be asked from here\n")
    assert "\n  because: no reply to health from tcp://" in ran.out
    assert "\n  on pc2: docker compose up -d pc2  # starts its agent\n" in ran.out
    assert [row.split()[3:5] for row in rows_of(ran.out, "Agents")] == [["ok", "0"], ["no", "answer"]]
    document = json.loads(cli(hosts, "status", "--json").out)
    assert (document["code"], document["attention"]["level"]) == ("server_unreachable", "broken")


def test_an_agent_that_is_not_registered_is_named(hosts: TwoHosts, cli: Cli) -> None:
    """Both answer, and yet the system is not whole."""
    with hosts.client("client") as client:
        client.call("unregister", agent_name=UMRA)
    hosts.wait_until_listed(lambda ids: ids == ["host_silent:pc2"])
    ran = cli(hosts, "status", "--json")
    assert (ran.status, ran.err) == (1, "")
    assert json.loads(ran.out)["attention"]["headline"] == "pc2 has not reported yet."


def test_a_registered_status_other_than_healthy_is_named(hosts: TwoHosts, cli: Cli) -> None:
    """An agent that fell silent is in the registry, and is one item, though it can't be asked either."""
    with hosts.client("client") as client:
        client.call("heartbeat", agent_name=UMRA, stopping=True)
    hosts.wait_until_listed(lambda ids: ids == ["host_stopped:pc2"])
    hosts.pc2.stop()
    ran = cli(hosts, "status")
    assert ran.status == 2
    assert ran.out.startswith("pc2 has stopped.\n\nbroken: pc2 has stopped\n")
    assert f"\n  so: {UMRA} can't be asked from here\n" in ran.out
    assert "\n  on pc2: docker compose up -d pc2  # starts its agent\n" in ran.out
    assert ran.out.count("broken:") == 1


@pytest.mark.parametrize(("check", "level"), [("store", "broken"), ("mainpc_link", "attention")])
def test_a_failed_check_is_reported_with_its_detail(hosts: TwoHosts, cli: Cli, check: str, level: str) -> None:
    """What the agent says of itself is the sentence, whether it can still serve or not."""
    hosts.pc2.faults[check] = "disk I/O error"
    ran = cli(hosts, "status")
    assert ran.status == {"broken": 2, "attention": 1}[level]
    assert ran.out.startswith(f"pc2: disk I/O error.\n\n{level}: pc2: disk I/O error\n")


def test_a_check_of_mainpc_is_not_said_beside_its_list(hosts: TwoHosts, cli: Cli) -> None:
    """Its list has the check, or an item that says more about it."""
    witness = {"ok": False, "detail": "pc2 has seen another audit log"}
    hosts.mainpc.document = {"status": "degraded", "ready": False, "checks": {"audit_witness": witness}}
    ran = cli(hosts, "status")
    assert (ran.status, ran.out.split("\n")[0]) == (0, "All is well.")


def test_a_malformed_health_document_is_an_error_with_the_field(hosts: TwoHosts, cli: Cli) -> None:
    """An agent of another version is distinguished from an unhealthy one."""
    hosts.pc2.document = {"uptime_s": "long"}
    ran = cli(hosts, "status")
    assert ran.status == 2
    assert "\n  because: the reply is not a HealthDocument (" in ran.out
    assert "$.uptime_s" in ran.out


def test_wait_ends_as_soon_as_all_is_well(hosts: TwoHosts, cli: Cli) -> None:
    """It says what it waits for, and does not use up its time."""
    with hosts.client("client") as client:
        client.call("unregister", agent_name=UMRA)
    counters = hosts.mainpc._server._dispatcher.counters
    before = counters.requests

    def register_late() -> None:
        wait_until(lambda: counters.requests > before + QUESTIONS, PATIENCE_S, "the second look begins")
        hosts.register_umra()

    late = threading.Thread(target=register_late)
    late.start()
    with at_most(20):
        ran = cli(hosts, "status", "--wait", "60")
    late.join()
    assert ran.status == 0
    assert ran.err == f"waiting: {UMRA} is not registered\n"
    assert rows_of(ran.out, "Registered agents")[0].startswith(UMRA)


def test_wait_for_an_agent_asks_the_others_once(hosts: TwoHosts, cli: Cli) -> None:
    """`make up` waits for what it starts; an agent that is stopped is reported at once."""
    with hosts.client("operator") as client:
        client.call("register_agent", agent_name="Greeter", status="NO_RESPONSE")
    (port,) = free_ports(1)
    config = hosts.root / "network_config.yaml"
    declared = f"agents:\n  Greeter: {{host: pc2, key: greeter, ports: {{zmq: {port}, http: {port + 1}}}}}\n"
    config.write_text(config.read_text().replace("agents:\n", declared, 1))
    write_certificate(new_pair("Greeter", "pc2").certificate, hosts.folders["operator"] / "greeter.key")
    with at_most(20):
        ran = cli(hosts, "status", "--wait", "60", "--wait-for", SDT, "--wait-for", UMRA.lower())
    assert (ran.status, ran.err) == (2, "")
    assert ran.out.startswith("Greeter can't be asked from here.\n")
    assert [row.split()[0] for row in rows_of(ran.out, "Agents")] == ["Greeter", SDT, UMRA]
    assert cli(hosts, "status", "--wait-for", "Nobody").status == 2


def test_wait_gives_up_at_its_timeout(hosts: TwoHosts, cli: Cli) -> None:
    """It waits that long and little longer, then exits 2 with what is missing."""
    with hosts.client("client") as client:
        client.call("unregister", agent_name=UMRA)
    started = time.monotonic()
    ran = cli(hosts, "status", "--wait", "1.5", "--json")
    assert 1.5 <= time.monotonic() - started < 6
    assert (ran.status, ran.err) == (2, "")
    document = json.loads(ran.out)
    assert document["status"] == "error"
    assert document["error"] == "pc2 has not reported yet (its agent has not registered)"


def test_an_open_link_is_said_first(open_hosts: TwoHosts, cli: Cli) -> None:
    """With SECURE_ZMQ=0 all may work, and the first line says that the link is open; it is one trouble."""
    ran = cli(open_hosts, "status")
    assert (ran.status, ran.err) == (1, "")
    headline, _, item, *_ = ran.out.splitlines()
    assert headline == "the link is open on mainpc and pc2: nobody is authenticated and nothing is encrypted."
    assert item == f"attention: {headline.removesuffix('.')}"
    assert "\n\nLINK OPEN SECURE_ZMQ=0: nothing is encrypted and nobody is authenticated\n" in ran.out
    assert [row.split()[-1] for row in rows_of(ran.out, "Agents")] == ["OPEN", "OPEN"]
    assert "CURVE" not in ran.out
    assert json.loads(cli(open_hosts, "status", "--json").out)["link"] == "open"
    assert cli(open_hosts, "status", "--wait", "5").status == 0


def test_an_open_link_is_red_on_a_terminal(open_hosts: TwoHosts) -> None:
    """White on red, so that it isn't overlooked."""
    out = run_on_terminal(open_hosts.environment, "status").out
    assert "\x1b[1;37;41mLINK OPEN\x1b[0m" in out


def test_refused_handshakes_are_counted_by_cause(hosts: TwoHosts, cli: Cli) -> None:
    """Somebody knocked with a key that is not listed."""
    with pytest.raises(NotAuthorized):
        call_as_a_stranger(hosts)
    rows = rows_of(cli(hosts, "status").out + "\n", "Handshakes refused since the agent's start")
    assert ["mainpc", "key_not_authorized", "1"] in [row.split() for row in rows]


def test_another_agent_at_the_address_is_reported(open_hosts: TwoHosts, cli: Cli) -> None:
    """Without encryption no key distinguishes them; the health document does."""
    open_hosts.write_config(open_hosts.mainpc.port, open_hosts.mainpc.port)
    ran = cli(open_hosts, "status", "--json")
    assert ran.status == 2
    assert json.loads(ran.out)["code"] == "wrong_agent"


def test_without_the_operators_key_the_peers_are_not_shown(hosts: TwoHosts, cli: Cli) -> None:
    """An agent's own key, as a program has, sees health and the registry; that it sees no more is no failure."""
    hosts.folders["operator"] = hosts.folders["client"]
    ran = cli(hosts, "status")
    assert (ran.status, ran.err) == (0, "")
    assert "Authenticated peers" not in ran.out
    assert rows_of(ran.out, "Registered agents")[0].startswith(UMRA)


def call_as_a_stranger(hosts: TwoHosts) -> None:
    """Call mainpc with a key that nobody listed."""
    server_key = load_certificates(hosts.folders["operator"]).public_key()
    with Client(SecuredAddress(hosts.mainpc.address, new_pair("stranger", "elsewhere"), server_key)) as client:
        client.call("ping")


def test_many_registered_agents_are_counted(hosts: TwoHosts, cli: Cli) -> None:
    """Those of the configuration come first; `agents` lists all."""
    with hosts.client("operator") as client:
        for number in range(60):
            client.call("register_agent", agent_name=f"sensor-{number:02}", status="HEALTHY", location="attic")
            if number >= 30:
                client.call("heartbeat", agent_name=f"sensor-{number:02}", stopping=True)
    rows = rows_of(cli(hosts, "status").out + "\n", "Registered agents (61)")
    cells = [row.split() for row in rows if not row.startswith("  ")]
    assert [words[0] for words in cells[:2]] == [UMRA, "sensor-00"]
    assert [words[:6] for words in cells[20:]] == [
        ["11", "others:", "./twinhost", "agents", "attic", "HEALTHY"],
        ["30", "others:", "./twinhost", "agents", "attic", "NO_RESPONSE"],
    ]
    assert len(rows_of(cli(hosts, "agents").out + "\n", "Registered agents (61)")) > 61


def test_budgets_of_which_more_than_half_is_used_are_listed(hosts: TwoHosts) -> None:
    """On which host, whose, and how much; an older agent has none."""
    agent = load_settings(hosts.environment).registry_agent
    usage = [
        UseDocument(name="a", limit="names", used=part, most=4e9, share=part / 4e9) for part in (3.6e9, 2.1e9, 2e9)
    ]
    rows = status._used(status.AgentReport(agent, health=HealthDocument(status="ok", usage=usage)))
    assert [[str(cell) for cell in row] for row in rows] == [
        ["mainpc", "a", "names", "3600000000", "4000000000", "90%"],
        ["mainpc", "a", "names", "2100000000", "4000000000", "52%"],
    ]
    assert status._used(status.AgentReport(agent, health=HealthDocument(status="ok"))) == []


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        ({}, ""),
        ({"standbys": [], "copies": 1}, "; no standby follows; 1 copy"),
        (
            {
                "standbys": [StandbyDocument(name="two", behind=1)],
                "copies": 2,
                "witness": WitnessDocument(answers=True),
            },
            "; standby two is 1 transaction behind; 2 copies; witness well",
        ),
        (
            {"standbys": [StandbyDocument(name="two", behind=0)], "witness": WitnessDocument(answers=False)},
            "; standby two is 0 transactions behind; witness silent",
        ),
    ],
    ids=["begun", "no witness", "well", "no copies"],
)
def test_a_line_about_failover_ends_with_what_is_known(hosts: TwoHosts, seen: dict[str, Any], said: str) -> None:
    settings = load_settings(hosts.environment)
    agent = settings.registry_agent
    log = RoleDocument(holder="mainpc", since="noon", epoch=1, **seen)
    report = status.AgentReport(agent, health=HealthDocument(status="ok", log=log))
    (line,) = status._failover(status.Survey(settings, {agent.name: report}))
    assert line.plain == f"Failover {agent.name} is active on mainpc since noon (epoch 1){said}"


def surveyed(listed: AttentionList | None, warning: str = "", registered: str = "HEALTHY") -> status.Survey:
    """Return what both agents answered: mainpc a list, and as what pc2 is registered; pc2 what it warns of."""
    settings = load_settings({"SECURE_ZMQ": "0"})
    healths = {name: Health(name, secure=True) for name in (SDT, UMRA)}
    healths[UMRA].warn("outbox", lambda: [warning] if warning else [])
    registration: Any = SimpleNamespace(name=UMRA, status=registered, port=7_230, registered_by=UMRA)
    reports = {
        name: status.AgentReport(settings.config.agent(name), health=read({**health.document()}, HealthDocument))
        for name, health in healths.items()
    }
    reports[SDT] = replace(reports[SDT], listed=listed, registered=[registration])
    return status.Survey(settings, reports)


def test_what_pc2_warns_of_is_on_mainpcs_list_alone() -> None:
    """`status` adds it only where nobody has a list."""
    listed = list_of([], iso_time(0))
    assert surveyed(listed, "4 requests dropped").found() == []
    kinds = {trouble.kind for trouble in surveyed(None, "4 requests dropped").found()}
    assert kinds == {Kind.WARNING}


def test_wait_waits_for_heartbeats() -> None:
    assert surveyed(None).hindrances() == []
    assert surveyed(None, registered="NO_RESPONSE").hindrances() == [f"{UMRA} sends no heartbeats"]
