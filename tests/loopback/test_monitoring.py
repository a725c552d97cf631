"""The files in monitoring/ with a real Prometheus and both agents: each trouble that is staged is an alert."""

import json
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.loopback.agent_processes import SDT, UMRA, Hosts
from tests.loopback.test_audit_witness import archive
from tests.loopback.test_told_records import attack, change_a_line
from tests.ports import free_ports
from tests.waiting import PATIENCE_S, wait_until
from twinhost.agent.host_gauges import sample_metrics
from twinhost.agent.host_metrics import ContainerSample, DiskSample, GpuSample, HostSample, MachineSample, Traffic

pytestmark = pytest.mark.thorough

MONITORING = Path(__file__).resolve().parents[2] / "monitoring"
RULES = MONITORING / "alerts.yml"
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))
OF_THIS_MACHINE = {"TwinhostDiskFull", "TwinhostDiskNearlyFull"}  # whose disk may be nearly full
METRIC = re.compile(r"\b(?:twinhost|process|python)_\w+|\bup\b")
TTL_S = 2.0
WAITS_S = 600.0
STAGED = {  # and the host, or what else distinguishes it
    "TwinhostSevereErrors": "mainpc",
    "TwinhostConnectionsRefused": "mainpc",
    "TwinhostLeasesWait": "mainpc",
    "TwinhostAgentsSilent": "mainpc",
    "TwinhostAuditChanged": "mainpc",
    "TwinhostDown": "mainpc",
    "TwinhostLinkDown": "pc2",
    "TwinhostOutboxWaits": "pc2",
    "TwinhostClocksDiffer": "mainpc",
    "TwinhostRevocationPending": "mainpc",
    "TwinhostTrouble": "mainpc",
}


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


