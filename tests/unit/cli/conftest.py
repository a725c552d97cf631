"""Two agents on loopback, and the command line run in this process."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import structlog

from tests.unit.cli.loopback_agents import StartHosts, TwoHosts
from tests.unit.cli.running import Cli, Ran
from twinhost.cli.app import main
from twinhost.secure_zmq.keys import Validity


@pytest.fixture(autouse=True)
def _agents_log_nothing() -> Iterator[None]:
    """The agents share this process's stdout, which is the command line's here."""
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory(), cache_logger_on_first_use=False)
    yield
    structlog.configure(**before)


@pytest.fixture(scope="module")
def _endings() -> Iterator[ThreadPoolExecutor]:
    """Agents end here while the next test begins: their loops look up five times a second."""
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def start_hosts(tmp_path: Path, _endings: ThreadPoolExecutor) -> Iterator[StartHosts]:
    """Start both agents, with keys that are good as long as is asked for; they end with the test."""
    started: list[TwoHosts] = []

    def start(*, secure: bool = True, **validities: Validity) -> TwoHosts:
        started.append(TwoHosts(tmp_path / f"hosts-{len(started)}", secure=secure, validities=validities))
        return started[-1]

    yield start
    for hosts in started:
        _endings.submit(hosts.stop)


@pytest.fixture
def hosts(start_hosts: StartHosts) -> TwoHosts:
    """Both agents, secured; pc2's is registered."""
    hosts = start_hosts()
    hosts.register_umra()
    return hosts


@pytest.fixture
def open_hosts(start_hosts: StartHosts) -> TwoHosts:
    """Both agents as SECURE_ZMQ=0 makes them; pc2's is registered."""
    hosts = start_hosts(secure=False)
    hosts.register_umra()
    return hosts


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run the command line against some hosts, in this process."""

    def run(hosts: TwoHosts, *arguments: str) -> Ran:
        for name, value in hosts.environment.items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        status = main(arguments)
        written = capsys.readouterr()
        return Ran(status, written.out, written.err)

    return run
