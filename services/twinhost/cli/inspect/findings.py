"""What an agent's source uses of ZeroMQ, what of it has to change, and what replaces that."""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from main_pc_code.src.network import secure_zmq
from main_pc_code.utils import network_utils
from twinhost.cli.inspect.source import (
    CLOSED,
    OPEN,
    POLL,
    RECEIVE,
    SECURE,
    AgentSource,
    Function,
    NodePlace,
    Socket,
    called_name,
    socket_kind,
    text_of,
)

_KEPT = {module.__name__: module.__all__ for module in (secure_zmq, network_utils)}
_STAYS = "this socket, secured as the others"
_INSTEAD_OF = {
    **dict.fromkeys(("REQ", "DEALER"), 'twinhost.connect("AGENT").call("ACTION", FIELD=VALUE)'),
    **dict.fromkeys(("REP", "ROUTER"), "an Action of an agent that run_agent starts (twinhost.agent)"),
    "PUB": 'Membership.publish("TYPE", DATA) (twinhost.agent)',
    "SUB": "mainpc's event feed, if that has the events",
}
_CONNECTING = frozenset({"REQ", "DEALER", "SUB", "PUSH"})
_ENDS = frozenset({"exit", "_exit", "abort"})
_STOPS = frozenset({"KeyboardInterrupt", "SystemExit", "GeneratorExit"})
_AT_ONCE = re.compile("NOBLOCK|DONTWAIT")
_ADDRESS = re.compile(r"(tcp://(\[[^]]+\]|[^\s:/]+):\d+)|((?!0\.0\.0\.0)\d{1,3}(\.\d{1,3}){3})")
_PORTS = range(1024, 65_536)


@dataclass(frozen=True, slots=True, order=True)
class ZmqUse:
    """One use of ZeroMQ: where, what it is, and what replaces it; without `change` it may stay."""

    line: int
    kind: str
    sentence: str
    instead: str
    change: bool = True


def inspect_source(text: str | bytes) -> list[ZmqUse]:
    """Return what an agent's source uses of ZeroMQ, by line.

    Raises:
        SyntaxError, ValueError: it is not Python source.
    """
    source = AgentSource(text)
    return sorted({*_of_nodes(source), *_of_calls(source), *_of_sockets(source), *_of_order(source)})


def _of_nodes(source: AgentSource) -> Iterator[ZmqUse]:
    for place in source.places:
        match place.node:
            case ast.Import(names=aliases, lineno=line):
                yield from (_stays(line, alias.name) for alias in aliases if alias.name in _KEPT)
            case ast.ImportFrom(module=str() as module, names=aliases, lineno=line):
                yield from _of_import(module, [alias.name for alias in aliases], line)
            case ast.Try(body=body, handlers=handlers) if any(map(_secures, body)):
                yield from (_fails_open(handler) for handler in handlers if _goes_on(handler))
            case ast.Constant(value=str() as text, lineno=line) if _ADDRESS.fullmatch(text):
                yield _fixed(line, text)
            case (
                ast.Assign(targets=[target], value=ast.Constant() as value)
                | ast.AnnAssign(target=target, value=ast.Constant() as value)
            ):
                yield from _of_ports([(text_of(target), value)])
            case ast.arguments(args=arguments, defaults=defaults) if defaults:
                yield from _of_ports(zip([word.arg for word in arguments[-len(defaults) :]], defaults, strict=True))
            case ast.JoinedStr(values=values, lineno=line):
                text = "".join(text_of(part) if isinstance(part, ast.Constant) else "{}" for part in values)
                if _ADDRESS.fullmatch(text):
                    yield _fixed(line, text)


def _of_ports(named: Iterable[tuple[str, ast.expr]]) -> Iterator[ZmqUse]:
    for name, value in named:
        if "port" in name.lower() and isinstance(value, ast.Constant) and value.value in _PORTS:
            health = "health" in name.lower() or "http" in name.lower()
            yield _fixed(value.lineno, str(value.value), "http_port" if health else "zmq_port")


def _of_import(module: str, names: Sequence[str], line: int) -> Iterator[ZmqUse]:
    kept = _KEPT.get(module)
    stays = [name for name in names if (name in (*kept, "*") if kept else f"{module}.{name}" in _KEPT)]
    if stays:
        yield _stays(line, ", ".join(stays))
    for name in names if kept else ():
        if name not in stays:
            instead = f"one of {', '.join(kept or ())}"
            yield ZmqUse(line, "unknown-import", f"imports {name}, which does not exist", instead)


def _stays(line: int, names: str) -> ZmqUse:
    return ZmqUse(line, "import", f"imports {names}, which stays", "", change=False)


