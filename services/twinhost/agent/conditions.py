"""What an agent says of itself: each check that fails, and each warning; and as troubles of its host. Pure.

An agent sends its conditions to mainpc with its heartbeat. What it sends is a claim of its own: it names no other
host, explains nothing, and is limited in number and size.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from types import MappingProxyType
from typing import Annotated, Literal

import msgspec

from twinhost.agent.message_shape import message_shape
from twinhost.agent.troubles import Kind, Level, Remedy, Trouble, read_log

MAX_CONDITIONS = 32  # in a heartbeat
MAX_NAME = 64  # characters
MAX_CHARACTERS = 600  # of a sentence
MAX_BYTES = 8_192  # of all of them, as JSON

_NAME = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME)]


class Condition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that is wrong with an agent, as it says itself.

    `name` is that of the check or of the kind of warning; after a slash it may have a part, which is told apart: the
    writer whose budget is used up. `level` is `error` if the agent can't serve because of it, and `degraded` if another
    check fails. `command` fixes it, on the agent's host.
    """

    name: _NAME
    what: Annotated[str, msgspec.Meta(max_length=MAX_CHARACTERS)]
    level: Literal["warning", "degraded", "error"] = "warning"
    command: Annotated[str, msgspec.Meta(max_length=300)] = ""


# The names of checks and warnings that others know: who explains them, or says more about them.
LINK_CHECK, WITNESS_CHECK, LOG_CHECK = "mainpc_link", "audit_witness", "audit_log"
AUDIT_RESTORED, BACKUP, BUDGETS, KEY_EXPIRY, REFUSALS = "audit_restored", "backup", "budgets", "key_expiry", "refusals"
KEY_RETIRES = "key_retires"
# Conditions that are a trouble of their own kind; None: mainpc has a detector that sees the same.
KINDS: Mapping[str, Kind | None] = MappingProxyType(
    {
        KEY_EXPIRY: None,
        BACKUP: Kind.BACKUP_OLD,
        BUDGETS: Kind.BUDGET_NEARLY_USED,
        REFUSALS: Kind.REFUSALS,
    }
)
_ON_MAINPC = {  # where the operator's key is; and what the command does, if the condition does not say it
    Kind.BACKUP_OLD: "",
    Kind.BUDGET_NEARLY_USED: "shows who uses how much of which budget",
    Kind.REFUSALS: "shows whose keys are authorised, to compare",
}


def bounded(conditions: Iterable[Condition]) -> list[Condition]:
    """Return the conditions that fit into a heartbeat, with their names and sentences cut."""
    sent, size = [], 0
    for condition in islice(conditions, MAX_CONDITIONS):
        cut = {"name": condition.name[:MAX_NAME], "what": condition.what[:MAX_CHARACTERS]}
        shown = msgspec.structs.replace(condition, **cut)
        size += len(msgspec.json.encode(shown))
        if size > MAX_BYTES:
            break
        sent.append(shown)
    return sent


def troubles_of(
    host: str, conditions: Iterable[Condition], kinds: Mapping[str, Kind | None] = KINDS, *, agent: str = ""
) -> Iterator[Trouble]:
    """Yield a trouble for each name of a host's conditions; sentences that differ in a number only are one member.

    `agent` is who says them, if it is not the one that the host has for itself.
    """
    by_name: dict[str, list[Condition]] = {}
    for condition in conditions:
        by_name.setdefault(condition.name, []).append(condition)
    for name, said in by_name.items():
        first, more = said[0], len(said) - 1
        base, _, part = name.partition("/")
        kind = kinds.get(base, Kind.WARNING if first.level == "warning" else Kind.CHECK_FAILED)
        if kind is None:
            continue
        commands = dict.fromkeys(condition.command for condition in said if condition.command)
        on, does = ("mainpc", _ON_MAINPC[kind]) if kind in _ON_MAINPC else (host, "")
        remedies = [Remedy(on, command, does) for command in commands]
        if not remedies and kind is Kind.CHECK_FAILED:
            why = "shows since when"
            remedies = [Remedy(host, "", f"the log of {agent} {why}") if agent else read_log(host, why)]
        yield Trouble(
            kind=kind,
            subject="/".join(filter(None, (host, agent, part if base in kinds else name))),
            host=host,
            what=f"{agent or host}: {first.what}{f'; and {more} more' if more else ''}",
            level=Level.BROKEN if any(condition.level == "error" for condition in said) else Level.ATTENTION,
            remedies=tuple(remedies),
            evidence=tuple((name, condition.what) for condition in said),
            members=tuple(dict.fromkeys(message_shape(condition.what) for condition in said)),
        )
