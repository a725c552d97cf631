"""docker-stack.yml says only what a swarm has differently; all else is docker-compose.yml's."""

import json
import subprocess
from typing import Any

from tests.containers.stack import REPOSITORY

SAYS_ITSELF = {
    "depends_on",
    "restart",
    "pull_policy",
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
}
PUBLISHED = {"mainpc": [7120, 7150], "pc2": [7230]}


def merged(*files: str) -> dict[str, Any]:
    """Return the services of these Compose files, laid over each other."""
    arguments = [argument for file in files for argument in ("--file", file)]
    command = ["docker", "compose", *arguments, "config", "--format", "json"]
    services: dict[str, Any] = json.loads(subprocess.check_output(command, cwd=REPOSITORY))["services"]
    return services


def test_a_stack_has_all_that_compose_has() -> None:
    """Both hosts, with the same image, mounts, limits and settings; addresses alone are the overlay network's."""
    compose = merged("docker-compose.yml")
    stack = merged("docker-compose.yml", "docker-stack.yml")
    assert stack.keys() == PUBLISHED.keys()
    for host, ports in PUBLISHED.items():
        own, other = compose[host], stack[host]
        environment = {**own.pop("environment"), "MAINPC_IP": "", "PC2_IP": "", "TWINHOST_PUBLISH_ADDRESS": "0.0.0.0"}
        assert other.pop("environment") == environment
        limits = other["deploy"]["resources"]["limits"]
        assert (int(limits["memory"]), limits["pids"]) == (int(own["mem_limit"]), own["pids_limit"])
        assert own["memswap_limit"] == own["mem_limit"]
        tmp = {"type": "tmpfs", "target": "/tmp", "tmpfs": {"size": str(16 * 1024 * 1024)}}
        assert other["volumes"] == [*own["volumes"], tmp]
        assert own["tmpfs"] == ["/tmp:size=16m,mode=1777,noexec,nosuid,nodev"]
        assert [(port["mode"], port["target"]) for port in other["ports"]] == [("host", port) for port in ports]
        assert {name: own[name] for name in own.keys() - SAYS_ITSELF} == {
            name: other[name] for name in other.keys() - SAYS_ITSELF
        }
