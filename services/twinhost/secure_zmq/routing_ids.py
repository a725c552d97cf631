"""Unpredictable automatic routing-ids, seeded when this module is imported.

libzmq 4.3.5 numbers the peers of a ROUTER or REP from a value of libc's `rand()`, which no one seeds: every process
starts with the same one. A peer that has chosen such a number as its own routing-id makes the connection that gets it
next fail an assertion (socket_base.cpp, `zmq_assert (ok)`), and the process aborts. The package imports this module
first, so that no socket is older than the seed.
"""

import ctypes
import os

if os.name == "posix":  # elsewhere libc is not the process's own namespace
    ctypes.CDLL(None).srand(int.from_bytes(os.urandom(4)))
