"""Mutated recordings on the ports of two mainpcs, one with CURVE and one without, while legitimate clients are served.

What is mutated inside a CURVE session too is sent by a peer with an authorised key, who seals what libzmq never would.
"""

import contextlib
import hashlib
import logging
import random
import selectors
import socket
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil
import structlog

from tests.benchmarks.agent_fleet import raise_file_limit
from tests.fuzzing.account import MOST_GROWTH_MB, Report, hash_of
from tests.fuzzing.decoders import requests_corpus
from tests.fuzzing.mutation import Mutator
from tests.fuzzing.recording import record
from tests.loopback.agent_processes import SDT, UMRA, AgentProcess, Hosts
from twinhost.adversary.clients import CurveClient, Refused
from twinhost.adversary.zmtp import Disconnected, NoAnswer, RawConnection
from twinhost.secure_zmq.errors import TwinhostError
from twinhost.secure_zmq.server_address import SecuredAddress

SERVED_WITHIN_S = 2.0  # the deadline of a legitimate client, during the whole run
ENDED_WITHIN_S = 10.0  # a connection whose other side has said its last
_AT_ONCE = 48
_SEALED_SHARE = 10  # one input in so many is sent sealed, within a session
_IN_ONE_SESSION = 25
_LOOK_EVERY_S = 0.05
_RESET = struct.pack("=ii", 1, 0)


class Fault(Exception):
    """An agent ended, did not serve, kept a connection, wrote a traceback, or grew."""


