"""What the generated clients have in common: a call whose reply is typed, and iteration over pages."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from functools import cache
from inspect import unwrap
from types import CodeType, FunctionType
from typing import Any, Generic, TypeAlias, TypeVar

from twinhost.clients.replies import Reply, read
from twinhost.secure_zmq.client import DEFAULT_MAX_PAYLOAD_BYTES, Client
from twinhost.secure_zmq.errors import (
    MalformedRequest,
    RequestError,
    TwinhostError,
    UnexpectedReply,
    UnknownAction,
    did_you_mean,
)
from twinhost.secure_zmq.framing.exchange import Asked
from twinhost.secure_zmq.server_address import ServerAddress

_OF_EVERY_REQUEST = ("on_behalf_of", "accepts", "traceparent", "source_agent", "timestamp")
R = TypeVar("R", bound=Reply)
Row = TypeVar("Row")
PageReader = Callable[[R], tuple[Iterable[Row], Any]]  # its rows and the next cursor; None: the last page
Asking: TypeAlias = tuple[str, Set[str]]  # an action, and the names of its fields
SCHEMA_ACTION = "get_schema"


class TypedClient(Client):
    """A client whose methods return typed replies, and which sends no field that neither it nor the agent knows."""

    def __init__(self, server: ServerAddress, *, max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES) -> None:
        super().__init__(server, max_payload_bytes=max_payload_bytes)
        self._confirmed: set[Asking] = set()  # what the agent knows, and this class does not

    def _ask(self, kind: type[R], action: str, arguments: Mapping[str, Any]) -> R:
        """Call an action with the arguments of a method; None is a field that is not sent."""
        return read(self.call(action, **given(arguments)), kind, f"the reply to {action}")

    def _ask_for(self, action: str, fields: Mapping[str, Any], request_id: str, deadline_s: float | None) -> Asked:
        if (unknown := asking_unknown(type(self), action, fields)) and unknown not in self._confirmed:
            try:
                schema = self.call(SCHEMA_ACTION, deadline_s=deadline_s)
            except RequestError:  # it is not granted, or the agent is older and knows less
                schema = {}
            require_known(type(self), self._agent_name, action, fields, schema)
            self._confirmed.add(unknown)
        return super()._ask_for(action, fields, request_id, deadline_s)

    def _ask_many(
        self, kind: type[R], action: str, items: Iterable[Mapping[str, Any]], return_exceptions: bool, **options: Any
    ) -> list[Any]:
        """Call an action once for each item, with many in flight; return the replies in the items' order.

        Args:
            kind: the type of the reply.
            action: what is called.
            items: the arguments of each call, by name.
            return_exceptions: return an error in its place, instead of raising the first one.
            options: of `map`.
        """
        results = CallResults(kind, action, items, return_exceptions)
        try:
            for reply in self.map(results.requests, return_exceptions=True, **options):
                results.take(reply)
        except TwinhostError as error:
            results.end(error)
        return results.results

    def _pages(
        self,
        kind: type[R],
        action: str,
        arguments: Mapping[str, Any],
        cursor: str,
        page_of: PageReader[R, Row],
        identity: Callable[[Row], Any] | None = None,
    ) -> Iterator[Row]:
        """Yield the rows of every page.

        Args:
            kind: the type of the reply.
            action: what returns a page.
            arguments: those of the method, by name.
            cursor: the field that names the next page.
            page_of: returns a page's rows and the next cursor, None after the last page.
            identity: of a row, by which one that comes a second time is recognised: where a row that is added moves
                those that follow.
        """
        place: Any = None
        seen: set[Any] = set()
        while True:
            rows, place = page_of(self._ask(kind, action, {**arguments, cursor: place}))
            yield from new_rows(rows, identity, seen)
            if place is None:
                return


@cache
def actions_of(kind: type) -> Mapping[str, FunctionType]:
    """Return the method of each action, of a class that was written for an agent, or of a subclass; else nothing."""
    for written in kind.__mro__:
        if vars(written).get("_agent_name"):
            names = dict(vars(written).get("_renamed", ()))
            return {
                names.get(name, name): method
                for name, method in vars(written).items()
                if isinstance(method, FunctionType) and "request_id" in _arguments(method)  # an iterator has none
            }
    return {}


@cache
def fields_of(method: FunctionType) -> Set[str]:
    """Return the names of an action's fields, and of those that every request may have."""
    return frozenset({*_arguments(method), *_OF_EVERY_REQUEST}) - {"self", "deadline_s", "request_id"}


