"""Whom mainpc may let in: names that can be files, hosts, and roles that are granted something."""

from collections.abc import Collection

from twinhost.certificates.layout import SERVER, Identity, Layout, described
from twinhost.network_config import NetworkConfig
from twinhost.secure_zmq.callers import UNAUTHENTICATED_ROLE
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.secure_zmq.keys import KeyOwner


def require_newcomer(layout: Layout, config: NetworkConfig, owner: KeyOwner) -> Identity:
    """Return where the key of somebody who is to be let in belongs.

    Raises:
        ConfigurationError: the configuration has another owner of that name, or knows no such role; the name can't
            be a file's.
    """
    if owner.name == SERVER:
        raise ConfigurationError(
            f"{SERVER} lets others in and is not let in; a new key for it: certs-init rotate server"
        )
    require_file_name(layout, owner)
    require_roles(config, owner.roles)
    place = layout.place_of(owner)
    if place.owner != owner:
        roles = " ".join(f"--role {role}" for role in sorted(place.owner.roles))
        raise ConfigurationError(
            f"{config.source}: {owner.name} is {described(place.owner)} there, not {described(owner)}; "
            f"give it --host {place.owner.host} {roles}"
        )
    return place


def require_roles(config: NetworkConfig, roles: Collection[str]) -> None:
    """Raise ConfigurationError where the configuration grants a role nothing, or nobody can have it."""
    known = sorted(role for role in config.grants if role != UNAUTHENTICATED_ROLE)
    unknown = sorted(set(roles) - set(known))
    if unknown or not roles:
        named = f"there is no role {unknown[0]!r}" if unknown else "it needs a role"
        raise ConfigurationError(f"{config.source}: {named}; grants has: {', '.join(known)}")


def require_file_name(layout: Layout, owner: KeyOwner) -> None:
    """Raise ConfigurationError where a name can't be that of files and of a folder beside those that there are."""
    name = owner.name
    if name.startswith((".", "-")) or name.endswith("."):
        raise ConfigurationError(f"{name!r} can't be the name of key files; use one that begins and ends with a letter")
    if layout.identity_of(name) is None:
        taken = {word for identity in layout.everybody for word in (identity.stem, identity.folder)}
        if name in taken:
            raise ConfigurationError(f"{name!r} is the name of another's files; choose another one")
