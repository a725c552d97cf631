#!/usr/bin/env python3
"""Draw the diagrams that the documentation has of the code: each replaces what a page has between its two markers.

Exit status: 0 written; with `--check`, 1 where a page is out of date, and nothing is written.
"""

import argparse
import logging
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import grimp
import structlog

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "services"))

from twinhost.certificates.admission import ADMISSION  # noqa: E402  (after the path)
from twinhost.certificates.join import JOIN  # noqa: E402
from twinhost.certificates.layout import SERVER  # noqa: E402
from twinhost.certificates.rotate import ROTATION  # noqa: E402
from twinhost.secure_zmq.link import LINK  # noqa: E402
from twinhost.testing.stack import MEMORY, Stack  # noqa: E402

_TRACED = ("Client.call", "Server._next_batch", "Server._answer")  # what a request is in, by the thread's outer call
_LEFT_OUT = (  # whether they are called depends on the time, or on a C compiler; or nobody wants to know
    *("ClientSocket.readable", "readable", "plain_send"),
    *("Clock.time", "Clock.monotonic"),
)
_REGISTRATION = {"agent_id": "lamp", "agent_type": "light", "host": "192.0.2.17", "health_check_port": 6570}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the diagrams, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    check = parser.parse_args(arguments).check
    for page, name, draw in DIAGRAMS:
        path = REPOSITORY / page
        text = path.read_text(encoding="utf-8")
        drawn = redrawn(text, name, draw())
        if not check:
            path.write_text(drawn, encoding="utf-8")
        elif text != drawn:
            print(f"{path} is out of date; run: make generate", file=sys.stderr)
            return 1
    return 0


def redrawn(text: str, name: str, diagram: str) -> str:
    """Return a page's text with another diagram between the markers of that name."""
    begin, end = f"<!-- drawn by scripts/write_diagrams.py: {name} -->\n", "<!-- end -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    if not after:
        raise ValueError(f"the page has no markers of the diagram {name!r}: {begin.strip()} and {end}")
    return f"{before}{begin}\n```mermaid\n{diagram}\n```\n\n{end}{after}"


def packages() -> str:
    """Return the parts of the package in their layers, and which imports which, as far as no other arrow implies it."""
    contracts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [[part.strip() for part in layer.split("|")] for layer in contracts[0]["layers"]]
    graph = grimp.build_graph("twinhost", exclude_type_checking_imports=True, cache_dir=None)
    parts = [part for layer in layers for part in layer]
    for part in parts:
        if graph.find_children(f"twinhost.{part}"):
            graph.squash_module(f"twinhost.{part}")
    imports = {
        part: {
            name
            for name in parts
            if name != part and f"twinhost.{name}" in graph.find_modules_directly_imported_by(f"twinhost.{part}")
        }
        for part in parts
    }
    lines = ["flowchart TD"]
    for number, layer in enumerate(layers):
        lines += [f"    subgraph layer{number}[ ]", *(f"        {part}" for part in layer), "    end"]
    for part, imported in imports.items():
        implied = {name for other in imported for name in _reached(imports, other) - {other}}
        lines += [f"    {part} --> {name}" for name in sorted(imported - implied)]
    return "\n".join(lines)


def _reached(imports: dict[str, set[str]], part: str) -> set[str]:
    return {part}.union(*(_reached(imports, name) for name in imports[part]))


class Walk:
    """Records which module calls which, the first time, while a request is sent, executed and answered."""

    def __init__(self) -> None:
        self.on = False
        self.steps: dict[tuple[str, str, str], str] = {}  # by thread, caller and called module: the function
        self._traced: set[FrameType] = set()  # those of _TRACED that began while it was on, and have not ended

    def profile(self, frame: FrameType, event: str, _: Any) -> None:
        name, module = frame.f_code.co_qualname, _module(frame)
        if event == "return":
            self._traced.discard(frame)
        if not self.on or event != "call" or module is None or "<" in name or name in _LEFT_OUT:
            return
        callers = list(_callers(frame))
        if name in _TRACED:
            self._traced.add(frame)
        origin = next((caller for outer in callers if (caller := _module(outer))), None)
        if origin not in (None, module) and not self._traced.isdisjoint(callers):
            self.steps.setdefault((threading.current_thread().name, str(origin), module), name)


def _callers(frame: FrameType) -> Iterator[FrameType]:
    while (outer := frame.f_back) is not None:
        yield (frame := outer)


def _module(frame: FrameType) -> str | None:
    name = str(frame.f_globals.get("__name__", ""))
    return name.removeprefix("twinhost.").removeprefix("secure_zmq.") if name.startswith("twinhost.") else None


def _rests(loop: threading.Thread) -> bool:
    return any(frame.f_code.co_name == "_rest" for frame in _callers(sys._current_frames()[loop.ident or 0]))  # noqa: SLF001


def request_walk() -> str:
    """Return the way of one `register_agent` through the modules: by thread, each pair of modules once."""
    walk = Walk()
    threading.setprofile(walk.profile)
    with Stack(heartbeat_s=60.0) as stack:
        threading.setprofile(None)
        with stack.client(SERVER) as client:
            client.call("register_agent", registration_data={**_REGISTRATION, "port": 1})
            stack.stop(MEMORY)  # whose requests would be recorded too
            walk.on = True
            loop = next(thread for thread in threading.enumerate() if thread.name == SERVER)
            while not _rests(loop):  # else the turn that receives the request may have begun before
                time.sleep(0.01)
            sys.setprofile(walk.profile)
            client.call("register_agent", registration_data={**_REGISTRATION, "port": 2})
            sys.setprofile(None)
            walk.on = False
    order = list(walk.steps)
    served = [step for step in order if step[0] == SERVER]
    answered = order.index(served[-1])
    before = [step for step in order[:answered] if step not in served]
    lines = ["sequenceDiagram"]
    for heading, steps in (("asked", before), ("answered", served), ("received", order[answered + 1 :])):
        lines += [f"    Note over client,server: {heading}"]
        lines += [f"    {origin}->>{called}: {walk.steps[thread, origin, called]}" for thread, origin, called in steps]
    return "\n".join(lines)


Diagram = tuple[str, str, Callable[[], str]]  # the page, the diagram's name in its markers, and what draws it
DIAGRAMS: tuple[Diagram, ...] = (
    ("docs/explanation/link.md", "link", LINK.mermaid),
    ("docs/explanation/enrolment.md", "admission", ADMISSION.mermaid),
    ("docs/explanation/enrolment.md", "join", JOIN.mermaid),
    ("docs/explanation/rotation.md", "rotation", ROTATION.mermaid),
    ("docs/explanation/packages.md", "packages", packages),
    ("docs/explanation/request-walk.md", "request", request_walk),
)

if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    sys.exit(main())
