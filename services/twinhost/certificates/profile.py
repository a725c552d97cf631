"""A program's profile: a folder with its key, the public keys that mainpc knows, and where the agents are.

`network_config.yaml` names the agents that are registered; `endpoints.yaml` has the addresses at which they answered
here. A client needs no other file.
"""

import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

import msgspec
import yaml

from twinhost.certificates.bundle import Invitation, read_answer
from twinhost.certificates.join import Joined, join, put_in_place
from twinhost.certificates.layout import AGENT_ROLE, OPERATOR_HOST, SERVER, Identity, Layout
from twinhost.certificates.records import JoinRecord
from twinhost.certificates.tree import LOCK_FILE, locked
from twinhost.commands import CERTS_INIT_PIPED
from twinhost.deployment import MEMORY_AGENT
from twinhost.network_config.load import CLIENT_PORTS, CONFIG_FILE, ENDPOINTS_FILE, is_stem, load_network_config
from twinhost.network_config.model import Agent, Host, is_address, is_local_only
from twinhost.secure_zmq.callers import CONFIRM_KEY
from twinhost.secure_zmq.certificates import (
    FOLDER_VARIABLE,
    PROFILES_FOLDER,
    SERVER_KEY_STEM,
    Certificates,
    join_command,
    load_certificates,
    pins_of,
    secrets_in,
)
from twinhost.secure_zmq.client import DEFAULT_MAX_PAYLOAD_BYTES, Client
from twinhost.secure_zmq.errors import (
    ConfigurationError,
    ConnectionRefused,
    KeyFileExposed,
    NotAuthorized,
    RequestError,
    ServerUnreachable,
    WrongServerKey,
)
from twinhost.secure_zmq.key_writer import replace_file
from twinhost.secure_zmq.keys import PUBLIC_SUFFIX, KeyOwner
from twinhost.secure_zmq.server_address import FollowedAddress
from twinhost.secure_zmq.wire import Reply

AUTHORISED_WITHIN_S = 5.0  # mainpc knows a new key within 0.1 s, the other agents soon after
_ANSWERED_WITHIN_S = 2.0
_OF_MAINPC = 1  # of `_candidates`: where mainpc is, at the published port
_UNKNOWN_PORT = 1  # of HTTP, which an agent need not register and a client does not use
_HEADER = "# Written by `twinhost join`; `twinhost join --refresh` writes it again.\n"
_UNUSED = f"""\
# A program serves nobody, so nothing below has an effect, except max_payload_bytes.
grants: {{}}
limits: {{max_payload_bytes: {DEFAULT_MAX_PAYLOAD_BYTES}, heartbeat_s: 5, registration_ttl_s: 15, stored_replies_s: 600,
  stored_replies_per_caller: 1000, key_lifetime_days: 365, metrics_interval_s: 5}}
"""


@dataclass(frozen=True, slots=True)
class AgentPlace:
    """Where an agent is: its address, and its ports by name, `zmq` among them."""

    address: str
    ports: Mapping[str, int]

    @property
    def endpoint(self) -> str:
        """The ZeroMQ endpoint."""
        return Host("", self.address).endpoint(self.ports["zmq"])


@dataclass(frozen=True, slots=True)
class Reached:
    """An agent, the endpoint that the profile has for it, and whether it answered there."""

    name: str
    endpoint: str
    answered: bool


class _Registration(msgspec.Struct, frozen=True):
    """What is used of an agent's registration."""

    name: str
    location: str
    host: str | None = None
    port: int | None = None
    health_check_port: int | None = None
    metadata: dict[str, Any] = {}


class _Registrations(msgspec.Struct, frozen=True):
    agents: tuple[_Registration, ...]


