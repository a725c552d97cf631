"""The GPUs of a host, each read with NVML."""

import contextlib

import pynvml  # type: ignore[import-untyped]
import structlog

from twinhost.agent.host_metrics import MB, GpuSample

_log = structlog.get_logger(__name__)


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
        read = [self._read(index) for index in range(count)]
        if count and not any(read):
            self._shut_down()  # a replaced driver responds only after NVML is initialised again
        return tuple(gpu for gpu in read if gpu is not None)

    def _read(self, index: int) -> GpuSample | None:
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
            utilisation_percent=_utilisation(handle),
        )

    def _shut_down(self) -> None:
        if self._initialised:
            self._initialised = False
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()


def _utilisation(handle: object) -> float | None:
    try:
        return float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    except pynvml.NVMLError:  # not every GPU supports it, and a MIG slice never does
        return None
