"""A background thread: started, stopped, and known to be stuck."""

import select
import signal
import threading
import time
from collections.abc import Callable

import pytest

from twinhost.worker import Heartbeat, Waker, Worker


class _Blocked(Worker):
    """Blocks in something else than `wait()`."""

    def __init__(self, stalled_after_s: float = float("inf"), monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__("blocked", self._run, stalled_after_s=stalled_after_s, monotonic=monotonic)
        self._woken = threading.Event()

    def _run(self) -> None:
        self._woken.wait()

    def _interrupt(self) -> None:
        self._woken.set()


def test_stop_ends_the_thread_at_its_next_wait() -> None:
    """`wait()` returns True at once when the worker is asked to end."""
    worker = Worker("test", lambda: worker.wait(60))
    worker.start()
    assert worker.alive
    assert worker.responsive
    worker.stop()
    assert worker.stopping
    assert not worker.alive
    assert not worker.responsive


def test_stop_interrupts_a_thread_that_blocks_elsewhere() -> None:
    """A subclass says what wakes it."""
    worker = _Blocked()
    worker.start()
    worker.stop()
    assert not worker.alive


def test_request_stop_does_not_wait_for_the_thread() -> None:
    """It may be called on any thread, also on the worker's own."""
    release = threading.Event()
    worker = Worker("test", release.wait)
    worker.start()
    worker.request_stop()
    assert worker.stopping
    assert worker.alive
    release.set()
    worker.join()


def test_stop_waits_no_longer_than_the_join_timeout() -> None:
    """A thread that hangs in a driver can't keep a process alive."""
    release = threading.Event()
    worker = Worker("test", release.wait, join_timeout_s=0.01)
    worker.start()
    worker.stop()
    assert worker.alive
    release.set()


def test_a_worker_that_never_started_can_be_stopped() -> None:
    """There is nothing to wait for, and it is not alive."""
    worker = Worker("test", lambda: None)
    worker.stop()
    assert not worker.started
    assert not worker.alive


def test_a_thread_without_heartbeat_is_not_responsive() -> None:
    """It is alive and does not turn: health shows it."""
    now = 1_000.0
    worker = _Blocked(stalled_after_s=5.0, monotonic=lambda: now)
    now += 60.0  # between its making and its start nothing has to turn
    worker.start()
    now += 4.9
    assert worker.responsive
    now += 0.1
    assert not worker.responsive
    assert worker.alive
    worker.beat()
    assert worker.responsive
    worker.stop()


def test_a_worker_whose_function_ended_is_not_alive() -> None:
    """Nobody mistakes a thread that has ended for a quiet one."""
    worker = Worker("test", lambda: None)
    worker.start()
    worker.join()
    assert worker.started
    assert not worker.responsive


def test_a_worker_takes_no_signal_from_other_threads() -> None:
    """It blocks all but faults of its own; the thread that started it blocks what it blocked before."""
    seen: list[set[int]] = []
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    worker = Worker("test", lambda: seen.append(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
    worker.start()
    worker.join()
    assert {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT} <= seen[0]
    assert signal.SIGSEGV not in seen[0]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


@pytest.mark.parametrize("name", ["event-feed", "zap-handler"])
def test_the_thread_has_the_workers_name(name: str) -> None:
    """Stack dumps and `py-spy` show it."""
    seen: list[str] = []
    worker = Worker(name, lambda: seen.append(threading.current_thread().name))
    worker.start()
    worker.join()
    assert seen == [name]


def _readable(waker: Waker) -> bool:
    return bool(select.select([waker.fd], [], [], 0)[0])


def test_a_waker_is_readable_from_a_call_until_it_is_cleared() -> None:
    """However often it was called; and again after that."""
    waker = Waker()
    assert (waker.called, _readable(waker)) == (False, False)
    for _ in range(2):
        for _ in range(10_000):
            waker.wake()
        assert (waker.called, _readable(waker)) == (True, True)
        waker.clear()
        assert (waker.called, _readable(waker)) == (False, False)


def test_no_call_of_a_waker_is_lost() -> None:
    """What is set before `wake()` is seen by the woken thread, whichever of several threads wakes it."""
    waker, lock, done = Waker(), threading.Lock(), 0

    def add() -> None:
        nonlocal done
        for _ in range(2_000):
            with lock:
                done += 1
            waker.wake()

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    seen = 0
    while seen < 8_000:
        assert select.select([waker.fd], [], [], 10)[0], f"not woken for {8_000 - seen} of them"
        waker.clear()
        seen = done
    for thread in threads:
        thread.join()


def test_a_loop_that_rests_is_not_stalled() -> None:
    """It waits for work without a time limit; from its next beat on, the limit counts again."""
    heartbeat = Heartbeat(0.0)
    assert not heartbeat.fresh
    heartbeat.rest()
    assert heartbeat.fresh
    heartbeat.beat()
    assert not heartbeat.fresh


def test_a_call_while_the_calls_are_taken_stops_no_later_one() -> None:
    """Its byte may be taken with those of the calls before."""
    waker = Waker()
    waker.wake()
    taken = waker._receiver.recv

    class Late:
        """Takes the byte of a call that has just come, too."""

        def recv(self, size: int) -> bytes:
            waker.wake()
            return taken(size)

        def fileno(self) -> int:
            return receiver.fileno()

        def close(self) -> None:
            receiver.close()

    receiver, waker._receiver = waker._receiver, Late()  # type: ignore[assignment]
    waker.clear()
    waker.wake()
    assert _readable(waker)
