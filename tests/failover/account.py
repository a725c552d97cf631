"""The account after a fault: both files and the log agree, and have each acknowledged call once, with its reply."""

import inspect
import json
from collections.abc import Sequence
from typing import Any

from tests import replayed
from tests.failover.machines import NODES, PROCESSES_OF, Machines
from tests.failover.writers import SDT, Writer, now
from tests.ledger import check
from tests.waiting import wait_until
from twinhost.store.audit_log.chain import NO_HASH, Anchor, Head
from twinhost.store.audit_log.verify import verify

_EQUAL_WITHIN_S = 30.0
_RECENT_S = 300.0  # a reply is stored for longer
_EVENT = "json_extract(CAST(record AS TEXT), '$.event_id')"
_CALLS = {
    True: f"SELECT {_EVENT}, count(*) FROM happenings WHERE topic = 'EVENT:' GROUP BY 1",
    False: "SELECT content, count(*) FROM interactions GROUP BY 1",
}
_EVENTS = """
SELECT count(*), max(seq) - min(seq) + 1
FROM happenings WHERE seq > (SELECT coalesce(max(seq), 0) FROM happenings_let_go)
"""
_APPLIED = """
import sqlite3, sys
connection = sqlite3.connect(f"file:/var/lib/twinhost/{sys.argv[1]}.sqlite3?mode=ro", uri=True)
print(*connection.execute("SELECT applied FROM log_position").fetchone())
"""
_REPORT = """
import collections, hashlib, json, sqlite3, sys
{contents}
agent, calls = sys.argv[1:3]
connection = sqlite3.connect(f"file:/var/lib/twinhost/{{agent}}.sqlite3?mode=ro", uri=True)
connection.execute("BEGIN")
(applied,) = connection.execute("SELECT applied FROM log_position").fetchone()
def hashed(text):
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
tables = {{name: hashed(text) for name, text in contents(connection).items()}}
replies = collections.Counter()
for caller, requests in connection.execute("SELECT caller, requests FROM replies"):
    replies.update((caller, request_id) for request_id, _ in json.loads(requests))
events = connection.execute(sys.argv[3]).fetchone() if agent == "SystemDigitalTwin" else (0, 0)
print(json.dumps([applied, tables, dict(connection.execute(calls).fetchall()), [*replies.items()], events]))
"""

_LOG = "SELECT count(*), min(seq), max(seq) FROM commits WHERE agent = '{}'"  # of its oldest, the log may have let go


def account(machines: Machines, agent: str, writers: Sequence[Writer]) -> None:
    """Fail unless both files of an agent and the log on both nodes agree, and have each acknowledged call once."""
    program = _REPORT.format(contents=inspect.getsource(replayed.contents))

    def caught_up() -> bool:
        """Read no more yet: SQLite's log of a file that catches up grows for as long as a reader needs the old rows."""
        return len({machines.execute(one, "python", "-c", _APPLIED, agent) for one in PROCESSES_OF[agent]}) == 1

    def reports() -> list[Any] | None:
        both = [
            json.loads(machines.execute(service, "python", "-c", program, agent, _CALLS[agent == SDT], _EVENTS))
            for service in PROCESSES_OF[agent]
        ]
        return both if both[0][0] == both[1][0] else None

    wait_until(caught_up, _EQUAL_WITHIN_S, f"both processes of {agent} have the same transactions")
    both = wait_until(reports, _EQUAL_WITHIN_S, f"both processes of {agent} have the same transactions")
    assert both is not None
    one, other = both
    differing = [name for name in one[1] if one[1][name] != other[1].get(name)]
    assert not differing, f"{agent}: the tables {differing} of both machines differ"
    for node in NODES:

        def logs_without_gap(node: str = node) -> bool:
            numbers = machines.execute(node, "psql", "-XqAt", "-c", _LOG.format(agent), "twinhost").split("|")
            count, first, last = map(int, numbers)
            return count == last - first + 1 and last >= one[0]

        wait_until(logs_without_gap, _EQUAL_WITHIN_S, f"{node} has each transaction of {agent}")
    _require_replies(one[3], writers)
    count, numbers = one[4]
    assert count == numbers, f"{count} events have {numbers} numbers"
    for writer in writers:
        mine = {call: times for call, times in one[2].items() if (call or "").startswith(f"{writer.prefix}-")}
        verdict = check(writer.plain(), mine)
        assert verdict.whole, (writer.kind, verdict)
    if agent == SDT:
        _require_one_chain(machines)


def _require_replies(found: Sequence[tuple[tuple[str, str], int]], writers: Sequence[Writer]) -> None:
    """Fail unless each call that was acknowledged in the time of a stored reply has one, and no call has two."""
    doubled = [key for (key, count) in found if count > 1]
    assert not doubled, f"stored twice: the replies to {doubled}"
    stored = {request_id for ((_, request_id), _) in found}
    for writer in writers:
        recent = {line.call for line in writer.lines() if line.what == "acknowledged" and line.at > now() - _RECENT_S}
        assert recent, f"{writer.prefix} has no recent call"
        assert not recent - stored, f"without a stored reply: {recent - stored}"


def _require_one_chain(machines: Machines) -> None:
    """Fail unless both of mainpc's audit logs are intact, and that of the standby is how the active one's begins."""
    logs = {
        service: machines.execute(service, "sh", "-c", "cat /var/lib/twinhost/audit/*.jsonl").splitlines()
        for service in PROCESSES_OF[SDT]
    }
    for lines in logs.values():
        last = json.loads(lines[-1])
        findings = verify(lines, Anchor(1, NO_HASH), Head(last["seq"], last["hash"]))
        assert findings.whole, findings.summary()
    (active,) = [service for service in logs if machines.role(service) == "active"]
    (standby,) = set(logs) - {active}
    assert logs[active][: len(logs[standby])] == logs[standby]
    assert machines.health(active)["checks"]["audit_log"]["ok"]
