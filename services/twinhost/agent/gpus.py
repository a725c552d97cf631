"""The GPUs of a host, each read with NVML."""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import pynvml  # type: ignore[import-untyped]
import structlog

from twinhost.agent.host_metrics import MAX_PROCESSES, MB, GpuProcess, GpuSample

_log = structlog.get_logger(__name__)

T = TypeVar("T")
_SLOWDOWN_C = range(50, 131)  # newer cards give a distance to the limit where older ones give the limit


class Gpus:
    """Reads every GPU with NVML; a driver that is loaded or unloaded is noticed at the next reading."""

    def __init__(self) -> None:
        self._initialised = False
        self._failing: set[int] = set()

    def read(self) -> tuple[GpuSample, ...]:
        """Return the GPUs that can be measured now; never raises."""
        try:
            if not self._initialised:
                pynvml.nvmlInit()
                self._initialised = True
            count = int(pynvml.nvmlDeviceGetCount())
        except pynvml.NVMLError:
            self._shut_down()
            return ()
        read = [self._read(index, MAX_PROCESSES // count) for index in range(count)]
        if count and not any(read):
            self._shut_down()  # a replaced driver responds only after NVML is initialised again
        return tuple(gpu for gpu in read if gpu is not None)

    def _read(self, index: int, max_processes: int) -> GpuSample | None:
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            name = str(pynvml.nvmlDeviceGetName(handle))
        except (pynvml.NVMLError, ValueError) as error:
            if index not in self._failing:
                self._failing.add(index)
                _log.warning("gpu_not_measured", index=index, reason=str(error))
            return None
        self._failing.discard(index)
        return GpuSample(
            index=index,
            name=name,
            used_mb=memory.used / MB,
            total_mb=memory.total / MB,
            utilisation_percent=_optional(lambda: float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)),
            uuid=_optional(lambda: str(pynvml.nvmlDeviceGetUUID(handle))),
            temperature_c=_optional(
                lambda: float(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))
            ),
            slowdown_c=_optional(lambda: _slowdown_c(handle)),
            processes=_processes(handle)[:max_processes],
        )

    def _shut_down(self) -> None:
        if self._initialised:
            self._initialised = False
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()


def _optional(ask: Callable[[], T]) -> T | None:
    """Return a value, or None where the driver, the GPU, or the MIG slice does not support it."""
    try:
        return ask()
    except (pynvml.NVMLError, ValueError):
        return None


def _slowdown_c(handle: object) -> float | None:
    celsius = pynvml.nvmlDeviceGetTemperatureThreshold(handle, pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN)
    return float(celsius) if celsius in _SLOWDOWN_C else None


def _processes(handle: object) -> tuple[GpuProcess, ...]:
    """Return the compute and graphics processes of a GPU, those with the most memory first.

    In a container, a driver may hide the machine's processes.
    """
    processes: dict[int, GpuProcess] = {}
    # The unversioned functions call the newest version; if the driver lacks it, their error is not an NVMLError.
    for ask in (pynvml.nvmlDeviceGetComputeRunningProcesses_v3, pynvml.nvmlDeviceGetGraphicsRunningProcesses_v3):
        for process in _optional(partial(ask, handle)) or ():
            if process.pid not in processes:
                name = _optional(partial(pynvml.nvmlSystemGetProcessName, process.pid))
                used_mb = None if process.usedGpuMemory is None else process.usedGpuMemory / MB
                processes[process.pid] = GpuProcess(
                    pid=process.pid, name=_program(name) if name else None, used_mb=used_mb
                )
    return tuple(sorted(processes.values(), key=lambda process: (-(process.used_mb or 0), process.pid)))


def _program(command: str) -> str:
    """Return a program's name without its folder, and without arguments, which may contain secrets."""
    return command.split(" ", 1)[0].rsplit("/", 1)[-1][:64]
