"""The actions on spaces themselves: list those that the caller may use, and delete one."""

from typing import Annotated, Literal, TypedDict

import msgspec
import structlog

from twinhost.network_config.model import SHARED
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import MalformedRequest, NotGranted
from twinhost.secure_zmq.wire import NAME, Request
from twinhost.unified_memory_reasoning import SUCCESS
from twinhost.unified_memory_reasoning.spaces.access import Usable
from twinhost.unified_memory_reasoning.spaces.databases import Spaces

_log = structlog.get_logger(__name__)

MOST = 1_000  # that a reply lists


class ListSpaces(Request, tag="list_spaces"):
    """List the spaces that you may use, and what they hold; an operator sees all that are stored."""


class DeleteSpace(Request, tag="delete_space"):
    """Delete a space with all that it holds; an operator's action. A backup of it is not touched."""

    name: Annotated[NAME, msgspec.Meta(examples=["private"])]


class SpaceDocument(TypedDict):
    """A space: its bytes on disk, and how many rows it has of each kind, null if they can't be counted."""

    name: str
    may_write: bool
    size_bytes: int
    rows: dict[str, int] | None


class SpaceList(TypedDict):
    """Spaces, the shared one first; `more` is true if there are others than these 1,000."""

    status: Literal["ok"]
    spaces: list[SpaceDocument]
    more: bool


class SpaceDeleted(TypedDict):
    """The space is deleted; `existed` is false if nothing was stored in it."""

    status: Literal["ok"]
    name: str
    existed: bool


class SpaceActions(Feature):
    """Lists and deletes spaces."""

    def __init__(self, spaces: Spaces) -> None:
        self._spaces = spaces

    @action()
    def list_spaces(self, _: ListSpaces, caller: Caller) -> SpaceList:
        usable = dict(self._spaces.access.usable(caller))
        if caller.operator:
            usable = {**dict.fromkeys(self._spaces.names(), True), **usable}
        names = sorted(usable, key=lambda name: (name != SHARED, name))
        return {
            "status": SUCCESS,
            "spaces": [self._document(Usable(name, usable[name])) for name in names[:MOST]],
            "more": len(names) > MOST,
        }

    @action(apart=True)  # its database can't be deleted within a transaction; it may be repeated
    def delete_space(self, request: DeleteSpace, caller: Caller) -> SpaceDeleted:
        if not caller.operator:
            raise NotGranted(f"{caller.name} is not an operator, and only operators delete spaces; ask one of them")
        if request.name == SHARED:
            raise MalformedRequest("the shared space can't be deleted; name another - at `$.name`")
        name = self._spaces.access.require(request.name, caller, writes=True)
        existed = self._spaces.delete(name)
        _log.warning("space_deleted", name=name, by=caller.name, existed=existed)
        return {"status": SUCCESS, "name": name, "existed": existed}

    def _document(self, space: Usable) -> SpaceDocument:
        return {
            "name": space.name,
            "may_write": space.writes,
            "size_bytes": self._spaces.size_bytes(space.name),
            "rows": self._spaces.rows(space.name),
        }
