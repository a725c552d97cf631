"""What an agent can be asked for: its actions, and the older dialects that are translated into them."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import RequestError
from twinhost.secure_zmq.wire import Answer, Reply, Request, tag_of

R = TypeVar("R", bound=Request)


@dataclass(frozen=True, slots=True)
class Action(Generic[R]):
    """One action: its request type, its handler, and what it takes.

    A handler that asks somebody else returns a Future: the loop goes on, and the answer is sent when it is there. Such
    an action does not mutate: what it changes is elsewhere, and so is the record of what was answered.
    """

    request: type[R]
    handle: Callable[[R, Caller], "Answer | Future[Reply]"]
    mutates: bool = False
    apart: bool = False  # whether it has transactions of its own, and no part in that of the changes that came with it
    forwardable: bool = False  # whether a peer may pass it on for another
    name: str = field(init=False)  # what the wire calls it, and what a grant names

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", tag_of(self.request))


@dataclass(frozen=True, slots=True)
class Translation:
    """A request of an older dialect as today's request, or what is wrong with it, and its words for the answers."""

    request: Request | RequestError
    render: Callable[[Answer], Answer]
    render_error: Callable[[RequestError], Answer]


Translator = Callable[[bytes], Translation | None]


def no_dialect(_: bytes) -> Translation | None:
    """Translate nothing: the agent speaks today's dialect only."""
    return None
