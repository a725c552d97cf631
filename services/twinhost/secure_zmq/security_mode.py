"""SECURE_ZMQ: 1 or 0, and nothing that could be mistaken for either."""

import os
from collections.abc import Mapping

from twinhost.secure_zmq.errors import ConfigurationError

VARIABLE = "SECURE_ZMQ"


def is_secure_zmq_enabled(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether links are encrypted and authenticated; they are where the variable is unset.

    Raises:
        ConfigurationError: the variable is neither `1` nor `0`.
    """
    value = environment.get(VARIABLE, "1")
    if value not in ("0", "1"):
        raise ConfigurationError(f"{VARIABLE} is {value!r}; set it to 1 (encrypted) or 0 (open) in .env, or remove it")
    return value == "1"
