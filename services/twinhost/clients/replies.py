"""What every typed reply has, and how the dict of `call` becomes one."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from twinhost.secure_zmq.errors import UnexpectedReply
from twinhost.version import VERSION

NOT_SENT: Any = msgspec.UNSET  # the default of a field that the agent of this version always sends
R = TypeVar("R", bound=msgspec.Struct)


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """A reply, or an object in one; fields that this version does not know are ignored.

    A field that the agent sends in every case is an error, UnexpectedReply, where it is read but was not sent: by an
    older agent. `hasattr` and `getattr` with a default work. Any other field without a value is None.
    """

    if not TYPE_CHECKING:  # a type checker would allow every name

        def __getattribute__(self, name: str) -> Any:
            value = super().__getattribute__(name)
            if value is NOT_SENT:
                client, _ = _client_of(type(self))
                raise UnexpectedReply(
                    f"the agent sent no `{name}` in {type(self).__name__}, as it is older than {client}; update the "
                    f"agent, or use getattr(reply, {name!r}, None)"
                )
            return value


class Reply(Part, frozen=True):
    """What every reply has; `ignored_fields` lists the fields that the agent does not know, since it is older."""

    status: str = NOT_SENT
    request_id: str | None = None
    ignored_fields: list[str] = []


def read(reply: Mapping[str, Any], kind: type[R], source: str) -> R:
    """Return an object as one of its type.

    Args:
        reply: what was received.
        kind: the type.
        source: what sent it, for the error's sentence.

    Raises:
        UnexpectedReply: a field has another type than in this version.
    """
    try:
        return msgspec.convert(reply, kind)
    except msgspec.ValidationError as error:
        client, advice = _client_of(kind)
        raise UnexpectedReply(
            f"{source} does not fit {client}: {error}; {advice}, or use call(), which returns a dict"
        ) from None


def _client_of(kind: type) -> tuple[str, str]:
    """Return which client has a type of reply, and what to do where the agent is another version."""
    if kind.__module__.startswith("twinhost."):
        return f"this client (twinhost {VERSION})", "use the same version on both sides"
    return f"the client in {kind.__module__}", "write that again: twinhost client AGENT"
