"""The model of a failover: processes, their clocks and files, and a database of which one copy may be lost.

It runs the rules that the agents run; the log and the database files are lists. Hypothesis drives it in `test_epochs`.
Here it is driven by what processes have logged: `accept` says whether the model could have done the same.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import count
from typing import Any

from twinhost.store.replication.epochs import Candidate, Epoch, Tenure, require_next


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


class Model:
    """What processes do that stand by, claim, append, and answer.

    `durable` is what both copies have; `visible` is what the first one shows, which has more after a cancelled commit.
    """

    def __init__(self, rates: Mapping[str, float], now: float) -> None:
        """Begin with processes that stand by, each with the rate of its clock."""
        self.now = now
        self.epoch = self.durable_epoch = Epoch(0, 0, "", 0)
        self.visible: list[Row] = []
        self.durable: list[Row] = []
        self.acknowledged: list[Row] = []
        self.written = 0
        self.beats = count()
        self.processes = {name: Process(name, rate) for name, rate in rates.items()}
        for process in self.processes.values():
            process.die()

    def clock(self, process: Process) -> float:
        return self.now * process.rate

    def commit(self, *, cancelled: bool = False) -> None:
        """Have both copies have what is visible: a later commit takes the earlier ones with it."""
        if not cancelled:
            self.durable, self.durable_epoch = list(self.visible), self.epoch

    def follow(self, process: Process, until: int) -> None:
        entries = [row for row in self.visible if len(process.file) < row.seq <= until]
        require_next(entries, len(process.file))
        process.file += entries

    def may_claim(self, process: Process) -> bool:
        return process.tenure is None and process.candidate.may_claim(self.clock(process))

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

    def release(self, process: Process) -> None:
        assert process.tenure is not None
        if self.epoch.number == process.tenure.number:
            kept = process.candidate.manual or self.epoch.turn != process.name
            self.epoch = replace(self.epoch, holder="", beat=next(self.beats), turn=self.epoch.turn if kept else "")
            self.commit()
        process.die()

    def require_sound(self) -> None:
        """Fail if two answer at one time, or something acknowledged is lost, or a file differs from the log."""
        assert set(self.acknowledged) <= set(self.durable)
        answering = [
            name
            for name, process in self.processes.items()
            if process.tenure is not None and process.tenure.holds(self.clock(process))
        ]
        assert len(answering) <= 1, answering
        for process in self.processes.values():
            assert process.file == self.durable[: len(process.file)]
        assert [row.seq for row in self.visible] == list(range(1, len(self.visible) + 1))


NOT_LOGGED = -1  # the `what` of a transaction without a line of its own
LATE_S = 0.25  # how much later than what it says a line may be written
Line = Mapping[str, Any]  # of a process's log, with its name as `process`


def accept(lines: Iterable[Line]) -> int:
    """Fail unless the model can do what processes of one agent have logged, which begin with an empty database.

    A line that is none of these events is passed by. What a killed process appended last may have no line.

    Returns:
        how many lines were events.
    """
    trace = _Trace()
    return sum(trace.take(line) for line in sorted(lines, key=lambda line: str(line["timestamp"])))


class _Trace(Model):
    def __init__(self) -> None:
        super().__init__({}, 0.0)
        self.beat_at = 0.0  # from when on another process may have seen what the epoch is now
        self.ended: dict[str, tuple[int, float]] = {}  # which epoch a process had last, and until when
        self.claimed_at = 0.0

    def take(self, line: Line) -> bool:
        event = getattr(self, f"on_{line['event']}", None)
        if event is None:
            return False
        self.now = datetime.fromisoformat(line["timestamp"]).timestamp()
        process = self.processes.setdefault(line["process"], Process(line["process"], 1.0))
        before, tenure = (self.epoch.number, self.epoch.beat), process.tenure
        event(process, line)
        if tenure is not None and process.tenure is None:
            self.ended[process.name] = tenure.number, self.now
        if before != (self.epoch.number, self.epoch.beat):
            self.beat_at = self.now - line.get("took_s", 0.0)
        self.require_sound()
        return True

    def on_standing_by(self, process: Process, _: Line) -> None:
        """It has connected to the log: it has begun, or has seen the epoch already while no database took writes."""
        process.die()

    def on_ended_by_log(self, process: Process, _: Line) -> None:
        process.die()

    def on_log_followed(self, process: Process, line: Line) -> None:
        if process.tenure is None:
            # What the active one knows to be durable, and says in the beat of which its own line may come later.
            assert line["transactions"] <= len(self.visible), f"{line}: it was not known to be durable"
            self.follow(process, line["transactions"])
            assert len(process.file) == line["transactions"], f"{line}: the log has less"

    def on_epoch_claimed(self, process: Process, line: Line) -> None:
        assert self.epoch.number == line["epoch"] - 1, f"{line}: {self.epoch.holder} has claimed {self.epoch.number}"
        assert process.tenure is None, f"{line}: it is active"
        process.candidate.saw(self.epoch, self.beat_at)
        assert process.candidate.may_claim(self.now + LATE_S), f"{line}: {self.epoch.holder} may still answer"
        self.claim(process)
        self.claimed_at = self.now

    def on_active(self, process: Process, line: Line) -> None:
        """It has repeated the rest of the log, of which the last transaction may be one that nobody has logged."""
        self._require_tenure(process, line)
        assert process.tenure is not None
        if line["transactions"] == len(self.visible) + 1:
            self.visible.append(Row(line["transactions"], line["epoch"] - 1, NOT_LOGGED))
            self.commit()
        self.follow(process, line["transactions"])
        assert len(process.file) == line["transactions"] == len(self.visible), f"{line}: the log has other transactions"
        process.tenure.appended(line["transactions"])
        process.caught_up = True

    def on_epoch_confirmed(self, process: Process, line: Line) -> None:
        if process.tenure is None and process.name in self.ended:
            number, at = self.ended[process.name]
            assert number == line["epoch"], f"{line}: it has no epoch"
            assert self.now - line["took_s"] <= at + LATE_S, f"{line}: it was asked for after the end"
            return
        if process.tenure is not None and process.tenure.number == line["epoch"] < self.epoch.number:
            assert self.now - line["took_s"] <= self.claimed_at + LATE_S, (
                f"{line}: it was asked for after the next claim"
            )
            return
        self._require_tenure(process, line)
        self.now -= line["took_s"]
        self.confirm(process, line["took_s"])

    def on_transaction_appended(self, process: Process, line: Line) -> None:
        if self._was_fenced_meanwhile(process, line):
            process.die()
            return
        self._require_tenure(process, line)
        assert process.tenure is not None
        assert line["seq"] == process.tenure.durable + 1, f"{line}: the last one was {process.tenure.durable}"
        self.append(process)
        assert process.appended is not None
        process.file.append(process.appended)
        process.tenure.appended(line["seq"])
        process.appended = None

    def on_epoch_held(self, process: Process, line: Line) -> None:
        """A reply leaves now, or could."""
        self._require_tenure(process, line)
        assert process.tenure is not None
        assert process.tenure.holds(self.now - LATE_S), f"{line}: its last beat is too old"
        self.acknowledged = list(process.file)

    def on_epoch_released(self, process: Process, line: Line) -> None:
        self._require_tenure(process, line)
        self.release(process)

    def _was_fenced_meanwhile(self, process: Process, line: Line) -> bool:
        """Return whether it was stopped between its commit and this line: the next epoch has repeated it."""
        number = process.tenure.number if process.tenure else self.ended.get(process.name, (0,))[0]
        return number == line["epoch"] < self.epoch.number and any(
            row == Row(line["seq"], line["epoch"], NOT_LOGGED) for row in self.visible
        )

    def _require_tenure(self, process: Process, line: Line) -> None:
        assert process.tenure is not None, f"{line}: it has no epoch"
        assert process.tenure.number == line["epoch"] == self.epoch.number, f"{line}: {self.epoch} is another one's"
