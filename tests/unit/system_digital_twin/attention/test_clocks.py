"""A clock that differs is named with whose was set, and with the keys that are refused because of it."""

import pytest

from twinhost.agent.clocks import ClockReport
from twinhost.agent.troubles import Level, Trouble
from twinhost.system_digital_twin.attention.clocks import SeenClock, ahead_s, differing_clocks


def clock(ahead: float, *, host: str = "pc2", within: float = 0.01, set_by: float = 0.0, **seen: object) -> SeenClock:
    report = ClockReport(ahead_s=ahead, within_s=within, set_by_s=set_by)
    return SeenClock(host, report, **{"own_set_by_s": 0.0, **seen})  # type: ignore[arg-type]


def found(*clocks: SeenClock, own_set_by_s: float = 0.0, refused: tuple[str, ...] = ()) -> list[Trouble]:
    return [*differing_clocks("mainpc", clocks, own_set_by_s, lambda _: refused)]


@pytest.mark.parametrize(
    ("ahead", "within", "differs"),
    [(4.0, 0.01, False), (-4.0, 0.01, False), (5.5, 0.01, True), (-5.5, 0.01, True), (6.0, 2.0, False)],
)
def test_a_difference_counts_beyond_its_bounds(ahead: float, within: float, differs: bool) -> None:
    """A slow round trip is no wrong clock."""
    assert bool(found(clock(ahead, within=within))) is differs


@pytest.mark.parametrize(
    ("ahead", "said"),
    [(7_200, "2 h ahead of"), (-7_200, "2 h behind"), (61, "61 s ahead of"), (-86_400, "1 d behind"), (90, "90 s a")],
)
def test_it_says_by_how_much_and_whose(ahead: float, said: str) -> None:
    (trouble,) = found(clock(ahead))
    assert (trouble.id, trouble.level) == ("clocks_differ:pc2", Level.ATTENTION)
    assert trouble.what.startswith(f"pc2's clock is {said}")
    assert "which of them is right is not known" in (trouble.cause or "")
    assert trouble.remedies[0].on == "pc2"


def test_the_clock_that_was_set_is_named() -> None:
    (trouble,) = found(clock(-7_200, set_by=-7_199.5))
    assert trouble.cause == "pc2's clock was set back by 2 h while its agent ran"
    (other,) = found(clock(-7_200, set_by=-60))
    assert "which of them is right is not known" in (other.cause or ""), "a minute does not explain two hours"
    seen = [clock(-7_200, own_set_by_s=7_200), clock(-7_201, host="pc3", own_set_by_s=7_200)]
    (ours,) = found(*seen, own_set_by_s=7_200)
    assert ours.id == "clocks_differ:mainpc", "not one for each of the others"
    assert ours.what == "mainpc's clock is 2 h ahead of pc2 and pc3's"
    assert ours.cause == "mainpc's clock was set forward by 2 h while its agent ran"
    assert ours.remedies[0].on == "mainpc"


def test_a_clock_that_was_set_right_is_no_trouble() -> None:
    """As NTP does after a start."""
    measured_since = clock(0.1, set_by=-7_200, own_set_by_s=7_200)
    assert found(measured_since, own_set_by_s=7_200) == []


def test_what_was_measured_before_mainpcs_clock_was_set_waits() -> None:
    """The next heartbeat measures again; for a host that is silent since, it is what is known."""
    assert ahead_s(clock(0.0), own_set_by_s=7_200) is None
    assert ahead_s(clock(0.0, silent=True), own_set_by_s=7_200) == -7_200
    assert ahead_s(clock(0.0, own_set_by_s=7_200), own_set_by_s=7_200) == 0


def test_it_explains_the_silence_that_it_causes_alone() -> None:
    """Where a key is not valid by it."""
    (harmless,) = found(clock(60, silent=True))
    assert harmless.explains == ()
    (trouble,) = found(clock(10**9, silent=True), refused=("SystemDigitalTwin",))
    assert "host_silent:pc2" in trouble.explains
    assert {f"refusals:{host}/key_expired/*" for host in ("mainpc", "pc2")} < {*trouble.explains}
    (heard,) = found(clock(10**9), refused=("SystemDigitalTwin",))
    assert "host_silent:pc2" not in heard.explains
    seen = [clock(0, silent=True), clock(-1, host="pc3", silent=True)]
    (ours,) = differing_clocks("mainpc", seen, 7_200, lambda ahead: ("SDT",) if ahead < -7_200 else ())
    assert {"host_silent:pc2", "host_silent:pc3"} & {*ours.explains} == {"host_silent:pc3"}
    assert trouble.level is Level.BROKEN
    assert "so pc2 refuses the keys of SystemDigitalTwin" in (trouble.cause or "")
