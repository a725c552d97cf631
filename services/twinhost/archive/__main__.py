"""The command `archive`: mainpc's whole state into one file, and back."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from twinhost.archive.backup import back_up
from twinhost.archive.contents import BROKEN_LOG
from twinhost.archive.places import Places, find_places
from twinhost.archive.report import told_of_check, told_of_restore
from twinhost.archive.restore import check, restore
from twinhost.certificates.terminal import note
from twinhost.network_config import load_network_config
from twinhost.secure_zmq.errors import ConfigurationError, TwinhostError
from twinhost.secure_zmq.version import version_line
from twinhost.store.files import new_file

STREAM = "-"
_FILE_HELP = "the archive; - stands for standard {}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0 where all is well, 1 where it is refused, 2 for a wrong usage."""
    whole = _parser()
    options = whole.parse_args(arguments)
    if options.run is _back_up and (wrong := _wrong_target(options.file)):
        whole.error(wrong)
    try:
        options.run(options, find_places(load_network_config()))
    except TwinhostError as error:
        note(f"archive: {error}")
        return 1
    except KeyboardInterrupt:
        note("archive: interrupted; nothing was changed, unless the next run says so")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(
        prog="archive",
        description="mainpc's whole state (registry, audit log, peers, the keys of that host) in one file.",
    )
    whole.add_argument("--version", action="version", version=version_line())
    commands = whole.add_subparsers(dest="command", metavar="COMMAND", title="commands", required=True)
    _add(commands.add_parser("backup", help="write it, while mainpc runs"), _back_up, "output")
    restoring = commands.add_parser("restore", help="put it in the place of mainpc's state, while mainpc is stopped")
    _add(restoring, _restore, "input")
    restoring.add_argument(
        "--replace", action="store_true", help="also where there is a state, which is kept beside it"
    )
    _add(
        commands.add_parser("check", help="see whether an archive can be restored, and change nothing"), _check, "input"
    )
    return whole


def _add(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace, Places], None], stream: str) -> None:
    parser.set_defaults(run=run)
    parser.add_argument("file", metavar="FILE", help=_FILE_HELP.format(stream))
    parser.add_argument(
        BROKEN_LOG, dest="broken_log", action="store_true", help="take an audit log that is not whole as it is"
    )


def _back_up(options: argparse.Namespace, places: Places) -> None:
    with _new_file(options.file) as stream:
        back_up(places, stream.write, note, broken_log=options.broken_log)


def _restore(options: argparse.Namespace, places: Places) -> None:
    with _source(options.file) as stream:
        restored = restore(places, stream, note, may_replace=options.replace, broken_log=options.broken_log)
    for line in told_of_restore(places, restored):
        note(line)


def _check(options: argparse.Namespace, places: Places) -> None:
    with _source(options.file) as stream:
        for line in told_of_check(check(places, stream, broken_log=options.broken_log)):
            note(line)


def _wrong_target(file: str) -> str | None:
    """Return why a backup can't be written to a file; one that is there is never overwritten."""
    if file == STREAM:
        return "an archive is no text; send standard output to a file" if sys.stdout.isatty() else None
    return f"{file} is there already; name another" if os.path.lexists(file) else None


@contextmanager
def _new_file(file: str) -> Iterator[BinaryIO]:
    if file != STREAM:
        with new_file(Path(file)) as stream:
            yield stream
        return
    yield sys.stdout.buffer
    sys.stdout.buffer.flush()


@contextmanager
def _source(file: str) -> Iterator[BinaryIO]:
    if file == STREAM:
        yield sys.stdin.buffer
        return
    try:
        stream = Path(file).open("rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise ConfigurationError(f"{file} can't be read ({error.strerror}); see its path and its mode") from None
    with stream:
        yield stream


if __name__ == "__main__":
    sys.exit(main())
