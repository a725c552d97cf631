"""Background threads: one named daemon thread per worker, with a stop request and a heartbeat.

Derive a class from `Worker` and hand its loop to `super().__init__`, or make a `Worker` of a function:

    class Poller(Worker):
        def __init__(self) -> None:
            super().__init__("poller", self._poll, stalled_after_s=5.0, join_timeout_s=1.0)

        def _poll(self) -> None:
            while not self.wait(0.2):  # False: the time has passed; True: the worker must stop
                self.beat()
                ...

Signals to the process are left to the program's own threads: a background thread that took one would end the process,
or discard a signal that the main thread waits for with `sigwait`.
"""

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Block all signals but faults for this thread, and for good in threads that are started in the block."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    faults = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}  # of the thread itself
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - faults)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Heartbeat:
    """When a loop last completed an iteration: written by its thread, read by any."""

    __slots__ = ("_beat_at", "_monotonic", "_stalled_after_s")

    def __init__(self, stalled_after_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._stalled_after_s = stalled_after_s
        self._monotonic = monotonic
        self._beat_at = monotonic()

    def beat(self) -> float:
        """Record a completed iteration; return the monotonic time."""
        self._beat_at = now = self._monotonic()
        return now

    def rest(self) -> None:
        """Record that the loop waits for work without a time limit: it is fresh until it beats again."""
        self._beat_at = float("inf")

    @property
    def fresh(self) -> bool:
        """Whether the loop rests, or its last iteration ended less than `stalled_after_s` ago."""
        return self._monotonic() - self._beat_at < self._stalled_after_s


class Waker:
    """Wakes a thread that polls descriptors: `wake()` is for any thread, and for signal handlers.

    The woken thread calls `clear()`, and only then looks for what it was woken for.
    """

    __slots__ = ("_receiver", "_sender", "called")

    def __init__(self) -> None:
        self.called = False  # since the last `clear()`
        self._receiver, self._sender = socket.socketpair()  # and not a pipe, which Windows can't poll
        for end in (self._receiver, self._sender):
            end.settimeout(0)

    def __del__(self) -> None:  # and not `close()`: while a thread may still call `wake()`, the descriptors stay ours
        self._receiver.close()
        self._sender.close()

    @property
    def fd(self) -> int:
        """The descriptor to poll; it is readable from a `wake()` until the next `clear()`."""
        return self._receiver.fileno()

    def wake(self) -> None:
        """Wake the thread, or keep it from sleeping the next time."""
        if not self.called:
            self.called = True
            with contextlib.suppress(BlockingIOError):  # it is readable already
                self._sender.send(b"\0")

    def clear(self) -> None:
        """Take the calls so far, on the woken thread."""
        with contextlib.suppress(BlockingIOError):
            self._receiver.recv(4_096)
        self.called = False  # last: a call whose byte is taken here would keep later ones from sending theirs


class Worker:
    """A daemon thread that runs a function once; the function returns when `stopping` is set."""

    def __init__(
        self,
        name: str,
        run: Callable[[], object],
        *,
        stalled_after_s: float = float("inf"),
        join_timeout_s: float | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare the thread; `start()` runs it.

        Args:
            name: of the thread, as it appears in stack dumps.
            run: the work; it calls `beat()` once per iteration if `stalled_after_s` is given.
            stalled_after_s: how old the last `beat()` may be before the worker counts as not responsive.
            join_timeout_s: how long `stop()` waits for the thread; None waits until it has ended.
            monotonic: returns seconds that only ever grow.
        """
        self._heartbeat = Heartbeat(stalled_after_s, monotonic)
        self._join_timeout_s = join_timeout_s
        self._stop_requested = threading.Event()
        self._thread = threading.Thread(target=run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread; once in a worker's life."""
        self._heartbeat.beat()
        with signals_blocked():
            self._thread.start()

    def request_stop(self) -> None:
        """Ask the thread to end, without waiting for it; from any thread, more than once, before `start()` too."""
        self._stop_requested.set()
        self._interrupt()

    def stop(self) -> None:
        """Ask the thread to end and wait for it, `join_timeout_s` at most; not from the worker's own thread."""
        self.request_stop()
        self.join()

    def join(self) -> None:
        """Wait until the thread has ended, `join_timeout_s` at most; returns at once where it never started."""
        if self.started:
            self._thread.join(self._join_timeout_s)

    @property
    def started(self) -> bool:
        """Whether `start()` was called, even if the thread has ended since."""
        return self._thread.ident is not None

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def responsive(self) -> bool:
        """Whether the thread runs and has called `beat()` recently enough."""
        return self._thread.is_alive() and self._heartbeat.fresh

    @property
    def stopping(self) -> bool:
        """Whether the thread was asked to end."""
        return self._stop_requested.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep on the worker's thread until it is asked to end; return whether it was."""
        return self._stop_requested.wait(seconds)

    def beat(self) -> float:
        """Record a completed iteration, from the worker's thread; return the monotonic time."""
        return self._heartbeat.beat()

    def rest(self) -> None:
        """Record, from the worker's thread, that it waits for work without a time limit."""
        self._heartbeat.rest()

    def _interrupt(self) -> None:
        """Interrupt the call in which the thread blocks; override this if that is not `wait()`."""
