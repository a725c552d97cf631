"""What a socket is given before it is connected: many that lose one server do not come again at one moment."""

import zmq

from twinhost.secure_zmq.sockets import limit_socket

SOCKETS = 16


def test_sockets_wait_differently_until_they_connect_again() -> None:
    """The first wait is 100 to 150 ms, the longest 1 to 2 s; each socket draws its own."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    waits: list[tuple[int, int]] = []
    try:
        for _ in range(SOCKETS):
            with context.socket(zmq.DEALER) as socket:
                limit_socket(socket, 65_536)
                options = [socket.getsockopt(option) for option in (zmq.RECONNECT_IVL, zmq.RECONNECT_IVL_MAX)]
                waits.append((int(options[0]), int(options[1])))
    finally:
        context.term()
    assert all(100 <= first <= 150 and 1_000 <= longest <= 2_000 for first, longest in waits)
    assert len({first for first, _ in waits}) > SOCKETS // 4
    assert len({longest for _, longest in waits}) > SOCKETS // 2
