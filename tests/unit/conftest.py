"""How hypothesis runs here: the same examples every time, and no deadline that a busy machine could miss.

And no configuration folder of whoever runs the tests: a key and addresses of their own are not the tests'. A batch that
a test hands in is answered in one piece, however slow the machine is (test_dispatch and test_frames test the slices).
"""

import math
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from twinhost.secure_zmq import dispatch

settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("inner loop", settings.get_profile("repeatable"), max_examples=30)  # for `make check`
settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def no_configuration_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Point XDG_CONFIG_HOME to an empty folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(autouse=True)
def whole_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a batch all the time that it needs."""
    monkeypatch.setattr(dispatch, "SLICE_S", math.inf)
