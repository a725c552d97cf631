"""Who may claim an epoch and how long it is held: a model of processes, clocks, and databases that fail.

Hypothesis chooses what happens next, and tries to have two processes answer at one time, or an acknowledged transaction
be lost. It runs the rules that the agents run; the log and the database files are lists.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from twinhost.store.replication.epochs import (
    BEAT_S,
    CLAIM_AFTER_S,
    HOLDS_S,
    Candidate,
    Epoch,
    Tenure,
    require_next,
)

NAMES = ("mainpc", "pc2")
RATES = (0.9, 1.1)  # of their clocks
BETWEEN_S = (HOLDS_S + CLAIM_AFTER_S) / 2
OUTCOMES = st.sampled_from(
    ["done", "done", "done", "done", "lost", "cancelled"]
)  # of a commit, for whoever has asked for it


@dataclass(frozen=True)
class Row:
    seq: int
    epoch: int
    what: int


@dataclass
class Process:
    """What one process has: its file, which outlives it, and what it knows, which doesn't."""

    name: str
    rate: float  # of its clock
    file: list[Row] = field(default_factory=list)
    candidate: Candidate = field(default_factory=Candidate)
    tenure: Tenure | None = None
    caught_up: bool = False
    appended: Row | None = None  # and not yet committed in the file

    def die(self, *, manual: bool = False) -> None:
        self.candidate = Candidate(self.name, manual=manual)
        self.tenure, self.caught_up, self.appended = None, False, None


def standing_by(process: Process) -> bool:
    return process.tenure is None


def active(process: Process) -> bool:
    return process.tenure is not None


def ready(process: Process) -> bool:
    return process.tenure is not None and process.appended is None