def join_profile(folder: Path, invitation: Invitation, *, may_replace: bool) -> tuple[Joined, list[Reached]]:
    """Make a key in a profile's folder, enrol it by an invitation, and write where the agents are.

    It may be repeated with the same invitation, after an interruption too.

    Raises:
        ConfigurationError: the invitation expired or was used, the folder holds another key, or others can read it.
        ConnectionRefused, RequestError: mainpc can't be reached, or refuses.
    """
    with own_folder(folder):
        layout, token = program_layout(folder), invitation.token.public.fingerprint
        if not may_replace and JoinRecord(folder).find(token) is None and (others := secrets_in(folder)):
            raise ConfigurationError(
                f"{others[0]} exists already, and a profile holds one key; to keep it, choose another profile: "
                f"twinhost join --profile NAME LINE; to replace it: {join_command(folder, '--replace LINE')}"
            )
        with _explained(folder):
            invitation, places = _resolved(invitation)
            joined = join(layout, invitation, may_replace=may_replace)
        for other in secrets_in(folder):
            if other.stem != joined.place.stem:  # the replaced one, of another name
                other.unlink()
                other.with_suffix(PUBLIC_SUFFIX).unlink(missing_ok=True)
        return joined, write_agents(folder, {SERVER: active_of(folder, places)})


def _resolved(invitation: Invitation) -> tuple[Invitation, list[AgentPlace]]:
    """Return an invitation with those of its addresses that this machine knows, and where they are.

    Raises:
        ServerUnreachable: it knows none.
    """
    known, error = {}, None
    for authority in invitation.authorities:
        place = _place_at(authority)
        try:
            _resolve(place)
            known[authority] = place
        except ServerUnreachable as unknown:
            error = error or unknown
    if error is not None and not known:
        raise error
    return replace(invitation, authorities=tuple(known)), list(known.values())


def _place_at(authority: str) -> AgentPlace:
    address, _, port = authority.rpartition(":")
    return AgentPlace(address.strip("[]"), {"zmq": int(port)})


def active_of(folder: Path, places: Sequence[AgentPlace]) -> AgentPlace:
    """Return which of SystemDigitalTwin's places is active; the first one, if that can't be said."""
    if len(places) == 1:
        return places[0]
    return first_that_answers(load_certificates(folder), SERVER, places) or places[0]


def refresh_profile(folder: Path, address: str | None = None) -> list[Reached]:
    """Fetch from mainpc which keys there are and where the agents are, with the key of a profile; the key stays.

    Args:
        folder: of the profile.
        address: `address:port` where mainpc, or its standby, is reached, if not where the profile says.

    Raises:
        ConfigurationError: the profile has no key, or no configuration.
        ConnectionRefused, RequestError: mainpc can't be reached, or refuses.
    """
    certificates, config = load_certificates(folder), load_network_config(environment={FOLDER_VARIABLE: str(folder)})
    layout, server = program_layout(folder), config.agent(SERVER)
    places = _places_of(server) if address is None else [_place_at(address)]
    try:
        answer, answered_at = _ask_any(certificates, SERVER, [place.endpoint for place in places], CONFIRM_KEY)
        material = read_answer(answer)
    except ServerUnreachable as error:
        raise ServerUnreachable(
            f"mainpc can't be reached ({str(error).partition('; ')[0]}); check that it runs, or give the address at "
            "which this machine reaches it, or its standby: "
            f"{join_command(folder, '--refresh --address ADDRESS[:PORT]')}"
        ) from None
    except WrongServerKey:
        pin = folder / f"{SERVER_KEY_STEM}{PUBLIC_SUFFIX}"
        raise WrongServerKey(
            f"{server.endpoint} does not have the key in {pin}; if mainpc's key was rotated, write into that file what "
            f"this prints on mainpc: {CERTS_INIT_PIPED} public server, and run this again; on mainpc's own machine: "
            f"{join_command(folder, '--local')}"
        ) from None
    with locked(layout, folders=False):
        place = layout.place_of(certificates.own_keys.certificate.owner)
        put_in_place(layout, place, certificates.own_keys, material)
    known = {name: AgentPlace(agent.host.address, agent.ports) for name, agent in config.agents.items()}
    answering = next(place for place in places if place.endpoint == answered_at)
    return write_agents(folder, {**known, SERVER: answering})


