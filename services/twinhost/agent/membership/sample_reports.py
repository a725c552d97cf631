"""What this host measures of itself, told to mainpc: the newest at once, and the others as what is owed."""

import time
from collections import deque
from typing import Any

import msgspec
import structlog

from twinhost.agent.host_metrics.sample import HostSample
from twinhost.agent.membership.owed_queue import Kind, OwedQueue
from twinhost.agent.membership.owed_sender import CALL_DEADLINE_S, PASSING
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import ConnectionRefused, RequestError

_log = structlog.get_logger(__name__)

_MOST = 1_000  # between two looks of the link


class SampleReports:
    """`take` may be called from any thread; the rest is the link's."""

    def __init__(self, host: str, queue: OwedQueue) -> None:
        self._host = host
        self._queue = queue
        self._taken: deque[HostSample] = deque(maxlen=_MOST)
        self._fault: str | None = None

    def take(self, sample: HostSample) -> None:
        """Have a sample reported, or owed."""
        self._taken.append(sample)

    def owe_all(self) -> None:
        """Owe what was measured: mainpc is out of touch, and gets it late."""
        while self._taken:
            self._owe(self._taken.popleft())

    def send_one(self, client: Client) -> bool:
        """Report the newest sample, where there is one, and owe those before it; return whether there was one.

        Raises:
            ConnectionRefused: mainpc is out of reach; the sample is owed, since it may not have got there.
        """
        if not self._taken:
            return False
        newest = self._taken.pop()
        self.owe_all()
        try:
            started = time.perf_counter()
            client.call("ping", deadline_s=CALL_DEADLINE_S)
            newest = msgspec.structs.replace(newest, latency_ms=1_000 * (time.perf_counter() - started))
            client.call("report_metrics", deadline_s=CALL_DEADLINE_S, **self._fields(newest))
        except (ConnectionRefused, *PASSING) as error:
            self._owe(newest)
            if isinstance(error, ConnectionRefused):
                raise
        except RequestError as error:  # a twin that takes no metrics from this key is still one to register with
            if self._fault != error.code:
                _log.warning("metrics_not_taken", code=error.code, reason=str(error))
            self._fault = error.code
        else:
            self._fault = None
        return True

    def _owe(self, sample: HostSample) -> None:
        self._queue.leave(Kind.SAMPLE, "report_metrics", self._fields(sample))

    def _fields(self, sample: HostSample) -> dict[str, Any]:
        return {**msgspec.to_builtins(sample), "host": self._host}
