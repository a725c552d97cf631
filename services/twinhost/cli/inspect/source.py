"""Reads an agent's source: the sockets that it makes, what it does with them, and which functions run in threads.

The source is parsed and never run. Names are followed within one file: `self.socket` through its class and its bases, a
variable through its function, and what is read for a timeout also into the functions that it comes from and goes to.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from functools import cached_property

KINDS = frozenset({"REQ", "REP", "DEALER", "ROUTER", "PUB", "SUB", "XPUB", "XSUB", "PUSH", "PULL", "PAIR"})
RECEIVE = frozenset({"recv", "recv_json", "recv_string", "recv_unicode", "recv_multipart", "recv_pyobj"})
SEND = frozenset({"send", "send_json", "send_string", "send_unicode", "send_multipart", "send_pyobj"})
OPEN = frozenset({"bind", "connect", "bind_to_random_port"})
SECURE = frozenset(
    {"configure_secure_client", "configure_secure_server", "secure_client_socket", "secure_server_socket"}
)
POLL, CLOSED = "POLL", "CLOSED"  # beside the names of options: it is polled before it is read; its maker closes it
_TIMED = frozenset({"RCVTIMEO", POLL})
_THREADS = frozenset({"Thread", "submit", "run_in_executor", "to_thread", "start_new_thread"})
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(slots=True)
class Socket:
    """A socket as its file uses it; `users` are the functions that send or receive on it, with a line each."""

    name: str
    kind: str
    line: int
    maker: str  # its function
    options: set[str] = field(default_factory=set)
    users: dict[str, int] = field(default_factory=dict)
    opened: str = ""  # the first address
    secured: bool = False


@dataclass(frozen=True, slots=True)
class NodePlace:
    """A node, the class that it is in, and its function: `Class.name`, or `.name` outside of classes."""

    node: ast.AST
    owner: str = ""
    function: str = ""

    def inside(self) -> Iterator["NodePlace"]:
        """Yield every node below with its place, in the order of the source."""
        for child in ast.iter_child_nodes(self.node):
            place = NodePlace(child, self.owner, self.function)
            yield place
            if isinstance(child, ast.ClassDef):
                place = NodePlace(child, child.name)
            elif isinstance(child, Function):
                place = NodePlace(child, self.owner, f"{self.owner}.{child.name}")
            yield from place.inside()


class AgentSource:
    """One file: its nodes, functions, and sockets; `options` are those that may hold for every socket."""

    def __init__(self, text: str | bytes) -> None:
        """Read a file's text.

        Raises:
            SyntaxError, ValueError: it is not Python source.
        """
        self.places = list(NodePlace(ast.parse(text)).inside())
        self.calls = [(place, place.node) for place in self.places if isinstance(place.node, ast.Call)]
        self.functions = {
            f"{place.owner}.{place.node.name}": place.node for place in self.places if isinstance(place.node, Function)
        }
        self._bases = {
            place.node.name: [text_of(base) for base in place.node.bases]
            for place in self.places
            if isinstance(place.node, ast.ClassDef)
        }
        self.sockets: dict[str, Socket] = {}
        self.options: set[str] = set()  # of a Context, or of a parameter
        self.secures_others = False  # what is secured is a parameter, for example
        for place in self.places:
            self._find_socket(place)
        for place in self.places:
            if isinstance(place.node, ast.Assign):
                self._find_attributes(place, place.node)
            elif isinstance(place.node, ast.Call):
                self._find_use(place, place.node)
        self._polled: set[str] = set()  # names
        self._sources: defaultdict[str, list[str | None]] = defaultdict(list)  # of a name; None: any other value
        self._parameters: defaultdict[str, list[str]] = defaultdict(list)  # that a name is given to
        for place in self.places:
            self._follow_names(place)
        self.in_threads = self._started_by(_THREADS)
        self.in_processes = self._started_by({"Process"})

    def key(self, node: ast.AST, place: NodePlace) -> str:
        """Return what a name, or an attribute of `self`, is known as in this file."""
        text = text_of(node)
        if text.startswith("self."):
            names = [f"{owner}{text.removeprefix('self')}" for owner in self._family(place.owner)]
            return next((name for name in names if name in self.sockets), names[0])
        local = f"{place.function}:{text}"
        return local if local in self.sockets else text

    def socket(self, node: ast.AST, place: NodePlace) -> Socket | None:
        return self.sockets.get(self.key(node, place))

    def called(self, node: ast.AST, place: NodePlace) -> str | None:
        """Return the function of this file that an expression names."""
        match node:
            case ast.Name(id=name):
                name = f".{name}"
            case ast.Attribute(value=ast.Name(id="self"), attr=name):
                names = [f"{owner}.{name}" for owner in self._family(place.owner)]
                return next((name for name in names if name in self.functions), None)
            case _:
                return None
        return name if name in self.functions else None

    def is_timed(self, node: ast.AST, place: NodePlace) -> bool:
        """Return whether a timeout is set, or a poll made, by a function that a socket comes from or is given to."""
        return self._name(node, place) in self._timed

    @cached_property
    def _timed(self) -> Set[str | None]:
        """The names of which a timeout or a poll is found; each is looked at once a round, as they may be a circle."""
        timed: set[str | None] = {
            *self._polled,
            *(name for name, socket in self.sockets.items() if socket.options & _TIMED),
        }
        while given := {name for name, those in self._parameters.items() if not timed.isdisjoint(those)} - timed:
            timed |= given
        while made := {name for name, those in self._sources.items() if timed.issuperset(those)} - timed:
            timed |= made
        return timed

    def _name(self, node: ast.AST, place: NodePlace) -> str | None:
        """Return a name that may stand for a socket, or for the collection that has it; None for anything else."""
        node = _bare(node)
        if isinstance(node, ast.Name):
            return f"{place.function}:{node.id}" if place.function else node.id
        return self.key(node, place) if isinstance(node, ast.Attribute) else None

    def _values(self, node: ast.AST, place: NodePlace) -> list[str | None]:
        """Return the names that a value may be: itself, or what a function of this file returns."""
        node = _bare(node)
        function = self.called(node.func, place) if isinstance(node, ast.Call) else None
        if function is None:
            return [self._name(node, place)]
        there = NodePlace(self.functions[function], function.rpartition(".")[0], function)
        returned = [inner.node.value for inner in there.inside() if isinstance(inner.node, ast.Return)]
        return [None if value is None else self._name(value, there) for value in returned] or [None]

    def _follow_names(self, place: NodePlace) -> None:
        if isinstance(place.node, ast.Call):
            self._follow_arguments(place, place.node)
        if (assigned := _assigned(place.node)) is None:
            return
        target, value = assigned
        if isinstance(place.node, ast.Assign) and socket_kind(value):
            return
        empty = isinstance(value, ast.Dict | ast.List) and not ast.unparse(value)[1:-1]
        if (name := self._name(target, place)) and not empty:
            self._sources[name] += self._values(value, place)

    def _follow_arguments(self, place: NodePlace, call: ast.Call) -> None:
        name = called_name(call)
        polled: list[ast.AST] = [call.func.value] if name == "poll" and isinstance(call.func, ast.Attribute) else []
        polled += [inner for node in call.args[:1] if name in {"register", "select"} for inner in ast.walk(node)]
        self._polled |= {known for node in polled if (known := self._name(node, place))}
        if function := self.called(call.func, place):
            parameters = [parameter.arg for parameter in self.functions[function].args.args if parameter.arg != "self"]
            given = dict(zip(parameters, call.args, strict=False))
            given |= {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg in parameters}
            for parameter, node in given.items():
                source, name = self._name(node, place), f"{function}:{parameter}"
                self._sources[name].append(source)
                if source is not None:
                    self._parameters[source].append(name)

    def _family(self, owner: str) -> list[str]:
        """Return a class and its bases in this file, the nearest first."""
        family = [owner]
        for member in family:
            family += [base for base in self._bases.get(member, ()) if base not in family]
        return family

    def _find_socket(self, place: NodePlace) -> None:
        if (assigned := _assigned(place.node)) is None:
            return
        target, value = assigned
        for call in ast.walk(value):
            if isinstance(call, ast.Call) and (kind := socket_kind(call)):
                local = isinstance(target, ast.Name) and place.function
                key = f"{place.function}:{text_of(target)}" if local else self.key(target, place)
                secured = isinstance(value, ast.Call) and called_name(value) in SECURE
                self.sockets[key] = Socket(text_of(target), kind, call.lineno, place.function, secured=secured)
                if isinstance(place.node, ast.withitem):
                    self.sockets[key].options.add(CLOSED)

    def _find_attributes(self, place: NodePlace, node: ast.Assign) -> None:
        for target in node.targets:
            if isinstance(target, ast.Attribute):
                socket = self.socket(target.value, place)
                (socket.options if socket else self.options).add(target.attr.upper())

    def _find_use(self, place: NodePlace, call: ast.Call) -> None:
        name, arguments = called_name(call), call.args
        if name in SECURE and arguments:
            if socket := self.socket(arguments[0], place):
                socket.secured = True
            elif not socket_kind(arguments[0]):
                self.secures_others = True
        if name in {"register", "select"}:
            for node in (inner for argument in arguments[:1] for inner in ast.walk(argument)):
                if socket := self.socket(node, place):
                    socket.options.add(POLL)
        if isinstance(call.func, ast.Attribute):
            socket = self.socket(call.func.value, place)
            if name in {"setsockopt", "set"} and arguments:
                (socket.options if socket else self.options).add(text_of(arguments[0]).rpartition(".")[2])
            if socket is not None:
                self._note_use(socket, place, call)

    @staticmethod
    def _note_use(socket: Socket, place: NodePlace, call: ast.Call) -> None:
        name, arguments = called_name(call), call.args
        if name == "poll":
            socket.options.add(POLL)
        elif name == "close" and place.function == socket.maker:
            socket.options.add(CLOSED)
        elif name in OPEN:
            socket.opened = socket.opened or (text_of(arguments[0]) if arguments else "an address")
        elif name in RECEIVE | SEND:
            socket.users.setdefault(place.function, call.lineno)

    def _started_by(self, starters: Set[str]) -> set[str]:
        """Return the functions that are given to a call such as `Thread(target=…)`, and those that they call."""
        reached: set[str] = set()
        for place, call in self.calls:
            if called_name(call) in starters:
                given = [*call.args, *(keyword.value for keyword in call.keywords)]
                reached |= {name for node in given if (name := self.called(node, place))}
        while True:
            more = {
                name
                for place, call in self.calls
                if place.function in reached and (name := self.called(call.func, place))
            }
            if more <= reached:
                return reached
            reached |= more


def _assigned(node: ast.AST) -> tuple[ast.expr, ast.expr] | None:
    """Return the target and the value of an assignment, or of a `with`."""
    match node:
        case (
            ast.Assign(targets=[target], value=value)
            | ast.AnnAssign(target=target, value=ast.expr() as value)
            | ast.NamedExpr(target=target, value=value)
            | ast.withitem(context_expr=value, optional_vars=ast.expr() as target)
        ):
            return target, value
    return None


def _bare(node: ast.AST) -> ast.AST:
    """Return what is inside a call that secures it, or what an index selects from."""
    while True:
        match node:
            case ast.Call(args=[inner, *_]) if called_name(node) in SECURE:
                node = inner
            case ast.Subscript(value=inner):
                node = inner
            case _:
                return node


def text_of(node: ast.AST) -> str:
    """Return an expression as source; that of a string is its content."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ast.unparse(node)


def called_name(call: ast.Call) -> str:
    """Return the last word of what is called: `recv` of `self.socket.recv()`."""
    match call.func:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""


def socket_kind(node: ast.AST) -> str:
    """Return the kind of socket that a call makes, such as `REQ`; empty for any other node."""
    if not isinstance(node, ast.Call) or called_name(node) != "socket":
        return ""
    arguments = [*node.args[:1], *(keyword.value for keyword in node.keywords if keyword.arg == "socket_type")]
    words = [text_of(argument).rpartition(".")[2] for argument in arguments]
    return next((word for word in words if word in KINDS), "")
