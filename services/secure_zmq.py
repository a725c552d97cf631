"""`twinhost.secure_zmq` under its name of version 0.1.0, for programs that run with `PYTHONPATH=services`."""

import sys
from typing import Any

import twinhost.secure_zmq
from twinhost.secure_zmq import errors

__all__ = list(twinhost.secure_zmq.__all__)
sys.modules[f"{__name__}.errors"] = errors  # for `from secure_zmq.errors import …`, and the same classes


def __getattr__(name: str) -> Any:
    return getattr(twinhost.secure_zmq, name)
