"""The folders of keys of standbys: copies of the agents', where a log makes standbys of them."""

from pathlib import Path

from tests.unit.certificates.trees import certs_init, files
from twinhost.certificates.following import ROLE_FILE, active_elsewhere
from twinhost.certificates.layout import plan_layout
from twinhost.certificates.standby import make_standby_folders
from twinhost.network_config import load_network_config
from twinhost.network_config.load import DATABASE_VARIABLE, DEFAULT_PATH


def made(
    tree: Path, standbys: Path, dsn: str = "postgresql:///twinhost?host=/run", host: str | None = None
) -> list[str]:
    config = load_network_config(DEFAULT_PATH, {DATABASE_VARIABLE: dsn})
    layout = plan_layout(tree, config, host)
    return [folder.name for folder in make_standby_folders(layout, config.agents.values(), standbys)]


def test_a_standby_has_what_its_agent_has(tree: Path, tmp_path: Path) -> None:
    """Its secret too, and the folders that it mounts; the modes are those of the agent's."""
    assert certs_init(tree, "invite", "reader", "--host", "laptop", "--role", "agent").status == 0
    (tree / "mainpc" / "enrolled" / ".reader.key.draft").touch()
    standbys = tmp_path / "standbys"
    standbys.mkdir()
    assert made(tree, standbys) == ["mainpc", "pc2"]
    for name in ("mainpc", "pc2"):
        expected = {path: content for path, content in files(tree / name).items() if not path.endswith(".draft")}
        expected[ROLE_FILE] = (standbys / name / ROLE_FILE).read_bytes()
        assert files(standbys / name) == expected
        assert active_elsewhere(standbys / name) is not None  # so it begins no log
        assert (standbys / name).stat().st_mode == (tree / name).stat().st_mode
    assert (standbys / "mainpc" / "server.key_secret").stat().st_mode & 0o777 == 0o600
    assert (standbys / "mainpc" / "enrolled" / "revoked").is_dir()
    assert (standbys / "pc2" / "trust").is_dir()


def test_one_that_is_there_stays_as_it_is(tree: Path, tmp_path: Path) -> None:
    """Its standby may have become active and changed it."""
    standbys = tmp_path / "standbys"
    (standbys / "mainpc").mkdir(parents=True)
    assert made(tree, standbys) == ["pc2"]
    assert made(tree, standbys) == []
    assert list((standbys / "mainpc").iterdir()) == []
    assert sorted(path.name for path in standbys.iterdir()) == ["mainpc", "pc2"]


def test_none_is_made_without_a_log_or_of_another_machine(tree: Path, tmp_path: Path) -> None:
    standbys = tmp_path / "standbys"
    assert made(tree, standbys) == []  # no volume
    standbys.mkdir()
    assert made(tree, standbys, dsn="") == []
    assert made(tree, standbys, host="pc2") == ["pc2"]
