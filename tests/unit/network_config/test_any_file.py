"""The configuration as any file at all: a configuration, or one ConfigurationError of one line."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.network_config.test_load import GOOD, Place, places
from twinhost.network_config import NetworkConfig, load_network_config
from twinhost.network_config.load import DEFAULT_PATH
from twinhost.secure_zmq.errors import ConfigurationError

SHIPPED = DEFAULT_PATH.read_bytes()
PLACES: list[Place] = [path for path, _ in places(GOOD)]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates() | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9) | st.integers(), inner, max_size=3),
    max_leaves=6,
)


def load(path: Path, content: bytes) -> NetworkConfig | None:
    """Return the configuration; None where it is refused, as it must be, by one line that names the file."""
    path.write_bytes(content)
    try:
        return load_network_config(path, {})
    except ConfigurationError as error:
        sentence = str(error)
    assert sentence.startswith(str(path))
    assert "\n" not in sentence
    return None


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any") / "network_config.yaml"


@given(st.binary(max_size=300) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_refused(path: Path, content: bytes) -> None:
    assert load(path, content) is None


@settings(deadline=None, max_examples=60)
@given(st.integers(0, len(SHIPPED)), st.integers(0, 30), st.binary(max_size=20) | st.text(max_size=9).map(str.encode))
def test_any_damage_to_the_shipped_file_is_refused_or_read(path: Path, at: int, length: int, instead: bytes) -> None:
    load(path, SHIPPED[:at] + instead + SHIPPED[at + length :])


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(PLACES), VALUES)
def test_any_value_in_any_place_is_refused_or_read(path: Path, place: Place, value: Any) -> None:
    document = copy.deepcopy(GOOD)
    node = document
    for name in place[:-1]:
        node = node[name]
    node[place[-1]] = value
    load(path, yaml.safe_dump(document).encode("utf-8", "surrogatepass"))
