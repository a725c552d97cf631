"""mainpc shows how much is in pc2's memory and whose it is, and nothing of its content; with real agents."""

from pathlib import Path
from typing import Any

from tests.loopback.agent_processes import SDT, UMRA, Hosts
from tests.waiting import PATIENCE_S, wait_until

SECRET, SESSION = "the parcel is under the stairs", "a-private-session"


def test_counts_writers_and_quarantine_arrive_without_content(tmp_path: Path) -> None:
    with Hosts(tmp_path) as hosts:
        mainpc, _ = hosts.start_both()
        with hosts.client(UMRA, by="operator") as client:
            client.call("store_memory", content=SECRET, keywords=["parcel"], id="a-memory")
            client.call("add_interaction", session_id=SESSION, interaction_type="user_query", content=SECRET)
            client.call("quarantine_memory", name="vision", reason=SECRET)
        with hosts.client(UMRA, by=SDT) as client:  # an operator has no budget
            client.call("store_memory", content=SECRET)

        def kept() -> dict[str, Any] | None:
            memory: dict[str, Any] | None = mainpc.http("/api/state")[1]["memory"]
            return memory if memory and memory["all_quarantined"] and memory["memories"] == 2 else None

        document = wait_until(kept, PATIENCE_S, "a heartbeat has brought the figures")
        assert document is not None
        assert (document["name"], document["host"]) == (UMRA, "pc2")
        assert (document["memories"], document["interactions"], document["sessions"]) == (2, 1, 1)
        (writer,) = (writer for writer in document["writers"] if writer["name"] == "operator")
        assert writer["stored_bytes"] > 2 * len(SECRET)
        (hidden,) = document["quarantined"]
        assert (hidden["name"], hidden["by"]) == ("vision", "operator")
        state = str(mainpc.http("/api/state")[1]["memory"])
        assert not any(words in state for words in (SECRET, SESSION, "parcel", "a-memory"))
        mine = [use for use in mainpc.http("/api/state")[1]["usage"] if use["host"] == "pc2" and use["name"] == SDT]
        (stored,) = [use for use in mine if use["limit"] == "stored_bytes"]
        assert 2 * len(SECRET) < stored["used"] < stored["most"]
        with hosts.client(SDT, by="operator") as client:
            assert client.call("heartbeat", agent_name=UMRA)["status"] == "success"  # as an older agent sends it
