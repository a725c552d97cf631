"""Agents choose their names and sentences: nothing in them may steer the operator's terminal."""

import json
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.cli.loopback_agents import SDT, UMRA, TwoHosts
from tests.unit.cli.running import Cli, run_on_terminal, run_process
from twinhost.cli.output import printable, to_json

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\u200b\u2028[bold red]x[/bold red]:smile:\r\nforged  line\x7f"
SHOWN = r"\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\u200b\u2028[bold red]x[/bold red]:smile:\x0d\x0aforged  line\x7f"


def unsafe(text: str) -> list[str]:
    """Return the characters of a text that are neither a line break nor visible."""
    return [c for c in text if c != "\n" and unicodedata.category(c) in {"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"}]


@pytest.fixture
def hostile_hosts(hosts: TwoHosts) -> TwoHosts:
    """An agent with a hostile name, status, and location is registered."""
    with hosts.client("operator") as client:
        client.call("register_agent", agent_name=HOSTILE, status=HOSTILE, location=HOSTILE)
    return hosts


@pytest.mark.parametrize("command", ["agents", "status"])
def test_a_hostile_name_is_shown_escaped(hostile_hosts: TwoHosts, cli: Cli, command: str) -> None:
    """Every control is an escape that can be read; markup is shown as it was written."""
    with hostile_hosts.client("operator") as client:
        client.call("register_agent", agent_name="\x1b[2J[bold]x\u202e", status="HEALTHY", location="here")
    ran = cli(hostile_hosts, command)
    assert ran.status == 0
    assert unsafe(ran.out) == []
    assert r"\x1b[2J[bold]x\u202e" in ran.out


@pytest.mark.parametrize("columns", [80, 100])
def test_a_long_name_does_not_squeeze_the_others(hosts: TwoHosts, columns: int) -> None:
    """It is cut short, with a sign that it was; the others' names stay whole, on a narrow terminal too."""
    with hosts.client("operator") as client:
        client.call("register_agent", agent_name="x" * 256, status="y" * 256, location="z" * 256)
    out = run_on_terminal(hosts.environment, "agents", columns=columns).out
    assert UMRA in out
    assert "x" * 39 + "\u2026" in out
    assert "x" * 40 not in out


@pytest.mark.parametrize("words", [("agents",), ("status",), ("call", SDT, "get_registered_agents")])
@pytest.mark.thorough
def test_a_hostile_name_does_not_steer_a_terminal(hostile_hosts: TwoHosts, words: tuple[str, ...]) -> None:
    """The terminal gets our own colours, and no sequence of the agent's."""
    out = run_on_terminal(hostile_hosts.environment, *words).out
    for sequence in ("\x1b]0;", "\x07", "\x1b[2J", "\x9b", "\u202e", "\u200b", "\u2028", "\x7f", "\r\nforged"):
        assert sequence not in out
    assert "\U0001f604" not in out  # :smile: is no emoji


@pytest.mark.parametrize("extra", [(), ("--json",)])
def test_json_means_the_same_and_is_safe_to_show(hostile_hosts: TwoHosts, cli: Cli, extra: tuple[str, ...]) -> None:
    """A program reads the very name; a terminal that shows the line is not steered by it."""
    ran = cli(hostile_hosts, "call", SDT, "get_agent_info", f"agent_name={json.dumps(HOSTILE)}", *extra)
    assert ran.status == 0
    assert unsafe(ran.out) == []
    info = json.loads(ran.out)["agent_info"]
    assert (info["name"], info["status"], info["location"]) == (HOSTILE, HOSTILE, HOSTILE)


def test_a_hostile_sentence_stays_one_line(hosts: TwoHosts, cli: Cli) -> None:
    """What an agent says when it refuses is escaped as well, on stderr and in the JSON."""
    ran = cli(hosts, "call", SDT, "refuse_with", f"sentence={json.dumps(HOSTILE)}", "--json")
    assert ran.status == 1
    assert ran.err == f"error [not_found]: {SHOWN}\n"
    assert unsafe(ran.out) == []
    assert json.loads(ran.out)["error"] == HOSTILE


@pytest.mark.thorough
def test_a_pipe_gets_no_colour_and_a_terminal_does(hosts: TwoHosts) -> None:
    """Not even where the environment asks for colour in pipes."""
    assert "\x1b[32mHEALTHY\x1b[0m" in run_on_terminal(hosts.environment, "agents").out
    settings = {**hosts.environment, "FORCE_COLOR": "1", "CLICOLOR_FORCE": "1", "PY_COLORS": "1"}
    for words in (("status",), ("agents",), ("call", SDT, "no_such_action"), ("--help",), ("nonsense",)):
        ran = run_process(settings, *words)
        assert "\x1b" not in ran.out + ran.err, words


@pytest.mark.thorough
def test_letters_of_any_language_are_shown(hosts: TwoHosts) -> None:
    """Escaping is for what steers, not for what is foreign; where the locale can't show it, it is an escape."""
    words = ("call", SDT, "register_agent", "agent_name=mahalagá-記憶", "status=HEALTHY")
    utf8 = run_process({**hosts.environment, "PYTHONIOENCODING": "utf-8"}, *words)
    ascii_only = run_process({**hosts.environment, "PYTHONIOENCODING": "ascii"}, *words)
    assert "mahalagá-記憶" in utf8.out
    assert r"mahalag\u00e1-\u8a18\u61b6" in ascii_only.out
    table = run_process({**hosts.environment, "PYTHONIOENCODING": "ascii"}, "agents")
    assert (table.status, table.err) == (0, "")


@given(st.text())
def test_printable_text_is_one_line_and_steers_nothing(text: str) -> None:
    """Whatever it was made of; and what was safe is left as it is."""
    shown = printable(text)
    assert unsafe(shown) == []
    assert "\n" not in shown
    if not unsafe(text) and "\n" not in text:
        assert shown == text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.text(alphabet=st.characters(categories=["Cc", "Cf"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(json_values, st.sampled_from([None, 2]), st.booleans())
def test_json_text_means_the_value_and_steers_nothing(value: Any, indent: int | None, ascii_only: bool) -> None:
    """Escaped inside strings, never changed; one line where no layout was asked for."""
    text = to_json(value, indent=indent, ascii_only=ascii_only)
    assert json.loads(text) == value
    assert unsafe(text) == []
    if indent is None:
        assert "\n" not in text
    if ascii_only:
        assert text.isascii()
