"""`python -m tests.benchmarks.speed.child MODULE FUNCTION`: a server or a load, in a process of its own.

Reads one line of JSON, the function's arguments; prints one line of JSON, its result. Then, so that connections can be
held open, it ends only when its input does. A server prints `null` itself, once it is bound, and never returns.
"""

import asyncio
import importlib
import inspect
import json
import resource
import sys


def ready() -> None:
    """Notify the process that started this server that it is bound."""
    print("null", flush=True)


def main() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    function = getattr(importlib.import_module(f"tests.benchmarks.speed.{sys.argv[1]}"), sys.argv[2])
    arguments = json.loads(sys.stdin.readline())
    result = function(**arguments)
    if inspect.iscoroutine(result):
        result = asyncio.run(result)
    print(json.dumps(result), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
