"""What is wrong: troubles, which of them are consequences of others, and the sentence that comes first. Pure.

A detector says what it finds now, as `Trouble`. `by_cause` puts consequences below their causes. `headline` and
`level_of` are what the page, `status`, metrics and messages begin with.
"""

from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum, StrEnum
from typing import NotRequired, TypedDict

import msgspec

from twinhost.moments import iso_time
from twinhost.network_config.load import ADDRESS_VARIABLES


class Level(IntEnum):
    """How bad it is: the exit status of `status`, and the value of the metric."""

    WELL = 0
    ATTENTION = 1  # all works; somebody should do something in time
    BROKEN = 2  # something does not work

    @classmethod
    def of(cls, word: str) -> "Level":
        """Return the level that a list or an item names; a word of a later version counts as the worst."""
        return cls.__members__.get(word.upper(), cls.BROKEN)


class Kind(StrEnum):
    """The kinds of trouble: how bad each is, what it means, and what to do; the reference page is made of them."""

    levels: str
    meaning: str
    advice: str

    def __new__(cls, value: str, levels: str, meaning: str, advice: str) -> "Kind":
        """Keep the sentences beside the value."""
        kind = str.__new__(cls, value)
        kind._value_, kind.levels, kind.meaning, kind.advice = value, levels, meaning, advice
        return kind

    MAINPC_SILENT = (
        "mainpc_silent",
        "broken",
        "As seen from pc2: SystemDigitalTwin does not answer.",
        "The cause says what its connections show: start it, continue it, or fix the network between the hosts.",
    )
    HOST_SILENT = (
        "host_silent",
        "broken; attention until it has registered once",
        "The agent of a host sends no heartbeats, or has not registered yet.",
        "The cause says what its connections show: start it, continue it, or fix the network between the hosts.",
    )
    HOST_STOPPED = ("host_stopped", "broken", "The agent of a host said that it stops.", "Start it.")
    UNREACHABLE = (
        "unreachable",
        "broken",
        "An agent can't be reached from where `status` runs, or refuses the key that asks.",
        "The cause says which: start the agent, open the port, or use a key that it knows.",
    )
    WRONG_AGENT = (
        "wrong_agent",
        "broken",
        "Another agent answers at an agent's address.",
        "Correct the address in `network_config.yaml`.",
    )
    AGENTS_SILENT = (
        "agents_silent",
        "attention",
        "Other agents send no heartbeats.",
        "Start them; unregister those that are gone for good.",
    )
    AGENTS_UNHEALTHY = (
        "agents_unhealthy",
        "attention",
        "Agents report a status other than `HEALTHY` or `ok`.",
        "Look at their logs.",
    )
    LINK_OPEN = (
        "link_open",
        "attention; broken if the other host encrypts",
        "`SECURE_ZMQ=0` on a host: nothing is encrypted and nobody is authenticated.",
        "Set `SECURE_ZMQ=1` in `.env`, and start the host again.",
    )
    CHECK_FAILED = (
        "check_failed",
        "broken if the agent can't serve, else attention",
        "A health check of a host's agent fails.",
        "Look at its log.",
    )
    WARNING = ("warning", "attention", "A host's agent warns of something.", "The sentence says it.")
    DETECTOR_FAILED = (
        "detector_failed",
        "attention",
        "What finds troubles has a fault itself, or has not looked: what it looks for is not shown.",
        "Report what the log of mainpc says.",
    )
    ERRORS = (
        "errors",
        "broken if one is critical, else attention",
        "Agents reported errors of severity `error` or `critical` that nobody has acknowledged.",
        "`./twinhost errors` groups them; acknowledge what is settled.",
    )
    REFUSALS = (
        "refusals",
        "attention",
        "An agent of a host, of mainpc or pc2, refused connections.",
        "If you know the address, give it a valid key; else close the port to it.",
    )
    DISK_FULL = (
        "disk_full",
        "broken if the state is on it, else attention",
        "A disk has no room left.",
        "Free space: nothing is stored until then.",
    )
    DISK_NEARLY_FULL = ("disk_nearly_full", "attention", "A disk has little room left.", "Free space.")
    FILLING = (
        "filling",
        "attention",
        "By its trend, memory or a disk is full soon.",
        "Free space, or stop what grows.",
    )
    RAM_FULL = ("ram_full", "attention", "A host's memory is nearly full.", "Stop a program on it, or release leases.")
    VRAM_FULL = ("vram_full", "attention", "A card's memory is full.", "Stop a program on it, or release leases.")
    GPU_HOT = ("gpu_hot", "attention", "A card is hot.", "Cool it, or stop what runs on it.")
    DISK_FAILING = (
        "disk_failing",
        "broken if the state is on it, else attention",
        "The kernel reports errors of a disk.",
        "Back up, and replace the disk.",
    )
    METRICS_MISSING = (
        "metrics_missing",
        "attention",
        "A host answers and is not measured.",
        "Look at the log of its agent.",
    )
    LEASES_WAIT = ("leases_wait", "attention", "Programs wait for memory.", "Release leases, or stop a program.")
    CLOCKS_DIFFER = (
        "clocks_differ",
        "broken if keys are refused for it, else attention",
        "The hosts' clocks differ.",
        "Set the clock of the host that is named; under Docker Desktop or WSL 2, restart that.",
    )
    KEY_EXPIRES = ("key_expires", "attention", "A key expires soon.", "Rotate it.")
    KEY_EXPIRED = (
        "key_expired",
        "broken if it is that of a host's agent, else attention",
        "A key has expired: its owner is refused.",
        "Rotate it, or invite its owner again.",
    )
    KEY_REVOKED = ("key_revoked", "broken", "The key of a host's agent is revoked.", "Give the agent a new key.")
    KEY_RETIRES = (
        "key_retires",
        "attention",
        "Somebody asked to replace a key without its consent.",
        "If it was not you, revoke the newer key.",
    )
    REVOCATION_PENDING = (
        "revocation_pending",
        "attention",
        "An agent has not applied the newest list of keys, and may accept a revoked one.",
        "Start the agent, or fix its connection to mainpc.",
    )
    AUDIT_TAMPERED = (
        "audit_tampered",
        "broken; attention if it is intact again",
        "Lines of the audit log were changed or removed. It stays until it is acknowledged, also if that was reverted.",
        "Find out who can write to the state of mainpc; `./twinhost audit verify` names the line.",
    )
    AUDIT_CONTRADICTED = (
        "audit_contradicted",
        "broken",
        "The other host remembers other lines of the audit log.",
        "After a restore: `./twinhost audit accept`. Else as for a changed line.",
    )
    RESTORED = (
        "restored",
        "attention",
        "The state of mainpc is older than it was.",
        "If you restored it, accept the audit log; else find out who did.",
    )
    BACKUP_OLD = ("backup_old", "attention", "The last backup of a host is old, or there is none.", "Make one.")
    BUDGET_NEARLY_USED = (
        "budget_nearly_used",
        "attention",
        "An identity has used most of its budget.",
        "Delete what it no longer needs, or raise its budget in `network_config.yaml`.",
    )
    ONE_COPY = (
        "one_copy",
        "attention",
        "Only one of the two databases has what is committed: if it is lost, so is the newest.",
        "Start the other database, or its machine, or mend the link to it; it takes what it has missed by itself.",
    )
    STANDBY_SILENT = (
        "standby_silent",
        "attention",
        "No standby of an agent follows its log: if the active machine dies, no other one takes over.",
        "Start the standby, or its machine; its log says what keeps it from following.",
    )
    STANDBY_BEHIND = (
        "standby_behind",
        "attention",
        "A standby is far behind the log: a takeover waits until it has the rest.",
        "Look at what slows its machine down.",
    )
    STANDBY_DIFFERS = (
        "standby_differs",
        "attention",
        "A standby follows, and has another configuration, a full volume, or another secret: then it can't take over.",
        "Copy what the cause names to its machine, or free space there.",
    )
    WITNESS_SILENT = (
        "witness_silent",
        "attention",
        "The witness of the databases does not answer: if the one that takes writes dies now, the other one waits.",
        "Start the witness, or fix the network to it.",
    )


