"""An agent on a thread of this process."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from twinhost.agent.assembly import Assembly, Foundation, StartAgain
from twinhost.agent.process import prepare_agent
from twinhost.agent.settings import load_settings
from twinhost.worker import Worker

LOOPBACK = "127.0.0.1"
_PATIENCE_S = 20.0  # for what promises no time: a busy machine may take long, a hung one must end
_LOOK_EVERY_S = 0.002


@dataclass(frozen=True, slots=True)
class Plan:
    """What an agent is made of, as `run_agent` takes it."""

    migrations: Sequence[str]
    assemble: Callable[[Foundation], Assembly]
    rebuilds: Mapping[str, Sequence[str]] | None = None


class RunningAgent:
    """An agent that runs on a thread of its own."""

    def __init__(self, name: str, plan: Plan, environment: Mapping[str, str]) -> None:
        self.foundation: Foundation

        def assemble(foundation: Foundation) -> Assembly:
            self.foundation = foundation
            return plan.assemble(foundation)

        self._failure: BaseException | None = None
        with ExitStack() as stack:
            settings = replace(load_settings(name, environment), address=LOOPBACK)
            self._server = prepare_agent(settings, plan.migrations, assemble, stack, plan.rebuilds)
            self._stack = stack.pop_all()
        self._thread = Worker(name, self._serve)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.alive

    @property
    def ready(self) -> bool:
        """Whether all its checks pass.

        Raises:
            BaseException: what ended its loop.
        """
        if self._failure is not None:
            raise self._failure
        return self.foundation.health.document()["ready"]

    def stop(self) -> None:
        """Stop it as SIGTERM does.

        Raises:
            BaseException: what ended its loop before.
        """
        self._server.stop()
        self._thread.join()
        self._stack.close()
        if self._failure is not None:
            raise self._failure

    def _serve(self) -> None:
        try:
            self._server.serve_forever()
        except StartAgain:
            pass
        except BaseException as error:  # noqa: BLE001 - raised on the test's thread
            self._failure = error


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds, for 20 s at most.

    Raises:
        TimeoutError: it does not hold by then; the message names `what` was waited for.
    """
    end = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {_PATIENCE_S:g} s: {what}")
        time.sleep(_LOOK_EVERY_S)
