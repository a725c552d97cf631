"""Attacks by a peer with an authorised key: another's name, another's replies, and too many connections."""

import secrets
from contextlib import ExitStack
from typing import Any

from twinhost.adversary.attack import (
    OPEN_LINK,
    OPERATORS_KEY,
    SERVED_WITHIN_S,
    Attack,
    AttackedAgent,
    AttackOutcome,
    breached,
    defended,
    not_played,
)
from twinhost.adversary.clients import PlainClient, Refused
from twinhost.adversary.zmtp import Disconnected, NoAnswer
from twinhost.network_config import Agent
from twinhost.secure_zmq.errors import NotGranted

_OPERATORS_ACTIONS = ("get_peers", "get_audit")  # an agent need not refuse an action that it does not have
_UNKNOWN = "unknown_action"
_SHORT_S = 1.0
_SOCKETS = 4  # the first ROUTERs and REPs of a process; an agent's request socket is the second
_TAKEN = 5  # routing-ids that are taken of each socket's sequence
_APART = 100  # distance between two of them


def _name_in_the_body(target: AttackedAgent) -> AttackOutcome:
    if target.operator:
        return not_played(OPERATORS_KEY)
    another = _somebody_else(target)
    with target.insider() as client:
        claimed = client.call("get_peers", source_agent="operator", agent_name="operator", role="operator")
        heartbeat = client.call("heartbeat", agent_name=another.name)  # harmless, should it be granted
    if claimed.get("code") != NotGranted.code:
        return breached(f"`source_agent` in the body made it answer as to an operator: {_shown(claimed)}")
    if heartbeat.get("code") not in (NotGranted.code, _UNKNOWN):
        return breached(f"it accepted a heartbeat for {another.name} from somebody else: {_shown(heartbeat)}")
    return defended("the names in the body are ignored: not_granted")


def _not_granted(target: AttackedAgent) -> AttackOutcome:
    if target.operator:
        return not_played(OPERATORS_KEY)
    with target.insider() as client:
        replies = {action: client.call(action) for action in _OPERATORS_ACTIONS}
    for action, reply in replies.items():
        if reply.get("code") not in (NotGranted.code, _UNKNOWN):
            return breached(f"{action} was granted: {_shown(reply)}")
    if replies["get_peers"].get("code") != NotGranted.code:
        return breached(f"get_peers was not refused as not granted: {_shown(replies['get_peers'])}")
    return defended("; ".join(f"{action}: {reply['code']}" for action, reply in replies.items()))


def _forged_metadata(target: AttackedAgent) -> AttackOutcome:
    """Claim another name in the metadata, where ZAP puts the true one; success gains or loses an operator's rights."""
    claimed = _somebody_else(target).name if target.operator else "operator"
    properties = {"User-Id": claimed.encode(), "Peer-Identity": b"SHA256:" + b"A" * 43 + b" " + claimed.encode()}
    try:
        with target.insider(properties) as client:
            reply = client.call("get_peers")
    except (Disconnected, Refused) as end:
        return defended(f"it closed the connection: {end}")
    granted = reply.get("code") is None
    if granted is target.operator:
        return defended(f"the claim to be {claimed} is ignored")
    return breached(f"a peer that claimed another name in its metadata was accepted as {claimed}: {_shown(reply)}")


def _stolen_routing_id(target: AttackedAgent) -> AttackOutcome:
    routing_id = {"Identity": b"victim-" + secrets.token_hex(8).encode()}
    with target.insider(routing_id) as victim:
        victim.call("ping")
        try:
            with target.insider(routing_id) as thief:
                return _compete(victim, thief)
        except (Disconnected, Refused):
            return _still_served(victim)


