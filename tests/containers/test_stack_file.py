"""docker-stack.yml says only what a swarm has differently; all else is docker-compose.yml's."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.containers.stack import REPOSITORY

SAYS_ITSELF = {
    "depends_on",
    "restart",
    "pull_policy",
    "profiles",
    "security_opt",
    "mem_limit",
    "memswap_limit",
    "dns",
    "pids_limit",
    "tmpfs",
    "volumes",
    "ports",
    "networks",
    "deploy",
    "healthcheck",
    "environment",
    "ulimits",
}
ALONE: dict[str, list[int]] = {"mainpc": [7120, 7150], "pc2": [7230]}
AGENTS = {**ALONE, "mainpc-standby": [7120, 7150], "pc2-standby": [7230]}
WITH_STANDBYS = {**AGENTS, "witness": [], "database-mainpc": [], "database-pc2": []}
OF_THREE = {
    "TWINHOST_DATABASE": "postgresql:///",
    "TWINHOST_DATABASE_KEYS": "database-certificates",
    "TWINHOST_HOST": "mainpc",
}
TMP = {"type": "tmpfs", "target": "/tmp", "tmpfs": {"size": 16 * 1024 * 1024}}
RUN = {"type": "volume", "source": "database-run", "target": "/run/postgresql", "volume": {}}
RUN_OPTIONS = "size=1m,mode=0700,uid=10001,gid=10001,noexec,nosuid,nodev"
# A swarm's manager with a node of each label, for which the real program merges the files.
MANAGER = """#!/bin/sh
case "$1 $2" in
"compose "*) exec {docker} "$@" ;;
"info "*) echo true ;;
"node ls") echo a-node ;;
"stack deploy") cat >{deployed}; exit 1 ;;
esac
"""


def deployed(folder: Path, settings: dict[str, str]) -> dict[str, Any]:
    """Return what `make stack` gives a swarm."""
    (folder / "docker").write_text(MANAGER.format(docker=shutil.which("docker"), deployed=folder / "deployed"))
    (folder / "docker").chmod(0o755)
    environment = {**os.environ, **settings, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["scripts/setup/stack.sh"], cwd=REPOSITORY, env=environment, check=False)
    read = ["docker", "stack", "config", "--compose-file", str(folder / "deployed")]  # what it doesn't know, it refuses
    subprocess.run(read, check=True, stdout=subprocess.DEVNULL)
    return dict(json.loads((folder / "deployed").read_text()))


@pytest.mark.parametrize(("settings", "parts"), [({}, ALONE), (OF_THREE, WITH_STANDBYS)], ids=["alone", "standbys"])
def test_a_stack_has_all_that_compose_has(
    settings: dict[str, str], parts: dict[str, list[int]], tmp_path: Path
) -> None:
    """The same image, mounts, limits and settings; addresses alone are the overlay network's."""
    command = ["docker", "compose", "--profile", "ha", "config", "--format", "json"]
    output = subprocess.check_output(command, cwd=REPOSITORY, env={**os.environ, **settings})
    compose, stack = json.loads(output)["services"], deployed(tmp_path, {**settings, "WITNESS_IP": "192.0.2.30"})
    assert stack["services"].keys() == parts.keys()
    for name, ports in parts.items():
        own, other = compose[name], stack["services"][name]
        limits = other["deploy"]["resources"]["limits"]
        assert (int(limits["memory"]), limits["pids"]) == (int(own["mem_limit"]), own["pids_limit"])
        assert own["memswap_limit"] == own["mem_limit"]
        assert other["ulimits"] == {"core": 0, "nofile": own["ulimits"]["nofile"]}
        tmp, *run = own["tmpfs"]
        assert tmp == "/tmp:size=16m,mode=1777,noexec,nosuid,nodev"
        if name in AGENTS:
            there = {"MAINPC_IP": "", "PC2_IP": "", "TWINHOST_PUBLISH_ADDRESS": "0.0.0.0"}
            assert (other["environment"], other["healthcheck"]) == ({**own["environment"], **there}, own["healthcheck"])
            assert other["volumes"] == [*own["volumes"], TMP]
        else:
            assert (other["environment"], other["healthcheck"]) == (own["environment"], {"disable": True})
            assert other["volumes"] == [*own["volumes"], TMP, RUN]
            assert run == [f"/run/postgresql:{RUN_OPTIONS}"]
            assert stack["volumes"]["database-run"]["driver_opts"]["o"] == RUN_OPTIONS
        assert other["networks"].keys() == {"link"}
        assert [(port["mode"], port["target"]) for port in other.get("ports", ())] == [("host", port) for port in ports]
        said = {key: value for key, value in own.items() if key not in SAYS_ITSELF and value is not None}
        assert said == {key: other[key] for key in other.keys() - SAYS_ITSELF}
