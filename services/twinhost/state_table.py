"""A state machine as a table, (state, event) to (next state, effect), which draws its own diagram.

The values of the enumerations' members are the words of the diagram. `scripts/write_diagrams.py` puts it into a page.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

State = TypeVar("State", bound=Enum)
Event = TypeVar("Event", bound=Enum)
Effect = TypeVar("Effect", bound=Enum)


@dataclass(frozen=True, slots=True)
class Transition(Generic[State, Event, Effect]):
    """What an event leads to in a state: the state after it, and what is to be done, if anything."""

    state: State
    event: Event
    then: State
    effect: Effect | None = None


class StateTable(Generic[State, Event, Effect]):
    """The transitions of a state machine; an event that a state doesn't name changes nothing."""

    def __init__(self, first: State, *transitions: Transition[State, Event, Effect]) -> None:
        self.first = first
        self._by_cause = {(row.state, row.event): row for row in transitions}
        if len(self._by_cause) < len(transitions):
            raise ValueError("the table has two transitions for one state and event")

    def after(self, state: State, event: Event) -> Transition[State, Event, Effect]:
        """Return the transition of an event in a state."""
        return self._by_cause.get((state, event)) or Transition(state, event, state)

    def mermaid(self) -> str:
        """Return the diagram, in the table's order; a state without a transition is final."""
        return "\n".join(["stateDiagram-v2", *(f"    {line}" for line in self._lines())])

    def _lines(self) -> Iterator[str]:
        yield f"[*] --> {self.first.value}"
        for row in self._by_cause.values():
            effect = f" / {row.effect.value}" if row.effect else ""
            yield f"{row.state.value} --> {row.then.value}: {row.event.value}{effect}"
        begun = {state for state, _ in self._by_cause}
        for state in dict.fromkeys(row.then for row in self._by_cause.values()):
            if state not in begun:
                yield f"{state.value} --> [*]"
