"""GPUs through NVML: a library that answers as the driver's does, one that fails, and none at all.

The reader runs in a process of its own, since a process loads a driver's library once.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.loopback.agent_processes import SERVICES
from twinhost.agent.host_metrics import GpuProcess, GpuSample, HostSample

GIB = 2**30
GOOD = f"NVIDIA H100|{8 * GIB}|{80 * GIB}|37"
OTHER = f"NVIDIA T4|{GIB // 2}|{16 * GIB}|0"
READER = (
    "import sys, msgspec\n"
    "from twinhost.agent.host_sampler import HostSampler\n"
    "sampler = HostSampler()\n"
    "for line in sys.stdin:\n"
    "    print(msgspec.json.encode(eval(line)).decode(), flush=True)\n"
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a libnvidia-ml.so.1, built here."""
    return build(tmp_path_factory.mktemp("driver"))


def build(folder: Path, *options: str) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler is here to build a driver's library with")
    source, target = Path(__file__).with_name("driver.c"), folder / "libnvidia-ml.so.1"
    flags = ["-Wall", "-Werror", "-shared", "-fPIC", *options]
    subprocess.run([compiler, *flags, "-o", str(target), str(source)], check=True)
    return folder


class Reader:
    """A process that reads GPUs on request."""

    def __init__(self, library: Path | None, table: Path) -> None:
        self._table = table
        environment = {**os.environ, "PYTHONPATH": str(SERVICES), "GPUS": str(table)}
        if library is not None:
            environment["LD_LIBRARY_PATH"] = str(library)
        self.process = subprocess.Popen(
            [sys.executable, "-c", READER],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def gpus(self, *lines: str) -> tuple[GpuSample, ...]:
        """Return the GPUs that are read from a driver that has these."""
        self._table.write_text("".join(f"{line}\n" for line in lines))
        return msgspec.json.decode(self._ask("sampler.sample().gpus"), type=tuple[GpuSample, ...])

    def sample(self) -> HostSample:
        return msgspec.json.decode(self._ask("sampler.sample()"), type=HostSample)

    def unload(self) -> tuple[GpuSample, ...]:
        """Take the driver away, and return what is read then."""
        self._table.unlink(missing_ok=True)
        return msgspec.json.decode(self._ask("sampler.sample().gpus"), type=tuple[GpuSample, ...])

    def imported(self, module: str) -> bool:
        return self._ask(f"{module!r} in sys.modules") == "true\n"

    def _ask(self, what: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        while (line := self.process.stdout.readline()) and "gpu_not_measured" in line:
            pass  # the log
        return line

    def end(self) -> None:
        self.process.communicate(timeout=20)


@pytest.fixture
def reader(library: Path, tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(library, tmp_path / "gpus")
    yield reader
    reader.end()


def gpu(index: int, name: str, used_gib: float, total_gib: float, percent: float | None) -> GpuSample:
    sample: dict[str, Any] = {"used_mb": used_gib * 1_024, "total_mb": total_gib * 1_024}
    return GpuSample(index=index, name=name, utilisation_percent=percent, **sample)


def test_every_gpu_is_read(reader: Reader) -> None:
    """Its name, its memory in MB of 2**20 bytes, and how busy it is."""
    assert reader.gpus(GOOD, OTHER) == (gpu(0, "NVIDIA H100", 8, 80, 37.0), gpu(1, "NVIDIA T4", 0.5, 16, 0.0))


def test_two_cards_are_distinguished_with_their_processes(reader: Reader) -> None:
    """UUID, temperature, and processes of each; only the program's name, since arguments may contain a secret."""
    training = f"C41:{6 * GIB}:/opt/env/bin/python train.py --token=s3cret,C42:E:?"
    first, second = reader.gpus(f"{GOOD}|GPU-1|64|{training},G41:1:Xorg", f"{OTHER}|GPU-2|31|G43:{GIB}:/usr/lib/Xorg")
    assert (first.uuid, first.temperature_c, second.uuid, second.temperature_c) == ("GPU-1", 64.0, "GPU-2", 31.0)
    assert first.processes == (GpuProcess(pid=41, name="python", used_mb=6 * 1_024.0), GpuProcess(pid=42))
    assert second.processes == (GpuProcess(pid=43, name="Xorg", used_mb=1_024.0),)


def test_the_temperature_at_which_a_card_slows_down_is_read(reader: Reader) -> None:
    """A distance to it, as newer cards give it, is none; nor is what the driver does not know."""
    known, distance, unknown = reader.gpus(f"{GOOD}|GPU-1|64||93", f"{GOOD}|GPU-2|64||-2", f"{GOOD}|GPU-3|64|")
    assert (known.slowdown_c, distance.slowdown_c, unknown.slowdown_c) == (93.0, None, None)


def test_an_old_driver_shows_no_processes(tmp_path: Path) -> None:
    """Everything else is read; NVML before driver 510 lacks the function."""
    reader = Reader(build(tmp_path, "-DOLD"), tmp_path / "gpus")
    (found,) = reader.gpus(f"{GOOD}|GPU-1|64|C41:1:python")
    assert (found.uuid, found.used_mb, found.processes) == ("GPU-1", 8 * 1_024, ())
    reader.end()


def test_a_hosts_vram_is_that_of_its_gpus(reader: Reader) -> None:
    """Used and in all are the sums."""
    reader.gpus(GOOD, OTHER)
    sample = reader.sample()
    assert (sample.vram_used_mb, sample.vram_total_mb) == (8.5 * 1_024, 96 * 1_024)
    assert len(sample.gpus) == 2


def test_a_gpu_that_fails_is_left_out(reader: Reader) -> None:
    """Whatever of it fails; the others are read, and it too when it is well again."""
    for lost in (f"E|{GIB}|{GIB}|1", f"A|E|{GIB}|1", f"A|{GIB}|E|1"):
        assert reader.gpus(lost, OTHER) == (gpu(1, "NVIDIA T4", 0.5, 16, 0.0),)
    assert len(reader.gpus(GOOD, OTHER)) == 2


def test_no_gpu_that_answers_is_no_vram(reader: Reader) -> None:
    """None, and not 0: nothing is known of it."""
    assert reader.gpus(f"E|{GIB}|{GIB}|1") == ()
    sample = reader.sample()
    assert (sample.vram_used_mb, sample.vram_total_mb, sample.gpus) == (None, None, ())
    assert len(reader.gpus(GOOD)) == 1


def test_a_gpu_that_does_not_count_its_work(reader: Reader) -> None:
    """Memory is known, utilisation is not."""
    assert reader.gpus(f"MIG 1g|0|{GIB}|E") == (gpu(0, "MIG 1g", 0, 1, None),)


def test_a_driver_that_comes_and_goes_is_noticed(reader: Reader) -> None:
    """Without a restart of the process, and more than once."""
    for _ in range(2):
        assert reader.unload() == ()
        assert len(reader.gpus(GOOD)) == 1


def test_no_gpus_beside_a_driver(reader: Reader) -> None:
    """A driver that has none is none."""
    assert reader.gpus() == ()
    assert reader.sample().vram_total_mb is None


def test_without_a_driver_nothing_is_known(tmp_path: Path) -> None:
    """No library: no GPUs, and VRAM that is None; again and again, and without what only reads GPUs."""
    if any(Path(folder, "libnvidia-ml.so.1").exists() for folder in ("/usr/lib", "/usr/lib/x86_64-linux-gnu")):
        pytest.skip("this machine has a driver")
    reader = Reader(None, tmp_path / "gpus")
    for _ in range(2):
        sample = reader.sample()
        assert (sample.vram_used_mb, sample.vram_total_mb, sample.gpus) == (None, None, ())
    assert not reader.imported("pynvml")
    reader.end()
