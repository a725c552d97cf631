"""Follows mainpc's list of keys for an agent that makes its own sockets, as `Membership` does for the others."""

import random
import threading
from contextlib import ExitStack
from functools import partial

import structlog

from twinhost.agent.trust import TRUST_TOPIC, TrustFolder
from twinhost.deployment import Settings
from twinhost.network_config import load_network_config
from twinhost.secure_zmq.certificates import TRUST_FOLDER, Certificates
from twinhost.secure_zmq.client import Subscriber
from twinhost.secure_zmq.errors import TwinhostError
from twinhost.secure_zmq.peers import AuthorizedPeers
from twinhost.worker import Worker

_log = structlog.get_logger(__name__)

_RETRY_S = 1.0
_ASK_AGAIN_S = 0.25  # after the feed's session began, since mainpc may have announced a change before it, then doubled


class TrustFollower(Worker):
    """Keeps `trust/` in an agent's folder of keys equal to mainpc's list, on a thread of its own.

    It asks when mainpc announces a change, every `heartbeat_s`, and more often after the feed's session began. It sends
    no heartbeat, which would report an agent as alive that hangs; mainpc learns from the question which revision is
    applied. While mainpc can't be reached, the keys of the last list are authorised, and no revocation is withdrawn, as
    on every host.
    """

    def __init__(self, certificates: Certificates, peers: AuthorizedPeers) -> None:
        """Follow the list for the holder of these keys; `peers` reads the folder."""
        super().__init__("trust-follower", self._run)
        self._certificates = certificates
        self._peers = peers
        self._due = threading.Event()

    def _interrupt(self) -> None:
        self._due.set()

    def _run(self) -> None:
        reported = ""
        while not self.stopping:
            try:
                self._follow()
            except Exception as error:  # noqa: BLE001 - boundary: without this thread no revocation would arrive any more
                if str(error) != reported:
                    known = isinstance(error, TwinhostError)
                    _log.error("trust_not_followed", reason=str(error), exc_info=not known)
                reported = str(error)
                self.wait(_RETRY_S * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret

    def _follow(self) -> None:
        """Follow the list until this is to end, by the configuration as it is now."""
        settings = Settings(load_network_config(), self._certificates)
        mainpc, heartbeat_s = settings.registry_agent, settings.config.limits.heartbeat_s
        folder = TrustFolder(self._certificates.folder / TRUST_FOLDER, self._peers.reload)
        feed: Subscriber | None = None
        with ExitStack() as stack:
            if mainpc.events_port is not None:
                feed = Subscriber(settings.feed_address(mainpc), [TRUST_TOPIC], lambda _: self._due.set())
                feed.start()
                stack.callback(feed.stop)
            client = stack.enter_context(settings.client(mainpc))
            document, session, wait_s = folder.document(), 0, _ASK_AGAIN_S
            while not self.stopping:
                self._due.clear()  # before it asks: a change after that sets it again
                before, document = document, folder.follow(partial(client.call, "get_trust"), document)
                if document == before and not self.stopping:
                    if feed is not None and feed.session != session:
                        session, wait_s = feed.session, _ASK_AGAIN_S
                    self._due.wait(min(wait_s, heartbeat_s))
                    wait_s *= 2
