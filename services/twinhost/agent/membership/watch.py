"""Who watches mainpc: its attention list as this host got it last, and that mainpc does not answer.

While mainpc answers, the list is mainpc's, as of its last answer. Once mainpc is silent for longer than the TTL, the
list begins with that; then comes what is wrong with this host, which mainpc can't be told, and then what mainpc said
last. The file outlasts a restart of this host: it still knows that mainpc is silent, and since when.

A mainpc that refuses this host is not silent, and says itself what is wrong: the list has that under the id which
mainpc uses. So what only this host can tell is `mainpc_silent`.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec
import structlog

from twinhost.agent.open_links import link_open
from twinhost.agent.refused_connections import subject_of_peer
from twinhost.agent.silence import advice, shown_by
from twinhost.agent.troubles import (
    AttentionItem,
    AttentionList,
    Kind,
    Level,
    Remedy,
    Trouble,
    by_cause,
    headline,
    item_of,
    level_of,
)
from twinhost.commands import CERTS_INIT
from twinhost.moments import Clock, iso_time, parse_time
from twinhost.network_config import Agent
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import (
    NotAuthorized,
    PeerNotLive,
    RequestError,
    SecurityMismatch,
    ServerUnreachable,
    TwinhostError,
)
from twinhost.secure_zmq.key_writer import replace_file
from twinhost.secure_zmq.peers import Outcome
from twinhost.secure_zmq.silence import Silence, of_closed
from twinhost.secure_zmq.wire import Reply, Request

_log = structlog.get_logger(__name__)

MAX_ITEMS = 50  # of mainpc's list that are kept
MAX_BYTES = 131_072


class _Kept(msgspec.Struct, omit_defaults=True):
    """What the file has; times are in seconds since the epoch, by this host's clock."""

    revision: str = ""
    shown: AttentionList | None = None
    silent_since: float | None = None


