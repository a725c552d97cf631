"""The detector of reported errors: those of a day that nobody has acknowledged, by shape, the worst first."""

from collections.abc import Iterator, Sequence

from twinhost.agent.troubles import Kind, Level, Remedy, Trouble, times
from twinhost.system_digital_twin import ITSELF
from twinhost.system_digital_twin.events.events import ErrorGroup, Events, SevereErrors

RECENT_S = 86_400.0
MOST_SHAPES = 200  # that are told apart
_SHOWN = 20  # shapes, as evidence
_NAME_CHARACTERS, _MESSAGE_CHARACTERS = 80, 160
_ASK_EVERY_S = 5.0  # at most, however many errors come: 10,000 of them are grouped in some milliseconds
_FORGET_EVERY_S = 60.0  # for those that have become a day old


def reported_errors(severe: SevereErrors) -> Iterator[Trouble]:
    """Yield a trouble if there are any; a new shape is news, more of a known one is not."""
    if not severe.groups:
        return
    worst, shapes = severe.groups[0], len(severe.shape_ids)
    worst_named = f"{worst['severity']} {_cut(worst['error_type'])} from {_cut(worst['agent_id'])}"
    errors = f"{severe.count} error{'s' if severe.count > 1 else ''}"
    if shapes == 1:
        what = f"{errors}: {worst_named}"
    else:
        many = f"{shapes}{' or more' if shapes == MOST_SHAPES else ''} shapes"
        what = f"{errors} of {many}, the worst: {worst_named}, {times(worst['count'])}"
    yield Trouble(
        kind=Kind.ERRORS,
        what=what,
        level=Level.BROKEN if worst["severity"] == "critical" else Level.ATTENTION,
        cause=_cut(worst["message"], _MESSAGE_CHARACTERS),
        since=severe.first,
        remedies=(
            Remedy("mainpc", "./twinhost errors", "shows each shape with its worst error"),
            Remedy("mainpc", f"./twinhost errors --shape {worst['shape_id']}", "lists the worst"),
            Remedy(
                "mainpc",
                f"./twinhost call {ITSELF} acknowledge_errors shape_id={worst['shape_id']}",
                "acknowledges those, once their cause is fixed",
            ),
        ),
        evidence=_evidence(severe.groups, shapes),
        members=severe.shape_ids,
    )


class ReportedErrors:
    """The detector: it asks the store only after something has changed."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._monotonic, self._time = events.clock.monotonic, events.clock.time
        self._found: tuple[Trouble, ...] = ()
        self._changes = -1
        self._ask_at = self._forget_at = self._monotonic()

    def __call__(self) -> tuple[Trouble, ...]:
        """Return what is wrong now."""
        now, changes = self._monotonic(), self._events.error_changes
        if (changes != self._changes and now >= self._ask_at) or now >= self._forget_at:
            self._changes, self._ask_at, self._forget_at = changes, now + _ASK_EVERY_S, now + _FORGET_EVERY_S
            severe = self._events.severe_shapes_since(self._time() - RECENT_S, MOST_SHAPES, _SHOWN)
            self._found = tuple(reported_errors(severe))
        return self._found


def _evidence(groups: Sequence[ErrorGroup], shapes: int) -> tuple[tuple[str, str], ...]:
    rows = [
        (
            f"{group['severity']} {_cut(group['error_type'])} from {_cut(group['agent_id'])}",
            f"{times(group['count'])}, first {group['first']}, last {group['last']}, shape {group['shape_id']}: "
            f"{_cut(group['message'], _MESSAGE_CHARACTERS)}",
        )
        for group in groups
    ]
    if shapes > len(rows):
        rows.append(("further shapes", f"{shapes - len(rows)}"))
    return tuple(rows)


def _cut(text: str, most: int = _NAME_CHARACTERS) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}\u2026"