def _predicted_routing_ids(target: AttackedAgent) -> AttackOutcome:
    """Take the routing-ids that libzmq would assign if its generator had no seed, and connect until one would be."""
    starts = predicted_starts(_SOCKETS)
    predicted = [(start + _APART * number) & 0xFFFFFFFF for start in starts for number in range(1, _TAKEN + 1)]
    with ExitStack() as stack:
        holders = []
        for number in predicted:
            try:
                holders.append(stack.enter_context(target.insider({"Identity": b"\0" + number.to_bytes(4)})))
            except (Disconnected, Refused):  # it is in use already
                continue
        try:
            for _ in range(_APART + 1):
                target.insider().connection.close()
            for holder in holders:
                holder.answers_ping(SERVED_WITHIN_S)
        except (Disconnected, NoAnswer, Refused, OSError) as end:
            return breached(
                f"connections ended when their routing-ids would be assigned, so the agent's process aborted: {end}"
            )
    return defended(
        f"{len(holders)} predictable routing-ids were taken, and none was assigned in {_APART + 1} connections"
    )


def _too_many_sessions(target: AttackedAgent) -> AttackOutcome:
    """Open more connections with one key than allowed; after they end it may connect again."""
    if not target.secure:
        return not_played(OPEN_LINK)
    limit = target.config.limits.sessions_per_key
    with ExitStack() as stack:
        try:
            for _ in range(limit + 1):
                stack.enter_context(target.insider(within_s=0))
        except Refused as end:
            refusal = str(end)
        else:
            return breached(f"one key holds {limit + 1} connections, and network_config.yaml allows {limit}")
    target.insider().connection.close()
    return defended(f"one key may have {limit} connections; the one after them was refused: {refusal}")


def predicted_starts(count: int) -> list[int]:
    """Return the first routing-id of each of a process's first ROUTERs and REPs, if nothing seeded libzmq's generator.

    The generator is that of glibc's `rand()` (random_r.c, TYPE_3) with its default seed, 1; libzmq joins two values
    (random.cpp).
    """
    values = [1]
    for _ in range(30):
        values.append(values[-1] * 16_807 % 2_147_483_647)
    values += values[:3]
    while len(values) < 344 + 2 * count:
        values.append((values[-3] + values[-31]) & 0xFFFFFFFF)
    drawn = [value >> 1 for value in values[344:]]
    return [(low | high << 31) & 0xFFFFFFFF for low, high in zip(drawn[::2], drawn[1::2], strict=True)]


def _compete(victim: PlainClient, thief: PlainClient) -> AttackOutcome:
    try:
        thief.call("ping", within_s=_SHORT_S)
    except (Disconnected, NoAnswer, Refused):
        return _still_served(victim)
    outcome = _still_served(victim)
    return breached(f"a second connection took over a routing-id and was answered; {outcome.sentence}")


def _still_served(victim: PlainClient) -> AttackOutcome:
    try:
        victim.call("ping", within_s=SERVED_WITHIN_S)
    except (Disconnected, NoAnswer, Refused) as end:
        return breached(f"the first owner of the routing-id no longer got its replies: {end}")
    return defended("the second connection that claims it gets nothing, and the first keeps its replies")


def _somebody_else(target: AttackedAgent) -> Agent:
    mine = target.own_keys.certificate.owner.name if target.own_keys else ""
    others = [agent for agent in target.config.agents.values() if agent.name != mine]
    return others[0] if others else target.agent


def _shown(reply: dict[str, Any]) -> str:
    return str({name: value for name, value in reply.items() if name in ("status", "code", "error")})[:160]


ATTACKS = (
    Attack("another's name in the body", "the caller is the owner of the connection's key", _name_in_the_body),
    Attack("an action not granted", "an agent's key can't run an operator's actions", _not_granted),
    Attack("forged metadata", "the metadata of a handshake never overrides the key", _forged_metadata),
    Attack("predicted routing-ids", "a predicted routing-id can't abort the agent", _predicted_routing_ids),
    Attack("too many sessions", "one key can't use up everybody's connections", _too_many_sessions),
    Attack("stolen routing-id", "replies can't be diverted to another connection", _stolen_routing_id),
)
