"""The folders of an agent's state, and of the assets that the image's build wrote."""

import os
from collections.abc import Mapping
from pathlib import Path

STATE_VARIABLE = "TWINHOST_STATE"
DEFAULT_STATE = "/var/lib/twinhost"
ASSETS_VARIABLE = "TWINHOST_ASSETS"
DEFAULT_ASSETS = "/opt/twinhost/assets"  # the chart library, and the schemas


def state_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder in TWINHOST_STATE, or `/var/lib/twinhost`."""
    return Path(environment.get(STATE_VARIABLE) or DEFAULT_STATE)


def assets_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder in TWINHOST_ASSETS, or `/opt/twinhost/assets`."""
    return Path(environment.get(ASSETS_VARIABLE) or DEFAULT_ASSETS)
