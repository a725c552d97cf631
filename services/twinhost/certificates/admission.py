"""Enrolment on mainpc: invitations and requests in its tree, made, accepted, listed, and withdrawn.

`ADMISSION` is the table of a name, whose standing is read from the files; its picture: docs/explanation/enrolment.md.
"""

import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from twinhost.certificates.bundle import Invitation, TrustMaterial, material_of, request_fingerprint
from twinhost.certificates.following import require_active
from twinhost.certificates.generate import distribute, require_not_revoked
from twinhost.certificates.layout import SERVER, Identity, Layout, described, to_rotate
from twinhost.certificates.records import DistributionRecord
from twinhost.certificates.tree import (
    is_revoked,
    keys_in,
    live_keys,
    locked,
    public_key_files,
)
from twinhost.network_config import NetworkConfig
from twinhost.network_config.load import ADDRESS_VARIABLES, PUBLISH_VARIABLE, port_variable, published_ports
from twinhost.network_config.model import Agent, Host, is_loopback, is_unspecified
from twinhost.secure_zmq.callers import UNAUTHENTICATED_ROLE
from twinhost.secure_zmq.certificates import ENROLLED_FOLDER, INVITES_FOLDER, REQUESTS_FOLDER, read_folders
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.secure_zmq.key_writer import fsync_folder, replace_certificate
from twinhost.secure_zmq.keys import (
    PUBLIC_SUFFIX,
    Certificate,
    KeyOwner,
    KeyPair,
    Validity,
    format_moment,
    load_certificate,
)
from twinhost.state_table import StateTable, Transition

PENDING = "pending"  # the command that only reads


class Standing(Enum):
    """What mainpc's tree has of a name."""

    UNKNOWN = "Unknown"
    INVITED = "Invited"  # by an open invitation, which neither expired nor was used
    REQUESTED = "Requested"
    AUTHORISED = "Authorised"


class AdmissionCommand(Enum):
    """What a person has certs-init do with a name on mainpc."""

    INVITE = "invite"
    AGAIN = "invite --again"
    KEEP = "accept without the fingerprint"
    ACCEPT = "accept with the compared fingerprint"
    REJECT = "reject"


class Admission(Enum):
    """What is done then; a command that the table does not name is refused."""

    INVITE = "a one-time key and its line"
    KEEP = "the request is kept"
    AUTHORISE = "the key is authorised"
    WITHDRAW = "the file is removed"


_S, _C, _A = Standing, AdmissionCommand, Admission
ADMISSION: StateTable[Standing, AdmissionCommand, Admission] = StateTable(
    _S.UNKNOWN,
    *(
        Transition(standing, command, _S.INVITED, _A.INVITE)
        for standing in (_S.UNKNOWN, _S.REQUESTED)
        for command in (_C.INVITE, _C.AGAIN)
    ),
    Transition(_S.INVITED, _C.AGAIN, _S.INVITED, _A.INVITE),
    *(Transition(standing, _C.KEEP, _S.REQUESTED, _A.KEEP) for standing in (_S.UNKNOWN, _S.REQUESTED)),
    *(Transition(standing, _C.ACCEPT, _S.AUTHORISED, _A.AUTHORISE) for standing in (_S.UNKNOWN, _S.REQUESTED)),
    *(Transition(standing, _C.REJECT, _S.UNKNOWN, _A.WITHDRAW) for standing in (_S.INVITED, _S.REQUESTED)),
)


@dataclass(frozen=True, slots=True)
class PendingEntry:
    """An invitation that nobody used yet, or a request that was kept."""

    what: str  # "invitation" or "request"
    certificate: Certificate
    expired: bool = False

    def __str__(self) -> str:
        owner, validity, until = self.certificate.owner, self.certificate.validity, "-"
        fingerprint = request_fingerprint(self.certificate)
        if self.what == "invitation":
            fingerprint = self.certificate.public.fingerprint
            if validity.not_after is not None:
                until = "expired" if self.expired else format_moment(validity.not_after)
        roles = " ".join(sorted(owner.roles))
        return f"{self.what:<10} {owner.name:<28} {owner.host:<8} {roles:<16} {until:<20} {fingerprint}"


def server_folder(layout: Layout, command: str) -> Path:
    """Return SystemDigitalTwin's folder.

    Raises:
        ConfigurationError: it is another machine's tree, or its keys were not made.
    """
    folder = layout.server_folder
    if folder is None:
        raise ConfigurationError(
            f"{command} works only on mainpc, where {SERVER} runs, and {layout.root} is another machine's tree; "
            "run this on mainpc"
        )
    if not folder.is_dir():
        raise ConfigurationError(f"{folder} is missing; run: {layout.command()}")
    if command != PENDING:
        require_active(folder, SERVER, command)
    return folder


