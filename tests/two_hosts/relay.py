"""Forward TCP ports until SIGTERM, every byte after a delay: python relay.py ADDRESS SECONDS PORT=HOST:PORT…

A connection that either end breaks is broken at the other end too.
"""

import asyncio
import contextlib
import signal
import sys

CHUNK_BYTES = 65_536


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    """Send on what is read, in order, each piece a delay after it came."""
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def send() -> None:
        while True:
            due, piece = await pieces.get()
            await asyncio.sleep(due - loop.time())
            if not piece:
                break
            writer.write(piece)
            await writer.drain()
        writer.close()

    sending = asyncio.create_task(send())
    try:
        while piece := await reader.read(CHUNK_BYTES):
            pieces.put_nowait((loop.time() + delay_s, piece))
    except OSError:
        pass  # reset: the other end is reset the same way
    pieces.put_nowait((loop.time() + delay_s, b""))
    await asyncio.gather(sending, return_exceptions=True)


async def main(address: str, delay_s: float, routes: list[str]) -> None:
    """Listen on every port."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    servers = []
    for route in routes:
        port, target = route.split("=")
        host, target_port = target.split(":")

        async def accept(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str = host, port: str = target_port
        ) -> None:
            try:
                there, back = await asyncio.open_connection(host, int(port))
            except OSError:
                writer.close()
                return
            with contextlib.suppress(asyncio.CancelledError):  # the relay ends
                await asyncio.gather(carry(reader, back, delay_s), carry(there, writer, delay_s))

        servers.append(await asyncio.start_server(accept, address, int(port)))
    print("listening", flush=True)
    await stop.wait()
    for server in servers:
        server.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), sys.argv[3:]))
