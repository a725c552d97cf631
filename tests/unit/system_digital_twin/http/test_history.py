"""`/api/history`: what is stored of a range, asked of the thread that owns the store."""

import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.unit.agent.assembled import environment_of
from tests.unit.system_digital_twin.http.asked import Asked
from tests.unit.system_digital_twin.twin import Clock
from tests.waiting import PATIENCE_S, wait_until
from twinhost.agent.telemetry import Readers
from twinhost.store.database import Database
from twinhost.system_digital_twin.http import questions as questions_module
from twinhost.system_digital_twin.http.history import RANGES
from twinhost.system_digital_twin.http.questions import MAX_WAITING, NotAnswered, Questions
from twinhost.system_digital_twin.metrics.history import COLUMNS, Bucket, Figure, MetricsHistory

MAX_BYTES = 250_000  # of an answer; a page asks for one every 30 s


@pytest.fixture
def twin(tmp_path: Path, clock: Clock) -> Iterator[Asked]:
    with Asked(environment_of(tmp_path, "mainpc"), clock) as twin:
        yield twin


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("1h", 58, 61), ("6h", 98, 101), ("1d", 98, 101), ("7d", 2, 3), ("30d", 2, 3)],
    ids=list(RANGES),
)
def test_a_range_has_what_is_stored_of_it(twin: Asked, clock: Clock, name: str, least: int, most: int) -> None:
    """Minutes up to a day, hours above; the mean and the maximum of each, and nothing older."""
    clock.stand_still()
    for at in range(100):
        for cpu in (10 + at, 30 + at):
            twin.measured(cpu_percent=min(cpu, 100), ram_used_mb=at + 1)
        clock.let_pass(60)
    answer = twin.get("/api/history", host="pc2", range=name)
    assert answer.status_code == 200
    course = answer.json()
    assert {len(values) for values in course.values() if isinstance(values, list)} == {len(course["t"])}
    assert least <= len(course["t"]) <= most
    assert course["t"] == sorted(course["t"])
    if RANGES[name][0] == "minute":
        assert (course["cpu_percent"][-2], course["cpu_percent_max"][-2]) == (100.0, 100.0)
        assert course["ram_used_mb"][-2] == 99


def store_month(database: Database) -> None:
    """Store a month of pc2, as its samples would be: a day of all minutes, and before it two minutes of each hour."""
    now, history = database.clock.time(), MetricsHistory(database)
    with database.transaction():
        for ago in range(30 * 1_440 - 1, -1, -1):
            if ago >= 1_440 and ago % 30:
                continue
            figures: dict[str, Any] = {column.field: Figure(12, 12 * (40.13 + ago % 50), 95.37) for column in COLUMNS}
            history.add("pc2", Bucket(Bucket.at(now - 60 * ago).start, **figures))


@pytest.mark.thorough
def test_each_range_of_a_month_is_whole_and_small(twin: Asked, clock: Clock) -> None:
    """From its beginning to now, with a point a minute or an hour, and no gap."""
    clock.stand_still()
    twin.measured(cpu_percent=40)
    store_month(twin.database)
    for name, (resolution, length_s) in RANGES.items():
        answer = twin.get("/api/history", host="pc2", range=name)
        course, step_s = answer.json(), {"minute": 60, "hour": 3_600}[resolution]
        times = course["t"]
        assert length_s / step_s - 1 <= len(times) <= length_s / step_s, name
        assert {later - earlier for earlier, later in pairwise(times)} == {step_s}, name
        assert abs(clock.time() - length_s - times[0]) <= step_s, name
        assert all(40 < mean < 91 for mean in course["cpu_percent"]), name
        assert set(course["cpu_percent_max"]) == {95.37}, name
        assert len(answer.content) < MAX_BYTES, name


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ({"host": "pc2", "range": "5y"}, 400, "1h, 6h, 1d, 7d, 30d"),
        ({"host": "pc2"}, 400, "name a range"),
        ({"host": "nowhere", "range": "1h"}, 404, "no host 'nowhere' is known; there are: mainpc, pc2"),
        ({"range": "1h"}, 404, "no host '' is known"),
    ],
    ids=["range", "no range", "host", "no host"],
)
def test_another_question_is_refused_in_words(twin: Asked, query: dict[str, str], status: int, words: str) -> None:
    answer = twin.get("/api/history", **query)
    assert answer.status_code == status
    assert words in answer.json()["error"]


def test_who_asks_waits_for_a_turn_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many at a time; one that was given up is not answered any more."""
    monkeypatch.setattr(questions_module, "ANSWER_S", 0.2)
    questions, asked = Questions(Readers()), list[int]()
    outcomes: list[str] = []

    def ask(number: int) -> None:
        try:
            questions.ask(lambda: asked.append(number))
        except NotAnswered:
            outcomes.append("not answered")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(MAX_WAITING)]
    for thread in threads:
        thread.start()
    while len(questions._waiting) < MAX_WAITING:
        pass
    with pytest.raises(NotAnswered):
        questions.ask(lambda: asked.append(99))
    for thread in threads:
        thread.join(PATIENCE_S)
    questions.on_tick()
    assert (asked, outcomes) == ([], ["not answered"] * MAX_WAITING)


def test_what_a_question_raises_is_raised_where_it_was_asked() -> None:
    readers = Readers()
    questions = Questions(readers)
    readers.request_tick = questions.on_tick
    with pytest.raises(ZeroDivisionError):
        questions.ask(lambda: 1 // 0)
    assert questions.ask(lambda: 7) == 7


def test_a_turn_answers_one_question_and_agents_come_between() -> None:
    """The next one has a turn of its own; whoever asks on and on gets a fifth of the thread."""
    readers = Readers()
    questions, turns = Questions(readers), list[int]()
    readers.request_tick = lambda: turns.append(1)
    took_s = 0.05
    threads = [threading.Thread(target=lambda: questions.ask(lambda: time.sleep(took_s))) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(questions._waiting) == 2, PATIENCE_S, "both wait")
    questions.on_tick()
    assert (len(questions._waiting), len(turns)) == (1, 3)
    questions.on_tick()
    for thread in threads:
        thread.join(PATIENCE_S)
    readers.request_tick = questions.on_tick
    asked = time.monotonic()
    questions.ask(int)
    assert time.monotonic() - asked > took_s * questions_module.PAUSE / 2
