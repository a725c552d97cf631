"""What is wrong with the log that standbys follow, and with the databases that have it. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from twinhost.agent.troubles import Kind, Remedy, Trouble
from twinhost.commands import CERTS_INIT, CERTS_INIT_PIPED
from twinhost.network_config import Agent, NetworkConfig

if TYPE_CHECKING:  # only an agent with a log loads it
    from twinhost.store.replication.looks import AgentLog, Follower, LogState

_DATABASE = "database-"  # how services of docker-compose.yml begin, such as database-pc2
_SHOWS_FORMATION = Remedy("witness", "docker compose exec witness pg_autoctl show state", "shows both databases")


class Watched(Protocol):
    """Who looks at the log, on the machine `holder`; `state` is None before the first look."""

    @property
    def state(self) -> "LogState | None": ...
    @property
    def holder(self) -> str: ...
    @property
    def witness_fault(self) -> str | None: ...


def log_troubles(log: Watched | None, config: NetworkConfig) -> Iterator[Trouble]:
    """Yield what is wrong."""
    state = None if log is None else log.state
    if log is None or state is None:
        return
    agents = config.agents
    silent = [
        _standby_silent(agents[name], one)
        for name, one in state.agents.items()
        if name in agents and agents[name].standby is not None and state.settled and not one.following
    ]
    yield from silent
    for name, one in state.agents.items():
        if name in agents:
            yield from (_standby_behind(agents[name], standby) for standby in one.following if standby.lags)
            differing = [standby for standby in one.following if standby.differences and one.holder]
            yield from (_standby_differs(config, agents[name], standby, one.holder) for standby in differing)
    if state.copies == 1:
        yield _one_copy(state.other_servers, silent)
    if state.witness is not None and log.witness_fault is not None:
        yield Trouble(
            kind=Kind.WITNESS_SILENT,
            what=f"the witness of the databases does not answer {log.holder}",
            cause=log.witness_fault,
            remedies=(Remedy("witness", f"docker compose up -d {state.witness}", "starts it"),),
        )


def _standby_silent(agent: Agent, log: "AgentLog") -> Trouble:
    last = min(log.standbys, key=lambda standby: standby.silent_s, default=None)
    service = last.name if last else _other(agent, log.holder)
    host = agent.host_of(service)
    cause = f"{service} has not begun to follow the log of {agent.name}"
    if last is not None:
        cause = (
            f"{last.name} ended: {last.fault}"
            if last.fault
            else f"{last.name} has said nothing for {last.silent_s:.0f} s"
        )
    return Trouble(
        kind=Kind.STANDBY_SILENT,
        subject=agent.name,
        host=host,
        what=f"no standby of {agent.name} follows, so nothing takes over from {log.holder or 'it'}",
        cause=cause,
        remedies=(
            Remedy(
                host,
                f"docker compose up -d {service}",
                "starts it, once its cause is mended" if last and last.fault else "starts it",
            ),
            Remedy(host, f"docker compose logs {service}", "shows what keeps it from following"),
        ),
        evidence=(("active", log.holder), ("epoch", str(log.epoch)), ("transactions", str(log.transactions))),
    )


def _standby_behind(agent: Agent, standby: "Follower") -> Trouble:
    host = agent.host_of(standby.name)
    return Trouble(
        kind=Kind.STANDBY_BEHIND,
        subject=agent.name,
        host=host,
        what=f"{standby.name}, which stands by for {agent.name}, is {standby.behind} transactions behind",
        remedies=(Remedy(host, f"docker compose logs {standby.name}", "shows what keeps it from following"),),
    )


def _standby_differs(config: NetworkConfig, agent: Agent, standby: "Follower", holder: str) -> Trouble:
    what = f"{standby.name} would not be {agent.name} as {holder} is: its configuration is another one"
    if "space" in standby.differences:
        what = f"{standby.name} would refuse changes if it took over from {holder}: its volume is full"
    if "secret" in standby.differences:
        what = f"{standby.name} can't take over from {holder}: its secret of {agent.name} is another one"
    return Trouble(
        kind=Kind.STANDBY_DIFFERS,
        subject=agent.name,
        host=agent.host_of(standby.name),
        what=what,
        cause="; ".join(standby.differences.values()),
        remedies=tuple(_copies(config, agent, standby, agent.host_of(holder))),
    )


def _copies(config: NetworkConfig, agent: Agent, standby: "Follower", here: str) -> Iterator[Remedy]:
    """Yield what brings a standby what the machine of the active process has; `ssh` reaches another machine."""
    there = agent.host_of(standby.name)
    apart = agent.standby is not None and agent.standby.address == config.hosts[agent.standby.name].address
    if "secret" in standby.differences:
        if not apart:
            yield Remedy(here, CERTS_INIT, "gives the standbys of this machine the newest secrets")
        else:
            yield Remedy(
                here,
                f"{CERTS_INIT_PIPED} export-standby {agent.name} | "
                f"ssh {there} 'cd twinhost && {CERTS_INIT_PIPED} import-standby -'",
                "copies the secret",
            )
        yield Remedy(there, f"docker compose restart {standby.name}", "has it read its secret")
    if "configuration" in standby.differences:
        yield Remedy(here, f"scp config/network_config.yaml {there}:twinhost/config/", "copies the file")
    if "space" in standby.differences:
        yield Remedy(there, f"docker compose exec {standby.name} df -h /var/lib/twinhost", "shows what its volume has")


def _one_copy(other_servers: Sequence[str], silent: Iterable[Trouble]) -> Trouble:
    """Return the trouble that one database alone has what is committed; it explains the silence of its machine."""
    server = other_servers[0] if len(other_servers) == 1 else ""
    host = server.removeprefix(_DATABASE) if server.startswith(_DATABASE) else None
    there = [trouble for trouble in silent if host is not None and trouble.host == host]
    of_other = (
        Remedy(host or "", f"docker compose up -d {server}", "starts the other database, which takes what it missed"),
        Remedy(host or "", f"docker compose logs {server}", "shows what keeps it from following"),
    )
    return Trouble(
        kind=Kind.ONE_COPY,
        host=host,
        what="the log has one copy: only one database has what is committed",
        cause=f"nothing on {host} follows: it may be off, or cut off" if there else f"{server or 'the other'} is away",
        remedies=(*(of_other if host else ()), _SHOWS_FORMATION),
        explains=tuple(trouble.id for trouble in there),
    )


def _other(agent: Agent, holder: str) -> str:
    """Return the service that stands by while another one is active."""
    home = agent.host.name
    return home if holder == agent.standby_process else agent.standby_process
