"""What an adapter takes of what is stored: whose it is, and whether it can be read.

Anybody who may write into the memory may store something under the name of an item. So an adapter takes what its own
key wrote, and of others what its program names. What can't be read is left out, and said.
"""

import json
from collections.abc import Collection
from typing import Any, NoReturn

import structlog

from twinhost.network_config.model import PRIVATE, SHARED
from twinhost.secure_zmq.callers import UNAUTHENTICATED

_log = structlog.get_logger("twinhost.adapters")
MOST_DEPTH = 100  # of a value: deeper ones break what other programs do with it, such as a copy
_MOST_NOTED = 1_000

Writers = Collection[str] | None


class Taken:
    """Which writers' items an adapter takes; those it can't read are in `unreadable`, each with the reason."""

    def __init__(self, own: str, writers: Writers) -> None:
        """Take what `own` has written, and what `writers` have: nobody else, or with None everybody."""
        if isinstance(writers, str):
            raise TypeError(f"writers is {writers!r}; give a list of names, such as [{writers!r}]")
        self.own = own
        self.unreadable: dict[str, str] = {}
        self._writers = None if writers is None else frozenset((own, *writers))
        self._left_out: set[str] = set()

    def takes(self, writer: str) -> bool:
        """Return whether items of this writer are taken; a writer who is not is logged once."""
        if self._writers is None or writer in self._writers:
            return True
        if writer not in self._left_out and len(self._left_out) < _MOST_NOTED:
            self._left_out.add(writer)
            _log.warning("items_of_others_left_out", writer=writer, remedy="name the writer in `writers` to take them")
        return False

    def skip(self, identity: object, writer: str, error: Exception) -> None:
        """Note that an item can't be read; each is logged once."""
        if str(identity) not in self.unreadable and len(self.unreadable) < _MOST_NOTED:
            self.unreadable[str(identity)] = str(error)
            _log.warning("item_not_readable", id=str(identity), writer=writer, reason=str(error))


def in_space(space: str | None, own: str, writers: Writers) -> dict[str, str]:
    """Return the field of every request that says in which space of the memory an adapter's items are.

    Args:
        space: as its program asks for it. None: the program's own; where it takes others' items, or nobody is
            authenticated, the shared one.
        own: the name in the program's key.
        writers: whose items it takes besides.
    """
    if space is None:
        space = SHARED if writers is None or writers or own == UNAUTHENTICATED.name else PRIVATE
    return {} if space == SHARED else {"space": space}


def read_json(text: str | bytes) -> Any:
    """Return the value of a JSON text, in which strings may have line breaks.

    Raises:
        ValueError: it is none, has a number that JSON has not, or is nested too deeply.
    """
    try:
        value = json.loads(text, strict=False, parse_constant=_no_number)
    except RecursionError:
        raise ValueError(f"nested more than {MOST_DEPTH} deep") from None
    require_shallow(value)
    return value


def require_shallow(value: Any) -> None:
    """Raise ValueError for a value that `read_json` would not return."""
    level = [value]
    for _ in range(MOST_DEPTH + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list | tuple)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    if level:
        raise ValueError(f"nested more than {MOST_DEPTH} deep")


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
