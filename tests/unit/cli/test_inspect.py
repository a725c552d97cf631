"""`inspect`: what it finds in an agent's source, line by line, and what it leaves alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cli.running import run_process
from twinhost.cli.inspect.findings import inspect_source

SECURE = "from main_pc_code.src.network.secure_zmq import secure_client_socket as _, configure_secure_server\n"
CONSUMER = """\
import zmq
class Agent:
    def __init__(self, context):
        self.socket = context.socket(zmq.{kind})
{setup}
    def run(self):
        {use}
"""


def changes(source: str) -> list[tuple[int, str]]:
    """Return the line and the kind of every finding that has to change."""
    return [(finding.line, finding.kind) for finding in inspect_source(source) if finding.change]


def of(kind: str, source: str) -> list[int]:
    """Return the lines of one kind of finding."""
    return [finding.line for finding in inspect_source(source) if finding.kind == kind]


def consumer(kind: str, use: str, *setup: str) -> str:
    return CONSUMER.format(kind=kind, use=use, setup="\n".join(f"        {line}" for line in setup))


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("s = c.socket(zmq.REP)\ns.bind(a)\nconfigure_secure_server(s)", [3]),
        ("s = c.socket(zmq.REP)\nconfigure_secure_server(s)\ns.bind(a)", []),
        (
            "s = c.socket(zmq.REQ)\nif secure:\n    secure_client_socket(s)\n    s.connect(a)\nelse:\n    s.connect(b)",
            [],
        ),
        ("s = c.socket(zmq.REQ)\nif x:\n    s.connect(a)\nsecure_client_socket(s)", [4]),
        ("with c.socket(zmq.REQ) as s:\n    s.connect(a)\n    s = secure_client_socket(s)", [3]),
        ("try:\n    s = c.socket(zmq.REP)\n    s.bind(a)\nfinally:\n    configure_secure_server(s)", [5]),
        ("s = configure_secure_server(c.socket(zmq.REP))\ns.bind(a)", []),
        (
            "class A:\n def __init__(self):\n  self.s = c.socket(zmq.REP)\n  self.open()\n  self.secure(self.s)\n"
            " def open(self):\n  self.s.bind(a)\n def secure(self, socket):\n  configure_secure_server(socket)",
            [9],
        ),
        (
            "class A:\n def __init__(self):\n  self.s = c.socket(zmq.REP)\n  self.secure(self.s)\n  self.open()\n"
            " def open(self):\n  self.s.bind(a)\n def secure(self, socket):\n  configure_secure_server(socket)",
            [],
        ),
        ("s = c.socket(zmq.REQ)\nif x:\n    s.connect(a)\n    raise SystemExit\nsecure_client_socket(s)", []),
        (
            "class A:\n def again(self):\n  self.s = c.socket(zmq.REQ)\n  secure_client_socket(self.s)\n"
            "  self.s.connect(a)\n def run(self):\n  self.again()\n  self.again()",
            [],
        ),
        ("def a():\n with c.socket(zmq.REQ) as s:\n  secure_client_socket(s)\n  s.connect(a)\na()\na()", []),
        ("def a():\n b()\ndef b():\n a()\n configure_secure_server(s)", []),
    ],
)
def test_security_after_bind_or_connect(source: str, lines: list[int]) -> None:
    """In the order of execution: through branches, methods, and parameters; functions that call each other end."""
    assert of("late-security", source) == lines


@pytest.mark.parametrize(
    ("handler", "found"),
    [
        ("except Exception as error:\n    print(error)", True),
        ("except (ImportError, OSError):\n    secure = False", True),
        ("except:\n    pass", True),
        ("except Exception:\n    print()\n    raise", False),
        ("except Exception as error:\n    sys.exit(str(error))", False),
        ("except KeyboardInterrupt:\n    pass", False),
    ],
)
def test_except_blocks_that_go_on_without_security(handler: str, found: bool) -> None:
    """An error of an import or a call of secure_zmq, and nothing that ends the program."""
    for secures in ("from main_pc_code.src.network.secure_zmq import start_auth", "s = configure_secure_server(s)"):
        assert bool(of("fails-open", f"try:\n    {secures}\n{handler}\n")) is found
    assert of("fails-open", f"try:\n    work()\n{handler}\n") == []


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ('os.environ.get("SECURE_ZMQ", "0") == "1"', True),
        ('os.getenv("SECURE_ZMQ")', True),
        ('os.environ.get("SECURE_ZMQ", "1") == "1"', False),
        ('os.environ.get("OTHER", "0") == "1"', False),
        ("is_secure_zmq_enabled()", False),
    ],
)
def test_security_that_is_off_by_default(expression: str, found: bool) -> None:
    assert bool(of("off-by-default", f"secure = {expression}")) is found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('s.connect("tcp://192.168.100.16:7120")', True),
        ('s.bind("tcp://*:5570")', True),
        ('s.connect(f"tcp://{host}:7120")', True),
        ('s.connect("tcp://[::1]:7120")', True),
        ('MAINPC = "192.168.100.16"', True),
        ("SDT_PORT = 7120", True),
        ("def serve(self, name, port=5570): pass", True),
        ('s.connect(f"tcp://{host}:{port}")', False),
        ('s.bind("inproc://work")', False),
        ('address = "0.0.0.0"', False),
        ("timeout = 5000", False),
        ('"""Connects to tcp://192.168.100.16:7120, as documented."""', False),
    ],
)
def test_fixed_addresses_and_ports(source: str, found: bool) -> None:
    assert bool(of("fixed-address", source)) is found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (consumer("REP", "self.socket.recv_json()"), True),
        (consumer("REP", "self.socket.recv()"), True),
        (consumer("REP", "self.socket.recv()", "self.socket.setsockopt(zmq.RCVTIMEO, 5000)"), False),
        (consumer("REP", "self.socket.recv()", "self.socket.rcvtimeo = 5000"), False),
        (consumer("REP", "self.socket.recv()", "context.setsockopt(zmq.RCVTIMEO, 5000)"), False),
        (consumer("REP", "self.socket.recv()", "poller.register(self.socket, zmq.POLLIN)"), False),
        (consumer("REP", "self.socket.poll(100) and self.socket.recv()"), False),
        (consumer("REP", "self.socket.recv(zmq.NOBLOCK)"), False),
        (consumer("REP", "self.socket.recv_json(flags=zmq.DONTWAIT)"), False),
        (consumer("REP", "asyncio.wait_for(self.socket.recv(), 5)"), False),
        ("import socket\nconnection.recv(100)", False),
    ],
)
def test_receiving_without_a_timeout(source: str, found: bool) -> None:
    """Neither a timeout of the socket or its Context, nor a poll, nor a call that does not wait."""
    assert bool(of("no-timeout", source)) is found


