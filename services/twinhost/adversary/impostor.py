"""An agent that is none: it listens on loopback, greets without CURVE, and writes down what a client tells it."""

import contextlib
import secrets
import socket
import threading

from twinhost.adversary.attack import Attack, Outcome, broken, held
from twinhost.adversary.target import GOOD_CALL_S, Target
from twinhost.adversary.zmtp import COMMAND, READY, encode_frame, greeting, metadata
from twinhost.secure_zmq.errors import SecurityMismatch, TwinhostError


class _Impostor:
    """Takes anybody, and says what a ROUTER on an open link says."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, name="impostor", daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._listen, args=(connection,), name="impostor", daemon=True).start()

    def _listen(self, connection: socket.socket) -> None:
        ready = READY + metadata({"Socket-Type": b"ROUTER", "Identity": b""})
        with contextlib.suppress(OSError), connection:
            connection.settimeout(2 * GOOD_CALL_S)
            connection.sendall(greeting(b"NULL") + encode_frame(ready, COMMAND))
            while part := connection.recv(65_536):
                self.heard += part


def _impostor(target: Target) -> Outcome:
    marker = secrets.token_hex(16)
    impostor = _Impostor()
    try:
        with target.client(impostor.address) as client:
            client.call("ping", deadline_s=GOOD_CALL_S, note=marker)
    except TwinhostError as error:
        refusal = error
    else:
        return broken("an impostor without a key was asked, and believed")
    finally:
        impostor.close()
    if marker.encode() in bytes(impostor.heard):
        return broken("an impostor without a key was told the whole request")
    if not isinstance(refusal, SecurityMismatch):
        return broken(f"it was told nothing, but the client does not say why: {refusal}")
    return held("the client of this host told it nothing, and said that it is not encrypted")


ATTACKS = (Attack("impostor without CURVE", "a client of ours talks to no agent in the open", _impostor),)
