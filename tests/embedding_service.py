"""A real HTTP server on loopback that speaks `/v1/embeddings`; a function makes the vectors."""

import json
import re
import threading
import zlib
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

DIMENSIONS = 256
SAME = ({"car", "automobile", "kotse"}, {"physician", "doctor", "manggagamot"}, {"purchased", "bought", "binili"})

Vectors = Callable[[Sequence[str]], Sequence[Sequence[float]]]


def of_concepts(texts: Sequence[str]) -> list[list[float]]:
    """Return for each text how often it has each concept: a group of words that mean the same, or any other word."""
    vectors = []
    for text in texts:
        vector = [0.01] * DIMENSIONS
        for word in re.findall(r"\w+", text.lower()):
            concept = next((min(group) for group in SAME if word in group), word)
            vector[zlib.crc32(concept.encode()) % DIMENSIONS] += 1.0
        vectors.append(vector)
    return vectors


class EmbeddingService(ThreadingHTTPServer):
    """Serves while it is entered. `delay_s` and `status` may be set at any time; `asked` has the requests' bodies."""

    daemon_threads = True

    def __init__(self, vectors: Vectors = of_concepts, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.vectors = vectors
        self.delay_s = 0.0
        self.delay_query_s = 0.0  # of a single text
        self.status = 200
        self.refuses = ""  # texts with this are answered with `refusal`
        self.refusal = 400
        self.asked: list[dict[str, Any]] = []
        self.headers_of: list[dict[str, str]] = []
        self.ending = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1/embeddings"

    def texts(self) -> list[str]:
        return [text for body in self.asked for text in body["input"]]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.ending.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: EmbeddingService

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        self.server.headers_of.append(dict(self.headers))
        texts: list[str] = body["input"]
        self.server.ending.wait(self.server.delay_s + (self.server.delay_query_s if len(texts) == 1 else 0.0))
        refused = bool(self.server.refuses) and any(self.server.refuses in text for text in texts)
        status = self.server.refusal if refused else self.server.status
        data = [
            {"object": "embedding", "index": index, "embedding": [float(value) for value in vector]}
            for index, vector in enumerate(self.server.vectors(texts) if status == 200 else [])
        ]
        reply = json.dumps({"object": "list", "model": body["model"], "data": data}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        try:
            self.wfile.write(reply)
        except OSError:  # the client's deadline has passed
            return

    def log_message(self, *_: object) -> None:
        """Say nothing."""
