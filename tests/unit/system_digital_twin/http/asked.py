"""A twin that answers over HTTP as its server's loop does."""

import threading
from typing import Any

from starlette.applications import Starlette
from starlette.testclient import TestClient

from tests.unit.system_digital_twin.http.test_state import Twin


class Asked(Twin):
    """A twin that answers over HTTP as its server's loop does."""

    def client(self) -> TestClient:
        """Return a client of the routes."""
        return TestClient(Starlette(routes=self.assembly.routes))

    def get(self, path: str, /, **query: Any) -> Any:
        """Return the answer to a request."""
        self.telemetry.readers.request_tick = lambda: None
        self.assembly.on_tick()  # what is due is stored; the next turn begins with the question
        client = self.client()
        answers: list[Any] = []
        asking = threading.Thread(target=lambda: answers.append(client.get(path, params=query)))
        asking.start()
        while asking.is_alive():
            self.assembly.on_tick()
            asking.join(0.01)
        return answers[0]
