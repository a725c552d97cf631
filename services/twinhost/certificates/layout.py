"""Which file lies where: a folder per host and one for the operator, each with its own secret and all public keys."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from twinhost.certificates.following import active_elsewhere, role_of
from twinhost.commands import CERTIFICATES_VOLUME, certs_init_command
from twinhost.moments import SYSTEM_CLOCK, Clock
from twinhost.network_config import Agent, NetworkConfig
from twinhost.secure_zmq.certificates import NEXT_SECRET_SUFFIX
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.secure_zmq.keys import DAY_S, PUBLIC_SUFFIX, SECRET_SUFFIX, KeyOwner, Validity

Say = Callable[[str], None]  # is called with a line for the person who runs a command

FINGERPRINT = r"SHA256:[A-Za-z0-9+/]{43}"
AGENT_ROLE = "agent"
SERVER = "SystemDigitalTwin"  # it authorises all others
OPERATOR = "operator"
NOTIFY, NOTIFIER_ROLE = "notify", "notifier"  # the process that sends messages, if the configuration has it
OPERATOR_HOST = "mainpc"  # where the operator's key is made
HOST_VARIABLE = "TWINHOST_HOST"  # limits a tree to one host; unset, all of them lie in one tree


@dataclass(frozen=True, slots=True)
class Identity:
    """One key pair: whose it is, the stem of its files, and the folder that holds the secret."""

    owner: KeyOwner
    stem: str
    folder: str


@dataclass(frozen=True, slots=True)
class Layout:
    """The tree below `root`, as far as this machine has it."""

    root: Path
    local: Sequence[Identity]  # their secrets belong on this machine
    remote: Sequence[Identity]  # only their public keys do
    server_host: str  # SystemDigitalTwin's
    lifetime_days: int  # of a new key
    standbys: frozenset[str] = frozenset()  # the agents in `local` that this machine is only the standby's of
    newcomers: str | None = None  # the folder of all enrolled owners; None: each has one of its own name
    clock: Clock = SYSTEM_CLOCK

    @property
    def folders(self) -> list[Path]:
        """The folders of the keys that belong on this machine."""
        return [self.root / name for name in dict.fromkeys(identity.folder for identity in self.local)]

    @property
    def everybody(self) -> list[Identity]:
        return [*self.local, *self.remote]

    @property
    def server_folder(self) -> Path | None:
        """SystemDigitalTwin's folder, whose keys are authorised; None where this is another machine's tree."""
        return next((folder for folder in self.folders if folder.name == self.server_host), None)

    def identity_of(self, name: str) -> Identity | None:
        """Return the configuration's identity of a name."""
        return next((identity for identity in self.everybody if identity.owner.name == name), None)

    def place_of(self, owner: KeyOwner) -> Identity:
        """Return where an owner's pair belongs: as the configuration says, or in the folder for newcomers."""
        return self.identity_of(owner.name) or Identity(owner, owner.name, self.newcomers or owner.name)

    def new_validity(self) -> Validity:
        """Return the validity of a key that is made now."""
        now = int(self.clock.time())
        return Validity(now, now + self.lifetime_days * DAY_S)

    def command(self, *arguments: str, piped: bool = False) -> str:
        """Return the command line of certs-init that works on this tree."""
        return certs_init_command(self.root, *arguments, piped=piped)

    def secret_file(self, identity: Identity) -> Path:
        return self.root / identity.folder / f"{identity.stem}{SECRET_SUFFIX}"

    def next_secret_file(self, identity: Identity) -> Path:
        """Return where the secret of a rotation lies until it is in use."""
        return self.root / identity.folder / f"{identity.stem}{NEXT_SECRET_SUFFIX}"

    def public_file(self, folder: Path, identity: Identity) -> Path:
        return folder / f"{identity.stem}{PUBLIC_SUFFIX}"

    def public_files(self, identity: Identity) -> list[Path]:
        """Return where a public key belongs; what follows another machine's folder has its files from there."""
        return [self.public_file(folder, identity) for folder in self.folders if active_elsewhere(folder) is None]


def described(owner: KeyOwner) -> str:
    """Return the owner of a key as an error or a report names it."""
    return f"{owner.name} on {owner.host} ({' '.join(sorted(owner.roles))})"


def enrolment_arguments(owner: KeyOwner) -> list[str]:
    """Return the arguments by which `invite` and `request` name an owner."""
    return [owner.name, "--host", owner.host, *(word for role in sorted(owner.roles) for word in ("--role", role))]


def to_rotate(name: str, root: Path = CERTIFICATES_VOLUME) -> str:
    """Return the command line that rotates a key of a tree while it is valid and in use."""
    return certs_init_command(root, "rotate", *(["server"] if name == SERVER else ["client", name]))


def to_replace(layout: Layout, owner: KeyOwner, *, revoked: bool) -> str:
    """Return what to run for another key of an owner, here or on two machines; one that is not revoked is, first."""
    revoke = "" if revoked else f"{layout.command('revoke', owner.name)}, then: "
    if layout.server_folder is not None and any(place.owner == owner for place in layout.local):
        return f"run: {revoke}{layout.command('replace', owner.name)}"
    invite = layout.command("invite", *enrolment_arguments(owner))
    join = layout.command("join", "--replace", "-", piped=True)
    return f"on mainpc, run: {revoke}{invite}, and on {owner.host}: {join}"


def only_host() -> str | None:
    """Return the host that this machine is; None stands for all of them."""
    return os.environ.get(HOST_VARIABLE) or None


def plan_layout(root: Path, config: NetworkConfig, only_host: str | None) -> Layout:
    """Return the tree for one host of the configuration, or for all of them in one place.

    Raises:
        ConfigurationError: there is no such host, or it has no key.
    """
    if only_host is not None:
        config.host(only_host)
    identities = [
        Identity(KeyOwner(agent.name, agent.host.name, frozenset({AGENT_ROLE})), agent.key, agent.host.name)
        for agent in config.agents.values()
    ]
    identities.append(Identity(KeyOwner(OPERATOR, OPERATOR_HOST, frozenset({OPERATOR})), OPERATOR, OPERATOR))
    if config.notify is not None:
        owner = KeyOwner(NOTIFY, config.notify.host, frozenset({NOTIFIER_ROLE}))
        identities.append(Identity(owner, NOTIFY, NOTIFY))
    for what in ("stem", "folder"):
        values = [getattr(identity, what) for identity in identities]
        if len(set(values)) != len(values):
            raise ConfigurationError(
                f"{config.source}: two keys would share a {what} ({', '.join(values)}); give each its own"
            )
    standbys = frozenset(agent.name for agent in config.agents.values() if _has_standby(root, agent, only_host))
    here = [item for item in identities if only_host in (None, item.owner.host) or item.owner.name in standbys]
    if not here:
        raise ConfigurationError(
            f"{config.source}: no agent runs on {only_host}, so it needs no key; set {HOST_VARIABLE} to an agent's host"
        )
    server = config.agents.get(SERVER)
    return Layout(
        root,
        here,
        [identity for identity in identities if identity not in here],
        server.host.name if server else "",
        config.limits.key_lifetime_days,
        standbys,
    )


def _has_standby(root: Path, agent: Agent, only_host: str | None) -> bool:
    """Return whether a tree has the keys of an agent's standby; its secret came from the agent's machine."""
    here = only_host is not None and agent.standby is not None and agent.standby.name == only_host
    return here and role_of(root / agent.host.name) is not None
