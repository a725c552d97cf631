"""A request that a peer passes on for another: judged by who asked first, and by who passes it on, never by one alone.

So an agent that forwards is no way around what its own caller may not do, and one that lies about its caller gains
nothing that it could not do itself. Only actions that are marked for it can be passed on.
"""

from collections.abc import Callable
from dataclasses import replace

from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import NotGranted
from twinhost.secure_zmq.grants import Grants

CallerNamed = Callable[[str], Caller | None]  # an identity that is live here, by its name


def nobody(_: str) -> Caller | None:
    """Know no identity, as an open link does."""
    return None


def first_caller(
    name: str, forwarder: Caller, action: str, forwardable: bool, grants: Grants, caller_named: CallerNamed
) -> Caller:
    """Return who asked first, with the roles that both have; `forwarder` may ask for the action, and that was checked.

    Raises:
        NotGranted: the action is not passed on, nobody of that name is live here, or it may not ask for it.
    """
    if not forwardable:
        raise NotGranted(f"{action} is done only for who asks for it directly, and not on behalf of {name[:64]}")
    first = caller_named(name) if forwarder.authenticated else None
    if first is None:
        raise NotGranted(
            f"{name[:64]!r} is not known here, so nothing is done on its behalf; name a peer whose key is authorised"
        )
    grants.require(first, action)
    return replace(first, roles=first.roles & forwarder.roles, via=forwarder.name)
