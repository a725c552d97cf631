"""Agents' documents, and the two output streams: tables and JSON on stdout, a sentence for each failure on stderr.

Colours are for terminals; a pipe gets plain text. Agents choose their names, statuses, and sentences, so nothing from
them can control a terminal: cells are Text and never markup, and a control character, which could move the cursor, set
the window's title, or reverse the reading direction, is shown as its escape.
"""

import json
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TextIO, TypeVar

import msgspec
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from twinhost.clients import system_replies as replies
from twinhost.moments import parse_time
from twinhost.secure_zmq.errors import MalformedRequest, RequestError, TwinhostError, UnexpectedReply
from twinhost.secure_zmq.wire import Reply

MAX_CELL_COLUMNS = 40  # the longest name in the configuration has 27
PIPE_COLUMNS = 80  # every table fits; a terminal has its own width

_GAP = 2  # blanks between two columns
MAX_SENTENCE_CHARACTERS = 600  # of a cell that is a sentence
GOOD, WARN, BAD, LOUD, FAINT, HEADING = "green", "yellow", "red", "bold white on red", "dim", "bold"

OPEN_LINK = "SECURE_ZMQ=0: nothing is encrypted and nobody is authenticated"

Progress = Callable[[int, int | None], None]  # called with how much is done, and of how much, if that is known
Cell = str | Text  # a str is made printable; a Text was, by styled()
# Control and format characters, lone surrogates, line and paragraph separators, unassigned code points.
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"})


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong: a snake_case code for programs, a sentence for people."""

    code: str
    sentence: str

    @classmethod
    def of(cls, error: TwinhostError) -> "Failure":
        """Return an error as a failure: the wire's code, or the name of the error's type."""
        if isinstance(error, RequestError):
            return cls(error.code, str(error))
        return cls(re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).lower(), str(error))

    def about(self, subject: str) -> "Failure":
        """Return the same failure with the name of what it concerns in its sentence."""
        return Failure(self.code, f"{subject}: {self.sentence}")

    def as_reply(self) -> dict[str, Any]:
        """Return it in the shape of an error reply on the wire."""
        return {"status": "error", "code": self.code, "error": self.sentence}


def status_of(failures: Sequence[Failure]) -> dict[str, Any]:
    """Return the beginning of a JSON answer: status ok, or the code of the first failure and every sentence."""
    if not failures:
        return {"status": "ok"}
    return Failure(failures[0].code, "; ".join(failure.sentence for failure in failures)).as_reply()


def show(*parts: RenderableType) -> None:
    """Write tables and texts to stdout, a blank line between them."""
    _write(sys.stdout, "\n".join(_rendered(sys.stdout, part, PIPE_COLUMNS) for part in parts))


def show_value(value: Mapping[str, Any], *, as_json: bool) -> None:
    """Write a JSON object to stdout: on one line and in ASCII for programs, indented for people."""
    if as_json:
        _write(sys.stdout, to_json(value, ascii_only=True) + "\n")
    else:
        ascii_only = (sys.stdout.encoding or "ascii").lower().replace("-", "") != "utf8"
        _write(sys.stdout, to_json(value, indent=2, ascii_only=ascii_only) + "\n")


def show_line(content: str) -> None:
    """Write one line of text to stdout."""
    _write(sys.stdout, f"{content}\n")


@contextmanager
def progress(what: str) -> Iterator[Progress]:
    """Show on stderr how far long work is, if that is a terminal; the line disappears at the end."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich import progress as bars  # noqa: PLC0415 - for this case alone

    columns = (bars.TextColumn("{task.description}", markup=False), bars.BarColumn(), bars.TaskProgressColumn())
    shown = bars.Progress(*columns, bars.TimeRemainingColumn(), console=Console(file=sys.stderr), transient=True)
    with shown:
        task = shown.add_task(printable(what), total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def show_done(reply: Mapping[str, Any], sentence: str, *, as_json: bool) -> None:
    """Write what was done: a sentence for people, the agent's reply for programs."""
    if as_json:
        show_value(reply, as_json=True)
    else:
        show_line(printable(sentence))


def show_failure(failure: Failure, *, as_json: bool) -> None:
    """Write a failure: its sentence to stderr and, for programs, an error object to stdout."""
    if as_json:
        show_value(failure.as_reply(), as_json=True)
    say_failures([failure])


def say_failures(failures: Iterable[Failure]) -> None:
    """Write one line to stderr for each failure."""
    for failure in failures:
        say("error", BAD, f"[{failure.code}]: {failure.sentence}")


def say(word: str, style: str, sentence: str) -> None:
    """Write one line to stderr that begins with a styled word."""
    _write(sys.stderr, _rendered(sys.stderr, words(styled(word, style), sentence), None))


def styled(content: str, style: str) -> Text:
    """Return text in a style, made printable."""
    return Text(printable(content), style)


def words(*pieces: Cell, between: str = " ") -> Text:
    """Return several pieces with something between them."""
    return Text(between).join(_text(piece) for piece in pieces)


def unfolded(*texts: Text) -> RenderableType:
    """Return lines that are not folded where they are wider than the output: a command is copied as a whole."""
    for text in texts:
        text.no_wrap, text.overflow = True, "ignore"
    return Group(*texts)


def lines(*pieces: Cell) -> Text:
    """Return several pieces as lines."""
    return Text("\n").join(_text(piece) for piece in pieces)


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]], *, whole: Sequence[str] = ()
) -> RenderableType:
    """Return a titled table without a frame; if it is too wide, the first column stays whole and others fold.

    Cells are truncated, except in the columns in `whole`, which hold sentences.
    """
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for number, column in enumerate(columns):
        grid.add_column(Text(column, FAINT), no_wrap=number == 0, overflow="fold" if number else "ellipsis")
    for row in rows:
        grid.add_row(*(_cell(cell, sentence=column in whole) for column, cell in zip(columns, row, strict=True)))
    return Group(Text(title, HEADING), grid)


