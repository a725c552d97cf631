"""Where an agent keeps its state, and where the image keeps what its build wrote."""

import os
from collections.abc import Mapping
from pathlib import Path

STATE_VARIABLE = "TWINHOST_STATE"
DEFAULT_STATE = "/var/lib/twinhost"
ASSETS_VARIABLE = "TWINHOST_ASSETS"
DEFAULT_ASSETS = "/opt/twinhost/assets"  # the chart library, and the schemas


def state_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder that TWINHOST_STATE names, `/var/lib/twinhost` where it is unset."""
    return Path(environment.get(STATE_VARIABLE) or DEFAULT_STATE)


def assets_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder that TWINHOST_ASSETS names, `/opt/twinhost/assets` where it is unset."""
    return Path(environment.get(ASSETS_VARIABLE) or DEFAULT_ASSETS)
