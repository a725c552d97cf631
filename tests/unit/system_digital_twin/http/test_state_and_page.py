"""The page's scripts and the state document agree: what a script reads is there, and what is counted has a label."""

import re
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import pytest

from tests.loopback.agent_processes import SDT, UMRA, Hosts
from tests.waiting import PATIENCE_S, wait_until
from twinhost.agent.host_metrics import ContainerSample
from twinhost.agent.troubles import AttentionItem, RemedyDocument
from twinhost.deployment import NO_RESPONSE
from twinhost.system_digital_twin.events.actions import ErrorReport
from twinhost.system_digital_twin.events.events import ErrorGroup, StoredError
from twinhost.system_digital_twin.http.page import STATIC
from twinhost.system_digital_twin.http.state import MAX_DEPENDENCIES, WaitingRow
from twinhost.system_digital_twin.registry.registry import HEALTHY

# A script's name for a thing, and where that thing is in the document.
READ = {
    "app.js": {"newest": ""},
    "attention.js": {"state": "", "item": "attention.items"},
    "machines.js": {
        "state": "",
        "link": "link",
        "host": "hosts",
        "gpus": "hosts.gpus",
        "machine": "hosts.machine",
        "container": "hosts.container",
        "error": "errors",
        "event": "events",
    },
    "views/host.js": {"state": "", "agent": "agents", "session": "sessions", "lease": "leases"},
    "views/agents.js": {"agent": "agents", "counts": "counts"},
    "views/agent.js": {"agent": "agents", "state": "", "session": "sessions", "lease": "leases", "error": "errors"},
    "views/keys.js": {"session": "sessions", "counts": "counts"},
    "views/key.js": {"key": "sessions", "use": "usage", "state": ""},
    "views/overview.js": {"counts": "counts"},
    "views/budgets.js": {"use": "usage"},
    "views/leases.js": {"lease": "leases", "wait": "waiting", "state": ""},
    "views/events.js": {"event": "events"},
    "views/memory.js": {"kept": "memory", "state": ""},
    "views/errors.js": {"error": "stored errors", "group": "groups of errors", "counts": "counts"},
}
RECORDS = {
    "stored errors": StoredError,
    "groups of errors": ErrorGroup,
    "waiting": WaitingRow,
}  # each as it is answered
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
            parts = ("agents", "sessions", "leases", "events", "errors", "memory")

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
        names = ("name", "used_mb", "total_mb", "utilisation_percent", "temperature_c", "reported_by")
        return dict.fromkeys(names, 0.0)
    if path == "hosts.container":
        return dict.fromkeys(ContainerSample.__struct_fields__)
    if path == "hosts.machine":
        machine: dict[str, Any] = state["hosts"][0]["machine"]
        return machine
    if path == "attention.items":
        return dict.fromkeys(AttentionItem.__annotations__)
    if path in RECORDS:
        return dict.fromkeys([*get_type_hints(RECORDS[path])])
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
    """`{ agents = [] }` of the state, and the like of a key, a GPU, and a trouble."""
    of_state = {
        name
        for path in (STATIC / "views").glob("*.js")
        for taken in re.findall(r"export function draw\(place, \{ (.+?) \}", script(f"views/{path.name}"))
        for name in re.findall(r"(\w+) = ", taken)
    }
    assert {"agents", "sessions", "usage", "refused", "events", "errors"} <= of_state <= state.keys()
    (of_session,) = re.findall(r"function keyLeft\(\{ (.+?) \}\)", script("panel.js"))
    assert set(re.findall(r"(\w+):", of_session)) == {"valid_from", "valid_until"} <= state["sessions"][0].keys()
    (of_gpu,) = re.findall(r"gpus\.map\(\(\{ (.+?) \}\)", script("machines.js"))
    assert {each.split(":")[0].strip() for each in of_gpu.split(",")} <= part(state, "hosts.gpus").keys()
    attention = script("attention.js")
    for parts, document in (("factsOf", AttentionItem), ("remedy", RemedyDocument)):
        (taken,) = re.findall(rf"function {parts}\(\{{ (.+?) \}}\)", attention)
        assert set(taken.split(", ")) <= document.__annotations__.keys()


def test_the_charts_figures_are_in_the_document(state: dict[str, Any]) -> None:
    """Each is in `now` and has a course as long as the times are."""
    machines = script("machines.js")
    fields = set(re.findall(r'field: "(\w+)"', machines))
    assert fields == {"cpu_percent", "ram_used_mb", "vram_used_mb", "latency_ms"}
    for host in state["hosts"]:
        assert fields | members(machines.replace("now()", ""), "now") <= host["now"].keys()
        assert host["history"].keys() == fields | {"t"}
        assert {len(values) for values in host["history"].values()} == {len(host["history"]["t"])}
        assert members(machines, "history") <= host["history"].keys()


def test_every_severity_and_status_has_a_word() -> None:
    """The statuses are those that the registry itself gives an agent."""
    words = script("words.js")
    severities = get_args(ErrorReport.__annotations__["severity"])
    for word in (*severities, HEALTHY, NO_RESPONSE, "ok", "unknown"):
        assert re.search(rf"^  {word}: \{{", words, re.MULTILINE), word


def test_the_document_is_cut_where_the_page_has_no_more_rows() -> None:
    """As many of an agent's needs are sent as a row has room for."""
    assert f"(agent.dependencies ?? []).slice(0, {MAX_DEPENDENCIES})" in script("views/agents.js")