def invite(layout: Layout, config: NetworkConfig, owner: KeyOwner, minutes: int, *, again: bool = False) -> Invitation:
    """Authorise a one-time key to enrol an owner; its secret is in the returned invitation and nowhere else.

    With `again`, an open invitation of that name is withdrawn first.

    Raises:
        ConfigurationError: such an owner can't be enrolled, or the name has a key already.
    """
    folder = server_folder(layout, "invite")
    require_newcomer(layout, config, owner)
    server = config.agent(SERVER)
    with locked(layout):
        server_key = load_certificate(folder / f"{server.key}{PUBLIC_SUFFIX}").public
        _require_admissible(layout, owner.name, AdmissionCommand.AGAIN if again else AdmissionCommand.INVITE)
        now = int(layout.clock.time())
        not_after = now + minutes * 60
        token = KeyPair.generate(owner, Validity(now, not_after))
        replace_certificate(token.certificate, folder / INVITES_FOLDER / f"{owner.name}{PUBLIC_SUFFIX}")
    return Invitation(_published(layout, config), server_key, token, not_after)


def pending(layout: Layout) -> list[PendingEntry]:
    """Return the invitations that nobody used yet, expired ones too, and the requests that were kept."""
    folder, now = server_folder(layout, PENDING), layout.clock.time()
    return [
        *(
            PendingEntry("invitation", key.certificate, expired=key.certificate.validity.has_ended(now))
            for key in keys_in(folder / INVITES_FOLDER)
            if not is_revoked(layout, key.certificate)
        ),
        *(PendingEntry("request", key.certificate) for key in keys_in(folder / REQUESTS_FOLDER)),
    ]


def reject(layout: Layout, name: str) -> list[PendingEntry]:
    """Withdraw an invitation, or drop a request; return what there was.

    Raises:
        ConfigurationError: there is neither, or the invitation was used.
    """
    folder = server_folder(layout, "reject")
    with locked(layout):
        withdrawn = [entry for entry in pending(layout) if entry.certificate.owner.name == name]
        standing = _standing(layout, name)
        for inner in (INVITES_FOLDER, REQUESTS_FOLDER):
            for key in list(keys_in(folder / inner)):
                if key.certificate.owner.name == name:
                    key.path.unlink()
                    fsync_folder(key.path.parent)
    if not withdrawn:
        raise _refusal(layout, name, standing)
    return withdrawn


def kept_request(layout: Layout, name: str) -> Certificate | None:
    """Return a request that was kept."""
    folder = server_folder(layout, "accept")
    requests = (key.certificate for key in keys_in(folder / REQUESTS_FOLDER) if key.certificate.owner.name == name)
    return next(requests, None)


def check_request(layout: Layout, config: NetworkConfig, request: Certificate, source: str) -> Identity:
    """Return where a requested key belongs.

    Raises:
        ConfigurationError: it can't be accepted: it is revoked, the name has another key, or it is another owner's.
    """
    server_folder(layout, "accept")
    place = require_newcomer(layout, config, request.owner)
    require_not_revoked(layout, request, source)
    _require_admissible(layout, request.owner.name, AdmissionCommand.ACCEPT, but=request)
    for key in public_key_files(layout):
        if key.certificate.public == request.public and key.certificate.owner != request.owner:
            raise ConfigurationError(
                f"{source} is the key of {key.certificate.owner.name}; every owner makes its own key"
            )
    return place


def keep_request(layout: Layout, request: Certificate) -> Path:
    """Keep a request until somebody accepts or rejects it, in place of an earlier one of that name."""
    folder = server_folder(layout, "accept") / REQUESTS_FOLDER
    with locked(layout):
        _require_admissible(layout, request.owner.name, AdmissionCommand.KEEP, but=request)
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / f"{request.owner.name}{PUBLIC_SUFFIX}"
        replace_certificate(request, path)
    return path


def accept(layout: Layout, config: NetworkConfig, request: Certificate, source: str) -> TrustMaterial:
    """Authorise a requested key, valid from now for key_lifetime_days, and return what its owner needs.

    A key that was accepted before keeps its validity.

    Raises:
        ConfigurationError: as `check_request`.
    """
    folder = server_folder(layout, "accept")
    with locked(layout):
        place = check_request(layout, config, request, source)
        at_server = (folder, folder / ENROLLED_FOLDER)
        known = next(
            (
                key.certificate
                for key in public_key_files(layout)
                if key.path.parent in at_server and key.certificate.public == request.public
            ),
            None,
        )
        own = known or replace(request, validity=layout.new_validity())
        record = DistributionRecord(layout.root)
        if layout.identity_of(own.owner.name) is not None:
            distribute(layout, record, place, own)
        else:
            path = folder / f"{place.stem}{PUBLIC_SUFFIX}"
            if known is None:
                replace_certificate(own, path)  # in place of a revoked one; there is no other
            record.add([path] if path.exists() else [], own)
        (folder / REQUESTS_FOLDER / f"{own.owner.name}{PUBLIC_SUFFIX}").unlink(missing_ok=True)
        return material_of(own, read_folders(at_server))


