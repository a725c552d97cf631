"""All contenders of one run: their servers as processes, and how each is loaded; who can't be had is named with why."""

import importlib.util
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import zmq

from tests.benchmarks.speed import messages
from tests.benchmarks.speed.place import ADDRESS, ahead_of_servers
from tests.benchmarks.speed.processes import Failed, Process, build_c, python_load
from tests.benchmarks.speed.task import WARM_UP_S, Outcome, Task
from tests.benchmarks.speed.tls import TlsFiles, make_certificates
from tests.benchmarks.speed.twin import Twin
from tests.ports import free_ports

_START_S = 2.0  # that a process may take longer to start than another
OURS, C, PYZMQ, MTLS, GRPC, NATS = "ours", "c-libzmq", "pyzmq", "raw-mtls", "grpc", "nats"
EVERYBODY = (OURS, C, PYZMQ, MTLS, GRPC, NATS)


@dataclass(frozen=True, slots=True)
class Contender:
    """A server and a way to load it."""

    run: Callable[[Task], Outcome]


class Field:
    """Who runs, by name; everything ends with the block."""

    def __init__(self, root: Path, authorised: int, wanted: Sequence[str] = EVERYBODY) -> None:
        """Start the servers.

        Args:
            root: an empty folder.
            authorised: keys that this project's server accepts.
            wanted: the servers to start; the others are not measured.

        Raises:
            Failed: this project's own server does not serve.
        """
        self.contenders: dict[str, Contender] = {}
        self.missing: dict[str, str] = {}
        self.servers: dict[str, Process] = {}
        self._targets: dict[str, Any] = {}
        self._root = root
        self._log = root / "log"
        self._stack = ExitStack()
        try:
            self._start_ours(authorised)
            for name, start in (
                (C, self._start_c),
                (PYZMQ, self._start_pyzmq),
                (MTLS, self._start_raw_mtls),
                (GRPC, self._start_grpc),
                (NATS, self._start_nats),
            ):
                if name in wanted:
                    self._start(name, start)
        except BaseException:
            self._stack.close()
            raise

    def holding(self, name: str, connections: int) -> Process:
        """Return a process that opens so many connections to a libzmq server, and holds them until it is stopped."""
        task = asdict(Task(clients=connections))
        return Process.python("bare_pyzmq", "holding", {"target": self._targets[name], "task": task}, self._log)

    def pids(self) -> list[int]:
        """Return the processes of all servers."""
        return [server.pid for server in self.servers.values()]

    def __enter__(self) -> "Field":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self, name: str, start: Callable[[], None]) -> None:
        try:
            start()
        except Failed as error:
            self.missing[name] = str(error)

    def _start_ours(self, authorised: int) -> None:
        secured = Twin(self._root / "secured", authorised)
        self._stack.callback(secured.process.stop)
        opened = Twin(self._root / "open", 1, secure=False)
        self._stack.callback(opened.process.stop)
        self.servers |= {"ours": secured.process, "ours-open": opened.process}
        self._targets["ours"] = secured.bare_target
        self._reply = secured.reply
        self._python("ours", "twin", "blocking", secured.target)
        self._python("ours-open", "twin", "blocking", opened.target)
        for suffix, alone in (("", False), ("-alone", True)):
            target = {**secured.target, "one request a frame": alone}
            self._python(f"ours-map{suffix}", "twin", "pipelining", target)
            self._python(f"ours-aio{suffix}", "twin", "asynchronous", target)
        self.contenders["ours-beside-others"] = Contender(lambda task: self._beside_others(task, secured.target))
        self._python("ours-connecting", "bare_pyzmq", "connecting", secured.bare_target)
        self._twin = secured

    def _start_c(self) -> None:
        if shutil.which("gcc") is None or not Path("/usr/include/zmq.h").exists():
            raise Failed("gcc or libzmq's headers are not here (Debian: gcc, libc6-dev, libzmq3-dev)")
        program = build_c(self._root)
        target = self._twin.bare_target
        public, secret = target["keys"][0]
        ours = (target["endpoint"], target["pin"], public, secret)
        self._c("ours-by-c", program, "dealer", ours)
        ahead = ahead_of_servers()
        for kind, load in (("rep", "req"), ("router", "dealer")):
            server_public, server_secret = (key.decode() for key in zmq.curve_keypair())
            endpoint = f"tcp://{ADDRESS}:{free_ports(1)[0]}"
            process = Process([*ahead, str(program), "serve", kind, endpoint, server_secret, self._reply], self._log)
            self._serve(f"c-{kind}", process, waits=False)
            self._c(f"c-{kind}", program, load, (endpoint, server_public, public, secret))
        self._start_committing(program, public, secret)

    def _start_committing(self, program: Path, public: str, secret: str) -> None:
        """Start a bare ROUTER that commits what this project's server commits, under the same load in C."""
        server_public, server_secret = (key.decode() for key in zmq.curve_keypair())
        endpoint, database = f"tcp://127.0.0.1:{free_ports(1)[0]}", str(self._root / "committing.sqlite3")
        arguments = {"endpoint": endpoint, "secret": server_secret, "reply": self._twin.registered}
        process = Process.python("bare_pyzmq", "serve_committing", {**arguments, "database": database}, self._log)
        self._serve("pyzmq-committing", process)
        self._c("pyzmq-committing", program, "dealer", (endpoint, server_public, public, secret))

    def _start_pyzmq(self) -> None:
        public, secret = (key.decode() for key in zmq.curve_keypair())
        self._serve_bare("pyzmq-open", None, None)
        target = self._targets["pyzmq"] = self._serve_bare("pyzmq", public, secret)
        self._python("pyzmq-connecting", "bare_pyzmq", "connecting", target)
        endpoint = f"tcp://127.0.0.1:{free_ports(1)[0]}"
        admitted = {public: f"agent-{number}" for number, (public, _) in enumerate(target["keys"])}
        admitting = {"endpoint": endpoint, "secret": secret, "reply": self._reply, "admitted": admitted}
        self._serve("zap", Process.python("bare_pyzmq", "serve", admitting, self._log))
        self._python("zap-connecting", "bare_pyzmq", "connecting", {**target, "endpoint": endpoint})

    def _serve_bare(self, name: str, pin: str | None, secret: str | None) -> dict[str, Any]:
        endpoint = f"tcp://{ADDRESS}:{free_ports(1)[0]}"
        arguments = {"endpoint": endpoint, "secret": secret, "reply": self._reply}
        self._serve(name, Process.python("bare_pyzmq", "serve", arguments, self._log, ahead_of_servers()))
        target = {**self._twin.bare_target, "endpoint": endpoint, "pin": pin}
        self._python(name, "bare_pyzmq", "blocking", target)
        return target

    def _start_raw_mtls(self) -> None:
        target = self._serve_tls("raw-mtls", "raw_mtls", "serve")
        self._python("raw-mtls", "raw_mtls", "asynchronous", target)
        self._python("raw-mtls-connecting", "raw_mtls", "connecting", target)

    def _start_grpc(self) -> None:
        _require_package("grpc", "grpcio")
        target = self._serve_tls("grpc", "grpc_mtls", "serve")
        self._python("grpc", "grpc_mtls", "blocking", target)
        self._python("grpc-connecting", "grpc_mtls", "connecting", target)
        self._python("grpc-aio", "grpc_mtls", "asynchronous", self._serve_tls("grpc-aio", "grpc_mtls", "serve_aio"))

    def _start_nats(self) -> None:
        _require_package("nats", "nats-py")
        program = shutil.which("nats-server", path="/usr/local/bin:/usr/bin:/usr/sbin:/bin")
        if program is None:
            raise Failed("nats-server is not here (Debian: nats-server)")
        files = self._tls()
        target = {"folder": files.folder, "port": free_ports(1)[0]}
        tls = ["--tls", "--tlscert", files.certificate("server"), "--tlskey", files.key("server"), "--tlsverify"]
        address = ["--addr", ADDRESS, "--port", str(target["port"])]
        command = [program, *address, *tls, "--tlscacert", files.authority]
        self._serve("nats-server", Process([*ahead_of_servers(), *command], self._log), waits=False)
        self._serve("nats", Process.python("nats_tls", "serve", {**target, "reply": self._reply}, self._log))
        self._python("nats", "nats_tls", "asynchronous", target)

    def _serve_tls(self, name: str, module: str, function: str) -> dict[str, Any]:
        target = {"folder": self._tls().folder, "port": free_ports(1)[0]}
        arguments = {**target, "reply": self._reply}
        self._serve(name, Process.python(module, function, arguments, self._log, ahead_of_servers()))
        return target

    def _serve(self, name: str, process: Process, *, waits: bool = True) -> None:
        """Keep a server, and wait until it is bound where it reports that; clients wait for the others."""
        self._stack.callback(process.stop)
        if waits:
            process.answer()
        self.servers[name] = process

    def _tls(self) -> TlsFiles:
        folder = self._root / "tls"
        if folder.exists():
            return TlsFiles(str(folder))
        folder.mkdir()
        return make_certificates(folder)

    def _python(self, name: str, module: str, function: str, target: dict[str, Any]) -> None:
        self.contenders[name] = Contender(lambda task: python_load(module, function, target, task, self._log))

    def _beside_others(self, task: Task, target: dict[str, Any]) -> Outcome:
        """Measure one client while two others keep the server busy, one with reads and one with durable changes."""
        longer_s = task.seconds + WARM_UP_S + _START_S
        others = (Task(in_flight=32, seconds=longer_s), Task("register_agent", in_flight=32, seconds=longer_s))
        with ExitStack() as stack:
            for other in others:
                arguments = {"target": target, "task": asdict(other)}
                stack.enter_context(Process.python("twin", "asynchronous", arguments, self._log))
            return python_load("twin", "blocking", target, task, self._log)

    def _c(self, name: str, program: Path, kind: str, address: Sequence[str]) -> None:
        def run(task: Task) -> Outcome:
            numbers = (str(task.clients), str(task.in_flight), str(task.seconds))
            command = [str(program), "load", kind, *address, *numbers, *messages.around_the_id(task)]
            with Process(command, self._log) as process:
                outcome = Outcome(**process.answer())
            if outcome.failures:
                raise Failed(f"{name}: {outcome.failures} of {outcome.calls} requests were refused; see {self._log}")
            return outcome

        self.contenders[name] = Contender(run)


def _require_package(module: str, package: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise Failed(f"the package {package} is not in this environment (requirements-bench.lock has it)")
