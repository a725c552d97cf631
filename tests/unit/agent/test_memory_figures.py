"""What is said of a memory: counts and names, as few as a heartbeat has room for, and counted now and then."""

from pathlib import Path

import msgspec
import pytest

from tests.unit.system_digital_twin.twin import UMRA, Clock, Twin
from twinhost.agent.memory_figures import EVERY_S, MOST_NAMES, HiddenWriter, MemoryFigures, NewestFigures, Use, largest

NONE = MemoryFigures(
    memories=0,
    interactions=0,
    sessions=0,
    twins=0,
    error_patterns=0,
    writers=[],
    all_writers=0,
    quarantined=[],
    all_quarantined=0,
)


def test_the_largest_writers_come_first_and_the_rest_are_counted() -> None:
    writers = largest({f"agent-{number:02}": number * 10.0 for number in range(MOST_NAMES + 5)})
    assert len(writers) == MOST_NAMES
    assert (writers[0].name, writers[0].stored_bytes) == ("agent-24", 240)
    assert [writer.stored_bytes for writer in writers] == sorted((w.stored_bytes for w in writers), reverse=True)


def test_figures_are_counted_every_ten_seconds() -> None:
    clock, counted = Clock(), list[int]()
    clock.stand_still()

    def count() -> MemoryFigures:
        counted.append(1)
        return NONE

    figures = NewestFigures(count, clock.monotonic)
    for _ in range(30):
        figures.on_tick()
        clock.let_pass(1)
    assert len(counted) == pytest.approx(30 / EVERY_S, abs=1)
    assert figures.newest == NONE


def test_a_heartbeat_has_room_for_so_many(tmp_path: Path) -> None:
    """With the longest names; more of them are refused by their field."""
    most = [HiddenWriter(name="x" * 256, since="2026-11-01T08:00:00.000+00:00", by="y" * 256)] * MOST_NAMES
    used = [Use(name="x" * 256, limit="stored_bytes", used=1e9, most=2.0**63, share=0.5)] * MOST_NAMES
    writers = largest({"x" * 200 + str(n): 9.0 for n in range(30)})
    full = msgspec.structs.replace(NONE, quarantined=most, writers=writers, usage=used)
    assert len(msgspec.json.encode(full)) < 25_000
    with Twin(tmp_path / "twin.sqlite3", Clock()) as twin:
        twin.register()
        assert twin.ask("heartbeat", agent_name=UMRA.name, memory=msgspec.to_builtins(full))["status"] == "success"
        more = {**msgspec.to_builtins(full), "quarantined": msgspec.to_builtins(most + most[:1])}
        reply = twin.ask("heartbeat", agent_name=UMRA.name, memory=more)
        assert (reply["code"], "$.memory.quarantined" in reply["error"]) == ("malformed_request", True)