HELPED = """\
class Agent:
    def __init__(self, context):
        self.context = context
        self.mainpc = self.made("a")
        self.pc2 = secure_client_socket(self.made("b"))
    def made(self, address):
        made = self.context.socket(zmq.REQ)
        {set}
        return made
    def ready(self, polled, milliseconds):
        return {poll}
    def wait(self, which):
        return self.ready(which, milliseconds=1000)
    def reply(self, source):
        return source.recv_json()
    def ask(self):
        {wait}
        self.mainpc.recv_json()
        same = self.pc2
        same.recv_json()
        return self.reply(self.mainpc), self.reply(same)
"""


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ({"set": "made.setsockopt(zmq.RCVTIMEO, 5000)"}, []),
        ({"set": "made.rcvtimeo = 5000"}, []),
        ({"poll": "polled.poll(milliseconds)", "wait": "self.wait(self.mainpc) and self.wait(self.pc2)"}, []),
        ({"poll": "select([polled], [], [])", "wait": "self.wait(self.mainpc) and self.wait(self.pc2)"}, []),
        ({"poll": "polled.poll(milliseconds)", "wait": "self.wait(self.mainpc)"}, [15, 20]),
        ({"poll": "poller.poll(milliseconds)", "wait": "self.wait(self.mainpc) and self.wait(self.pc2)"}, [15, 18, 20]),
        ({"wait": "self.ready(self.mainpc, 1) and self.ready(self.pc2, 1)"}, [15, 18, 20]),
    ],
)
def test_a_timeout_that_a_helper_sets(code: dict[str, str], lines: list[int]) -> None:
    """The method that makes the socket, or one that gets it; a helper that receives needs one of all that it gets."""
    assert of("no-timeout", HELPED.format(**{"set": "pass", "poll": "True", "wait": "pass", **code})) == lines


