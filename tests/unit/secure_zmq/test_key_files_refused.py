"""The strict loader: whatever is not a key file to the letter is named and refused."""

import contextlib
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.identities import new_pair
from twinhost.secure_zmq.errors import ConfigurationError, KeyFileMalformed, KeyFileMissing
from twinhost.secure_zmq.key_writer import render_certificate, write_key_pair
from twinhost.secure_zmq.keys import MAX_KEY_FILE_BYTES, KeyOwner, load_certificate, load_key_pair, parse_certificate

PAIR = new_pair("pc2-agent", "pc2", "agent")
PUBLIC = PAIR.public.z85.decode()
TEXT = render_certificate(PAIR.certificate)
OVER_2_TO_THE_32 = "#" * 40  # the highest digit of base 85, five of which are more than 32 bits


def changed(old: str, new: str) -> str:
    assert old in TEXT
    return TEXT.replace(old, new, 1)


MALFORMED = {
    "empty": ("", "must have the sections metadata and curve"),
    "three characters": ("abc", "line 1: expected one section each"),
    "only a comment": ("# a key, once\n", "must have the sections"),
    "no metadata": (f'curve\n    public-key = "{PUBLIC}"\n', "must have the sections"),
    "no curve": (TEXT.split("curve\n")[0], "must have the sections"),
    "unknown section": (TEXT + "extra\n", "line 9: expected one section each"),
    "section twice": (TEXT + "curve\n", "line 9: expected one section each"),
    "value outside a section": (f'    public-key = "{PUBLIC}"\n', "line 1: expected name = "),
    "no equals sign": (changed("name = ", "name "), r'line 4: expected name = "value"'),
    "no quotes": (changed('"pc2-agent"', "pc2-agent"), r'line 4: expected name = "value"'),
    "open quotes": (changed('"pc2-agent"', '"pc2-agent'), r'line 4: expected name = "value"'),
    "one quote": (changed('"pc2-agent"', '"'), r'line 4: expected name = "value"'),
    "quotes inside": (changed('"pc2-agent"', '"pc2"agent"'), r'line 4: expected name = "value"'),
    "name twice": (changed('    host = "pc2"', '    host = "pc2"\n    host = "pc2"'), "line 6: host occurs twice"),
    "name missing": (changed('    name = "pc2-agent"\n', ""), "unknown or missing: name"),
    "host missing": (changed('    host = "pc2"\n', ""), "unknown or missing: host"),
    "roles missing": (changed('    roles = "agent"\n', ""), "unknown or missing: roles"),
    "public key missing": (TEXT.split("    public-key")[0], "unknown or missing: public-key"),
    "unknown metadata": (changed("    host", '    colour = "red"\n    host'), "unknown or missing: colour"),
    "unknown in curve": (TEXT + '    colour = "red"\n', "unknown or missing: colour"),
    "empty name": (changed('"pc2-agent"', '""'), "the name '' must have 1 to 64"),
    "long name": (changed('"pc2-agent"', f'"{"a" * 65}"'), "must have 1 to 64"),
    "name with a slash": (changed('"pc2-agent"', '"../agent"'), r"the name '\.\./agent' must have"),
    "name with a blank": (changed('"pc2-agent"', '"pc2 agent"'), "the name 'pc2 agent' must have"),
    "host with a colon": (changed('host = "pc2"', 'host = "pc2:1"'), "the host 'pc2:1' must have"),
    "role with a star": (changed('roles = "agent"', 'roles = "agent *"'), r"the role '\*' must have"),
    "short key": (changed(PUBLIC, PUBLIC[:-1]), "the public key must be 40 characters of Z85"),
    "long key": (changed(PUBLIC, PUBLIC + "0"), "the public key must be 40 characters of Z85"),
    "empty key": (changed(PUBLIC, ""), "the public key must be 40 characters of Z85"),
    "foreign character": (changed(PUBLIC, "~" + PUBLIC[1:]), "the public key must be 40 characters of Z85"),
    "over 32 bits": (changed(PUBLIC, OVER_2_TO_THE_32), "the public key must be 40 characters of Z85"),
    "a secret inside": (
        TEXT + f'    secret-key = "{PAIR.secret_z85.decode()}"\n',
        "is a public key file and holds a secret key; remove it and make a new key",
    ),
}


