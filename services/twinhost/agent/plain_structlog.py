"""Imports structlog for an agent's process, and not rich, which structlog imports where it is installed.

It would only format tracebacks for a terminal: 4 MB, and a tenth of a second of CPU time at the start.
"""

import sys

if "structlog" not in sys.modules and "rich" not in sys.modules:
    sys.modules["rich"] = None  # type: ignore[assignment]  # an import raises ImportError
    try:
        import structlog  # noqa: F401
    finally:
        del sys.modules["rich"]
