"""The scripts under the documented names: thin, and as strict as what they lead to."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.configuration import GRANTS_LINE, RECALL_LINE
from tests.ports import free_ports
from tests.unit.cli.loopback_agents import PAYLOAD_BYTES, UMRA, TwoHosts
from tests.unit.cli.running import Ran
from twinhost.secure_zmq.keys import load_certificate

pytestmark = pytest.mark.thorough

REPOSITORY = Path(__file__).resolve().parents[3]
NO_PLUGINS = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # of the tests' own pytest runs: each takes time to import


def run_script(name: str, *arguments: str, **settings: str) -> Ran:
    """Run a script of scripts/ as a checkout does: by path, from somewhere else, with no PYTHONPATH."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "SECURE_ZMQ")}
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts" / name), *arguments],
        cwd="/",
        env={**environment, **NO_PLUGINS, **settings},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def json_documents(text: str) -> list[dict[str, object]]:
    """Return the JSON documents that follow one another in a text."""
    documents, rest, decoder = [], text.strip(), json.JSONDecoder()
    while rest:
        document, end = decoder.raw_decode(rest)
        documents.append(document)
        rest = rest[end:].strip()
    return documents


def port_of(hosts: TwoHosts) -> tuple[str, ...]:
    return ("--host", "127.0.0.1", "--port", str(hosts.mainpc.port))


def test_a_usage_error_names_what_the_script_has() -> None:
    """The client has no commands."""
    ran = run_script("secure_sdt_client.py", "--port", "x")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.splitlines()[0] == "usage: secure_sdt_client [OPTIONS], see secure_sdt_client --help"


def test_the_client_pings_and_registers(hosts: TwoHosts) -> None:
    """With --secure it proves who it is, and mainpc records that."""
    folder = str(hosts.folders["operator"])
    words = ("--secure", *port_of(hosts), "--certificates", folder, "--register", "--agent-name", "Documented")
    ran = run_script("secure_sdt_client.py", *words)
    assert (ran.status, ran.err) == (0, "")
    pong, registered = json_documents(ran.out)
    assert (pong["message"], registered["message"]) == ("pong", "agent Documented registered")
    with hosts.client("operator") as client:
        info = client.call("get_agent_info", agent_name="Documented")["agent_info"]
    assert info["registered_by"] == "operator"


def test_the_client_registers_only_if_asked_to(hosts: TwoHosts) -> None:
    """Without --register it is a ping; the folder of keys may come from the environment."""
    folder = str(hosts.folders["operator"])
    ran = run_script("secure_sdt_client.py", "--secure", *port_of(hosts), TWINHOST_CERTIFICATES=folder)
    assert ran.status == 0
    assert len(json_documents(ran.out)) == 1
    with hosts.client("operator") as client:
        assert client.call("get_ok_agents")["agents"] == [UMRA]


def test_the_client_without_secure_is_refused_by_secured_mainpc(hosts: TwoHosts) -> None:
    """One sentence, and exit status 1; nothing of an answer."""
    ran = run_script("secure_sdt_client.py", *port_of(hosts))
    assert (ran.status, ran.out) == (1, "")
    (sentence,) = ran.err.splitlines()
    assert sentence.startswith("secure_sdt_client: ")
    assert "requires CURVE" in sentence


def test_the_environment_makes_the_client_secure(hosts: TwoHosts) -> None:
    """SECURE_ZMQ=1 is `--secure`; another value than 1 and 0 is refused."""
    settings = {"TWINHOST_CERTIFICATES": str(hosts.folders["operator"])}
    ran = run_script("secure_sdt_client.py", *port_of(hosts), SECURE_ZMQ="1", **settings)
    assert (ran.status, json_documents(ran.out)[0]["message"]) == (0, "pong")
    assert "requires CURVE" in run_script("secure_sdt_client.py", *port_of(hosts), SECURE_ZMQ="0", **settings).err
    assert "set it to 1" in run_script("secure_sdt_client.py", *port_of(hosts), SECURE_ZMQ="yes", **settings).err


