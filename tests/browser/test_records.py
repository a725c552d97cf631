"""The pages of records: what is stored is found by filters and pages, which are in the address."""

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.browser.test_accessible import MEMORY
from tests.browser.watched import PATIENCE_MS, Watched, watch
from tests.unit.system_digital_twin.twin import OPERATOR, UMRA
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.peers import Outcome
from twinhost.system_digital_twin.state_files import AUDIT_FOLDER


@pytest.fixture
def watched(browser: Browser, tmp_path: Path) -> Iterator[Watched]:
    with closing(browser.new_context()) as context, watch(context.new_page(), tmp_path, measured=False) as watched:
        yield watched


def records(watched: Watched, panel: str) -> Locator:
    return watched.page.locator(f"#{panel}-table .records > li")


def refuse(watched: Watched, number: int) -> None:
    """Refuse connections of different peers, so that none is counted away."""
    for at in range(number):
        watched.twin.handshakes.refused(Outcome.KEY_REVOKED, peer=f"agent-{at:03}", address=f"10.0.0.{at % 250}")
    watched.twin.turn()


def test_the_audit_log_is_filtered_and_has_pages(watched: Watched) -> None:
    """By event and by who; from page to page, and after a reload."""
    page = watched.page
    refuse(watched, 60)
    watched.open("/audit")
    expect(records(watched, "audit")).to_have_count(25, timeout=PATIENCE_MS)
    expect(records(watched, "audit").first).to_contain_text("agent-059")
    page.get_by_role("button", name="Older").click()
    expect(records(watched, "audit").first).to_contain_text("agent-034", timeout=PATIENCE_MS)
    page.get_by_label("Name or address").fill("AGENT-007")
    expect(records(watched, "audit")).to_have_count(1, timeout=PATIENCE_MS)
    page.get_by_label("Event").select_option("Key authorized")
    expect(page.locator("#audit-table")).to_contain_text("Nothing matches.", timeout=PATIENCE_MS)
    page.get_by_label("Name or address").fill(UMRA.name)
    expect(records(watched, "audit")).to_have_count(1, timeout=PATIENCE_MS)
    page.reload()
    watched.turn_until(records(watched, "audit"), UMRA.name)
    assert "event=key_authorized" in page.url


def test_a_line_opens_to_its_evidence(watched: Watched) -> None:
    """By the keyboard; it stays open while states come."""
    refuse(watched, 1)
    watched.open("/audit")
    line = records(watched, "audit").first
    line.locator("summary").focus()
    watched.page.keyboard.press("Enter")
    evidence = line.locator("details[open]")
    expect(evidence).to_contain_text("fits what the line says", timeout=PATIENCE_MS)
    expect(evidence).to_contain_text('"event":"handshake_refused"')
    watched.draw()
    expect(evidence).to_be_visible()


def test_a_changed_line_is_marked_and_verification_fails(watched: Watched, tmp_path: Path) -> None:
    page = watched.page
    refuse(watched, 3)
    watched.open("/audit")
    watched.turn_until(page.locator("#verified-table"), "Intact")
    (path,) = (tmp_path / "state" / AUDIT_FOLDER).glob("*.jsonl")
    path.write_bytes(path.read_bytes().replace(b"agent-001", b"agent-009"))
    watched.clock.let_pass(10)
    watched.draw()
    wait_until(lambda: "audit_tampered" in str(watched.twin.state()["attention"]), PATIENCE_S, "the change is found")
    page.reload()
    watched.turn_until(page.locator("#verified-table"), "Changed")
    expect(page.locator(".trouble")).to_contain_text("mainpc's audit log was changed", timeout=PATIENCE_MS)
    expect(records(watched, "audit").filter(has_text="agent-009")).to_contain_text("Changed")


def test_a_wrong_address_is_answered_in_words(watched: Watched) -> None:
    watched.open("/audit?since=yesterday")
    expect(watched.page.locator("#audit-table")).to_contain_text("Expected a time in ISO-8601", timeout=PATIENCE_MS)


