"""The ledger of acknowledged calls, and its checker: each one is there exactly once.

A client writes a call down before it is sent and again when it is acknowledged, each line
flushed to disk. The checker compares that with how often each call is seen to have taken
effect. As a tool: `python -m tests.ledger LEDGER OBSERVED`, with OBSERVED a JSON object
{call: times}; exit status 0 where the ledger is whole, 1 where it is not.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


class Ledger:
    """A file of JSON lines, `["sent", call]` and `["acknowledged", call]`, safe against a crash of the client."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream = path.open("a", encoding="utf-8")

    def sent(self, call: str) -> None:
        self._write("sent", call)

    def acknowledged(self, call: str) -> None:
        self._write("acknowledged", call)

    def close(self) -> None:
        self._stream.close()

    def _write(self, event: str, call: str) -> None:
        self._stream.write(json.dumps([event, call]) + "\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())


@dataclass(frozen=True)
class Verdict:
    """What the checker found; `whole` is true where nothing was lost, doubled, or made up."""

    acknowledged: int
    lost: list[str]  # acknowledged, and not there
    doubled: list[str]  # there more than once, acknowledged or not
    unknown: list[str]  # there, and never sent

    @property
    def whole(self) -> bool:
        return not (self.lost or self.doubled or self.unknown)


def check(path: Path, observed: Mapping[str, int]) -> Verdict:
    """Compare a ledger with how many times each call took effect.

    Args:
        path: the ledger's file.
        observed: the number of times each call took effect; a call that is not in it took none.
    """
    sent: set[str] = set()
    acknowledged: set[str] = set()
    for line in path.read_text(encoding="utf-8").splitlines():
        event, call = json.loads(line)
        {"sent": sent, "acknowledged": acknowledged}[event].add(call)
    return Verdict(
        acknowledged=len(acknowledged),
        lost=sorted(call for call in acknowledged if observed.get(call, 0) == 0),
        doubled=sorted(call for call, times in observed.items() if times > 1),
        unknown=sorted(call for call, times in observed.items() if times > 0 and call not in sent),
    )


def main(arguments: list[str]) -> int:
    """Check one ledger from the command line."""
    if len(arguments) != 2:
        print("usage: python -m tests.ledger LEDGER OBSERVED", file=sys.stderr)
        return 2
    verdict = check(Path(arguments[0]), json.loads(Path(arguments[1]).read_text(encoding="utf-8")))
    for name in ("lost", "doubled", "unknown"):
        for call in getattr(verdict, name):
            print(f"{name}: {call}")
    print(f"{verdict.acknowledged} acknowledged calls: {'whole' if verdict.whole else 'NOT WHOLE'}")
    return 0 if verdict.whole else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
