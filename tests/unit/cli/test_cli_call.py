"""`call`: any action, with fields as people type them, and the agent's own answer."""

import json
import socket
import time
from typing import Any

import pytest
import typer

from tests.unit.cli.loopback_agents import SDT, UMRA, TwoHosts
from tests.unit.cli.running import Cli
from twinhost.cli.arguments import parse_fields
from twinhost.cli.schemas.requests import schema_of_agent


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("k=5", 5),
        ("k=-2.5", -2.5),
        ("k=true", True),
        ("k=null", None),
        ('k="5"', "5"),
        ('k={"a": [1, {"b": 2}]}', {"a": [1, {"b": 2}]}),
        ("k=", ""),
        ("k=text", "text"),
        ("k=a=b", "a=b"),
        ("k=007", "007"),
        ("k=NaN", "NaN"),
        ("k=Infinity", "Infinity"),
        ("k=1e999", "1e999"),
        ("k={not json}", "{not json}"),
        ('k="open', '"open'),
        ("k=" + "[" * 100_000, "[" * 100_000),
    ],
)
def test_a_value_is_json_if_it_is_valid_json_and_else_text(pair: str, value: Any) -> None:
    """Whatever JSON does not know, NaN for one, is a text."""
    (parsed,) = parse_fields([pair]).values()
    assert (type(parsed), parsed) == (type(value), value)


@pytest.mark.parametrize("word", ["no separator", "=value", "", "action=x", "request_id=x", "deadline_s=1"])
def test_an_argument_that_is_not_a_field_is_refused(word: str) -> None:
    """What has a place of its own on the command line is not a field."""
    with pytest.raises(typer.BadParameter):
        parse_fields([word])


def test_a_field_twice_is_refused() -> None:
    """Neither of the two is silently dropped."""
    with pytest.raises(typer.BadParameter, match="'a' is given twice"):
        parse_fields(["a=1", "a=2"])


def test_an_unknown_action_is_told_the_nearest_one(hosts: TwoHosts, cli: Cli) -> None:
    """One that resembles none is told them all, by the agent."""
    ran = cli(hosts, "call", SDT, "get_agent_inf", "agent_name=x")
    assert ran.err == f"error [unknown_action]: {SDT} has no action 'get_agent_inf'; did you mean get_agent_info?\n"
    assert "there are: " in cli(hosts, "call", SDT, "zzzzz").err
    assert ran.status == 1


def test_typed_fields_reach_the_agent(hosts: TwoHosts, cli: Cli) -> None:
    """Nested values, numbers, and texts arrive as what they are."""
    data = {"agent_id": "Seven", "agent_type": "7", "host": "pc2", "port": 7777, "metadata": {"depth": [1, {"two": 3}]}}
    ran = cli(hosts, "call", SDT, "register_agent", f"registration_data={json.dumps(data)}")
    assert (ran.status, ran.err) == (0, "")
    info = json.loads(cli(hosts, "call", SDT, "get_agent_info", "agent_name=Seven", "--json").out)["agent_info"]
    assert (info["port"], info["agent_type"], info["metadata"]) == (7777, "7", data["metadata"])
    assert info["registered_by"] == "operator"


def test_a_value_is_sent_as_the_type_of_its_field(hosts: TwoHosts, cli: Cli) -> None:
    """A number and a keyword are texts where a text is wanted; quotes still make a text of anything."""
    for name in ("42", "true", '"7"'):
        ran = cli(hosts, "call", SDT, "register_agent", f"agent_name={name}", "status=HEALTHY")
        assert (ran.status, ran.err) == (0, ""), ran.err
    registered = json.loads(cli(hosts, "agents", "--json").out)["agents"]
    assert {"42", "true", "7"} < {agent["name"] for agent in registered}


def test_a_field_that_the_action_lacks_is_a_warning(hosts: TwoHosts, cli: Cli) -> None:
    """One line on stderr, for a field within an object too; the call goes on."""
    ran = cli(hosts, "call", SDT, "get_agent_info", f"agent_name={UMRA}", "agentname=x", "more=1")
    assert ran.status == 0
    assert ran.err == (
        f"warning: get_agent_info has no field agentname, more; {SDT} ignores it; "
        f"./twinhost explain {SDT} get_agent_info lists the fields\n"
    )
    data = {"agent_id": "Eight", "agent_type": "8", "host": "pc2", "port": 8, "prot": 9}
    ran = cli(hosts, "call", SDT, "register_agent", f"registration_data={json.dumps(data)}")
    assert (ran.status, ran.err.partition(";")[0]) == (
        0,
        "warning: register_agent has no field registration_data.prot",
    )


def test_a_value_that_is_no_json_is_named_as_such(hosts: TwoHosts, cli: Cli) -> None:
    """Where the field takes no text, the JSON error is said before the agent's refusal of a text."""
    ran = cli(hosts, "call", SDT, "register_agent", "agent_name=A", "registration_data={agent_id: A}")
    assert ran.status == 1
    warning, refusal = ran.err.splitlines()
    assert warning.startswith("warning: registration_data takes object or null, and its value is not valid JSON: ")
    assert refusal.startswith("error [malformed_request]: ")


def test_a_text_that_the_action_refuses_needs_no_json() -> None:
    """No warning is printed if a field takes some texts but not this one; the agent's refusal lists them."""
    schema = schema_of_agent(UMRA)
    assert schema is not None
    assert schema.not_texts("add_interaction", {"interaction_type": "chat"}) == {}


