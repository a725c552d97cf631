"""A new file takes its name once it is whole, and never another's; also where a file system has no links."""

import errno
from pathlib import Path
from typing import NoReturn

import pytest

from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.store.new_file import new_file


def no_links(*_: object) -> NoReturn:
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_it_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", no_links)
    path = tmp_path / "backup"
    with new_file(path) as stream:
        stream.write(b"first")
        assert not path.exists()
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"first", 0o600)
    with pytest.raises(ConfigurationError, match="can't be written"), new_file(path) as stream:
        stream.write(b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]
