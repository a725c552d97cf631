"""The page's scripts and the state document agree: what a script reads is there, and what is counted has a label."""

import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest

from tests.loopback.agent_processes import SDT, UMRA, Hosts
from tests.waiting import PATIENCE_S, wait_until
from twinhost.agent.host_metrics import ContainerSample
from twinhost.secure_zmq.peers import Outcome
from twinhost.system_digital_twin.events.actions import ErrorReport
from twinhost.system_digital_twin.http.page import STATIC
from twinhost.system_digital_twin.http.state import MAX_DEPENDENCIES, MAX_ROWS
from twinhost.system_digital_twin.registry.registry import HEALTHY, NO_RESPONSE

# A script's name for a thing, and where that thing is in the document.
READ = {
    "app.js": {"state": ""},
    "machines.js": {
        "state": "",
        "link": "link",
        "host": "hosts",
        "one": "hosts",
        "gpus": "hosts.gpus",
        "machine": "hosts.machine",
        "container": "hosts.container",
    },
    "summary.js": {"state": "", "host": "hosts", "agent": "agents"},
    "sections.js": {
        "agent": "agents",
        "session": "sessions",
        "use": "usage",
        "lease": "leases",
        "event": "events",
        "error": "errors",
    },
}
OF_JAVASCRIPT = {"length", "map", "flatMap", "filter", "slice", "find", "at", "sort", "some", "getTime"}


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The state of two real hosts with one of everything."""
    with Hosts(tmp_path_factory.mktemp("hosts"), metrics_interval_s=0.3) as hosts:
        mainpc, _ = hosts.start_both()
        with hosts.client(SDT, by=UMRA) as client:

            def shown() -> dict[str, Any]:
                document: dict[str, Any] = mainpc.http("/api/state")[1]
                return document

            def measured(document: dict[str, Any]) -> bool:
                return not any(host["stale"] for host in document["hosts"])

            wait_until(lambda: measured(shown()), PATIENCE_S, "both hosts have figures")
            client.call("reserve_ram", amount_mb=1, host="mainpc", ttl_s=60)
            client.call("publish_event", event={"event_id": "e", "event_type": "t", "source_agent": UMRA})
            error = {"error_id": "x", "agent_id": UMRA, "severity": "info", "error_type": "t", "message": "m"}
            client.call("report_error", error=error)
            parts = ("agents", "sessions", "leases", "events", "errors")

            def whole() -> dict[str, Any] | None:
                document = shown()
                return document if measured(document) and all(document[part] for part in parts) else None

            document = wait_until(whole, PATIENCE_S, "there is one of everything")
            assert document is not None
            yield document


def script(name: str) -> str:
    """Return a script without its comments."""
    return re.sub(r"/\*.*?\*/|(?<!:)//[^\n]*", "", (STATIC / name).read_text(), flags=re.DOTALL)


def part(state: dict[str, Any], path: str) -> dict[str, Any]:
    """Return a part of the document, the first where there are several; not every machine has all of it to show."""
    if path == "hosts.gpus":
        names = ("name", "used_mb", "total_mb", "utilisation_percent", "temperature_c")
        return dict.fromkeys(names, 0.0)
    if path == "hosts.container":
        return dict.fromkeys(ContainerSample.__struct_fields__)
    if path == "hosts.machine":
        machine: dict[str, Any] = state["hosts"][0]["machine"]
        return machine
    value = state[path] if path else state
    found: dict[str, Any] = value[0] if isinstance(value, list) else value
    return found


def members(text: str, name: str) -> set[str]:
    """Return what a script reads of a name: `name.x` and `name?.x`."""
    return set(re.findall(rf"(?<![\w$]){name}\??\.(\w+)", text)) - OF_JAVASCRIPT


@pytest.mark.parametrize(("file", "name"), [(file, name) for file, names in READ.items() for name in names])
def test_what_a_script_reads_is_in_the_document(state: dict[str, Any], file: str, name: str) -> None:
    """A field that is called otherwise here than there would be an empty place on the page."""
    there = part(state, READ[file][name])
    read = members(script(file), name)
    assert read or name == "gpus"
    assert read <= there.keys(), read - there.keys()


def test_what_a_script_takes_apart_is_in_the_document(state: dict[str, Any]) -> None:
    """`{ agents = [] }` of the state, and the like of a session, a host, and a GPU."""
    sections, machines = script("sections.js"), script("machines.js")
    of_state = re.findall(r"export function draw\w+\(\{ (.+?) = [\[{]", sections)
    assert set(of_state) == {"agents", "sessions", "usage", "leases", "refused", "events", "errors"}
    assert set(of_state) <= state.keys()
    (of_session,) = re.findall(r"function keyLeft\(\{ (.+?) \}\)", sections)
    assert set(re.findall(r"(\w+):", of_session)) == {"key_left_s", "key_age_s"} <= state["sessions"][0].keys()
    (of_gpu,) = re.findall(r"gpus\.map\(\(\{ (.+?) \}\)", machines)
    assert {each.split(":")[0].strip() for each in of_gpu.split(",")} <= part(state, "hosts.gpus").keys()


def test_the_charts_figures_are_in_the_document(state: dict[str, Any]) -> None:
    """Each is in `now` and has a course as long as the times are."""
    machines = script("machines.js")
    fields = set(re.findall(r'field: "(\w+)"', machines))
    assert fields == {"cpu_percent", "ram_used_mb", "vram_used_mb", "latency_ms"}
    for host in state["hosts"]:
        assert fields | members(machines, "now") <= host["now"].keys()
        assert host["history"].keys() == fields | {"t"}
        assert {len(values) for values in host["history"].values()} == {len(host["history"]["t"])}
        assert members(machines, "history") <= host["history"].keys()


def test_every_cause_of_a_refusal_has_a_message() -> None:
    """And so has every severity, and what the registry itself calls an agent's status."""
    words = script("words.js")
    for cause in Outcome:
        assert (re.search(rf"^  {cause.value}: \[", words, re.MULTILINE) is None) is (cause is Outcome.ACCEPTED)
    severities = get_args(ErrorReport.__annotations__["severity"])
    for word in (*severities, HEALTHY, NO_RESPONSE, "ok", "unknown"):
        assert re.search(rf"^  {word}: \{{", words, re.MULTILINE), word


def test_the_document_is_cut_where_the_page_has_no_more_rows() -> None:
    """As many agents are sent as the page has rows for, and as many of an agent's needs."""
    sections = script("sections.js")
    assert f"MOST_ROWS = {MAX_ROWS};" in sections
    assert f"(agent.dependencies ?? []).slice(0, {MAX_DEPENDENCIES})" in sections
