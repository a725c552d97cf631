"""SECURE_ZMQ=0: everything works but what needs an identity, and everything says that the link is open."""

import json

import pytest

from tests.containers.stack import Stack
from twinhost.secure_zmq.errors import NotGranted

HOSTS = ["mainpc", "pc2"]


@pytest.mark.parametrize("host", HOSTS)
def test_the_health_document_says_that_the_link_is_open(open_stack: Stack, host: str) -> None:
    """`secure` is false and a warning is in the document, over HTTP and over ZeroMQ."""
    with open_stack.client(host) as client:
        for document in (open_stack.http(host, "/healthz")[1], client.call("health")):
            assert document["secure"] is False
            assert "the link is open" in document["warning"]


@pytest.mark.parametrize("host", HOSTS)
def test_every_start_logs_a_warning(open_stack: Stack, host: str) -> None:
    """The log of a start holds the warning."""
    warnings = [event for event in open_stack.events(host) if event["event"] == "link_open"]
    assert warnings
    assert warnings[0]["level"] == "warning"


def test_status_says_that_the_link_is_open(open_stack: Stack) -> None:
    """So does the command that a person looks at."""
    done = open_stack.run("cli", "status")
    assert done.status == 1
    assert done.out.startswith("the link is open on mainpc and pc2: nobody is authenticated and nothing is encrypted")
    assert "OPEN" in done.out


def test_the_caller_is_unauthenticated_and_ordinary_actions_work(open_stack: Stack) -> None:
    """A registration goes through, and says that nobody proved anything."""
    with open_stack.client("mainpc") as client:
        client.call("register_agent", agent_name="Somebody", status="HEALTHY")
        info = client.call("get_agent_info", agent_name="Somebody")["agent_info"]
    assert info["registered_by"] == "unauthenticated"
    assert info["location"] == "Unknown"


@pytest.mark.parametrize("host", HOSTS)
def test_operators_actions_are_refused(open_stack: Stack, host: str) -> None:
    """Nobody is an operator on an open link."""
    with open_stack.client(host) as client, pytest.raises(NotGranted, match="unauthenticated"):
        client.call("get_peers")


def test_umra_is_registered_on_the_open_link(open_stack: Stack) -> None:
    """The two hosts work together as with security on."""
    done = open_stack.run("cli", "agents", "--json")
    assert done.status == 0
    names = {agent["name"]: agent["status"] for agent in json.loads(done.out)["agents"]}
    assert names["UnifiedMemoryReasoningAgent"] == "HEALTHY"
