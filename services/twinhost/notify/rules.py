"""Which message is due, given the attention list as it is seen over time. Pure: no clock, disk, or network.

`Rules.see` takes each look at the list and notes what is news; `Rules.due` returns the message for it, if it is time
for one. News of one moment are one message: what has begun, changed, and ended. What is in `Memory` has to outlast a
restart; nothing is told twice that is in it.

A trouble that comes and goes is limited by itself, so that it never delays another one. What is limited is not left
out: it goes into the next message, with how often it came back.

mainpc's list says itself what has settled and is no consequence (`announced`), and what may come back (`ending`); what
is neither on it nor in that has ended. While mainpc can't be asked, nothing ends, and pc2's list only adds what pc2
alone can know.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, tzinfo
from typing import Literal

import msgspec

from twinhost.agent.troubles import (
    AttentionItem,
    Kind,
    Level,
    Remedy,
    RemedyDocument,
    Trouble,
    consequences,
    headline,
    item_of,
    level_of,
    times,
)
from twinhost.fence import one_line
from twinhost.moments import iso_time, parse_time

GATHER_S = 5.0  # in which news that belong together become one message
RETURN_S = 25.0  # after mainpc was away: so long its list may have agents as silent that could not reach it
AWAY_S = 10.0  # without an answer of mainpc, it was away
UNHEARD_S = 45.0  # without one, and pc2 does not say why: that is told, within a minute
_DAY_S = 86_400.0
_SHOWN = 10  # in full, of several news in one message
_UNHEARD = "mainpc can't be asked what is wrong"
_MOST = 300  # characters of a sentence

Event = Literal["began", "changed", "ended", "passed"]


@dataclass(frozen=True, slots=True)
class Limit:
    """So many messages at once, then one every so many seconds. Its only state is when all may be sent again."""

    at_once: int
    every_s: float

    def allows(self, full_at: float, now: float) -> bool:
        """Return whether a message may be sent; if `full_at` is too far ahead, the clock was set back since."""
        return not self.at_once - 1 < (full_at - now) / self.every_s < self.at_once + 1

    def spent(self, full_at: float, now: float) -> float:
        """Return when all may be sent again after a message now, which may be one more than allowed."""
        return min(max(full_at, now) + self.every_s, now + self.at_once * self.every_s)


OF_A_CAUSE = Limit(8, 1_800.0)  # four begins and ends: somebody is trying to fix it
OF_ALL = Limit(30, 120.0)  # only what is broken goes beyond it


class News(msgspec.Struct):
    """What there is to tell of one trouble; times are in seconds since the epoch.

    `passed` is what began and ended before anybody was told; `times` is how often it began lately.
    """

    event: Event
    id: str
    kind: str
    level: str
    what: str
    since: float
    host: str | None = None
    cause: str | None = None
    explains: tuple[str, ...] = ()
    remedies: tuple[str, ...] = ()
    announced: str | None = None
    lasted_s: float = 0.0
    times: int = 1


class Message(msgspec.Struct):
    """What is sent; `level` is the worst of what has begun or changed, `well` if all of it has ended.

    `text` says it all without the title.
    """

    level: str
    title: str
    text: str
    at: str
    news: list[News] = []


class Pace(msgspec.Struct):
    """The limit of one cause, and what is to be known until it is full again: how often it began, and its level."""

    full_at: float = 0.0
    times: int = 0
    broken: bool = False  # and told so


class Memory(msgspec.Struct):
    """What outlasts a restart: what was told, what waits to be, and the limits, by cause and of all messages."""

    told: dict[str, News] = {}
    waiting: dict[str, News] = {}
    waiting_since: float = 0.0  # of what may be sent now; 0.0 if nothing may be
    paces: dict[str, Pace] = {}
    full_at: float = 0.0
    digest_day: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """One look: mainpc's list, or if it can't be had, what pc2 alone can tell, and why mainpc's can't be had.

    `ending` has the ids of what may come back before mainpc takes it as ended.
    """

    items: Sequence[AttentionItem]
    fault: str | None = None
    ending: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """When people want to be told: see `Notify` in the configuration."""

    zone: tzinfo = UTC
    quiet_hours: tuple[time, time] | None = None
    quiet_lets_through: Literal["broken", "nothing"] = "broken"
    digest: time | None = None

    def is_quiet(self, now: float) -> bool:
        """Return whether it is a quiet hour."""
        if self.quiet_hours is None:
            return False
        begin, end = self.quiet_hours
        local = self.local(now).time()
        return begin <= local < end if begin <= end else local >= begin or local < end

    def local(self, moment: float) -> datetime:
        """Return a moment in the reader's time zone."""
        return datetime.fromtimestamp(moment, self.zone)