@pytest.mark.parametrize("taken_over", [False, True], ids=["home", "standby"])
def test_the_client_finds_key_and_address_by_default(hosts: TwoHosts, tmp_path: Path, taken_over: bool) -> None:
    """In the user's configuration folder, where enrol_program.py puts them; also the address of a standby."""
    shutil.copytree(hosts.folders["operator"], tmp_path / "twinhost")
    home = free_ports(1)[0] if taken_over else hosts.mainpc.port
    standby = f"{{host: pc2, address: 127.0.0.1, ports: {{zmq: {hosts.mainpc.port}}}}}"
    (tmp_path / "twinhost" / "endpoints.yaml").write_text(
        "hosts: {mainpc: {address: 127.0.0.1}}\n"
        f"agents: {{SystemDigitalTwin: {{ports: {{zmq: {home}, http: 8120}}, standby: {standby}}}}}\n"
    )
    ran = run_script("secure_sdt_client.py", "--secure", XDG_CONFIG_HOME=str(tmp_path), TWINHOST_CERTIFICATES="")
    assert (ran.status, json_documents(ran.out)[0]["message"]) == (0, "pong"), ran.err


@pytest.mark.parametrize("name", ["SystemDigitalTwin", "UnifiedMemoryReasoningAgent", "operator", "a b", "server"])
def test_a_program_takes_nobodys_name(name: str, tmp_path: Path) -> None:
    """One sentence, before anything is made."""
    ran = run_script("enrol_program.py", name, XDG_CONFIG_HOME=str(tmp_path))
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("enrol_program: ")
    assert list(tmp_path.rglob("*.key*")) == []


def test_the_client_without_secure_speaks_to_an_open_server(open_hosts: TwoHosts) -> None:
    """In the open, as it was asked to."""
    ran = run_script("secure_sdt_client.py", *port_of(open_hosts))
    assert (ran.status, json_documents(ran.out)[0]["message"]) == (0, "pong")


def test_the_client_without_keys_is_refused(hosts: TwoHosts, tmp_path: Path) -> None:
    """--secure never turns into the open."""
    ran = run_script("secure_sdt_client.py", "--secure", *port_of(hosts), "--certificates", str(tmp_path))
    assert (ran.status, ran.out) == (1, "")
    (sentence,) = ran.err.splitlines()
    assert sentence.startswith(f"secure_sdt_client: {tmp_path} holds no secret key; run: twinhost join --local")


@pytest.mark.parametrize(
    "words", [("--port", "0"), ("--port", "70000"), ("--port", "x"), ("--host", "a b"), ("--host", "-"), ("--bogus",)]
)
def test_a_wrong_usage_of_the_client_is_2(words: tuple[str, ...]) -> None:
    """Nothing is connected to."""
    ran = run_script("secure_sdt_client.py", *words)
    assert ran.status == 2
    assert "Traceback" not in ran.err


def test_the_keys_are_made_by_the_documented_script(tmp_path: Path) -> None:
    """Twice gives the same keys, and the tree verifies."""
    root = tmp_path / "tree"
    config = tmp_path / "network_config.yaml"
    config.write_text(
        "hosts: {mainpc: {address: mainpc}}\n"
        "agents: {SystemDigitalTwin: {host: mainpc, key: server, ports: {zmq: 7120, http: 8120}}}\n"
        + GRANTS_LINE
        + RECALL_LINE
        + f"limits: {{max_payload_bytes: {PAYLOAD_BYTES}, heartbeat_s: 5, registration_ttl_s: 15,\n"
        "  stored_replies_s: 600, stored_replies_per_caller: 1000, key_lifetime_days: 365, metrics_interval_s: 5}\n"
    )
    settings = {"NETWORK_CONFIG_PATH": str(config), "TWINHOST_HOST": ""}
    first = run_script("generate_zmq_certificates.py", "--root", str(root), **settings)
    assert (first.status, first.err) == (0, "")
    before = load_certificate(root / "operator" / "server.key")
    second = run_script("generate_zmq_certificates.py", **{**settings, "TWINHOST_CERTIFICATES": str(root)})
    assert "already present" in second.out
    assert load_certificate(root / "operator" / "server.key") == before
    assert run_script("generate_zmq_certificates.py", "--root", str(root), "verify", **settings).status == 0
    assert run_script("generate_zmq_certificates.py", "nonsense", **settings).status == 2


PASSES = "def test_{name}(): pass\n"
FAILS = "def test_{name}(): raise AssertionError\n"
SKIPS = "def test_{name}(): pytest.skip('not here')\n"
BREAKS = "@pytest.fixture\ndef broken(): raise OSError\n\n@pytest.mark.sdt_security\ndef test_{name}(broken): pass\n"


