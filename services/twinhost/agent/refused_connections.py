"""The detector of refused connections, by cause and address: strangers' together, and those of each known peer.

Fewer than FEW of a cause in a day are no trouble: a restart, a rotation, a check of a port, and `doctor` make some. The
key of a known peer that has no other one counts from the first.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from twinhost.agent.conditions import REFUSALS, Condition
from twinhost.agent.refusals import OTHERS, Refused
from twinhost.agent.troubles import Kind, Remedy, Trouble, times
from twinhost.commands import CERTS_INIT
from twinhost.deployment import REGISTRY_AGENT
from twinhost.moments import iso_time
from twinhost.secure_zmq.peers import Outcome

FEW = 10
UNENCRYPTED = "unencrypted"  # the subject's part of those that may be a client without CURVE
_WITHOUT_CURVE = frozenset({Outcome.MECHANISM_MISMATCH, Outcome.BROKEN_OFF})
_OF_A_KEY = frozenset({Outcome.KEY_REVOKED, Outcome.KEY_EXPIRED, Outcome.KEY_NOT_YET_VALID})
WORDS = {
    Outcome.KEY_NOT_AUTHORIZED: "the key is not authorised",
    Outcome.KEY_REVOKED: "the key is revoked",
    Outcome.KEY_EXPIRED: "the key has expired",
    Outcome.KEY_NOT_YET_VALID: "the key is not valid yet, by the clock here",
    Outcome.TOO_MANY_SESSIONS: "too many connections with one key",
    Outcome.HANDLER_FAULT: "the key could not be judged",
    Outcome.WRONG_KEYS: "another key of the server was pinned, or the halves of the client's key do not match",
    Outcome.MECHANISM_MISMATCH: "only one side uses CURVE",
    Outcome.NOT_ZMTP: "not ZeroMQ",
    Outcome.BROKEN_OFF: "the handshake was broken off, or the client does not use CURVE",
    Outcome.TIMED_OUT: "the handshake took too long",
    Outcome.OVERSIZED: "the handshake was too large",
    Outcome.TOO_MANY_PENDING: "too many handshakes at once",
}
_SHOWN = 20  # addresses, as evidence
_MOST_ADDRESSES = 20  # of a cause; more are one member, so that a flood from many is reported once
_MINUTE_S, _DAY_S = 60.0, 86_400.0


def subject_of_peer(host: str, peer: str, cause: Outcome) -> str:
    """Return the subject of the trouble that a host refuses a known peer, by which others explain it.

    That of strangers is the host alone, or the host and UNENCRYPTED.
    """
    return f"{host}/{cause.value}/{peer}"


def refused_connections(host: str, refused: Iterable[Refused], is_live: Callable[[str], bool]) -> Iterator[Trouble]:
    """Yield a trouble for each known peer and cause, one for clients without CURVE, and one for all others.

    Args:
        host: whose agent refused them.
        refused: those of a day, the most frequent first.
        is_live: whether an identity has a valid key now.
    """
    of_peers: dict[tuple[str, Outcome], list[Refused]] = {}
    of_strangers: list[Refused] = []
    for one in refused:
        (of_peers.setdefault((one.peer, one.cause), []) if one.peer else of_strangers).append(one)
    for (peer, cause), rows in of_peers.items():
        if _many(rows) or (cause in _OF_A_KEY and not is_live(peer)):
            yield _of_peer(host, peer, cause, rows)
    unencrypted = _many(one for one in of_strangers if one.cause in _WITHOUT_CURVE)
    others = _many(one for one in of_strangers if one.cause not in _WITHOUT_CURVE)
    if others:
        also = {one.address for one in others} >= {one.address for one in unencrypted}
        yield _of_strangers(host, host, others, explains=also)
    if unencrypted:
        yield _of_strangers(host, f"{host}/{UNENCRYPTED}", unencrypted)


def conditions(host: str, refused: Iterable[Refused], is_live: Callable[[str], bool]) -> Iterator[Condition]:
    """Yield the same, each cause apart, as what a host's agent says of itself."""
    by_cause: dict[Outcome, list[Refused]] = {}
    for one in refused:
        by_cause.setdefault(one.cause, []).append(one)
    for rows in by_cause.values():
        for trouble in refused_connections(host, rows, is_live):
            yield Condition(
                name=f"{REFUSALS}{trouble.subject.removeprefix(host)}",
                what="; ".join(filter(None, (trouble.what.removeprefix(f"{host} "), trouble.cause))),
                command="./twinhost keys list",
            )


