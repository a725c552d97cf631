"""Where an agent keeps its state."""

import os
from collections.abc import Mapping
from pathlib import Path

STATE_VARIABLE = "TWINHOST_STATE"
DEFAULT_STATE = "/var/lib/twinhost"


def state_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder that TWINHOST_STATE names, `/var/lib/twinhost` where it is unset."""
    return Path(environment.get(STATE_VARIABLE) or DEFAULT_STATE)