class Rules:
    """Decides what is told. All times are those of the wall clock, which may be set: waiting is bounded either way."""

    def __init__(self, policy: Policy, memory: Memory, now: float) -> None:
        self.memory = memory
        self._policy = policy
        self._heard_at = now
        self._away = True  # at the start too: the list may have what this process has missed
        self._hold_until = now
        self._last: View | None = None  # of mainpc's list
        if policy.digest is not None and not memory.digest_day and policy.local(now).time() >= policy.digest:
            memory.digest_day = policy.local(now).date().isoformat()

    def see(self, view: View, now: float) -> None:
        """Take one look at the list."""
        self._forget(now)
        if view.fault is None:
            if self._away or not 0 <= now - self._heard_at < AWAY_S:
                self._hold_until = now + RETURN_S
            self._heard_at, self._away, self._last = now, False, view
            self._note_ends(view, now)
            if now >= self._hold_until:
                self._note_all(item for item in view.items if "announced" in item)
        else:
            self._heard_at = min(self._heard_at, now)
            unheard = now - self._heard_at >= UNHEARD_S
            self._note_all(view.items or ([self._mainpc_silent(view.fault)] if unheard else ()))

    def due(self, now: float) -> Message | None:
        """Return the message that is to be sent now, which is then told."""
        memory = self.memory
        if self._digest_is_due(now):
            memory.digest_day = self._policy.local(now).date().isoformat()
            return self._digest(now)
        held = {name for name, news in memory.waiting.items() if not self._may_go(news, now)}
        if len(held) == len(memory.waiting):
            memory.waiting_since = 0.0
            return None
        memory.waiting_since = memory.waiting_since or now
        if 0 <= now - memory.waiting_since < GATHER_S:
            return None
        order = {"changed": 0, "began": 0, "passed": 1, "ended": 2}
        news = sorted(  # what is held goes along, at the end
            memory.waiting.values(),
            key=lambda each: (each.id in held, order[each.event], -Level.of(each.level), each.since),
        )
        memory.waiting, memory.waiting_since = {}, 0.0
        memory.full_at = OF_ALL.spent(memory.full_at, now)
        for each in news:
            pace = self._pace(each.id)
            pace.full_at = OF_A_CAUSE.spent(pace.full_at, now)
            pace.broken |= _is_urgent(each)
            if each.event in ("began", "changed"):
                memory.told[each.id] = each
            elif each.event == "ended":
                memory.told.pop(each.id, None)
        return self._message(news, now)

    def _may_go(self, news: News, now: float) -> bool:
        """Return whether a message may be sent for this alone: that it is broken now is told whatever was before."""
        pace, urgent = self._pace(news.id), _is_urgent(news)
        if not OF_A_CAUSE.allows(pace.full_at, now) and not (urgent and not pace.broken):
            return False
        if self._policy.is_quiet(now):
            return urgent and self._policy.quiet_lets_through == "broken"
        return urgent or OF_ALL.allows(self.memory.full_at, now)

    def _pace(self, name: str) -> Pace:
        return self.memory.paces.setdefault(name, Pace(times=int(name in self.memory.told)))

    def _forget(self, now: float) -> None:
        """Forget the limits that are full: what begins then is new."""
        for name in [name for name, pace in self.memory.paces.items() if pace.full_at <= now]:
            if name not in self.memory.waiting:
                del self.memory.paces[name]

    def _note_all(self, items: Iterable[AttentionItem]) -> None:
        for item in items:
            if "acknowledged" not in item:
                self._note(_news_of(item))

    def _note(self, found: News) -> None:
        told, waiting = self.memory.told.get(found.id), self.memory.waiting.get(found.id)
        begins = told is None and (waiting is None or waiting.event == "passed")
        if told is not None and waiting is not None and waiting.event == "ended":  # nobody heard of it, so it goes on
            waiting, begins = None, True
            del self.memory.waiting[found.id]
            if Level.of(found.level) <= Level.of(told.level):
                told.announced = found.announced
        if begins:
            self._pace(found.id).times += 1
        if told is not None:
            if not _is_worse(found, told):
                told.announced = told.announced or found.announced  # which pc2 did not know
                return
            found.event = "changed"
        found.times = self._pace(found.id).times
        if waiting is None or _beside_figures(waiting) != _beside_figures(found):
            self.memory.waiting[found.id] = found

    def _note_ends(self, view: View, now: float) -> None:
        explained = {other["id"] for item in view.items for other in item["explains"]}
        listed = explained | {item["id"] for item in view.items}
        for name, told in self.memory.told.items():
            if name in listed:
                told.lasted_s = 0.0
                continue
            lasted_s = told.lasted_s or max(0.0, now - told.since)
            if name in view.ending:
                told.lasted_s = lasted_s
            elif name not in self.memory.waiting or self.memory.waiting[name].event == "changed":
                self.memory.waiting[name] = msgspec.structs.replace(
                    told, event="ended", lasted_s=lasted_s, times=self._pace(name).times
                )
        for name, news in list(self.memory.waiting.items()):
            if news.event == "began" and name in explained:  # it has turned out to be a consequence
                del self.memory.waiting[name]
            elif news.event == "began" and name not in listed and name not in view.ending:
                news.event, news.lasted_s = "passed", max(0.0, now - news.since)

    def _digest_is_due(self, now: float) -> bool:
        local = self._policy.local(now)
        today, wanted = local.date().isoformat(), self._policy.digest
        return wanted is not None and self.memory.digest_day < today and local.time() >= wanted

    def _digest(self, now: float) -> Message:
        day = self._policy.local(now).strftime("%Y-%m-%d")
        if self._last is None or now - self._heard_at >= UNHEARD_S:
            return Message("attention", _UNHEARD, f"{_UNHEARD}.", iso_time(now))
        items = self._last.items
        lines = [f"{self._since(news.since)}: {news.what}" for news in map(_news_of, items[:_SHOWN])]
        if len(items) > _SHOWN:
            lines.append(f"and {len(items) - _SHOWN} more")
        first = one_line(headline(items), _MOST)
        return Message(level_of(items).name.lower(), f"{day}: {first}", "\n".join([first, *lines]), iso_time(now))

    def _message(self, news: list[News], now: float) -> Message:
        begun = (Level.of(each.level) for each in news if each.event in ("began", "changed"))
        level = max(begun, default=Level.WELL).name.lower()
        title = _title(news[0]) + (f"; and {len(news) - 1} more" if len(news) > 1 else "")
        parts = [self._paragraph(each) for each in news[:_SHOWN]]
        if more := news[_SHOWN:]:
            named = (f"- {_title(each)}" for each in more)
            parts.append("\n".join([f"And {len(more)} more, which ./twinhost status explains:", *named]))
        return Message(level, title, "\n\n".join(parts), iso_time(now), news)

    def _paragraph(self, news: News) -> str:
        returned = f" It came back {times(news.times - 1)}." if news.times > 1 else ""
        if news.event in ("ended", "passed"):
            return f"{_title(news)}.{returned}"
        lines = [f"{news.what}.", f"{news.level.capitalize()} {self._since(news.since)}.{returned}"]
        if news.cause:
            lines.append(f"Cause: {news.cause}.")
        if news.explains:
            lines.append(f"It explains: {'; '.join(news.explains)}.")
        return "\n".join([*lines, *news.remedies])

    def _since(self, moment: float) -> str:
        return f"since {self._policy.local(moment).strftime('%Y-%m-%d %H:%M %Z')}"

    def _mainpc_silent(self, fault: str) -> AttentionItem:
        """Return what this process can tell alone, under the id that pc2 would use."""
        trouble = Trouble(
            kind=Kind.MAINPC_SILENT,
            what=_UNHEARD,
            level=Level.BROKEN,
            cause=fault,
            remedies=(Remedy("mainpc", "docker compose logs mainpc", "shows whether it runs"),),
        )
        return item_of(trouble, self._heard_at)


