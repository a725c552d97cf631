"""The attention list as who asks for it sees it: mainpc's, or pc2's in its place, with what was found besides. Pure."""

from collections.abc import Iterable

from twinhost.agent.conditions import LINK_CHECK
from twinhost.agent.troubles import (
    AttentionItem,
    AttentionList,
    Kind,
    Level,
    Trouble,
    by_cause,
    item_of,
    list_of,
    read_log,
    start,
)
from twinhost.deployment import REGISTRY_AGENT
from twinhost.moments import parse_time
from twinhost.network_config import Agent

NO_ANSWER, NOT_AUTHORIZED = "server_unreachable", "not_authorized"  # the codes of these failures


def unreachable(agent: Agent, code: str, why: str, explains: Iterable[str] = ()) -> Trouble:
    """Return the trouble that an agent can't be asked, and why; `explains` has the ids of what is so because of it."""
    host = agent.host.name
    return Trouble(
        kind=Kind.UNREACHABLE,
        subject=agent.name,
        host=host,
        what=f"{agent.name} can't be asked from here",
        level=Level.BROKEN,
        cause=why,
        remedies=(start(host), read_log(host, "shows why it ended")) if code == NO_ANSWER else (),
        evidence=(("code", code),),
        explains=tuple(explains),
    )


def with_found(listed: AttentionList | None, found: Iterable[Trouble], now: str) -> AttentionList:
    """Return a list with what was found besides it.

    What the list has is not added. That an agent can't be asked is explained by the silence of its host, and that it
    refuses the key that asks, by a clock for which keys are refused.

    Args:
        listed: what mainpc, or pc2 in its place, has found; None if neither says it.
        found: what they can't know.
        now: by the clock that the list is from, in ISO-8601.
    """
    items = list(listed["items"]) if listed else []
    known = {name for item in items for name in _ids(item)}
    at = parse_time(now).timestamp()
    for trouble, explained in by_cause(trouble for trouble in found if trouble.id not in known):
        cause = next((item for item in items if _silences(item, trouble)), None)
        if cause is None:
            items.append(item_of(trouble, trouble.since or at, [(other, other.since or at) for other in explained]))
        else:
            added = item_of(trouble, at, [(other, at) for other in (trouble, *explained)])["explains"]
            items[items.index(cause)] = {**cause, "explains": [*cause["explains"], *added]}
    return list_of(items, listed["as_of"] if listed else now)


def _ids(item: AttentionItem) -> list[str]:
    return [item["id"], *(other["id"] for other in item["explains"])]


def _silences(item: AttentionItem, trouble: Trouble) -> bool:
    """Return whether an item says why a host does not answer, which this trouble of the host says in another way."""
    if trouble.kind is not Kind.UNREACHABLE and not trouble.subject.endswith(f"/{LINK_CHECK}"):
        return False
    if ("code", NOT_AUTHORIZED) in trouble.evidence and item["id"] == f"{Kind.CLOCKS_DIFFER}:{trouble.host}":
        return item["level"] == "broken"
    silent = {f"{kind}:{trouble.host}" for kind in (Kind.HOST_SILENT, Kind.HOST_STOPPED, Kind.MAINPC_SILENT)}
    if trouble.subject == REGISTRY_AGENT:
        silent.add(Kind.MAINPC_SILENT.value)
    return not silent.isdisjoint(_ids(item))
