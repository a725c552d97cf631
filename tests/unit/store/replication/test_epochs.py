"""Who may claim an epoch and how long it is held: a model of processes, clocks, and databases that fail.

Hypothesis chooses what happens next, and tries to have two processes answer at one time, or an acknowledged transaction
be lost.
"""

from collections.abc import Callable
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.unit.store.replication.model import Model, Process
from twinhost.store.replication.epochs import BEAT_S, CLAIM_AFTER_S, HOLDS_S

NAMES = ("mainpc", "pc2")
RATES = (0.9, 1.1)  # of their clocks
BETWEEN_S = (HOLDS_S + CLAIM_AFTER_S) / 2
OUTCOMES = st.sampled_from(
    ["done", "done", "done", "done", "lost", "cancelled"]
)  # of a commit, for whoever has asked for it


def standing_by(process: Process) -> bool:
    return process.tenure is None


def active(process: Process) -> bool:
    return process.tenure is not None


def ready(process: Process) -> bool:
    return process.tenure is not None and process.appended is None


class EitherMayDie(Model, RuleBasedStateMachine):
    """What may happen next, and to which process."""

    def __init__(self) -> None:
        RuleBasedStateMachine.__init__(self)
        Model.__init__(self, dict(zip(NAMES, RATES, strict=True)), now=1_000.0)
        first = self.processes[NAMES[0]]
        first.candidate.saw(self.epoch, self.clock(first))
        assert first.candidate.may_claim(self.clock(first)), "nobody holds it"
        self.claim(first)

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

    @precondition(lambda self: any(map(self.may_claim, self.processes.values())))
    @rule(data=st.data(), took=st.sampled_from([0.0, 0.0, 3.5]), outcome=OUTCOMES)
    def a_standby_claims(self, data: st.DataObject, took: float, outcome: str) -> None:
        self.claim(self.some(data, self.may_claim), took, outcome)

    @precondition(lambda self: any(map(active, self.processes.values())))
    @rule(data=st.data(), took=st.sampled_from([0.0, 0.5, 5.0]), outcome=OUTCOMES)
    def an_active_process_confirms(self, data: st.DataObject, took: float, outcome: str) -> None:
        self.confirm(self.some(data, active), took, outcome)

    @precondition(lambda self: any(map(ready, self.processes.values())))
    @rule(data=st.data(), outcome=OUTCOMES)
    def an_active_process_appends(self, data: st.DataObject, outcome: str) -> None:
        self.append(self.some(data, ready), outcome)

    @precondition(lambda self: any(process.appended for process in self.processes.values()))
    @rule(data=st.data())
    def an_active_process_commits_and_answers(self, data: st.DataObject) -> None:
        self.answer(self.some(data, lambda process: process.appended is not None))

    @precondition(lambda self: any(map(ready, self.processes.values())))
    @rule(data=st.data())
    def an_active_process_releases(self, data: st.DataObject) -> None:
        self.release(self.some(data, ready))

    @invariant()
    def it_is_sound(self) -> None:
        self.require_sound()


TestEitherMayDie = EitherMayDie.TestCase
TestEitherMayDie.settings = settings(settings.get_profile("repeatable"), stateful_step_count=60)
