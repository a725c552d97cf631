"""The pages of the adapters: their examples run as printed, and a missing framework is named with what installs it."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.loopback.agent_processes import SDT, UMRA, Hosts

PAGES = Path(__file__).resolve().parents[2] / "docs/how-to"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
# The model of the OpenAI example, in place of one that needs the network.
MODEL = """
import agents
from tests.loopback.scripted_model import Scripted, answer

model = Scripted(answer("Noted."), answer("40 euros."))
agents.Agent.__init__ = (lambda init: lambda self, **fields: init(self, model=model, **fields))(agents.Agent.__init__)
agents.set_tracing_disabled(True)
"""


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with Hosts(tmp_path) as hosts:
        hosts.start(UMRA).wait_until_serving()
        yield hosts


def blocks(page: str) -> list[tuple[str, str]]:
    """Return the code blocks of a page, with their languages."""
    return BLOCK.findall((PAGES / page).read_text())


def run(hosts: Hosts, program: str) -> str:
    """Run a program with a key of this deployment, as the pages say, and return what it prints."""
    environment = {**hosts.environment(SDT)}
    environment["PYTHONPATH"] += f":{PAGES.parents[1]}"
    done = subprocess.run(
        [sys.executable, "-B", "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("page", ["use-from-langgraph.md", "trace-calls.md"])
def test_the_example_prints_what_the_page_says(hosts: Hosts, page: str) -> None:
    """The block after the program."""
    found = blocks(page)
    (place,) = [number for number, (language, _) in enumerate(found) if language == "python"]
    assert run(hosts, found[place][1]) == found[place + 1][1]


def test_the_example_of_the_openai_page_remembers(hosts: Hosts) -> None:
    (program,) = [text for language, text in blocks("use-from-openai-agents.md") if language == "python"]
    lines = run(hosts, MODEL + program).splitlines()
    assert lines[:3] == ["Noted.", "40 euros.", "4 items"]
    assert "[user]: The pump costs 40 euros." in lines


def require_one_sentence(errors: str, sentence: str, extra: str) -> None:
    assert errors.splitlines()[-1] == f"ImportError: {sentence}; run: pip install 'twinhost[{extra}]'"
    assert "ModuleNotFoundError" not in errors


@pytest.mark.parametrize(
    ("module", "package", "extra", "needed"),
    [
        ("langgraph", "langgraph.store", "langgraph", "langgraph-checkpoint"),
        ("openai_agents", "agents.items", "openai-agents", "openai-agents"),
        ("opentelemetry", "opentelemetry.trace", "opentelemetry", "opentelemetry-api"),
    ],
)
def test_a_missing_framework_is_one_sentence(module: str, package: str, extra: str, needed: str) -> None:
    """With the command that installs it, and without the import that failed before it."""
    program = f"import sys; sys.modules[{package!r}] = None; import twinhost.adapters.{module}"
    done = subprocess.run(
        [sys.executable, "-B", "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    require_one_sentence(done.stderr, f"{needed} is not installed, which this adapter needs", extra)


@pytest.mark.parametrize("name", ["agent import Membership", "testing import Stack"])
def test_a_missing_package_of_an_agent_is_one_sentence(name: str) -> None:
    program = f"import sys; sys.modules['psutil'] = None; from twinhost.{name}"
    done = subprocess.run(
        [sys.executable, "-B", "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    require_one_sentence(done.stderr, "psutil is not installed, which an agent needs", "agent")


@pytest.mark.parametrize("page", ["use-from-langgraph.md", "use-from-openai-agents.md", "trace-calls.md"])
def test_a_page_installs_the_package_before_its_extra(page: str) -> None:
    """No index has the package: without it the page's first command fails."""
    text = (PAGES / page).read_text()
    assert 0 < text.find("(call-from-python.md)") < text.index("pip install 'twinhost[")
