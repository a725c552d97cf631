"""Who may read and write which space: the one judge, whom every request about a space passes."""

from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar, NamedTuple

from twinhost.network_config.model import BUILTIN_SPACES, PRIVATE, SHARED, SPACE_NAME, Space
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import KeyFileMalformed, NotGranted
from twinhost.secure_zmq.keys import KeyOwner
from twinhost.secure_zmq.wire import Request

_OF = f"{PRIVATE}:"  # begins the name of a private space; no identity, and no declared space, has a colon


class InSpace(Request, kw_only=True):
    """The base of every request about what a space holds; without `space` it is about the shared one.

    `space` is `shared`, `private`, which is the caller's own, or a space of the configuration. Operators also name the
    private space of another: `private:NAME`.
    """

    changes_space: ClassVar[bool] = False  # though no row of it: its database is needed

    space: str | None = None  # of any length: what is no space is refused like any that the caller may not read


def can_be_space(name: str) -> bool:
    """Return whether this may be the name of a space: an identity's private one, or a declared one."""
    owner = owner_of(name)
    if owner is None:
        return name not in BUILTIN_SPACES and SPACE_NAME.fullmatch(name) is not None
    try:
        KeyOwner(owner, "any", frozenset())
    except KeyFileMalformed:
        return False
    return True


class Usable(NamedTuple):
    """A space that a caller may read, and whether it may write it."""

    name: str
    writes: bool = True


def private_space(identity: str) -> str:
    """Return the name of an identity's private space."""
    return f"{_OF}{identity}"


def owner_of(space: str) -> str | None:
    """Return whose private space this is; None for a shared or a declared one."""
    return space.removeprefix(_OF) if space.startswith(_OF) else None


class Access:
    """Judges by the configuration in effect now, so that a reader who is removed from it reads nothing more.

    An unknown space and one that the caller may not read give the same answer, by the same steps. A forwarded request
    needs the access of both its original caller and its forwarder, as it needs the grants of both: otherwise whoever
    may forward could read everybody's private space.
    """

    def __init__(self, declared: Callable[[], Mapping[str, Space]], exists: Callable[[str], bool]) -> None:
        """Take what returns the declared spaces, and what says whether a space that was one is still stored."""
        self._declared = declared
        self._exists = exists

    def require(self, asked: str, caller: Caller, *, writes: bool) -> str:
        """Return the name of the space that a caller asks for: `shared`, `private:NAME`, or a declared one.

        Raises:
            NotGranted: it may not read it, or not write it if `writes`, or there is no such space.
        """
        if asked == SHARED:
            return SHARED
        if not caller.authenticated:
            raise NotGranted(
                "on an open link (SECURE_ZMQ=0) nobody is authenticated, so `shared` is the only space; "
                "leave `space` out, or use encrypted links - at `$.space`"
            )
        name = private_space(caller.name) if asked == PRIVATE else asked
        if not self._reads(name, caller):
            raise NotGranted(
                f"the space {asked[:64]!r} is not one that {caller.name} may use; `list_spaces` lists those - "
                "at `$.space`"
            )
        if writes and not self._writes(name, caller):
            raise NotGranted(
                f"{caller.name} may read the space {name}, and not write it; an operator may add it to "
                f"spaces.{name}.writers in network_config.yaml - at `$.space`"
            )
        return name

    def usable(self, caller: Caller) -> Iterator[Usable]:
        """Yield the spaces that a caller may read, its own private one too, which may have nothing yet."""
        yield Usable(SHARED)
        if not caller.authenticated:
            return
        yield Usable(private_space(caller.name))
        for name in sorted(self._declared()):
            if self._reads(name, caller):
                yield Usable(name, self._writes(name, caller))

    def _reads(self, name: str, caller: Caller) -> bool:
        space = self._declared().get(name)
        readers = frozenset({owner_of(name)}) if space is None else space.readers
        return _all_in(readers, caller) or (caller.operator and (space is not None or self._is_space(name)))

    def _writes(self, name: str, caller: Caller) -> bool:
        space = self._declared().get(name)
        return space is None or _all_in(space.writers, caller) or caller.operator

    def _is_space(self, name: str) -> bool:
        """Return whether an operator may name a space that is not declared."""
        return can_be_space(name) and (owner_of(name) is not None or self._exists(name))


def _all_in(names: frozenset[str | None] | frozenset[str], caller: Caller) -> bool:
    return caller.name in names and (caller.via is None or caller.via in names)
