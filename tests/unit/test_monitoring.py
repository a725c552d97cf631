"""The alert rules in monitoring/, without a server; tests/loopback/test_monitoring.py has them with one."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.cli.running import run_process
from twinhost.agent.troubles import Kind

MONITORING = Path(__file__).resolve().parents[2] / "monitoring"
RULES: list[dict[str, Any]] = yaml.safe_load((MONITORING / "alerts.yml").read_text(encoding="utf-8"))["groups"][0][
    "rules"
]
COMMANDS = sorted({rule["annotations"]["command"].partition("$ ")[2] for rule in RULES})


@pytest.mark.parametrize(
    "check", ["check config prometheus.yml", "check rules --lint-fatal alerts.yml", "test rules alerts_test.yml"]
)
def test_promtool_accepts_the_files_and_the_rules_tests(check: str) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (scripts/setup/test_tools.sh installs it, with prometheus)")
    ran = subprocess.run(["promtool", *check.split()], cwd=MONITORING, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_each_rule_has_a_test_of_its_own() -> None:
    tested = set(re.findall(r"Twinhost\w+", (MONITORING / "alerts_test.yml").read_text(encoding="utf-8")))
    assert {rule["alert"] for rule in RULES} - tested == set()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_what_why_and_which_command(rule: dict[str, Any]) -> None:
    """With the host on which to run it."""
    assert rule["annotations"].keys() == {"what", "cause", "command"}
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert re.match(r"(mainpc|\{\{ \$labels\.(host|of) \}\})\$ \S", rule["annotations"]["command"])


@pytest.mark.parametrize("command", [command for command in COMMANDS if "./twinhost " in command])
def test_a_command_of_an_alert_exists(command: str) -> None:
    own_key, _, rest = command.partition("./twinhost ")
    words = rest.split()
    assert (own_key != "") == (words[0] == "doctor"), "pc2's; what else there is needs the operator's, on mainpc"
    ran = run_process({}, *words[:2] if words[0] in ("audit", "keys") else words[:1], "--help")
    assert (ran.status, ran.err) == (0, "")


def test_the_rule_for_other_troubles_leaves_out_known_kinds() -> None:
    (expression,) = (rule["expr"] for rule in RULES if rule["alert"] == "TwinhostTrouble")
    (kinds,) = re.findall(r'kind!~"(.*?)"', expression)
    assert set(kinds.split("|")) <= {kind.value for kind in Kind}
