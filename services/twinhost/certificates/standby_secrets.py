"""The secret of an agent on its standby's machine, which is that agent once it is active: copied there by a person."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from twinhost.certificates.following import BEFORE_ANY, active_elsewhere, require_active, role_of, write_role
from twinhost.certificates.layout import AGENT_ROLE, HOST_VARIABLE, Identity, Layout, plan_layout
from twinhost.certificates.tree import install_secret, is_revoked, locked, make_host_folder
from twinhost.network_config import Agent, NetworkConfig
from twinhost.secure_zmq.errors import ConfigurationError, KeyFileMissing
from twinhost.secure_zmq.key_writer import render_certificate
from twinhost.secure_zmq.keys import KeyOwner, load_key_pair, parse_key_pair


def secret_for_standby(layout: Layout, config: NetworkConfig, name: str) -> str:
    """Return the secret of an agent as the machine of its standby takes it.

    Raises:
        ConfigurationError: it has no standby, its secret is not this machine's, or it was revoked.
    """
    agent = config.agent(name)
    if agent.standby is None:
        raise ConfigurationError(f"{config.source} names no standby of {name}, or TWINHOST_DATABASE is not set in .env")
    place = layout.identity_of(name)
    if place is None or place not in layout.local:
        raise KeyFileMissing(f"this tree has no secret of {name}; run this on {agent.host.name}")
    require_active(layout.root / place.folder, name, "this")
    pair = load_key_pair(layout.secret_file(place))
    if is_revoked(layout, pair.certificate):
        raise ConfigurationError(f"the key of {name} was revoked; for another one: {layout.command('replace', name)}")
    return render_certificate(pair.certificate, pair.secret_z85)


def take_secret(layout: Layout, config: NetworkConfig, only_host: str | None, text: str, source: str) -> Path:
    """Put an agent's secret into its folder on the machine where it stands by, in the place of an older one.

    That is its standby's, or, after a takeover, its own. Returns the folder.

    Raises:
        ConfigurationError: this is neither machine, or the agent is active here, or was when it ended.
    """
    pair = parse_key_pair(text, source)
    agent = _standby_here(config, pair.certificate.owner, only_host, source)
    folder = layout.root / agent.host.name
    role = role_of(folder)
    if active_elsewhere(folder) is None and (role is not None or agent.host.name == only_host):
        raise ConfigurationError(
            f"{agent.name} is active here, or was when it ended, so its newest secret is in {folder}; if it is active "
            "on the other machine now, start it here, and run this again once it stands by"
        )
    if is_revoked(layout, pair.certificate):
        raise ConfigurationError(f"{source} is a key of {agent.name} that was revoked")
    with locked(layout):
        folder.mkdir(mode=0o700, exist_ok=True)
        if role is None:
            write_role(folder, BEFORE_ANY)  # first: without it, a process would begin a log with what is here
        install_secret(layout, _place(agent), pair)
        make_host_folder(folder, plan_layout(layout.root, config, only_host))
    return folder


def give_to_standbys(layout: Layout, agents: Collection[str], others: Path) -> list[Path]:
    """Where both processes of an agent are on one machine, give the newest secret to the one that follows.

    Raises:
        ConfigurationError: a file can't be read.
    """
    given = []
    for place in layout.local:
        here, there = layout.root / place.folder, others / place.folder
        if place.owner.name not in agents or not there.is_dir():
            continue
        if active_elsewhere(here) is not None or active_elsewhere(there) is None:
            continue
        pair = load_key_pair(layout.secret_file(place))
        other = replace(layout, root=others, local=[place], remote=[])
        if not other.secret_file(place).exists() or load_key_pair(other.secret_file(place)) != pair:
            install_secret(other, place, pair)
            given.append(there)
    return given


def where_active(layout: Layout, standbys: Path) -> Layout:
    """Where both processes of an agent are on one machine, return the tree of the standbys if SystemDigitalTwin's is.

    It has the secrets of agents, and no operator's.

    Raises:
        ConfigurationError: whether it is active can't be read.
    """
    own = layout.server_folder
    there = None if own is None else standbys / own.name
    if own is None or there is None or active_elsewhere(own) is None:
        return layout
    if role_of(there) is None or active_elsewhere(there) is not None:
        return layout
    tree = replace(layout, root=standbys)
    local = [place for place in layout.local if tree.secret_file(place).exists()]
    names = frozenset(place.owner.name for place in local)
    return replace(tree, local=local, remote=[it for it in layout.everybody if it not in local], standbys=names)


def _standby_here(config: NetworkConfig, owner: KeyOwner, only_host: str | None, source: str) -> Agent:
    agent = config.agents.get(owner.name)
    if agent is None or owner != _place(agent).owner:
        raise ConfigurationError(f"{source} is the key of {owner.name} on {owner.host}, which {config.source} lacks")
    if only_host is None:
        raise ConfigurationError(
            f"all hosts are this machine, where certs-init itself gives {agent.name}'s secret to its standby; on one "
            f"of two machines, set {HOST_VARIABLE} in .env"
        )
    if agent.standby is None:
        raise ConfigurationError(f"{agent.name} has no standby, since TWINHOST_DATABASE is not set in .env")
    if only_host not in (agent.host.name, agent.standby.name):
        raise ConfigurationError(
            f"{agent.name} runs on {agent.host.name} and {agent.standby.name}, and this is {only_host}"
        )
    return agent


def _place(agent: Agent) -> Identity:
    owner = KeyOwner(agent.name, agent.host.name, frozenset({AGENT_ROLE}))
    return Identity(owner, agent.key, agent.host.name)
