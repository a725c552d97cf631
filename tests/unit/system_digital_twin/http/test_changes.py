"""What differs between two states turns the one into the other: by the reference here, and by the page's script."""

import json
import shutil
import subprocess
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.loopback.test_examples import node_folder
from twinhost.system_digital_twin.http.changes import difference
from twinhost.system_digital_twin.http.page import STATIC

BATCH = 400
VALUES = st.one_of(st.none(), st.integers(-3, 3), st.sampled_from(["", "a", "b", "__proto__", "constructor"]))
NAMES = st.sampled_from(["id", "name", "seq", "of", "at", "new", "value", "__proto__", "0", "toString"])
DOCUMENTS = st.recursive(
    VALUES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(NAMES, inner, max_size=5),
        st.lists(st.dictionaries(NAMES, inner, min_size=1, max_size=3), max_size=5),
    ),
    max_leaves=24,
)


def changed(before: Any, change: Any) -> Any:
    if isinstance(change, list):
        return change[0]
    if isinstance(before, list):
        parts = change.get("of", [[0, len(before)]])
        rows = [row for part in parts for row in (before[slice(*part)] if isinstance(part, list) else part["new"])]
        for at, each in change.get("at", {}).items():
            rows[int(at)] = changed(rows[int(at)], each)
        return rows
    gone = {name for name, each in change.items() if each == []}
    kept = {name: value for name, value in before.items() if name not in gone}
    return kept | {name: changed(before.get(name), each) for name, each in change.items() if name not in gone}


@settings(max_examples=500)
@given(DOCUMENTS, DOCUMENTS)
def test_a_difference_turns_one_value_into_another(before: Any, after: Any) -> None:
    change = difference(before, after)
    assert (change is None) is (before == after)
    if change is not None:
        assert changed(before, json.loads(json.dumps(change))) == after


def test_the_pages_script_applies_what_is_sent() -> None:
    """The same values, by the same differences; also names that mean something else to JavaScript."""
    folder = node_folder()
    node = shutil.which("node", path=str(folder)) if folder else None
    if node is None:
        pytest.skip("needs node, as `make test` installs it")
    cases: list[tuple[Any, Any, Any]] = []

    @settings(max_examples=BATCH, database=None)
    @given(DOCUMENTS, DOCUMENTS)
    def collect(before: Any, after: Any) -> None:
        cases.append((before, difference(before, after), after))

    collect()
    program = f"""
        import {{ readFileSync }} from "node:fs";
        const source = readFileSync({json.dumps(str(STATIC / "changes.js"))}, "utf-8");
        const {{ changed }} = await import("data:text/javascript," + encodeURIComponent(source));
        const cases = JSON.parse(readFileSync(0, "utf-8"));
        const applied = cases.map(([before, change]) => (change === null ? before : changed(before, change)));
        process.stdout.write(JSON.stringify(applied));
    """
    command = [node, "--input-type=module", "-e", program]
    answer = subprocess.run(command, input=json.dumps(cases), capture_output=True, text=True, check=True, timeout=60)
    applied = json.loads(answer.stdout)
    assert len(applied) == len(cases) >= BATCH
    assert applied == [after for _, _, after in cases]


def rows(*names: str, **more: Any) -> list[dict[str, Any]]:
    return [{"name": name, **more} for name in names]


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        ([1, 2, 2, 3], [2, 2, 3, 4], {"of": [[1, 4], {"new": [4]}]}),
        (rows("a", "c"), rows("a", "b", "c"), {"of": [[0, 1], {"new": rows("b")}, [1, 2]]}),
        (rows("a", "b", "c"), rows("a", "c"), {"of": [[0, 1], [2, 3]]}),
        (rows("a", "b"), [*rows("a"), *rows("b", seen=1)], {"at": {"1": {"seen": [1]}}}),
        (rows("a", seen=1), rows("a"), {"at": {"0": {"seen": []}}}),
        ([{"seq": 2}, {"seq": 1}], [{"seq": 3}, {"seq": 2}], {"of": [{"new": [{"seq": 3}]}, [0, 1]]}),
    ],
    ids=["a series moves on", "a row more", "a row less", "a field of a row", "a field less", "newest first"],
)
def test_a_difference_has_only_what_is_new(before: Any, after: Any, change: Any) -> None:
    """What stays is named by its place, so that a page of 300 rows receives the one that changed."""
    assert difference(before, after) == change
