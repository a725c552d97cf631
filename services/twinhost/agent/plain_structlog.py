"""Imports structlog for an agent's process without rich and greenlet, which it imports where they are installed.

rich would only format tracebacks for a terminal: 4 MB, and a tenth of a second of CPU time at the start. greenlet, 1.6
MB, is for contexts that no agent uses.
"""

import sys

_UNUSED = {"rich", "greenlet"}.difference(sys.modules)

if "structlog" not in sys.modules:
    sys.modules.update(dict.fromkeys(_UNUSED))  # type: ignore[arg-type]  # an import raises ImportError
    try:
        import structlog  # noqa: F401
    finally:
        for name in _UNUSED:
            del sys.modules[name]