def _many(rows: Iterable[Refused]) -> Sequence[Refused]:
    """Return those whose cause occurred FEW times; one of another cause does not make a trouble worse."""
    kept, counts = list(rows), Counter[Outcome]()
    for one in kept:
        counts[one.cause] += one.count
    return [one for one in kept if counts[one.cause] >= FEW]


def _of_peer(host: str, peer: str, cause: Outcome, rows: Sequence[Refused]) -> Trouble:
    return Trouble(
        kind=Kind.REFUSALS,
        subject=subject_of_peer(host, peer, cause),
        host=host,
        what=f"{host} refused {peer} {_times(rows)}: {WORDS[cause]}",
        cause=f"it still uses the key {rows[0].fingerprint}" if cause in _OF_A_KEY else None,
        since=min(one.first for one in rows),
        remedies=_remedies(cause, peer),
        evidence=_evidence(rows),
        members=_members(rows),
    )


def _of_strangers(host: str, subject: str, rows: Sequence[Refused], *, explains: bool = False) -> Trouble:
    most = rows[0]
    addresses = {one.address for one in rows}
    if OTHERS in addresses:
        where = "from many addresses"
    elif len(addresses) == 1:
        where = f"from {most.address}"
    else:
        where = f"from {len(addresses)} addresses, {most.count} of them from {most.address}"
    count = sum(one.count for one in rows)
    return Trouble(
        kind=Kind.REFUSALS,
        subject=subject,
        host=host,
        what=f"{host} refused {count} connection{'s' if count > 1 else ''} {where}: {WORDS[most.cause]}",
        cause=f"{_rate(most)} from {_address(most)}, the last {iso_time(most.last)}",
        since=min(one.first for one in rows),
        remedies=(
            Remedy("mainpc", "./twinhost audit tail -n 100", "shows each with its time and the fingerprint of its key"),
            Remedy("mainpc", "./twinhost keys list", "shows whose keys are authorised, to compare"),
        ),
        evidence=_evidence(rows),
        members=_members(rows),
        explains=(f"{Kind.REFUSALS}:{host}/{UNENCRYPTED}",) if explains else (),
    )


def _remedies(cause: Outcome, peer: str) -> tuple[Remedy, ...]:
    shown = Remedy("mainpc", "./twinhost keys list", "shows its keys, and which of them are valid")
    if cause is Outcome.KEY_REVOKED:
        return Remedy("mainpc", f"{CERTS_INIT} replace {peer}", "makes a new key, if its secret is in this tree"), shown
    if cause is Outcome.KEY_EXPIRED:
        return Remedy("mainpc", f"{CERTS_INIT} verify", "shows how to replace the key"), shown
    if cause is Outcome.TOO_MANY_SESSIONS:
        return (
            Remedy("mainpc", f"./twinhost call {REGISTRY_AGENT} get_peers", "shows how many connections each peer has"),
        )
    return shown, Remedy("mainpc", "./twinhost audit tail -n 100", "shows each with its time and key")


def _evidence(rows: Sequence[Refused]) -> tuple[tuple[str, str], ...]:
    shown = [
        (
            f"{one.cause.value} from {_address(one)}",
            f"{times(one.count)}, {_rate(one)}, first {iso_time(one.first)}, last {iso_time(one.last)}"
            + (f", key {one.fingerprint}" if one.fingerprint else ""),
        )
        for one in rows[:_SHOWN]
    ]
    if len(rows) > _SHOWN:
        shown.append(("further addresses", times(sum(one.count for one in rows[_SHOWN:]))))
    return tuple(shown)


def _members(rows: Iterable[Refused]) -> tuple[str, ...]:
    by_cause: dict[Outcome, list[str]] = {}
    for one in rows:
        by_cause.setdefault(one.cause, []).append(one.address)
    many = {cause: len(addresses) > _MOST_ADDRESSES or OTHERS in addresses for cause, addresses in by_cause.items()}
    return tuple(
        f"{cause.value}@{address}"
        for cause, addresses in by_cause.items()
        for address in (["*"] if many[cause] else sorted(addresses))
    )


def _rate(one: Refused) -> str:
    """Return how often a minute, over the time for which they are counted."""
    lasted_s = min(one.last - one.first, _DAY_S)
    return f"{one.count / max(lasted_s, _MINUTE_S) * _MINUTE_S:,.1f} a minute"


def _times(rows: Iterable[Refused]) -> str:
    return times(sum(one.count for one in rows))


def _address(one: Refused) -> str:
    return one.address if one.address != OTHERS else "other addresses"
