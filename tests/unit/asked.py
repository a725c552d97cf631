"""Actions on a real database, without a socket, as a client of them would see it; and one whose commit fails."""

import json
from collections.abc import Iterable
from types import TracebackType
from typing import Any, ClassVar, Self

from twinhost.secure_zmq.actions import Action
from twinhost.secure_zmq.callers import UNAUTHENTICATED, Caller, Grants
from twinhost.secure_zmq.dispatch import Dispatcher, More
from twinhost.secure_zmq.framing.inbound import Inbound
from twinhost.secure_zmq.wire import Reply, Request
from twinhost.store.database import Database
from twinhost.store.reply_log import ReplyLog

DEBTS = (
    "CREATE TABLE sums (seq INTEGER PRIMARY KEY) STRICT;"
    "CREATE TABLE debts (sum INTEGER REFERENCES sums (seq) DEFERRABLE INITIALLY DEFERRED) STRICT"
)


class Doom(Request, tag="doom"):
    """Leave something behind that makes the commit of the whole batch fail; it needs the table `DEBTS`."""


class Asked:
    """Answers requests once `database` is open and `answer_to` was called; `CALLER` asks if no other is named."""

    CALLER: ClassVar[Caller] = UNAUTHENTICATED
    database: Database

    def answer_to(self, actions: Iterable[Action[Any]], grants: Grants, max_bytes: int, **options: Any) -> None:
        replies = ReplyLog(self.database, keep_s=600, keep_per_caller=1_000)
        self._dispatcher = Dispatcher(actions, grants, self.database, replies, max_bytes, **options)

    def open(self) -> None:
        """Open the database, as a start of the agent does."""
        raise NotImplementedError

    def close(self) -> None:
        self.database.close()

    def reopen(self) -> None:
        """Close the database and open it again, as a restart does."""
        self.close()
        self.open()

    def doom(self) -> Action[Doom]:
        def handle(_: Doom, __: Caller) -> Reply:
            self.database.execute("INSERT INTO debts VALUES (1)")
            return {"status": "success"}

        return Action(Doom, handle, mutates=True)

    def ask(self, action: str, caller: Caller | None = None, **fields: Any) -> dict[str, Any]:
        """Return the reply to one request."""
        (reply,) = self.ask_together((action, caller or self.CALLER, fields))
        return reply

    def ask_together(self, *requests: tuple[str, Caller, dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the replies to requests that were drained together."""
        batch = [Inbound(json.dumps({"action": action, **fields}).encode(), by) for action, by, fields in requests]
        return self.answer(batch)

    def answer(self, batch: Iterable[Inbound], *, crowded: bool = False) -> list[dict[str, Any]]:
        """Return the replies to one batch, but for those that are to come; `crowded` if others wait meanwhile."""
        more: More = (lambda: None) if crowded else tuple
        return [json.loads(reply) for reply in self._dispatcher.answer(list(batch), more) if reply]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def refused(reply: dict[str, Any], code: str, sentence: str) -> None:
    assert (reply["status"], reply["code"]) == ("error", code), reply
    assert sentence in reply["error"]
