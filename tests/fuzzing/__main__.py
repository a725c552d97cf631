"""`make fuzz`: a million inputs in all, by one seed; ends with status 1 at the first crash, hang, or growth."""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzzing.account import Report
from tests.fuzzing.decoders import TARGETS
from tests.fuzzing.raw_port import Fault, fuzz
from tests.loopback.agent_processes import SERVICES

PORT_SHARE = 8  # one input in so many goes to the raw port; the decoders share the rest
_LONGEST_S = 3_600  # of a decoder's process


def run(inputs: int, seed: int) -> list[Report]:
    """Return the accounts.

    Raises:
        Fault: an input ended, stopped, or filled something; the message says which.
    """
    to_the_port = inputs // PORT_SHARE
    each, more = divmod(inputs - to_the_port, len(TARGETS))
    reports = []
    with tempfile.TemporaryDirectory() as folder:
        for number, target in enumerate(TARGETS):
            reports.append(_decoder(target, each + (number < more), seed, Path(folder)))
            print(reports[-1].line(), flush=True)
        reports.append(fuzz(Path(folder), to_the_port, seed))
        print(reports[-1].line(), flush=True)
    return reports


def _decoder(target: str, inputs: int, seed: int, folder: Path) -> Report:
    path = folder / "report.json"
    path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tests.fuzzing.decoder_run", target, str(inputs), str(seed), str(path)]
    found = os.pathsep.join(
        part for part in (str(SERVICES), str(SERVICES.parent), os.environ.get("PYTHONPATH")) if part
    )
    environment = {**os.environ, "PYTHONPATH": found}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_LONGEST_S, env=environment)
    if done.returncode != 0 or not path.exists():
        raise Fault(f"the {target} failed with status {done.returncode}:\n{(done.stdout + done.stderr)[-8_000:]}")
    return Report(**json.loads(path.read_text()))


def main() -> int:
    """Run, and print the reports; write them as JSON too where a file is named."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="in all (default: 1000000)")
    parser.add_argument("--seed", type=int, help="of every mutation (default: a new one, which is printed)")
    parser.add_argument("--json", type=Path, help="write the reports into this file")
    arguments = parser.parse_args()
    seed = random.randrange(1, 2**31) if arguments.seed is None else arguments.seed
    print(f"seed {seed}, {arguments.inputs:,} inputs", flush=True)
    began = time.monotonic()
    try:
        reports = run(arguments.inputs, seed)
    except Fault as fault:
        print(f"failed, with the seed {seed}: {fault}", file=sys.stderr)
        return 1
    total = sum(report.inputs for report in reports)
    print(f"{total:,} inputs in {time.monotonic() - began:.0f} s: no crash, no hang, no growth")
    if arguments.json:
        arguments.json.write_text(json.dumps([report.as_dict() for report in reports], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
