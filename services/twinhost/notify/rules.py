"""Which message is due, given the attention list as it is seen over time. Pure: no clock, disk, or network.

`Rules.see` takes each look at the list and notes what is news; `Rules.due` returns the message for it, if it is time
for one. News of one moment are one message: what has begun, changed, and ended. What is in `Memory` has to outlast a
restart; nothing is told twice that is in it.

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
)
from twinhost.fence import one_line
from twinhost.moments import iso_time, parse_time

GATHER_S = 5.0  # in which news that belong together become one message
RETURN_S = 25.0  # after mainpc was away: so long its list may have agents as silent that could not reach it
AWAY_S = 10.0  # without an answer of mainpc, it was away
UNHEARD_S = 45.0  # without one, and pc2 does not say why: that is told, within a minute
BURST, ONE_EVERY_S = 10.0, 360.0  # messages at once, and how often another one after these
_DAY_S = 86_400.0
_SHOWN = 10  # of several news in one message
_UNHEARD = "mainpc can't be asked what is wrong"
_MOST = 300  # characters of a sentence

Event = Literal["began", "changed", "ended", "passed"]


class News(msgspec.Struct):
    """What there is to tell of one trouble; times are in seconds since the epoch.

    `passed` is what began and ended before anybody was told, and `times` how often.
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


class Memory(msgspec.Struct):
    """What outlasts a restart: what was told, what waits to be, and how many messages may be sent at once."""

    told: dict[str, News] = {}
    waiting: dict[str, News] = {}
    waiting_since: float = 0.0
    allowed: float = BURST
    allowed_at: float = 0.0
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
        waited = bool(self.memory.waiting)
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
        if self.memory.waiting and not waited:
            self.memory.waiting_since = now

    def due(self, now: float) -> Message | None:
        """Return the message that is to be sent now, which is then told."""
        memory = self.memory
        allowed = min(BURST, memory.allowed + max(0.0, now - memory.allowed_at) / ONE_EVERY_S)
        if self._digest_is_due(now):
            memory.digest_day = self._policy.local(now).date().isoformat()
            return self._digest(now)
        if not memory.waiting or 0 <= now - memory.waiting_since < GATHER_S or allowed < 1:
            return None
        if self._policy.is_quiet(now) and not self._may_disturb():
            return None
        memory.allowed, memory.allowed_at = allowed - 1, now
        news = list(memory.waiting.values())
        memory.waiting = {}
        for each in news:
            if each.event in ("began", "changed"):
                memory.told[each.id] = each
            elif each.event == "ended":
                memory.told.pop(each.id, None)
        return self._message(news, now)

    def _note_all(self, items: Iterable[AttentionItem]) -> None:
        for item in items:
            if "acknowledged" not in item:
                self._note(_news_of(item))

    def _note(self, found: News) -> None:
        told, waiting = self.memory.told.get(found.id), self.memory.waiting.get(found.id)
        if told is None:
            if waiting is not None:
                found.times = waiting.times + (waiting.event == "passed")
        else:
            if waiting is not None and waiting.event == "ended":  # nobody heard of the end, so it goes on
                waiting = None
                del self.memory.waiting[found.id]
                if Level.of(found.level) <= Level.of(told.level):
                    told.announced = found.announced
            if not _is_worse(found, told):
                told.announced = told.announced or found.announced  # which pc2 did not know
                return
            found.event = "changed"
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
                self.memory.waiting[name] = msgspec.structs.replace(told, event="ended", lasted_s=lasted_s)
        for name, news in list(self.memory.waiting.items()):
            if news.event == "began" and name in explained:  # it has turned out to be a consequence
                del self.memory.waiting[name]
            elif news.event == "began" and name not in listed and name not in view.ending:
                news.event, news.lasted_s = "passed", max(0.0, now - news.since)

    def _may_disturb(self) -> bool:
        return self._policy.quiet_lets_through == "broken" and any(
            news.event in ("began", "changed") and news.level == "broken" for news in self.memory.waiting.values()
        )

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
        order = {"changed": 0, "began": 0, "passed": 1, "ended": 2}
        news.sort(key=lambda each: (order[each.event], -Level.of(each.level), each.since))
        begun = (Level.of(each.level) for each in news if each.event in ("began", "changed"))
        level = max(begun, default=Level.WELL).name.lower()
        title = _title(news[0]) + (f"; and {len(news) - 1} more" if len(news) > 1 else "")
        parts = [self._paragraph(each) for each in news[:_SHOWN]]
        if len(news) > _SHOWN:
            parts.append(f"And {len(news) - _SHOWN} more; see ./twinhost status.")
        return Message(level, title, "\n\n".join(parts), iso_time(now), news)

    def _paragraph(self, news: News) -> str:
        if news.event in ("ended", "passed"):
            return f"{_title(news)}."
        times = f", {news.times} times" if news.times > 1 else ""
        lines = [f"{news.what}.", f"{news.level.capitalize()} {self._since(news.since)}{times}."]
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
        times = f", {news.times} times" if news.times > 1 else ""
        return f"Already resolved after {lasted(news.lasted_s)}{times}: {news.what}"
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