def _secures(node: ast.AST) -> bool:
    return any(
        (isinstance(inner, ast.Call) and called_name(inner) in SECURE | {"start_auth", "ZMQAuthenticator"})
        or (isinstance(inner, ast.ImportFrom) and (inner.module or "").endswith("secure_zmq"))
        for inner in ast.walk(node)
    )


def _goes_on(handler: ast.ExceptHandler) -> bool:
    inside = [inner for statement in handler.body for inner in ast.walk(statement)]
    ends = any(isinstance(node, ast.Call) and called_name(node) in _ENDS for node in inside)
    caught = {text_of(node).rpartition(".")[2] for node in ast.walk(handler.type)} if handler.type else set()
    return not (ends or caught & _STOPS or any(isinstance(node, ast.Raise) for node in inside))


def _fails_open(handler: ast.ExceptHandler) -> ZmqUse:
    return ZmqUse(handler.lineno, "fails-open", "continues without security after an error", "raise")


def _fixed(line: int, text: str, port: str = "zmq_port") -> ZmqUse:
    agent = "load_network_config().agent('AGENT')"
    if text.startswith("tcp:"):
        instead = f'f"tcp://*:{{{agent}.zmq_port}}"' if "*" in text else f"{agent}.endpoint"
    else:
        instead = f"{agent}.host.address" if "." in text else f"{agent}.{port}"
    return ZmqUse(line, "fixed-address", f"has the fixed address {text}", instead)


def _of_calls(source: AgentSource) -> Iterator[ZmqUse]:
    awaited = [inner for _, call in source.calls if called_name(call) == "wait_for" for inner in ast.walk(call)]
    for place, call in source.calls:
        name, line, function = called_name(call), call.lineno, text_of(call.func)
        if kind := socket_kind(call):
            yield ZmqUse(line, "socket", f"makes a {kind} socket", _INSTEAD_OF.get(kind, _STAYS), change=False)
        arguments = [text_of(argument) for argument in call.args]
        if name in {"get", "getenv"} and arguments[:1] == ["SECURE_ZMQ"] and arguments[1:2] != ["1"]:
            instead = "is_secure_zmq_enabled() of main_pc_code.src.network.secure_zmq"
            yield ZmqUse(line, "off-by-default", "has no security if SECURE_ZMQ is unset", instead)
        if name == "recv_pyobj" or (name == "loads" and "pickle" in function and _receives(call)):
            yield ZmqUse(line, "pickle", "unpickles what a peer sends, which can run any code", "recv_json()")
        if name == "send_pyobj" or (name in {"send", "send_multipart"} and "pickle.dumps(" in text_of(call)):
            yield ZmqUse(line, "pickle", "sends a pickle, which only Python reads", "send_json(MESSAGE)")
        if name in RECEIVE and call not in awaited and isinstance(call.func, ast.Attribute):
            yield from _of_receive(source, place, call, call.func.value)
        if function.endswith("Context.instance") and source.in_processes:
            instead = "zmq.Context(), made in the process that uses it"
            yield ZmqUse(line, "shared-context", "gets a Context that child processes can't use", instead)


def _receives(node: ast.AST) -> bool:
    return any(isinstance(inner, ast.Call) and called_name(inner) in RECEIVE for inner in ast.walk(node))


def _of_receive(source: AgentSource, place: NodePlace, call: ast.Call, owner: ast.expr) -> Iterator[ZmqUse]:
    socket, name = source.socket(owner, place), text_of(owner)
    arguments = " ".join(map(text_of, (*call.args, *(keyword.value for keyword in call.keywords))))
    options = source.options | (socket.options if socket else set())
    unknown = socket is None and called_name(call) == "recv"  # perhaps of a socket of TCP, or a pipe
    timed = options & {"RCVTIMEO", POLL} or source.is_timed(owner, place)
    if not (unknown or timed or _AT_ONCE.search(arguments)):
        serves = socket is not None and socket.kind not in _CONNECTING
        instead = f"if {name}.poll(1000): {text_of(call)}" if serves else f"{name}.rcvtimeo = 5000, before this line"
        yield ZmqUse(call.lineno, "no-timeout", "waits forever", instead)


def _of_sockets(source: AgentSource) -> Iterator[ZmqUse]:
    for socket in source.sockets.values():
        name, options = socket.name, socket.options | source.options
        missing = [option for option in ("REQ_RELAXED", "REQ_CORRELATE") if option not in options]
        if socket.kind == "REQ" and missing and CLOSED not in options:
            instead = "; ".join(f"{name}.setsockopt(zmq.{option}, 1)" for option in missing)
            yield ZmqUse(socket.line, "stuck-req", f"{name} can't send again after a lost reply", instead)
        if socket.opened and not (socket.secured or source.secures_others or socket.opened.startswith("inproc:")):
            secure = "secure_client_socket" if socket.kind in _CONNECTING else "secure_server_socket"
            instead = f"{name} = {secure}({name}), before it is bound or connected"
            yield ZmqUse(socket.line, "plain-socket", f"never secures {name}, so others refuse it", instead)
        yield from _shared(source, socket)


