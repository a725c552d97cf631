"""A host's folder: one secret of its own, and the public keys of others."""

from pathlib import Path

import pytest

from tests.identities import host_folder, new_pair
from twinhost.secure_zmq.certificates import certificates_folder, client_folder, load_certificates
from twinhost.secure_zmq.errors import ConfigurationError, KeyFileExposed, KeyFileMalformed, KeyFileMissing
from twinhost.secure_zmq.key_writer import write_key_pair


def test_a_host_folder_gives_own_keys_and_pins(tmp_path: Path) -> None:
    """The one secret is this agent's identity, and `server.key` is the default pin."""
    own, server, operator = new_pair("umra"), new_pair("sdt", "mainpc"), new_pair("operator", "operator", "operator")
    folder = host_folder(tmp_path / "pc2", "client", own, server=server, operator=operator)
    certificates = load_certificates(folder)
    assert certificates.own_keys == own
    assert certificates.public_key() == server.public
    assert certificates.public_key("operator") == operator.public


@pytest.mark.parametrize("exists", [True, False])
def test_no_secret_names_the_command_that_makes_it(tmp_path: Path, exists: bool) -> None:
    """An empty folder and a missing one stop the start alike; a program's folder is in no container's volume."""
    folder = tmp_path / "pc2"
    if exists:
        folder.mkdir()
    with pytest.raises(KeyFileMissing, match=f"{folder} holds no secret key; run: twinhost join --local"):
        load_certificates(folder)


def test_two_secrets_are_refused_by_name(tmp_path: Path) -> None:
    """A folder with another's secret in it is a leak, and no choice is made."""
    folder = host_folder(tmp_path / "pc2", "client", new_pair("umra"))
    write_key_pair(new_pair("sdt"), folder / "server.key_secret")
    with pytest.raises(ConfigurationError, match=r"2 secret keys \(client\.key_secret, server\.key_secret\)"):
        load_certificates(folder)


def test_an_exposed_secret_is_refused(tmp_path: Path) -> None:
    """The folder does not soften the file's own rules."""
    folder = host_folder(tmp_path / "pc2", "client", new_pair("umra"))
    (folder / "client.key_secret").chmod(0o644)
    with pytest.raises(KeyFileExposed):
        load_certificates(folder)


def test_a_pin_that_is_missing_or_malformed_is_refused(tmp_path: Path) -> None:
    """There is no connection without a pin."""
    folder = host_folder(tmp_path / "pc2", "client", new_pair("umra"))
    with pytest.raises(KeyFileMissing, match=r"server\.key"):
        load_certificates(folder).public_key()
    (folder / "server.key").write_text("abc")
    with pytest.raises(KeyFileMalformed, match=r"server\.key"):
        load_certificates(folder).public_key()


def test_a_program_without_a_pin_is_asked_to_join_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the user's folder; that keeps its key and fetches what is missing."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = host_folder(tmp_path / "twinhost", "program", new_pair("program"))
    with pytest.raises(KeyFileMissing, match=r"server\.key is missing; repeat .*: twinhost join LINE, or"):
        load_certificates(folder).public_key()


def test_the_folder_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TWINHOST_CERTIFICATES, and `/certificates` where it is unset or empty."""
    assert certificates_folder({}) == certificates_folder({"TWINHOST_CERTIFICATES": ""}) == Path("/certificates")
    own = new_pair("umra")
    monkeypatch.setenv("TWINHOST_CERTIFICATES", str(host_folder(tmp_path / "pc2", "client", own)))
    assert load_certificates().own_keys == own


def test_no_secret_in_a_container_names_certs_init() -> None:
    """There the volume is what certs-init fills."""
    with pytest.raises(KeyFileMissing, match=r"/certificates/nobody holds no secret key; run: docker compose run"):
        load_certificates(Path("/certificates/nobody"))


def test_a_program_finds_its_key_in_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless TWINHOST_CERTIFICATES names another folder, or `/certificates` has a secret of its own."""
    monkeypatch.delenv("TWINHOST_CERTIFICATES", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    shared = tmp_path / "certificates"
    monkeypatch.setattr("twinhost.secure_zmq.certificates.DEFAULT_FOLDER", str(shared))
    assert client_folder() == tmp_path / "twinhost"
    shared.mkdir()
    assert client_folder() == shared
    own = new_pair("program")
    host_folder(tmp_path / "twinhost", "program", own)
    assert client_folder() == tmp_path / "twinhost"
    assert load_certificates().own_keys == own
    write_key_pair(new_pair("umra"), shared / "client.key_secret")
    assert client_folder() == shared
    assert client_folder({"TWINHOST_CERTIFICATES": "/elsewhere"}) == Path("/elsewhere")