def require_same_mainpc(folder: Path, server: AgentPlace) -> None:
    """Raise ConfigurationError if a profile is for another mainpc, which runs elsewhere, than the one at a place.

    One that holds the pinned key at neither place has new keys, since its state was deleted: the profile follows it.
    """
    if not secrets_in(folder) or not os.path.lexists(folder / CONFIG_FILE):
        return
    agent = load_network_config(environment={FOLDER_VARIABLE: str(folder)}).agent(SERVER)
    answering = first_that_answers(load_certificates(folder), SERVER, [server, *_places_of(agent)])
    if answering is not None and answering.endpoint != server.endpoint:
        raise ConfigurationError(
            f"{folder} is for the mainpc at {answering.endpoint}; the one at {server.endpoint} has another key; for "
            "a separate profile: twinhost join --profile NAME --local; to use this one for it: "
            f"{join_command(folder, '--replace --local')}"
        )


def program_layout(folder: Path) -> Layout:
    """Return the tree of a program: one folder, with its own pair and the public keys of others."""
    server = KeyOwner(SERVER, OPERATOR_HOST, frozenset({AGENT_ROLE}))
    return Layout(folder, [], [Identity(server, SERVER_KEY_STEM, OPERATOR_HOST)], "", 0, newcomers=".")


@contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """Make the folder of a profile, which only its user can read; remove it if the body fails and nothing is in it.

    Raises:
        KeyFileExposed: it is there already, and others can read it.
        ConfigurationError: it can't be made.
    """
    missing = [parent for parent in (folder, *folder.parents) if not os.path.lexists(parent)]
    try:
        _make_own_folder(folder)
        yield
    except BaseException:
        with suppress(OSError):  # it holds a key, with which the command goes on when it is repeated
            if missing and [path.name for path in folder.iterdir()] == [LOCK_FILE]:
                (folder / LOCK_FILE).unlink()
            for parent in missing:
                parent.rmdir()
        raise


def _make_own_folder(folder: Path) -> None:
    try:
        if folder.parent.name == PROFILES_FOLDER:
            for parent in (folder.parent.parent, folder.parent):
                parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        raise ConfigurationError(
            f"{error.filename or folder} can't be made ({error.strerror}); set XDG_CONFIG_HOME, or {FOLDER_VARIABLE}, "
            "to a folder that you can write; in a container nothing is written: run this outside it"
        ) from None
    mode, user = status.st_mode & 0o777, os.geteuid()
    if mode & 0o077:
        raise KeyFileExposed(
            f"{folder} has mode {mode:04o}, so others can see which keys are in it; run: chmod 700 {folder}"
        )
    if status.st_uid != user:
        raise KeyFileExposed(
            f"{folder} belongs to user {status.st_uid}, who can read the keys in it; run: chown {user} {folder}"
        )


def write_agents(folder: Path, known: Mapping[str, AgentPlace]) -> list[Reached]:
    """Ask mainpc which agents are registered, try where each answers, and write both into the profile.

    Where agents are known to be is tried first; that of SystemDigitalTwin is used as it is. An agent that registered an
    address of loopback or of the link is left out, unless mainpc is reached at one: it would be a port of this machine.
    Of two processes, where an agent has a standby, one answers; the other is reached in the same way.

    Raises:
        ConnectionRefused, RequestError: mainpc does not answer, or refuses the key.
    """
    certificates, server = load_certificates(folder), known[SERVER]
    reply = _ask(certificates, SERVER, server.endpoint, "get_registered_agents")
    hosts: dict[str, tuple[str, str]] = {}  # the registered address, and the one that is used here
    agents, endpoints, reached = {}, {}, []
    registrations = msgspec.convert(reply, _Registrations).agents
    # This project's agents first: the name of a host is theirs, whatever others register there.
    for registration in sorted(registrations, key=lambda agent: agent.name not in (SERVER, MEMORY_AGENT)):
        name, address, port = registration.name, registration.host, registration.port
        if address is None or port is None or not (is_address(address) and is_stem(name)):
            continue  # it can't be called
        ports = {"zmq": port, "http": registration.health_check_port or _UNKNOWN_PORT}
        if _is_port(events := registration.metadata.get("events_port")):
            ports["events"] = events
        registered = AgentPlace(address, ports)
        found = _find(certificates, registration, registered, server, known.get(name))
        if found.answering is None and not _may_be_tried(registered, server):
            continue
        place = found.home
        addresses = (registered.address, place.address)
        location = registration.location
        names = (location, name, f"{name}@{location}")  # no agent has an @ in its name
        host = next((label for label in names if hosts.get(label, addresses) == addresses), names[-1])
        hosts[host] = addresses
        stem = SERVER_KEY_STEM if name == SERVER else name
        agents[name] = {"host": host, "key": stem, "ports": dict(registered.ports)}
        endpoints[name] = {"ports": {**registered.ports, **place.ports}, **found.standby_entry()}
        reached.append(Reached(name, (found.answering or place).endpoint, found.answering is not None))
    theirs = {name: {"address": address} for name, (address, _) in hosts.items()}
    ours = {name: {"address": address} for name, (_, address) in hosts.items()}
    replace_file(folder / ENDPOINTS_FILE, _yaml({"hosts": ours, "agents": endpoints}))
    replace_file(folder / CONFIG_FILE, _yaml({"hosts": theirs, "agents": agents}) + _UNUSED)
    return reached


