"""The command line as a process: an exit status that can be relied on, one sentence, and never a traceback."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.unit.cli.loopback_agents import SDT, TwoHosts
from tests.unit.cli.running import COMMAND, SERVICES, Cli, Ran, process_environment, run_process

pytestmark = pytest.mark.thorough


def sentence_of(ran: Ran) -> str:
    """Return the one line on stderr."""
    (line,) = ran.err.splitlines()
    assert "Traceback" not in ran.out + ran.err
    return line


@pytest.mark.parametrize("value", ["yes", "", "true", "2"])
def test_another_value_of_secure_zmq_is_refused(hosts: TwoHosts, value: str) -> None:
    """It is not taken for 0, nor for 1."""
    ran = run_process({**hosts.environment, "SECURE_ZMQ": value}, "status")
    assert ran.status == 1
    assert sentence_of(ran).startswith(f"error [configuration_error]: SECURE_ZMQ is {value!r}; set it to 1")


def test_an_unset_secure_zmq_means_secure(hosts: TwoHosts) -> None:
    """The safe one is the default."""
    settings = process_environment(hosts.environment)
    del settings["SECURE_ZMQ"]
    done = subprocess.run([*COMMAND, "status", "--json"], env=settings, capture_output=True, timeout=60, check=True)
    assert json.loads(done.stdout)["link"] == "encrypted"


@pytest.mark.parametrize("command", ["status", "agents", "ping", f"call {SDT} ping"])
def test_missing_keys_are_one_sentence_for_every_command(hosts: TwoHosts, tmp_path: Path, command: str) -> None:
    """It says which folder, and what to run; for programs it is an object too."""
    settings = {**hosts.environment, "TWINHOST_CERTIFICATES": str(tmp_path / "none")}
    ran = run_process(settings, *command.split(), "--json")
    assert ran.status == 1
    assert sentence_of(ran).startswith(f"error [key_file_missing]: {tmp_path / 'none'} holds no secret key; run: ")
    assert json.loads(ran.out)["code"] == "key_file_missing"


def test_a_secret_that_others_can_read_is_refused(hosts: TwoHosts, cli: Cli) -> None:
    """Nothing is asked with it."""
    (hosts.folders["operator"] / "operator.key_secret").chmod(0o644)
    ran = cli(hosts, "status", "--json")
    assert (ran.status, json.loads(ran.out)["code"]) == (1, "key_file_exposed")
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize("content", ["", "hosts: [", "hosts: {}\nagents: {}\nlimits: {}\nmore: 1\n"])
def test_a_wrong_configuration_is_one_sentence_with_the_file(hosts: TwoHosts, cli: Cli, content: str) -> None:
    """Whatever is wrong with it."""
    path = hosts.root / "network_config.yaml"
    path.write_text(content)
    ran = cli(hosts, "status")
    assert (ran.status, ran.out) == (1, "")
    assert sentence_of(ran).startswith(f"error [configuration_error]: {path}")


def test_a_key_that_is_not_authorised_is_refused(hosts: TwoHosts, cli: Cli) -> None:
    """The operator's key is not known to the agents any more."""
    for stem in ("server", "client"):
        (hosts.folders[stem] / "operator.key").unlink()
    for agent in (hosts.mainpc, hosts.pc2):
        agent.reload_peers()
    ran = cli(hosts, "status", "--json")
    assert (ran.status, ran.err) == (2, "")
    document = json.loads(ran.out)
    assert document["code"] == "not_authorized"
    assert [agent["failure"]["code"] for agent in document["agents"].values()] == ["not_authorized"] * 2
    assert "no agent answered operator" in cli(hosts, "status").out


def test_a_secured_client_of_an_open_agent_is_refused(open_hosts: TwoHosts, cli: Cli) -> None:
    """It does not fall back, and says what does not fit."""
    open_hosts.secure = True
    ran = cli(open_hosts, "agents", "--json")
    assert (ran.status, json.loads(ran.out)["code"]) == (1, "security_mismatch")


@pytest.mark.parametrize(
    "words",
    [
        ("nonsense",),
        ("call",),
        ("call", SDT),
        ("call", SDT, "ping", "no-pair"),
        ("ping", "--count", "-3"),
        ("status", "--wait", "nan"),
        ("events", "publish", "alarm", "--ttl", "nan"),
        ("memory", "search", "key", "--min-similarity", "nan"),
        ("status", "--wait", "-1"),
        ("status", "surplus"),
        ("keys", "nonsense"),
        ("explain", "nonsense"),
        ("explain", SDT, "nonsense"),
        ("explain", SDT, "ping", "surplus"),
        ("agents", "--no-such-option"),
    ],
)
def test_a_wrong_usage_is_one_sentence_and_2(hosts: TwoHosts, cli: Cli, words: tuple[str, ...]) -> None:
    """On stderr; with --json as an object on stdout too."""
    ran = cli(hosts, *words)
    assert (ran.status, ran.out) == (2, "")
    assert sentence_of(ran).startswith("error [usage]: ")
    as_json = cli(hosts, *words, "--json")
    assert as_json.status == 2
    assert json.loads(as_json.out)["code"] == "usage"