def records(title: str, columns: Sequence[str], rows: Iterable[tuple[Sequence[Cell], Cell]]) -> RenderableType:
    """Return a titled table whose rows have a line of the table's width below them, for what fits no column."""
    return Group(Text(title, HEADING), _Records([_text(column) for column in columns], list(rows)))


class _Records:
    """Rich has no cell that spans columns, so each row is a table of its own, all with the same widths."""

    def __init__(self, header: Sequence[Text], rows: Sequence[tuple[Sequence[Cell], Cell]]) -> None:
        self._rows = [(header, None), *(([_text(cell) for cell in cells], _text(below)) for cells, below in rows)]

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        widths = [max(_widest(cells[number]) for cells, _ in self._rows) for number in range(len(self._rows[0][0]))]
        while sum(widths) + _GAP * (len(widths) - 1) > options.max_width and max(widths) > 1:
            widths[widths.index(max(widths))] -= 1
        for cells, below in self._rows:
            grid = Table.grid(padding=(0, _GAP, 0, 0), pad_edge=False)
            for width in widths:
                grid.add_column(width=width, overflow="fold")
            grid.add_row(*(Text(cell.plain, FAINT) for cell in cells) if below is None else cells)
            yield grid
            if below is not None and below.plain:
                yield Padding(below, (0, 0, 0, _GAP))


def _widest(cell: Text) -> int:
    return max((cell_len(line) for line in cell.plain.split("\n")), default=0)


def _cell(cell: Cell, *, sentence: bool) -> Text:
    """Limit the width, so that no agent can push others' names out of the table; --json has the whole text."""
    parts = _text(cell).split("\n", allow_blank=True)
    for part in parts:
        part.truncate(MAX_SENTENCE_CHARACTERS if sentence else MAX_CELL_COLUMNS, overflow="ellipsis")
    return Text("\n").join(parts)


def _text(cell: Cell) -> Text:
    return Text(printable(cell)) if isinstance(cell, str) else cell


def _rendered(stream: TextIO, part: RenderableType, pipe_columns: int | None) -> str:
    """Return a part as text for this stream; without `pipe_columns` it stays on one line."""
    terminal = stream.isatty()
    console = Console(
        file=stream,
        force_terminal=terminal,  # or FORCE_COLOR would colour a pipe
        width=None if terminal else pipe_columns,
        markup=False,
        emoji=False,
        highlight=False,
    )
    with console.capture() as capture:
        console.print(part, soft_wrap=pipe_columns is None, crop=False)  # what is not to be folded is not cut either
    return re.sub(r" +$", "", capture.get(), flags=re.MULTILINE)