def lasted(seconds: float) -> str:
    """Return a duration as a message says it."""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if seconds < _DAY_S:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1_440} d {minutes % 1_440 // 60} h"


def _title(news: News) -> str:
    if news.event == "ended":
        return f"Resolved after {lasted(news.lasted_s)}: {news.what}"
    if news.event == "passed":
        return f"Already resolved after {lasted(news.lasted_s)}: {news.what}"
    return f"Changed: {news.what}" if news.event == "changed" else news.what


def _news_of(item: AttentionItem) -> News:
    """Return an item as news: its sentences on one line each, without what can't be seen; names are of others."""
    return News(
        "began",
        item["id"],
        item["kind"],
        item["level"],
        one_line(item["what"], _MOST),
        parse_time(item["since"]).timestamp(),
        item["host"],
        one_line(item["cause"], _MOST) if item["cause"] else None,
        tuple(one_line(other["what"], _MOST) for other in consequences(item)[:_SHOWN]),
        tuple(one_line(_command(remedy), _MOST) for remedy in item["remedies"] if remedy["command"]),
        item.get("announced"),
    )


def _command(remedy: RemedyDocument) -> str:
    why = f" ({remedy['why']})" if remedy["why"] else ""
    return f"On {remedy['on']}: {remedy['command']}{why}"


def _is_urgent(news: News) -> bool:
    return news.event in ("began", "changed") and Level.of(news.level) is Level.BROKEN


def _beside_figures(news: News) -> tuple[object, ...]:
    return news.event, news.level, news.explains, news.announced, news.times


def _is_worse(found: News, told: News) -> bool:
    if found.announced is not None and told.announced is not None:
        return found.announced > told.announced
    return Level.of(found.level) > Level.of(told.level)


def trial_message(now: float) -> Message:
    """Return the message of `notify test`."""
    text = "This is a test. Messages about what is wrong with twinhost arrive here."
    return Message("well", "twinhost: test", text, iso_time(now))
