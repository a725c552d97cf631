"""`notify test`: a message by each way out, and what came back of each; `notify run` needs the section."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.receivers import HttpReceiver
from tests.unit.cli.running import run_process
from twinhost.network_config.load import DEFAULT_PATH, PATH_VARIABLE


def settings(tmp_path: Path, section: Any) -> dict[str, str]:
    """Return the environment with a configuration of this section."""
    document = yaml.safe_load(DEFAULT_PATH.read_text(encoding="utf-8"))
    path = tmp_path / "network_config.yaml"
    path.write_text(yaml.safe_dump({**document, **({"notify": section} if section else {})}))
    return {PATH_VARIABLE: str(path)}


def test_each_way_out_is_tried_and_its_answer_shown(tmp_path: Path) -> None:
    with HttpReceiver() as good, HttpReceiver() as bad:
        bad.status = 403
        bad.answer = b"who are you"
        urls = {"bad": bad.port, "good": good.port}
        section = {"destinations": {name: {"webhook": f"http://127.0.0.1:{port}/x"} for name, port in urls.items()}}
        ran = run_process(settings(tmp_path, section), "notify", "test")
        as_json = run_process(settings(tmp_path, section), "notify", "test", "--json")
    assert good.titles == ["twinhost: test"] * 2
    assert ran.out == "good: HTTP 200 OK from 127.0.0.1\n"
    assert ran.err == "error [not_taken]: bad: HTTP 403 Forbidden from 127.0.0.1: who are you\n"
    assert (ran.status, as_json.status) == (1, 1)
    assert [(row["destination"], row["taken"]) for row in json.loads(as_json.out)["destinations"]] == [
        ("bad", False),
        ("good", True),
    ]


@pytest.mark.parametrize("command", ["run", "test"])
@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        (None, " has no section `notify`; add one: docs/how-to/get-messages.md has examples"),
        (
            {"destinations": {"x": {"ntfy": "https://n.example/t"}}, "timezone": "Mars/Olympus"},
            ": notify.timezone must be a time zone that is known here, such as Europe/Lisbon, not 'Mars/Olympus'",
        ),
        (
            {"destinations": {"x": {"ntfy": "https://n.example/t", "token_file": "none"}}},
            ": notify.destinations.x.token_file names ",
        ),
    ],
    ids=["missing", "zone", "secret"],
)
def test_a_wrong_section_is_one_sentence(tmp_path: Path, command: str, section: Any, complaint: str) -> None:
    environment = settings(tmp_path, section) | {"SECURE_ZMQ": "0", "TWINHOST_STATE": str(tmp_path)}
    ran = run_process(environment, "notify", command)
    assert ran.status == 1
    (line,) = ran.err.splitlines()
    assert f"{tmp_path / 'network_config.yaml'}{complaint}" in line
