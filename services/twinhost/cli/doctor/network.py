"""Below ZeroMQ: does the name resolve, is the port open, and what does it greet with."""

import socket
from collections.abc import Iterator

from twinhost.adversary.attack import Finding, Verdict
from twinhost.network_config import Agent
from twinhost.network_config.load import ADDRESS_VARIABLES
from twinhost.secure_zmq.greeting import mechanism_of

RESOLVES, PORT, EVENTS_PORT, SAME_MODE = "address", "port", "port of the event feed", "SECURE_ZMQ the same"
_TIMEOUT_S = 3.0
_WORDS = {"CURVE": "SECURE_ZMQ=1", "NULL": "SECURE_ZMQ=0"}


def examine_network(agent: Agent, secure: bool) -> Iterator[Finding]:
    """Look at an agent's address and ports, and at the first bytes that it says."""
    resolved = _resolve(agent)
    yield resolved
    if resolved.verdict is not Verdict.OK:
        return
    port = _port(agent, agent.zmq_port)
    yield Finding(PORT, agent.name, Verdict.FAILED if port else Verdict.OK, port or f"{agent.zmq_port} is open")
    if agent.events_port is not None:
        closed = _port(agent, agent.events_port)
        told = f"{closed}; without it a revocation takes a heartbeat" if closed else f"{agent.events_port} is open"
        yield Finding(EVENTS_PORT, agent.name, Verdict.FAILED if closed else Verdict.OK, told)
    if port is None:
        yield _mode(agent, secure)


def _resolve(agent: Agent) -> Finding:
    address = agent.host.address
    try:
        found = socket.getaddrinfo(address, agent.zmq_port, type=socket.SOCK_STREAM)
    except OSError as error:
        variable = ADDRESS_VARIABLES.get(agent.host.name)
        mend = f"set {variable} in .env, or mend network_config.yaml" if variable else "mend network_config.yaml"
        sentence = f"{address!r} resolves to nothing ({error.strerror or error}); {mend}"
        return Finding(RESOLVES, agent.name, Verdict.FAILED, sentence)
    return Finding(RESOLVES, agent.name, Verdict.OK, f"{address} is {found[0][4][0]}")


def _port(agent: Agent, port: int) -> str | None:
    """Return what is wrong with a port, or None."""
    try:
        with socket.create_connection((agent.host.address, port), timeout=_TIMEOUT_S):
            return None
    except OSError as error:
        why = "nobody took the connection" if isinstance(error, TimeoutError) else error.strerror or str(error)
        return (
            f"{agent.host.authority(port)} can't be reached ({why}): the agent does not run, or a firewall or "
            "TWINHOST_PUBLISH_ADDRESS keeps the port from here"
        )


def _mode(agent: Agent, secure: bool) -> Finding:
    mechanism = mechanism_of(agent.endpoint)
    if mechanism is None:
        sentence = (
            f"a TCP connection to {agent.endpoint} was made and it did not greet as ZeroMQ does: "
            "something else listens there, or the agent hangs; check the port, and read the agent's log"
        )
        return Finding(SAME_MODE, agent.name, Verdict.FAILED, sentence)
    there = _WORDS.get(mechanism, mechanism)
    if (mechanism == "CURVE") == secure:
        return Finding(SAME_MODE, agent.name, Verdict.OK, f"{there} there, as here")
    here = _WORDS["CURVE" if secure else "NULL"]
    sentence = (
        f"{there} there and {here} here, so either side hangs up on the other without a word; "
        "set SECURE_ZMQ=1 in .env on both hosts, and start the agents again"
    )
    return Finding(SAME_MODE, agent.name, Verdict.FAILED, sentence)
