"""A host's folder: one secret of its own, and the public keys of others."""

from pathlib import Path

import pytest

from secure_zmq.certificates import certificates_folder, load_certificates
from secure_zmq.errors import ConfigurationError, KeyFileExposed, KeyFileMalformed, KeyFileMissing
from secure_zmq.key_writer import write_key_pair
from tests.identities import host_folder, new_pair


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
    """An empty folder and a missing one stop the start alike."""
    folder = tmp_path / "pc2"
    if exists:
        folder.mkdir()
    with pytest.raises(KeyFileMissing, match=f"{folder} holds no secret key; run: docker compose run --rm certs-init"):
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


def test_the_folder_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TWINHOST_CERTIFICATES, and `/certificates` where it is unset or empty."""
    assert certificates_folder({}) == certificates_folder({"TWINHOST_CERTIFICATES": ""}) == Path("/certificates")
    own = new_pair("umra")
    monkeypatch.setenv("TWINHOST_CERTIFICATES", str(host_folder(tmp_path / "pc2", "client", own)))
    assert load_certificates().own_keys == own