class Prometheus:
    """A server that scrapes both agents once a second, and whose rules fire at once."""

    def __init__(self, hosts: Hosts) -> None:
        (port,) = free_ports(1)
        self._url, folder = f"http://127.0.0.1:{port}", hosts.root
        text = RULES.read_text(encoding="utf-8")
        assert text.count("> 300") == 1
        at_once = [{**rule, "for": "0s"} for rule in yaml.safe_load(text.replace("> 300", "> 2"))["groups"][0]["rules"]]
        (folder / "alerts.yml").write_text(yaml.safe_dump({"groups": [{"name": "twinhost", "rules": at_once}]}))
        config = yaml.safe_load((MONITORING / "prometheus.yml").read_text(encoding="utf-8"))
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s", "scrape_timeout": "1s"}
        by_host = {agent.host.name: agent.http_port for agent in hosts.config.agents.values()}
        for target in config["scrape_configs"][0]["static_configs"]:
            target["targets"] = [f"127.0.0.1:{by_host[target['labels']['host']]}"]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        words = [f"--storage.tsdb.path={folder / 'tsdb'}", f"--web.listen-address=127.0.0.1:{port}"]
        self._log = (folder / "prometheus.log").open("w")
        self._process = subprocess.Popen(
            ["prometheus", f"--config.file={folder / 'prometheus.yml'}", *words, "--log.level=warn"],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of its HTTP API."""
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
            return json.load(answer)["data"]

    def firing(self) -> dict[str, list[dict[str, Any]]]:
        """Return the alerts that fire, by name; none while it starts."""
        found: dict[str, list[dict[str, Any]]] = {}
        with suppress(OSError):
            for alert in self.get("alerts")["alerts"]:
                found.setdefault(alert["labels"]["alertname"], []).append(alert)
        return found

    def wait_for(self, *names: str) -> dict[str, list[dict[str, Any]]]:
        """Wait until each of these alerts fires, and return all that do."""
        for name in names:
            wait_until(lambda: name in self.firing(), 2 * PATIENCE_S, f"{name} fires")  # noqa: B023
        return self.firing()

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE_S)
        self._log.close()


class Staged:
    """What fired while both hosts were well, and then, trouble by trouble."""

    def __init__(self, hosts: Hosts, prometheus: Prometheus) -> None:
        self.prometheus = prometheus
        mainpc, _ = hosts.start_both()
        archive(hosts, "backup", "-")
        wait_until(
            lambda: self._value("scalar(min(up)) + twinhost_audit_intact") == 2, 2 * PATIENCE_S, "both are scraped"
        )
        wait_until(lambda: not prometheus.firing().keys() - OF_THIS_MACHINE, PATIENCE_S, "all is well")
        age = 'time() - twinhost_backup_timestamp_seconds{host="mainpc"}'
        self.backed_up_s = wait_until(lambda: self._value(age), PATIENCE_S, "the backup is known")
        self.fired: dict[str, list[dict[str, Any]]] = {}
        with hosts.client(SDT) as operator:
            self._stage_what_mainpc_tells(hosts, operator)
        mainpc.kill()
        self._note(prometheus.wait_for("TwinhostDown", "TwinhostLinkDown", "TwinhostOutboxWaits"))
        hosts.start(SDT).wait_until_serving()
        hosts.processes[1].kill()
        with hosts.client(SDT) as operator:
            self._stage_what_pc2_says(operator)

    def _note(self, firing: dict[str, list[dict[str, Any]]]) -> None:
        for name, alerts in firing.items():
            self.fired.setdefault(name, []).extend(alerts)

    def _value(self, query: str) -> float | None:
        with suppress(OSError):
            result = self.prometheus.get("query", query=query)["result"]
            return float(result[0]["value"][1]) if result else None
        return None

    def _stage_what_mainpc_tells(self, hosts: Hosts, operator: Any) -> None:
        error = {"error_id": "1", "agent_id": "vision", "severity": "critical", "error_type": "GpuLost"}
        operator.call("report_error", error={**error, "message": "GPU 0 fell off the bus"})
        operator.call("register_agent", agent_name="lamp", status="HEALTHY", location="pc2")
        time.sleep(0.2)
        operator.call("heartbeat", agent_name="lamp")
        attack(hosts, 30)
        with hosts.client(SDT) as client:
            total_mb = operator.call("get_metrics")["metrics"]["hosts"]["mainpc"]["ram_total_mb"]
            too_much = {"amount_mb": 0.895 * total_mb, "wait_s": WAITS_S, "deadline_s": WAITS_S}  # of 0.9 that may be
            waiting = threading.Thread(target=self._ask, args=(client, too_much))
            waiting.start()
            change_a_line(hosts)
            names = ["SevereErrors", "ConnectionsRefused", "LeasesWait", "AgentsSilent", "AuditChanged"]
            self._note(self.prometheus.wait_for(*(f"Twinhost{name}" for name in names)))
        waiting.join(PATIENCE_S)

    @staticmethod
    def _ask(client: Any, fields: dict[str, Any]) -> None:
        with suppress(Exception):  # it is closed
            client.call("reserve_ram", **fields)

    def _stage_what_pc2_says(self, operator: Any) -> None:
        """Have heartbeats come from a pc2 whose clock is ahead, and which does not take the list of keys."""
        clock = {"ahead_s": 7_200.0, "within_s": 0.1, "set_by_s": 7_200.0}
        names = {"TwinhostClocksDiffer", "TwinhostRevocationPending"}

        def fire() -> bool:
            operator.call("heartbeat", agent_name=UMRA, trust_revision="older", clock=clock)
            return names <= self.prometheus.firing().keys()

        wait_until(fire, 2 * PATIENCE_S, "they fire")
        self._note(self.prometheus.firing())
        operator.call("heartbeat", agent_name=UMRA, stopping=True)
        self._note(self.prometheus.wait_for("TwinhostTrouble"))


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Staged]:
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed (scripts/setup/test_tools.sh installs it)")
    with Hosts(tmp_path_factory.mktemp("hosts"), metrics_interval_s=1.0) as hosts:
        config = Path(hosts.config.source)
        config.write_text(config.read_text().replace("registration_ttl_s: 15", f"registration_ttl_s: {TTL_S:g}"))
        prometheus = Prometheus(hosts)
        try:
            yield Staged(hosts, prometheus)
        finally:
            prometheus.stop()


@pytest.mark.parametrize("name", STAGED)
def test_a_staged_trouble_is_an_alert(staged: Staged, name: str) -> None:
    """Which says where, with text in which nothing is left open."""
    hosts = [alert["labels"].get("host") for alert in staged.fired[name]]
    assert STAGED[name] in hosts
    for alert in staged.fired[name]:
        assert alert["annotations"].keys() == {"what", "cause", "command"}
        assert "no value" not in str(alert["annotations"])


def test_the_last_backup_has_an_age(staged: Staged) -> None:
    assert staged.backed_up_s
    assert 0 < staged.backed_up_s < 10 * PATIENCE_S


def queries() -> dict[str, str]:
    """Return what rules and dashboard ask, by who asks."""
    asked = {rule["alert"]: rule["expr"] for rule in rules()}
    for panel in DASHBOARD["panels"]:
        asked |= {f"{panel['title']} {target['refId']}": target["expr"] for target in panel.get("targets", ())}
    asked |= {annotation["name"]: annotation["expr"] for annotation in DASHBOARD["annotations"]["list"]}
    return {name: query.replace("$__rate_interval", "1m") for name, query in asked.items()}


def host_metrics() -> set[str]:
    """Return the metrics of a host of which everything can be measured: sensors, and a card."""
    whole = HostSample(
        wall=0,
        cpu_percent=1,
        ram_used_mb=1,
        ram_total_mb=2,
        gpus=(GpuSample(index=0, name="x", used_mb=1, total_mb=2, utilisation_percent=1, temperature_c=1),),
        machine=MachineSample(
            disks=(DiskSample(name="state", used_mb=1, free_mb=1, total_mb=2),),
            network=Traffic(received_bytes_per_s=1, sent_bytes_per_s=1),
            temperature_c=1,
        ),
        container=ContainerSample(),
    )
    return {sample.name for family in sample_metrics(whole) for sample in family.samples}


def test_rules_and_dashboard_ask_for_metrics_that_exist(staged: Staged) -> None:
    """In what Prometheus has scraped of both agents; and Prometheus accepts each query."""
    scraped = set(staged.prometheus.get("label/__name__/values")) | host_metrics()
    assert len(queries()) > len(rules()) + 20
    for name, query in queries().items():
        named = set(METRIC.findall(query))
        assert named, name
        assert named <= scraped, name
        staged.prometheus.get("query", query=query)