class MainpcWatch:
    """The attention list as this host knows it. `list` is for any thread, the rest for the one that asks mainpc."""

    def __init__(
        self,
        path: Path,
        agent: Agent,
        mainpc: Agent,
        own: Callable[[], Iterable[Trouble]],
        ttl_s: Callable[[], float],
        clock: Clock,
        *,
        secure: bool,
    ) -> None:
        """Read the file.

        Args:
            own: returns what is wrong with this host; on any thread.
            ttl_s: returns for how long mainpc may be silent.
        """
        self._path, self._agent, self._mainpc, self._own, self._ttl_s = path, agent, mainpc, own, ttl_s
        self._clock, self._secure = clock, secure
        self._lock = threading.Lock()
        self._first: dict[str, float] = {}  # when a trouble of this host was seen first
        self._failure: TwinhostError | None = None  # of the last request, if it failed
        self._failed_after_s = 0.0  # without an answer
        self._refused_at = clock.time()  # since when mainpc has answered with such a failure
        self._kept = _Kept()
        try:
            self._kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:  # mainpc sends its list again
            _log.warning("attention_unreadable", path=str(path), reason=str(error))
        now = clock.time()
        self._heard_at = now if self._kept.silent_since is None else min(self._kept.silent_since, now)
        self._heard = clock.monotonic() - (now - self._heard_at)

    def answered(self, refusal: RequestError | None = None) -> None:
        """Note that mainpc answered a request, or refused it."""
        self._note_alive(refusal if isinstance(refusal, PeerNotLive) else None)

    def failed(self, error: TwinhostError) -> None:
        """Note that a request got no answer; one that shows that mainpc runs is no silence."""
        if isinstance(error, NotAuthorized | SecurityMismatch):
            self._note_alive(error)
            return
        with self._lock:
            if self._failure is None:
                self._failed_after_s = self._clock.monotonic() - self._heard
            if self._is_silent or not isinstance(self._failure, NotAuthorized | SecurityMismatch | PeerNotLive):
                self._failure = error
            self._remember_since()

    def lacks(self, revision: object) -> bool:
        """Return whether mainpc's list of a revision is to be fetched."""
        return isinstance(revision, str) and revision != self._kept.revision

    def take(self, revision: str, reply: Reply) -> None:
        """Keep mainpc's list, from the reply to `get_attention`."""
        try:
            document = msgspec.convert(reply, AttentionList)
        except msgspec.ValidationError as error:
            _log.warning("attention_malformed", reason=str(error))
            document = {"level": "well", "headline": "", "as_of": iso_time(self._heard_at), "items": []}
        items = document["items"][:MAX_ITEMS]
        while len(msgspec.json.encode(items)) > MAX_BYTES:
            items = items[: len(items) // 2]
        kept: AttentionList = {
            "level": document["level"],
            "headline": document["headline"],
            "as_of": document["as_of"],
            "items": items,
        }
        with self._lock:
            self._keep(_Kept(revision, kept))

    def list(self) -> AttentionList:
        """Return what is wrong, the worst first; `last_known` marks what mainpc said before it fell silent."""
        with self._lock:
            kept, found = self._kept.shown, self._found()
            if kept is not None and not found:
                return {**kept, "as_of": iso_time(self._heard_at)}
            items = [*self._items([*found, *self._own()])]
            known = {item["id"] for item in items} | {other["id"] for item in items for other in item["explains"]}
            last, last_known = () if kept is None else kept["items"], iso_time(self._heard_at)
            items += [{**item, "last_known": last_known} for item in last if item["id"] not in known]
            return {
                "level": level_of(items).name.lower(),
                "headline": headline(items),
                "as_of": iso_time(self._clock.time()),
                "items": items,
            }

    @property
    def _is_silent(self) -> bool:
        return self._clock.monotonic() - self._heard >= self._ttl_s()

    def _remember_since(self) -> None:
        """Write since when mainpc is silent, at once: this host may end too."""
        if self._kept.silent_since is None:
            self._keep(msgspec.structs.replace(self._kept, silent_since=self._heard_at))

    def _note_alive(self, failure: TwinhostError | None) -> None:
        with self._lock:
            if _shown_by(failure) is not _shown_by(self._failure):
                self._refused_at = self._clock.time()
            self._failure = failure
            self._heard, self._heard_at = self._clock.monotonic(), self._clock.time()
            if self._kept.silent_since is not None:
                self._keep(msgspec.structs.replace(self._kept, silent_since=None))

    def _found(self) -> Sequence[Trouble]:
        """Return why mainpc's list can't be had; nothing if it can."""
        name, host, mainpc = self._agent.name, self._agent.host.name, self._mainpc.host.name
        cause = None if self._failure is None else str(self._failure)
        if self._is_silent:
            self._remember_since()
            silence = self._silence()
            return [
                Trouble(
                    kind=Kind.MAINPC_SILENT,
                    host=mainpc,
                    what=f"{mainpc} does not answer {host}",
                    level=Level.BROKEN,
                    since=self._heard_at,
                    cause=cause if silence is None else shown_by(silence),
                    remedies=advice(silence, mainpc, host),
                    evidence=() if cause is None else (("last request", cause),),
                )
            ]
        kind = _shown_by(self._failure)
        if kind is Kind.KEY_REVOKED:
            return [
                Trouble(
                    kind=Kind.KEY_REVOKED,
                    subject=name,
                    host=host,
                    what=f"{mainpc} refuses the key of {host}",
                    level=Level.BROKEN,
                    since=self._refused_at,
                    cause=cause,
                    explains=tuple(
                        f"{Kind.REFUSALS}:{subject_of_peer(host, name, outcome)}"  # its agent asks itself too
                        for outcome in (Outcome.KEY_REVOKED, Outcome.KEY_EXPIRED)
                    ),
                    remedies=(
                        Remedy(mainpc, "./twinhost attention", "shows whether it was revoked, or has expired"),
                        Remedy(mainpc, f"{CERTS_INIT} replace {name}", "makes a new key in place of a revoked one"),
                    ),
                )
            ]
        if kind is Kind.LINK_OPEN:
            open_link = link_open(mainpc if self._secure else host, other=host if self._secure else mainpc)
            return [msgspec.structs.replace(open_link, since=self._refused_at)]
        return ()

    def _silence(self) -> Silence | None:
        """Return what the connections to a silent mainpc show."""
        silence = self._failure.silence if isinstance(self._failure, ServerUnreachable) else None
        return of_closed(self._failed_after_s) if silence is Silence.ENDED else silence

    def _items(self, troubles: Iterable[Trouble]) -> Sequence[AttentionItem]:
        now, said = self._clock.time(), _said(self._kept.shown)
        known = {trouble.id: trouble for trouble in troubles}
        self._first = {name: self._first.get(name, said.get(name, now)) for name in known}
        since = {name: self._first[name] if known[name].since is None else known[name].since or now for name in known}
        return [
            item_of(trouble, since[trouble.id], [(other, since[other.id]) for other in explained])
            for trouble, explained in by_cause(known.values())
        ]

    def _keep(self, kept: _Kept) -> None:
        """Keep it, in memory at least: the health of this host says that its disk is full."""
        self._kept = kept
        try:
            replace_file(self._path, msgspec.json.encode(kept).decode())
        except OSError as error:
            _log.warning("attention_not_written", reason=str(error))


def _shown_by(failure: TwinhostError | None) -> Kind | None:
    """Return the kind of the trouble that a failure shows while mainpc runs."""
    if isinstance(failure, NotAuthorized | PeerNotLive):
        return Kind.KEY_REVOKED
    return Kind.LINK_OPEN if isinstance(failure, SecurityMismatch) else None


def _said(listed: AttentionList | None) -> dict[str, float]:
    """Return since when each trouble is there, as mainpc said last."""
    said = {}
    for item in () if listed is None else listed["items"]:
        with suppress(ValueError):
            said[item["id"]] = parse_time(item["since"]).timestamp()
    return said


class GetAttention(Request, tag="get_attention"):
    """Return what is wrong as this host knows it: mainpc's list, or while mainpc is silent, that and its last list.

    `evidence` is for operators, and empty for others.
    """


class WatchedAttention(AttentionList):
    """All that is wrong; `level` is `well`, `attention`, or `broken`, of what is not acknowledged."""

    status: Literal["ok", "success"]


class WatchActions(Feature):
    """The action on the attention list as this host knows it."""

    def __init__(self, watch: MainpcWatch, success: Literal["ok", "success"]) -> None:
        """Serve a watch; `success` is the `status` of a successful reply."""
        self._watch = watch
        self._success: Literal["ok", "success"] = success

    @action()
    def get(self, _: GetAttention, caller: Caller) -> WatchedAttention:
        document = self._watch.list()
        if not caller.operator:
            document["items"] = [{**item, "evidence": []} for item in document["items"]]
        return {"status": self._success, **document}
