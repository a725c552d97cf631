"""Detectors about keys: those that end, those that are revoked or replaced, and who has not applied the newest list."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from twinhost.agent.refused_connections import subject_of_peer
from twinhost.agent.troubles import Kind, Level, Remedy, Trouble, listed, read_log
from twinhost.certificates.layout import OPERATOR, SERVER, to_rotate
from twinhost.commands import CERTS_INIT
from twinhost.moments import iso_time
from twinhost.secure_zmq.callers import Peer
from twinhost.secure_zmq.peers import Outcome
from twinhost.system_digital_twin.trust.retirements import Retirement

_EXPLAINED = 50  # of programs, as what their expired keys explain


@dataclass(frozen=True, slots=True)
class Following:
    """Which list of keys a live agent has applied: None if it has said none, though it is of a version that does."""

    name: str
    host: str
    revision: str | None


def ending_keys(
    here: str, keys: Iterable[Peer], host_of: Mapping[str, str], own: Mapping[str, str], now: float
) -> Iterator[Trouble]:
    """Yield the keys that end within 14 days, or have ended; those of programs as one trouble.

    Args:
        here: the host of mainpc's agent, which refuses them, as the other hosts' agents do.
        keys: those that are listed.
        host_of: the host by the name of its agent.
        own: the same of the one agent that each host has for itself.
        now: in seconds since the epoch.
    """
    listed, hosts = list(keys), {here, *host_of.values()}
    lasting = {key.name for key in listed if key.validity.holds(now) and not key.validity.ends_soon(now)}
    programs: dict[Kind, list[Peer]] = {}
    for key in listed:
        if key.validity.not_after is None or not key.validity.ends_soon(now) or key.name in lasting:
            continue
        kind = Kind.KEY_EXPIRED if key.validity.has_ended(now) else Kind.KEY_EXPIRES
        if key.name in host_of or key.name == OPERATOR:
            yield _ending(hosts, kind, key, own.get(key.name), key.validity.not_after, now)
        else:
            programs.setdefault(kind, []).append(key)
    for kind, ending in programs.items():
        first = min(ending, key=lambda key: key.validity.not_after or 0)
        names = tuple(sorted(key.name for key in ending))
        past = kind is Kind.KEY_EXPIRED
        yield Trouble(
            kind=kind,
            what=f"{_keys_of(names)} {'expired' if past else 'expires' if len(names) == 1 else 'expire'}"
            f"{f', the first one {_date(first)}' if len(names) > 1 else f' {_date(first)}'}",
            host=first.host,
            cause="a program whose key has expired is refused everywhere" if past else None,
            since=float(first.validity.not_after or 0) if past else None,
            remedies=_another(first, "twinhost join --replace LINE", many=len(names) > 1),
            evidence=tuple((key.name, key.fingerprint) for key in ending[:20]),
            members=names,
            explains=_refused(hosts, Outcome.KEY_EXPIRED, names[:_EXPLAINED] if past else ()),
        )


def _ending(hosts: Iterable[str], kind: Kind, key: Peer, agent_of: str | None, end: int, now: float) -> Trouble:
    """Return the trouble of a host's agent, or of the operator."""
    rotate = Remedy(key.host, to_rotate(key.name), "replaces it while everything is in use")
    if kind is Kind.KEY_EXPIRES:
        days = max(0, round((end - now) / 86_400))
        what = (
            f"the key of {key.name} on {key.host} expires in {days} days"
            if days
            else (f"the key of {key.name} on {key.host} expires within a day")
        )
        return Trouble(
            kind=kind,
            subject=key.name,
            host=key.host,
            what=what,
            remedies=(rotate,),
            evidence=(("fingerprint", key.fingerprint), ("not_after", iso_time(end))),
        )
    another = new_key(key.name, key.host)
    if key.name == OPERATOR:  # whose secret is always there
        another = another[:1]
    first = (Remedy("mainpc", f"{CERTS_INIT} revoke {key.name}", "first"),)
    return Trouble(
        kind=kind,
        subject=key.name,
        host=key.host,
        what=f"the key of {key.name} on {key.host} expired {_date(key)} and is refused",
        level=Level.BROKEN,
        since=float(end),
        cause="it was not rotated before it expired",
        remedies=(rotate,) if key.name == SERVER else (*first, *another),
        evidence=(("fingerprint", key.fingerprint), ("not_after", iso_time(end))),
        explains=_consequences(hosts, Outcome.KEY_EXPIRED, key.name, agent_of),
    )