def variables_to_set(config: NetworkConfig) -> list[str]:
    """Return the variables without which no other machine can reach mainpc."""
    host = config.agent(SERVER).host
    variable = ADDRESS_VARIABLES.get(host.name)
    return [
        *([variable] if variable is not None and (_by_default(host) or is_loopback(host.address)) else []),
        *([PUBLISH_VARIABLE] if is_loopback(os.environ.get(PUBLISH_VARIABLE, "")) else []),
    ]


def port_is_chosen_by_the_engine(config: NetworkConfig) -> bool:
    """Return whether mainpc's port is published under a number that only the engine knows."""
    return os.environ.get(port_variable(config.agent(SERVER), "zmq")) == "0"


def _by_default(host: Host) -> bool:
    """Return whether a host has the name that only containers know."""
    variable = ADDRESS_VARIABLES.get(host.name)
    return variable is not None and not os.environ.get(variable) and not set(host.address) & set(".:")


def _published(layout: Layout, config: NetworkConfig) -> tuple[str, ...]:
    """Return SystemDigitalTwin's addresses for an invitation, that of this tree's process before the other one's.

    A port that was moved is as docker-compose.yml publishes it. One that was not is the same on its container, whose
    name other containers know.
    """
    server = config.agent(SERVER)
    home, *standbys = server.places
    of_home = _published_at(home, published_ports(server).get("zmq"))
    moved = published_ports(server, standby=True).get("zmq")
    of_standbys = [_published_at(place, moved) for place in standbys]
    return (*of_standbys, of_home) if SERVER in layout.standbys else (of_home, *of_standbys)


def _published_at(place: Agent, port: int | None) -> str:
    """Return the authority of one process; `port` is the published one, if that is another."""
    if port is None:
        return place.host.authority(place.zmq_port)
    address = os.environ.get(PUBLISH_VARIABLE) or "127.0.0.1"
    named = not _by_default(place.host) or is_unspecified(address)
    return (place.host if named else replace(place.host, address=address.strip("[]"))).authority(port)


def _keys_of(layout: Layout, name: str, but: Certificate | None) -> list[Certificate]:
    return [key for key in live_keys(layout, name) if but is None or key.public != but.public]


def _standing(layout: Layout, name: str, but: Certificate | None = None) -> Standing:
    """Return what mainpc's tree has of a name, apart from one key."""
    if _keys_of(layout, name, but):
        return Standing.AUTHORISED
    waiting = [entry for entry in pending(layout) if entry.certificate.owner.name == name and not entry.expired]
    if not waiting:
        return Standing.UNKNOWN
    return Standing.INVITED if waiting[0].what == "invitation" else Standing.REQUESTED


def _require_admissible(layout: Layout, name: str, command: AdmissionCommand, but: Certificate | None = None) -> None:
    standing = _standing(layout, name, but)
    if ADMISSION.after(standing, command).effect is None:
        raise _refusal(layout, name, standing, but)


def _refusal(layout: Layout, name: str, standing: Standing, but: Certificate | None = None) -> ConfigurationError:
    """Return why nothing is done with a name, and what to do."""
    match standing:
        case Standing.AUTHORISED:
            key = _keys_of(layout, name, but)[0].public.fingerprint
            why = f"{name} has a key already, {key}; revoke it first: {layout.command('revoke', name)}"
        case Standing.INVITED:
            why = (
                f"{name} has an open invitation, whose line was shown once; for a new line in its place, repeat "
                f"invite with --again; to withdraw it: {layout.command('reject', name)}"
            )
        case Standing.REQUESTED | Standing.UNKNOWN:
            why = f"there is no open invitation and no request of {name!r}; see: {layout.command('pending')}"
    return ConfigurationError(why)


def require_newcomer(layout: Layout, config: NetworkConfig, owner: KeyOwner) -> Identity:
    """Return where the key of an owner who is to be enrolled belongs.

    Raises:
        ConfigurationError: the configuration has another owner of that name, or knows no such role; the name can't
            be a file's.
    """
    if owner.name == SERVER:
        raise ConfigurationError(
            f"{SERVER} authorises others and is not enrolled itself; for a new key: {to_rotate(SERVER, layout.root)}"
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
    """Raise ConfigurationError where a role has no grants in the configuration, or is not for enrolled keys."""
    known = sorted(role for role in config.grants if role != UNAUTHENTICATED_ROLE)
    unknown = sorted(set(roles) - set(known))
    if unknown or not roles:
        named = f"there is no role {unknown[0]!r}" if unknown else "--role is missing"
        raise ConfigurationError(f"{config.source}: {named}; its grants are for: {', '.join(known)}")


def require_file_name(layout: Layout, owner: KeyOwner) -> None:
    """Raise ConfigurationError where a name can't be that of files and of a folder, or is taken."""
    name = owner.name
    if name.startswith((".", "-")) or name.endswith("."):
        raise ConfigurationError(
            f"{name!r} can't be a file name; use one that begins and ends with a letter or a digit"
        )
    if layout.identity_of(name) is None:
        taken = {word for identity in layout.everybody for word in (identity.stem, identity.folder)}
        if name in taken:
            raise ConfigurationError(f"{name!r} is taken by another owner's files; choose another name")
