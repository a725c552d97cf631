"""The two streams: tables and JSON on stdout, one sentence per failure on stderr.

Colours are for terminals; whatever goes to a pipe is plain. Cells are Text, never markup.
"""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from twinhost.cli.failures import Failure
from twinhost.cli.printable import printable, to_json

MAX_CELL_COLUMNS = 40  # the longest name in the configuration has 27
PIPE_COLUMNS = 80  # every table fits; a terminal has its own width

_GAP = 2  # blanks between two columns
MAX_SENTENCE_CHARACTERS = 600  # of a cell that is a sentence
GOOD, WARN, BAD, LOUD, FAINT, HEADING = "green", "yellow", "red", "bold white on red", "dim", "bold"

Cell = str | Text  # a plain string is made printable; a Text was, by styled()


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


def show_failure(failure: Failure, *, as_json: bool) -> None:
    """Write a failure: its sentence to stderr and, for programs, an error object to stdout."""
    if as_json:
        show_value(failure.as_reply(), as_json=True)
    say("error", BAD, f"[{failure.code}]: {failure.sentence}")


def say(word: str, style: str, sentence: str) -> None:
    """Write one line to stderr that begins with a styled word."""
    _write(sys.stderr, _rendered(sys.stderr, words(styled(word, style), sentence), None))


def styled(content: str, style: str) -> Text:
    """Return a printable text in a style."""
    return Text(printable(content), style)


def words(*pieces: Cell) -> Text:
    """Return one text of several pieces, a space between them."""
    return Text(" ").join(_text(piece) for piece in pieces)


def lines(*pieces: Cell) -> Text:
    """Return one text of several lines."""
    return Text("\n").join(_text(piece) for piece in pieces)


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]], *, whole: Sequence[str] = ()
) -> RenderableType:
    """Return a titled table without a frame; where it is too wide, the first column stays whole and others fold.

    Cells are cut short, but for those of the columns in `whole`, which hold sentences.
    """
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for number, column in enumerate(columns):
        grid.add_column(Text(column, FAINT), no_wrap=number == 0, overflow="fold" if number else "ellipsis")
    for row in rows:
        grid.add_row(*(_cell(cell, sentence=column in whole) for column, cell in zip(columns, row, strict=True)))
    return Group(Text(title, HEADING), grid)


def records(title: str, columns: Sequence[str], rows: Iterable[tuple[Sequence[Cell], Cell]]) -> RenderableType:
    """Return a titled table whose rows have a line below them, as wide as the table, for what fits no column."""
    return Group(Text(title, HEADING), _Records([_text(column) for column in columns], list(rows)))


class _Records:
    """Rich can't let a cell reach over several columns, so each row is a table of its own, all of the same widths."""

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
    """Return a cell that no agent can make so wide that the others' names are squeezed; --json has it whole."""
    content = _text(cell)
    if sentence:
        content.truncate(MAX_SENTENCE_CHARACTERS, overflow="ellipsis")
    elif "\n" not in content.plain:
        content.truncate(MAX_CELL_COLUMNS, overflow="ellipsis")
    return content


def _text(cell: Cell) -> Text:
    return Text(printable(cell)) if isinstance(cell, str) else cell


def _rendered(stream: TextIO, part: RenderableType, pipe_columns: int | None) -> str:
    """Return what rich makes of a part for this stream; without `pipe_columns` it stays on one line."""
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
        console.print(part, soft_wrap=pipe_columns is None)
    return re.sub(r" +$", "", capture.get(), flags=re.MULTILINE)


def _write(stream: TextIO, content: str) -> None:
    stream.write(content)
    stream.flush()
