"""The rules of the attention list: causes hide their consequences, and the headline names the worst."""

from twinhost.agent.troubles import (
    AttentionItem,
    Kind,
    Level,
    Trouble,
    by_cause,
    consequences,
    headline,
    item_of,
    level_of,
    list_of,
)

FULL = Trouble(
    kind=Kind.DISK_FULL, subject="mainpc", what="mainpc's disk is full", level=Level.BROKEN, explains=("host_silent:*",)
)
SILENT = Trouble(kind=Kind.HOST_SILENT, subject="pc2", what="pc2 does not respond", level=Level.BROKEN)
HOT = Trouble(kind=Kind.GPU_HOT, subject="mainpc", what="a card is hot")


def ids(troubles: list[tuple[Trouble, list[Trouble]]]) -> list[tuple[str, list[str]]]:
    return [(root.id, [other.id for other in explained]) for root, explained in troubles]


def item(trouble: Trouble, **more: object) -> AttentionItem:
    return {"id": trouble.id, "what": trouble.what, "level": trouble.level.name.lower(), **more}  # type: ignore[typeddict-item]


def test_a_cause_hides_its_consequence() -> None:
    assert ids(by_cause([SILENT, HOT, FULL])) == [("disk_full:mainpc", ["host_silent:pc2"]), ("gpu_hot:mainpc", [])]


def test_a_consequence_alone_is_a_trouble() -> None:
    assert ids(by_cause([SILENT])) == [("host_silent:pc2", [])]


def test_a_chain_of_causes_ends_at_the_first() -> None:
    agents = Trouble(kind=Kind.AGENTS_SILENT, subject="pc2", what="two agents do not respond")
    silent = Trouble(kind=Kind.HOST_SILENT, subject="pc2", what="", explains=("agents_silent:pc2",))
    assert ids(by_cause([agents, silent, FULL])) == [("disk_full:mainpc", ["agents_silent:pc2", "host_silent:pc2"])]


def test_two_that_explain_each_other_stay_visible() -> None:
    first = Trouble(kind=Kind.DISK_FULL, subject="a", what="", explains=("disk_full:b",))
    second = Trouble(kind=Kind.DISK_FULL, subject="b", what="", explains=("disk_full:a",))
    assert ids(by_cause([first, second])) == [("disk_full:a", ["disk_full:b"])]


def test_only_an_empty_list_is_well() -> None:
    known = item(HOT, acknowledged={"by": "operator", "at": "now"})
    assert headline([]) == "All is well."
    assert headline([item(FULL)]) == "mainpc's disk is full."
    assert headline([item(FULL), item(HOT)]) == "mainpc's disk is full; and 1 more trouble."
    assert headline([known]) == "Nothing new is wrong; 1 trouble acknowledged."
    assert [level_of(items) for items in ([], [item(HOT)], [item(HOT), item(FULL)], [known])] == [0, 1, 2, 0]


def test_the_worst_come_first_and_of_these_the_oldest() -> None:
    """What is acknowledged comes last, however bad it is."""
    known = item_of(FULL, 1.0)
    known["acknowledged"] = {"by": "operator", "at": "now"}
    old, new, hot = item_of(SILENT, 5.0), item_of(FULL, 6.0), item_of(HOT, 0.0)
    assert list_of([known, new, hot, old], "now")["items"] == [old, new, hot, known]


def test_that_a_full_disk_is_nearly_full_goes_without_saying() -> None:
    nearly = Trouble(kind=Kind.DISK_NEARLY_FULL, subject="mainpc", what="mainpc's disk is nearly full")
    full = item_of(FULL, 0.0, [(nearly, 0.0), (SILENT, 0.0)])
    assert [other["id"] for other in full["explains"]] == [nearly.id, SILENT.id], "programs see it"
    assert [other["id"] for other in consequences(full)] == [SILENT.id]
