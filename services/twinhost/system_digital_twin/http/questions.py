"""What HTTP asks of the thread that owns the store, which answers at its next turn."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from twinhost.agent.telemetry import Readers

MAX_WAITING = 4  # a turn answers all of them before it serves agents
ANSWER_S = 2.0
Answer = TypeVar("Answer")


class NotAnswered(Exception):
    """The thread is busy, or too many wait for it."""


class Questions:
    """A queue between the threads of HTTP and that of the server."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers
        self._waiting: deque[tuple[Callable[[], Any], Future[Any]]] = deque()

    def ask(self, question: Callable[[], Answer]) -> Answer:
        """Return the answer, or raise what the question raised; on a thread of HTTP.

        Raises:
            NotAnswered: MAX_WAITING others wait, or there was no turn within ANSWER_S.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise NotAnswered
        future: Future[Answer] = Future()
        self._waiting.append((question, future))
        if self._readers.request_tick is not None:
            self._readers.request_tick()
        try:
            return future.result(ANSWER_S)
        except TimeoutError:
            future.cancel()
            raise NotAnswered from None

    def on_tick(self) -> None:
        """Answer all that waits; on the server's thread."""
        while self._waiting:
            question, future = self._waiting.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(question())
            except Exception as error:  # noqa: BLE001 - boundary: it is raised where it was asked
                future.set_exception(error)