def _shared(source: AgentSource, socket: Socket) -> Iterator[ZmqUse]:
    inside = {function: line for function, line in socket.users.items() if function in source.in_threads}
    if inside and len(inside) < len(socket.users):
        function, line = min(inside.items(), key=lambda item: item[1])
        sentence = f"uses {socket.name} in the thread of {function.lstrip('.')}, and elsewhere in another"
        yield ZmqUse(line, "shared-socket", sentence, "a socket made in that thread; only its Context is shared")


def _of_order(source: AgentSource) -> Iterator[ZmqUse]:
    """Find sockets that get CURVE after they were bound or connected."""
    followed = {place.function for place, call in source.calls if called_name(call) in SECURE}
    if not followed:
        return
    followed |= {place.function for place, call in source.calls if called_name(call) in OPEN}
    while (
        more := {place.function for place, call in source.calls if source.called(call.func, place) in followed}
        - followed
    ):
        followed |= more
    top = [place.node for place in source.places if isinstance(place.node, ast.stmt) and place.node.col_offset == 0]
    yield from _Walk(source, NodePlace(ast.Module([], [])), followed, {}, {}).follow(top)
    for name in followed - {""}:
        function = source.functions[name]
        place = NodePlace(function, name.rpartition(".")[0], name)
        yield from _Walk(source, place, followed, {}, {}).follow(function.body)


@dataclass(slots=True)
class _Walk:
    """A function, followed in the order of execution into those of the same file that it calls."""

    source: AgentSource
    place: NodePlace
    followed: Set[str]  # the functions that lead to such calls
    given: Mapping[str, str]  # the sockets that parameters stand for
    opened: dict[str, int]  # the lines in which sockets were bound or connected
    depth: int = 3  # of calls

    def follow(self, block: Sequence[ast.AST]) -> Iterator[ZmqUse]:
        for statement in block:
            if isinstance(statement, Function | ast.ClassDef):
                continue
            blocks = [getattr(statement, name, []) for name in ("body", "orelse", "finalbody")]
            blocks += [handler.body for handler in getattr(statement, "handlers", [])]
            within = {inner for inside in blocks for node in inside for inner in ast.walk(node)}
            calls = [node for node in ast.walk(statement) if isinstance(node, ast.Call) and node not in within]
            for call in sorted(calls, key=lambda call: (call.end_lineno or 0, call.end_col_offset or 0)):
                yield from self._of(call)
            if any(map(socket_kind, calls)):  # a new socket under a name that another may have had
                items = getattr(statement, "items", ())
                for target in (*getattr(statement, "targets", ()), *(item.optional_vars for item in items)):
                    self.opened.pop(self._key(target), None)
            before, after = dict(self.opened), dict(self.opened)
            for inside in blocks:
                self.opened = dict(before) if isinstance(statement, ast.If) else self.opened
                yield from self.follow(inside)
                if not inside or not isinstance(inside[-1], ast.Return | ast.Raise | ast.Continue | ast.Break):
                    after |= self.opened
            self.opened = after

    def _of(self, call: ast.Call) -> Iterator[ZmqUse]:
        name, target = called_name(call), self.source.called(call.func, self.place)
        if name in SECURE and call.args and (line := self.opened.get(self._key(call.args[0]))):
            sentence = f"secures {text_of(call.args[0])} after line {line} has bound or connected it"
            yield ZmqUse(call.lineno, "late-security", sentence, f"this line, moved above line {line}")
        elif name in OPEN and isinstance(call.func, ast.Attribute):
            self.opened[self._key(call.func.value)] = call.lineno
        elif name == "close" and isinstance(call.func, ast.Attribute):
            self.opened.pop(self._key(call.func.value), None)
        elif target and target in self.followed and self.depth:
            function = self.source.functions[target]
            parameters = [parameter.arg for parameter in function.args.args if parameter.arg != "self"]
            given = {name: self._key(node) for name, node in zip(parameters, call.args, strict=False)}
            place = NodePlace(function, target.rpartition(".")[0], target)
            inner = _Walk(self.source, place, self.followed, given, self.opened, self.depth - 1)
            yield from inner.follow(function.body)
            self.opened = inner.opened

    def _key(self, node: ast.AST) -> str:
        return self.given.get(text_of(node)) or self.source.key(node, self.place)
