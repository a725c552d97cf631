"""What is wrong: troubles, which of them are consequences of others, and the sentence that comes first. Pure.

A detector says what it finds now, as `Trouble`. `by_cause` puts consequences below their causes. `headline` and
`level_of` are what the page, `status`, metrics and messages begin with.
"""

from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum, StrEnum
from typing import NotRequired, TypedDict

import msgspec

from twinhost.moments import iso_time


class Level(IntEnum):
    """How bad it is: the exit status of `status`, and the value of the metric."""

    WELL = 0
    ATTENTION = 1  # all works; somebody should do something in time
    BROKEN = 2  # something does not work


class Kind(StrEnum):
    """The kinds of trouble. The documentation lists them with these descriptions."""

    MAINPC_SILENT = "mainpc_silent"  # as seen from pc2: SystemDigitalTwin does not answer
    HOST_SILENT = "host_silent"  # the agent of a host sends no heartbeats
    HOST_STOPPED = "host_stopped"  # it said that it stops
    AGENTS_SILENT = "agents_silent"  # other agents send no heartbeats
    AGENTS_UNHEALTHY = "agents_unhealthy"  # they report a status other than HEALTHY or ok
    LINK_OPEN = "link_open"  # SECURE_ZMQ=0 on a host
    CHECK_FAILED = "check_failed"  # a health check of a host's agent fails
    WARNING = "warning"  # a host's agent warns
    DETECTOR_FAILED = "detector_failed"  # what finds troubles has a fault itself
    ERRORS = "errors"  # reported errors of severity error or critical that nobody has acknowledged
    REFUSALS = "refusals"  # refused connections
    DISK_FULL = "disk_full"
    DISK_NEARLY_FULL = "disk_nearly_full"
    FILLING = "filling"  # memory or a disk will be full soon, by the trend
    RAM_FULL = "ram_full"
    VRAM_FULL = "vram_full"
    GPU_HOT = "gpu_hot"
    DISK_FAILING = "disk_failing"  # the kernel or SMART reports errors
    METRICS_MISSING = "metrics_missing"  # a host answers and is not measured
    LEASES_WAIT = "leases_wait"
    CLOCKS_DIFFER = "clocks_differ"
    KEY_EXPIRES = "key_expires"
    KEY_EXPIRED = "key_expired"
    KEY_REVOKED = "key_revoked"  # of a host's agent
    KEY_RETIRES = "key_retires"  # somebody asked to replace a key without its consent
    REVOCATION_PENDING = "revocation_pending"  # an agent has not applied the newest list of keys
    AUDIT_TAMPERED = "audit_tampered"
    AUDIT_CONTRADICTED = "audit_contradicted"  # the witness remembers other lines
    RESTORED = "restored"  # mainpc's state is older than it was
    BACKUP_OLD = "backup_old"
    BUDGET_NEARLY_USED = "budget_nearly_used"