def _write(stream: TextIO, content: str) -> None:
    stream.write(content)
    stream.flush()


def printable(text: str) -> str:
    r"""Return the text on one line, each unsafe character as its escape, such as `\x1b`."""
    return "".join(_escaped(character) if _unsafe(character) else character for character in text)


def to_json(value: Any, *, indent: int | None = None, ascii_only: bool = False) -> str:
    r"""Return a value as JSON in which each unsafe character is `\uXXXX`."""
    separators = (",", ":") if indent is None else None
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent, separators=separators)
    # Every line break here is the layout's: inside a string it is \n already.
    return "".join(_json_escaped(c) if _unsafe(c) and c != "\n" else c for c in text)


def _unsafe(character: str) -> bool:
    return unicodedata.category(character) in _UNSAFE_CATEGORIES


def _escaped(character: str) -> str:
    return character.encode("ascii", "backslashreplace").decode() if character > "\x7f" else f"\\x{ord(character):02x}"


def _json_escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))


T = TypeVar("T")


class ListedPeers(replies.Peers, frozen=True):
    """The reply to `get_peers`, also of an agent of 0.2, which forgets `last_seen` at its end."""

    seen_since: str | None = None

    def refusals(self) -> dict[str, int]:
        """Return the refused handshakes by cause."""
        return {outcome: count for outcome, count in self.handshakes.items() if count and outcome != "accepted"}


def read(reply: Reply, kind: type[T]) -> T:
    """Return a reply as a type.

    Raises:
        MalformedRequest: it has another shape.
    """
    try:
        converted = msgspec.convert(reply, kind)
        for name in getattr(kind, "__struct_fields__", ()):
            getattr(converted, name)  # that it is missing is an error of the reply, and not of what shows it
    except (msgspec.ValidationError, UnexpectedReply) as error:
        raise MalformedRequest(
            f"the reply is not a {kind.__name__} ({error}); compare the versions: ./twinhost doctor"
        ) from None
    return converted


def age(moment: str | None, now: str) -> str:
    """Return how long ago a moment was; both times are of the same agent's clock."""
    if moment is None:
        return "never"
    seconds = seconds_between(moment, now)
    return moment if seconds is None else f"{duration(max(0.0, seconds))} ago"


def recorded_s(replies: Iterable[tuple[ListedPeers, str]]) -> float | None:
    """Return for how many seconds all agents have recorded `last_seen`; each has its own clock's time beside it."""
    known = (seconds_between(peers.seen_since, now) for peers, now in replies)
    return min((seconds for seconds in known if seconds is not None), default=None)


def not_seen(age_s: float | None, recorded_s: float | None) -> Text:
    """Return what is known of a key that no agent has seen: `never` only of one that is younger than the record."""
    if recorded_s is None or (age_s is not None and age_s <= recorded_s):
        return Text("never")
    return lines("not for", duration(max(0.0, recorded_s)))


def duration(seconds: float) -> str:
    """Return a duration in its two largest units: `42 s`, `3 min 5 s`, `2 d 4 h`."""
    whole = int(seconds)
    for size, unit, smaller_size, smaller_unit in (
        (86_400, "d", 3_600, "h"),
        (3_600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller_size} {smaller_unit}"
    return f"{whole} s"


def days(seconds: float) -> str:
    """Return a long duration in days; below two days in its two largest units."""
    return duration(seconds) if seconds < 2 * 86_400 else f"{round(seconds / 86_400)} d"


def seconds_between(earlier: str | None, later: str) -> float | None:
    """Return the seconds from one moment to another, negative if the first is later; None if one is no time."""
    then, reference = parse_moment(earlier or ""), parse_moment(later)
    return (reference - then).total_seconds() if then and reference else None


def parse_moment(moment: str) -> datetime | None:
    """Return an ISO-8601 time, in UTC if it has no zone; None if it is no time."""
    try:
        return parse_time(moment)
    except ValueError:
        return None
