"""`make soak`: both agents at half the rate that a short calibration measures, and a verdict on what grew meanwhile."""

import argparse
import csv
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil

from tests.loopback.agent_processes import SDT, UMRA, AgentProcess, Hosts
from tests.soak.growth import fit
from tests.soak.load import Load
from tests.soak.plot import svg

SHARE_OF_THE_RATE = 0.5
CALIBRATED_S = 10.0
SAMPLED_EVERY_S = 5.0
STORED_REPLIES_S = 60  # shorter than as shipped, so that the warm-up reaches what they take; it is printed
# name of a figure: its unit, and the growth after the warm-up that is none, whatever the scatter
FIGURES: dict[str, tuple[str, float]] = {
    "memory": ("MB", 3.0),
    "files": ("open descriptors", 2.0),
    "threads": ("threads", 0.9),
    "log": ("MB written", 5.0),
    "database": ("MB, with its write-ahead log", 8.0),
}
Sample = dict[str, float]


class Watched:
    """One agent's process, and what it holds."""

    def __init__(self, hosts: Hosts, name: str, agent: AgentProcess) -> None:
        self._process = psutil.Process(agent.pid)
        self._agent = agent
        self._state = hosts.root / name
        self._log_bytes, self._lines_read = 0, 0

    def sample(self) -> Sample:
        """Return the figures of this moment."""
        new = self._agent.lines[self._lines_read :]
        self._lines_read += len(new)
        self._log_bytes += sum(len(line) + 1 for line in new)
        stored = sum(path.stat().st_size for path in self._state.glob("*.sqlite3*"))
        return {
            "memory": self._process.memory_info().rss / 2**20,
            "files": float(self._process.num_fds()),
            "threads": float(self._process.num_threads()),
            "log": self._log_bytes / 2**20,
            "database": stored / 2**20,
        }


def calibrate(loads: Mapping[str, Load]) -> dict[str, float]:
    """Return how many calls a second each agent answers, both at full load."""
    for load in loads.values():
        load.go(0)
    time.sleep(1.0)
    began = time.monotonic()
    for load in loads.values():
        load.taken()
    time.sleep(CALIBRATED_S)
    took = time.monotonic() - began
    return {name: load.taken()[0] / took for name, load in loads.items()}


def soak(minutes: float, out: Path) -> bool:
    """Run, write `soak.csv` and `soak.svg` into `out`, print the verdicts; return whether all is well."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        hosts = stack.enter_context(Hosts(Path(folder), heartbeat_s=5.0))
        config = Path(hosts.config.source)
        config.write_text(config.read_text().replace("stored_replies_s: 600", f"stored_replies_s: {STORED_REPLIES_S}"))
        agents = dict(zip((SDT, UMRA), hosts.start_both(), strict=True))
        watched = {name: Watched(hosts, name, agent) for name, agent in agents.items()}
        loads = {name: stack.enter_context(Load(hosts, name)) for name in agents}
        rates = {name: SHARE_OF_THE_RATE * rate for name, rate in calibrate(loads).items()}
        for name, load in loads.items():
            print(
                f"{name}: {rates[name] / SHARE_OF_THE_RATE:.0f} calls/s at full load; half of it from now on",
                flush=True,
            )
            load.taken()
            load.go(rates[name])
        answered, failures, seconds = dict.fromkeys(agents, 0), list[str](), list[float]()
        series: dict[str, list[Sample]] = {name: [] for name in agents}
        began = time.monotonic()
        while (now := time.monotonic() - began) < 60 * minutes:
            seconds.append(now)
            for name in agents:
                series[name].append(watched[name].sample())
                count, failed = loads[name].taken()
                answered[name] += count
                failures += failed
            time.sleep(max(0.0, began + now + SAMPLED_EVERY_S - time.monotonic()))
        took = time.monotonic() - began
    _write(out, seconds, series, f"Both agents at half their rate, {took / 60:.1f} minutes")
    print(f"{took / 60:.1f} minutes, {len(seconds)} samples; replies were stored for {STORED_REPLIES_S} s")
    for name in agents:
        print(f"{name}: {answered[name]:,} calls answered, {answered[name] / took:.0f}/s")
    print(f"failed calls: {len(failures)} {failures[:3] or ''}")
    return _verdict(seconds, series) and not failures


def _verdict(seconds: Sequence[float], series: Mapping[str, Sequence[Sample]]) -> bool:
    well = True
    for name, samples in series.items():
        for figure, (unit, floor) in FIGURES.items():
            found = fit(seconds, [sample[figure] for sample in samples], floor)
            well = well and not found.grows
            print(
                f"{name:<28} {figure:<9} {found.first:9.1f} to {found.last:9.1f} {unit:<30} after the warm-up "
                f"{found.growth:+7.2f}, {found.noise:5.2f} may be noise: {'GROWS' if found.grows else 'steady'}"
            )
    return well


def _write(out: Path, seconds: Sequence[float], series: Mapping[str, Sequence[Sample]], title: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with (out / "soak.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["seconds", *(f"{name} {figure}" for name in series for figure in FIGURES)])
        for place, second in enumerate(seconds):
            figures = [round(series[name][place][figure], 3) for name in series for figure in FIGURES]
            writer.writerow([round(second, 1), *figures])
    charts = {
        f"{figure}, {unit}": {name: [sample[figure] for sample in samples] for name, samples in series.items()}
        for figure, (unit, _) in FIGURES.items()
    }
    (out / "soak.svg").write_text(svg(title, seconds, charts))


def main() -> int:
    """Run; the status is 1 where something grew or a call failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="under load (default: 30)")
    parser.add_argument("--out", type=Path, default=Path("build/soak"), help="a folder for soak.csv and soak.svg")
    arguments = parser.parse_args()
    well = soak(arguments.minutes, arguments.out)
    print("steady" if well else "NOT STEADY", f"(load average {os.getloadavg()[0]:.1f})")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
