"""The text of a key file: ZPL as CZMQ's zcert and pyzmq write it, read to the letter; pure."""

import contextlib
import struct

from zmq.utils import z85

from twinhost.secure_zmq.errors import KeyFileMalformed

Z85_CHARACTERS = 40  # 32 bytes in ZeroMQ RFC 32
_SECTIONS = frozenset({"metadata", "curve"})
_METADATA = frozenset({"name", "host", "roles"})
_OPTIONAL_METADATA = frozenset({"not_before", "not_after"})


def parse_zcert(source: str, text: str) -> dict[str, dict[str, str]]:
    """Return the sections of a key file: names at the margin, indented `name = "value"` below.

    Raises:
        KeyFileMalformed: anything is unknown, missing, or there twice; the message names `source` and the line.
    """
    sections: dict[str, dict[str, str]] = {}
    section: dict[str, str] | None = None
    for number, line in enumerate(text.split("\n"), start=1):
        where = f"{source}, line {number}"
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        if not line[0].isspace():
            if stripped not in _SECTIONS or stripped in sections:
                raise KeyFileMalformed(f"{where}: expected one section each of metadata and curve")
            section = sections[stripped] = {}
            continue
        name, separator, value = (part.strip() for part in stripped.partition("="))
        quoted = len(value) >= 2 and value[0] == value[-1] == '"' and '"' not in value[1:-1]
        if section is None or not separator or not quoted:
            raise KeyFileMalformed(f'{where}: expected name = "value" inside a section')
        if name in section:
            raise KeyFileMalformed(f"{where}: {name} is there twice")
        section[name] = value[1:-1]
    if set(sections) != _SECTIONS:
        raise KeyFileMalformed(f"{source} must have the sections metadata and curve")
    unknown = (set(sections["metadata"]) - _OPTIONAL_METADATA) ^ _METADATA
    unknown |= set(sections["curve"]) - {"public-key", "secret-key"}
    if unknown or "public-key" not in sections["curve"]:
        raise KeyFileMalformed(f"{source}: unknown or missing: {', '.join(sorted(unknown)) or 'public-key'}")
    return sections


def decode_z85_key(text: bytes, what: str) -> bytes:
    """Return a key's 32 bytes.

    Raises:
        KeyFileMalformed: it is not 40 characters of Z85; the message calls it `what`.
    """
    if len(text) == Z85_CHARACTERS:
        with contextlib.suppress(KeyError, struct.error):  # a foreign character, a group over 2**32
            return z85.decode(text)
    raise KeyFileMalformed(f"{what} must be {Z85_CHARACTERS} characters of Z85")
