"""Somebody on the way: a TCP relay that records both directions, repeats frames, and flips a bit."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Self

from twinhost.adversary.zmtp import GREETING_BYTES, Frame, split_frames, whole_frame

_CHUNK = 65_536
_ANSWER_BYTES = 64  # a reply is longer, heartbeats on CURVE are shorter


class Conversation:
    """One connection through the relay, from the client (`up`) to the agent and back (`down`)."""

    def __init__(self, client: socket.socket, agent: socket.socket) -> None:
        self.up, self.down = bytearray(), bytearray()
        self.over = threading.Event()  # the agent ended it
        self.flip_next = False
        self._client, self._agent = client, agent
        self._lock = threading.Lock()

    def start(self) -> None:
        threading.Thread(target=self._pump_up, name="relay-up", daemon=True).start()
        threading.Thread(target=self._pump_down, name="relay-down", daemon=True).start()

    def requests(self) -> list[bytes]:
        """Return the bytes of the frames that held requests, in order."""
        frames: list[bytes] = []
        stream = bytes(self.up[GREETING_BYTES:])
        while (size := whole_frame(stream)) is not None:
            if any(map(is_message, split_frames(stream[:size]))):
                frames.append(stream[:size])
            stream = stream[size:]
        return frames

    def answers_after(self, mark: int) -> int:
        """Return how many replies came down after so many bytes had."""
        return sum(map(is_message, split_frames(bytes(self.down[mark:]))))

    def inject(self, content: bytes) -> None:
        """Say something to the agent in the client's place."""
        with contextlib.suppress(OSError), self._lock:
            self._agent.sendall(content)

    def wait_until(self, condition: Callable[[], bool], within_s: float) -> bool:
        """Return whether something came true in time."""
        deadline = time.monotonic() + within_s
        while not condition():
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)
        return True

    def close(self) -> None:
        for end in (self._client, self._agent):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _pump_up(self) -> None:
        pending = b""
        with contextlib.suppress(OSError):
            while part := self._client.recv(_CHUNK):
                greeting_left = max(0, GREETING_BYTES - len(self.up))
                self._forward(part[:greeting_left])  # at once: either side waits for the other's
                pending += part[greeting_left:]
                while (size := whole_frame(pending)) is not None:
                    self._forward(self._tampered(pending[:size]))
                    pending = pending[size:]
        self.close()

    def _forward(self, content: bytes) -> None:
        with self._lock:
            self.up += content
            self._agent.sendall(content)

    def _tampered(self, frame: bytes) -> bytes:
        if not self.flip_next or not any(map(is_message, split_frames(frame))):
            return frame
        self.flip_next = False
        return frame[:-1] + bytes([frame[-1] ^ 1])

    def _pump_down(self) -> None:
        with contextlib.suppress(OSError):
            while part := self._agent.recv(_CHUNK):
                self.down += part
                self._client.sendall(part)
        self.over.set()
        self.close()


class Relay:
    """Listens on loopback for clients of one agent; ends with its `with`."""

    def __init__(self, host: str, port: int) -> None:
        self.conversations: list[Conversation] = []
        self._to = host, port
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, name="relay", daemon=True).start()

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for conversation in self.conversations:
            conversation.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    agent = socket.create_connection(self._to, timeout=5)
                except OSError:
                    client.close()
                    continue
                agent.settimeout(None)
                conversation = Conversation(client, agent)
                self.conversations.append(conversation)
                conversation.start()


def is_message(frame: Frame) -> bool:
    """Whether a frame holds a request or a reply: no command of the handshake, no heartbeat."""
    return not frame.command and len(frame.body) > _ANSWER_BYTES
