"""Where an agent is active, and since when: known after a restart on the other machine, and an event if it moved."""

from pathlib import Path
from typing import Any

from tests.unit.agent.assembled import environment_of
from tests.unit.system_digital_twin.http.test_state import Twin
from tests.unit.system_digital_twin.twin import OPERATOR, SDT, Clock
from twinhost.moments import iso_time
from twinhost.store.replication.looks import AgentLog, Follower, LogState

STANDBY = Follower("mainpc-standby", 2, 1.4)


def seen(holder: str, epoch: int, silent_s: float = 0.0) -> LogState:
    log = AgentLog(SDT.name, epoch, holder, 100, silent_s, (STANDBY, Follower("old", 9, 60.0)))
    return LogState({SDT.name: log}, 1, "witness")


def takeovers(twin: Twin) -> list[Any]:
    return [event["data"] for event in twin.call("get_events", OPERATOR, type="took_over")["events"]]


def test_the_page_shows_where_each_agent_is_active(tmp_path: Path) -> None:
    with Twin(environment_of(tmp_path, "mainpc"), clock := Clock()) as twin:
        assert "failover" not in twin.state()
        began = clock.time()
        twin.log.state = seen("mainpc", 1)
        document = twin.state()["failover"]
        assert began <= twin.database.value("SELECT since FROM holders") <= clock.time()
        since = iso_time(twin.database.value("SELECT since FROM holders"))
        assert document == {
            "agents": [
                {
                    "agent": SDT.name,
                    "holder": "mainpc",
                    "epoch": 1,
                    "since": since,
                    "moved_from": "",
                    "transactions": 100,
                    "standbys": [{"name": "mainpc-standby", "behind": 2, "silent_s": 1}],
                }
            ],
            "copies": 1,
            "witness": {"name": "witness", "answers": True},
        }
        twin.log.state, twin.log.witness_fault = seen("mainpc", 1, silent_s=60.0), "timed out"
        document = twin.state()["failover"]
        assert (document["agents"][0]["holder"], document["witness"]["answers"]) == (None, False)
        assert document["agents"][0]["since"] == since


def test_a_takeover_is_one_event_also_of_this_agent_itself(tmp_path: Path) -> None:
    """The database is the one that the other machine has; a start again on the same machine is none."""
    environment = environment_of(tmp_path, "mainpc")
    with Twin(environment, Clock()) as twin:
        twin.log.state = seen("mainpc", 1)
        twin.turn()
        assert takeovers(twin) == []
    with Twin(environment, Clock()) as twin:
        twin.log.state = seen("mainpc-standby", 2)
        for _ in range(2):
            twin.turn()
        moved = {"agent": SDT.name, "host": "mainpc", "from": "mainpc", "to": "mainpc-standby", "epoch": 2}
        assert takeovers(twin) == [moved]
        assert twin.state()["failover"]["agents"][0]["moved_from"] == "mainpc"
        twin.log.state = seen("mainpc-standby", 3)
        twin.turn()
        assert takeovers(twin) == [moved]
        assert twin.state()["failover"]["agents"][0]["moved_from"] == ""


def test_an_epoch_that_nobody_holds_is_no_takeover(tmp_path: Path) -> None:
    """It was released, as before a switchover: the event says from where to where, once it is claimed."""
    with Twin(environment_of(tmp_path, "mainpc"), Clock()) as twin:
        for holder, epoch in (("mainpc", 1), ("", 1), ("mainpc-standby", 2)):
            twin.log.state = seen(holder, epoch)
            twin.turn()
        assert [(data["from"], data["to"]) for data in takeovers(twin)] == [("mainpc", "mainpc-standby")]
