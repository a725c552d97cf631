"""A reply of which another thread makes a part, and that is complete at a deadline also without it."""

import threading
from concurrent.futures import Future

import pytest

from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.actions import Completed
from twinhost.secure_zmq.errors import LimitReached


def test_it_is_done_with_its_part_or_at_the_deadline() -> None:
    part: Future[int] = Future()
    assert not Completed(part, lambda found: found, within_s=60.0).done()
    reply = Completed(part, lambda found: found, within_s=0.2)
    wait_until(reply.done, PATIENCE_S, "its deadline")
    assert reply.result(timeout=0) is None
    part.set_result(7)
    assert reply.result(timeout=0) == 7


def test_it_is_completed_on_the_thread_that_asks() -> None:
    """The server's loop, which owns the database; what that raises is the reply."""
    part: Future[int] = Future()
    threads = []

    def complete(_: int | None) -> None:
        threads.append(threading.current_thread())
        raise LimitReached("no")

    reply = Completed(part, complete, within_s=60.0)
    threading.Thread(target=part.set_result, args=(1,)).start()
    with pytest.raises(LimitReached):
        reply.result()
    assert threads == [threading.current_thread()]
