"""`errors`: the reported errors in groups, each of a group, and what narrows them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.loopback.agent_processes import SDT, Hosts
from tests.loopback.watching import settings_of
from tests.unit.cli.running import Cli, Ran, run_process

ESCAPE = "\x1b[31m"


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """Report three errors to mainpc: two of one shape, and one that would control a terminal."""
    with Hosts(tmp_path) as hosts, hosts.client(SDT) as operator:
        hosts.start(SDT).wait_until_serving()
        said = [("disk", "no space on sda 17"), ("disk", "no space on sda 240"), ("link", f"{ESCAPE}lost")]
        for number, (kind, message) in enumerate(said):
            error = {"error_id": f"e{number}", "agent_id": "operator", "severity": "error"}
            operator.call("report_error", error={**error, "error_type": kind, "message": message})

        def run(*arguments: str) -> Ran:
            return run_process(settings_of(hosts, "operator"), *arguments)

        yield run


def test_errors_of_one_shape_are_one_row(cli: Cli) -> None:
    """With their number and the newest message, and nothing that an error says controls the terminal."""
    ran = cli("errors")
    assert ran.status == 0
    title, _, *rows = ran.out.splitlines()
    assert title.startswith("Errors (3) since ")
    assert [row.split()[-4:] for row in rows[::2]] == [
        ["1", "error", "link", "operator"],
        ["2", "error", "disk", "operator"],
    ]
    assert rows[3].endswith("no space on sda 240")
    assert ESCAPE not in ran.out
    assert "--shape ID" in ran.err
    assert "call SystemDigitalTwin acknowledge_errors shape_id=ID" in " ".join(ran.err.split())


def test_errors_of_a_group_are_listed(cli: Cli) -> None:
    """Newest first, whatever is acknowledged only with --all; a text finds them too."""
    groups = json.loads(cli("errors", "--type", "disk", "--json").out)["groups"]
    ran = cli("errors", "--shape", groups[0]["shape_id"])
    assert [line.partition("message=")[2].split(" error")[0][:18] for line in ran.out.splitlines()] == [
        "no space on sda 24",
        "no space on sda 17",
    ]
    assert len(cli("errors", "--text", "SDA 17").out.splitlines()) == 1
    assert "raise -n" in cli("errors", "--text", "sda", "-n", "1").err
    assert cli("call", SDT, "acknowledge_errors", "error_id=e0").status == 0
    assert len(cli("errors", "--text", "sda").out.splitlines()) == 1
    assert len(cli("errors", "--text", "sda", "--all").out.splitlines()) == 2
    assert cli("errors", "--type", "disk").out.startswith("Errors (1) since ")


def test_a_time_that_is_none_is_refused(cli: Cli) -> None:
    ran = cli("errors", "--since", "yesterday")
    assert (ran.status, ran.out) == (1, "")
    assert "since" in ran.err
