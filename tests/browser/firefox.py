"""Debian's Firefox, driven over WebDriver BiDi: Playwright drives only a Firefox of its own, which it downloads."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from websockets.sync.client import connect
from websockets.sync.connection import Connection

from tests.waiting import wait_until

FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
START_S, ANSWER_S = 120.0, 60.0
_LISTENS = re.compile(r"WebDriver BiDi listening on (ws://\S+)")


class Firefox:
    """One window."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._numbers = count(1)
        self._send("session.new", capabilities={})
        self._context = self._send("browsingContext.getTree")["contexts"][0]["context"]

    def goto(self, url: str) -> None:
        self._send("browsingContext.navigate", context=self._context, url=url, wait="complete")

    def set_viewport_size(self, size: dict[str, int]) -> None:
        self._send("browsingContext.setViewport", context=self._context, viewport=size)

    def evaluate(self, expression: str) -> Any:
        """Return what an expression, or the promise that it is, becomes in the page."""
        answer = self._send(
            "script.evaluate",
            expression=f"(async () => JSON.stringify((await ({expression})) ?? null))()",
            target={"context": self._context},
            awaitPromise=True,
        )
        assert answer["type"] == "success", answer["exceptionDetails"]["text"]
        return json.loads(answer["result"]["value"])

    def run(self, script: str) -> None:
        """Run a whole script in the page."""
        self._send("script.evaluate", expression=script, target={"context": self._context}, awaitPromise=False)

    def _send(self, method: str, **parameters: Any) -> Any:
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (answer := json.loads(self._connection.recv(timeout=ANSWER_S))).get("id") != number:
            pass  # an event
        assert answer["type"] == "success", answer
        return answer["result"]


@contextmanager
def firefox(home: Path, theme: str) -> Iterator[Firefox]:
    """Start Firefox with a new profile below `home`, which asks for this theme, and for no motion."""
    assert FIREFOX is not None
    profile = home / "profile"
    profile.mkdir()
    is_light = int(theme == "light")
    preferences = {"layout.css.prefers-color-scheme.content-override": is_light, "ui.prefersReducedMotion": 1}
    lines = [f'user_pref("{name}", {value});\n' for name, value in preferences.items()]
    (profile / "user.js").write_text("".join(lines), encoding="utf-8")
    command = [FIREFOX, "--headless", "--no-remote", "--profile", str(profile), "--remote-debugging-port", "0"]
    log = home / "log"
    with log.open("w") as file:
        process = subprocess.Popen(command, env={**os.environ, "HOME": str(home)}, stderr=file, stdout=file)
    try:
        listens = wait_until(lambda: _LISTENS.findall(log.read_text(errors="replace")), START_S, "Firefox listens")
        with connect(f"{listens[0]}/session", max_size=None) as connection:
            yield Firefox(connection)
    finally:
        process.terminate()
        process.wait(ANSWER_S)