def revoked_agents(
    here: str,
    host_of: Mapping[str, str],
    own: Mapping[str, str],
    revoked: Mapping[str, str],
    keyed: Iterable[str],
) -> Iterator[Trouble]:
    """Yield the hosts' agents whose last key was revoked.

    Args:
        host_of: the host by the name of its agent.
        own: the same of the one agent that each host has for itself.
        revoked: a revoked fingerprint by the name of its owner.
        keyed: who has a key that is listed.
    """
    for name in host_of.keys() & revoked.keys() - set(keyed):
        host = host_of[name]
        yield Trouble(
            kind=Kind.KEY_REVOKED,
            subject=name,
            host=host,
            what=f"the key of {name} on {host} is revoked, and it has no other",
            level=Level.BROKEN,
            cause="an operator revoked it",
            remedies=new_key(name, host),
            evidence=(("fingerprint", revoked[name]),),
            explains=_consequences({here, *host_of.values()}, Outcome.KEY_REVOKED, name, own.get(name)),
        )


def _consequences(hosts: Iterable[str], cause: Outcome, name: str, host: str | None) -> tuple[str, ...]:
    return (*_refused(hosts, cause, [name]), *([] if host is None else [f"{Kind.HOST_SILENT}:{host}"]))


def _refused(hosts: Iterable[str], cause: Outcome, names: Iterable[str]) -> tuple[str, ...]:
    """Return the ids of the refusals of known peers by these hosts, for a cause."""
    return tuple(f"{Kind.REFUSALS}:{subject_of_peer(host, name, cause)}" for name in names for host in sorted(hosts))


def new_key(name: str, host: str) -> tuple[Remedy, ...]:
    """Return the commands that give an agent whose key is revoked another one: on one machine, and on two."""
    return (
        Remedy("mainpc", f"{CERTS_INIT} replace {name}", "makes a new key, where its secret is in the same tree"),
        Remedy(
            "mainpc",
            f"{CERTS_INIT} invite {name} --host {host} --role agent",
            f"if {host} is another machine: there, give the printed line to certs-init join --replace -",
        ),
    )


def _another(key: Peer, join: str, *, many: bool) -> tuple[Remedy, ...]:
    given = " ".join(f"--role {role}" for role in sorted(key.roles))
    return (
        Remedy("mainpc", f"{CERTS_INIT} revoke {key.name}", "first, and so for each of them" if many else "first"),
        Remedy("mainpc", f"{CERTS_INIT} invite {key.name} --host {key.host} {given}", f"then, on {key.host}: {join}"),
    )


def retiring_keys(
    contested: Iterable[tuple[str, Retirement]], name_of: Callable[[str], str], host_of: Mapping[str, str]
) -> Iterator[Trouble]:
    """Yield the keys that a newer one is going to revoke without their consent; `name_of` returns a key's owner."""
    for older, retirement in contested:
        name = name_of(older)
        yield Trouble(
            kind=Kind.KEY_RETIRES,
            subject=name or older,
            host=host_of.get(name),
            what=retirement.warning(name),
            cause="its owner rotates it and still uses the older key, or somebody has stolen it",
            since=retirement.asked,
            remedies=(Remedy("mainpc", f"{CERTS_INIT} revoke {retirement.newer}", "if its owner did not ask for it"),),
            evidence=(("older", older), ("newer", retirement.newer)),
        )


def pending_revocations(following: Iterable[Following], revision: str | None) -> Iterator[Trouble]:
    """Yield one trouble for the live agents that have not applied a list of keys, though they had the time; if any."""
    late = [agent for agent in following if revision is not None and agent.revision != revision]
    if late:
        names = tuple(agent.name for agent in late)
        yield Trouble(
            kind=Kind.REVOCATION_PENDING,
            what=f"{listed(names)} {'has' if len(names) == 1 else 'have'} not applied the newest list of keys, and "
            "may accept a revoked key",
            host=late[0].host,
            remedies=(
                read_log(late[0].host, "shows why, such as a folder it can't write"),
                Remedy("mainpc", "./twinhost keys list", "shows which keys are revoked"),
            ),
            evidence=tuple((agent.name, agent.revision or "none") for agent in late[:20]),
            members=names,
        )


def _date(key: Peer) -> str:
    return f"{iso_time(float(key.validity.not_after or 0))[:16]}Z"


def _keys_of(names: tuple[str, ...]) -> str:
    return f"the key of {names[0]}" if len(names) == 1 else f"the keys of {listed(names)}"