def _arguments(method: FunctionType) -> tuple[str, ...]:
    code: CodeType = unwrap(method).__code__
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def asking_unknown(kind: type, action: str, fields: Mapping[str, Any]) -> Asking | None:
    """Return an action and the names of its fields where the class of its agent does not know one of these."""
    actions = actions_of(kind)
    if not actions or action == SCHEMA_ACTION or (action in actions and fields.keys() <= fields_of(actions[action])):
        return None
    return action, frozenset(fields)


def require_known(kind: type, agent: str, action: str, fields: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """Raise unless the agent, which may be newer than the class, knows the action and the fields that this does not.

    Args:
        kind: the class.
        agent: the agent's name.
        action: the action.
        fields: what is to be sent.
        schema: the agent's reply to `get_schema`, which is not trusted; without one, the class decides about fields.

    Raises:
        UnknownAction, MalformedRequest: it does not; nothing was sent.
    """
    known, whose = _fields_in(schema), "its own schema"
    if known and action not in known:
        nearest = did_you_mean(action, known)
        raise UnknownAction(f"the request was not sent: by {whose}, {agent} has no action {action!r}{nearest}")
    if not known:
        if action not in actions_of(kind):
            return
        known, whose = {action: fields_of(actions_of(kind)[action])}, "this client"
    fields_known = known[action]
    if unknown := [name for name in fields if name not in fields_known and name not in _OF_EVERY_REQUEST]:
        raise MalformedRequest(
            f"the request was not sent: by {whose}, {action} of {agent} has no field "
            f"{', '.join(map(repr, unknown))}{did_you_mean(unknown[0], fields_known)}"
        )


def _fields_in(schema: Mapping[str, Any]) -> Mapping[str, Set[str]]:
    """Return the fields of each action; nothing where the schema is not as this version has it."""
    try:
        requests = schema["requests"]
        return {
            str(action): frozenset(requests["$defs"][reference.rpartition("/")[2]]["properties"])
            for action, reference in requests["discriminator"]["mapping"].items()
        }
    except (KeyError, TypeError, AttributeError):
        return {}


class CallResults(Generic[R]):
    """The requests of many calls of one action, and what came of them so far."""

    def __init__(self, kind: type[R], action: str, items: Iterable[Mapping[str, Any]], return_exceptions: bool) -> None:
        """Read the items, before anything is sent; for the arguments see `_ask_many`.

        Raises:
            TypeError: one is no mapping.
        """
        self.requests = [(action, given(_checked(item, place))) for place, item in enumerate(items)]
        self.results: list[R | TwinhostError] = []
        self._kind = kind
        self._source = f"the reply to {action}"
        self._return_exceptions = return_exceptions

    def take(self, reply: Mapping[str, Any] | RequestError) -> None:
        """Note the next reply, or its error; raise that unless errors are returned."""
        result: R | TwinhostError
        try:
            result = reply if isinstance(reply, RequestError) else read(reply, self._kind, self._source)
        except UnexpectedReply as error:
            result = error
        if isinstance(result, TwinhostError) and not self._return_exceptions:
            raise result
        self.results.append(result)

    def end(self, error: TwinhostError) -> None:
        """Note the error of all others, as after the loss of the connection; raise it unless errors are returned."""
        if not self._return_exceptions:
            error.add_note(f"items[{len(self.results)}] has this error; what comes before it is done")
            raise error
        self.results += [error] * (len(self.requests) - len(self.results))


def _checked(item: object, place: int) -> Mapping[str, Any]:
    if not isinstance(item, Mapping):
        raise TypeError(f"items[{place}] is a {type(item).__name__}; give a dict with the fields of one call")
    return item


def given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return those arguments of a method, by name, that are not None."""
    return {name: value for name, value in arguments.items() if value is not None and name != "self"}


def new_rows(rows: Iterable[Row], identity: Callable[[Row], Any] | None, seen: set[Any]) -> Iterator[Row]:
    """Yield the rows that were not yielded before."""
    for row in rows:
        if identity is not None:
            if (key := identity(row)) in seen:
                continue
            seen.add(key)
        yield row
