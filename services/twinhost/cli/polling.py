"""Ask every agent the same, one by one; whoever can't be asked is told and hides no other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from twinhost.cli.connect import Settings
from twinhost.cli.failures import Failure
from twinhost.network_config import Agent
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import TwinhostError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What one agent answered, or why it did not."""

    agent: Agent
    value: T | None
    failure: Failure | None


def ask_every_agent(settings: Settings, question: Callable[[Client], T]) -> Sequence[Answer[T]]:
    """Return every agent's answer, in the configuration's order."""
    return [_ask(settings, agent, question) for agent in settings.config.agents.values()]


def _ask(settings: Settings, agent: Agent, question: Callable[[Client], T]) -> Answer[T]:
    try:
        with settings.client(agent) as client:
            return Answer(agent, question(client), None)
    except TwinhostError as error:
        return Answer(agent, None, Failure.of(error).about(agent.name))