def test_a_timeout_is_found_through_many_names() -> None:
    """As soon as through a few, however many ways lead from one to the other, and also in a circle."""
    copies = "".join(f" s{number} = s{number - 1}\n s{number} = s{number - 1}\n" for number in range(1, 2_000))
    source = f"def run():\n s0 = c.socket(zmq.REP)\n s0.rcvtimeo = 1\n{copies}"
    assert of("no-timeout", f"{source} s1999.recv()") == []
    assert of("no-timeout", f"{source.replace('rcvtimeo', 'sndtimeo')} s0.recv()\n s0 = s1999\n") == [4002]


def test_a_timeout_of_the_sockets_in_a_collection() -> None:
    """Each of them comes from the helper that sets it."""
    source = (
        "class Agent:\n def __init__(self):\n  self.sockets = {{}}\n  self.sockets['a'] = self.made()\n"
        " def made(self):\n  made = c.socket(zmq.REQ)\n  {}\n  return made\n"
        " def ask(self):\n  return self.sockets['a'].recv_json()\n"
    )
    assert of("no-timeout", source.format("made.rcvtimeo = 1")) == []
    assert of("no-timeout", source.format("pass")) == [10]


def test_a_timeout_that_a_base_class_sets() -> None:
    """Also by a method of the base that the derived class calls."""
    base = "class Base:\n def __init__(self):\n  self.s = c.socket(zmq.REP)\n  self.s.rcvtimeo = 1\n  self.other = 1\n"
    helper = " def ready(self, which):\n  return which.poll(1)\n"
    assert of("no-timeout", f"{base}class Agent(Base):\n def run(self):\n  self.s.recv_json()") == []
    assert of("no-timeout", f"{base}class Agent(Other):\n def run(self):\n  self.s.recv_json()") == [8]
    derived = "class Agent(Base):\n def run(self):\n  self.ready(self.t) and self.t.recv_json()"
    assert of("no-timeout", f"{base}{helper}{derived}") == []
    assert of("no-timeout", f"{base}{derived}") == [8]


@pytest.mark.parametrize(
    ("kind", "setup", "found"),
    [
        ("REQ", [], True),
        ("REQ", ["self.socket.setsockopt(zmq.REQ_RELAXED, 1)"], True),
        ("REQ", ["self.socket.setsockopt(zmq.REQ_RELAXED, 1)", "self.socket.req_correlate = 1"], False),
        ("DEALER", [], False),
    ],
)
def test_a_req_that_a_lost_reply_blocks(kind: str, setup: list[str], found: bool) -> None:
    """Unless the function that makes it closes it too: then the next request has another socket."""
    assert bool(of("stuck-req", consumer(kind, "pass", *setup))) is found
    assert of("stuck-req", f"def ask():\n s = c.socket(zmq.{kind})\n s.send(b'')\n s.close()") == []
    assert of("stuck-req", f"def ask():\n with c.socket(zmq.{kind}) as s:\n  s.send(b'')") == []


@pytest.mark.parametrize(
    ("use", "found"),
    [
        ("self.socket.recv_pyobj()", True),
        ("self.socket.send_pyobj({})", True),
        ("pickle.loads(self.socket.recv())", True),
        ("self.socket.send(pickle.dumps({}))", True),
        ("self.socket.recv_json()", False),
        ("pickle.loads(path.read_bytes())", False),
    ],
)
def test_pickles_on_the_wire(use: str, found: bool) -> None:
    assert bool(of("pickle", consumer("REP", use))) is found


