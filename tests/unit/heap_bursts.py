"""Print how many bytes a process keeps after bursts of a kind, which is the argument; run by `test_heap`."""

import ctypes
import sys
import threading
from collections.abc import Iterator

from twinhost import heap

BLOCK = 60_000
_libc = ctypes.CDLL(None)
_libc.malloc.restype = ctypes.c_void_p


def take(size: int) -> list[ctypes.c_void_p]:
    """Take memory and write to it."""
    blocks = [ctypes.c_void_p(_libc.malloc(BLOCK)) for _ in range(size // BLOCK)]
    for block in blocks:
        ctypes.memset(block, 1, BLOCK)
    return blocks


def free(blocks: list[ctypes.c_void_p]) -> None:
    for block in blocks:
        _libc.free(block)


def in_turn(tended: heap.Heap) -> Iterator[None]:
    """Three bursts of one size, each between two looks, under something that stays."""
    for number in range(3):
        blocks = take(48 * 2**20)
        take(BLOCK)
        free(blocks)
        tended.on_tick(10.0 * number)
        yield


def in_threads(tended: heap.Heap) -> Iterator[None]:
    """What several threads take at the same time, each as little as glibc keeps by itself."""
    taken = threading.Barrier(6)

    def burst() -> None:
        blocks = take(7 * 2**20)
        taken.wait()
        free(blocks)
        taken.wait()

    threads = [threading.Thread(target=burst) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tended.on_tick(0.0)
    yield


heap.begin()
resident = heap.Resident()
before = resident.bytes
for _ in {"in_turn": in_turn, "in_threads": in_threads}[sys.argv[1]](heap.Heap()):
    print(resident.bytes - before)
