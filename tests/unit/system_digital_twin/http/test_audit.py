"""`/api/audit`: lines of the audit log, read on a thread of HTTP."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.agent.assembled import environment_of
from tests.unit.system_digital_twin.http.asked import Asked
from tests.unit.system_digital_twin.twin import OPERATOR, Clock
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.peers import Outcome
from twinhost.store.audit_log import search
from twinhost.system_digital_twin.http import audit as audit_module
from twinhost.system_digital_twin.state_files import AUDIT_FOLDER

pytestmark = pytest.mark.sdt_security


@pytest.fixture
def twin(tmp_path: Path, clock: Clock) -> Iterator[Asked]:
    with Asked(environment_of(tmp_path, "mainpc"), clock) as twin:
        for number in range(7):
            twin.handshakes.refused(Outcome.KEY_REVOKED, peer=f"agent-{number}", address="10.0.0.7")
        twin.turn()
        yield twin


def test_lines_come_newest_first_by_page(twin: Asked) -> None:
    """Each with its fields, where it lies, and whether its hash fits; as `audit tail` has them."""
    first = twin.get("/api/audit", limit=3).json()
    rest = twin.get("/api/audit", before=first["next_before"], limit=100).json()
    assert (len(first["lines"]), rest["next_before"]) == (3, None)
    fields = [line["fields"] for line in (*first["lines"], *rest["lines"])]
    assert [each["seq"] for each in fields] == list(range(rest["last"], 0, -1))
    assert fields[-1]["event"] == "started"
    assert all(line["intact"] for line in rest["lines"])
    page = twin.ask("get_audit", OPERATOR)
    assert [json.loads(line) for line in page["lines"]] == fields[::-1][: len(page["lines"])]


def test_lines_are_found_by_event_peer_and_time(twin: Asked) -> None:
    refused = twin.get("/api/audit", event="handshake_refused", who="AGENT-3").json()
    assert [line["fields"]["peer"] for line in refused["lines"]] == ["agent-3"]
    assert twin.get("/api/audit", until="2001-01-01").json()["lines"] == []
    assert twin.get("/api/audit", since="2001-01-01", event="handshake_refused").json()["lines"] != []


def test_a_changed_line_is_marked_and_the_log_is_not_intact(twin: Asked, clock: Clock, tmp_path: Path) -> None:
    (path,) = (tmp_path / "state" / AUDIT_FOLDER).glob("*.jsonl")
    wait_until(lambda: twin.get("/api/audit").json()["intact"] is True, PATIENCE_S, "the log was inspected")
    path.write_bytes(path.read_bytes().replace(b"agent-3", b"agent-4"))
    clock.let_pass(10)
    wait_until(lambda: twin.get("/api/audit").json()["intact"] is False, PATIENCE_S, "the change is found")
    changed = [line for line in twin.get("/api/audit").json()["lines"] if not line["intact"]]
    assert [line["fields"]["peer"] for line in changed] == ["agent-4"]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"event": "x"}, "Invalid enum value 'x' - at `$.event`"),
        ({"limit": "0"}, "Expected `int` >= 1 - at `$.limit`"),
        ({"limit": "101"}, "Expected `int` <= 100 - at `$.limit`"),
        ({"limit": "x"}, "Expected `int`, got `str` - at `$.limit`"),
        ({"who": "x" * 129}, "Expected `str` of length <= 128 - at `$.who`"),
        ({"since": "yesterday"}, "Expected a time in ISO-8601, such as 2026-11-27T08:00:00Z, got 'yesterday'"),
        ({"since": "2026-01-02", "until": "2026-01-01"}, "Expected a time after `since` - at `$.until`"),
        ({"before": "x"}, "Expected a position from an earlier answer - at `$.before`"),
        ({"pear": "x"}, "Object contains unknown field `pear`"),
        ({"who": ["a", "b"]}, "Expected each parameter once"),
    ],
)
def test_another_question_is_refused_in_a_sentence(twin: Asked, query: dict[str, object], words: str) -> None:
    answer = twin.get("/api/audit", **query)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


def test_one_reader_searches_at_a_time(twin: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others wait for a moment, and are told to ask again."""
    monkeypatch.setattr(audit_module, "_WAIT_S", 0.1)
    begun, go_on = threading.Event(), threading.Event()

    def slow(*_: object) -> search.Result:
        begun.set()
        go_on.wait(PATIENCE_S)
        return search.Result((), None, None)

    monkeypatch.setattr(audit_module, "newest", slow)
    first = threading.Thread(target=lambda: twin.client().get("/api/audit"))
    first.start()
    begun.wait(PATIENCE_S)
    answer = twin.client().get("/api/audit")
    go_on.set()
    first.join()
    assert (answer.status_code, answer.json()["error"]) == (503, "the agent is busy; ask again")