def fuzz(root: Path, inputs: int, seed: int) -> Report:
    """Send so many inputs.

    Raises:
        Fault: the first thing that must not be.
    """
    raise_file_limit()
    began = time.monotonic()
    with ExitStack() as stack:
        stack.callback(structlog.configure, **structlog.get_config())
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        sides = []
        for secure in (True, False):
            home = root / ("curve" if secure else "null")
            home.mkdir()
            sides.append(stack.enter_context(_Side(home, seed, secure=secure)))
        for share in (inputs // 4, inputs - inputs // 4):  # the first quarter fills caches
            for side in sides:
                side.send(share // 2 + (share % 2 and side.secure))
            if share == inputs // 4:
                for side in sides:
                    side.settle()
        grown = [side.finish() for side in sides]
        digest = hashlib.sha256(b"".join(side.digest.digest() for side in sides)).hexdigest()
        corpus = hash_of([content for side in sides for content in side.recorded])
        slowest = max(side.slowest_s for side in sides)
        count = sum(side.count for side in sides)
    seconds = round(time.monotonic() - began, 1)
    engine = "mutated recordings, NULL and CURVE"
    return Report(
        "raw port", engine, seed, count, corpus, digest, round(1_000 * slowest, 1), round(max(grown), 1), seconds
    )


class _Side:
    """One mainpc, its recordings, and a legitimate client that never stops."""

    def __init__(self, root: Path, seed: int, *, secure: bool) -> None:
        self.secure = secure
        self.count = 0
        self.slowest_s = 0.0  # from a connection's last byte to its end
        self.digest = hashlib.sha256()
        self._stack = ExitStack()
        self._hosts = self._stack.enter_context(Hosts(root, secure=secure))
        self._agent: AgentProcess = self._hosts.start(SDT).wait_until_serving()
        self._memory = psutil.Process(self._agent.pid)
        self.recorded = record(self._hosts)
        self._mutator = Mutator(seed, self.recorded)
        self._inner = Mutator(seed, [b"\0" + content for content in requests_corpus()])
        self._chance = random.Random(seed)
        agent = self._hosts.config.agent(SDT)
        assert agent.events_port is not None
        self._ports = (agent.zmq_port, agent.zmq_port, agent.zmq_port, agent.events_port)
        self._settled = self._usage()
        self._stopping, self._complaints = threading.Event(), list[str]()
        self._good = threading.Thread(target=self._call_all_along, daemon=True)
        self._good.start()

    def send(self, inputs: int) -> None:
        sealed = inputs // _SEALED_SHARE if self.secure else 0
        self._send_recordings(inputs - sealed)
        while sealed > 0:
            self._send_sealed(min(sealed, _IN_ONE_SESSION))
            sealed -= _IN_ONE_SESSION
        self._check()

    def settle(self) -> None:
        """Take what the agent holds now as what it needs."""
        self._settled = self._usage()

    def finish(self) -> float:
        """Return by how many MB the agent has grown since it settled.

        Raises:
            Fault: by too much, or it kept descriptors.
        """
        until = time.monotonic() + ENDED_WITHIN_S
        while self._usage()[1] > self._settled[1] + _AT_ONCE and time.monotonic() < until:
            time.sleep(_LOOK_EVERY_S)
        self._stopping.set()
        self._good.join()
        self._check()
        memory, files = self._usage()
        if files > self._settled[1] + _AT_ONCE:
            raise Fault(f"it has {files} open files, and had {self._settled[1]}")
        if memory - self._settled[0] > MOST_GROWTH_MB:
            raise Fault(f"its memory grew from {self._settled[0]:.0f} to {memory:.0f} MB")
        return memory - self._settled[0]

    def __enter__(self) -> "_Side":
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._good.join()
        self._stack.close()

    def _send_recordings(self, inputs: int) -> None:
        with selectors.DefaultSelector() as selector:
            begun = 0
            while begun < inputs or selector.get_map():
                while begun < inputs and len(selector.get_map()) < _AT_ONCE:
                    begun += self._begin(selector)
                for key, _ in selector.select(_LOOK_EVERY_S):
                    line = key.fileobj
                    assert isinstance(line, socket.socket)
                    if self._ended(line):
                        self._over(selector, line, time.monotonic() - key.data[1])
                self._require_ends(selector)

    def _begin(self, selector: selectors.BaseSelector) -> int:
        content = self._input(self._mutator)
        try:
            line = socket.create_connection(("127.0.0.1", self._chance.choice(self._ports)), timeout=ENDED_WITHIN_S)
        except (BrokenPipeError, ConnectionResetError):  # it was accepted, and ended before this was noticed
            return 1
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        with contextlib.suppress(OSError):  # it may hang up before all of it is sent
            line.sendall(content)
            line.shutdown(socket.SHUT_WR)
        line.settimeout(0)
        selector.register(line, selectors.EVENT_READ, (content, time.monotonic()))
        return 1

    def _over(self, selector: selectors.BaseSelector, line: socket.socket, took_s: float) -> None:
        selector.unregister(line)
        line.close()
        self.slowest_s = max(self.slowest_s, took_s)

    def _require_ends(self, selector: selectors.BaseSelector) -> None:
        self._check()
        for key in tuple(selector.get_map().values()):
            content, asked = key.data
            if time.monotonic() > asked + ENDED_WITHIN_S:
                raise Fault(
                    f"a connection is open {ENDED_WITHIN_S:g} s after its other side's end; it said {content!r}"
                )

    @staticmethod
    def _ended(line: socket.socket) -> bool:
        try:
            while line.recv(65_536):
                pass
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def _send_sealed(self, inputs: int) -> None:
        """Send mutated requests, flags and all, within sessions of a peer with an authorised key.

        None is empty: after an encrypted frame without content libzmq 4.3.5 neither reads its connection nor closes it,
        and a key may have 64 connections (docs/explanation/threat-model.md).
        """
        server = self._hosts.address(SDT, UMRA)
        assert isinstance(server, SecuredAddress)
        left = inputs
        while left > 0:
            line = RawConnection("127.0.0.1", self._ports[0])
            with CurveClient(line, server.own_keys, server.server_key, {"Socket-Type": b"DEALER"}) as peer:
                try:
                    peer.handshake()
                except (Disconnected, NoAnswer, Refused) as error:
                    raise Fault(f"a peer with an authorised key was not let in: {error}") from None
                with contextlib.suppress(Disconnected, NoAnswer):
                    while left > 0:
                        left -= 1
                        line.send(peer.sealed(self._input(self._inner) or b"\0"))
                        if line.ended():
                            break

    def _input(self, mutator: Mutator) -> bytes:
        content = mutator.next()
        self.digest.update(len(content).to_bytes(4, "big") + content)
        self.count += 1
        return content

    def _call_all_along(self) -> None:
        with self._hosts.client(SDT) as client:
            while not self._stopping.wait(_LOOK_EVERY_S):
                try:
                    client.call("ping", deadline_s=SERVED_WITHIN_S)
                except TwinhostError as error:
                    self._complaints.append(f"a legitimate client was not served: {type(error).__name__}: {error}")
                    return

    def _check(self) -> None:
        complaints: Sequence[str] = self._complaints
        if not self._agent.running:
            raise Fault(f"the agent ended: {self._agent.lines[-5:]}")
        if complaints:
            raise Fault(complaints[0])
        if traces := [line for line in self._agent.lines if '"exception"' in line or "Traceback" in line]:
            raise Fault(f"the agent wrote a traceback: {traces[0]}")

    def _usage(self) -> tuple[float, int]:
        return self._memory.memory_info().rss / 2**20, self._memory.num_fds()