@pytest.mark.parametrize(
    ("tests", "status", "verdict"),
    [
        ((PASSES, PASSES), 0, "SystemDigitalTwin security: 2 checks passed"),
        ((PASSES, SKIPS), 0, "SystemDigitalTwin security: 1 checks passed, 1 skipped"),
        ((PASSES, FAILS, PASSES), 1, "SystemDigitalTwin security FAILED: 1 of 3"),
        ((PASSES, BREAKS), 1, "SystemDigitalTwin security FAILED: 1 of 2"),
        ((SKIPS,), 1, "SystemDigitalTwin security FAILED: nothing was checked, 1 skipped"),
        ((), 5, "SystemDigitalTwin security FAILED: nothing was checked"),
        (("this is no Python\n",), 2, "SystemDigitalTwin security FAILED: pytest ended with status 2"),
    ],
)
def test_the_verdict_says_what_came_of_the_marked_tests(
    tmp_path: Path, tests: tuple[str, ...], status: int, verdict: str
) -> None:
    """The last line of the output; a run in which nothing was checked is no success."""
    mark = "@pytest.mark.sdt_security\n"
    parts = [
        ("" if test is BREAKS else mark) + test.replace("{name}", str(number)) for number, test in enumerate(tests)
    ]
    unmarked = FAILS.replace("{name}", "unmarked")
    (tmp_path / "test_sample.py").write_text("\n".join(["import pytest", *parts, unmarked]))
    ran = run_script("test_sdt_security.py", "-q", "-p", "no:cacheprovider", str(tmp_path))
    assert (ran.status, ran.out.splitlines()[-1]) == (status, verdict)


@pytest.mark.parametrize("script", ["test_sdt_security.py", "test_unified_memory_agent.py"])
def test_the_scripts_run_beside_several_conftests(tmp_path: Path, script: str) -> None:
    """As in this repository: pytest hashes every plugin once it has to leave the conftest of another folder out."""
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "conftest.py").write_text("")
        marked = f"import pytest\n\n\n@pytest.mark.{script.removeprefix('test_').removesuffix('.py')}\n"
        (tmp_path / folder / f"test_{folder}.py").write_text(marked + PASSES.replace("{name}", folder))
    ran = run_script(script, "-q", "-p", "no:cacheprovider", str(tmp_path))
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.splitlines()[-1].endswith(": 2 checks passed")


def test_the_other_verdict_takes_the_other_marker(tmp_path: Path) -> None:
    """UnifiedMemoryReasoningAgent's tests alone."""
    marked = "import pytest\n\n\n@pytest.mark.unified_memory_agent\ndef test_one(): pass\n"
    (tmp_path / "test_sample.py").write_text(marked + FAILS.replace("{name}", "unmarked"))
    ran = run_script("test_unified_memory_agent.py", "-q", "-p", "no:cacheprovider", str(tmp_path))
    assert (ran.status, ran.out.splitlines()[-1]) == (0, "UnifiedMemoryReasoningAgent: 1 checks passed")


@pytest.mark.parametrize(("missing", "options"), [(False, ("-n", "2")), (True, ())], ids=["two processes", "one"])
def test_a_run_of_all_tests_says_what_the_scripts_would(
    tmp_path: Path, missing: bool, options: tuple[str, ...]
) -> None:
    """As CI has it; where one script would have checked nothing, the run fails, though its tests passed."""
    marks = ("sdt_security",) if missing else ("sdt_security", "unified_memory_agent")
    tests = [f"@pytest.mark.{mark}\n{PASSES.replace('{name}', mark)}" for mark in marks]
    (tmp_path / "test_sample.py").write_text("\n".join(["import pytest", *tests, PASSES.replace("{name}", "unmarked")]))
    plugins = ("-p", "scripts.marked_tests", "-p", "no:cacheprovider")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "xdist.plugin", *plugins, *options, tmp_path],
        cwd=REPOSITORY,
        env={**os.environ, **NO_PLUGINS},
        capture_output=True,
        text=True,
        check=False,
    )
    memory = "FAILED: nothing was checked" if missing else "1 checks passed"
    *_, security, memory_line, last = ran.stdout.splitlines()
    assert (ran.returncode, security) == (int(missing), "SystemDigitalTwin security: 1 checks passed")
    assert memory_line == f"UnifiedMemoryReasoningAgent{' ' if missing else ': '}{memory}"
    assert f"{len(marks) + 1} passed" in last
