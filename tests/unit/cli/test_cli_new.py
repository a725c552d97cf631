"""`new agent`: what it writes, and what it refuses."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.cli.running import Cli, Ran
from twinhost.cli.app import main
from twinhost.network_config import load_network_config
from twinhost.network_config.load import DEFAULT_PATH

REPOSITORY = Path(__file__).resolve().parents[3]
TEMPLATE = REPOSITORY / "services/twinhost/cli/new/template"
MOST_LINES = 45  # of the agent
FILES = {
    "Dockerfile",
    "README.md",
    "compose.yaml",
    "network_config.yaml",
    "pyproject.toml",
    "test_weather_station.py",
    "weather_station.py",
}


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    """Run the command line in an author's folder, without keys."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NETWORK_CONFIG_PATH", raising=False)

    def run(*arguments: str) -> Ran:
        status = main(arguments)
        written = capsys.readouterr()
        return Ran(status, written.out, written.err)

    return run


def test_it_writes_a_folder_with_the_names_that_it_got(cli: Cli, tmp_path: Path) -> None:
    """No file or line keeps a name of the template."""
    done = cli("new", "agent", "WeatherStation")
    assert done.status == 0, done.err
    folder = tmp_path / "weather_station"
    assert {path.name for path in folder.iterdir()} == FILES
    text = "".join(path.read_text() for path in folder.iterdir())
    assert not re.search("greeter", text, re.I)
    assert 'run_agent("WeatherStation"' in text


def test_its_folder_is_a_package(cli: Cli, tmp_path: Path) -> None:
    """`pip install .` finds the agent alone: of two modules, setuptools refuses to choose."""
    assert cli("new", "agent", "WeatherStation").status == 0
    build = "from setuptools.build_meta import prepare_metadata_for_build_wheel as make; make('.')"
    folder = tmp_path / "weather_station"
    done = subprocess.run([sys.executable, "-c", build], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (names,) = folder.glob("*.dist-info/top_level.txt")
    assert names.read_text() == "weather_station\n"


def test_its_lines_fit_into_the_configuration(cli: Cli, tmp_path: Path) -> None:
    """The example's ports are taken there: another pair is chosen."""
    config = tmp_path / "network_config.yaml"
    document: dict[str, Any] = yaml.safe_load(DEFAULT_PATH.read_text())
    for name in ("Greeter", "WeatherStation"):
        config.write_text(json.dumps(document))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NETWORK_CONFIG_PATH", str(config))
            assert cli("new", "agent", name, "--folder", name).status == 0
        added = yaml.safe_load((tmp_path / name / "network_config.yaml").read_text())
        document["hosts"] |= added["hosts"]
        document["agents"] |= added["agents"]
        document["grants"]["agent"] += added["grants"]["agent"]
    config.write_text(json.dumps(document))
    agents = load_network_config(config, {}).agents
    ports = {port for agent in agents.values() for port in (agent.zmq_port, agent.http_port)}
    assert len(ports) == 2 * len(agents)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("weather", "is not a name"),
        ("Weather Station", "is not a name"),
        ("W", "is not a name"),
        ("W" * 41, "is not a name"),
        ("Json", "hide the Python module"),
        ("Class", "hide the Python module"),
        ("Mainpc", "is taken"),
        ("Operator", "hide the Python module"),
        ("Cli", "is taken"),
        ("SystemDigitalTwin", "is taken"),
        ("UnifiedMemoryReasoningAgent", "is taken"),
    ],
    ids=str,
)
def test_a_bad_or_taken_name_is_refused(cli: Cli, tmp_path: Path, name: str, why: str) -> None:
    done = cli("new", "agent", name, "--folder", "out")
    assert done.status == 2
    assert why in done.err
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_left_alone(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "weather_station").mkdir()
    done = cli("new", "agent", "WeatherStation")
    assert done.status == 1
    assert "weather_station exists" in done.err
    assert list((tmp_path / "weather_station").iterdir()) == []


def test_a_folder_in_the_checkout_is_refused(cli: Cli) -> None:
    done = cli("new", "agent", "WeatherStation", "--folder", str(REPOSITORY / "weather_station"))
    assert done.status == 1
    assert "in the checkout" in done.err
    assert not (REPOSITORY / "weather_station").exists()


def test_a_relative_folder_beside_the_checkout_is_written(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the tutorial: `--folder ../greeter`, in the checkout."""
    (tmp_path / "checkout" / "services" / "twinhost").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "checkout")
    assert cli("new", "agent", "WeatherStation", "--folder", "../station").status == 0
    assert (tmp_path / "station" / "weather_station.py").is_file()


def test_the_agent_is_as_short_as_the_readme_says() -> None:
    assert len((TEMPLATE / "greeter.py").read_text().splitlines()) <= MOST_LINES
    assert f"writes one in {MOST_LINES} lines" in (REPOSITORY / "README.md").read_text()