@pytest.mark.parametrize(("text", "complaint"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_certificate_is_refused_with_its_place(tmp_path: Path, text: str, complaint: str) -> None:
    """The message names the file, and the line or the field."""
    path = tmp_path / "client.key"
    path.write_text(text)
    with pytest.raises(KeyFileMalformed, match=f"{re.escape(str(path))}.*{complaint}") as refusal:
        load_certificate(path)
    assert PAIR.secret_z85.decode() not in str(refusal.value)


@pytest.mark.parametrize("defect", sorted(MALFORMED.keys() - {"a secret inside"}))
def test_a_malformed_secret_file_is_refused_too(tmp_path: Path, defect: str) -> None:
    """The same defects in a secret file stop the start as well."""
    text, _ = MALFORMED[defect]
    path = tmp_path / "client.key_secret"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(KeyFileMalformed, match=re.escape(str(path))):
        load_key_pair(path)


@pytest.mark.parametrize(
    "secret",
    ["", "0", PUBLIC[:-1], PAIR.secret_z85.decode() + "0", OVER_2_TO_THE_32, "~" * 40],
    ids=[
        "empty",
        "one character",
        "one too few",
        "one too many",
        "over 2**32",
        "no Z85",
    ],  # the keys differ in each process
)
def test_a_malformed_secret_half_is_refused_and_not_shown(tmp_path: Path, secret: str) -> None:
    """Nothing of a damaged secret ends up in the message."""
    path = tmp_path / "client.key_secret"
    path.write_text(TEXT + f'    secret-key = "{secret}"\n')
    path.chmod(0o600)
    with pytest.raises(KeyFileMalformed, match="the secret key must be 40 characters of Z85") as refusal:
        load_key_pair(path)
    assert not secret[10:] or secret[10:] not in str(refusal.value)


def test_a_public_file_is_no_secret_file(tmp_path: Path) -> None:
    """A host that was given only a public half can't start with it."""
    path = tmp_path / "client.key_secret"
    path.write_text(TEXT)
    path.chmod(0o600)
    with pytest.raises(KeyFileMalformed, match="has no secret-key; run: certs-init verify"):
        load_key_pair(path)


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    """A key is a file of its own; a link could lead anywhere."""
    write_key_pair(PAIR, tmp_path / "real.key_secret")
    (tmp_path / "client.key_secret").symlink_to(tmp_path / "real.key_secret")
    (tmp_path / "client.key").symlink_to(tmp_path / "real.key")
    with pytest.raises(KeyFileMissing, match=r"client\.key_secret can't be read"):
        load_key_pair(tmp_path / "client.key_secret")
    with pytest.raises(KeyFileMissing, match=r"client\.key can't be read"):
        load_certificate(tmp_path / "client.key")


@pytest.mark.timeout(30)
def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    """A FIFO that nobody writes to would block an ordinary open for ever."""
    os.mkfifo(tmp_path / "client.key")
    with pytest.raises(KeyFileMalformed, match=r"client\.key must be a regular file"):
        load_certificate(tmp_path / "client.key")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    """A folder under a key's name, which a container engine makes for a missing mount, is no key."""
    (tmp_path / "client.key").mkdir()
    with pytest.raises(KeyFileMalformed, match=r"client\.key must be a regular file"):
        load_certificate(tmp_path / "client.key")


def test_a_device_is_refused() -> None:
    """An endless device is not read."""
    with pytest.raises(KeyFileMalformed, match="must be a regular file"):
        load_certificate(Path("/dev/zero"))


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    """Over 4 KiB it is not even parsed, however well it begins."""
    path = tmp_path / "client.key"
    path.write_text(TEXT + "#" * (MAX_KEY_FILE_BYTES + 1 - len(TEXT)))
    with pytest.raises(KeyFileMalformed, match=f"at most {MAX_KEY_FILE_BYTES} bytes"):
        load_certificate(path)
    path.write_text(TEXT + "#" * (MAX_KEY_FILE_BYTES - len(TEXT)))
    assert load_certificate(path) == PAIR.certificate


def test_bytes_that_are_not_ascii_are_refused(tmp_path: Path) -> None:
    """A look-alike letter in a name is not taken for the letter."""
    path = tmp_path / "client.key"
    path.write_text(changed("pc2-agent", "pc2-аgent"), encoding="utf-8")
    with pytest.raises(KeyFileMalformed, match="bytes that are not ASCII"):
        load_certificate(path)


def test_a_file_below_a_file_can_not_be_read(tmp_path: Path) -> None:
    """Any other failure of the system is our error too, with its reason."""
    (tmp_path / "client.key").write_text(TEXT)
    with pytest.raises(KeyFileMissing, match="Not a directory"):
        load_certificate(tmp_path / "client.key" / "inner.key")


@pytest.mark.parametrize("name", ["", "a" * 65, "a b", "ä", "a/b", "a\n", "a\0", '"'])
def test_an_owner_has_a_plain_name(name: str) -> None:
    """A name that could forge a line of a file or of a log is none."""
    with pytest.raises(KeyFileMalformed, match="must have 1 to 64"):
        KeyOwner(name, "pc2", frozenset())


@pytest.mark.parametrize("character", ["\udcff", "ä", "\U0001f600"])
def test_a_key_with_a_character_of_no_key_is_malformed(character: str) -> None:
    """Half a surrogate too, which files and standard input never hold here, and which no caller has to rule out."""
    for key in (PUBLIC[:-1] + character, character * 40, PUBLIC + character):
        with pytest.raises(KeyFileMalformed):
            parse_certificate(changed(PUBLIC, key), "a file")


@given(st.text())
def test_no_text_at_all_breaks_the_parser(text: str) -> None:
    """Any text is a certificate or a KeyFileMalformed."""
    with contextlib.suppress(KeyFileMalformed):
        parse_certificate(text, "a file")


@given(st.binary(max_size=1_000))
def test_no_bytes_at_all_break_the_loaders(tmp_path: Path, content: bytes) -> None:
    """Any content of a file is a key or a ConfigurationError."""
    path = tmp_path / "client.key_secret"
    path.write_bytes(content)
    path.chmod(0o600)
    for load in (load_key_pair, load_certificate):
        with contextlib.suppress(ConfigurationError):
            load(path)


@given(st.data())
def test_no_damage_to_a_good_file_goes_through_unseen(data: st.DataObject) -> None:
    """A stretch replaced by anything is either refused, or leaves key, name, and host readable as some owner's."""
    start = data.draw(st.integers(0, len(TEXT)))
    end = data.draw(st.integers(start, min(len(TEXT), start + 40)))
    middle = data.draw(st.text(alphabet=st.characters(codec="ascii"), max_size=40))
    try:
        certificate = parse_certificate(TEXT[:start] + middle + TEXT[end:], "a file")
    except KeyFileMalformed:
        return
    assert parse_certificate(render_certificate(certificate), "again") == certificate
