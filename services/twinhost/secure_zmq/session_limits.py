"""How many connections each key may have, over all the sockets that one ZAP handler answers for.

libzmq names a key's connection nowhere: ZAP's question has the key and an address, an accepted connection has its
descriptor and an address, and a message has all three. So a key that was accepted is placed on a connection in two
steps. When a connection from that address has ended its handshake, the oldest acceptance from there is placed on it;
that may confuse keys that connect from one address at one time, so the first message of a connection, which proves its
key, corrects it. The number for each key is right in either case, and that is what the limit is about.
"""

import threading
from collections import Counter, defaultdict, deque
from dataclasses import dataclass

from twinhost.secure_zmq.descriptors import bare_address, held, most_open_files, remote

Place = tuple[int, int]  # a socket's number, and a descriptor: each socket has a monitor, and they are not in step

SESSIONS_PER_KEY = 64
MAX_PENDING = 4_096  # connections of one socket in their handshake, where there are descriptors for them
_PENDING_SHARE = 8  # at most one of so many descriptors is for such a connection
_OWN_FILES = 128  # that an agent has open beside its connections
_SOCKETS = 2  # that accept: requests, and the feed
_LATE = 256  # acceptances whose connection seemed to have ended; beyond it the oldest is forgotten


def most_pending() -> int:
    """Return how many connections of one socket may be in their handshake at a time."""
    return min(MAX_PENDING, max(1, most_open_files() // _PENDING_SHARE))


@dataclass(slots=True)
class _Connection:
    address: str
    fingerprint: str | None = None
    proven: bool = False  # by a message
    announced: bool = False  # by the monitor, which may be later than the first message


class SessionLimits:
    """Counts by fingerprint; used by the ZAP handler, the monitors, the guards, and the sockets' own threads."""

    def __init__(self, per_key: int = SESSIONS_PER_KEY) -> None:
        """Count from nothing.

        Args:
            per_key: the most connections of one key.
        """
        open_files = most_open_files()
        self.per_key = per_key
        self.total = max(1, open_files - _SOCKETS * most_pending() - open_files // 16 - _OWN_FILES)
        self._lock = threading.Lock()
        self._connections: dict[Place, _Connection] = {}
        self._unplaced: dict[str, deque[str]] = defaultdict(deque)  # fingerprints by address, the oldest first
        self._late: deque[tuple[str, str]] = deque(maxlen=_LATE)
        self._counts: Counter[str] = Counter()
        self._sum = 0  # of the counts

    def admit(self, fingerprint: str, address: str) -> bool:
        """Count a key that asks at the handshake; return False where it, or all keys together, have enough."""
        with self._lock:
            if self._is_full(fingerprint):
                self._drop_ended(fingerprint)
                if self._is_full(fingerprint):
                    return False
            self._count(fingerprint, 1)
            self._unplaced[bare_address(address)].append(fingerprint)
            return True

    def count(self, fingerprint: str) -> int:
        """Return how many connections a key has."""
        with self._lock:
            return self._counts[fingerprint]

    def opened(self, place: Place, address: str) -> None:
        """Note an accepted connection, whose handshake is to come."""
        with self._lock:
            known = self._connections.get(place)
            if known is not None and not known.announced:
                known.announced = True
                return
            self._end(place)
            self._connections[place] = _Connection(bare_address(address), announced=True)

    def finished(self, place: Place) -> None:
        """Note that a connection's handshake is over."""
        with self._lock:
            connection = self._connections.get(place)
            if connection is not None and connection.fingerprint is None:
                connection.fingerprint = self._oldest_at(connection.address)

    def proven(self, place: Place, address: str, fingerprint: str) -> None:
        """Note whose a connection is, by its message."""
        with self._lock:
            connection = self._connections.setdefault(place, _Connection(bare_address(address)))
            connection.proven, assumed = True, connection.fingerprint
            if assumed == fingerprint:
                return
            connection.fingerprint = fingerprint
            if assumed is None and not self._take(connection.address, fingerprint):
                self._count(fingerprint, 1)
            elif assumed is not None:
                self._exchange(connection.address, fingerprint, assumed)

    def ended(self, place: Place) -> None:
        """Note that a connection has gone."""
        with self._lock:
            self._end(place)

    def _is_full(self, fingerprint: str) -> bool:
        return self._counts[fingerprint] >= self.per_key or self._sum >= self.total

    def _drop_ended(self, fingerprint: str) -> None:
        """Look at a key's connections before it is refused one more: not every end is reported, nor at once."""
        mine = [place for place, connection in self._connections.items() if connection.fingerprint == fingerprint]
        for place in mine:
            with held(place[1]) as found:
                gone = found is None or remote(found) is None
            if gone:
                self._end(place)
        for address in tuple(self._unplaced):
            self._trim(address)

    def _oldest_at(self, address: str) -> str | None:
        if waiting := self._unplaced.get(address):
            return waiting.popleft()
        for late in self._late:
            if late[0] == address:
                self._late.remove(late)
                self._count(late[1], 1)
                return late[1]
        return None

    def _take(self, address: str, fingerprint: str) -> bool:
        waiting = self._unplaced.get(address, ())
        if fingerprint not in waiting:
            return False
        self._unplaced[address].remove(fingerprint)
        return True

    def _exchange(self, address: str, proven: str, assumed: str) -> None:
        """Give the key that was assumed to whichever connection or acceptance the proven one was assumed for."""
        for other in self._connections.values():
            if other.address == address and other.fingerprint == proven and not other.proven:
                other.fingerprint = assumed
                return
        if self._take(address, proven):
            self._unplaced[address].append(assumed)
            return
        self._count(assumed, -1)
        self._count(proven, 1)

    def _end(self, place: Place) -> None:
        connection = self._connections.pop(place, None)
        if connection is None:
            return
        if connection.fingerprint is not None:
            self._count(connection.fingerprint, -1)
        # Whose address is not known was gone before its connection was seen.
        for address in (connection.address,) if connection.address else tuple(self._unplaced):
            self._trim(address)

    def _trim(self, address: str) -> None:
        """Forget acceptances beyond the connections that they can be for: those ended before they were placed."""
        waiting = self._unplaced.get(address)
        if waiting is None:
            return
        without = sum(each.address == address and each.fingerprint is None for each in self._connections.values())
        while len(waiting) > without:
            fingerprint = waiting.popleft()
            self._count(fingerprint, -1)
            self._late.append((address, fingerprint))
        if not waiting:
            del self._unplaced[address]

    def _count(self, fingerprint: str, more: int) -> None:
        self._counts[fingerprint] += more
        self._sum += more
        if not self._counts[fingerprint]:
            del self._counts[fingerprint]