class Remedy(msgspec.Struct, frozen=True):
    """A command that fixes a trouble, and the host on which to run it; where none does, `command` is empty."""

    on: str
    command: str
    why: str = ""


SERVICES = ADDRESS_VARIABLES.keys()  # the hosts whose agent docker-compose.yml has, under the host's name


def start(host: str, why: str = "starts its agent") -> Remedy:
    """Return what starts the agent of a host."""
    if host not in SERVICES:
        return Remedy(host, "", f"start the agent on {host}")
    return Remedy(host, f"docker compose up -d {host}", why)


def read_log(host: str, why: str) -> Remedy:
    """Return what shows the log of a host's agent; `why` begins with a verb, as in "shows since when"."""
    if host not in SERVICES:
        return Remedy(host, "", f"the log of the agent on {host} {why}")
    return Remedy(host, f"docker compose logs {host}", why)


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
    of another host while mainpc is silent. `announced` is when it was news last, once it was: when it had lasted for
    some seconds, or has got worse since; a newer time is news.
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
    announced: NotRequired[str]


class AttentionList(TypedDict):
    """All that is wrong, the worst first, as of a time. `level` is `well`, `attention`, or `broken`.

    `ending` has the ids of what is not found any more, and has ended if it stays away.
    """

    level: str
    headline: str
    as_of: str
    items: list[AttentionItem]
    ending: NotRequired[list[str]]


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
        "explains": [{"id": other.id, "what": other.what, "since": iso_time(began)} for other, began in explained],
        "remedies": [{"on": remedy.on, "command": remedy.command, "why": remedy.why} for remedy in trouble.remedies],
        "evidence": [{"name": name, "value": value} for name, value in trouble.evidence],
    }


