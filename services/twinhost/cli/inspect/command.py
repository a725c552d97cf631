"""`inspect`: which uses of ZeroMQ in an agent's source stay, which have to change, and what replaces them."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from twinhost.cli import output
from twinhost.cli.arguments import AsJson
from twinhost.cli.inspect.findings import ZmqUse, inspect_source
from twinhost.cli.output import printable

STANDARD_INPUT = "-"


def inspect(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Python source; - is standard input.")],
    as_json: AsJson = False,
) -> int:
    """List an agent's uses of ZeroMQ, and what replaces each.

    The source is read and never run; no agent is asked, and no key is needed.

    Exit status 0: all of it may stay; 1: something has to change; 2: a file can't be read, or is not Python 3.
    """
    by_file = {file: _read(file) for file in files}
    changes = sum(finding.change for findings in by_file.values() for finding in findings)
    if as_json:
        document = {file: [asdict(finding) for finding in findings] for file, findings in by_file.items()}
        output.show_value({"status": "ok", "changes": changes, "files": document}, as_json=True)
        return min(changes, 1)
    for file, findings in by_file.items():
        for finding in findings:
            output.show_line(printable(f"{file}:{finding.line}: {finding.kind}: {finding.sentence}"))
            if finding.instead:
                output.show_line(f"    {printable(finding.instead)}")
    uses = sum(map(len, by_file.values()))
    output.show_line(f"{uses} uses of ZeroMQ: {changes} to change, {uses - changes} may stay")
    return min(changes, 1)


def _read(file: str) -> list[ZmqUse]:
    try:
        content = sys.stdin.buffer.read() if file == STANDARD_INPUT else Path(file).read_bytes()
        return inspect_source(content)
    except OSError as error:
        raise typer.BadParameter(
            f"{file} can't be read ({error.strerror}); for ./twinhost, use standard input: ./twinhost inspect - < FILE",
            param_hint="FILE",
        ) from None
    except (SyntaxError, ValueError, RecursionError) as error:
        what = f"line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else str(error)
        raise typer.BadParameter(f"{file} is not Python 3 ({what})", param_hint="FILE") from None
