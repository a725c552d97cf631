"""The account after a fault: both files and the log agree, and have once what the ledgers acknowledged."""

import inspect
import json
from collections.abc import Sequence
from typing import Any

from tests import replayed
from tests.failover.machines import NODES, PROCESSES_OF, Machines
from tests.failover.writers import SDT, Writer
from tests.ledger import check
from tests.waiting import wait_until

_EQUAL_WITHIN_S = 30.0
_EVENT = "json_extract(CAST(record AS TEXT), '$.event_id')"
_CALLS = {
    True: f"SELECT {_EVENT}, count(*) FROM happenings WHERE topic = 'EVENT:' GROUP BY 1",
    False: "SELECT content, count(*) FROM interactions GROUP BY 1",
}
_REPORT = """
import hashlib, json, sqlite3, sys
{contents}
agent, calls = sys.argv[1:]
connection = sqlite3.connect(f"file:/var/lib/twinhost/{{agent}}.sqlite3?mode=ro", uri=True)
connection.execute("BEGIN")
(applied,) = connection.execute("SELECT applied FROM log_position").fetchone()
def hashed(text):
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
tables = {{name: hashed(text) for name, text in contents(connection).items()}}
print(json.dumps([applied, tables, dict(connection.execute(calls).fetchall())]))
"""


_LOG = "SELECT count(*), min(seq), max(seq) FROM commits WHERE agent = '{}'"  # of its oldest, the log may have let go


def account(machines: Machines, agent: str, writers: Sequence[Writer]) -> None:
    """Fail unless both files of an agent and the log on both nodes agree, and have each acknowledged call once."""
    program = _REPORT.format(contents=inspect.getsource(replayed.contents))

    def reports() -> list[Any] | None:
        both = [
            json.loads(machines.execute(service, "python", "-c", program, agent, _CALLS[agent == SDT]))
            for service in PROCESSES_OF[agent]
        ]
        return both if both[0][0] == both[1][0] else None

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
    for writer in writers:
        mine = {call: times for call, times in one[2].items() if (call or "").startswith(f"{writer.prefix}-")}
        verdict = check(writer.plain(), mine)
        assert verdict.whole, (writer.kind, verdict)
    if agent == SDT:
        _require_one_chain(machines)


def _require_one_chain(machines: Machines) -> None:
    """Fail unless mainpc's audit log is intact, and that of the standby is how it begins, or goes on with it."""
    logs = {
        service: machines.execute(service, "sh", "-c", "cat /var/lib/twinhost/audit/*.jsonl")
        for service in PROCESSES_OF[SDT]
    }
    shorter, longer = sorted(logs.values(), key=len)
    assert longer.startswith(shorter)
    (active,) = [service for service in logs if machines.role(service) == "active"]
    assert machines.health(active)["checks"]["audit_log"]["ok"]
