"""State machines as tables."""

from enum import Enum

import pytest

from twinhost.state_table import StateTable, Transition


class Door(Enum):
    OPEN = "Open"
    SHUT = "Shut"
    SEALED = "Sealed"


class Hand(Enum):
    PUSH = "a push"
    SEAL = "a seal"


class Sound(Enum):
    SLAM = "slam"


DOOR: StateTable[Door, Hand, Sound] = StateTable(
    Door.OPEN,
    Transition(Door.OPEN, Hand.PUSH, Door.SHUT, Sound.SLAM),
    Transition(Door.SHUT, Hand.PUSH, Door.OPEN),
    Transition(Door.SHUT, Hand.SEAL, Door.SEALED),
)


def test_an_event_leads_to_its_state_and_effect() -> None:
    """And one that the state does not name changes nothing."""
    shut = DOOR.after(Door.OPEN, Hand.PUSH)
    assert (shut.then, shut.effect) == (Door.SHUT, Sound.SLAM)
    assert DOOR.after(Door.SEALED, Hand.PUSH).then is Door.SEALED


def test_a_table_draws_itself() -> None:
    """With its first state, every transition, and the states that nothing leads out of."""
    assert DOOR.mermaid().splitlines() == [
        "stateDiagram-v2",
        "    [*] --> Open",
        "    Open --> Shut: a push / slam",
        "    Shut --> Open: a push",
        "    Shut --> Sealed: a seal",
        "    Sealed --> [*]",
    ]


def test_no_event_has_two_meanings_in_a_state() -> None:
    """One of them would never happen."""
    with pytest.raises(ValueError, match="two transitions"):
        StateTable(
            Door.OPEN, Transition(Door.OPEN, Hand.PUSH, Door.SHUT), Transition(Door.OPEN, Hand.PUSH, Door.SEALED)
        )