@dataclass(frozen=True, slots=True)
class _Found:
    """Where an agent is reached: at home, or where its standby is; one of them answers, or none."""

    home: AgentPlace
    answering: AgentPlace | None
    standby: AgentPlace | None = None
    standby_host: str = ""

    def standby_entry(self) -> dict[str, Any]:
        """Return what the endpoints file has about the standby."""
        if self.standby is None:
            return {}
        entry = {"host": self.standby_host, "address": self.standby.address, "ports": dict(self.standby.ports)}
        return {"standby": entry}


def _find(
    certificates: Certificates,
    registration: _Registration,
    registered: AgentPlace,
    server: AgentPlace,
    known: AgentPlace | None,
) -> _Found:
    """Return where a registered agent is reached, and its standby; `known` is tried first."""
    homes = _candidates(registered, _published(registration.metadata), server)
    standby = _standby_of(registration.metadata)
    standbys = [] if standby is None else _candidates(standby.place, standby.published, server)
    if registration.name == SERVER:
        answering: AgentPlace | None = server
    else:
        places = [place for place in (*homes, *standbys) if _may_be_tried(place, server)]
        answering = first_that_answers(certificates, registration.name, [known, *places])
    if answering is None:
        return _Found(registered, None)
    home, beside = answering, None
    if standby is not None:
        home, beside = _both(answering, homes, standbys)
    if registration.name == SERVER and home.ports["zmq"] == homes[0].ports["zmq"]:  # and not between containers
        home = replace(home, ports={**home.ports, **_published(registration.metadata)})
    if standby is None or beside is None or not _may_be_tried(beside, server):
        return _Found(home, answering)
    return _Found(home, answering, beside, standby.host)


def _both(
    answering: AgentPlace, homes: Sequence[AgentPlace], standbys: Sequence[AgentPlace]
) -> tuple[AgentPlace, AgentPlace]:
    """Return home and standby, one of which answers: an address that was registered counts before mainpc's."""
    for number in (0, 2, _OF_MAINPC, 3):
        home, standby = homes[number], standbys[number]
        if answering.endpoint == home.endpoint:
            return answering, standby
        if answering.endpoint == standby.endpoint:
            return home, standby
    return answering, standbys[_OF_MAINPC]


def _candidates(registered: AgentPlace, published: Mapping[str, int], server: AgentPlace) -> list[AgentPlace]:
    """Return where an agent may be reached that registered a place; those of its standby have the same order."""
    both, addresses = {**registered.ports, **published}, (registered.address, server.address)
    return [AgentPlace(address, ports) for ports in (both, registered.ports) for address in addresses]


@dataclass(frozen=True, slots=True)
class _RegisteredStandby:
    host: str
    place: AgentPlace
    published: Mapping[str, int]


def _standby_of(metadata: Mapping[str, Any]) -> _RegisteredStandby | None:
    """Return where an agent registered that its standby is; None for what is no such place."""
    standby = metadata.get("standby")
    if not isinstance(standby, dict):
        return None
    host, address, ports = (standby.get(name) for name in ("host", "address", "ports"))
    if not (isinstance(host, str) and isinstance(address, str) and is_address(address) and isinstance(ports, dict)):
        return None
    own = {name: port for name in CLIENT_PORTS if _is_port(port := ports.get(name))}
    return _RegisteredStandby(host, AgentPlace(address, own), _published(standby)) if "zmq" in own else None


