"""`python -m tests.benchmarks.speed`: measures, and writes CSV, tables, and a plot into a folder; asserts nothing."""

import argparse
import logging
import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import structlog

from tests.benchmarks.speed import place, plot, report, runner
from tests.benchmarks.speed.field import EVERYBODY, Field
from tests.benchmarks.speed.processes import Failed
from tests.benchmarks.speed.stack import measure_stack
from tests.benchmarks.speed.workloads import workloads

AUTHORISED = 1_000
_STACK_STARTS = 3
_STACK_IDLE_S = 30.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.speed", description=__doc__)
    parser.add_argument("--out", type=Path, help="the folder for the results (default: a new one that is named)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.6, help="of one turn of one contender")
    parser.add_argument("--authorised", type=int, default=AUTHORISED, help="keys, and idle connections")
    parser.add_argument("--only", nargs="*", default=EVERYBODY, choices=EVERYBODY, help="what to measure beside ours")
    parser.add_argument("--without-stack", action="store_true", help="start no containers")
    parser.add_argument("--stack-idle", type=float, default=_STACK_IDLE_S, help="seconds that the stack idles")
    parser.add_argument(
        "--bridge", action="store_true", help="servers in a network namespace, as in containers; as root"
    )
    parser.add_argument("--every-row", action="store_true", help="exit with 1 where a goal has no figure")
    arguments = parser.parse_args()
    if arguments.bridge:
        again = [sys.executable, "-m", "tests.benchmarks.speed", *(each for each in sys.argv[1:] if each != "--bridge")]
        with place.bridged() as environment:
            return subprocess.run(again, env=environment, check=False).returncode
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    out = arguments.out or Path(tempfile.mkdtemp(prefix="twinhost-speed-"))
    out.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory() as root:
            with Field(Path(root), arguments.authorised, arguments.only) as contenders:
                runner.idle_connections(contenders, arguments.authorised, measured := runner.Measured())
                rounds = runner.run(contenders, workloads(arguments.seconds), arguments.rounds)
            rounds.figures |= measured.figures
            rounds.kinds |= measured.kinds
        if not arguments.without_stack:
            measure_stack(rounds, _STACK_STARTS if arguments.rounds > 1 else 1, arguments.stack_idle)
    except Failed as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 1
    report.write_csv(rounds, out)
    title = f"Figure beside goal; {machine()}"
    (out / "benchmarks.svg").write_text(plot.svg(report.lines(rounds), title))
    (out / "tables.md").write_text(report.markdown(rounds) + "\n")
    print(f"{machine()}\n\n{report.table(rounds)}\n\n{out}")
    without = [line.goal.text for line in report.lines(rounds) if not line.values]
    if arguments.every_row and without:
        print(f"no figure for: {'; '.join(without)}", file=sys.stderr)
        return 1
    return 0


def machine() -> str:
    memory = round(psutil.virtual_memory().total / 2**30)
    system = f"{platform.system()} on {platform.machine()}, Python {platform.python_version()}"
    return f"{psutil.cpu_count()} cores, {memory} GiB, {system}"


if __name__ == "__main__":
    sys.exit(main())
