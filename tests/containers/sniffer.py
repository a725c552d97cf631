"""Record the TCP payloads of one port in this network namespace until SIGTERM; runs inside a container.

Usage: python sniffer.py PORT FILE [INTERFACE]. Needs CAP_NET_RAW. FILE grows as packets come, of one or all interfaces.
"""

import signal
import socket
import struct
import sys

ETH_P_ALL = 3
ETH_P_IP = 0x0800
ETH_HEADER_BYTES = 14
IPPROTO_TCP = 6


def tcp_payload(frame: bytes, port: int) -> bytes:
    """Return the TCP payload of an Ethernet frame to or from a port, else nothing."""
    (kind,) = struct.unpack_from("!H", frame, 12)
    if kind != ETH_P_IP:
        return b""
    packet = frame[ETH_HEADER_BYTES:]
    header_bytes = (packet[0] & 0x0F) * 4
    if packet[9] != IPPROTO_TCP:
        return b""
    (total_bytes,) = struct.unpack_from("!H", packet, 2)
    segment = packet[header_bytes:total_bytes]
    if port not in struct.unpack_from("!HH", segment):
        return b""
    return segment[(segment[12] >> 4) * 4 :]


def main(port: int, file: str, interface: str = "") -> None:
    """Write payloads until the process is asked to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as tap, open(file, "wb", 0) as sink:  # noqa: PTH123
        if interface:
            tap.bind((interface, ETH_P_ALL))
        print("listening", flush=True)
        while True:
            sink.write(tcp_payload(tap.recv(65_536), port))


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