@pytest.mark.parametrize("name", [SDT, "systemdigitaltwin", "mainpc", "MainPC"])
def test_an_agent_is_found_by_its_name_or_its_hosts(hosts: TwoHosts, cli: Cli, name: str) -> None:
    """In whatever case."""
    ran = cli(hosts, "call", name, "get_ok_agents", "--json")
    assert ran.status == 0
    assert json.loads(ran.out)["agents"] == [UMRA]


def test_a_name_that_two_agents_share_is_a_usage_error(hosts: TwoHosts, cli: Cli) -> None:
    """The name of a host with two agents means neither of them."""
    config = hosts.root / "network_config.yaml"
    config.write_text(config.read_text().replace("host: pc2", "host: mainpc"))
    ran = cli(hosts, "call", "mainpc", "ping")
    assert ran.status == 2
    assert f"'mainpc' is the host of {SDT}, {UMRA}" in ran.err


def test_an_unknown_agent_is_a_usage_error_that_lists_the_known(hosts: TwoHosts, cli: Cli) -> None:
    """Nothing is sent anywhere."""
    ran = cli(hosts, "call", "Nobody", "ping")
    assert (ran.status, ran.out) == (2, "")
    assert f"there is no agent 'Nobody'; the agents are: {SDT} (or mainpc), {UMRA} (or pc2)" in ran.err


def test_a_refused_call_is_one_sentence_and_1(hosts: TwoHosts, cli: Cli) -> None:
    """The agent's own sentence, on stderr alone."""
    ran = cli(hosts, "call", SDT, "get_agent_info", "agent_name=Nobody")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("error [not_found]: no agent 'Nobody' is registered")
    assert ran.err.count("\n") == 1


def test_a_refused_call_is_an_error_object_for_programs(hosts: TwoHosts, cli: Cli) -> None:
    """In the shape that error replies have on the wire, and the sentence on stderr all the same."""
    ran = cli(hosts, "call", SDT, "heartbeat", "agent_name=", "--json")
    assert ran.status == 1
    document = json.loads(ran.out)
    assert document.keys() == {"status", "code", "error"}
    assert (document["status"], document["code"]) == ("error", "malformed_request")
    assert "$.agent_name" in document["error"]
    assert document["error"] in ran.err


def test_a_request_id_repeats_a_call_without_executing_it_again(hosts: TwoHosts, cli: Cli) -> None:
    """The stored reply comes back; with another body it is refused."""
    words = ("call", SDT, "register_agent", "agent_name=Once", "status=HEALTHY", "--request-id", "abc", "--json")
    first, second = cli(hosts, *words), cli(hosts, *words)
    assert (first.status, first.out) == (0, second.out)
    info = cli(hosts, "call", SDT, "get_agent_info", "agent_name=Once", "--json").out
    assert json.loads(info)["agent_info"]["revision"] == 1
    other = cli(hosts, *("status=ok" if word == "status=HEALTHY" else word for word in words))
    assert other.status == 1
    assert json.loads(other.out)["code"] == "request_id_reused"


@pytest.mark.parametrize("request_id", ["", "x" * 129])
def test_a_request_id_that_no_agent_takes_is_a_usage_error(hosts: TwoHosts, cli: Cli, request_id: str) -> None:
    """An empty one would be replaced by a fresh one silently."""
    assert cli(hosts, "call", SDT, "ping", "--request-id", request_id).status == 2


def test_the_deadline_is_kept(hosts: TwoHosts, cli: Cli) -> None:
    """A host that takes connections and says nothing costs as long as was asked, not longer."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        hosts.write_config(mute.getsockname()[1], hosts.pc2.port)
        started = time.monotonic()
        ran = cli(hosts, "call", SDT, "ping", "--deadline", "0.7", "--json")
        took = time.monotonic() - started
    assert ran.status == 1
    assert json.loads(ran.out)["code"] == "server_unreachable"
    assert 0.7 <= took < 5


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_a_deadline_that_would_not_come_is_a_usage_error(hosts: TwoHosts, cli: Cli, seconds: str) -> None:
    """Not a number of seconds, or one that never passes."""
    assert cli(hosts, "call", SDT, "ping", "--deadline", seconds).status == 2


def test_an_answer_with_bad_news_is_shown_and_ends_with_1(hosts: TwoHosts, cli: Cli) -> None:
    """A health document in status error is an answer, no refusal; it is printed whole."""
    hosts.pc2.faults["store"] = "disk full"
    ran = cli(hosts, "call", "pc2", "health", "--json")
    assert ran.status == 1
    assert json.loads(ran.out)["checks"]["store"]["detail"] == "disk full"
    assert ran.err == f"error: {UMRA} answered health with status error\n"


def test_a_reply_is_indented_for_people(hosts: TwoHosts, cli: Cli) -> None:
    """Without --json it is the same document, over several lines."""
    ran = cli(hosts, "call", "pc2", "ping")
    assert ran.out.startswith('{\n  "status": "ok",\n')
    assert json.loads(ran.out)["message"] == "pong"


def test_a_request_over_the_limit_is_refused_before_it_is_sent(hosts: TwoHosts, cli: Cli) -> None:
    """The limit is the configuration's."""
    ran = cli(hosts, "call", SDT, "get_agent_info", "agent_name=" + "x" * 70_000)
    assert ran.status == 1
    assert ran.err.startswith("error [message_too_large]: get_agent_info has ")