class Remedy(msgspec.Struct, frozen=True):
    """A command that mends a trouble, and the host on which to run it; where none does, `command` is empty."""

    on: str
    command: str
    why: str = ""


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong now.

    `what` is a sentence without its full stop. `members` are the parts of a trouble that can grow: silent agents,
    shapes of errors; a new one is news. `explains` has the ids of its consequences, if they are there; one that ends
    with `*` means all that begin so. `since` is in seconds since the epoch, None if only its detection is known.
    """

    kind: Kind
    what: str
    subject: str = ""  # the host, agent, or peer; it distinguishes troubles of one kind
    level: Level = Level.ATTENTION
    host: str | None = None  # where it is
    cause: str | None = None
    since: float | None = None
    remedies: tuple[Remedy, ...] = ()
    evidence: tuple[tuple[str, str], ...] = ()  # what was seen: names and values
    members: tuple[str, ...] = ()
    explains: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """What `acknowledge` takes; the same for as long as the trouble lasts."""
        return f"{self.kind}:{self.subject}" if self.subject else self.kind.value


Detector = Callable[[], Iterable[Trouble]]


class RemedyDocument(TypedDict):
    """A command, the host on which to run it, and what it does."""

    on: str
    command: str
    why: str


class EvidenceRow(TypedDict):
    """One thing that was seen."""

    name: str
    value: str


class Consequence(TypedDict):
    """A trouble that another one explains."""

    id: str
    what: str
    since: str


class Acknowledged(TypedDict):
    """Who acknowledged a trouble, and when."""

    by: str
    at: str


class AttentionItem(TypedDict):
    """One cause of trouble: `level` is `attention` or `broken`; `explains` lists its consequences, which are no items.

    `acknowledged` is there until the trouble gets worse, or ends. `last_known` is when mainpc said so last, on the list
    of another host while mainpc is silent.
    """

    id: str
    kind: str
    level: str
    subject: str
    host: str | None
    what: str
    since: str
    cause: str | None
    explains: list[Consequence]
    remedies: list[RemedyDocument]
    evidence: list[EvidenceRow]
    acknowledged: NotRequired[Acknowledged]
    last_known: NotRequired[str]


class AttentionList(TypedDict):
    """All that is wrong, the worst first, as of a time. `level` is `well`, `attention`, or `broken`."""

    level: str
    headline: str
    as_of: str
    items: list[AttentionItem]


def by_cause(troubles: Iterable[Trouble]) -> list[tuple[Trouble, list[Trouble]]]:
    """Return the troubles that no other one explains, the worst first, each with all those that it explains."""
    known = {trouble.id: trouble for trouble in troubles}
    cause_of: dict[str, str] = {}
    for trouble in known.values():
        for pattern in trouble.explains:
            prefix = pattern.removesuffix("*")
            named = [name for name in known if name.startswith(prefix)] if prefix != pattern else [pattern]
            for name in named:
                if name in known and name not in cause_of and _root(trouble.id, cause_of) != name:
                    cause_of[name] = trouble.id
    explained: dict[str, list[Trouble]] = {name: [] for name in known if name not in cause_of}
    for name in cause_of:
        explained[_root(name, cause_of)].append(known[name])
    roots = sorted(explained, key=lambda name: -known[name].level)
    return [(known[name], explained[name]) for name in roots]


def _root(name: str, cause_of: dict[str, str]) -> str:
    while name in cause_of:
        name = cause_of[name]
    return name


def item_of(trouble: Trouble, since: float, explained: Iterable[tuple[Trouble, float]] = ()) -> AttentionItem:
    """Return a trouble as an item of the list, with those that it explains; each with since when."""
    return {
        "id": trouble.id,
        "kind": trouble.kind.value,
        "level": trouble.level.name.lower(),
        "subject": trouble.subject,
        "host": trouble.host,
        "what": trouble.what,
        "since": iso_time(since),
        "cause": trouble.cause,
        "explains": [{"id": other.id, "what": other.what, "since": iso_time(begun)} for other, begun in explained],
        "remedies": [{"on": each.on, "command": each.command, "why": each.why} for each in trouble.remedies],
        "evidence": [{"name": name, "value": value} for name, value in trouble.evidence],
    }


def level_of(items: Iterable[AttentionItem]) -> Level:
    """Return the worst level of what nobody has acknowledged."""
    return max((Level[item["level"].upper()] for item in items if "acknowledged" not in item), default=Level.WELL)


def headline(items: Sequence[AttentionItem]) -> str:
    """Return the sentence that comes first: the worst trouble and how many more there are, or that all is well."""
    new = [item for item in items if "acknowledged" not in item]
    if not items:
        return "All is well."
    if not new:
        return f"Nothing new is wrong; {_many(len(items))} acknowledged."
    if len(new) == 1:
        return f"{new[0]['what']}."
    return f"{new[0]['what']}; and {_many(len(new) - 1)} more."


def _many(count: int) -> str:
    return "1 trouble" if count == 1 else f"{count} troubles"
