"""mainpc's agent, without a socket: who may see and acknowledge what is wrong, and what monitoring reads of it."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.staged_troubles import FOURTEEN, RESERVE_BYTES, Deployment
from tests.unit.agent.assembled import environment_of
from tests.unit.system_digital_twin.http.test_state import Twin
from tests.unit.system_digital_twin.twin import OPERATOR, SDT, UMRA, Clock
from twinhost.agent.backups import BackupRecord
from twinhost.secure_zmq.errors import StoreUnavailable
from twinhost.secure_zmq.framing.inbound import Inbound
from twinhost.system_digital_twin.metrics.metrics import Metrics
from twinhost.system_digital_twin.trust.retirements import Retirement
from twinhost.system_digital_twin.trust.trust import KeysAndAudit

ERROR = {"error_id": "e", "agent_id": UMRA.name, "severity": "critical", "error_type": "T", "message": "it failed"}


@pytest.fixture
def deployment(tmp_path: Path, clock: Clock) -> Iterator[Deployment]:
    with Twin(Deployment.environment(tmp_path), clock) as twin:
        yield Deployment(twin, clock, tmp_path)


def exported(deployment: Deployment) -> dict[tuple[str, ...], float]:
    """Return the values of the metrics by their names and labels."""
    deployment.twin.assembly.on_collect()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(deployment.twin.telemetry.render().decode())
        for sample in family.samples
    }


def test_what_is_wrong_is_exported(deployment: Deployment) -> None:
    """By the list, and for the rules that look for one thing."""
    before = exported(deployment)
    names: list[tuple[str, ...]] = [("twinhost_attention_level",), ("twinhost_severe_errors",)]
    names += [("twinhost_agents_behind_on_keys",), ("twinhost_leases_waiting", "ram")]
    assert [before[name] for name in names] == [0, 0, 0, 0]
    assert before["twinhost_clock_ahead_seconds", "pc2"] == 0

    deployment.twin.call("report_error", UMRA, error=ERROR)
    deployment.figures = {"ram_used_mb": 300, "ram_total_mb": 1_000}
    deployment.pass_seconds(5)
    deployment.twin.call("reserve_ram", OPERATOR, amount_mb=500, host="pc2", ttl_s=600)
    body = {"action": "reserve_ram", "amount_mb": 300, "host": "pc2", "wait_s": 600}
    deployment.twin._dispatcher.answer([Inbound(json.dumps(body).encode(), UMRA)])
    deployment.report = {"trust_revision": "an older one", "clock": {"ahead_s": 60.0, "within_s": 0.01}}
    deployment.pass_seconds(20)
    assert set(deployment.ids()) == {"errors", "revocation_pending", "clocks_differ:pc2"}
    after = exported(deployment)
    assert [after[name] for name in names] == [2, 1, 1, 1]
    assert after["twinhost_clock_ahead_seconds", "pc2"] == 60
    assert after["twinhost_attention", "errors", "broken", ""] == 1


def test_a_changed_audit_log_is_exported(deployment: Deployment) -> None:
    (staging,) = (one for one in FOURTEEN if one.id == "audit_tampered:mainpc")
    staging.stage(deployment)
    assert exported(deployment)["twinhost_audit_intact",] == 0


def test_mainpcs_newest_backup_is_exported(deployment: Deployment, clock: Clock) -> None:
    name = ("twinhost_backup_timestamp_seconds",)
    assert name not in exported(deployment)
    BackupRecord(deployment.home / "state", SDT.name, clock).backed_up(1_000.0)
    deployment.pass_seconds(12)
    assert exported(deployment)[name] == 1_000


def test_evidence_and_acknowledging_are_for_operators(deployment: Deployment) -> None:
    deployment.twin.call("report_error", UMRA, error=ERROR)
    deployment.pass_seconds(7)
    seen = [deployment.twin.call("get_attention", caller)["items"][0]["evidence"] for caller in (OPERATOR, UMRA)]
    assert [len(evidence) for evidence in seen] == [1, 0]
    assert deployment.twin.ask("acknowledge_trouble", UMRA, id="errors")["code"] == "not_granted"
    deployment.twin.call("acknowledge_trouble", OPERATOR, id="errors")
    assert deployment.items()[0]["acknowledged"]["by"] == OPERATOR.name


def test_a_heartbeat_is_answered_with_the_lists_revision(deployment: Deployment) -> None:
    """So another host asks for the list when it has changed."""

    def revision() -> str:
        return str(deployment.twin.call("heartbeat", UMRA, agent_name=UMRA.name)["attention_revision"])

    before = revision()
    deployment.turn()
    assert revision() == before
    deployment.twin.call("report_error", UMRA, error=ERROR)
    deployment.pass_seconds(7)
    assert revision() != before


def test_who_asks_gets_what_is_true_by_then(deployment: Deployment) -> None:
    """Without a turn of the agent."""
    deployment.twin.call("report_error", UMRA, error=ERROR)
    deployment.clock.let_pass(7)
    assert deployment.ids() == ["errors"]


def test_a_trouble_is_acknowledged_while_little_is_left(deployment: Deployment) -> None:
    """From the reserve: a full disk, too."""
    deployment.free_bytes = RESERVE_BYTES // 2
    deployment.pass_seconds(5)
    deployment.twin.call("acknowledge_trouble", OPERATOR, id="disk_full:mainpc")


def test_it_is_looked_for_also_while_nothing_can_be_stored(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object) -> None:
        raise StoreUnavailable("the disk is full")

    deployment.twin.call("report_error", UMRA, error=ERROR)
    monkeypatch.setattr(Metrics, "on_tick", full)
    for _ in range(7):
        deployment.clock.let_pass(1)
        with suppress(StoreUnavailable):
            deployment.twin.assembly.on_tick()
    assert exported(deployment)["twinhost_attention_level",] == 2


def test_a_key_that_is_going_to_be_retired_is_told(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the list, once, and by health."""
    retirement = Retirement("SHA256:new", asked=deployment.now)
    monkeypatch.setattr(KeysAndAudit, "contested", lambda _: [(deployment.fingerprint, retirement)])
    deployment.turn()
    assert deployment.ids() == [f"key_retires:{UMRA.name}"]
    (warning,) = deployment.twin.health.document()["warnings"]
    assert warning.startswith(f"the key of {UMRA.name} will be revoked ")
    assert warning.endswith("ask for it, run: docker compose run --rm certs-init revoke SHA256:new")


def test_on_an_open_link_nothing_is_said_of_keys(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the audit log has of them is from before."""
    monkeypatch.setattr(KeysAndAudit, "revoked", {UMRA.name: "SHA256:x"})
    with Twin(environment_of(tmp_path, "mainpc", secure=False), clock) as twin:
        twin.turn()
        items = twin.call("get_attention", OPERATOR)["items"]
    assert {item["kind"] for item in items} >= {"link_open", "host_silent"}
    assert "key_revoked" not in {item["kind"] for item in items}
