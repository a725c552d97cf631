"""What mainpc shows over HTTP, on a real port: the page's files, the state, and the stream of it."""

import gzip
import http.client
import json
import posixpath
import re
import socket
import time
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_ports
from tests.waiting import PATIENCE_S, at_most, wait_until
from twinhost.agent import http as http_limits
from twinhost.agent import telemetry as telemetry_module
from twinhost.agent.http import HttpServer
from twinhost.agent.telemetry import Readers
from twinhost.system_digital_twin.http import page as page_module
from twinhost.system_digital_twin.http.page import MAX_LISTENERS, STATIC, Stream, page_routes
from twinhost.system_digital_twin.http.state import Snapshot

MAX_PAGE_BYTES = 150_000  # the promise, for everything that the page asks for, compressed
MAX_SCRIPT_BYTES = 60_000 - 22_500  # of the scripts without the chart library, which the image has


class Shown:
    """The routes on a port, with a state that a test draws."""

    def __init__(self, assets: Path) -> None:
        self._snapshot, self.readers = Snapshot(0, b"{}"), Readers()
        (self.port,) = free_ports(1)
        self.server = HttpServer(
            self.port, dict, bytes, [*Stream(lambda: self._snapshot, self.readers).routes(), *page_routes(assets)]
        )
        self.server.start()
        self._open: list[http.client.HTTPConnection] = []

    def draw(self, document: dict[str, Any]) -> None:
        self._snapshot = Snapshot(self._snapshot.number + 1, json.dumps(document, separators=(",", ":")).encode())

    def ask(self, path: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        self._open.append(connection)
        connection.request(method, path, headers=headers)
        return connection.getresponse()

    @property
    def connections(self) -> Collection[object]:
        return self.server._server.server_state.connections

    def hang_up(self) -> None:
        while self._open:
            self._open.pop().close()


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    """As the image's build leaves them; the library's text is not looked at."""
    (tmp_path / "schema").mkdir()
    (tmp_path / "uplot.js").write_text("var uPlot;\n")
    (tmp_path / "uplot.css").write_text(".uplot {}\n")
    (tmp_path / "schema/Agent.json").write_text("{}\n")
    (tmp_path / "notes.txt").write_text("not for the page\n")
    return tmp_path


@pytest.fixture
def shown(assets: Path) -> Iterator[Shown]:
    shown = Shown(assets)
    yield shown
    shown.hang_up()
    shown.server.stop()


def next_state(answer: http.client.HTTPResponse) -> Any:
    while (line := answer.readline()) and not line.startswith(b"data: "):
        pass
    assert line, "the stream has ended"
    return json.loads(line.removeprefix(b"data: "))


def events_of(answer: http.client.HTTPResponse) -> Iterator[tuple[str, Any]]:
    """Yield the events of a stream: their names and data."""
    unpacker = zlib.decompressobj(wbits=31) if answer.getheader("Content-Encoding") == "gzip" else None
    text = b""
    while part := answer.read1():
        text += unpacker.decompress(part) if unpacker else part
        *messages, text = text.split(b"\n\n")
        for message in messages:
            if found := re.fullmatch(rb"event: (\w+)\ndata: (.+)", message):
                yield found[1].decode(), json.loads(found[2])


def test_the_page_and_all_it_asks_for_is_there_and_small(shown: Shown) -> None:
    """Every file that the page or a script of it names, and nothing from elsewhere."""
    wanted, seen, size, scripts = ["/"], set[str](), 0, 0
    while wanted:
        path = wanted.pop()
        if path in seen:
            continue
        seen.add(path)
        answer = shown.ask(path, **{"Accept-Encoding": "gzip"})
        packed = answer.read()
        assert answer.status == 200, path
        size += len(packed)
        text = gzip.decompress(packed).decode()
        scripts += len(packed) if path.endswith(".js") else 0
        if path == "/":
            wanted += re.findall(r'(?:src|href)="(/[^"#]+)"', text)
        elif path.endswith(".js"):
            wanted += imported(path, text)
            wanted += [f"/assets/views/{view.stem}.js" for view in (STATIC / "views").glob("*.js")]
        wanted = [path for path in wanted if not path.startswith(("/api", "/metrics"))]
        assert not re.findall(r"https?://(?!www\.w3\.org)", text), f"{path} names another site"
    assert {"/assets/app.js", "/assets/style.css", "/assets/uplot.js"} <= seen
    assert size < MAX_PAGE_BYTES
    assert scripts < MAX_SCRIPT_BYTES


def test_only_what_a_script_does_is_sent(shown: Shown) -> None:
    """Neither comments nor what lines begin with; so no text of a script may have several lines."""
    for path in STATIC.rglob("*.js"):
        sent = shown.ask(f"/assets/{path.relative_to(STATIC)}").read().decode()
        assert not re.search(r"^\s|^//|/\*\*", sent, re.MULTILINE), path
        assert all(line.count("`") % 2 == 0 for line in sent.splitlines()), path


def imported(path: str, text: str) -> list[str]:
    """Return the addresses of what a script imports."""
    return [posixpath.normpath(f"{posixpath.dirname(path)}/{name}") for name in re.findall(r'from "(\.[^"]+)"', text)]


def test_what_the_first_page_needs_is_asked_for_at_once(shown: Shown) -> None:
    """The page names every script of the overview: a browser that found them one in another would paint late."""
    preloaded = re.findall(r'rel="modulepreload" href="([^"]+)"', shown.ask("/").read().decode())
    needed, wanted = set[str](), ["/assets/app.js", "/assets/views/overview.js"]
    while wanted:
        path = wanted.pop()
        needed.add(path)
        wanted += set(imported(path, shown.ask(path).read().decode())) - needed
    assert sorted(preloaded) == sorted(needed - {"/assets/app.js"})


def test_every_view_is_one_that_an_address_can_name(shown: Shown) -> None:
    """The router knows the views that there are, and none besides."""
    (listed,) = re.findall(r"const VIEWS = (\[.+?\]);", shown.ask("/assets/router.js").read().decode())
    assert sorted(json.loads(listed)) == sorted(path.stem for path in (STATIC / "views").glob("*.js"))


def test_the_pages_policy_allows_only_its_own_files(shown: Shown) -> None:
    """The policy is strict, and the page keeps to it."""
    answer = shown.ask("/")
    text = answer.read().decode()
    policy = dict(part.strip().split(" ", 1) for part in (answer.getheader("Content-Security-Policy") or "").split(";"))
    assert policy["default-src"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert {policy[name] for name in ("base-uri", "form-action", "frame-ancestors")} == {"'none'"}
    assert "unsafe" not in str(policy)
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=", text)
    scripts = "".join(path.read_text() for path in STATIC.rglob("*.js"))
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", scripts)


def test_a_file_is_not_sent_twice(shown: Shown) -> None:
    """A browser that has it gets the status that says so."""
    tag = shown.ask("/assets/app.js").getheader("ETag")
    assert tag
    again = shown.ask("/assets/app.js", **{"If-None-Match": tag})
    assert (again.status, again.read()) == (304, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/assets/notes.txt",
        "/assets/../page.py",
        "/assets/%2e%2e/page.py",
        "/assets/",
        "/assets/views/x.js",
        "/static/app.js",
        "/x",
    ],
)
def test_no_other_file_is_reached(shown: Shown, path: str) -> None:
    """Files are a fixed list; a path is never one of the disk."""
    assert shown.ask(path).status == 404


@pytest.mark.parametrize("path", ["/", "/api/state", "/api/stream", "/api/schema", "/assets/app.js"])
def test_nothing_can_be_written(shown: Shown, path: str) -> None:
    """Read-only."""
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert shown.ask(path, method).status == 405


def test_the_schemas_are_listed(shown: Shown) -> None:
    """By agent, with where each is."""
    listed = json.loads(shown.ask("/api/schema").read())
    assert listed == {"Agent": "/api/schema/Agent.json"}
    assert json.loads(shown.ask(listed["Agent"]).read()) == {}


def test_the_state_is_the_newest(shown: Shown) -> None:
    """And the stream begins with it, and goes on with each one after that."""
    shown.draw({"n": 1})
    answer = shown.ask("/api/state")
    assert (json.loads(answer.read()), answer.getheader("Cache-Control")) == ({"n": 1}, "no-store")
    stream = shown.ask("/api/stream")
    assert stream.getheader("Content-Type", "").startswith("text/event-stream")
    assert next_state(stream) == {"n": 1}
    with at_most(1.0):
        shown.draw({"n": 2})
        assert next_state(stream) == {"n": 2}


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_a_page_is_sent_only_what_changed(shown: Shown, encoding: str) -> None:
    """The first is whole; each message can be read when it comes, also from a compressed stream."""
    agents = [{"name": f"agent-{number}", "seen": 0} for number in range(300)]
    shown.draw({"n": 1, "agents": agents})
    stream = shown.ask("/api/stream?changes", **{"Accept-Encoding": encoding})
    assert stream.getheader("Content-Encoding", "identity") == encoding
    events = events_of(stream)
    assert next(events) == ("state", {"n": 1, "agents": agents})
    agents[7]["seen"] = 1
    for number, change in ((2, {"n": [2], "agents": {"at": {"7": {"seen": [1]}}}}), (3, {"n": [3]}), (3, {})):
        shown.draw({"n": number, "agents": agents})
        assert next(events) == ("change", change)


def test_two_pages_are_sent_each_what_it_lacks(shown: Shown) -> None:
    """One that comes later begins with the whole, and both go on from there."""
    shown.draw({"n": 1})
    first = events_of(shown.ask("/api/stream?changes"))
    assert next(first) == ("state", {"n": 1})
    shown.draw({"n": 2})
    assert next(first) == ("change", {"n": [2]})
    second = events_of(shown.ask("/api/stream?changes"))
    assert next(second) == ("state", {"n": 2})
    shown.draw({"m": 3})
    assert [next(first), next(second)] == [("change", {"n": [], "m": [3]})] * 2


@pytest.mark.parametrize("path", ["/api/state", "/api/stream"])
def test_who_reads_first_gets_a_new_state(shown: Shown, path: str) -> None:
    """While nobody reads, none is made."""
    shown.draw({"n": "old"})
    shown.readers.request_tick = lambda: shown.readers.collect(lambda: shown.draw({"n": "new"}))
    answer = shown.ask(path)
    assert (json.loads(answer.read()) if path == "/api/state" else next_state(answer)) == {"n": "new"}


def test_a_stream_keeps_its_state_new(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as it is read, the server makes a state every second, and for some seconds after that."""
    monkeypatch.setattr(telemetry_module, "COLLECT_EVERY_S", 0.0)
    monkeypatch.setattr(telemetry_module, "_READ_WITHIN_S", 1.0)
    made: list[float] = []
    stream = shown.ask("/api/stream")
    until = time.monotonic() + 4.0
    while time.monotonic() < until:
        shown.readers.collect(lambda: made.append(time.monotonic()))
        time.sleep(0.01)
        if len(made) > 1 and made[-1] > until - 2.5:
            stream.close()
            shown.hang_up()
    assert until - 2.5 < made[-1] < until - 0.1


def test_a_stream_goes_on_past_the_deadline_of_other_answers(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as its client reads; comments keep it from being taken for dead."""
    monkeypatch.setattr(http_limits, "ANSWER_DEADLINE_S", 1.0)
    monkeypatch.setattr(page_module, "KEEP_ALIVE_S", 0.4)
    shown.draw({"n": 1})
    stream = shown.ask("/api/stream")
    assert next_state(stream) == {"n": 1}
    comments, until = 0, time.monotonic() + 2.5
    while time.monotonic() < until:
        comments += stream.readline() == b": keep-alive\n"
    assert comments >= 3
    shown.draw({"n": 2})
    assert next_state(stream) == {"n": 2}


def test_a_slow_listener_is_dropped_and_harms_nobody(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its buffer is bounded, and its place is free again.

    The reader's deadline is out of reach: on a busy machine it may be looked at while a part of a state is on its way
    to it, and whoever is looked at just then counts as one that does not read.
    """
    shown.draw({"n": 1})
    monkeypatch.setattr(http_limits, "ANSWER_DEADLINE_S", 10 * PATIENCE_S)
    reader = shown.ask("/api/stream")
    assert next_state(reader) == {"n": 1}
    monkeypatch.setattr(http_limits, "ANSWER_DEADLINE_S", 2.0)
    with socket.create_connection(("127.0.0.1", shown.port)) as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        lazy.sendall(b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until(lambda: len(shown.connections) == 2, PATIENCE_S, "both are there")

        def is_dropped() -> bool:
            shown.draw({"x": "x" * 1_000_000, "at": time.monotonic()})
            assert next_state(reader)["x"]
            return len(shown.connections) == 1

        wait_until(is_dropped, PATIENCE_S, "the one that does not read is dropped")


def test_listeners_are_so_many_and_the_rest_still_get_in(shown: Shown) -> None:
    """One more gets an error, and the state is answered all the same; a client that leaves makes room."""
    shown.draw({"n": 1})
    streams = [shown.ask("/api/stream") for _ in range(MAX_LISTENERS)]
    assert [next_state(stream) for stream in streams] == [{"n": 1}] * MAX_LISTENERS
    assert shown.ask("/api/stream").status == 503
    assert shown.ask("/api/state").status == 200
    shown.hang_up()
    wait_until(lambda: shown.ask("/api/stream").status == 200, PATIENCE_S, "there is room again")
