"""Read the YAML of a configuration file, and refuse a key that occurs twice."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from twinhost.secure_zmq.certificates import to_join
from twinhost.secure_zmq.errors import ConfigurationError

try:
    from yaml import CSafeLoader as _SafeLoader  # libyaml's takes a tenth of the time, at every start
except ImportError:  # PyYAML was built without it
    from yaml import SafeLoader as _SafeLoader  # type: ignore[assignment]

PATH_VARIABLE = "NETWORK_CONFIG_PATH"


def read_yaml(path: Path) -> Any:
    """Return what a YAML file has.

    Raises:
        ConfigurationError: it is missing, not readable, or no YAML.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader
    except FileNotFoundError:
        raise ConfigurationError(
            f"{path} is missing; set {PATH_VARIABLE} to the configuration file, or, for a program outside the "
            f"containers, {to_join(path.parent)}"
        ) from None
    except OSError as error:
        raise ConfigurationError(
            f"{path} can't be read ({error.strerror}); check its owner and mode: ls -l {path}"
        ) from None
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, AttributeError, LookupError) as error:
        # PyYAML raises the last four for 2026-99-99, `!!bool x`, `!!int ""` and the like, and for what is not UTF-8
        raise ConfigurationError(f"{path} is not YAML: {' '.join(str(error).split())}") from None


class _Loader(_SafeLoader):
    """Refuses a duplicate key; PyYAML would use its last value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                line = key.start_mark.line + 1
                raise yaml.YAMLError(f"the key {key.value!r} occurs twice, the second time in line {line}")
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)
