"""What this host was given, as far as it could be read: an examination goes on where a command would end."""

from dataclasses import dataclass
from pathlib import Path

from twinhost.cli.connect import Settings
from twinhost.network_config import NetworkConfig
from twinhost.secure_zmq.certificates import Certificates

HERE = "here"


@dataclass(frozen=True, slots=True)
class Scene:
    """What is known of this host; None where it could not be read, and a finding says why.

    `secure` is None where SECURE_ZMQ is neither 1 nor 0.
    """

    folder: Path
    secure: bool | None
    config: NetworkConfig | None
    certificates: Certificates | None  # None also where SECURE_ZMQ=0

    @property
    def settings(self) -> Settings | None:
        """What the agents can be asked with; None where anything that it takes is missing."""
        if self.config is None or self.secure is None or (self.secure and self.certificates is None):
            return None
        return Settings(self.config, self.certificates if self.secure else None)
