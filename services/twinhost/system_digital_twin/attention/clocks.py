"""The detector of clocks that differ: by how much, whose was set, and which keys are refused because of it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from twinhost.agent.clocks import ClockReport
from twinhost.agent.refused_connections import subject_of_peer
from twinhost.agent.troubles import Kind, Level, Remedy, Trouble
from twinhost.secure_zmq.peers import Outcome

DIFFER_S = 5.0  # beyond what a round trip explains; people compare times of two hosts by eye
_SAME_S = 2.0  # between a difference and the step that explains it, beside a part of it
_DRIFT = 0.01
_REFUSED = (Outcome.KEY_NOT_YET_VALID, Outcome.KEY_EXPIRED)


@dataclass(frozen=True, slots=True)
class SeenClock:
    """A host's clock, as its agent reported it last.

    `own_set_by_s` is by how much mainpc's clock had been set when that was measured.
    """

    host: str
    report: ClockReport
    own_set_by_s: float
    silent: bool = False


def ahead_s(clock: SeenClock, own_set_by_s: float) -> float | None:
    """Return how far a clock is ahead of mainpc's now, 0.0 if that is within its bounds; None while it is not known.

    The clock of a silent host is judged by what it was, and by what mainpc's was set by since. That of another host is
    measured again by its next heartbeat.
    """
    since_s = own_set_by_s - clock.own_set_by_s
    if abs(since_s) > _SAME_S and not clock.silent:
        return None
    ahead = clock.report.ahead_s - since_s
    return ahead if abs(ahead) - clock.report.within_s > DIFFER_S else 0.0


def differing_clocks(
    here: str, clocks: Iterable[SeenClock], own_set_by_s: float, valid_only_here: Callable[[float], Sequence[str]]
) -> Iterator[Trouble]:
    """Yield a trouble for each host whose clock differs from mainpc's; one alone if mainpc's was set.

    Args:
        own_set_by_s: by how much mainpc's clock was set since its start.
        valid_only_here: returns whose keys are valid by mainpc's clock, and not by one that is so far ahead.
    """
    apart = [(clock, ahead) for clock in clocks if (ahead := ahead_s(clock, own_set_by_s))]
    ours = [(clock, ahead) for clock, ahead in apart if _explains(-own_set_by_s, ahead)]
    for clock, ahead in apart:
        if (clock, ahead) in ours:
            continue
        set_by = clock.report.set_by_s
        cause = "nobody set either clock since the agents started, so which of them is right is not known"
        if _explains(set_by, ahead):
            cause = f"{clock.host}'s clock was set {_forward(set_by)} while its agent ran"
        what = f"{clock.host}'s clock is {_by(ahead)} {here}'s"
        yield _trouble(here, clock.host, what, cause, [(clock, valid_only_here(ahead))])
    if ours:
        hosts = " and ".join(sorted(clock.host for clock, _ in ours))
        yield _trouble(
            here,
            here,
            f"{here}'s clock is {_by(-ours[0][1])} {hosts}'s",
            f"{here}'s clock was set {_forward(own_set_by_s)} while its agent ran",
            [(clock, valid_only_here(ahead)) for clock, ahead in ours],
        )


def _trouble(
    here: str, subject: str, what: str, cause: str, clocks: Sequence[tuple[SeenClock, Sequence[str]]]
) -> Trouble:
    """Return the trouble of one host's clock; `clocks` are those compared, with whose keys each refuses."""
    refused = sorted({name for _, names in clocks for name in names})
    explains = [f"{Kind.HOST_SILENT}:{clock.host}" for clock, names in clocks if clock.silent and names]
    if refused:
        cause += f"; so {' and '.join(clock.host for clock, _ in clocks)} refuses the keys of {', '.join(refused[:5])}"
    return Trouble(
        kind=Kind.CLOCKS_DIFFER,
        subject=subject,
        host=subject,
        what=what,
        level=Level.BROKEN if refused else Level.ATTENTION,
        cause=cause,
        remedies=(
            Remedy(subject, "timedatectl status", "shows its time, and whether NTP sets it"),
            Remedy(subject, "sudo timedatectl set-ntp true", "has NTP set it, by systemd-timesyncd or chrony"),
        ),
        evidence=tuple(
            (clock.host, f"{clock.report.ahead_s:+.3f} s to within {clock.report.within_s:.3f} s")
            for clock, _ in clocks
        ),
        explains=(*explains, *_refusals({here, *(clock.host for clock, _ in clocks)})) if refused else (),
    )


def _refusals(hosts: Iterable[str]) -> Iterator[str]:
    for host in sorted(hosts):
        for cause in _REFUSED:
            yield f"{Kind.REFUSALS}:{subject_of_peer(host, '*', cause)}"


def _explains(step_s: float, ahead: float) -> bool:
    return abs(step_s) > DIFFER_S and abs(step_s - ahead) <= _SAME_S + _DRIFT * abs(ahead)


def _by(ahead: float) -> str:
    return f"{_duration(ahead)} {'ahead of' if ahead > 0 else 'behind'}"


def _forward(seconds: float) -> str:
    return f"{'forward' if seconds > 0 else 'back'} by {_duration(seconds)}"


def _duration(seconds: float) -> str:
    whole = round(abs(seconds))
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if whole >= 2 * length or (whole >= length and whole % length == 0):
            return f"{whole / length:.3g} {unit}"
    return f"{whole} s"