def _places_of(agent: Agent) -> list[AgentPlace]:
    """Return where an agent is, and its standby, as the profile has it."""
    return [AgentPlace(place.host.address, place.ports) for place in agent.places]


def _may_be_tried(place: AgentPlace, server: AgentPlace) -> bool:
    """Return whether a place that an agent chose is not on this machine or its link, or mainpc is there too."""
    return not _is_local(place) or _is_local(server)


def _is_local(place: AgentPlace) -> bool:
    try:
        found = socket.getaddrinfo(place.address, place.ports["zmq"], type=socket.SOCK_STREAM)
    except (OSError, ValueError):
        found = []
    return any(is_local_only(address) for address in (place.address, *(str(entry[4][0]) for entry in found)))


def _published(metadata: Mapping[str, Any]) -> dict[str, int]:
    """Return the ports that an agent registered as published under other numbers; what is no port is left out."""
    ports = metadata.get("published_ports")
    published = ports if isinstance(ports, dict) else {}
    return {name: port for name in CLIENT_PORTS if _is_port(port := published.get(name))}


def _yaml(document: Mapping[str, Any]) -> str:
    return _HEADER + yaml.safe_dump(document, sort_keys=False)


def _is_port(value: object) -> TypeGuard[int]:
    """Return whether a value that an agent registered is a port."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 65_536


def first_that_answers(certificates: Certificates, name: str, places: Sequence[AgentPlace | None]) -> AgentPlace | None:
    """Return the first place at which a server has the agent's key, whatever it answers."""
    for place in {place.endpoint: place for place in places if place is not None}.values():
        try:
            _resolve(place)
            _ask(certificates, name, place.endpoint, "ping", _ANSWERED_WITHIN_S)
        except (NotAuthorized, RequestError):  # the handshake showed its key
            return place
        except ConnectionRefused:
            continue
        return place
    return None


def _ask(certificates: Certificates, name: str, endpoint: str, action: str, deadline_s: float | None = None) -> Reply:
    """Call an agent with the profile's key; wait until the agent knows that key."""
    return _ask_any(certificates, name, [endpoint], action, deadline_s)[0]


def _ask_any(
    certificates: Certificates, name: str, endpoints: Sequence[str], action: str, deadline_s: float | None = None
) -> tuple[Reply, str]:
    """Call it at whichever of several endpoints it is; return where, too."""
    own, pins = certificates.own_keys, pins_of(certificates.folder, name)
    ends = time.monotonic() + AUTHORISED_WITHIN_S
    with Client(FollowedAddress(endpoints, lambda: own, lambda: pins)) as client:
        while True:
            try:
                return client.call(action, deadline_s=deadline_s), client.address
            except NotAuthorized:
                if time.monotonic() > ends:
                    raise


def _resolve(place: AgentPlace) -> None:
    """Raise ServerUnreachable where a name has no address, sooner than a call would."""
    try:
        socket.getaddrinfo(place.address, place.ports["zmq"], type=socket.SOCK_STREAM)
    except OSError as error:
        raise ServerUnreachable(f"this machine knows no address of {place.address}: {error.strerror}") from None


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Say how to reach mainpc where it can't be reached."""
    try:
        yield
    except ServerUnreachable as error:
        raise ServerUnreachable(
            f"mainpc can't be reached ({str(error).partition('; ')[0]}); check that it runs, or give the address at "
            "which this machine reaches it, or its standby: "
            f"{join_command(folder, '--address ADDRESS[:PORT] LINE')}; on mainpc's own machine: "
            f"{join_command(folder, '--local')}"
        ) from None
    except WrongServerKey as error:
        raise WrongServerKey(
            f"{str(error).partition(' ')[0]} does not have the key that the line names, or broke the connection off; "
            f"copy the whole line again; if it is the same, compare on mainpc: {CERTS_INIT_PIPED} public server"
        ) from None