THREADED = """\
class Agent:
    def __init__(self):
        self.socket = context.socket(zmq.{kind})
        threading.Thread(target=self.{target}).start()
    def loop(self):
        self.beat()
    def beat(self):
        self.socket.send_json({{}})
    def ask(self):
        self.socket.send_json({{}})
    def nothing(self):
        pass
"""


def test_a_socket_that_two_threads_use() -> None:
    """In a function that a thread runs, or one that this calls, and in another."""
    assert of("shared-socket", THREADED.format(kind="REQ", target="loop")) == [8]
    assert of("shared-socket", THREADED.format(kind="REQ", target="nothing")) == []


def test_a_context_that_a_child_process_gets() -> None:
    start = "c = zmq.Context.instance()\ndef work(): pass\nmultiprocessing.{}(target=work).start()"
    assert of("shared-context", start.format("Process")) == [1]
    assert of("shared-context", start.format("Thread")) == []


@pytest.mark.parametrize(
    ("setup", "found"),
    [
        (["self.socket.bind(address)"], True),
        (["self.socket.bind('inproc://here')"], False),
        (["configure_secure_server(self.socket)", "self.socket.bind(address)"], False),
        (["for each in sockets: configure_secure_server(each)", "self.socket.bind(address)"], False),
    ],
)
def test_a_socket_that_is_never_secured(setup: list[str], found: bool) -> None:
    """Unless something is secured whose name the file does not show."""
    assert bool(of("plain-socket", consumer("REP", "pass", *setup))) is found


def test_imports_that_stay_and_one_that_does_not_exist() -> None:
    """Each name that the packages of existing agents have; the sentence of an unknown one lists them."""
    source = "from main_pc_code.src.network.secure_zmq import start_auth, make_safe\nfrom os import path"
    for module in ("import main_pc_code.utils.network_utils", "from main_pc_code.src.network import secure_zmq"):
        assert [(each.kind, each.change) for each in inspect_source(module)] == [("import", False)]
    stays, unknown = inspect_source(source)
    assert (stays.kind, stays.change, "start_auth" in stays.sentence) == ("import", False, True)
    assert (unknown.kind, unknown.change, "configure_secure_server" in unknown.instead) == (
        "unknown-import",
        True,
        True,
    )


def test_the_exit_status_says_whether_something_has_to_change(tmp_path: Path) -> None:
    """0, 1, and 2, from a process; JSON has what the lines have."""
    good, bad, broken = (tmp_path / name for name in ("good.py", "bad.py", "broken.py"))
    good.write_text("import twinhost\n")
    bad.write_text("s = c.socket(zmq.REQ)\n")
    broken.write_text("print 'Python 2'\n")
    assert run_process({}, "inspect", str(good)).status == 0
    ran = run_process({}, "inspect", str(good), str(bad))
    assert (ran.status, ran.err) == (1, "")
    assert f"{bad}:1: stuck-req: s can't send again after a lost reply\n" in ran.out
    assert ran.out.endswith("\n2 uses of ZeroMQ: 1 to change, 1 may stay\n")
    document = json.loads(run_process({}, "inspect", "--json", str(bad)).out)
    assert [each["kind"] for each in document["files"][str(bad)]] == ["socket", "stuck-req"]
    for path, sentence in (
        (broken, "is not Python 3 (line 1: "),
        (tmp_path / "none.py", "can't be read (No such file"),
    ):
        ran = run_process({}, "inspect", str(path))
        assert (ran.status, ran.out) == (2, "")
        assert sentence in ran.err


def test_a_source_is_read_from_standard_input() -> None:
    """A container does not have the file."""
    command = [sys.executable, "-m", "twinhost.cli", "inspect", "-"]
    environment = {"PYTHONPATH": str(Path(__file__).resolve().parents[3] / "services")}
    done = subprocess.run(
        command, env=environment, input="s = c.socket(zmq.REQ)", capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stdout.startswith("-:1: socket: makes a REQ socket\n")