def consequences(item: AttentionItem) -> list[Consequence]:
    """Return what an item explains, for people: that a full disk is nearly full goes without saying."""
    return [other for other in item["explains"] if not other["id"].startswith(Kind.DISK_NEARLY_FULL)]


def list_of(items: Iterable[AttentionItem], as_of: str) -> AttentionList:
    """Return a list of items: the worst first, what is acknowledged last, as of a time in ISO-8601."""
    ordered = sorted(items, key=lambda item: ("acknowledged" in item, -Level.of(item["level"]), item["since"]))
    return {
        "level": level_of(ordered).name.lower(),
        "headline": headline(ordered),
        "as_of": as_of,
        "items": ordered,
    }


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


def level_of(items: Iterable[AttentionItem]) -> Level:
    """Return the worst level of what nobody has acknowledged."""
    return max((Level.of(item["level"]) for item in items if "acknowledged" not in item), default=Level.WELL)


def headline(items: Sequence[AttentionItem]) -> str:
    """Return the sentence that comes first: the worst trouble and how many more there are, or that all is well."""
    new = [item for item in items if "acknowledged" not in item]
    if not items:
        return "All is well."
    if not new:
        return f"Nothing new is wrong; {_many(len(items))} acknowledged."
    if len(new) == 1:
        return f"{new[0]['what']}."
    return f"{new[0]['what']}; and {_many(len(new) - 1, 'more ')}."


def _many(count: int, word: str = "") -> str:
    return f"1 {word}trouble" if count == 1 else f"{count} {word}troubles"


_NAMED = 3  # in a sentence


def listed(names: Sequence[str]) -> str:
    """Return names as a part of a sentence; of many, the first ones and how many more there are."""
    if len(names) <= _NAMED:
        return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
    return f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED} more"


def times(count: int) -> str:
    """Return how often something was, as a part of a sentence."""
    return "once" if count == 1 else f"{count} times"
