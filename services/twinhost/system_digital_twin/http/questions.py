"""What HTTP asks of the thread that owns the store, which answers at its next turn."""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from twinhost.agent.telemetry import Readers

MAX_WAITING = 4  # of the 40 threads of HTTP
ANSWER_S = 2.0
PAUSE = 4.0  # after a question, in the time that its answer took: so questions get a fifth of the thread
Answer = TypeVar("Answer")


class NotAnswered(Exception):
    """The thread is busy, or too many wait for it."""


class Questions:
    """A queue between the threads of HTTP and that of the server."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers
        self._waiting: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._places = threading.BoundedSemaphore(MAX_WAITING)
        self._next_at = 0.0  # monotonic: when the next question may be asked

    def ask(self, question: Callable[[], Answer]) -> Answer:
        """Return the answer, or raise what the question raised; on a thread of HTTP.

        Raises:
            NotAnswered: MAX_WAITING others wait, or there was no turn within ANSWER_S.
        """
        if not self._places.acquire(blocking=False):
            raise NotAnswered
        try:
            return self._ask(question)
        finally:
            self._places.release()

    def _ask(self, question: Callable[[], Answer]) -> Answer:
        time.sleep(min(max(0.0, self._next_at - time.monotonic()), ANSWER_S))
        future: Future[Answer] = Future()
        self._waiting.append((question, future))
        self._request_turn()
        try:
            return future.result(ANSWER_S)
        except TimeoutError:
            future.cancel()
            raise NotAnswered from None

    def on_tick(self) -> None:
        """Answer one question, and have another turn for the next, after agents were served; on the server's thread."""
        while self._waiting:
            question, future = self._waiting.popleft()
            if future.set_running_or_notify_cancel():
                self._answer(question, future)
                break
        if self._waiting:
            self._request_turn()

    def _answer(self, question: Callable[[], Any], future: Future[Any]) -> None:
        began = time.monotonic()
        try:
            answer = question()
        except Exception as error:  # noqa: BLE001 - boundary: it is raised where it was asked
            future.set_exception(error)
        else:
            future.set_result(answer)
        now = time.monotonic()
        self._next_at = now + PAUSE * (now - began)

    def _request_turn(self) -> None:
        if self._readers.request_tick is not None:
            self._readers.request_tick()
