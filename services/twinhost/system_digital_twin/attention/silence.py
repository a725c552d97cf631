"""Detectors of silence: hosts and agents that send no heartbeats, or report that they are not well."""

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from twinhost.agent.silence import advice, shown_by
from twinhost.agent.troubles import Kind, Level, Remedy, Trouble, listed
from twinhost.deployment import NO_RESPONSE, OK_STATUSES
from twinhost.moments import iso_time
from twinhost.secure_zmq.silence import Silence

_SHOWN = 20  # as evidence


@dataclass(frozen=True, slots=True)
class SeenAgent:
    """An agent as the registry has it; `last_seen` in seconds since the epoch, None: it never registered.

    `host` is the one whose own agent it is, None for another; `stopped`: it said that it stops; `said`: what was wrong
    with it, as it reported last; `silence`: what its connections show while it is silent, None if it had none. One that
    registered without a `port` has sockets of its own, and may never send heartbeats.
    """

    name: str
    status: str
    last_seen: float | None
    location: str
    host: str | None = None
    stopped: bool = False
    sends_heartbeats: bool = True
    said: tuple[str, ...] = ()
    has_port: bool = True
    silence: Silence | None = None


def silent_hosts(here: str, agents: Iterable[SeenAgent]) -> Iterator[Trouble]:
    """Yield a trouble for each host whose own agent is silent, has stopped, or never registered."""
    for agent in agents:
        silent = agent.status == NO_RESPONSE and (agent.sends_heartbeats or agent.has_port or agent.stopped)
        if agent.host is None or (agent.last_seen is not None and not silent):
            continue
        explains = tuple(
            f"{kind}:{agent.host}{rest}"
            for kind, rest in ((Kind.AGENTS_SILENT, ""), (Kind.METRICS_MISSING, ""), (Kind.FILLING, "/*"))
        )
        remedies = advice(Silence.ENDED, agent.host, here)
        if agent.last_seen is None:
            what, cause = f"{agent.host} has not reported yet", "its agent has not registered"
        elif agent.stopped:
            what, cause = f"{agent.host} has stopped", "its agent said that it stops"
        else:
            shown = f": {shown_by(agent.silence)}" if agent.silence else ""
            what, cause = f"{agent.host} does not respond", f"its agent sends no heartbeats{shown}"
            remedies = advice(agent.silence, agent.host, here)
        yield Trouble(
            kind=Kind.HOST_STOPPED if agent.stopped else Kind.HOST_SILENT,
            subject=agent.host,
            host=agent.host,
            what=what,
            level=Level.ATTENTION if agent.last_seen is None else Level.BROKEN,
            since=agent.last_seen,
            cause=cause,
            remedies=remedies,
            evidence=(("agent", agent.name), *(("said last", sentence) for sentence in agent.said)),
            explains=explains,
        )


def silent_agents(agents: Iterable[SeenAgent]) -> Iterator[Trouble]:
    """Yield one trouble for the agents of each location that were well, and have fallen silent."""
    by_location: dict[str, list[SeenAgent]] = {}
    for agent in agents:
        if agent.host is None and agent.status == NO_RESPONSE and agent.sends_heartbeats and not agent.stopped:
            by_location.setdefault(agent.location, []).append(agent)
    for location, silent in by_location.items():
        names = tuple(agent.name for agent in silent)
        one, silences = len(names) == 1, {agent.silence for agent in silent}
        (silence,) = silences if len(silences) == 1 else (None,)
        shown = shown_by(silence, many=not one) if silence else "ended, or cut off from mainpc"
        yield Trouble(
            kind=Kind.AGENTS_SILENT,
            subject=location,
            host=location,
            what=f"{listed(names)} on {location} {'does' if one else 'do'} not respond",
            since=min(agent.last_seen for agent in silent if agent.last_seen is not None),
            cause=f"{'it sends' if one else 'they send'} no heartbeats any more: {shown}",
            remedies=(
                Remedy(
                    "mainpc",
                    f"./twinhost agents unregister {shlex.quote(names[0])}"
                    if one
                    else f"./twinhost agents unregister --silent-on {shlex.quote(location)}",
                    f"removes {'it, if it is' if one else 'them, if they are'} gone for good; else start "
                    f"{'it' if one else 'them'} again",
                ),
            ),
            evidence=_heard(silent),
            members=names,
        )


def unhealthy_agents(agents: Iterable[SeenAgent]) -> Iterator[Trouble]:
    """Yield a trouble for the agents that report that they are not well."""
    well = OK_STATUSES | {NO_RESPONSE}
    unwell = [agent for agent in agents if agent.status not in well and agent.last_seen is not None]
    if unwell:
        names = tuple(f"{agent.name} ({agent.status})" for agent in unwell)
        yield Trouble(
            kind=Kind.AGENTS_UNHEALTHY,
            what=f"not healthy: {listed(names)}",
            remedies=(Remedy("mainpc", "./twinhost status", "shows what each of them reports"),),
            evidence=_heard(unwell),
            members=names,
        )


def _heard(agents: Sequence[SeenAgent]) -> tuple[tuple[str, str], ...]:
    """Return who it is, those that were heard longest ago first, and how many more."""
    oldest = sorted(agents, key=lambda agent: agent.last_seen or 0.0)
    rows = [(agent.name, f"last heard {iso_time(agent.last_seen or 0.0)}") for agent in oldest[:_SHOWN]]
    return (*rows, *([("further agents", f"{len(agents) - _SHOWN}")] if len(agents) > _SHOWN else []))