def test_the_memory_shows_counts_writers_and_quarantine(watched: Watched) -> None:
    """As pc2's agent says with its heartbeats; and how long ago that was."""
    watched.twin.call("heartbeat", agent_name=UMRA.name, memory={**MEMORY, "memories": 4_321})
    watched.open("/memory")
    page = watched.page
    expect(page.locator("#memory-table")).to_contain_text(re.compile("pc2.*Memories4,321.*As of"), timeout=PATIENCE_MS)
    expect(page.locator("#writers-count")).to_have_text("2 of 7")
    expect(page.locator("#writers-table tbody tr").first).to_contain_text(re.compile("planner.*68.4 kB"))
    expect(page.locator("#quarantine-table tbody tr")).to_contain_text(re.compile("vision.*days ago.*operator"))


def test_the_queue_shows_who_waits_for_whom(watched: Watched) -> None:
    """In the order in which they will be served, with who has the memory."""
    card = {"index": 0, "name": "card", "uuid": "GPU-0", "used_mb": 0, "total_mb": 10_240}
    watched.twin.measured(gpus=[card])
    watched.twin.call("reserve_vram", OPERATOR, amount_mb=8_192, host="pc2", ttl_s=900)
    watched.twin.wait("reserve_vram", amount_mb=6_144, host="pc2", wait_s=600, ttl_s=60)
    watched.twin.wait("reserve_vram", OPERATOR, amount_mb=3_072, wait_s=600, priority=9, ttl_s=60)
    watched.open("/leases")
    rows = watched.page.locator("#waiting-table tbody tr")
    expect(rows).to_have_count(2, timeout=PATIENCE_MS)
    expect(rows.first).to_contain_text(re.compile("operator.*3 GB.*any.*nobody.*operator 8 GB"))
    expect(rows.last).to_contain_text(re.compile(f"{UMRA.name}.*6 GB.*pc2.*operator.*operator 8 GB"))


def test_errors_are_grouped_and_found_by_shape(watched: Watched) -> None:
    """Each shape leads to its errors, and to the command that acknowledges them; also those that are older than 50."""
    page = watched.page
    watched.report("critical", message="disk 7 is full", context={"mount": "/data"})
    for number in range(60):
        watched.report("error", error_type="timeout", message=f"request {number} timed out")
    watched.open("/errors")
    shapes = page.locator("#shapes-table tbody tr")
    watched.turn_until(shapes.last, "timeout")
    expect(shapes).to_have_count(2)
    expect(shapes.last).to_contain_text(re.compile("request 59 timed out.*Error.*60"))
    watched.turn_until(records(watched, "errors"), "request 59")
    page.get_by_role("button", name="Older").click()
    watched.turn_until(records(watched, "errors"), "request 34")
    shapes.first.get_by_role("link", name="disk_full").click()
    watched.turn_until(records(watched, "errors"), "disk 7 is full")
    expect(records(watched, "errors")).to_have_count(1)
    records(watched, "errors").get_by_text("Context").click()
    expect(records(watched, "errors")).to_contain_text('"mount": "/data"')
    (shape,) = (
        group["shape_id"] for group in watched.twin.call("get_error_counts", OPERATOR)["groups"] if group["count"] == 1
    )
    command = f"./twinhost call SystemDigitalTwin acknowledge_errors shape_id={shape}"
    expect(page.locator("#errors-table code")).to_have_text(command)
    watched.twin.call("acknowledge_errors", OPERATOR, shape_id=shape)
    watched.draw()
    watched.turn_until(records(watched, "errors"), "Acknowledged by operator")


def test_events_are_filtered_and_new_ones_come_by_themselves(watched: Watched) -> None:
    page = watched.page

    def publish(number: int, kind: str) -> None:
        event = {"event_id": f"e{number}", "event_type": kind, "source_agent": "operator", "data": {"to": f"x{number}"}}
        watched.twin.call("publish_event", OPERATOR, event=event)

    for number in range(60):
        publish(number, "moved")
    publish(60, "rested")
    watched.open("/events")
    watched.turn_until(records(watched, "events"), "rested")
    page.get_by_label("Type").fill("moved")
    watched.turn_until(records(watched, "events"), "x59")
    expect(records(watched, "events")).to_have_count(25)
    page.get_by_label("Words in it").fill("X7")
    watched.turn_until(records(watched, "events"), "x7")
    expect(records(watched, "events")).to_have_count(1)
    publish(61, "moved")
    page.get_by_label("Words in it").fill("")
    watched.turn_until(records(watched, "events"), "x61")
    publish(62, "moved")
    watched.draw()
    watched.turn_until(records(watched, "events"), "x62")