class EitherMayDie(RuleBasedStateMachine):
    """Processes that stand by, claim, append, and answer, over a database of which one copy may be lost.

    `durable` is what both copies have; `visible` is what the first one shows, which has more after a cancelled commit.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0
        self.epoch = self.durable_epoch = Epoch(0, 0, "", 0)
        self.visible: list[Row] = []
        self.durable: list[Row] = []
        self.acknowledged: list[Row] = []
        self.written = 0
        self.beats = count()
        self.processes = {name: Process(name, rate) for name, rate in zip(NAMES, RATES, strict=True)}
        for process in self.processes.values():
            process.die()
        first = self.processes[NAMES[0]]
        first.candidate.saw(self.epoch, self.clock(first))
        assert first.candidate.may_claim(self.clock(first)), "nobody holds it"
        self.claim(first)

    def clock(self, process: Process) -> float:
        return self.now * process.rate

    def commit(self, *, cancelled: bool = False) -> None:
        """Have both copies have what is visible: a later commit takes the earlier ones with it."""
        if not cancelled:
            self.durable, self.durable_epoch = list(self.visible), self.epoch

    def some(self, data: st.DataObject, kind: Callable[[Process], bool]) -> Process:
        return self.processes[data.draw(st.sampled_from([name for name in NAMES if kind(self.processes[name])]))]

    @rule(seconds=st.sampled_from([0.1, BEAT_S, HOLDS_S - BEAT_S, HOLDS_S, BETWEEN_S, CLAIM_AFTER_S, 30.0]))
    def time_passes(self, seconds: float) -> None:
        """Nobody does anything meanwhile: all are stopped, or cut off."""
        self.now += seconds

    @rule(name=st.sampled_from(NAMES), chance=st.integers(0, 4), manual=st.booleans())
    def a_process_dies(self, name: str, chance: int, manual: bool) -> None:
        """It starts again, with the configuration of now."""
        if chance == 0:
            self.processes[name].die(manual=manual)

    @rule(name=st.sampled_from(NAMES), chance=st.integers(0, 2))
    def an_operator_gives_the_turn(self, name: str, chance: int) -> None:
        """At any moment: the commands look first, which no safety hangs on."""
        if chance == 0:
            self.epoch = replace(self.epoch, turn=name)
            self.commit()

    @precondition(lambda self: len(self.visible) > len(self.durable) or self.epoch != self.durable_epoch)
    @rule()
    def the_first_database_is_lost(self) -> None:
        self.visible, self.epoch = list(self.durable), self.durable_epoch

    @precondition(lambda self: any(map(standing_by, self.processes.values())))
    @rule(data=st.data(), took=st.sampled_from([0.0, 0.5, 5.0]))
    def a_standby_looks(self, data: st.DataObject, took: float) -> None:
        process = self.some(data, standing_by)
        seen = self.epoch
        self.now += took
        process.candidate.saw(seen, self.clock(process))
        self.follow(process, seen.durable)

    @precondition(lambda self: any(map(standing_by, self.processes.values())))
    @rule(data=st.data(), seconds=st.sampled_from([BETWEEN_S, CLAIM_AFTER_S, CLAIM_AFTER_S + BEAT_S, 30.0]))
    def a_standby_takes_over(self, data: st.DataObject, seconds: float) -> None:
        """It looks, looks again after a while in which the others do nothing, and claims if it may."""
        process = self.some(data, standing_by)
        for wait in (0.0, seconds):
            self.now += wait
            process.candidate.saw(self.epoch, self.clock(process))
            self.follow(process, self.epoch.durable)
        if self.may_claim(process):
            self.claim(process)

    @precondition(lambda self: any(map(ready, self.processes.values())))
    @rule(data=st.data(), times=st.integers(1, 3))
    def an_active_process_serves(self, data: st.DataObject, times: int) -> None:
        """It confirms its epoch, and acknowledges transactions."""
        process = self.some(data, ready)
        self.confirm(process)
        for _ in range(times):
            if process.tenure is not None:
                self.append(process)
                self.answer(process)

    def follow(self, process: Process, until: int) -> None:
        entries = [row for row in self.visible if len(process.file) < row.seq <= until]
        require_next(entries, len(process.file))
        process.file += entries

    def may_claim(self, process: Process) -> bool:
        return standing_by(process) and process.candidate.may_claim(self.clock(process))

    @precondition(lambda self: any(map(self.may_claim, self.processes.values())))
    @rule(data=st.data(), took=st.sampled_from([0.0, 0.0, 3.5]), outcome=OUTCOMES)
    def a_standby_claims(self, data: st.DataObject, took: float, outcome: str) -> None:
        self.claim(self.some(data, self.may_claim), took, outcome)

    def claim(self, process: Process, took: float = 0.0, outcome: str = "done") -> None:
        seen = process.candidate.seen
        assert seen is not None
        asked_at = self.clock(process)
        self.now += took
        if (seen.number, seen.beat) != (self.epoch.number, self.epoch.beat):
            return
        if process.candidate.manual:
            assert seen.turn in ("", process.name), "it was not its turn"
        beat = next(self.beats)
        self.epoch = replace(self.epoch, number=seen.number + 1, beat=beat, holder=process.name, turn=process.name)
        self.commit(cancelled=outcome == "cancelled")
        if outcome == "done":
            process.tenure = Tenure(self.epoch.number, asked_at, self.epoch.durable)

    @precondition(lambda self: any(map(active, self.processes.values())))
    @rule(data=st.data(), took=st.sampled_from([0.0, 0.5, 5.0]), outcome=OUTCOMES)
    def an_active_process_confirms(self, data: st.DataObject, took: float, outcome: str) -> None:
        self.confirm(self.some(data, active), took, outcome)

    def confirm(self, process: Process, took: float = 0.0, outcome: str = "done") -> None:
        assert process.tenure is not None
        asked_at = self.clock(process)
        self.now += took
        if self.epoch.number != process.tenure.number:
            process.die()
            return
        durable = max(self.epoch.durable, process.tenure.durable)
        self.epoch = replace(self.epoch, beat=next(self.beats), durable=durable)
        self.commit(cancelled=outcome == "cancelled")
        if outcome == "done":
            process.tenure.confirmed(asked_at)

    @precondition(lambda self: any(map(ready, self.processes.values())))
    @rule(data=st.data(), outcome=OUTCOMES)
    def an_active_process_appends(self, data: st.DataObject, outcome: str) -> None:
        self.append(self.some(data, ready), outcome)

    def append(self, process: Process, outcome: str = "done") -> None:
        assert process.tenure is not None
        if self.epoch.number != process.tenure.number:
            process.die()
            return
        if not process.caught_up:
            self.follow(process, len(self.visible))
            process.tenure.appended(len(process.file))
            process.caught_up = True
        self.written += 1
        row = Row(process.tenure.durable + 1, process.tenure.number, self.written)
        self.visible.append(row)
        self.commit(cancelled=outcome == "cancelled")
        if outcome == "done":
            process.appended = row
        else:  # the process doesn't know: it ends, without an answer
            process.die()

    @precondition(lambda self: any(process.appended for process in self.processes.values()))
    @rule(data=st.data())
    def an_active_process_commits_and_answers(self, data: st.DataObject) -> None:
        self.answer(self.some(data, lambda process: process.appended is not None))

    def answer(self, process: Process) -> None:
        assert process.tenure is not None
        assert process.appended is not None
        process.file.append(process.appended)
        process.tenure.appended(process.appended.seq)
        if process.tenure.holds(self.clock(process)):
            self.acknowledged.append(process.appended)
            process.appended = None
        else:
            process.die()

    @precondition(lambda self: any(map(ready, self.processes.values())))
    @rule(data=st.data())
    def an_active_process_releases(self, data: st.DataObject) -> None:
        process = self.some(data, ready)
        assert process.tenure is not None
        if self.epoch.number == process.tenure.number:
            kept = process.candidate.manual or self.epoch.turn != process.name
            self.epoch = replace(self.epoch, holder="", beat=next(self.beats), turn=self.epoch.turn if kept else "")
            self.commit()
        process.die()

    @invariant()
    def nothing_acknowledged_is_lost(self) -> None:
        assert set(self.acknowledged) <= set(self.durable)

    @invariant()
    def one_answers_at_a_time(self) -> None:
        answering = [
            name
            for name, process in self.processes.items()
            if process.tenure is not None and process.tenure.holds(self.clock(process))
        ]
        assert len(answering) <= 1, answering

    @invariant()
    def every_file_is_a_beginning_of_the_log(self) -> None:
        for process in self.processes.values():
            assert process.file == self.durable[: len(process.file)]

    @invariant()
    def the_log_has_no_gap(self) -> None:
        assert [row.seq for row in self.visible] == list(range(1, len(self.visible) + 1))


TestEitherMayDie = EitherMayDie.TestCase
TestEitherMayDie.settings = settings(settings.get_profile("repeatable"), stateful_step_count=60)
