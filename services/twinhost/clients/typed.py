"""What the generated clients have in common: a call whose reply is typed, and iteration over pages."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from twinhost.clients.replies import Reply, read
from twinhost.secure_zmq.client import Client

R = TypeVar("R", bound=Reply)
Row = TypeVar("Row")
Page = Callable[[R], tuple[Iterable[Row], Any]]  # returns a page's rows and the cursor of the next; None: the last


class TypedClient(Client):
    """A client whose methods return typed replies."""

    def _ask(self, kind: type[R], action: str, arguments: Mapping[str, Any]) -> R:
        """Call an action with the arguments of a method; None is a field that is not sent."""
        return read(self.call(action, **given(arguments)), kind, f"the reply to {action}")

    def _pages(
        self,
        kind: type[R],
        action: str,
        arguments: Mapping[str, Any],
        cursor: str,
        page_of: Page[R, Row],
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
