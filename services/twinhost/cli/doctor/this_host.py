"""What this host was told: SECURE_ZMQ, the network configuration, and its folder of keys."""

from collections.abc import Mapping

from twinhost.adversary.attack import Finding, Verdict
from twinhost.cli.connect import OPEN_LINK
from twinhost.cli.doctor.folder import examine_folder, load_own_keys
from twinhost.cli.doctor.scene import HERE, Scene
from twinhost.network_config import NetworkConfig, load_network_config
from twinhost.secure_zmq.certificates import certificates_folder
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.secure_zmq.security_mode import is_secure_zmq_enabled

SECURITY, CONFIGURATION = "SECURE_ZMQ", "network configuration"


def examine_this_host(environment: Mapping[str, str]) -> tuple[Scene, list[Finding]]:
    """Return what this host was given, and what is to be said of it."""
    secure, security = _security(environment)
    config, configuration = _configuration(environment)
    findings = [security, configuration]
    folder = certificates_folder(environment)
    if secure is False:
        return Scene(folder, secure, config, None), findings
    certificates, halves = load_own_keys(folder)
    scene = Scene(folder, secure, config, certificates)
    return scene, [*findings, halves, *examine_folder(scene)]


def _security(environment: Mapping[str, str]) -> tuple[bool | None, Finding]:
    try:
        secure = is_secure_zmq_enabled(environment)
    except ConfigurationError as error:
        return None, Finding(SECURITY, HERE, Verdict.FAILED, str(error))
    if not secure:
        sentence = f"{OPEN_LINK}; set SECURE_ZMQ=1 in .env, on both hosts, and start the agents again"
        return False, Finding(SECURITY, HERE, Verdict.FAILED, sentence)
    return True, Finding(SECURITY, HERE, Verdict.OK, "1: encrypted and authenticated, or no connection at all")


def _configuration(environment: Mapping[str, str]) -> tuple[NetworkConfig | None, Finding]:
    try:
        config = load_network_config(environment=environment)
    except ConfigurationError as error:
        return None, Finding(CONFIGURATION, HERE, Verdict.FAILED, str(error))
    agents = ", ".join(f"{agent.name} at {agent.endpoint}" for agent in config.agents.values())
    return config, Finding(CONFIGURATION, HERE, Verdict.OK, agents)
