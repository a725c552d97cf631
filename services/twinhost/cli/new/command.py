"""`new agent`: the folder of a working agent, with its test, its container, and its lines of the configuration."""

import keyword
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from twinhost.cli import output
from twinhost.cli.arguments import AsJson
from twinhost.network_config.load import default_path, load_network_config
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.version import VERSION

new = typer.Typer(help="Begin an agent of your own.")

_TEMPLATE = Path(__file__).with_name("template")
_EXAMPLE, _EXAMPLE_STEM, _EXAMPLE_PORTS, _EXAMPLE_VERSION = "Greeter", "greeter", (7330, 8330), "0.2.0"
_NAME = re.compile(r"[A-Z][A-Za-z0-9]{1,39}")
_BUILT_IN = {"SystemDigitalTwin": "mainpc", "UnifiedMemoryReasoningAgent": "pc2"}
_STEMS = {
    "certs_init",
    "cli",
    "archive",
    "operator",
    "server",
    "client",
}  # of services and keys that every deployment has
_PORT_STEP = 10


@new.callback()
def _group() -> None:
    """Keep `agent` a command of its own."""


@new.command()
def agent(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The agent's name, for example WeatherStation.")],
    folder: Annotated[
        Path | None, typer.Option("--folder", metavar="DIR", help="A folder to make; the default is ./weather_station.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Write a working agent into a new folder.

    With it come its test, its container, and its lines of the configuration.
    """
    stem = _stem(name)
    zmq_port, http_port = _free_ports(name, stem)
    folder = Path(stem) if folder is None else folder
    words = {
        _EXAMPLE: name,
        _EXAMPLE_STEM: stem,
        _EXAMPLE_STEM.upper(): stem.upper(),
        str(_EXAMPLE_PORTS[0]): str(zmq_port),
        str(_EXAMPLE_PORTS[1]): str(http_port),
        _EXAMPLE_VERSION: VERSION,
    }
    written = _write(folder, stem, words)
    if as_json:
        output.show_value({"status": "ok", "folder": str(folder), "files": written}, as_json=True)
        return 0
    output.show(f"Wrote {folder}: {', '.join(written)}")
    output.show_line(f"To test it, with twinhost[agent] and pytest installed: cd {folder} && python -m pytest")
    output.show_line(f"To run it with a stack: {folder / 'README.md'}")
    return 0


def _stem(name: str) -> str:
    """Return the name as files, keys, the host, and the image have it: WeatherStation is weather_station.

    Raises:
        typer.BadParameter: it is no name for an agent.
    """
    if not _NAME.fullmatch(name):
        raise typer.BadParameter(
            f"{name!r} is not a name such as WeatherStation: a capital letter, then 1 to 39 letters and digits",
            param_hint="NAME",
        )
    stem = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    if keyword.iskeyword(stem) or stem in sys.stdlib_module_names or stem in {"twinhost", "pytest", "conftest"}:
        raise typer.BadParameter(
            f"{stem}.py would hide the Python module {stem}; choose another name", param_hint="NAME"
        )
    return stem


def _free_ports(name: str, stem: str) -> tuple[int, int]:
    """Return two ports that no agent of the configuration has; the example's where there is no configuration.

    Raises:
        typer.BadParameter: an agent, or a host, has the name.
    """
    agents, ports = dict(_BUILT_IN), set[int]()
    if default_path().exists():
        config = load_network_config()
        known = config.agents.values()
        agents |= {other.name: other.host.name for other in known}
        ports = {port for other in known for port in (other.zmq_port, other.http_port, other.events_port or 0)}
        taken = {*config.hosts, *(other.key for other in known)}
    else:
        taken = set()
    taken |= {*agents, *agents.values(), *_STEMS}
    if {name.casefold(), stem} & {word.casefold() for word in taken}:
        raise typer.BadParameter(f"{name!r} is taken by an agent or a host; choose another name", param_hint="NAME")
    zmq_port, http_port = _EXAMPLE_PORTS
    while {zmq_port, http_port} & ports:
        zmq_port, http_port = zmq_port + _PORT_STEP, http_port + _PORT_STEP
    return zmq_port, http_port


def _write(folder: Path, stem: str, words: Mapping[str, str]) -> list[str]:
    """Write the template's files with other words; return their names, the agent and its test first.

    Raises:
        ConfigurationError: the folder exists, lies in a checkout of twinhost, or can't be written.
    """
    for parent in folder.resolve().parents:
        if (parent / "services" / "twinhost").is_dir():
            raise ConfigurationError(
                f"{folder} would be in the checkout of twinhost, {parent}; name a folder outside it: --folder DIR"
            )
    pattern = re.compile("|".join(map(re.escape, words)))
    sources = sorted(_TEMPLATE.iterdir(), key=lambda path: (path.suffix != ".py", path.name))
    sources = [path for path in sources if path.is_file()]
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise ConfigurationError(f"{folder} exists; name a folder that does not: --folder DIR") from None
    except OSError as error:
        raise ConfigurationError(
            f"{folder} can't be made ({error.strerror}); name a folder where you may write: --folder DIR"
        ) from None
    try:
        for source in sources:
            text = pattern.sub(lambda match: words[match[0]], source.read_text(encoding="utf-8"))
            (folder / source.name.replace(_EXAMPLE_STEM, stem)).write_text(text, encoding="utf-8")
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise ConfigurationError(f"{error.filename} can't be written ({error.strerror}); free space there") from None
    return [source.name.replace(_EXAMPLE_STEM, stem) for source in sources]
