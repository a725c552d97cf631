"""Sends what is owed to mainpc, oldest first: the next one only once mainpc has answered the one before."""

import random
import time

import structlog

from twinhost.agent.membership.owed_queue import Kind, Owed, OwedQueue
from twinhost.agent.membership.owed_requests import fields_of
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import PeerNotLive, RequestError, StoreUnavailable
from twinhost.secure_zmq.rate_limit import LogBudget

_log = structlog.get_logger(__name__)

CALL_DEADLINE_S = 2.0
PASSING = (PeerNotLive, StoreUnavailable)  # refusals of everything, which pass; any other is of this request alone
_WAIT_S = 1.0  # after one of those, with jitter
_AGAIN_S = 600.0  # until what was refused is tried again: a grant may have been given, or mainpc mended


class OwedSender:
    """Used by the link's thread alone, while it is in touch."""

    def __init__(self, queue: OwedQueue) -> None:
        self._queue = queue
        self._not_before = 0.0
        self._again_at = time.monotonic() + _AGAIN_S
        self._budget = LogBudget()  # by code

    def send_one(self, client: Client) -> bool:
        """Send what is owed for longest; return whether there may be more to send at once.

        A refusal that passes leaves it where it is, and nothing overtakes it. Any other sets it aside, kept on
        disk and told in health, so that what comes after it arrives; its turn comes again later.

        Raises:
            ConnectionRefused: mainpc is out of reach, and whether it has got this is not known.
        """
        clock = time.monotonic()
        if clock < self._not_before:
            return False
        if clock >= self._again_at:
            self.back_in_touch()
        owed = self._queue.oldest()
        if owed is None:
            return False
        try:
            self._send(client, owed)
        except PASSING:
            self._not_before = clock + _WAIT_S * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
            return False
        except RequestError as error:
            self._set_aside(owed, error)
        else:
            self._queue.arrived(owed)
        return True

    def back_in_touch(self) -> None:
        """Try once more what was refused: mainpc may be another one by now."""
        self._again_at = time.monotonic() + _AGAIN_S
        self._queue.try_again()

    @staticmethod
    def _send(client: Client, owed: Owed) -> None:
        fields = fields_of(owed, time.time())
        # A sample's age is another one each time, and so the request is; mainpc goes by `wall`.
        request_id = None if owed.kind is Kind.SAMPLE else owed.request_id
        client.call(owed.action, deadline_s=CALL_DEADLINE_S, request_id=request_id, **fields)

    def _set_aside(self, owed: Owed, error: RequestError) -> None:
        self._queue.set_aside(owed, error.code)
        left_out = self._budget.admit(error.code)
        if left_out is not None:
            _log.warning(
                "owed_set_aside",
                code=error.code,
                kind=owed.kind.value,
                action=owed.action,
                number=owed.seq,
                reason=str(error),
                not_logged_before=left_out,
            )
