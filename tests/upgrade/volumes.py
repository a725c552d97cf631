"""Volumes that an earlier version's image wrote, and today's agents on them, a few minutes after they were written."""

import json
import os
import shutil
import tarfile
import time
from pathlib import Path
from typing import Any

from tests.loopback.agent_processes import SDT, UMRA, Hosts
from tests.upgrade.make_volumes import MACHINES

HERE = Path(__file__).parent
VERSIONS = sorted(path.stem for path in HERE.glob("*.json"))
_LATER_S = 120.0  # another minute of the metrics' history


class Volumes:
    """What one version left, and what its agents answered."""

    def __init__(self, version: str) -> None:
        self.archive = HERE / f"{version}.tar.xz"
        self._document: dict[str, Any] = json.loads((HERE / f"{version}.json").read_text(encoding="utf-8"))

    @property
    def moment(self) -> float:
        """When it was stopped, in seconds since the epoch."""
        return float(self._document["moment"])

    @property
    def waiting(self) -> int:
        """How much pc2 had not sent to mainpc."""
        return int(self._document["waiting"])

    @property
    def asked(self) -> list[dict[str, Any]]:
        """Questions with what lasts of their answers."""
        return list(self._document["asked"])

    @property
    def retried(self) -> list[dict[str, Any]]:
        """Requests whose replies were stored, with these replies."""
        return list(self._document["retried"])

    def unpack(self, folder: Path) -> None:
        with tarfile.open(self.archive) as archive:
            archive.extractall(folder, filter="data")


class UpgradedHosts(Hosts):
    """Both hosts on these volumes; their wall clock goes on soon after the moment at which the volumes were written.

    Memories fade and history ends by the wall clock, so the answers would be others in a year.
    """

    def __init__(self, root: Path, volumes: Volumes) -> None:
        super().__init__(root)
        self._turned_s = volumes.moment + _LATER_S - time.time()
        for folder in (self.keys, root / SDT, root / UMRA):
            shutil.rmtree(folder)
        volumes.unpack(root)
        (root / "mainpc-state").rename(root / SDT)
        (root / "pc2-state").rename(root / UMRA)

    def environment(self, name: str) -> dict[str, str]:
        """Return the environment of an agent's process, whose clock is turned."""
        environment = super().environment(name)
        paths = [str(HERE / "turned"), environment.get("PYTHONPATH")]
        return {**environment, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "TURNED_S": str(self._turned_s)}

    def folder(self, name: str) -> Path:
        """Return a folder of keys; a machine that joined has a tree of its own."""
        return self.root / name / name if name in MACHINES else super().folder(name)