@pytest.mark.parametrize(
    ("words", "command"),
    [(("memory", "search"), "memory search"), (("completion",), "completion"), (("keys", "nonsense"), "keys")],
)
def test_a_wrong_usage_names_the_help_of_its_command(hosts: TwoHosts, cli: Cli, words: str, command: str) -> None:
    """The help of a group has no options of its commands; and a list of values stays in the one line."""
    sentence = sentence_of(cli(hosts, *words))
    assert sentence.endswith(f"; see: ./twinhost {command} --help")
    assert "\\x0a" not in sentence


@pytest.mark.parametrize("option", ["--vram", "--ram", "--wait", "--ttl"])
def test_a_lease_of_nan_is_a_usage_error(hosts: TwoHosts, cli: Cli, option: str) -> None:
    """It compares as false with every bound."""
    ran = cli(hosts, "lease", "--ram", "1", option, "nan", "--", "true")
    assert ran.status == 2
    assert f"'{option}': nan is not a number of " in sentence_of(ran)


def test_an_option_of_the_leased_program_is_its_own(hosts: TwoHosts, cli: Cli) -> None:
    """What follows two hyphens says nothing about the command's own output."""
    ran = cli(hosts, "lease", "--", "true", "--json")
    assert (ran.status, ran.out) == (2, "")


def test_without_a_command_the_commands_are_listed(hosts: TwoHosts, cli: Cli) -> None:
    """A first call shows what there is."""
    ran = cli(hosts)
    assert (ran.status, ran.err) == (0, "")
    for command in ("status", "agents", "call", "explain", "ping", "doctor", "keys", "audit"):
        assert f"\n  {command} " in ran.out
    assert ran.out == cli(hosts, "--help").out


@pytest.mark.parametrize("group", ["keys", "audit", "memory", "events"])
def test_a_group_without_a_command_shows_its_help(hosts: TwoHosts, cli: Cli, group: str) -> None:
    """In its lines, on stdout, as the program alone does."""
    ran = cli(hosts, group)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith(f"Usage: ./twinhost {group} [OPTIONS] COMMAND [ARGS]...\n\n")
    assert ran.out == cli(hosts, group, "--help").out


def test_an_argument_that_is_not_utf8_is_refused(hosts: TwoHosts) -> None:
    """JSON has no place for such bytes."""
    ran = run_process(hosts.environment, "call", SDT, "get_agent_info", os.fsdecode(b"agent_name=\xff"), "--json")
    assert ran.status == 1
    assert sentence_of(ran).startswith("error [malformed_request]: ")
    assert json.loads(ran.out)["code"] == "malformed_request"


def test_an_interrupt_ends_it_quietly_with_130(hosts: TwoHosts) -> None:
    """Ctrl-C while it waits: nothing on stderr but what it waited for."""
    hosts.pc2.faults["store"] = "disk full"
    process = subprocess.Popen(
        [*COMMAND, "status", "--wait", "60"],
        env=process_environment(hosts.environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith(b"waiting: ")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, b"", b"")


WHILE_LOADING = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"


def test_an_interrupt_during_the_imports_is_quiet_too(hosts: TwoHosts, tmp_path: Path) -> None:
    """It comes from a substitute for a library."""
    (tmp_path / "typer.py").write_text(WHILE_LOADING)
    settings = process_environment(hosts.environment)
    settings["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{settings['PYTHONPATH']}"
    done = subprocess.run([*COMMAND, "status"], env=settings, capture_output=True, timeout=20, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_a_missing_package_is_one_sentence(hosts: TwoHosts, tmp_path: Path, package: str) -> None:
    """It says what to install: no command needs the agents' packages."""
    (tmp_path / f"{package}.py").write_text(f"raise ModuleNotFoundError(name={package!r})\n")
    settings = {**hosts.environment, "PYTHONPATH": f"{tmp_path}{os.pathsep}{SERVICES}"}
    ran = run_process(settings, "explain", "ping")
    assert (ran.status, ran.out) == (1, "")
    advice = "run: pip install --force-reinstall twinhost"
    assert sentence_of(ran) == f"twinhost: the package {package} is not installed; {advice}"


@pytest.mark.parametrize("command", ["status", "call", "memory search", "events watch", "keys list", "lease", "doctor"])
def test_commands_of_a_client_need_no_extra(hosts: TwoHosts, tmp_path: Path, command: str) -> None:
    """A program's machine has the wheel alone: none of what the extra `agent` installs."""
    for package in ("prometheus_client", "psutil", "pynvml", "re2", "starlette", "uvicorn"):
        (tmp_path / f"{package}.py").write_text(f"raise ModuleNotFoundError(name={package!r})\n")
    settings = {**hosts.environment, "PYTHONPATH": f"{tmp_path}{os.pathsep}{SERVICES}"}
    ran = run_process(settings, *command.split(), "--help")
    assert (ran.status, ran.err) == (0, "")


@pytest.mark.parametrize("words", [("agents",), ("call", SDT, "no_such_action", "--json"), ("--help",)])
def test_a_reader_that_leaves_causes_no_traceback(hosts: TwoHosts, words: tuple[str, ...]) -> None:
    """As `cli agents | head -1` does; an error object that nobody reads is none either."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*COMMAND, *words],
        env=process_environment(hosts.environment),
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")
