"""What the commands know of this program's deployment."""

import os
from collections.abc import Mapping

from twinhost.deployment import REGISTRY_AGENT, Settings, load_settings
from twinhost.secure_zmq.certificates import FAILURE_FILE, certificates_folder

__all__ = ["OPEN_LINK", "REGISTRY_AGENT", "Settings", "certs_init_failure", "load_settings"]

OPEN_LINK = "SECURE_ZMQ=0: nothing is encrypted and nobody is authenticated"


def certs_init_failure(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return why the last run of certs-init that makes keys failed; None if it did not."""
    try:
        return (certificates_folder(environment) / FAILURE_FILE).read_text("utf-8", "replace").strip()
    except OSError:
        return None
