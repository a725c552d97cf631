"""What a load would do: the contract's arithmetic at its edges, and where a load fits best."""

import pytest

from twinhost.system_digital_twin.capacity.forecast import (
    Card,
    Forecast,
    HostState,
    Leased,
    LoadType,
    forecast_of,
    place,
)

KNOWN = HostState(
    host="pc2",
    cpu_percent=40.0,
    ram_used_mb=500.0,
    ram_total_mb=1_000.0,
    cards=(Card(index=0, used_mb=4_000.0, total_mb=10_000.0),),
    latency_ms=20.0,
)


@pytest.mark.parametrize(
    ("load_type", "value", "recommendation", "projection"),
    [
        ("vram", 5_500, "proceed", {"projected_vram_mb": 9_500.0, "vram_capacity_mb": 10_000.0}),
        ("vram", 5_500.01, "deny_insufficient_resources", {"projected_vram_mb": 9_500.01, "vram_capacity_mb": 10_000}),
        ("vram", 90_000, "deny_insufficient_resources", {"projected_vram_mb": 94_000, "vram_capacity_mb": 10_000}),
        ("ram", 400, "proceed", {"projected_ram_mb": 900.0, "ram_capacity_mb": 1_000.0}),
        ("ram", 400.01, "deny_insufficient_resources", {"projected_ram_mb": 900.01, "ram_capacity_mb": 1_000.0}),
        ("cpu", 50, "proceed", {"projected_cpu_percent": 90.0}),
        ("cpu", 50.01, "caution_high_cpu", {"projected_cpu_percent": 90.01}),
        ("cpu", 500, "caution_high_cpu", {"projected_cpu_percent": 100.0}),
        ("network", 120, "proceed", {"projected_latency_ms": 200.0}),
        ("network", 120.01, "caution_high_latency", {"projected_latency_ms": 200.015}),
    ],
)
def test_the_contracts_arithmetic(
    load_type: LoadType, value: float, recommendation: str, projection: dict[str, float]
) -> None:
    """VRAM over 95 %, RAM over 90 %, CPU over 90 and capped at 100, latency + 1.5 × value over 200."""
    found = forecast_of(KNOWN, load_type, value)
    assert (found.recommendation, found.projection) == (recommendation, projection)
    assert ("within" if found.fits else "over") in found.reason


@pytest.mark.parametrize(
    ("load_type", "recommendation", "projection"),
    [
        ("vram", "deny_insufficient_resources", {"projected_vram_mb": None, "vram_capacity_mb": None}),
        ("ram", "deny_insufficient_resources", {"projected_ram_mb": None, "ram_capacity_mb": None}),
        ("cpu", "caution_high_cpu", {"projected_cpu_percent": None}),
        ("network", "caution_high_latency", {"projected_latency_ms": None}),
    ],
)
def test_what_is_not_measured_is_not_promised(
    load_type: LoadType, recommendation: str, projection: dict[str, None]
) -> None:
    """No figure is made up for it, and nobody is advised to proceed."""
    found = forecast_of(HostState(host="pc2"), load_type, 1)
    assert (found.recommendation, found.projection, found.headroom) == (recommendation, projection, None)
    assert found.reason.endswith("is not measured now")


@pytest.mark.parametrize(
    ("leased", "taken_mb"),
    [
        (Leased(), 500),
        (Leased(to_come_mb=100), 600),
        (Leased(in_use_mb=100), 500),
        (Leased(in_use_mb=700), 700),
        (Leased(to_come_mb=100, in_use_mb=700), 800),
    ],
)
def test_leases_count(leased: Leased, taken_mb: float) -> None:
    """What is to come is added; what is in use is in the measured figure, and counts where that shows less."""
    state = HostState(host="pc2", ram_used_mb=500, ram_total_mb=1_000, ram_leased=leased, vram_leased=Leased())
    assert forecast_of(state, "ram", 1).projection["projected_ram_mb"] == taken_mb + 1


def test_leases_of_one_resource_are_not_those_of_another() -> None:
    state = HostState(
        host="pc2",
        ram_used_mb=1,
        ram_total_mb=1_000,
        cards=(Card(index=0, used_mb=1, total_mb=1_000, leased=Leased(to_come_mb=9)),),
    )
    assert forecast_of(state, "ram", 1).projection["projected_ram_mb"] == 2
    assert forecast_of(state, "vram", 1).projection["projected_vram_mb"] == 11


def test_vram_is_never_a_sum_over_cards() -> None:
    """A load goes to the card with the most headroom; if it fits none, the reason names the card with the most."""
    cards = tuple(Card(index=index, used_mb=used, total_mb=10_000) for index, used in enumerate((4_000, 3_500, 3_600)))
    state = HostState(host="pc2", cards=cards)
    found = forecast_of(state, "vram", 5_000)
    assert (found.recommendation, found.gpu, found.headroom) == ("proceed", {"index": 1, "uuid": None}, 1_000)
    found = forecast_of(state, "vram", 10_000)
    assert (found.recommendation, found.projection["vram_capacity_mb"]) == ("deny_insufficient_resources", 10_000)
    assert found.reason == (
        "pc2's VRAM on GPU 1 would be at 13500 of 10000 MB, over 95 %; "
        "6000 MB can be reserved there, and no card of pc2 has more"
    )


def of(host: str, used_mb: float | None, value: float = 100) -> Forecast:
    return forecast_of(HostState(host=host, ram_used_mb=used_mb, ram_total_mb=1_000), "ram", value)


def test_a_load_is_placed_where_most_is_left() -> None:
    found = place([of("a", 700), of("b", 300), of("c", 500)])
    assert (found.host, found.best.host) == ("b", "b")
    assert found.reason == "b's RAM would be at 400 of 1000 MB, within 90 %; no other host has more headroom"


def test_of_equals_the_first_is_chosen() -> None:
    assert place([of("a", 300), of("b", 300)]).host == "a"


def test_an_unmeasured_host_is_chosen_last() -> None:
    """Neither for a load that fits elsewhere, nor as the least bad."""
    assert place([of("a", None), of("b", 700)]).host == "b"
    found = place([of("a", None), of("b", 10, 5_000)])
    assert (found.host, found.best.host) == (None, "b")
    assert place([of("a", None)]).best.host == "a"


def test_where_it_fits_nowhere_every_reason_is_given() -> None:
    """And the host that lacks least is the one whose figures are shown."""
    found = place([of("a", 850), of("b", 820), of("c", None)])
    assert (found.host, found.best.host) == (None, "b")
    assert found.reason == (
        "it fits on no host: a's RAM would be at 950 of 1000 MB, over 90 %; "
        "b's RAM would be at 920 of 1000 MB, over 90 %; c's RAM is not measured now"
    )


def test_the_cap_on_the_cpu_does_not_hide_which_host_is_better() -> None:
    """Both would be at 100 %; one of them by less."""
    states = [HostState(host="a", cpu_percent=90.0), HostState(host="b", cpu_percent=80.0)]
    assert place([forecast_of(state, "cpu", 40) for state in states]).best.host == "b"
