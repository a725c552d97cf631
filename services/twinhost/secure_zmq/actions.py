"""The actions of an agent, and the older dialects that are translated into them.

A feature declares each message once: a request type, a reply type, and a method whose annotations name both. The table
of actions, the JSON Schema, and the command line's help derive from that.
"""

import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, get_args, get_origin, get_type_hints

from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import RequestError
from twinhost.secure_zmq.wire import Answer, Reply, Request, tag_of

R = TypeVar("R", bound=Request)
H = TypeVar("H", bound=Callable[..., Any])
P = TypeVar("P")
T = TypeVar("T")
InParts = Generator[None, None, T]  # of a handler that yields where others' requests may be served before it goes on
Handled = Answer | Future[Reply] | InParts[Answer]


def wholly(parts: InParts[T]) -> T:
    """Do all parts at once, and return what they come to."""
    while True:
        try:
            next(parts)
        except StopIteration as end:
            whole: T = end.value
            return whole


class Withdrawable(Future[T]):
    """A reply that may take long; the server cancels it once its caller's connection has ended."""


class Completed(Future[T], Generic[P, T]):
    """A reply that the loop completes, once another thread has finished a part of it, or without it at a deadline."""

    def __init__(self, part: "Future[P]", complete: "Callable[[P | None], T]", within_s: float) -> None:
        """Wait for the part for so long; `complete` runs on the thread that asks for the result."""
        super().__init__()
        self._part = part
        self._complete = complete
        self.until = time.monotonic() + within_s  # the deadline, by the monotonic clock

    def extend(self, further: "Callable[[T], T]") -> None:
        """Have the reply be what a function makes of it."""
        complete = self._complete
        self._complete = lambda part: further(complete(part))

    def done(self) -> bool:
        return self._part.done() or time.monotonic() >= self.until

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Have a function called once the part is finished; nothing calls it at the deadline."""
        self._part.add_done_callback(lambda _: fn(self))

    def result(self, timeout: float | None = None) -> T:
        left = max(0.0, self.until - time.monotonic())
        wait([self._part], left if timeout is None else min(timeout, left))
        return self._complete(self._part.result() if self._part.done() else None)


@dataclass(frozen=True, slots=True)
class Action(Generic[R]):
    """One action: its request type, its handler, and its options.

    A handler whose reply depends on something else returns a Future: the loop continues, and the reply is sent when the
    Future is done. That reply is not stored, so the handler must recognise a repeated request itself.

    A handler whose work takes long is a generator that returns the answer. Where it yields, requests of others may be
    served, and what it has changed may be committed: each part is repeatable, as a repeated request begins from the
    start after a crash between two parts. The reply is stored with the last part.
    """

    request: type[R]
    handle: Callable[[R, Caller], Handled]
    mutates: bool = False
    apart: bool = False  # whether it has transactions of its own, outside the batch's transaction
    forwardable: bool = False  # whether a peer may forward it for another caller
    from_reserve: bool = False  # whether it is served where the disk's reserve or the caller's share is reached
    unowned: str = ""  # why a mutating action changes nothing that another caller has written
    name: str = field(init=False)  # what the wire calls it, and what a grant names

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", tag_of(self.request))


@dataclass(frozen=True, slots=True)
class Declaration:
    """An action as its method declares it."""

    method: str
    request: type[Request]
    replies: tuple[type, ...]  # each a TypedDict: the replies that are not errors
    options: dict[str, Any]


def action(
    *,
    mutates: bool = False,
    apart: bool = False,
    forwardable: bool = False,
    from_reserve: bool = False,
    unowned: str = "",
) -> Callable[[H], H]:
    """Make a feature's method the handler of an action; its annotations name the request and the reply.

    Args:
        mutates: it changes the store; its reply leaves after the commit, and a repeated request gets the stored reply.
        apart: it has transactions of its own.
        forwardable: another agent may ask for it on behalf of its own caller.
        from_reserve: it changes the store also where the disk's reserve, or the caller's share, is reached: what keeps
            the agents running and in order, and what deletes.
        unowned: why it changes nothing that another caller has written; of a mutating action that `OWNED` lacks.
    """

    def declare(method: H) -> H:
        options = {
            "mutates": mutates,
            "apart": apart,
            "forwardable": forwardable,
            "from_reserve": from_reserve,
            "unowned": unowned,
        }
        method.action_options = options  # type: ignore[attr-defined]
        return method

    return declare


class Feature:
    """Actions that belong together: each method marked with `@action` answers one type of request."""

    @classmethod
    def declarations(cls) -> Iterator[Declaration]:
        """Yield what the class declares, in its order."""
        methods = {name: method for base in reversed(cls.__mro__) for name, method in vars(base).items()}
        for name, method in methods.items():
            options = getattr(method, "action_options", None)
            if options is not None:
                hints = get_type_hints(method)
                reply = hints.pop("return")
                (request,) = (hint for hint in hints.values() if isinstance(hint, type) and issubclass(hint, Request))
                if request is Request:
                    raise TypeError(f"{cls.__name__}.{name} names no type of request of its own")
                yield Declaration(name, request, tuple(dict.fromkeys(alternatives(reply))), options)

    def actions(self) -> list[Action[Any]]:
        """Return the actions that the class declares, with this object's methods as handlers."""
        return [Action(entry.request, getattr(self, entry.method), **entry.options) for entry in self.declarations()]


def alternatives(reply: Any) -> Iterator[type]:
    """Yield the types of a reply: each member of a union, and the result type of a Future or a generator."""
    if get_origin(reply) is Generator:
        yield from alternatives(get_args(reply)[-1])
    elif get_origin(reply) in (Future, Withdrawable) or (get_args(reply) and not isinstance(reply, type)):
        for member in get_args(reply):
            yield from alternatives(member)
    else:
        yield reply


@dataclass(frozen=True, slots=True)
class Translation:
    """A request of an older dialect as a current request, or its error, and how its replies are written."""

    request: Request | RequestError
    render: Callable[[Answer], Answer]
    render_error: Callable[[RequestError], Answer]


Translator = Callable[[bytes], Translation | None]


def no_dialect(_: bytes) -> Translation | None:
    """Translate nothing: the agent accepts the current dialect only."""
    return None
