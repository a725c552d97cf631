"""The requests that propose keys, prove, retire, and list them, as types."""

from typing import Annotated

import msgspec

from twinhost.secure_zmq.errors import KeyFileMalformed, MalformedRequest
from twinhost.secure_zmq.grants import CONFIRM_KEY, ENROL
from twinhost.secure_zmq.keys import Z85_CHARACTERS, PublicKey, decode_z85_key
from twinhost.secure_zmq.wire import Request

_EXAMPLE = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"  # the server's public key in libzmq's documentation
_Z85_KEY = Annotated[str, msgspec.Meta(min_length=Z85_CHARACTERS, max_length=Z85_CHARACTERS, examples=[_EXAMPLE])]


class Enrol(Request, tag=ENROL):
    """Propose the key that an invitation is for; `public_key` in Z85."""

    public_key: _Z85_KEY


class ProposeKey(Request, tag="propose_key"):
    """Propose the caller's own next key; `public_key` in Z85."""

    public_key: _Z85_KEY


class ConfirmKey(Request, tag=CONFIRM_KEY):
    """Authorise the key that this connection was made with."""


class RetireKeys(Request, tag="retire_keys"):
    """Revoke every other key of the caller than the one that this connection was made with."""


class GetTrust(Request, tag="get_trust"):
    """The public keys of everybody, and which keys are revoked."""


def public_key_in(text: str) -> PublicKey:
    """Return the key that a request tells in Z85.

    Raises:
        MalformedRequest: it is none.
    """
    try:
        return PublicKey(decode_z85_key(text.encode(), "the key"))
    except (KeyFileMalformed, UnicodeEncodeError) as error:
        raise MalformedRequest(f"{error} - at `$.public_key`") from None
