"""`twinhost_attention`: the list as Prometheus reads it."""

from prometheus_client.parser import text_string_to_metric_families

from twinhost.agent.telemetry import Telemetry
from twinhost.agent.troubles import AttentionItem, Kind, Level, Trouble, item_of, list_of
from twinhost.moments import iso_time
from twinhost.system_digital_twin.attention.gauges import MOST_ITEMS, attention_metrics

LABELS = ("kind", "subject", "level")
SILENT = Trouble(kind=Kind.HOST_SILENT, subject='pc2 "x"\n\\', what="pc2 does not respond", level=Level.BROKEN)
ERRORS = Trouble(kind=Kind.ERRORS, what="3 errors")


def scraped(*items: AttentionItem) -> dict[tuple[str, ...], float]:
    """Return the values by their labels, as Prometheus reads them."""
    telemetry = Telemetry("SystemDigitalTwin")
    telemetry.gathered().gather(attention_metrics(list_of(items, iso_time(0))))
    return {
        tuple(sample.labels[name] for name in LABELS if name in sample.labels): sample.value
        for family in text_string_to_metric_families(telemetry.render().decode())
        if family.name.startswith("twinhost_attention")
        for sample in family.samples
    }


def test_each_item_is_1_and_the_level_is_the_worst() -> None:
    assert scraped() == {(): 0}
    assert scraped(item_of(ERRORS, 0.0), item_of(SILENT, 0.0)) == {
        (): 2,
        ("errors", "", "attention"): 1,
        ("host_silent", SILENT.subject, "broken"): 1,
    }


def test_what_is_acknowledged_is_0() -> None:
    """An alert ends with it, and the item can still be seen."""
    silent: AttentionItem = {**item_of(SILENT, 0.0), "acknowledged": {"by": "operator", "at": iso_time(1)}}
    assert scraped(item_of(ERRORS, 0.0), silent) == {
        (): 1,
        ("errors", "", "attention"): 1,
        ("host_silent", SILENT.subject, "broken"): 0,
    }


def test_agents_cannot_make_endless_series() -> None:
    """They choose the names of the places where agents are silent; the worst items are kept."""
    places = [Trouble(kind=Kind.AGENTS_SILENT, subject=f"{number}", what="x") for number in range(MOST_ITEMS + 9)]
    many = [item_of(place, 0.0) for place in places]
    values = scraped(*many, item_of(SILENT, 1e9))
    assert len(values) == MOST_ITEMS + 1
    assert values["host_silent", SILENT.subject, "broken"] == 1


def test_before_the_first_look_nothing_is_claimed() -> None:
    telemetry = Telemetry("SystemDigitalTwin")
    telemetry.gathered()
    assert b"twinhost_attention" not in telemetry.render()
